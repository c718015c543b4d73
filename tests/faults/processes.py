"""Starting, watching and killing `care`, and what a catalog then holds."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

LONGEST = 120  # seconds until anything that is waited for must have come
POLL = 0.01  # seconds
WORKER = Path(__file__).with_name("worker.py")
PHOTOS = 16  # on the small card
INDEX = ("-q", "index", "--model", "demo-embedder", "--batch", 2)


def detect(card: Path, batch: int = 2) -> tuple[object, ...]:
    """The arguments of `care` to find the animals on a card."""
    return "-q", "detect", card, "--model", "demo-detector", "--batch", batch


class Care:
    """Starts `care` in processes; `shim` is the compiled fault.c, or None."""

    def __init__(self, folder: Path, shim: Path | None):
        self.folder, self.shim, self.started, self.server = folder, shim, 0, None
        if sys.platform == "linux":  # elsewhere forking after the heavy imports is not safe
            self.server = subprocess.Popen([sys.executable, str(WORKER)], env=self.environment(), stdin=subprocess.PIPE)

    def environment(self) -> dict[str, str]:
        """Of every process that is started."""
        root = str(WORKER.parent.parent.parent)
        paths = os.pathsep.join([root, os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
        shim = {"LD_PRELOAD": str(self.shim)} if self.shim else {}
        return os.environ | {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"} | shim

    def start(self, catalog: Path, *arguments: object, **how: object) -> Process:
        """`care` on a catalog; `how` is the rest of the order, see worker.py."""
        self.started += 1
        note = self.folder / str(self.started)
        order = {
            "arguments": ["--catalog", str(catalog), "--device", "cpu", *map(str, arguments)],
            "note": str(note),
            "stdout": f"{note}.stdout",
            "stderr": f"{note}.stderr",
            **how,
        }
        if self.server:
            self.server.stdin.write(json.dumps(order).encode() + b"\n")
            self.server.stdin.flush()
            return Process(order)
        popen = subprocess.Popen([sys.executable, str(WORKER), json.dumps(order)], env=self.environment())
        return Process(order, popen)

    def run(self, catalog: Path, *arguments: object, **how: object) -> Process:
        """`care` to its end."""
        process = self.start(catalog, *arguments, **how)
        process.wait()
        return process

    def stop(self) -> None:
        """End the server."""
        if self.server:
            self.server.stdin.close()
            self.server.wait(LONGEST)


class Process:
    """One `care`; `code` is its exit code once it has ended, negative for a signal."""

    def __init__(self, order: dict, popen: subprocess.Popen | None = None):
        self.note, self.order, self.popen = Path(order["note"]), order, popen
        self.pid = popen.pid if popen else until(lambda: self.told("pid"))

    def told(self, what: str) -> int | None:
        """A number that the process, or its keeper, wrote."""
        with contextlib.suppress(FileNotFoundError):
            return int(self.note.with_name(f"{self.note.name}.{what}").read_text(encoding="ascii"))
        return None

    @property
    def code(self) -> int | None:
        return self.popen.poll() if self.popen else self.told("status")

    def wait(self) -> int:
        """Its exit code; a process that does not end is killed, and that is an error."""
        try:
            return until(lambda: self.code)
        except AssertionError:
            self.send(signal.SIGKILL)
            raise

    def send(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, number)

    def kill(self) -> bool:
        """SIGKILL; False when it had ended before."""
        self.send(signal.SIGKILL)
        return self.wait() == -signal.SIGKILL

    def stop_comes(self) -> None:
        """Wait until it has been stopped; an error when it ends instead."""
        state = Path(f"/proc/{self.pid}/stat")
        until(lambda: self.code is not None or state.read_text().rpartition(")")[2].split()[0] == "T")
        assert self.code is None, f"it ended with {self.code}: {self.messages}"

    @property
    def output(self) -> str:
        return Path(self.order["stdout"]).read_text(encoding="utf-8")

    @property
    def messages(self) -> str:
        return Path(self.order["stderr"]).read_text(encoding="utf-8")


def until(true: Callable[[], object]):
    """Wait for something to be neither None nor False; what it is then."""
    deadline = time.monotonic() + LONGEST
    while (found := true()) is None or found is False:
        assert time.monotonic() < deadline, "what was waited for did not come"
        time.sleep(POLL)
    return found


def value(catalog: Path, sql: str) -> int:
    """What another process sees, 0 while there is no such table yet."""
    try:
        with contextlib.closing(sqlite3.connect(f"{catalog.as_uri()}?mode=ro", uri=True)) as reader:
            return reader.execute(sql).fetchone()[0]
    except sqlite3.OperationalError:
        return 0


def committed(catalog: Path, table: str = "run_images") -> int:
    """Rows that another process sees."""
    return value(catalog, f"SELECT count(*) FROM {table}")


def come_to(process: Process, catalog: Path, rows: int, table: str = "run_images") -> None:
    """Wait until `rows` are committed or the process has ended."""
    until(lambda: committed(catalog, table) >= rows or process.code is not None)


TEXTS, BOX, CUT = 5, 5, 6  # columns of a crop: words, box and confidence, rectangle and size
CROP = (
    "images.sha256, category, label, species, flank, crops.x, crops.y, w, h, crops.confidence, "
    "rect_x, rect_y, rect_w, rect_h, crop_width, crop_height"
)
QUERIES = {
    "images": "SELECT sha256, state, failure, width, height, captured_at, serial, lighting, name, "
    "(SELECT sha256 FROM images AS first WHERE first.id = images.burst_id), "
    "(SELECT sha256 FROM images AS first WHERE first.id = images.event_id) "
    "FROM images LEFT JOIN deployments ON deployments.id = deployment_id",
    "files": "SELECT path, sha256, image_files.bytes, image_files.failure, gone_at IS NULL "
    "FROM image_files LEFT JOIN images ON images.id = image_id",
    "done": "SELECT command, sha256 FROM run_images JOIN runs ON runs.id = run_id JOIN images ON images.id = image_id",
    "crops": f"SELECT {CROP} FROM crops JOIN images ON images.id = image_id",
    "pixels": f"SELECT {CROP}, hex(jpeg) FROM crops JOIN images ON images.id = image_id "
    "JOIN crop_pixels ON crop_id = crops.id",
    "embeddings": f"SELECT {CROP}, vector FROM crops JOIN images ON images.id = image_id "
    "JOIN embeddings ON crop_id = crops.id",
    "keypoints": f"SELECT {CROP}, keypoints.name, keypoints.x, keypoints.y, visible, template_id "
    "FROM crops JOIN images ON images.id = image_id JOIN keypoints ON crop_id = crops.id",
    "runs": "SELECT command, identity, finished_at IS NULL FROM runs",
    "decisions": "SELECT source, action, sha256, round(crops.x, 3), decisions.value, evidence FROM decisions "
    "LEFT JOIN crops ON crops.id = crop_id LEFT JOIN images ON images.id = image_id",
    "names": "SELECT individuals.name, sha256, round(crops.x, 3) FROM crop_identity "
    "JOIN individuals ON individuals.id = individual_id JOIN crops ON crops.id = crop_id "
    "JOIN images ON images.id = image_id",
    "individuals": "SELECT name, status FROM individuals",
}


def rows_of(catalog: Path) -> dict[str, list]:
    """What a survey knows, without ids and times, from a file that must be whole."""
    with contextlib.closing(sqlite3.connect(catalog)) as reader:
        assert reader.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        assert reader.execute("PRAGMA foreign_key_check").fetchall() == []
        return {name: sorted(reader.execute(sql).fetchall(), key=repr) for name, sql in QUERIES.items()}


def assert_same(disturbed: Path, undisturbed: Path) -> None:
    """The same rows; boxes and vectors differ by no more than the company in their batches makes of them."""
    ours, expected = rows_of(disturbed), rows_of(undisturbed)
    for name in expected:
        if name in ("crops", "pixels", "embeddings"):
            assert_same_crops(ours[name], expected[name])
        else:
            assert ours[name] == expected[name], name


def assert_same_crops(ours: list[tuple], expected: list[tuple]) -> None:
    """Rows that begin as CROP does, and end with pixels, a vector or nothing more."""
    ours, expected = (sorted(rows, key=lambda row: (repr(row[:TEXTS]), row[TEXTS])) for rows in (ours, expected))
    assert [row[:TEXTS] for row in ours] == [row[:TEXTS] for row in expected]
    for one, other in zip(ours, expected, strict=True):
        cut = slice(TEXTS + BOX, TEXTS + BOX + CUT)
        np.testing.assert_allclose(one[TEXTS : TEXTS + BOX], other[TEXTS : TEXTS + BOX], atol=0.01)
        np.testing.assert_allclose(np.array(one[cut], float), np.array(other[cut], float), atol=2)
        if one[cut] == other[cut] and isinstance(one[-1], str):
            assert one[cut.stop :] == other[cut.stop :]
        elif one[cut] == other[cut] and isinstance(one[-1], bytes):
            np.testing.assert_allclose(np.frombuffer(one[-1], "<f4"), np.frombuffer(other[-1], "<f4"), atol=1e-3)
