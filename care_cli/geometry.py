"""Frames and boxes: the one place that says what a pixel coordinate means.

Frames
------
image   the upright image: EXIF orientation applied, x to the right, y down, in pixels.
        Pixel 0 spans 0..1 and its centre is 0.5, so resizing multiplies and cropping subtracts,
        for boxes and points alike.
crop    the stored crop of a box: the rectangle of `crop_rectangle`, resized to `stored_size`.
input   the rectangle that a network sees a stored crop in, where it is squashed: x and y scales differ.

Boxes are `(x, y, w, h)` float, top-left corner and size, in pixels of the image frame.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

Box = tuple[float, float, float, float]
Rectangle = tuple[int, int, int, int]

InputSize = int | tuple[int, int]  # side of a square, or height and width, px

CROP_MARGIN = 0.10  # of the box's own width and height, added on each side
CROP_LONGEST = 800  # px, longest side of a stored crop


def sides(size: int | Sequence[int]) -> tuple[int, int]:
    """Height and width in px of a network's input, which is said as the side of a square or as the two."""
    height, width = (size, size) if isinstance(size, int) else size
    return height, width


def as_size(sides: Sequence[int]) -> InputSize:
    """The shortest way to say a height and a width."""
    height, width = sides
    return height if height == width else (height, width)


def crop_rectangle(box: Box, image_size: tuple[int, int], margin: float = CROP_MARGIN) -> Rectangle:
    """Whole-pixel rectangle `(x, y, w, h)` cut for a box: grown by `margin` of its own size on each
    side, rounded outward, clipped to the image; at least one pixel in each direction.

    `image_size` is `(width, height)` in px.
    """
    x, y, w, h = box
    width, height = image_size
    left = min(max(math.floor(x - margin * w), 0), width - 1)
    top = min(max(math.floor(y - margin * h), 0), height - 1)
    right = max(min(math.ceil(x + w + margin * w), width), left + 1)
    bottom = max(min(math.ceil(y + h + margin * h), height), top + 1)
    return left, top, right - left, bottom - top


def stored_size(rect: Rectangle, longest: int = CROP_LONGEST) -> tuple[int, int]:
    """`(width, height)` of the stored crop: the rectangle, shrunk (never grown) to `longest` px."""
    _, _, w, h = rect
    scale = min(1.0, longest / max(w, h))
    return max(1, round(w * scale)), max(1, round(h * scale))


def to_crop(points: np.ndarray, rect: Rectangle, size: tuple[int, int]) -> np.ndarray:
    """Points `(N,2) float, xy px` from the image frame to the crop frame of `size` (width, height)."""
    x, y, w, h = rect
    return (np.asarray(points, float) - [x, y]) * [size[0] / w, size[1] / h]


def to_image(points: np.ndarray, rect: Rectangle, size: tuple[int, int]) -> np.ndarray:
    """Points `(N,2) float, xy px` from the crop frame of `size` (width, height) to the image frame."""
    x, y, w, h = rect
    return np.asarray(points, float) * [w / size[0], h / size[1]] + [x, y]


def crop_to_input(points: np.ndarray, size: tuple[int, int], side: int) -> np.ndarray:
    """Points `(N,2) float, xy px` from the crop frame of `size` (width, height) to the input frame of `side` px."""
    return np.asarray(points, float) * [side / size[0], side / size[1]]


def input_to_crop(points: np.ndarray, size: tuple[int, int], side: int) -> np.ndarray:
    """Points `(N,2) float, xy px` from the input frame of `side` px to the crop frame of `size` (width, height)."""
    return np.asarray(points, float) * [size[0] / side, size[1] / side]


def iou(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Intersection over union of boxes `(N,4)` with boxes `(M,4)`, both xywh: `(N,M) float64`."""
    a, b = np.asarray(a, float).reshape(-1, 4), np.asarray(b, float).reshape(-1, 4)
    low = np.maximum(a[:, None, :2], b[None, :, :2])
    high = np.minimum((a[:, :2] + a[:, 2:])[:, None], (b[:, :2] + b[:, 2:])[None])
    inside = np.clip(high - low, 0, None).prod(-1)
    union = a[:, 2:].prod(-1)[:, None] + b[:, 2:].prod(-1)[None] - inside
    return np.divide(inside, union, out=np.zeros_like(inside), where=union > 0)


def keep_best(boxes: np.ndarray, confidence: np.ndarray, overlap: float) -> list[int]:
    """Indices that remain when boxes `(N,4) xywh` with IoU > `overlap` become one, the most confident."""
    order = np.argsort(-np.asarray(confidence), kind="stable")
    overlaps = iou(boxes, boxes)
    kept: list[int] = []
    for i in order:
        if all(overlaps[i, j] <= overlap for j in kept):
            kept.append(int(i))
    return sorted(kept)


def clip_box(box: Box, image_size: tuple[int, int]) -> Box:
    """The part of a box that lies in the image of `(width, height)` px; zero-sized when outside; itself inside."""
    x, y, w, h = box
    if x >= 0 and y >= 0 and w >= 0 and h >= 0 and x + w <= image_size[0] and y + h <= image_size[1]:
        return x, y, w, h
    left, top = min(max(x, 0.0), image_size[0]), min(max(y, 0.0), image_size[1])
    right, bottom = min(max(x + w, 0.0), image_size[0]), min(max(y + h, 0.0), image_size[1])
    return left, top, max(right - left, 0.0), max(bottom - top, 0.0)
