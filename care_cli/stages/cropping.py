"""From a photo's pixels to its crops: the one step that every photo passes, surveyed or asked about."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from care_cli import geometry
from care_cli.images import CROP_QUALITY, Reading, cut_crop
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
    unless one is of the very body that this run calls an animal. Where the reading's picture is smaller than the
    photo, a crop is cut from it if that has all the pixels that are stored; else the photo is decoded in full.
    """
    size = reading.photo.width, reading.photo.height
    seen = [found.box for found in detections if found.category == "person" and found.confidence >= PERSON]
    crops = []
    for found in detections:
        box = geometry.clip_box(found.box, size)
        if min(box[2:]) < SMALLEST:
            continue
        rect = geometry.crop_rectangle(box, size, settings.margin)
        if found.category != "animal":
            crops.append(Crop(replace(found, box=box, species=None), rect))
            continue
        stored = geometry.stored_size(rect, settings.longest)
        others = [person for person in people if geometry.iou([person], [box])[0, 0] < ONE_BEING]
        if min(rect[2] / stored[0], rect[3] / stored[1]) < reading.scale:
            reading = reading.whole()
        jpeg = cut_crop(reading.picture, rect, stored, seen + others, settings.quality, reading.scale)
        crops.append(Crop(replace(found, box=box, species=found.species or species), rect, jpeg, stored))
    return crops
