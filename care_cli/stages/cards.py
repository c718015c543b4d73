"""What the cards of models that were trained here are written with."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

WIDTH = 116  # characters of a line


def number(value: float | None) -> str:
    """A figure as it is read; a dash for none."""
    return "-" if value is None else f"{value:.3f}"


def table(rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> str:
    """Markdown of rows by column name; `_` in a name is read as `-`."""
    cells = [[_cell(row[column]) for column in columns] for row in rows]
    heading = [column.replace("_", "-") for column in columns]
    return "\n".join(f"| {' | '.join(line)} |" for line in (heading, ["---"] * len(columns), *cells))


def _cell(value: Any) -> str:
    return number(value) if value is None or isinstance(value, float) else str(value).replace("|", "\\|")


def wrapped(text: str) -> str:
    """A paragraph in lines of at most WIDTH characters."""
    return textwrap.fill(text, WIDTH, break_long_words=False, break_on_hyphens=False)
