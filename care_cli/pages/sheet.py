"""Contact sheets as JPEG: a query beside its candidates, and one animal's photos."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageDraw

from care_cli.pages.cells import (
    CELL,
    FAINT,
    GAP,
    GREY,
    HEADING,
    INK,
    LINE,
    MARGIN,
    PAPER,
    TEXT,
    blank,
    check,
    elide,
    font,
    page_of,
    picture,
    save,
    series,
    wrap,
)

ROWS = 40  # of a sheet; more go to the next file
COLUMNS = 5  # of one animal's photos
VERDICT = 200  # px, width of the verdict beside the query
COLOURS = {"known": "#2e7d4f", "new": "#2b6cb0", "unsure": "#b7791f"}

Candidate = tuple[str, float, float | None, bytes | None]  # name, cosine, probability, JPEG


@dataclass(frozen=True)
class QuerySheetRow:
    """One animal that was asked about: its crop, the verdict on it and its candidates, the best first."""

    label: str
    jpeg: bytes | None
    verdict: str  # known | new | unsure
    reason: str
    candidates: Sequence[Candidate]


def identify_sheet(rows: Sequence[QuerySheetRow], path: Path) -> list[Path]:
    """Draw queries beside their candidates; returns the files: `path`, then NAME-2.jpg, ... every 40 rows."""
    check(path)
    pages = [rows[start : start + ROWS] for start in range(0, len(rows), ROWS)] or [rows]
    targets = series(path, len(pages))
    for number, (page, target) in enumerate(zip(pages, targets, strict=True), 1):
        known = ", ".join(f"{_count(rows, verdict)} {verdict}" for verdict in COLOURS if _count(rows, verdict))
        subtitle = f"{len(rows)} {'animal' if len(rows) == 1 else 'animals'}{': ' + known if known else ''}"
        save(_identify_page(page, subtitle + page_of(number, len(pages))), target)
    return targets


def individual_sheet(name: str, crops: Sequence[tuple[bytes | None, str]], path: Path) -> list[Path]:
    """Draw one animal's crops, each `(JPEG, caption)`, in a grid; returns the files, as `identify_sheet`."""
    check(path)
    size = ROWS * COLUMNS
    pages = [crops[start : start + size] for start in range(0, len(crops), size)] or [crops]
    targets = series(path, len(pages))
    for number, (page, target) in enumerate(zip(pages, targets, strict=True), 1):
        subtitle = f"{len(crops)} {'photo' if len(crops) == 1 else 'photos'}" + page_of(number, len(pages))
        lines = -(-len(page) // COLUMNS)
        width = 2 * MARGIN + COLUMNS * CELL + (COLUMNS - 1) * GAP
        sheet, draw = blank(width, HEADING + lines * (CELL + TEXT + GAP) + MARGIN, name, subtitle)
        for place, (jpeg, caption) in enumerate(page):
            x = MARGIN + place % COLUMNS * (CELL + GAP)
            y = HEADING + place // COLUMNS * (CELL + TEXT + GAP)
            picture(sheet, draw, (x, y), jpeg)
            for line, text in enumerate(wrap(caption, font(13), CELL, 2)):
                draw.text((x, y + CELL + 6 + 18 * line), text, FAINT if line else INK, font(13))
        save(sheet, target)
    return targets


def _identify_page(rows: Sequence[QuerySheetRow], subtitle: str) -> Image.Image:
    columns = max([len(row.candidates) for row in rows] + [1])
    left = MARGIN + CELL + GAP + VERDICT + GAP
    height = CELL + TEXT + 2 * GAP
    width = left + columns * (CELL + GAP) - GAP + MARGIN
    sheet, draw = blank(width, HEADING + len(rows) * height + MARGIN, "Who is this?", subtitle)
    for number, row in enumerate(rows):
        y = HEADING + number * height
        draw.line((MARGIN, y, width - MARGIN, y), LINE)
        _query(sheet, draw, row, y + GAP)
        for place, candidate in enumerate(row.candidates):
            chosen = place == 0 and row.verdict == "known"
            _candidate(sheet, draw, candidate, (left + place * (CELL + GAP), y + GAP), place + 1, chosen)
        if not row.candidates:
            draw.text((left, y + GAP + CELL // 2 - 10), "No candidate.", FAINT, font(15))
    return sheet


def _query(sheet: Image.Image, draw: ImageDraw.ImageDraw, row: QuerySheetRow, y: int) -> None:
    colour = COLOURS.get(row.verdict, GREY)
    picture(sheet, draw, (MARGIN, y), row.jpeg, outline=INK)
    for line, text in enumerate(wrap(row.label, font(13, bold=True), CELL, 2)):
        draw.text((MARGIN, y + CELL + 6 + 18 * line), text, INK, font(13, bold=True))
    x = MARGIN + CELL + GAP
    word = row.verdict.upper()
    length = draw.textlength(word, font(16, bold=True))
    draw.rounded_rectangle((x, y, x + length + 24, y + 30), 15, colour)
    draw.text((x + 12, y + 15), word, PAPER, font(16, bold=True), anchor="lm")
    below = y + 42
    if row.verdict == "known" and row.candidates:
        draw.text((x, below), elide(row.candidates[0][0], font(20, bold=True), VERDICT), INK, font(20, bold=True))
        below += 32
    for line, text in enumerate(wrap(row.reason, font(14), VERDICT, 8)):
        draw.text((x, below + 20 * line), text, FAINT, font(14))


def _candidate(
    sheet: Image.Image, draw: ImageDraw.ImageDraw, candidate: Candidate, place: tuple[int, int], rank: int, chosen: bool
) -> None:
    name, similarity, probability, jpeg = candidate
    x, y = place
    colour = COLOURS["known"] if chosen else GREY
    picture(sheet, draw, place, jpeg, outline=colour if chosen else None)
    filled = round(CELL * min(max(similarity, 0.0), 1.0))
    draw.rectangle((x, y + CELL + 3, x + CELL - 1, y + CELL + 5), LINE)
    draw.rectangle((x, y + CELL + 3, x + max(filled, 1) - 1, y + CELL + 5), colour)
    draw.text((x, y + CELL + 10), elide(f"{rank}  {name}", font(15, bold=True), CELL), INK, font(15, bold=True))
    score = f"similarity {similarity:.3f}" + ("" if probability is None else f" · {100 * probability:.0f} %")
    draw.text((x, y + CELL + 30), elide(score, font(13), CELL), FAINT, font(13))


def _count(rows: Sequence[QuerySheetRow], verdict: str) -> int:
    return sum(row.verdict == verdict for row in rows)
