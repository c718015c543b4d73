"""Photos: animals put into a location's view, lit, blurred, grained and stamped as a camera trap does it.

Boxes are `(x, y, w, h)` and points `(x, y)`, px of the upright photo; pixel 0 spans 0..1.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import numpy as np
from PIL import Image

from .bars import BAR_SHARE, draw_bar
from .canvas import Canvas, Drawn, Keypoints, develop, draw, eyeshine, open_canvas, overlaid
from .coats import Individual
from .figures import extent
from .places import Location, View, make_location, view
from .seeds import TRAIN
from .staging import Placement, light_at, place

CHIP_PLACES = TRAIN[:16]  # seeds of the locations behind chips
MIRROR_PAIRS = tuple(
    (f"left_{part}", f"right_{part}")
    for part in ("eye", "ear", "shoulder", "elbow", "front_paw", "hip", "hock", "hind_paw")
)


@dataclass(frozen=True)
class Chip:
    """An animal's crop as a detector's box would give it; `keypoints` in px of the chip."""

    image: Image.Image
    keypoints: Keypoints
    species: str
    side: str
    box: tuple[float, float, float, float]


@dataclass(frozen=True)
class Scene:
    """A photo and its truth: per object `category`, `species`, `individual`, `box`, `keypoints`, `side`."""

    image: Image.Image
    objects: list[dict[str, Any]]
    placements: list[Placement]


def _truth(item: Placement, drawn: Drawn, rectangle) -> dict[str, Any] | None:
    """The object's box around what can be seen inside `rectangle`, or None where that is next to nothing."""
    x0, y0, x1, y1 = rectangle
    rows, columns = np.nonzero(drawn.mask)
    rows, columns = rows + drawn.y, columns + drawn.x
    kept = (columns >= x0) & (columns < x1) & (rows >= y0) & (rows < y1)
    if kept.sum() < max(60, 0.12 * drawn.whole):
        return None
    rows, columns = rows[kept], columns[kept]
    left, top = int(columns.min()), int(rows.min())
    box = (left, top, int(columns.max()) + 1 - left, int(rows.max()) + 1 - top)
    points = {}
    for name, (x, y, visible) in drawn.keypoints.items():
        within = left <= x <= left + box[2] and top <= y <= top + box[3]
        points[name] = (round(x, 2), round(y, 2), bool(visible and within))
    who = item.individual
    animal = who.category == "animal"
    return {
        "category": who.category,
        "species": who.species if animal else None,
        "kind": who.kind,
        "individual": who.name or f"{who.species}-{who.seed}" if animal else None,
        "box": tuple(float(v) for v in box),
        "keypoints": points if animal else {},
        "side": item.pose.side if animal else None,
        "visible": round(float(kept.sum()) / max(drawn.whole, 1), 3),
    }


def render_scene(
    location: Location,
    animals: list[Individual | Placement],
    rng: np.random.Generator,
    *,
    size: tuple[int, int] = (1280, 960),
    infrared: bool = False,
    when: datetime = datetime(2024, 3, 14, 12, 0, 0),
    difficulty: float = 0.3,
    temperature: int = 12,
    bar: bool = True,
) -> Scene:
    """A photo of `size` px with `animals` (placed at random where no placement is given) and its truth."""
    scene = view(location, size)
    light = light_at(location, when, infrared)
    canvas = open_canvas(scene, 0, 0, *size)
    items = [
        a if isinstance(a, Placement) else place(location, a, rng, size=size, difficulty=difficulty) for a in animals
    ]
    strip = round(BAR_SHARE * size[1]) if bar else 0
    top = strip if location.bar == "above" else 0
    bottom = size[1] - (strip if location.bar == "below" else 0)
    drawn = {}
    for i in sorted(range(len(items)), key=lambda i: items[i].foot):
        drawn[i] = draw(canvas, scene, location, size, items[i], light, difficulty)
        for behind in drawn:
            if behind != i:
                drawn[behind] = overlaid(drawn[behind], drawn[i])
        if infrared:
            eyeshine(canvas, drawn[i], max(1.2, 0.004 * size[0]))
    image = develop(canvas, light, size, rng)
    truths = (_truth(item, drawn[i], (0, top, size[0], bottom)) for i, item in enumerate(items))
    if bar:
        draw_bar(image, location, when, temperature)
    return Scene(image, [truth for truth in truths if truth], items)


def render_chip(
    individual: Individual,
    rng: np.random.Generator,
    *,
    difficulty: float = 0.3,
    longest: int = 200,
    infrared: bool | None = None,
) -> Chip:
    """The individual on a piece of a random location, cropped to its box grown by 10 % a side, with a few px of
    jitter as a detector's box has; the longer side is at most `longest` px."""
    infrared = bool(rng.random() < 0.5) if infrared is None else infrared
    location = make_location(int(rng.choice(CHIP_PLACES)))
    size = (4 * longest, 3 * longest)
    when = datetime(2024, 1 + int(rng.integers(12)), 1 + int(rng.integers(28)), int(rng.integers(7, 18)))
    light = light_at(location, when, infrared)
    scene = view(location, size)
    while True:
        item = place(location, individual, rng, size=size, difficulty=difficulty, share=longest / 1.26 / size[0])
        canvas = _around(scene, location, size, item)
        drawn = draw(canvas, scene, location, size, item, light, difficulty)
        found = _truth(item, drawn, (0, 0, *size))
        if found and found["visible"] > 0.75 - 0.4 * difficulty:
            break
    if infrared:
        eyeshine(canvas, drawn, max(1.0, 0.016 * longest / 1.6))
    image = develop(canvas, light, size, rng)
    return _cut(image, (canvas.x, canvas.y), found, item, rng, longest)


def _around(scene: View, location: Location, size, item: Placement) -> Canvas:
    """The part of the view that an animal's crop can need."""
    trunk = item.trunk(location, size[1] - scene.horizon)
    low, high = extent(item.individual.body, item.pose)
    x, y = item.x * size[0], scene.horizon + item.foot * (size[1] - scene.horizon)
    margin = 0.16 * max(high - low) * trunk + 6
    x0, y0 = (max(int(v), 0) for v in (x + low[0] * trunk - margin, y + low[1] * trunk - margin))
    x1, y1 = int(x + high[0] * trunk + margin), int(y + high[1] * trunk + margin)
    return open_canvas(scene, x0, y0, x1, y1)


def _cut(image: Image.Image, corner, found, item: Placement, rng, longest: int) -> Chip:
    x, y, w, h = found["box"]
    jitter = rng.normal(0, 0.015, 4) * (w, h, w, h)
    left = max(math.floor(x - 0.1 * w + jitter[0]), corner[0])
    top = max(math.floor(y - 0.1 * h + jitter[1]), corner[1])
    right = min(math.ceil(x + 1.1 * w + jitter[2]), corner[0] + image.width)
    bottom = min(math.ceil(y + 1.1 * h + jitter[3]), corner[1] + image.height)
    chip = image.crop((left - corner[0], top - corner[1], right - corner[0], bottom - corner[1]))
    scale = min(1.0, longest / max(chip.size))
    if scale < 1:
        chip = chip.resize([max(1, round(v * scale)) for v in chip.size], Image.Resampling.BICUBIC)
    sx, sy = chip.width / (right - left), chip.height / (bottom - top)
    points = {n: ((px - left) * sx, (py - top) * sy, v) for n, (px, py, v) in found["keypoints"].items()}
    box = ((x - left) * sx, (y - top) * sy, w * sx, h * sy)
    return Chip(chip, points, item.individual.species, item.pose.side, box)
