"""Crops without their animal, to see whether a model tells the animals apart by where they stand. Pure NumPy."""

from __future__ import annotations

import numpy as np

RING = 0.08  # of a crop's sides, what is kept at the border where the animal fills it
FULL = 0.97  # of a crop's area, from which the box is said to fill it


def background(pixels: np.ndarray, box: np.ndarray) -> tuple[np.ndarray, bool]:
    """A crop `(H, W, 3) uint8` with its animal made black, and whether only the border was kept.

    `box (2, 2) float`: the corners (x, y) of the animal's box, px of the crop frame. Where the box fills the crop, as
    in data sets of cut-out animals, all but a border of RING of each side is black; that border may show the animal.
    """
    height, width = pixels.shape[:2]
    low, high = np.clip(np.asarray(box, float), 0, [width, height])
    filled = float(np.prod(high - low)) >= FULL * width * height
    if filled:
        low, high = np.array([width, height]) * RING, np.array([width, height]) * (1 - RING)
    (left, top), (right, bottom) = np.floor(low).astype(int), np.ceil(high).astype(int)
    emptied = pixels.copy()
    emptied[top:bottom, left:right] = 0
    return emptied, filled
