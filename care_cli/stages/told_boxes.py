"""From boxes as an imported file tells of them to detections in the frame of a photo, or to why they are none."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

from care_cli.detectors import settle
from care_cli.exchange.labels import Dropped, Told
from care_cli.geometry import Box, clip_box
from care_cli.records import Detection

OTHER_SHAPE = 0.02  # by so much may the ratio of a photo's sides differ from what the file says
SMALLEST = 1.0  # px

NO_SIZE = "its boxes are in px of a photo whose size nobody knows before its file is seen; import it again then"
OUTSIDE = "its box lies outside the photo"
TINY = f"its box is smaller than {SMALLEST:g} px"
SHAPE = "its boxes are of a photo of another shape"
SAME = "it is the same animal, person or vehicle as a surer box"


@dataclass(frozen=True)
class Placed:
    """A photo's detections, px of its upright image or, of unknown size, shares of its sides."""

    detections: tuple[Detection, ...] = ()
    complete: bool = True  # False: boxes wait for the photo's size


def place(
    told: Told, size: tuple[int, int] | None, dropped: Dropped, people: Sequence[Box] = (), seen: bool = False
) -> Placed:
    """The detections of a photo of `size` (width, height px; None: unknown), most confident first.

    told     boxes in shares, or in px of `told.size`; where the file says no size, in px of the photo's own
    people   boxes that somebody called a person, px: they are people here too
    seen     the size is that of the photo's very bytes

    What cannot be used goes to `dropped`.
    """
    if any(not box.share for box in told.boxes):
        if told.size is None and size is None:
            dropped.add(NO_SIZE, told.file, len(told.boxes), fault=False)
            return Placed(complete=False)
        if seen and told.size and not _alike(told.size, size):
            said, true = ("{} x {} px".format(*sides) for sides in (told.size, size))
            dropped.add(SHAPE, f"{told.file}: {said}, but upright it is {true}", len(told.boxes))
            return Placed()
    frame = size or (1, 1)
    found = []
    for box in told.boxes:
        unit = (1, 1) if box.share else told.size or frame
        across, down = frame[0] / unit[0], frame[1] / unit[1]
        x, y, w, h = box.box
        placed = clip_box((x * across, y * down, w * across, h * down), frame)
        if min(placed[2:]) <= 0:
            dropped.add(OUTSIDE, f"{told.file}: {[round(one, 4) for one in box.box]}")
        elif size and min(placed[2:]) < SMALLEST:
            dropped.add(TINY, f"{told.file}: {[round(one, 4) for one in box.box]}")
        else:
            found.append(Detection(placed, box.confidence, box.label, box.category, box.species))
    found += [Detection(person, 1.0, "person", "person") for person in people]
    kept = sorted(found, key=lambda one: -one.confidence) if _apart(found) else settle(found, _kind)
    if (merged := len(found) - len(kept) - len(people)) > 0:
        dropped.add(SAME, told.file, merged, fault=False)
    return Placed(tuple(kept))


def _kind(one: Detection) -> tuple:
    """What boxes on one body must share to be one: drawn ones the species too, for people tell two animals apart."""
    return one.category, one.species if one.confidence >= 1 else None


def _apart(found: Sequence[Detection]) -> bool:
    """Does no box meet another one, so that there is nothing to settle?"""
    return all(
        a[0] + a[2] <= b[0] or b[0] + b[2] <= a[0] or a[1] + a[3] <= b[1] or b[1] + b[3] <= a[1]
        for a, b in combinations([one.box for one in found], 2)
    )


def _alike(told: tuple[int, int], size: tuple[int, int]) -> bool:
    """Are two sizes of one shape: is one the other, made smaller?"""
    return abs(told[0] * size[1] / (told[1] * size[0]) - 1) <= OTHER_SHAPE
