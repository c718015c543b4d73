"""Named points drawn: many crops on a contact sheet, or one template, large, with its names."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from care_cli.images import decode_jpeg
from care_cli.pages.cells import (
    FAINT,
    GAP,
    HEADING,
    INK,
    MARGIN,
    PAPER,
    blank,
    check,
    elide,
    font,
    page_of,
    picture,
    save,
    series,
)
from care_cli.records import NamedPoint

__all__ = ["Cell", "check", "keypoint_sheet", "mark", "template_picture"]

COLUMNS, ROWS = 4, 15  # of a sheet; more crops go to the next file
CELL = 272  # px, width and height of a picture
CAPTION = 28  # px below a picture
LINE = 22  # px, a line of the legend
RADIUS = 6  # px of a point
LARGE = 1000  # px, longer side of a template's picture
PLAIN = (253, 231, 37)  # a template's points: the ramp's bright end
# viridis (Smith and van der Walt, 2015) at equal steps: even steps to the eye, colour-blind or not
RAMP = np.array(
    [(68, 1, 84), (71, 44, 122), (59, 81, 139), (44, 113, 142), (33, 144, 141), (39, 173, 129), (92, 200, 99),
     (170, 220, 50), (253, 231, 37)], float
)  # fmt: skip

Rect = tuple[float, float, float, float]  # left, top, right, bottom px


@dataclass(frozen=True, eq=False)
class Cell:
    """A crop with its points."""

    jpeg: bytes | None
    caption: str
    names: tuple[str, ...]  # K
    kp_crop: np.ndarray  # (K,2) float, xy px, crop frame
    confidence: np.ndarray  # (K,) float
    visible: np.ndarray  # (K,) bool
    size: tuple[int, int]  # width, height px of the crop


def keypoint_sheet(cells: Sequence[Cell], path: Path, of: int | None = None) -> list[Path]:
    """Draw crops with their points; returns the files: `path`, then NAME-2.jpg, ... every 60 crops.

    The colour is the point's confidence, a hollow point is one that is hidden or not sure, the number its name's in
    the legend. `of` how many crops these are a part.
    """
    check(path)
    names = list(dict.fromkeys(name for cell in cells for name in cell.names))
    low, high = _range(cells)
    size = COLUMNS * ROWS
    pages = [cells[start : start + size] for start in range(0, len(cells), size)] or [cells]
    targets = series(path, len(pages))
    for number, (page, target) in enumerate(zip(pages, targets, strict=True), 1):
        part = f"{len(cells)} of {of} crops" if of and of > len(cells) else f"{len(cells)} crops"
        save(_page(page, names, low, high, part + page_of(number, len(pages))), target)
    return targets


def _page(cells: Sequence[Cell], names: list[str], low: float, high: float, subtitle: str) -> Image.Image:
    width = 2 * MARGIN + COLUMNS * (CELL + GAP) - GAP
    legend = _flow([f"{number} {name}" for number, name in enumerate(names, 1)], width - 2 * MARGIN)
    top = HEADING + LINE * (len(legend) + 1) + GAP + 4
    rows = -(-len(cells) // COLUMNS)
    sheet, draw = blank(width, top + rows * (CELL + CAPTION + GAP) + MARGIN - GAP, "Keypoints", subtitle)
    _ramp(sheet, draw, low, high)
    for line, texts in enumerate(legend, 1):
        for x, text in texts:
            draw.text((MARGIN + x, HEADING + LINE * line + 4), text, INK, font(14))
    numbers = {name: number for number, name in enumerate(names, 1)}
    for place, cell in enumerate(cells):
        x = MARGIN + place % COLUMNS * (CELL + GAP)
        y = top + place // COLUMNS * (CELL + CAPTION + GAP)
        outside = _points(sheet, draw, cell, (x, y), numbers, low, high)
        caption = cell.caption + (f" · {outside} outside the crop" if outside else "")
        draw.text((x, y + CELL + 6), elide(caption, font(13), CELL), FAINT, font(13))
    return sheet


def _points(
    sheet: Image.Image,
    draw: ImageDraw.ImageDraw,
    cell: Cell,
    place: tuple[int, int],
    numbers: dict[str, int],
    low: float,
    high: float,
) -> int:
    """Draw a crop and its points, the surest on top; returns how many lie outside the crop and are not drawn."""
    lies = picture(sheet, draw, place, cell.jpeg, cell=CELL)
    if lies is None:
        return 0
    points, order = mark(sheet, lies, cell, low, high)
    taken = [_around(points[index], RADIUS) for index in order]
    bounds = place[0], place[1], place[0] + CELL, place[1] + CELL
    for index in sorted(order):
        label = str(numbers[cell.names[index]])
        taken.append(_label(draw, label, 12, points[index], taken, bounds))
    return len(points) - len(order)


def mark(
    sheet: Image.Image, lies: tuple[float, float, float, float], cell: Cell, low: float = 0.0, high: float = 1.0
) -> tuple[np.ndarray, list[int]]:
    """Draw the points of a crop that lies at `x, y, w, h` px of a sheet, the surest on top.

    Returns all places `(K,2)` px on the sheet, and which of them lie in the crop and were drawn.
    """
    x, y, w, h = lies
    inside = ((cell.kp_crop >= 0) & (cell.kp_crop <= cell.size)).all(1)
    points = cell.kp_crop * [w / cell.size[0], h / cell.size[1]] + [x, y]
    order = [index for index in np.argsort(cell.confidence, kind="stable").tolist() if inside[index]]
    for index in order:
        _mark(sheet, points[index], colour(cell.confidence[index], low, high), hollow=not cell.visible[index])
    return points, order


def template_picture(jpeg: bytes, points: Iterable[NamedPoint], path: Path) -> None:
    """Draw one crop, large, with its points (px of the crop frame) and their names, none over another.

    Raises CareError when the pixels are damaged or the place cannot be written.
    """
    check(path)
    crop = decode_jpeg(jpeg)
    scale = LARGE / max(crop.size)
    size = max(1, round(crop.width * scale)), max(1, round(crop.height * scale))
    room = max(120, (LARGE - size[0]) // 2)  # beside the picture, for names of points at its edge
    sheet = Image.new("RGB", (size[0] + 2 * room, size[1] + 2 * MARGIN), PAPER)
    sheet.paste(crop.resize(size, Image.Resampling.LANCZOS), (room, MARGIN))
    draw = ImageDraw.Draw(sheet)
    given = list(points)
    places = [(point.x * size[0] / crop.width + room, point.y * size[1] / crop.height + MARGIN) for point in given]
    taken = [_around(place, RADIUS) for place in places]
    for point, place in zip(given, places, strict=True):
        taken.append(_label(draw, point.name, 17, place, taken, (0, 0, *sheet.size), leader=True))
    for place in places:
        _mark(sheet, place, PLAIN)
    save(sheet, path)


# -- confidence as colour


def colour(confidence: float, low: float, high: float) -> tuple[int, int, int]:
    """The ramp's colour of a confidence from `low` to `high`."""
    along = min(max((float(confidence) - low) / (high - low), 0.0), 1.0) * (len(RAMP) - 1)
    return tuple(round(float(np.interp(along, range(len(RAMP)), RAMP[:, channel]))) for channel in range(3))


def _range(cells: Sequence[Cell]) -> tuple[float, float]:
    """What the ramp's ends mean: tenths that hold all confidences."""
    values = np.concatenate([np.asarray(cell.confidence, float) for cell in cells]) if cells else np.zeros(0)
    if not len(values):
        return 0.0, 1.0
    low, high = math.floor(values.min() * 10) / 10, math.ceil(values.max() * 10) / 10
    return (low, high) if low < high else (low - 0.1, high)


def _ramp(sheet: Image.Image, draw: ImageDraw.ImageDraw, low: float, high: float) -> None:
    """The legend's first line: the ramp with its ends, and what a hollow point is."""
    y, x, length = HEADING + 2, MARGIN, 160
    before = f"confidence {low:.1f}"
    draw.text((x, y), before, INK, font(14))
    x += round(draw.textlength(before, font(14))) + 8
    for step in range(length):
        draw.line((x + step, y + 2, x + step, y + 15), colour(step / (length - 1), 0.0, 1.0))
    x += length + 8
    draw.text((x, y), f"{high:.1f}", INK, font(14))
    x += 64
    for hollow, words in ((False, "sure"), (True, "hidden or not sure")):
        _mark(sheet, (x, y + 9), colour(0.5, 0.0, 1.0), hollow)
        draw.text((x + 14, y), words, INK, font(14))
        x += 90


# -- points and labels


@functools.cache
def _marker(fill: tuple[int, int, int], hollow: bool) -> Image.Image:
    """A point of RADIUS px, dark and light rings round its colour so that it stands out on any coat."""
    fine, side = 4, 2 * RADIUS + 3
    large = Image.new("RGBA", (side * fine, side * fine))
    draw = ImageDraw.Draw(large)
    middle = side * fine / 2
    rings = [(1.0, (20, 20, 20, 255)), (0.83, (255, 255, 255, 255)), (0.68, (*fill, 255))]
    if hollow:
        rings = [(1.0, (20, 20, 20, 255)), (0.88, (*fill, 255)), (0.62, (20, 20, 20, 255)), (0.52, (0, 0, 0, 0))]
    for share, shade in rings:
        radius = (RADIUS + 0.5) * share * fine
        draw.ellipse((middle - radius, middle - radius, middle + radius, middle + radius), shade)
    return large.resize((side, side), Image.Resampling.LANCZOS)


def _mark(sheet: Image.Image, place: Sequence[float], fill: tuple[int, int, int], hollow: bool = False) -> None:
    marker = _marker(fill, hollow)
    sheet.paste(marker, (round(place[0] - marker.width / 2), round(place[1] - marker.height / 2)), marker)


def _around(place: Sequence[float], radius: float) -> Rect:
    return place[0] - radius, place[1] - radius, place[0] + radius, place[1] + radius


def _label(
    draw: ImageDraw.ImageDraw,
    text: str,
    size: int,
    point: Sequence[float],
    taken: Sequence[Rect],
    bounds: Rect,
    leader: bool = False,
) -> Rect:
    """Write a text near a point, where nothing else is; returns the place it took. A `leader` line joins them."""
    letters = font(size)
    left, _, right, _ = letters.getbbox(text)
    _, top, _, bottom = letters.getbbox("Ág")  # labels are of one height
    w, h = right - left + 6, bottom - top + 4
    place = free_place(point, (w, h), taken, bounds)
    x, y = place[:2]
    if leader:
        draw.line((*point, min(max(point[0], x), x + w), min(max(point[1], y), y + h)), INK, 2)
        draw.rectangle(place, PAPER, INK)
        draw.text((x + 3 - left, y + 2 - top), text, INK, letters)
    else:
        draw.text((x + 3 - left, y + 2 - top), text, PAPER, letters, stroke_width=2, stroke_fill=INK)
    return place


def free_place(point: Sequence[float], size: tuple[float, float], taken: Sequence[Rect], bounds: Rect) -> Rect:
    """The place for a label of `size` nearest to a point, within `bounds` and over none of `taken`.

    Tried are sixteen directions at growing distances; where all is taken, it is the nearest one within bounds.
    """
    w, h = size
    fallback = None
    for step in range(40):
        distance = RADIUS + 2 + 6 * step
        for turn in range(16):
            angle = 2 * math.pi * turn / 16
            dx, dy = math.cos(angle), math.sin(angle)
            x = point[0] + dx * (distance + w / 2) - w / 2
            y = point[1] + dy * (distance + h / 2) - h / 2
            place = x, y, x + w, y + h
            if x < bounds[0] or y < bounds[1] or x + w > bounds[2] or y + h > bounds[3]:
                continue
            fallback = fallback or place
            if not any(_overlap(place, other) for other in taken):
                return place
    return fallback or (point[0], point[1], point[0] + w, point[1] + h)


def _overlap(one: Rect, other: Rect) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


def _flow(texts: Sequence[str], width: float) -> list[list[tuple[float, str]]]:
    """Texts in lines of `width` px, each with its x; one that is too long for a line is elided."""
    lines: list[list[tuple[float, str]]] = []
    x = math.inf
    for text in (elide(text, font(14), round(width)) for text in texts):
        length = font(14).getlength(text)
        if x + length > width:
            lines.append([])
            x = 0.0
        lines[-1].append((x, text))
        x += length + LINE
    return lines
