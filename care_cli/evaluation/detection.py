"""How well a detector finds and names what is on photos: average precision, recall, false alarms, confusions.

A found box is a true one from IoU 0.5; each true box is claimed once, by the most confident box first.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from care_cli import geometry
from care_cli.yolo import prepare_ultralytics

SAME = 0.5  # IoU from which a found box is a true one
LEVELS = np.linspace(0.5, 0.95, 10)  # IoUs of mAP50-95, as COCO has them
NOTHING = "nothing"  # what is confused with an animal where there is none
LIGHTS = ("day", "infrared")
MISS, ALARM, CONFUSION = "miss", "false alarm", "confusion"


@dataclass(frozen=True, eq=False)
class Boxes:
    """`boxes (N,4) float64`: x, y, w, h px of the image frame; `classes (N,) int64`; `confidence (N,) float64`, of true
    boxes 1."""

    boxes: np.ndarray
    classes: np.ndarray
    confidence: np.ndarray

    def __len__(self) -> int:
        return len(self.classes)

    def where(self, chosen: np.ndarray) -> Boxes:
        """Those of a mask or of rows."""
        return Boxes(self.boxes[chosen], self.classes[chosen], self.confidence[chosen])


@dataclass(frozen=True, eq=False)
class Looked:
    """A photo that a detector looked at.

    found  every box of the network, from whatever confidence: what average precision is made of
    shown  what the detector shows a person
    """

    lighting: str  # day | infrared
    true: Boxes
    found: Boxes
    shown: Boxes


@dataclass(frozen=True)
class Mistake:
    """A true box that nothing was found at (`miss`), a shown box where nothing is (`false alarm`), or a wrong name
    (`confusion`): rows of the photo's true and shown boxes, and the photo's number."""

    kind: str
    photo: int
    true: int | None
    shown: int | None


def claims(true: Boxes, found: Boxes, levels: np.ndarray, *, named: bool) -> np.ndarray:
    """Which true box each found one claims at each IoU: `(F,L) int64`, -1 for none.

    Greedily, the most confident first: each claims the best true box that is still free; `named`: of its own class.
    """
    overlaps = geometry.iou(true.boxes, found.boxes)
    if named:
        overlaps = overlaps * (true.classes[:, None] == found.classes)
    claimed = np.full((len(found), len(levels)), -1)
    free = np.ones((len(true), len(levels)), bool)
    if not len(true):
        return claimed
    across = np.arange(len(levels))
    for one in np.argsort(-found.confidence, kind="stable"):
        left = np.where(free, overlaps[:, one, None], 0.0)
        best = left.argmax(0)
        fits = left[best, across] >= levels
        claimed[one, fits] = best[fits]
        free[best[fits], across[fits]] = False
    return claimed


def average_precision(photos: Sequence[Looked], classes: int) -> np.ndarray:
    """AP of each class at IoU 0.5 to 0.95: `(C,10) float64`, NaN for a class that no photo shows.

    Interpolated at 101 recalls as in COCO, by Ultralytics' code.
    """
    prepare_ultralytics()
    from ultralytics.utils.metrics import ap_per_class

    right = np.concatenate([claims(one.true, one.found, LEVELS, named=True) >= 0 for one in photos])
    found = np.concatenate([one.found.classes for one in photos])
    true = np.concatenate([one.true.classes for one in photos])
    values = np.full((classes, len(LEVELS)), np.nan)
    if len(true):
        confidence = np.concatenate([one.found.confidence for one in photos])
        with np.errstate(invalid="ignore", divide="ignore"):
            *_, precision, present, _p, _r, _f, _x, _c = ap_per_class(right, confidence, found, true)
        values[present] = precision
    return values


def counted(photos: Sequence[Looked], classes: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of each class the true boxes, the shown ones, and those that are both: three `(C,) int64`."""
    true, shown, right = (np.zeros(classes, np.int64) for _ in range(3))
    for one in photos:
        true += np.bincount(one.true.classes, minlength=classes)
        shown += np.bincount(one.shown.classes, minlength=classes)
        hits = claims(one.true, one.shown, np.array([SAME]), named=True)[:, 0] >= 0
        right += np.bincount(one.shown.classes[hits], minlength=classes)
    return true, shown, right


def confusion(photos: Sequence[Looked], classes: int) -> np.ndarray:
    """Boxes `(C+1,C+1) int64` by true class (rows) and shown class (columns); the last of each is nothing."""
    matrix = np.zeros((classes + 1, classes + 1), np.int64)
    for one in photos:
        claimed = claims(one.true, one.shown, np.array([SAME]), named=False)[:, 0]
        rows = np.where(claimed >= 0, np.append(one.true.classes, classes)[claimed], classes)
        np.add.at(matrix, (rows, one.shown.classes), 1)
        missed = np.setdiff1d(np.arange(len(one.true)), claimed)
        np.add.at(matrix, (one.true.classes[missed], classes), 1)
    return matrix


def empties(photos: Sequence[Looked]) -> dict[str, Any]:
    """False alarms on photos that show nothing: how many have a shown box, and their share, None without any."""
    empty = [one for one in photos if not len(one.true)]
    wrong = sum(bool(len(one.shown)) for one in empty)
    boxes = sum(len(one.shown) for one in empty)
    return {"photos": len(empty), "with_boxes": wrong, "share": share(wrong, len(empty)), "boxes": boxes}


def share(part: float, whole: float) -> float | None:
    """A share, None of nothing."""
    return round(float(part / whole), 4) if whole else None


def overall(photos: Sequence[Looked], classes: int) -> dict[str, Any]:
    """The figures of some photos: mAP over the classes that they show, recall and precision over all shown boxes."""
    if not photos:
        return {"photos": 0}
    precision = average_precision(photos, classes)
    true, shown, right = (int(one.sum()) for one in counted(photos, classes))
    return {
        "photos": len(photos),
        "boxes": true,
        "mAP50": _mean(precision[:, 0]),
        "mAP50_95": _mean(precision.mean(1)),
        "recall": share(right, true),
        "precision": share(right, shown),
        "empties": empties(photos),
    }


def measured(photos: Sequence[Looked], names: Sequence[str]) -> dict[str, Any]:
    """All figures: overall, of each class, of day and infrared, and the confusion matrix."""
    precision = average_precision(photos, len(names))
    rows = [
        {
            "class": name,
            "true": int(true),
            "shown": int(shown),
            "right": int(right),
            "recall": share(right, true),
            "precision": share(right, shown),
            "AP50": _mean(values[:1]),
            "AP50_95": _mean(values),
        }
        for name, true, shown, right, values in zip(names, *counted(photos, len(names)), precision, strict=True)
    ]
    return overall(photos, len(names)) | {
        "classes": rows,
        "lighting": {light: overall([one for one in photos if one.lighting == light], len(names)) for light in LIGHTS},
        "confusion": {"classes": [*names, NOTHING], "matrix": confusion(photos, len(names)).tolist()},
    }


def _mean(values: np.ndarray) -> float | None:
    known = values[~np.isnan(values)]
    return round(float(known.mean()), 4) if len(known) else None


# -- examples


def mistakes(photos: Sequence[Looked]) -> list[Mistake]:
    """Everything that is wrong, as the confusion matrix counts it, the worst of each kind first.

    Misses by the size of what was missed, false alarms and confusions by confidence.
    """
    found: list[tuple[float, Mistake]] = []
    for number, one in enumerate(photos):
        claimed = claims(one.true, one.shown, np.array([SAME]), named=False)[:, 0]
        for row in np.setdiff1d(np.arange(len(one.true)), claimed).tolist():
            found.append((one.true.boxes[row, 2:].prod(), Mistake(MISS, number, row, None)))
        for row, true in enumerate(claimed.tolist()):
            if true < 0:
                found.append((one.shown.confidence[row], Mistake(ALARM, number, None, row)))
            elif one.true.classes[true] != one.shown.classes[row]:
                found.append((one.shown.confidence[row], Mistake(CONFUSION, number, true, row)))
    return [mistake for _, mistake in sorted(found, key=lambda pair: -pair[0])]


def in_turn(items: Sequence[Mistake], key: Callable[[Mistake], Any], most: int) -> list[Mistake]:
    """At most `most` of the items, of every group in turn, so that none fills the page."""
    seen: dict[Any, int] = {}
    ranked = []
    for place, item in enumerate(items):
        seen[key(item)] = seen.get(key(item), 0) + 1
        ranked.append((seen[key(item)], place))
    return [items[place] for _, place in sorted(ranked)[:most]]
