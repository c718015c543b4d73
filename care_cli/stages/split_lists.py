"""Lists of published splits: which photo trains, which asks and which answers, as a CSV file that two commands read.

`care train --split-file` takes the individuals of its parts, `care evaluate --split-file` its gallery and queries.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from care_cli.decisions import composed
from care_cli.errors import CareError
from care_cli.evaluation.protocols import Protocol
from care_cli.records import Selection
from care_cli.stages.splits import SIDES

if TYPE_CHECKING:
    from care_cli.catalog import Catalog

COLUMNS = ("path", "individual", "part")
NAMED_IN_ERRORS = 3


@dataclass(frozen=True)
class Line:
    """A photo of one animal, by the end of its path, and the part that it is in."""

    path: str
    individual: str
    part: str


def read(path: Path) -> list[Line]:
    """The lines of a list. CareError when it cannot be read or lacks a column."""
    try:
        rows = list(csv.DictReader(io.StringIO(path.read_bytes().decode("utf-8-sig"))))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise CareError(f"The list {path} cannot be read: {error}.") from error
    if not rows or not set(COLUMNS) <= set(rows[0]):
        raise CareError(f"A list of queries has the columns {', '.join(COLUMNS)}, but {path} has not.")
    cells = [[(row[name] or "").strip() for name in COLUMNS] for row in rows]
    return [Line(path, composed(individual), part) for path, individual, part in cells]


def written(lines: Iterable[Line]) -> str:
    """The lines as a CSV file, by part and path."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows(
        (one.path, one.individual, one.part) for one in sorted(lines, key=lambda one: (one.part, one.path))
    )
    return stream.getvalue()


def matched(catalog: Catalog, lines: Sequence[Line]) -> tuple[dict[int, Line], list[Line]]:
    """The line of each crop that a list speaks of, by crop id, and the lines of photos that are not here.

    A line means the crops of its animal on photos whose path ends with its own.
    """
    ends: dict[tuple[str, str], Line] = {(line.path, line.individual): line for line in lines}
    depths = sorted({line.path.count("/") for line in lines})
    found: dict[int, Line] = {}
    for row in catalog.crop_rows(Selection(category="animal")):
        parts = (row["path"] or "").split("/")
        for depth in depths:
            if line := ends.get(("/".join(parts[-depth - 1 :]), row["individual"] or "")):
                found[row["crop"]] = line
    here = {id(line) for line in found.values()}
    return found, [line for line in lines if id(line) not in here]


def protocol_of(catalog: Catalog, path: Path, filters: Sequence[str] = ()) -> Protocol:
    """The queries and the gallery of a list, as a protocol. CareError when the catalog has none of one of them."""
    found, lost = matched(catalog, read(path))
    sides = {side: tuple(sorted(crop for crop, line in found.items() if line.part == side)) for side in SIDES}
    if empty := [side for side, crops in sides.items() if not crops]:
        some = ", ".join(line.path for line in lost[:NAMED_IN_ERRORS])
        raise CareError(
            f"The list {path} names no {' and no '.join(empty)} that this catalog has"
            f"{f' (not here: {some}, ...)' if lost else ''}. Its column `part` says gallery or query."
        )
    if lost := [line for line in lost if line.part in SIDES]:
        catalog.notice(f"{len(lost)} photos of the list {path.name} are not in this catalog, the first {lost[0].path}.")
    return Protocol("list", tuple(dict.fromkeys(filters)), queries=sides["query"], gallery=sides["gallery"])
