"""Commands run as a user runs them: each a process of its own, timed from outside, its peak memory noted."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
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

    @property
    def json(self) -> dict:
        """What a `--json` command answered."""
        return json.loads(self.out)


def finish(command: list[str], accept: tuple[int, ...] = (0,), env: Mapping[str, str] | None = None) -> Done:
    """Run a command to its end. LeftOut, with its last words, when its exit code is not accepted."""
    with tempfile.TemporaryFile("w+", encoding="utf-8") as out, tempfile.TemporaryFile("w+", encoding="utf-8") as err:
        started = time.perf_counter()
        process = subprocess.Popen(command, stdout=out, stderr=err, env=os.environ | dict(env or {}))
        peak = _wait(process)
        seconds = time.perf_counter() - started
        out.seek(0)
        err.seek(0)
        said, complaint = out.read(), err.read()
    if process.returncode not in accept:
        last = " ".join((complaint or said).strip().splitlines()[-3:])[-400:]
        raise LeftOut(f"`{Path(command[0]).stem} {' '.join(command[1:4])} ...` ended with {process.returncode}: {last}")
    return Done(seconds, peak, said, complaint)


def _wait(process: subprocess.Popen) -> float | None:
    """Wait for a process; its largest resident memory in MiB."""
    if not hasattr(os, "wait4"):
        process.wait()
        return None
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    return usage.ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)


def python(*arguments: object) -> list[str]:
    """This interpreter with arguments."""
    return [sys.executable, *map(str, arguments)]


def best(times: int, command: list[str], **options) -> Done:
    """The fastest of several runs of a command."""
    return min((finish(command, **options) for _ in range(times)), key=lambda done: done.seconds)
