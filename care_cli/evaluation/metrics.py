"""Metrics of re-identification: who is ranked first, and how well all of an animal's crops are found. Pure NumPy.

Of Q queries, each with R right crops (of the same animal) among the G that it is compared with:

top1        share whose first answer is right; CMC@1 (Moon & Phillips 2001)
cmc5, cmc10 share with a right crop among the first 5, 10
mAP         mean of AP = Σ_k P(k)·rel(k) / R (Manning et al. 2008, 8.4)
mINP        mean of R / rank of the last right crop (Ye et al. 2021)
balanced    mean over animals of the share of each one's queries that top1 counts
random      top1 of a ranking by chance: mean of R / G
NGR         (top1 - random) / (1 - random): what top1 gains over chance

Queries without a right crop cannot be answered right; they are counted and left out of all these. Of crops that are
equally similar the wrong ones are ranked first, so that a model that finds all alike scores nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields

import numpy as np

from care_cli.errors import CareError

METRICS = ("top1", "cmc5", "cmc10", "mAP", "mINP", "balanced", "random", "NGR")


@dataclass(frozen=True, eq=False)
class Answers:
    """What each of Q queries was answered; columns of one length. Ranks count from 1, and 0 says: none."""

    query: np.ndarray  # (Q,) int64, row of the crop that asked
    compared: np.ndarray  # (Q,) int64, crops that it was compared with, G
    right: np.ndarray  # (Q,) int64, those of them that show the same animal, R
    first: np.ndarray  # (Q,) int64, rank of the first right one
    last: np.ndarray  # (Q,) int64, rank of the last right one
    precision: np.ndarray  # (Q,) float64, AP; NaN without a right one
    answer: np.ndarray  # (Q,) int64, row of the crop ranked first; -1: compared with none
    match: np.ndarray  # (Q,) int64, row of the right crop ranked first; -1: none
    similarity: np.ndarray  # (Q,) float32, cosine with `answer`; -inf without one
    match_similarity: np.ndarray  # (Q,) float32, cosine with `match`; -inf without one

    def __len__(self) -> int:
        return len(self.query)

    def where(self, rows: np.ndarray) -> Answers:
        """The queries that a mask or an index picks."""
        return Answers(*(getattr(self, column.name)[rows] for column in fields(self)))

    @staticmethod
    def joined(parts: Sequence[Answers]) -> Answers:
        """The queries of several, in their order."""
        return Answers(*(np.concatenate([getattr(part, column.name) for part in parts]) for column in fields(Answers)))


def answered(
    similarity: np.ndarray, same: np.ndarray, allowed: np.ndarray, queries: np.ndarray, gallery: np.ndarray
) -> Answers:
    """What queries `(Q,) int` are answered by gallery crops `(G,) int`, both rows of one table.

    similarity  (Q, G) float32, cosines
    same        (Q, G) bool, shows the gallery crop the query's animal?
    allowed     (Q, G) bool, is it compared at all? (not with itself)
    """
    count = len(queries)
    gallery = np.append(gallery, -1)  # and nobody, for queries that are compared with none
    outside = np.full((count, 1), -np.inf, np.float32)
    own, other = (
        np.hstack([np.where(kind & allowed, similarity, -np.inf).astype(np.float32), outside]) for kind in (same, ~same)
    )
    right = np.isfinite(own).sum(1)
    first, last = np.zeros((2, count), np.int64)
    precision = np.full(count, np.nan)
    for row, wrong in enumerate(np.sort(other, axis=1)):
        if right[row]:
            similar = np.sort(own[row])[: -right[row] - 1 : -1]  # to its own animal's crops, the nearest first
            place = np.arange(1, right[row] + 1)
            rank = place + len(wrong) - np.searchsorted(wrong, similar)  # after all wrong ones that are as similar
            first[row], last[row], precision[row] = rank[0], rank[-1], np.mean(place / rank)
    every, match, mistake = np.arange(count), own.argmax(1), other.argmax(1)
    wins = own[every, match] > other[every, mistake]
    return Answers(
        query=np.asarray(queries, np.int64),
        compared=allowed.sum(1),
        right=right,
        first=first,
        last=last,
        precision=precision,
        answer=np.where(allowed.any(1), gallery[np.where(wins, match, mistake)], -1),
        match=np.where(right, gallery[match], -1),
        similarity=np.where(wins, own[every, match], other[every, mistake]),
        match_similarity=own[every, match],
    )


def columns(answers: Answers) -> dict[str, np.ndarray]:
    """For each metric that is a mean over queries, what each query adds to it: `(Q,) float64`, NaN where R = 0."""
    asked = answers.right > 0
    with np.errstate(invalid="ignore", divide="ignore"):
        values = {
            "top1": answers.first == 1,
            "cmc5": answers.first <= 5,
            "cmc10": answers.first <= 10,
            "mAP": answers.precision,
            "mINP": answers.right / answers.last,
            "random": answers.right / answers.compared,
        }
    return {name: np.where(asked, value, np.nan) for name, value in values.items()}


def figures(
    values: Mapping[str, np.ndarray], individuals: np.ndarray, weights: np.ndarray | None = None
) -> dict[str, np.ndarray]:
    """Every metric `(W,) float64` from what queries add to it (`columns`) and whose they are.

    `individuals (Q,)` names; `weights (W, C)` says how often each animal counts, in the order of `np.unique` of the
    names of queries with a right crop; None: once each, W = 1. NaN where nothing counts.
    """
    asked = ~np.isnan(values["top1"])
    names, member = np.unique(np.asarray(individuals)[asked], return_inverse=True)
    counts = np.bincount(member, minlength=len(names))
    sums = {name: np.bincount(member, value[asked], len(names)) for name, value in values.items()}
    weights = np.ones((1, len(names))) if weights is None else weights
    with np.errstate(invalid="ignore", divide="ignore"):
        found = {name: weights @ total / (weights @ counts) for name, total in sums.items()}
        found["balanced"] = weights @ (sums["top1"] / counts) / weights.sum(1)
        found["NGR"] = (found["top1"] - found["random"]) / (1 - found["random"])
    return {name: found[name] for name in METRICS}


def cmc(answers: Answers, most: int = 20) -> np.ndarray:
    """The CMC curve `(most,) float64`: share of queries with a right crop among the first 1, 2, ... answers."""
    first = answers.first[answers.right > 0]
    return np.array([(first <= rank).mean() if len(first) else np.nan for rank in range(1, most + 1)])


def leave_one_out(vectors: np.ndarray, individuals: Sequence[str]) -> dict[str, float]:
    """Every crop asks all the others: `queries` (crops whose individual has another one), and METRICS over them.

    `vectors (N, D) float32` of L2 norm 1, `individuals (N,)` names. The query itself is left out by index,
    not by similarity. Raises CareError when no individual has two crops.
    """
    names = np.asarray(individuals)
    rows = np.arange(len(names))
    found = answered(vectors @ vectors.T, names[:, None] == names, ~np.eye(len(names), dtype=bool), rows, rows)
    if not found.right.any():
        raise CareError("Leave-one-out needs an individual with at least two crops, but none has.")
    values = figures(columns(found), names)
    return {"queries": int((found.right > 0).sum()), **{name: float(value[0]) for name, value in values.items()}}
