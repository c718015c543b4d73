"""From a photo's pixels to its crops: the one step that every photo passes, surveyed or asked about."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from care_cli import geometry
from care_cli.errors import CareError
from care_cli.images import CROP_QUALITY, Reading, cut_crop, decode
from care_cli.records import Crop, Detection
from care_cli.thresholds import ONE_BEING, PERSON

SMALLEST = 1.0  # px; what is left of a box outside the photo is none


@dataclass(frozen=True)
class CropSettings:
    """How crops are cut; part of a detect run's identity."""

    margin: float = geometry.CROP_MARGIN  # of the box's own width and height, on each side
    longest: int = geometry.CROP_LONGEST  # px, longest side as stored
    quality: int = CROP_QUALITY  # JPEG

    def as_run_settings(self) -> dict:
        """As they stand in `runs.settings`."""
        return {"crop_margin": self.margin, "crop_longest": self.longest, "crop_quality": self.quality}

    @classmethod
    def of_run(cls, settings: dict) -> CropSettings:
        """Those of a run's settings."""
        return cls(settings["crop_margin"], settings["crop_longest"], settings["crop_quality"])


SETTINGS = CropSettings().as_run_settings()


def cut_crops(
    reading: Reading,
    detections: Sequence[Detection],
    species: str | None = None,
    settings: CropSettings = CropSettings(),
    people: Sequence[geometry.Box] = (),
) -> list[Crop]:
    """Crops of a photo's settled detections, in their order; pixels for animals only.

    `species` is what an animal is whose model does not say. `people` are boxes that other runs found: black too,
    unless one is of the very body that this run calls an animal. A reading without its picture, or with one too
    small for what is stored of a crop, is decoded again, no finer than needed; CareError when that fails.
    """
    if not detections:
        return []
    size = reading.photo.width, reading.photo.height
    seen = [found.box for found in detections if found.category == "person" and found.confidence >= PERSON]
    boxed = [replace(found, box=geometry.clip_box(found.box, size)) for found in detections]
    boxed = [found for found in boxed if min(found.box[2:]) >= SMALLEST]
    rects = [geometry.crop_rectangle(found.box, size, settings.margin) for found in boxed]
    sizes = [geometry.stored_size(rect, settings.longest) for rect in rects]
    shrunk = [
        min(rect[2] / stored[0], rect[3] / stored[1])
        for found, rect, stored in zip(boxed, rects, sizes, strict=True)
        if found.category == "animal"
    ]
    if shrunk:
        reading = _fine_enough(reading, min(shrunk))
    crops = []
    for found, rect, stored in zip(boxed, rects, sizes, strict=True):
        if found.category != "animal":
            crops.append(Crop(replace(found, species=None), rect))
            continue
        others = [person for person in people if geometry.iou([person], [found.box])[0, 0] < ONE_BEING]
        jpeg = cut_crop(reading.picture, rect, stored, seen + others, settings.quality, reading.scale)
        crops.append(Crop(replace(found, species=found.species or species), rect, jpeg, stored))
    return crops


def _fine_enough(reading: Reading, shrunk: float) -> Reading:
    """The reading with its picture at 1/`shrunk` of the photo or finer."""
    if reading.picture is None or reading.scale > shrunk:
        reading = decode(reading.file, math.ceil(max(reading.photo.width, reading.photo.height) / shrunk))
    if reading.picture is None:
        raise CareError(f"it could be decoded once, and not again: {reading.photo.failure}")
    return reading
