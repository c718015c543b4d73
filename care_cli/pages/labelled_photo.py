"""A photo with boxes drawn on it: what is truly there, and what a detector shows. People are blurred."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageDraw

from care_cli.geometry import Box
from care_cli.images import read_photo
from care_cli.pages.cells import encoded, font
from care_cli.pages.gallery import blur_person

LONGEST = 560  # px, of the picture
TRUE, SHOWN = "#19a05a", "#e2541b"
PAD = 3  # px, around a label's text
DASH = 7  # px


@dataclass(frozen=True)
class DrawnBox:
    """A box to draw: `box` x, y, w, h px of the image frame; `true` or shown; `meant`: the one that it is about."""

    box: Box
    label: str
    true: bool
    meant: bool = False


def labelled_photo(file: Path, size: tuple[int, int], boxes: Sequence[DrawnBox], people: Sequence[Box]) -> bytes | None:
    """The photo of `size` (width, height) px as a JPEG, `people` blurred; None when it cannot be read."""
    try:
        picture = read_photo(file, 2 * LONGEST).picture
    except OSError:
        picture = None
    if picture is None:
        return None
    scale = min(1.0, LONGEST / max(size))
    picture = picture.resize([max(1, round(side * scale)) for side in size], Image.Resampling.LANCZOS, reducing_gap=3.0)
    for person in people:
        blur_person(picture, tuple(value * scale for value in person))
    draw, taken = ImageDraw.Draw(picture), []
    for one in sorted(boxes, key=lambda one: (one.meant, not one.true)):
        x, y, w, h = (value * scale for value in one.box)
        _frame(draw, (x, y, x + w, y + h), one)
        _tag(draw, (x, y, x + w, y + h), one, picture.size, taken)
    return encoded(picture)


def _frame(draw: ImageDraw.ImageDraw, edges: tuple[float, float, float, float], one: DrawnBox) -> None:
    """True boxes are whole lines, shown ones dashed, so that both can be seen where they lie on each other."""
    colour, width = TRUE if one.true else SHOWN, 3 if one.meant else 2
    if one.true:
        draw.rectangle(edges, outline=colour, width=width)
        return
    left, top, right, bottom = edges
    for start, end in (((left, top), (right, top)), ((right, top), (right, bottom)),
                       ((left, bottom), (right, bottom)), ((left, top), (left, bottom))):  # fmt: skip
        length = abs(end[0] - start[0]) + abs(end[1] - start[1])
        for place in range(0, int(length) + 1, 2 * DASH):
            ends = [min(place + more, length) / max(length, 1e-6) for more in (0, DASH)]
            line = [tuple(a + (b - a) * share for a, b in zip(start, end, strict=True)) for share in ends]
            draw.line(line, colour, width)


def _tag(
    draw: ImageDraw.ImageDraw,
    edges: tuple[float, float, float, float],
    one: DrawnBox,
    size: tuple[int, int],
    taken: list[tuple[float, float, float, float]],
) -> None:
    """The label above the box, below it, or within, wherever no other label is."""
    letters = font(13, bold=one.meant)
    left, top, right, bottom = draw.textbbox((0, 0), one.label, letters)
    width, height = right - left + 2 * PAD, bottom - top + 2 * PAD
    x = min(max(edges[0], 0), max(size[0] - width, 0))
    places = [edges[1] - height, edges[3], edges[1], edges[3] - height, edges[1] + height, edges[3] + height]
    fitting = [y for y in places if 0 <= y <= size[1] - height] or [min(max(edges[1], 0), max(size[1] - height, 0))]
    free = (y for y in fitting if not any(_meet((x, y, x + width, y + height), other) for other in taken))
    y = next(free, fitting[0])
    taken.append((x, y, x + width, y + height))
    draw.rectangle(taken[-1], TRUE if one.true else SHOWN)
    draw.text((x + PAD - left, y + PAD - top), one.label, "#ffffff", letters)


def _meet(one: tuple[float, float, float, float], other: tuple[float, float, float, float]) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]
