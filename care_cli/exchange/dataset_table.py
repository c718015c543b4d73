"""Reading an existing re-identification data set: which animal is on which photo, by folders, a table, or as known."""

from __future__ import annotations

import csv
import hashlib
import io
import os
import re
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from care_cli.decisions import checked_name
from care_cli.errors import CareError
from care_cli.exchange import layouts
from care_cli.geometry import Box
from care_cli.scan import Found, Unreadable, display_path, scan

NOBODY = frozenset(("", "-1", "?", "unknown", "unidentified", "none", "null", "nan", "n/a"))  # no name, in any case
FLANK_WORDS = {
    "left": "left", "l": "left", "lhs": "left", "right": "right", "r": "right", "rhs": "right",
    "front": "front", "f": "front", "frontal": "front", "back": "back", "b": "back", "rear": "back",
    "unknown": "unknown",
}  # fmt: skip
DELIMITERS = ",;\t"


@dataclass(frozen=True)
class Dataset:
    """What `care import dataset` was told. Without `csv` and `layout`, a photo's folder is its animal's name."""

    path: Path
    csv: Path | None = None
    path_column: str = "path"
    identity_column: str = "identity"
    split_column: str | None = None
    split: str | None = None  # only rows of this part
    date_column: str | None = None
    flank_column: str | None = None
    event_column: str | None = None
    box_columns: str | None = None  # one column of "x,y,w,h", or four names with commas; px, upright
    species_column: str | None = None
    species: str | None = None  # of all animals whose row says none
    prefix: str = ""  # before every name
    join: bool = False  # names that exist already mean the same animals
    layout: str | None = None  # a known data set of `layouts`, read as it is published

    @property
    def name(self) -> str:
        """What the data set is called in decisions: its folder's name."""
        return display_path(os.fsencode(self.path.resolve().name)) or "dataset"

    def settings(self) -> dict:
        """All that decides what is imported, the table by its bytes."""
        columns = ("path", "identity", "split", "date", "flank", "event", "species")
        return {
            "dataset": self.name,
            "csv": hashlib.sha256(self.csv.read_bytes()).hexdigest() if self.csv else None,
            "columns": {name: getattr(self, f"{name}_column") for name in columns} if self.csv else None,
            "box_columns": self.box_columns,
            "split": self.split,
            "species": self.species,
            "prefix": self.prefix,
        } | ({"layout": self.layout, "read_as": layouts.digest(self.layout)} if self.layout else {})


@dataclass(frozen=True)
class Entry:
    """One animal on one photo, as the data set tells of it."""

    path: str  # below the data set's folder, readable form
    name: str | None = None  # None: nobody knows
    box: Box | None = None  # x, y, w, h px of the upright photo; None: the whole photo
    flank: str | None = None
    species: str | None = None
    date: str | None = None  # 'YYYY-MM-DD HH:MM:SS[.fff]'
    event: str | None = None
    camera: str | None = None  # what the data set calls it
    evidence: dict | None = None  # what the data set says, in its own words


def entries(dataset: Dataset) -> tuple[list[tuple[Found, list[Entry]]], list[str]]:
    """The data set's photos, each with its animals, and what could not be read, with reasons.

    Raises CareError when the folder is absent or empty, the table or a column of it is missing, or a name, date
    or box cannot be used.
    """
    if not dataset.path.is_dir():
        raise CareError(f"A data set is a folder of photos, but {dataset.path} is none.")
    if dataset.csv is not None:
        groups, failures = _from_table(dataset, dataset.csv)
    elif dataset.layout is not None:
        groups, failures = _from_layout(dataset, dataset.layout)
    else:
        groups, failures = _from_folders(dataset)
    if not groups and not failures:
        raise CareError(f"No photo was found for the data set in {dataset.path}. Check the folder and --split.")
    return groups, failures


def _from_layout(dataset: Dataset, name: str) -> tuple[list[tuple[Found, list[Entry]]], list[str]]:
    _refuse_columns(dataset)
    sightings, failures = layouts.read(dataset.path, name)
    groups: dict[bytes, tuple[Found, list[Entry]]] = {}
    for one in sightings:
        path = display_path(one.found.relative)
        said = {"part": one.part, "flank": one.flank, "camera": one.camera, "event": one.event, "date": one.date}
        entry = Entry(
            path=path,
            name=_name(dataset, one.identity, path),
            box=one.box,
            flank=flank(one.flank),
            species=dataset.species or layouts.known()[name]["species"],
            date=_date(one.date, path),
            event=one.event,
            camera=one.camera,
            evidence={"path": path, "identity": one.identity} | {key: word for key, word in said.items() if word},
        )
        groups.setdefault(one.found.relative, (one.found, []))[1].append(entry)
    return list(groups.values()), failures


def _refuse_columns(dataset: Dataset) -> None:
    """CareError for what speaks of a table's columns, where there is none."""
    for option, value in (
        ("--split", dataset.split), ("--split-column", dataset.split_column), ("--date-column", dataset.date_column),
        ("--flank-column", dataset.flank_column), ("--event-column", dataset.event_column),
        ("--box-columns", dataset.box_columns), ("--species-column", dataset.species_column),
    ):  # fmt: skip
        if value is not None:
            raise CareError(f"{option} speaks of a table: name it with --csv FILE.")


def _from_folders(dataset: Dataset) -> tuple[list[tuple[Found, list[Entry]]], list[str]]:
    _refuse_columns(dataset)
    groups, failures = [], []
    for found in scan([dataset.path]):
        if isinstance(found, Unreadable):
            failures.append(f"{display_path(found.path)}: {found.reason}")
            continue
        path = display_path(found.relative)
        folder = display_path(found.relative.rpartition(b"/")[0].rpartition(b"/")[2])
        entry = Entry(path, _name(dataset, folder, path), species=dataset.species, evidence={"path": path})
        groups.append((found, [entry]))
    return groups, failures


def _from_table(dataset: Dataset, table: Path) -> tuple[list[tuple[Found, list[Entry]]], list[str]]:
    root = Path(os.path.abspath(dataset.path))  # noqa: PTH100 - as `scan` names its roots
    groups: dict[bytes, tuple[Found, list[Entry]]] = {}
    failures: dict[str, str] = {}
    for number, row in _rows(dataset, table):
        if dataset.split is not None and row[dataset.split_column] != dataset.split:
            continue
        entry = _entry(dataset, row, f"{table.name} line {number}")
        found = find_file(root, row[dataset.path_column])
        if isinstance(found, str):
            failures.setdefault(entry.path, found)
        elif entry not in groups.setdefault(found.relative, (found, []))[1]:
            groups[found.relative][1].append(entry)
    return list(groups.values()), [f"{path}: {reason}" for path, reason in failures.items()]


def read_table(table: Path) -> tuple[list[str], list[tuple[int, dict[str, str]]]]:
    """Columns of a CSV table, and its rows with their line numbers, cells stripped.

    Commas, semicolons or tabs stand between cells. CareError when it cannot be read.
    """
    try:
        text = table.read_text("utf-8-sig")
    except OSError as error:
        raise CareError(f"The table {table} cannot be read: {error.strerror or error}.") from error
    except UnicodeDecodeError as error:
        raise CareError(f"The table {table} should be UTF-8 text, but byte {error.start} is not.") from error
    heading = text.partition("\n")[0]
    delimiter = max(DELIMITERS, key=heading.count)
    reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter)
    try:
        present = [name.strip() for name in reader.fieldnames or []]
        reader.fieldnames = present
        rows = [(reader.line_num, row) for row in reader]
    except csv.Error as error:
        raise CareError(f"The table {table} cannot be read as CSV, behind line {reader.line_num}: {error}.") from error
    return present, [
        (number, {key: (value or "").strip() for key, value in row.items() if key}) for number, row in rows
    ]


def _rows(dataset: Dataset, table: Path) -> list[tuple[int, dict[str, str]]]:
    """The table's rows with their line numbers; its columns are checked."""
    present, rows = read_table(table)
    for name in _columns(dataset):
        if name not in present:
            raise CareError(f"{table.name} has no column {name!r}; it has: {', '.join(present) or 'none'}.")
    if dataset.split is not None and dataset.split_column is None:
        raise CareError("--split says which part to import: name its column with --split-column.")
    return rows


def _columns(dataset: Dataset) -> list[str]:
    named = [
        dataset.path_column, dataset.identity_column, dataset.split_column, dataset.date_column,
        dataset.flank_column, dataset.event_column, dataset.species_column,
    ]  # fmt: skip
    return [name for name in named if name is not None] + _box_columns(dataset)


def _box_columns(dataset: Dataset) -> list[str]:
    names = [name.strip() for name in (dataset.box_columns or "").split(",") if name.strip()]
    if len(names) not in (0, 1, 4):
        raise CareError(f"--box-columns takes one column or four (x,y,w,h), but got {dataset.box_columns!r}.")
    return names


def _entry(dataset: Dataset, row: dict[str, str], place: str) -> Entry:
    def cell(column: str | None) -> str | None:
        return (row[column] or None) if column else None

    box_columns = _box_columns(dataset)
    used = [name for name in _columns(dataset) if name not in box_columns]
    return Entry(
        path=display_path(os.fsencode(row[dataset.path_column])),
        name=_name(dataset, row[dataset.identity_column], place),
        box=_box([row[name] for name in box_columns], place),
        flank=flank(cell(dataset.flank_column)),
        species=cell(dataset.species_column) or dataset.species,
        date=_date(cell(dataset.date_column), place),
        event=cell(dataset.event_column),
        evidence={name: row[name] for name in dict.fromkeys(used) if row[name]},
    )


def _name(dataset: Dataset, identity: str, place: str) -> str | None:
    """The name that an identity of the data set has in the catalog; None when nobody knows."""
    if identity.casefold() in NOBODY:
        return None
    try:
        return checked_name(dataset.prefix + identity)
    except CareError as error:
        raise CareError(f"{place}: {error}") from error


def flank(text: str | None) -> str | None:
    """left, right, front, back or unknown as words like 'Left_Body' or 'R' say it; None when they say no one."""
    words = re.findall(r"[a-z]+", (text or "").casefold())
    said = {FLANK_WORDS[word] for word in words if word in FLANK_WORDS}
    return said.pop() if len(said) == 1 else None


def _box(cells: list[str], place: str) -> Box | None:
    """A box of one cell 'x,y,w,h' (brackets allowed) or of four; None when all are empty."""
    if not any(cells):
        return None
    parts = re.split(r"[\s,;]+", cells[0].strip("[]() ")) if len(cells) == 1 else cells
    try:
        x, y, w, h = (float(part) for part in parts)
    except ValueError:
        raise CareError(f"{place}: a box is x, y, width, height in px, but got {', '.join(cells)!r}.") from None
    if not (w > 0 and h > 0 and all(abs(value) < 1e9 for value in (x, y, w, h))):
        raise CareError(f"{place}: a box has a width and height above 0 px, but got {', '.join(cells)!r}.")
    return x, y, w, h


def _date(text: str | None, place: str) -> str | None:
    """The digits of a date as `images.captured_at` has them."""
    if text is None or text.casefold() in NOBODY:
        return None
    try:
        return wall_clock(text)
    except ValueError:
        raise CareError(f"{place}: a date is YYYY-MM-DD or YYYY-MM-DD HH:MM:SS, but got {text!r}.") from None


def wall_clock(text: str) -> str:
    """The digits of a date as `images.captured_at` has them; a day without a time gets its midnight.

    ValueError when it is no date.
    """
    match = re.fullmatch(
        r"(\d{4})[-:/](\d{2})[-:/](\d{2})(?:[ T](\d{2}:\d{2})(:\d{2})?(\.\d{1,9})?)?(?:Z|[+-]\d{2}:?\d{2})?", text
    )
    if not match:
        raise ValueError(text)
    year, month, day, minutes, seconds, fraction = match.groups()
    written = f"{year}-{month}-{day} {minutes or '00:00'}{seconds or ':00'}{fraction or ''}"
    datetime.fromisoformat(written)
    return written


def find_file(root: Path, text: str) -> Found | str:
    """The file that a text names below the root, or why there is none."""
    if not text:
        return "no file is named"
    path = Path(os.path.abspath(root / text))  # noqa: PTH100 - '..' goes, links stay
    if not path.is_file() and "\\" in text:
        path = Path(os.path.abspath(root / text.replace("\\", "/")))  # noqa: PTH100
    if not path.is_relative_to(root):
        return f"it lies outside {root}"
    try:
        status = path.stat()
    except (OSError, ValueError) as error:
        return getattr(error, "strerror", None) or "no such file"
    if not path.is_file():
        return "not a file"
    return Found(root, os.fsencode(path.relative_to(root).as_posix()), status.st_size, status.st_mtime_ns)
