"""Points as a CSV table: crop,name,x,y and, if wanted, visible and source; others are passed over."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from care_cli.errors import CareError
from care_cli.exchange.dataset_table import read_table

COLUMNS = ("crop", "name", "x", "y")
YES, NO = ("", "1", "true", "yes"), ("0", "false", "no")


@dataclass(frozen=True)
class PointRow:
    """A named point of a crop of this catalog, px of the image frame."""

    line: int
    crop: int
    name: str
    x: float
    y: float
    visible: bool
    source: str | None  # propagated, human or import, where the table says so


def read(path: Path) -> tuple[list[PointRow], list[str]]:
    """The rows that can be used, and what cannot, with reasons. CareError when it is no such table."""
    present, lines = read_table(path)
    if missing := [name for name in COLUMNS if name not in present]:
        raise CareError(
            f"{path.name} has no column {missing[0]!r}; a table of points has crop,name,x,y and, if wanted, visible."
        )
    rows: list[PointRow] = []
    failures: list[str] = []
    seen: dict[tuple[int, str], int] = {}
    for number, cells in lines:
        try:
            row = _row(number, cells)
            if (row.crop, row.name) in seen:
                raise ValueError(f"{row.name!r} of crop {row.crop} stands on line {seen[row.crop, row.name]} already")
        except ValueError as error:
            failures.append(f"line {number}: {error}")
        else:
            seen[row.crop, row.name] = number
            rows.append(row)
    return rows, failures


def _row(number: int, cells: dict[str, str]) -> PointRow:
    """ValueError, in words, when a cell is not what it should be."""
    if not cells["crop"].isdecimal():
        raise ValueError(f"crop should be a crop's number, but is {cells['crop']!r}")
    if not cells["name"]:
        raise ValueError("the point has no name")
    try:
        x, y = float(cells["x"]), float(cells["y"])
    except ValueError:
        x = y = math.nan
    if not (math.isfinite(x) and math.isfinite(y)):
        raise ValueError(f"x and y should be px of the photo, but are {cells['x']!r} and {cells['y']!r}")
    said = cells.get("visible", "").casefold()
    if said not in YES + NO:
        raise ValueError(f"visible should be 1 or 0, but is {cells['visible']!r}")
    return PointRow(number, int(cells["crop"]), cells["name"], x, y, said in YES, cells.get("source") or None)
