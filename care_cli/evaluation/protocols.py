"""Who asks whom: the protocols of an examination of embeddings, pure NumPy.

loo  every crop asks all the others; itself is left out by its index
qg   of each animal a seeded share of the crops asks, the rest is the gallery (0.46 as in the splits of IndivAID,
     0.2 as the CKPE paper's figures suggest); an animal of a single crop is in the gallery
list the crops that a list says ask those that it says answer; others do neither

Filters say what a query is not compared with:

event   crops of its own visit (event, else photo), whoever they show: burst neighbours are near-duplicates
day     crops of its own day by the camera's clock, whoever they show
flank   crops of another flank, or of an unknown one; a query of unknown flank is compared with nothing
camera  crops of its own animal at its own deployment (the rule of Market-1501)
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields

import numpy as np

from care_cli.errors import CareError
from care_cli.evaluation.metrics import Answers, answered

KINDS = ("loo", "qg", "list")
FILTERS = ("event", "day", "flank", "camera")
QUERY_SHARE = 0.46
BLOCK = 2**22  # similarities held at once


@dataclass(frozen=True, eq=False)
class Crops:
    """Named crops; columns of one length N, a row a crop."""

    id: np.ndarray  # (N,) int64, crop
    individual: np.ndarray  # (N,) str
    image: np.ndarray  # (N,) int64
    event: np.ndarray  # (N,) int64; -1: in none, for the photo has no time
    day: np.ndarray  # (N,) str, YYYY-MM-DD of the camera's clock; '' unknown
    flank: np.ndarray  # (N,) str; '' unknown
    camera: np.ndarray  # (N,) str, deployment; '' unknown
    species: np.ndarray  # (N,) str; '' unknown

    def __len__(self) -> int:
        return len(self.id)

    def where(self, rows: np.ndarray) -> Crops:
        """The crops that a mask or an index picks."""
        return Crops(*(getattr(self, column.name)[rows] for column in fields(self)))


@dataclass(frozen=True)
class Protocol:
    """How crops are asked."""

    kind: str = "loo"
    filters: tuple[str, ...] = ()  # of FILTERS
    query_share: float = QUERY_SHARE  # of qg
    seed: int = 0  # of qg's draw
    queries: tuple[int, ...] = ()  # of list: ids of the crops that ask,
    gallery: tuple[int, ...] = ()  # and of those that answer

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise CareError(f"A protocol is {', '.join(KINDS)}, not {self.kind!r}.")
        if unknown := set(self.filters) - set(FILTERS):
            raise CareError(f"What can be left out is {', '.join(FILTERS)}, not {', '.join(sorted(unknown))}.")
        if not 0 < self.query_share < 1:
            raise CareError(f"The share of queries lies between 0 and 1, but got {self.query_share:g}.")
        if (self.kind == "list") != bool(self.queries and self.gallery):
            raise CareError("A list of queries and a gallery belong to the protocol 'list', which needs both.")


def sides(crops: Crops, protocol: Protocol, may_ask: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Rows `(Q,) int64` of the crops that ask and `(G,) int64` of those that answer, ascending.

    `may_ask (N,) bool` leaves others out of the queries (they answer; by a list only if it says so). Of qg,
    round(share · n) of an animal's n crops ask, at least one and at most n - 1.
    """
    rows = np.arange(len(crops))
    may_ask = np.ones(len(crops), bool) if may_ask is None else may_ask
    if protocol.kind == "loo":
        return rows[may_ask], rows
    if protocol.kind == "list":
        return rows[np.isin(crops.id, protocol.queries) & may_ask], rows[np.isin(crops.id, protocol.gallery)]
    chance = np.random.default_rng(protocol.seed)
    asks = np.zeros(len(crops), bool)
    for name in np.unique(crops.individual):
        own = chance.permutation(rows[crops.individual == name])
        share = min(max(round(protocol.query_share * len(own)), 1), len(own) - 1)
        asks[own[may_ask[own]][:share]] = True
    return rows[asks], rows[~asks]


def answers(crops: Crops, vectors: np.ndarray, protocol: Protocol, queries: np.ndarray, gallery: np.ndarray) -> Answers:
    """What the gallery answers each query, by the cosine of `vectors (N, D) float32, L2 norm 1`."""
    _, names = np.unique(crops.individual, return_inverse=True)
    parts = []
    for some in _blocks(queries, len(gallery)):
        similarity = vectors[some] @ vectors[gallery].T
        same = names[some][:, None] == names[gallery]
        parts.append(answered(similarity, same, allowed(crops, protocol.filters, some, gallery), some, gallery))
    return Answers.joined(parts)


def nearest(
    crops: Crops, vectors: np.ndarray, protocol: Protocol, queries: np.ndarray, gallery: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Of each query the highest similarity with its own animal and with any other, `(Q,) float32` each; -inf: none."""
    _, names = np.unique(crops.individual, return_inverse=True)
    own, other = np.full((2, len(queries)), -np.inf, np.float32)
    done = 0
    for some in _blocks(queries, len(gallery)) if len(gallery) else ():
        similarity = vectors[some] @ vectors[gallery].T
        same, compared = names[some][:, None] == names[gallery], allowed(crops, protocol.filters, some, gallery)
        rows = slice(done, done := done + len(some))
        own[rows] = np.where(same & compared, similarity, -np.inf).max(1)
        other[rows] = np.where(~same & compared, similarity, -np.inf).max(1)
    return own, other


def allowed(crops: Crops, filters: tuple[str, ...], queries: np.ndarray, gallery: np.ndarray) -> np.ndarray:
    """`(Q, G) bool`: is the gallery crop compared with the query?"""

    def alike(column: str) -> np.ndarray:
        values = getattr(crops, column)
        return values[queries][:, None] == values[gallery]

    def known(column: str) -> np.ndarray:
        return (getattr(crops, column)[queries] != "")[:, None]

    compared = queries[:, None] != gallery
    if "event" in filters:
        compared &= ~(alike("image") | alike("event") & (crops.event[queries] >= 0)[:, None])
    if "day" in filters:
        compared &= ~(alike("day") & known("day"))
    if "flank" in filters:
        compared &= alike("flank") & known("flank")
    if "camera" in filters:
        compared &= ~(alike("individual") & alike("camera") & known("camera"))
    return compared


def _blocks(queries: np.ndarray, gallery: int) -> Iterator[np.ndarray]:
    size = max(1, BLOCK // max(gallery, 1))
    for start in range(0, max(len(queries), 1), size):
        yield queries[start : start + size]
