"""What contact sheets are made of: cells with pictures, text that fits, a heading, files in a series."""

from __future__ import annotations

import functools
import importlib.util
import io
from collections.abc import Iterable
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from care_cli.errors import CareError
from care_cli.images import decode_jpeg
from care_cli.outputs import numbered, refuse_scanned, write_whole

CELL = 208  # px, width and height of a picture
GAP = 16  # px
MARGIN = 28  # px
TEXT = 48  # px, two lines below a picture
HEADING = 76  # px
QUALITY = 90  # JPEG

PAPER, INK, FAINT, PANEL, LINE = "#ffffff", "#1d2321", "#6b7672", "#eef1ef", "#d8dedb"
GREY = "#7a8582"

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


def check(path: Path, scanned: Iterable[str] = ()) -> None:
    """CareError when no sheet can be written to `path`; asked before long work begins, too."""
    if path.suffix.lower() not in (".jpg", ".jpeg"):
        raise CareError(f"A sheet is a JPEG picture: name it FILE.jpg, not {path.name}.")
    if not path.absolute().parent.is_dir():
        raise CareError(f"There is no folder {path.parent} for the sheet. Make it first, or name another place.")
    refuse_scanned(path, scanned)


def series(path: Path, count: int) -> list[Path]:
    """The files of `count` sheets: `path`, then NAME-2.jpg, ..."""
    return [numbered(path, number) for number in range(1, count + 1)]


def page_of(number: int, pages: int) -> str:
    """What is put behind a heading when there are several sheets."""
    return f" · sheet {number} of {pages}" if pages > 1 else ""


def blank(width: int, height: int, title: str, subtitle: str) -> tuple[Image.Image, ImageDraw.ImageDraw]:
    """A sheet of `width` x `height` px with its heading, and what draws on it."""
    sheet = Image.new("RGB", (width, height), PAPER)
    draw = ImageDraw.Draw(sheet)
    draw.text((MARGIN, 16), elide(title, font(24, bold=True), width - 2 * MARGIN), INK, font(24, bold=True))
    draw.text((MARGIN, 48), elide(subtitle, font(14), width - 2 * MARGIN), FAINT, font(14))
    return sheet, draw


def picture(
    sheet: Image.Image,
    draw: ImageDraw.ImageDraw,
    place: tuple[int, int],
    jpeg: bytes | None,
    outline: str | None = None,
    cell: int = CELL,
) -> tuple[float, float, float, float] | None:
    """A crop, whole and centred, on a panel of `cell` px; where it lies then, `x, y, w, h` px, unless it is damaged."""
    x, y = place
    draw.rectangle((x, y, x + cell - 1, y + cell - 1), PANEL)
    try:
        crop = None if jpeg is None else decode_jpeg(jpeg)
    except CareError:
        crop = None
    lies = None
    if crop is None:
        draw.text((x + cell // 2, y + cell // 2), "no picture", GREY, font(14), anchor="mm")
    else:
        scale = cell / max(crop.size)
        size = max(1, round(crop.width * scale)), max(1, round(crop.height * scale))
        lies = x + (cell - size[0]) // 2, y + (cell - size[1]) // 2, *size
        sheet.paste(crop.resize(size, Image.Resampling.LANCZOS), lies[:2])
    if outline:
        draw.rectangle((x - 2, y - 2, x + cell + 1, y + cell + 1), outline=outline, width=3)
    return lies


def save(sheet: Image.Image, path: Path) -> None:
    """Write a sheet as JPEG, whole or not at all; CareError when the place cannot be written."""
    write_whole(path, encoded(sheet))


def encoded(picture: Image.Image) -> bytes:
    """A picture as JPEG."""
    stream = io.BytesIO()
    picture.save(stream, "JPEG", quality=QUALITY)
    return stream.getvalue()


# -- text


@functools.cache
def font(size: int, bold: bool = False) -> Font:
    """DejaVu Sans where matplotlib brings it (names of any alphabet), else Pillow's own Latin font."""
    found = importlib.util.find_spec("matplotlib")
    for folder in (found.submodule_search_locations or []) if found else []:
        file = Path(folder) / "mpl-data/fonts/ttf" / ("DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf")
        if file.is_file():
            return ImageFont.truetype(str(file), size)
    return ImageFont.load_default(size)


def elide(text: str, font: Font, width: int) -> str:
    """The text, with an ellipsis for its middle when it is wider than `width` px."""
    if font.getlength(text) <= width:
        return text
    kept = len(text)
    while kept > 1:
        kept -= 1
        shorter = f"{text[: (kept + 1) // 2]}…{text[len(text) - kept // 2 :]}"
        if font.getlength(shorter) <= width:
            return shorter
    return "…"


def wrap(text: str, font: Font, width: int, lines: int) -> list[str]:
    """The text in at most `lines` lines of `width` px, the last one elided when it does not fit."""
    words, found = text.split(), []
    while words and len(found) < lines - 1:
        line = words.pop(0)
        while words and font.getlength(f"{line} {words[0]}") <= width:
            line += f" {words.pop(0)}"
        found.append(elide(line, font, width))
    if words:
        found.append(elide(" ".join(words), font, width))
    return found
