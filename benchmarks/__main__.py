"""`make bench`: every row measured in one run on one machine, ours beside the peer, printed as a ratio.

    python -m benchmarks [FAMILY ...] [--weights FILE.pt] [--photos FOLDER] [--count N] [--vectors N] [--million]
                          [--size PX]

Families: start, rescan, detect, propagate, index, train, align, search, all_pairs, growth, labels. A row whose
peer or hardware is absent is left out, and said so. With --store the rows are kept in results.jsonl and the tables
of BENCHMARKS.md made anew.
"""

from __future__ import annotations

import argparse
import datetime
import importlib
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from benchmarks import report
from benchmarks.bench import Bench
from benchmarks.machine import commit, machine
from benchmarks.processes import LeftOut
from benchmarks.report import Measured, Row

FAMILIES = ("start", "rescan", "detect", "propagate", "index", "train", "align", "search", "all_pairs", "growth",
            "labels")  # fmt: skip
HERE = Path(__file__).resolve().parent


def main() -> None:
    """Print every row with both figures, the machine and the commit."""
    given = arguments()
    print(f"{machine()}; commit {commit()}\n", flush=True)
    with tempfile.TemporaryDirectory(prefix="care-bench-") as work:
        bench = Bench(Path(work), given.weights, given.photos, given.count, given.vectors, given.million, given.size)
        os.environ.update(bench.env)  # for what is measured in this process
        rows = list(measure(bench, given.family or FAMILIES))
    if given.store:
        results = HERE / "results.jsonl"
        kept = report.merge(report.load(results), rows)
        kept.sort(key=lambda one: FAMILIES.index(one.family))
        report.save(results, kept)
        report.rewrite(HERE.parent / "BENCHMARKS.md", kept)


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__.splitlines()[0])
    parser.add_argument("family", nargs="*", type=_family, help="what to measure; default: all")
    parser.add_argument("--weights", type=_file, help="a YOLO .pt file; default: the demo detector as one")
    parser.add_argument("--photos", type=_folder, help="a folder of photos to measure beside the rendered ones")
    parser.add_argument("--count", type=int, default=48, help="photos rendered at 12 megapixels; 0: none")
    parser.add_argument("--vectors", type=int, default=1_000_000, help="in the gallery that is searched")
    parser.add_argument("--million", action="store_true", help="catalogs of a million rows and more")
    parser.add_argument("--size", type=int, default=768, help="px that propagation squashes crops to")
    parser.add_argument("--store", action="store_true", help="keep the rows and rewrite BENCHMARKS.md")
    return parser.parse_args()


def measure(bench: Bench, families: tuple[str, ...]) -> Iterator[Measured]:
    """The rows of the families, each printed when it is there."""
    day = datetime.datetime.now(datetime.UTC).date().isoformat()
    for family in families:
        for part in importlib.import_module(f"benchmarks.{family}").parts(bench):
            for row in until_left_out(family, part):
                print(line(row), flush=True)
                yield Measured(family, machine(), commit(), day, row)


def until_left_out(family: str, part: Callable[[], Iterable[Row]]) -> Iterator[Row]:
    """The rows of one measurement; where it cannot go on, a last one says why."""
    try:
        yield from part()
    except LeftOut as reason:
        yield Row(family, note=str(reason))


def line(row: Row) -> str:
    """A row as it is printed."""
    what, precision, ours, peer, ratio, target, note = row.cells()
    figures = ", ".join(part for part in (precision, ours, f"against {peer}" if peer else "", ratio) if part)
    return f"{what}: {figures}" + (f" (target {target})" if target else "") + (f"\n    {note}" if note else "")


def _family(text: str) -> str:
    if text not in FAMILIES:
        raise argparse.ArgumentTypeError(f"{text} is none of {', '.join(FAMILIES)}")
    return text


def _file(text: str) -> Path:
    if not Path(text).is_file():
        raise argparse.ArgumentTypeError(f"there is no file {text}")
    return Path(text).resolve()


def _folder(text: str) -> Path:
    if not Path(text).is_dir():
        raise argparse.ArgumentTypeError(f"there is no folder {text}")
    return Path(text).resolve()


if __name__ == "__main__":
    main()
