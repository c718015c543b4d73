"""An examination asked again for its pictures: rankings, crops as evidence, where networks look."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image
from tqdm import tqdm

from care_cli import registry
from care_cli.errors import CareError
from care_cli.evaluation import metrics
from care_cli.evaluation.metrics import Answers
from care_cli.evaluation.protocols import Crops, Protocol, allowed, answers, sides
from care_cli.images import decode_jpeg
from care_cli.pages.cells import encoded
from care_cli.pages.heat_sheet import Column, Looked
from care_cli.pages.report_html import ShownCrop, ShownQuery
from care_cli.records import KeypointScheme, Selection
from care_cli.stages import shown_points

if TYPE_CHECKING:
    from care_cli.catalog import Catalog
    from care_cli.explain import Explainer

SHOWN = 5  # worst and best queries
ANSWERS = 5  # of a query
LOOKED_AT = 6  # queries with Grad-CAM
RANKS = 20  # of a CMC curve
ASKED = 1000  # queries whose similarities are drawn
SIDE = 260  # px, longer side of a crop on the page
CHANGED = "The catalog has changed since the examination. Give `care evaluate --report` again."
ORDINALS = {1: "st", 2: "nd", 3: "rd"}


@dataclass(frozen=True, eq=False)
class Row:
    """A row of an examination: its models' answers, and the first model's vectors."""

    name: str
    run: int  # index run of the first model
    vectors: np.ndarray  # (N, D) float32, of the first model
    answers: Answers  # of the first model
    cmc: np.ndarray  # (RANKS,) float64, mean over the models
    map: float  # mean over the models


@dataclass(frozen=True, eq=False)
class Examination:
    """Who was asked of whom, and every row that answered. `details` are the crops' listed facts, by id."""

    crops: Crops
    protocol: Protocol
    queries: np.ndarray  # (Q,) int64, rows of crops
    gallery: np.ndarray  # (G,) int64
    rows: tuple[Row, ...]
    details: dict[int, dict]

    @property
    def best(self) -> Row:
        """The row of the highest mAP."""
        return max(self.rows, key=lambda row: row.map)

    def compared(self, asked: int) -> np.ndarray:
        """Rows `(M,) int64` of the crops that one query, a row too, is compared with."""
        return self.gallery[allowed(self.crops, self.protocol.filters, np.array([asked]), self.gallery)[0]]


def reopen(
    catalog: Catalog, crops: Crops, asked: Sequence[int], protocol: Protocol, runs: Sequence[tuple[str, Sequence[int]]]
) -> Examination:
    """The examination of `crops`, of which those of the ids `asked` may ask, by rows: a name, its models' index runs.

    Raises CareError when a run lacks a crop's vector: the catalog has changed since.
    """
    queries, gallery = sides(crops, protocol, np.isin(crops.id, list(asked)))
    rows = []
    for name, numbers in runs:
        found = [(_vectors(catalog, run, crops), run) for run in numbers]
        given = [answers(crops, vectors, protocol, queries, gallery) for vectors, _ in found]
        curve = np.mean([metrics.cmc(one, RANKS) for one in given], 0)
        score = float(np.mean([np.nanmean(one.precision) for one in given]))
        rows.append(Row(name, found[0][1], found[0][0], given[0], curve, score))
    details = {
        row["crop"]: row for row in catalog.crop_rows(Selection(category="animal", ids=tuple(crops.id.tolist())))
    }
    return Examination(crops, protocol, queries, gallery, tuple(rows), details)


def _vectors(catalog: Catalog, run: int, crops: Crops) -> np.ndarray:
    stored = catalog.vectors(run, crops.id.tolist())
    if not np.array_equal(stored.ids, crops.id):
        raise CareError(CHANGED)
    return stored.vectors


def pairs(seen: Examination, row: Row) -> tuple[np.ndarray, np.ndarray]:
    """Cosines of queries with crops of the same animal, and of others; of ASKED queries, evenly chosen."""
    chosen = seen.queries[np.linspace(0, len(seen.queries) - 1, min(ASKED, len(seen.queries))).round().astype(int)]
    cosines = row.vectors[chosen] @ row.vectors[seen.gallery].T
    compared = allowed(seen.crops, seen.protocol.filters, chosen, seen.gallery)
    same = seen.crops.individual[chosen][:, None] == seen.crops.individual[seen.gallery]
    return cosines[compared & same], cosines[compared & ~same]


# -- queries and their answers


def worst(row: Row, crops: Crops, count: int = SHOWN) -> list[int]:
    """Rows of the answers whose first right crop came latest; of equals the surest of the wrong; one an animal."""
    found = row.answers
    wrong = np.flatnonzero(found.first > 1)
    gap = found.similarity - found.match_similarity
    return _one_each(wrong[np.lexsort((-gap[wrong], -found.first[wrong]))], found, crops, count)


def best(row: Row, crops: Crops, count: int = SHOWN) -> list[int]:
    """Rows of the answers with all right crops foremost, the most alike first; one an animal."""
    found = row.answers
    right = np.flatnonzero(found.first == 1)
    return _one_each(right[np.lexsort((-found.similarity[right], -found.precision[right]))], found, crops, count)


def _one_each(rows: Iterable[int], found: Answers, crops: Crops, count: int) -> list[int]:
    taken: dict[str, int] = {}
    for row in rows:
        taken.setdefault(str(crops.individual[found.query[row]]), int(row))
    return list(taken.values())[:count]


def shown(catalog: Catalog, seen: Examination, row: Row, chosen: Sequence[int]) -> list[ShownQuery]:
    """Answers of a row, as they are shown: the query, its first ANSWERS, and the first right one."""
    found = []
    for number in chosen:
        asked, match = int(row.answers.query[number]), int(row.answers.match[number])
        others = seen.compared(asked)
        cosines = row.vectors[others] @ row.vectors[asked]
        same = seen.crops.individual[others] == seen.crops.individual[asked]
        order = np.lexsort((same, -cosines))[:ANSWERS]  # of equals the wrong first, as they are measured
        pictures = catalog.pixels(seen.crops.id[[asked, match, *others[order]]].tolist())
        first = int(row.answers.first[number])
        listed = [
            _crop(seen, pictures, int(others[place]), f"{_th(rank)} answer", asked, float(cosines[place]))
            for rank, place in enumerate(order, 1)
        ]
        late = None
        if first > ANSWERS:
            late = _crop(
                seen, pictures, match, f"{_th(first)} answer", asked, float(row.answers.match_similarity[number])
            )
        found.append(ShownQuery(_why(seen, row, number), _crop(seen, pictures, asked, "asked", None), listed, late))
    return found


def _why(seen: Examination, row: Row, number: int) -> str:
    one = row.answers.where(np.array([number]))
    asked, answer = (seen.crops.individual[place[0]] for place in (one.query, one.answer))
    if one.first[0] == 1:
        return (
            f"{asked} was found at once, at {one.similarity[0]:.2f}; average precision over its "
            f"{one.right[0]} other crops: {one.precision[0]:.2f}."
        )
    return (
        f"{answer} came first at {one.similarity[0]:.2f}; {asked} at {one.match_similarity[0]:.2f}, as the "
        f"{_th(int(one.first[0]))} of {one.compared[0]} answers."
    )


def _crop(
    seen: Examination,
    pictures: dict[int, bytes],
    place: int,
    words: str,
    asked: int | None,
    cosine: float | None = None,
) -> ShownCrop:
    """A crop of the examination beside the query `asked`; None: it is the query."""
    crop, name = int(seen.crops.id[place]), str(seen.crops.individual[place])
    details = seen.details.get(crop, {})
    facts = [] if cosine is None else [f"similarity {cosine:.3f}"]
    facts += [str(details[key]) for key in ("taken_at", "deployment", "site") if details.get(key)]
    facts += [f"{details['flank']} side"] if details.get("flank") in ("left", "right") else []
    kind = "asked"
    if asked is not None:
        kind = "right" if name == seen.crops.individual[asked] else "wrong"
        words += " · right" if kind == "right" else " · wrong"
        if seen.crops.event[place] >= 0 and seen.crops.event[place] == seen.crops.event[asked]:
            facts.append("same event as the query")
    return ShownCrop(_small(pictures.get(crop)), kind, words, name, [*facts, f"crop {crop}"])


def _small(jpeg: bytes | None) -> bytes | None:
    """A stored crop at the page's size; None when it is not there or damaged."""
    try:
        picture = None if jpeg is None else decode_jpeg(jpeg)
    except CareError:
        return None
    if picture is None:
        return None
    picture.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    return encoded(picture)


def _th(number: int) -> str:
    """1st, 2nd, 3rd, 4th, ..."""
    return f"{number:,}{'th' if number % 100 in (11, 12, 13) else ORDINALS.get(number % 10, 'th')}"


# -- where networks look


def looked(catalog: Catalog, seen: Examination, rows: Sequence[Row]) -> tuple[list[Column], list[str]]:
    """Grad-CAM of LOOKED_AT queries, drawn by chance, one an animal, for the first models of rows; and what failed.

    y is the cosine between the query and that gallery crop of its animal which the last row ranks first.
    """
    networks, failures = [], []
    for row in rows:
        try:
            networks.append(_network(catalog, row.run))
        except CareError as error:
            networks.append(None)
            failures.append(f"{row.name}: {error}")
    given = rows[-1].answers
    order = np.random.default_rng(0).permutation(np.flatnonzero(given.right > 0))
    columns = []
    for number in tqdm(_one_each(order, given, seen.crops, LOOKED_AT), "Grad-CAM", unit="crop", disable=None):
        ids = seen.crops.id[[given.query[number], given.match[number]]].tolist()
        pictures = catalog.pixels(ids)
        try:
            asked, match = (decode_jpeg(pictures[one]) for one in ids)
        except (KeyError, CareError):
            continue
        maps = [
            None if one is None else _looked(catalog, one, row.run, ids, (asked, match))
            for one, row in zip(networks, rows, strict=True)
        ]
        cosines = [float(row.vectors[given.query[number]] @ row.vectors[given.match[number]]) for row in rows]
        columns.append(
            Column(
                pictures[ids[0]],
                str(seen.crops.individual[given.query[number]]),
                maps,
                pictures[ids[1]],
                "cosine " + " / ".join(f"{one:.2f}" for one in cosines),
            )
        )
    return columns if any(networks) else [], failures


def _network(catalog: Catalog, run: int) -> Explainer:
    from care_cli import explain

    spec = registry.recall(json.loads(catalog.run(run, "index")["spec"]))
    return explain.load(spec, Path(registry.fetch(spec)))


def _looked(
    catalog: Catalog, network: Explainer, run: int, ids: list[int], pictures: tuple[Image.Image, Image.Image]
) -> Looked:
    from care_cli import explain

    told = _told(catalog, network, run, ids)
    prototype = network.features(pictures[1:], None if told is None else told[1:])[0]
    own = None if told is None else told[0]
    heat = network.heat(pictures[0], explain.cosine_to(prototype), own)
    return Looked(heat, network.covered(pictures[0].size), own if isinstance(network.scheme, KeypointScheme) else None)


def _told(catalog: Catalog, network: Explainer, run: int, ids: list[int]) -> np.ndarray | None:
    """`(B, ...) float32`, what a network was told of crops beside their pixels in an index run."""
    if network.scheme is None:
        return None
    points_run = json.loads(catalog.run(run, "index")["settings"]).get("keypoints_run")
    told = shown_points.of_crops(catalog, ids, network.scheme, points_run)
    return np.stack([told[one].beside for one in ids])


def described(catalog: Catalog, run: int) -> dict[str, Any]:
    """The row of the model that an index run was made with: id, name, sha256, settings."""
    row = catalog.run(run, "index")
    return {
        "id": row["model_id"],
        "name": row["model"],
        "sha256": row["sha256"],
        "settings": json.loads(row["settings"]),
    }
