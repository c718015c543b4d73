"""From a photo's pixels to its crops: the one step that every photo passes, surveyed or asked about."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from care_cli import geometry
from care_cli.images import CROP_QUALITY, cut_crop
from care_cli.records import Crop, Detection

BLACKED_OUT = 0.1  # confidence from which a person's box is black in every stored crop
SMALLEST = 1.0  # px; what is left of a box outside the photo is none

SETTINGS = {"crop_margin": geometry.CROP_MARGIN, "crop_longest": geometry.CROP_LONGEST, "crop_quality": CROP_QUALITY}


def cut_crops(
    pixels: np.ndarray,
    detections: Sequence[Detection],
    species: str | None = None,
    margin: float = geometry.CROP_MARGIN,
    longest: int = geometry.CROP_LONGEST,
) -> list[Crop]:
    """Crops of a photo's settled detections, in their order; pixels for animals only.

    `pixels (H, W, 3) uint8` of the upright image. `species` is what an animal is whose model does not say.
    """
    size = pixels.shape[1], pixels.shape[0]
    people = [found.box for found in detections if found.category == "person" and found.confidence >= BLACKED_OUT]
    crops = []
    for found in detections:
        box = geometry.clip_box(found.box, size)
        if min(box[2:]) < SMALLEST:
            continue
        rect = geometry.crop_rectangle(box, size, margin)
        if found.category != "animal":
            crops.append(Crop(replace(found, box=box, species=None), rect))
            continue
        stored = geometry.stored_size(rect, longest)
        jpeg = cut_crop(pixels, rect, stored, people)
        crops.append(Crop(replace(found, box=box, species=found.species or species), rect, jpeg, stored))
    return crops
