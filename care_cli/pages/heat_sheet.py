"""Where networks look, as a contact sheet: Grad-CAM over crops, a row a model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

from care_cli.geometry import Box
from care_cli.images import decode_jpeg
from care_cli.pages.cells import CELL, FAINT, GAP, HEADING, INK, MARGIN, blank, elide, encoded, font, picture, wrap

ALPHA = 0.5  # of the map over the crop
LABELS = 200  # px, width of the rows' names
CAPTION = 42  # px below a crop
POINT = 5  # px, radius
# inferno (Smith and van der Walt, 2015) at equal steps: dark where nothing is looked at, even steps to the eye
RAMP = np.array(
    [(0, 0, 4), (31, 12, 72), (85, 15, 109), (136, 34, 106), (186, 54, 85), (227, 89, 51), (249, 140, 10),
     (249, 201, 50), (252, 255, 164)], float
)  # fmt: skip


@dataclass(frozen=True, eq=False)
class Looked:
    """What a model looked at on a crop."""

    heat: np.ndarray  # (h,w) float, not negative
    covered: Box  # x, y, w, h px of the crop: where the map lies
    points: np.ndarray | None = (
        None  # (K,3) float: shares of the crop's width and height, weight; as the model saw them
    )


@dataclass(frozen=True)
class Column:
    """One query: its crop, what each model looked at, and the crop that it was compared with."""

    jpeg: bytes
    caption: str
    looked: Sequence[Looked | None]  # a model each; None: it can't be asked
    match: bytes | None
    match_caption: str


def heat_sheet(models: Sequence[str], columns: Sequence[Column], title: str, subtitle: str) -> bytes:
    """A JPEG: the crops on top, a row for each model with its maps over them, and what they were compared with."""
    names = ["crop", *models, "compared with"]
    width = 2 * MARGIN + LABELS + len(columns) * (CELL + GAP) - GAP
    sheet, draw = blank(width, HEADING + len(names) * (CELL + CAPTION) + MARGIN, title, subtitle)
    for line, name in enumerate(names):
        y = HEADING + line * (CELL + CAPTION)
        for number, words in enumerate(wrap(name, font(14, bold=True), LABELS - GAP, 6)):
            draw.text((MARGIN, y + CELL // 2 - 10 + 20 * number), words, INK, font(14, bold=True))
        for place, column in enumerate(columns):
            _draw(sheet, draw, column, line, len(models), (MARGIN + LABELS + place * (CELL + GAP), y))
    return encoded(sheet)


def _draw(
    sheet: Image.Image, draw: ImageDraw.ImageDraw, column: Column, line: int, models: int, place: tuple[int, int]
) -> None:
    jpeg, caption = column.jpeg, column.caption if line == 0 else ""
    if line > models:
        jpeg, caption = column.match, column.match_caption
    elif line > 0:
        looked = column.looked[line - 1]
        caption = "" if looked is None or looked.heat.any() else "nothing speaks for it"
        jpeg = None if looked is None else encoded(overlay(decode_jpeg(column.jpeg), looked))
    picture(sheet, draw, place, jpeg)
    draw.text((place[0], place[1] + CELL + 5), elide(caption, font(13), CELL), FAINT, font(13))


def overlay(crop: Image.Image, looked: Looked, alpha: float = ALPHA) -> Image.Image:
    """The crop, at CELL px, with the map over what the network saw of it, and the points that it was shown as rings.

    The map's highest value is the ramp's brightest colour; what the network did not see is pale.
    """
    scale = CELL / max(crop.size)
    size = max(1, round(crop.width * scale)), max(1, round(crop.height * scale))
    seen = crop.convert("RGB").resize(size, Image.Resampling.LANCZOS)
    x, y, w, h = (value * scale for value in looked.covered)
    left, top, right, bottom = round(x), round(y), round(x + w), round(y + h)
    heat = Image.fromarray(_coloured(looked.heat, (max(right - left, 1), max(bottom - top, 1))))
    whole = Image.blend(seen, Image.new("RGB", size, "white"), 0.6)
    box = max(left, 0), max(top, 0), min(right, size[0]), min(bottom, size[1])
    part = heat.crop((box[0] - left, box[1] - top, box[2] - left, box[3] - top))
    whole.paste(Image.blend(seen.crop(box), part, alpha), box[:2])
    draw = ImageDraw.Draw(whole)
    for px, py, weight in () if looked.points is None else looked.points:
        if weight > 0:
            cx, cy = px * size[0], py * size[1]
            for radius, colour in ((POINT + 1, "black"), (POINT, "white")):
                draw.ellipse((cx - radius, cy - radius, cx + radius, cy + radius), outline=colour, width=2)
    return whole


def _coloured(heat: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """A map `(h,w)`, 0 to its maximum, as colours `(H,W,3) uint8` of `size` (width, height)."""
    level = heat / max(float(heat.max()), 1e-12)
    smooth = Image.fromarray(level.astype(np.float32)).resize(size, Image.Resampling.BICUBIC)
    level = np.asarray(smooth).clip(0, 1) * (len(RAMP) - 1)
    below = np.minimum(level.astype(int), len(RAMP) - 2)
    part = (level - below)[..., None]
    return (RAMP[below] * (1 - part) + RAMP[below + 1] * part).round().astype(np.uint8)
