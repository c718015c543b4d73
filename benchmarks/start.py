"""How soon a command answers: the help, and `identify` of one photo in a fresh process."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from benchmarks.bench import Bench
from benchmarks.processes import best, python
from benchmarks.report import Row

# `care` with a last word on stderr: whether torch was imported
WATCHED = """
import atexit, runpy, sys
atexit.register(lambda: print("torch imported:", "torch" in sys.modules, file=sys.stderr))
sys.argv[0] = "care"
runpy.run_module("care_cli", run_name="__main__")
"""


def parts(bench: Bench) -> Iterator[Callable[[], Iterable[Row]]]:
    """The measurements of this family."""
    yield lambda: help_speed(bench)
    yield lambda: cold_identify(bench)


def help_speed(bench: Bench) -> Iterator[Row]:
    """The start of the program."""
    done = best(5, python("-c", WATCHED, "--help"), env=bench.env)
    yield Row("`care --help`", done.seconds, "s", target=0.25, note=f"best of 5; {torch_said(done.err)}")


def cold_identify(bench: Bench) -> Iterator[Row]:
    """One photo asked about, models converted and the gallery cached by earlier runs."""
    options = ("--device", "cpu", "--json", "-q", "--catalog", bench.survey)
    command = python("-c", WATCHED, *options, "identify", bench.query)
    best(1, command, env=bench.env)
    done = best(3, command, env=bench.env)
    seconds, size = reading(models_of(bench))
    yield Row(
        "`care identify photo.jpg`, cold process, demo models converted before",
        done.seconds - seconds,
        "s",
        target=1.5,
        precision="float32",
        note=f"best of 3, beyond {seconds:.3f} s for a plain read of the {size / 1e6:.1f} MB of weights; "
        f"{torch_said(done.err)}",
    )


def models_of(bench: Bench) -> list[Path]:
    """The files that hold the weights which `identify` loads: converted ones, else the demo models' own."""
    converted = sorted((bench.work / "models").rglob("*.bin"))
    weights = Path(__file__).resolve().parent.parent / "models" / "weights"
    return converted or sorted(weights.glob("demo-*.safetensors"))


def reading(files: Iterable[Path]) -> tuple[float, int]:
    """Seconds that a plain read of files takes, and their bytes."""
    started = time.perf_counter()
    size = sum(len(path.read_bytes()) for path in files)
    return time.perf_counter() - started, size


def torch_said(text: str) -> str:
    """Whether torch was imported, as the watched process said."""
    return "no torch import" if "torch imported: False" in text else "**torch was imported**"
