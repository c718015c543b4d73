"""What a command costs as the catalog grows: microseconds a row, to be flat."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from benchmarks.bench import Bench
from benchmarks.grown import grow
from benchmarks.report import Row, figure
from benchmarks.rescan import known_card

SIZES = (1_000, 10_000, 100_000, 1_000_000)  # photos in the catalog, each with one named and indexed animal
FILES = 5_000  # on the card that is scanned again, whatever the size of the catalog
FREE = 1.0  # microseconds a row that count as none
FLAT = 1.5  # times as much a row as in the catalog a tenth as large


def parts(bench: Bench) -> Iterator[Callable[[], Iterable[Row]]]:
    """The measurements of this family."""
    yield lambda: growth(bench, SIZES if bench.million else SIZES[:3])


def growth(bench: Bench, sizes: tuple[int, ...]) -> Iterator[Row]:
    """The operations on the same catalog, before it grows and at each size."""
    catalog, card = known_card(bench, FILES)
    operations = operations_on(bench, catalog, card)
    seconds = {name: [measure()] for name, measure in operations.items()}
    before = 0
    for size in sizes:
        grow(catalog, before, size)
        before = size
        for name, measure in operations.items():
            seconds[name].append(measure())
    for name, taken in seconds.items():
        yield row(name, sizes, taken)
    catalog.unlink()


def operations_on(bench: Bench, catalog: Path, card: Path) -> dict[str, Callable[[], float]]:
    """Seconds that each operation takes, by name: the best of two processes, start-up included."""

    def care(*arguments: object) -> Callable[[], float]:
        return lambda: bench.care(catalog, *arguments, times=2).seconds

    def rescan() -> float:
        command = ("detect", card, "--model", "demo-detector")
        return min(bench.care(catalog, *command).json["seconds"] for _ in range(2))

    return {
        f"rescan of {FILES:,} files, after start-up": rescan,
        "photos of one deployment": care("images", "--deployment", "RIDGE000"),
        "crops of one animal": care("crops", "--individual", "Bramble"),
        "crops, all": care("crops", "--csv"),
        "identify, open and query": care("identify", bench.query, "--whole"),
    }


def row(name: str, sizes: tuple[int, ...], seconds: list[float]) -> Row:
    """Microseconds that each row more costs in the largest catalog; `seconds` has the small one first.

    Flat is at most half as much again as in the catalog a tenth as large, or next to nothing.
    """
    cost = [(taken - seconds[0]) / size * 1e6 for size, taken in zip(sizes, seconds[1:], strict=True)]
    taken = ", ".join(f"{figure(s)} s at {n:,}" for n, s in zip((0, *sizes), seconds, strict=True))
    return Row(
        f"growth of `{name}` to {sizes[-1]:,} photos",
        max(cost[-1], 0.0),
        "microseconds a row",
        target=max(FREE, FLAT * cost[-2]),
        note=f"{taken}; {figure(max(cost[-2], 0.0))} a row at {sizes[-2]:,}",
    )
