"""Commands run as a user runs them: each a process of its own, timed from outside, its peak memory noted."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path


class LeftOut(Exception):
    """A row cannot be measured here; the message says why."""


@dataclass(frozen=True)
class Done:
    """A process that ended as it should."""

    seconds: float  # start-up included
    peak_mb: float | None  # largest resident memory, MiB; None where the system does not tell
    out: str
    err: str
    cpu: float | None = None  # seconds of processor; None where the system does not tell

    @property
    def json(self) -> dict:
        """What a `--json` command answered."""
        return json.loads(self.out)


# A process of its own starts the command and measures it: Linux counts to a child's peak what its parent held when it
# was forked, and this one holds next to nothing.
MEASURE = """
import json, os, subprocess, sys, time
started = time.perf_counter()
process = subprocess.Popen(sys.argv[2:])
peak = cpu = None
if hasattr(os, "wait4"):
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    peak = usage.ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)
    cpu = usage.ru_utime + usage.ru_stime
else:
    process.wait()
seconds = time.perf_counter() - started
with open(sys.argv[1], "w") as report:
    json.dump({"code": process.returncode, "seconds": seconds, "peak": peak, "cpu": cpu}, report)
"""


def finish(command: list[str], accept: tuple[int, ...] = (0,), env: Mapping[str, str] | None = None) -> Done:
    """Run a command to its end. LeftOut, with its last words, when its exit code is not accepted."""
    with tempfile.TemporaryDirectory() as folder:
        report, out, err = (Path(folder) / name for name in ("report", "out", "err"))
        with out.open("wb") as said, err.open("wb") as complained:
            measured = [sys.executable, "-I", "-S", "-c", MEASURE, str(report), *command]
            subprocess.run(measured, stdout=said, stderr=complained, env=os.environ | dict(env or {}), check=True)
        told = json.loads(report.read_text("utf-8"))
        words, complaint = out.read_text("utf-8", "replace"), err.read_text("utf-8", "replace")
    if told["code"] not in accept:
        last = " ".join((complaint or words).strip().splitlines()[-3:])[-400:]
        raise LeftOut(f"`{Path(command[0]).stem} {' '.join(command[1:4])} ...` ended with {told['code']}: {last}")
    return Done(told["seconds"], told["peak"], words, complaint, told["cpu"])


def python(*arguments: object) -> list[str]:
    """This interpreter with arguments."""
    return [sys.executable, *map(str, arguments)]


def best(times: int, command: list[str], **options) -> Done:
    """The fastest of several runs of a command."""
    return min((finish(command, **options) for _ in range(times)), key=lambda done: done.seconds)
