"""A training that is killed or finds no room: given again it ends in the same weights, bit by bit."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

KILLS = 10
LONGEST = 120  # seconds until what is waited for must have come
TRAINER = Path(__file__).with_name("trainer.py")


class Trainer:
    """The process that forks a training for every order."""

    def __init__(self):
        root = str(TRAINER.parent.parent.parent)
        environment = os.environ | {"PYTHONPATH": root, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        self.process = subprocess.Popen([sys.executable, str(TRAINER)], env=environment, **pipes)
        assert self.process.stdout.readline() == "ready\n"

    def train(
        self,
        folder: Path,
        seconds: float | None = None,
        until: Path | None = None,
        largest: int = 1 << 40,
        method: str = "ckpe",
    ) -> int:
        """Its exit code; killed after so many seconds, or when a file is there, or never.

        No file may have more than `largest` bytes.
        """
        self.process.stdin.write(f"{folder} {largest} {method}\n")
        self.process.stdin.flush()
        pid = int(self.process.stdout.readline())
        deadline = time.monotonic() + LONGEST
        while until is not None and not until.exists():
            assert time.monotonic() < deadline, f"{until} did not come"
            time.sleep(0.005)
        if seconds is not None or until is not None:
            time.sleep(seconds or 0.0)
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return int(self.process.stdout.readline())


@pytest.fixture(scope="module")
def trainer() -> Iterator[Trainer]:
    if not hasattr(os, "fork") or sys.platform != "linux":
        pytest.skip("needs Linux, where a process may fork after the heavy imports")
    started = Trainer()
    yield started
    started.process.stdin.close()
    started.process.wait(30)


@pytest.mark.parametrize("method", ["ckpe", "care"])
def test_a_killed_training_ends_in_the_same_weights(trainer: Trainer, tmp_path: Path, method: str) -> None:
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    began = time.monotonic()
    assert trainer.train(whole, method=method) == 0
    lasted = time.monotonic() - began
    chance, killed = random.Random(5), 0
    while killed < KILLS:
        if (broken / "weights").exists():  # it came to its end between two kills: the next ones meet another run
            assert (broken / "weights").read_text() == (whole / "weights").read_text()
            shutil.rmtree(broken)
        killed += trainer.train(broken, chance.uniform(0, 0.4 * lasted), method=method) == -signal.SIGKILL
    assert trainer.train(broken, method=method) == 0
    assert (broken / "weights").read_text() == (whole / "weights").read_text()
    for name in ("last.safetensors", "best.safetensors"):
        ours, theirs = load_file(broken / name), load_file(whole / name)
        assert ours.keys() == theirs.keys() and all(np.array_equal(ours[key], theirs[key]) for key in theirs)


def test_a_full_disk_leaves_the_last_good_checkpoint(trainer: Trainer, tmp_path: Path) -> None:
    last = tmp_path / "last.safetensors"
    assert trainer.train(tmp_path, largest=500_000) == 2  # not even the first one has room
    assert "last.safetensors cannot be written" in (tmp_path / "refusal").read_text() and not last.exists()
    assert trainer.train(tmp_path, until=last) == -signal.SIGKILL
    before = last.read_bytes()
    assert trainer.train(tmp_path, largest=500_000) == 2
    said = (tmp_path / "refusal").read_text()
    assert "the one before it is whole. Make room and give the same command again" in said
    assert last.read_bytes() == before and not list(tmp_path.glob("*.part"))
    assert trainer.train(tmp_path) == 0
