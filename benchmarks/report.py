"""One measured row, the file that keeps rows, and the table of BENCHMARKS.md that is made from it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

BEGIN, END = "<!-- measured: begin -->", "<!-- measured: end -->"
COLUMNS = ("what", "precision", "CARE", "peer", "ratio", "target", "note")


@dataclass(frozen=True)
class Row:
    """A figure of CARE's, beside a peer's where there is one; both are None when the row was left out."""

    what: str
    ours: float | None = None
    unit: str = ""  # of both figures
    peer: str = ""  # who is measured beside us
    peers: float | None = None
    more: bool = False  # more is better
    target: float | None = None  # for the ratio where there is a peer, else for our own figure
    precision: str = ""
    note: str = ""  # how it was measured, or why it was left out

    @property
    def ratio(self) -> float | None:
        """How many times better than the peer."""
        if not self.ours or not self.peers:
            return None
        return self.ours / self.peers if self.more else self.peers / self.ours

    @property
    def met(self) -> bool | None:
        """Whether the target is met; None without a target or a figure."""
        if self.target is None or self.ours is None or (self.peer and self.ratio is None):
            return None
        if self.peer:
            return self.ratio >= self.target
        return self.ours >= self.target if self.more else self.ours <= self.target

    def cells(self) -> tuple[str, ...]:
        """The row's cells in the table, in the order of COLUMNS."""
        if self.ours is None:
            return (self.what, self.precision, "left out", "", "", "", self.note)
        peer = f"{figure(self.peers)} ({self.peer})" if self.peer else ""
        ratio = f"{figure(self.ratio)} times" if self.ratio else ""
        return (self.what, self.precision, f"{figure(self.ours)} {self.unit}", peer, ratio, self._goal(), self.note)

    def _goal(self) -> str:
        if self.target is None:
            return ""
        verdict = "met" if self.met else "**missed**"
        if self.peer:
            return f"{figure(self.target)} times: {verdict}"
        return f"{'at least' if self.more else 'at most'} {figure(self.target)}: {verdict}"


@dataclass(frozen=True)
class Measured:
    """A row with the family it belongs to, and where and when it was measured."""

    family: str
    machine: str
    commit: str
    day: str  # UTC, YYYY-MM-DD
    row: Row


def figure(value: float | None) -> str:
    """A number with three significant digits, large ones whole: 0.144, 4.4, 74,149."""
    if value is None:
        return ""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def load(path: Path) -> list[Measured]:
    """The rows of a results file, one JSON object a line; none where there is no file."""
    if not path.exists():
        return []
    known = {one.name for one in fields(Row)}
    found = []
    for line in path.read_text("utf-8").splitlines():
        said = json.loads(line)
        row = Row(**{name: said.pop(name) for name in known & set(said)})
        found.append(Measured(**said, row=row))
    return found


def save(path: Path, rows: Iterable[Measured]) -> None:
    """Write a results file."""
    lines = []
    for one in rows:
        said = {name: value for name, value in asdict(one).items() if name != "row"} | asdict(one.row)
        lines.append(json.dumps(said, ensure_ascii=False))
    path.write_text("".join(line + "\n" for line in lines), encoding="utf-8", newline="\n")


def merge(old: Sequence[Measured], new: Sequence[Measured]) -> list[Measured]:
    """Old and new rows; what a family measured on a machine before makes room for what it measured now."""
    again = {(one.family, one.machine) for one in new}
    return [one for one in old if (one.family, one.machine) not in again] + list(new)


def tables(rows: Sequence[Measured]) -> str:
    """A Markdown table for each machine, families in their order, the commits that were measured above it."""
    parts = []
    for machine in dict.fromkeys(one.machine for one in rows):
        here = [one for one in rows if one.machine == machine]
        commits = sorted({f"{one.commit} ({one.day})" for one in here})
        lines = [f"### {machine}", "", f"Measured at {', '.join(commits)}.", ""]
        lines += [_line(COLUMNS), "|" + "---|" * len(COLUMNS)]
        lines += [_line(one.row.cells()) for one in here]
        parts.append("\n".join(lines))
    return "\n\n".join(parts)


def rewrite(page: Path, rows: Sequence[Measured]) -> None:
    """Put the tables between the two marks of a page; what stands around them stays."""
    head, _, rest = page.read_text("utf-8").partition(BEGIN)
    _, mark, tail = rest.partition(END)
    if not mark:
        raise SystemExit(f"{page.name} needs the lines {BEGIN} and {END}: the tables go between them")
    page.write_text(f"{head}{BEGIN}\n\n{tables(rows)}\n\n{END}{tail}", encoding="utf-8", newline="\n")


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
