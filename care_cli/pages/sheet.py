"""Contact sheets as JPEG: a query beside its candidates, and one animal's photos."""

from __future__ import annotations

import functools
import importlib.util
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from care_cli.errors import CareError
from care_cli.images import decode_jpeg
from care_cli.outputs import numbered, refuse_scanned, write_whole

ROWS = 40  # of a sheet; more go to the next file
COLUMNS = 5  # of one animal's photos
CELL = 208  # px, width and height of a picture
GAP = 16  # px
MARGIN = 28  # px
TEXT = 48  # px, two lines below a picture
VERDICT = 200  # px, width of the verdict beside the query
HEADING = 76  # px
QUALITY = 90  # JPEG

PAPER, INK, FAINT, PANEL, LINE = "#ffffff", "#1d2321", "#6b7672", "#eef1ef", "#d8dedb"
COLOURS = {"known": "#2e7d4f", "new": "#2b6cb0", "unsure": "#b7791f"}
GREY = "#7a8582"

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont
Candidate = tuple[str, float, float | None, bytes | None]  # name, cosine, probability, JPEG


@dataclass(frozen=True)
class QuerySheetRow:
    """One animal that was asked about: its crop, the verdict on it and its candidates, the best first."""

    label: str
    jpeg: bytes | None
    verdict: str  # known | new | unsure
    reason: str
    candidates: Sequence[Candidate]


def check(path: Path, scanned: Iterable[str] = ()) -> None:
    """CareError when no sheet can be written to `path`; asked before long work begins, too."""
    if path.suffix.lower() not in (".jpg", ".jpeg"):
        raise CareError(f"A sheet is a JPEG picture: name it FILE.jpg, not {path.name}.")
    if not path.absolute().parent.is_dir():
        raise CareError(f"There is no folder {path.parent} for the sheet. Make it first, or name another place.")
    refuse_scanned(path, scanned)


def identify_sheet(rows: Sequence[QuerySheetRow], path: Path) -> list[Path]:
    """Draw queries beside their candidates; returns the files: `path`, then NAME-2.jpg, ... every 40 rows."""
    check(path)
    pages = [rows[start : start + ROWS] for start in range(0, len(rows), ROWS)] or [rows]
    targets = [numbered(path, number) for number in range(1, len(pages) + 1)]
    for number, (page, target) in enumerate(zip(pages, targets, strict=True), 1):
        known = ", ".join(f"{_count(rows, verdict)} {verdict}" for verdict in COLOURS if _count(rows, verdict))
        subtitle = f"{len(rows)} {'animal' if len(rows) == 1 else 'animals'}{': ' + known if known else ''}"
        _save(_identify_page(page, subtitle + _page_of(number, len(pages))), target)
    return targets


def individual_sheet(name: str, crops: Sequence[tuple[bytes | None, str]], path: Path) -> list[Path]:
    """Draw one animal's crops, each `(JPEG, caption)`, in a grid; returns the files, as `identify_sheet`."""
    check(path)
    size = ROWS * COLUMNS
    pages = [crops[start : start + size] for start in range(0, len(crops), size)] or [crops]
    targets = [numbered(path, number) for number in range(1, len(pages) + 1)]
    for number, (page, target) in enumerate(zip(pages, targets, strict=True), 1):
        subtitle = f"{len(crops)} {'photo' if len(crops) == 1 else 'photos'}" + _page_of(number, len(pages))
        lines = -(-len(page) // COLUMNS)
        width = 2 * MARGIN + COLUMNS * CELL + (COLUMNS - 1) * GAP
        sheet, draw = _blank(width, HEADING + lines * (CELL + TEXT + GAP) + MARGIN, name, subtitle)
        for place, (jpeg, caption) in enumerate(page):
            x = MARGIN + place % COLUMNS * (CELL + GAP)
            y = HEADING + place // COLUMNS * (CELL + TEXT + GAP)
            _picture(sheet, draw, (x, y), jpeg)
            for line, text in enumerate(_wrap(caption, _font(13), CELL, 2)):
                draw.text((x, y + CELL + 6 + 18 * line), text, FAINT if line else INK, _font(13))
        _save(sheet, target)
    return targets


def _identify_page(rows: Sequence[QuerySheetRow], subtitle: str) -> Image.Image:
    columns = max([len(row.candidates) for row in rows] + [1])
    left = MARGIN + CELL + GAP + VERDICT + GAP
    height = CELL + TEXT + 2 * GAP
    width = left + columns * (CELL + GAP) - GAP + MARGIN
    sheet, draw = _blank(width, HEADING + len(rows) * height + MARGIN, "Who is this?", subtitle)
    for number, row in enumerate(rows):
        y = HEADING + number * height
        draw.line((MARGIN, y, width - MARGIN, y), LINE)
        _query(sheet, draw, row, y + GAP)
        for place, candidate in enumerate(row.candidates):
            chosen = place == 0 and row.verdict == "known"
            _candidate(sheet, draw, candidate, (left + place * (CELL + GAP), y + GAP), place + 1, chosen)
        if not row.candidates:
            draw.text((left, y + GAP + CELL // 2 - 10), "No candidate.", FAINT, _font(15))
    return sheet


def _query(sheet: Image.Image, draw: ImageDraw.ImageDraw, row: QuerySheetRow, y: int) -> None:
    colour = COLOURS.get(row.verdict, GREY)
    _picture(sheet, draw, (MARGIN, y), row.jpeg, outline=INK)
    for line, text in enumerate(_wrap(row.label, _font(13, bold=True), CELL, 2)):
        draw.text((MARGIN, y + CELL + 6 + 18 * line), text, INK, _font(13, bold=True))
    x = MARGIN + CELL + GAP
    word = row.verdict.upper()
    length = draw.textlength(word, _font(16, bold=True))
    draw.rounded_rectangle((x, y, x + length + 24, y + 30), 15, colour)
    draw.text((x + 12, y + 15), word, PAPER, _font(16, bold=True), anchor="lm")
    below = y + 42
    if row.verdict == "known" and row.candidates:
        draw.text((x, below), _elide(row.candidates[0][0], _font(20, bold=True), VERDICT), INK, _font(20, bold=True))
        below += 32
    for line, text in enumerate(_wrap(row.reason, _font(14), VERDICT, 8)):
        draw.text((x, below + 20 * line), text, FAINT, _font(14))


def _candidate(
    sheet: Image.Image, draw: ImageDraw.ImageDraw, candidate: Candidate, place: tuple[int, int], rank: int, chosen: bool
) -> None:
    name, similarity, probability, jpeg = candidate
    x, y = place
    colour = COLOURS["known"] if chosen else GREY
    _picture(sheet, draw, place, jpeg, outline=colour if chosen else None)
    filled = round(CELL * min(max(similarity, 0.0), 1.0))
    draw.rectangle((x, y + CELL + 3, x + CELL - 1, y + CELL + 5), LINE)
    draw.rectangle((x, y + CELL + 3, x + max(filled, 1) - 1, y + CELL + 5), colour)
    draw.text((x, y + CELL + 10), _elide(f"{rank}  {name}", _font(15, bold=True), CELL), INK, _font(15, bold=True))
    score = f"similarity {similarity:.3f}" + ("" if probability is None else f" · {100 * probability:.0f} %")
    draw.text((x, y + CELL + 30), _elide(score, _font(13), CELL), FAINT, _font(13))


def _picture(
    sheet: Image.Image,
    draw: ImageDraw.ImageDraw,
    place: tuple[int, int],
    jpeg: bytes | None,
    outline: str | None = None,
) -> None:
    """A crop, whole and centred, on a panel of fixed size."""
    x, y = place
    draw.rectangle((x, y, x + CELL - 1, y + CELL - 1), PANEL)
    try:
        crop = None if jpeg is None else decode_jpeg(jpeg)
    except CareError:
        crop = None
    if crop is None:
        draw.text((x + CELL // 2, y + CELL // 2), "no picture", GREY, _font(14), anchor="mm")
    else:
        scale = CELL / max(crop.size)
        size = max(1, round(crop.width * scale)), max(1, round(crop.height * scale))
        shown = crop.resize(size, Image.Resampling.LANCZOS)
        sheet.paste(shown, (x + (CELL - size[0]) // 2, y + (CELL - size[1]) // 2))
    if outline:
        draw.rectangle((x - 2, y - 2, x + CELL + 1, y + CELL + 1), outline=outline, width=3)


def _blank(width: int, height: int, title: str, subtitle: str) -> tuple[Image.Image, ImageDraw.ImageDraw]:
    sheet = Image.new("RGB", (width, height), PAPER)
    draw = ImageDraw.Draw(sheet)
    draw.text((MARGIN, 16), _elide(title, _font(24, bold=True), width - 2 * MARGIN), INK, _font(24, bold=True))
    draw.text((MARGIN, 48), _elide(subtitle, _font(14), width - 2 * MARGIN), FAINT, _font(14))
    return sheet, draw


def _save(sheet: Image.Image, path: Path) -> None:
    stream = io.BytesIO()
    sheet.save(stream, "JPEG", quality=QUALITY)
    write_whole(path, stream.getvalue())


def _count(rows: Sequence[QuerySheetRow], verdict: str) -> int:
    return sum(row.verdict == verdict for row in rows)


def _page_of(number: int, pages: int) -> str:
    return f" · sheet {number} of {pages}" if pages > 1 else ""


# -- text


@functools.cache
def _font(size: int, bold: bool = False) -> Font:
    """DejaVu Sans where matplotlib brings it (names of any alphabet), else Pillow's own Latin font."""
    found = importlib.util.find_spec("matplotlib")
    for folder in (found.submodule_search_locations or []) if found else []:
        file = Path(folder) / "mpl-data/fonts/ttf" / ("DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf")
        if file.is_file():
            return ImageFont.truetype(str(file), size)
    return ImageFont.load_default(size)


def _elide(text: str, font: Font, width: int) -> str:
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


def _wrap(text: str, font: Font, width: int, lines: int) -> list[str]:
    """The text in at most `lines` lines of `width` px, the last one elided when it does not fit."""
    words, found = text.split(), []
    while words and len(found) < lines - 1:
        line = words.pop(0)
        while words and font.getlength(f"{line} {words[0]}") <= width:
            line += f" {words.pop(0)}"
        found.append(_elide(line, font, width))
    if words:
        found.append(_elide(" ".join(words), font, width))
    return found
