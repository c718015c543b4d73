"""What every command prints with: results to stdout, everything else to stderr."""

from __future__ import annotations

import csv as csv_format
import json
import sys
from collections.abc import Iterable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from care_cli.errors import CareError, NotBegunError

Csv = Annotated[bool, typer.Option("--csv", help="Print CSV.")]
Preset = Annotated[
    str | None, typer.Option(help="toolkit: of a photo's animals only the best stoat, else the best; to compare with.")
]
Engine = Annotated[str, typer.Option(help="What networks run in: auto, torch or openvino.")]
Precision = Annotated[str, typer.Option(help="auto, float32, bfloat16 or float16.")]


@dataclass(frozen=True)
class Options:
    """The options of every command; `ctx.obj`."""

    catalog: Path = Path("care.db")
    device: str = "auto"
    json: bool = False
    quiet: bool = False
    verbose: bool = False


def pairs(option: str, texts: Iterable[str] | None) -> dict[str, str]:
    """What `NAME=VALUE` texts say. CareError for others."""
    found = {}
    for text in texts or ():
        key, equals, value = text.partition("=")
        if not (equals and key and value):
            raise CareError(f"{option} takes NAME=VALUE, but got {text!r}.")
        found[key.strip()] = value.strip()
    return found


def words(text: str | None) -> tuple[str, ...]:
    """What a list with commas names."""
    return tuple(filter(None, (word.strip() for word in (text or "").split(","))))


def message(text: str) -> None:
    """A line for the person at the terminal."""
    print(text, file=sys.stderr)


def notice(ctx: typer.Context):
    """A function that prints a line to stderr unless --quiet."""
    return (lambda text: None) if ctx.obj.quiet else message


def open_catalog(ctx: typer.Context, create: bool = False, examine: bool = False):
    """The catalog that --catalog names, as a context manager; to `examine` it, even one that others changed."""
    from care_cli.catalog import Catalog

    return Catalog(ctx.obj.catalog, create=create, examine=examine, notice=notice(ctx))


def standing_catalog(ctx: typer.Context):
    """The catalog as a context manager, of None where none was begun: a power cut may leave an empty file of one."""
    try:
        return open_catalog(ctx)
    except NotBegunError:
        return nullcontext()


def emit(value: object) -> None:
    """One JSON value on stdout; bytes that are no text stay escaped."""
    json.dump(value, sys.stdout, indent=2, ensure_ascii=True, default=str)
    print()


def table(
    ctx: typer.Context,
    rows: Iterable[dict],
    columns: Sequence[str] | None = None,
    csv: bool = False,
    empty: str = "Nothing found.",
) -> None:
    """Rows as a text table of `columns`; with --json or --csv all fields of each row."""
    rows = list(rows)
    if ctx.obj.json:
        emit(rows)
    elif csv:
        names = list(rows[0]) if rows else list(columns or [])
        writer = csv_format.DictWriter(sys.stdout, names, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    elif not rows:
        message(empty)
    else:
        print("\n".join(text_table(rows, columns or list(rows[0]))))


def text_table(rows: Sequence[dict], columns: Sequence[str]) -> list[str]:
    """Lines of a table with a heading; numbers to the right, nothing shown as '-'."""
    cells = [[text(row.get(column)) for column in columns] for row in rows]
    widths = [max([len(column), *(len(line[i]) for line in cells)]) for i, column in enumerate(columns)]
    numeric = [all(isinstance(row.get(column), int | float | None) for row in rows) for column in columns]
    lines = [[column.replace("_", " ") for column in columns], ["─" * width for width in widths], *cells]
    return [
        "  ".join(
            cell.rjust(width) if right else cell.ljust(width)
            for cell, width, right in zip(line, widths, numeric, strict=True)
        ).rstrip()
        for line in lines
    ]


def text(value: object) -> str:
    """A value as a table shows it."""
    if value is None or value == "":
        return "-"
    if isinstance(value, float):
        return f"{value:.3f}".rstrip("0").rstrip(".")
    said = str(value)
    return said if said.isprintable() else "".join(c if c.isprintable() else repr(c)[1:-1] for c in said)
