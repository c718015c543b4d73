"""SIGKILL at any moment: the same command again ends with the rows of an undisturbed run."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

KILLS = 10  # for each command
LONGEST = 120  # seconds until a moment to kill must have come

pytestmark = pytest.mark.skipif(os.name == "nt", reason="SIGKILL is a POSIX signal")


def care(catalog: Path, *arguments: object) -> list[str]:
    return [sys.executable, "-m", "care_cli", "--catalog", str(catalog), "--device", "cpu", "-q", *map(str, arguments)]


def start(catalog: Path, *arguments: object) -> subprocess.Popen:
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen(care(catalog, *arguments), env=environment, stdout=subprocess.DEVNULL)


def committed(catalog: Path, table: str) -> int:
    """Rows that another process sees, 0 while there is no table yet."""
    try:
        with contextlib.closing(sqlite3.connect(f"{catalog.as_uri()}?mode=ro", uri=True)) as reader:
            return reader.execute(f"SELECT count(*) FROM {table}").fetchone()[0]
    except sqlite3.OperationalError:
        return 0


def kill_at(catalog: Path, table: str, rows: int, *arguments: object) -> bool:
    """Run the command and SIGKILL it once `rows` are committed; False when it was faster."""
    process = start(catalog, *arguments)
    deadline = time.monotonic() + LONGEST
    while committed(catalog, table) < rows and process.poll() is None:
        assert time.monotonic() < deadline, "the command did not come so far"
        time.sleep(0.01)
    alive = process.poll() is None
    process.send_signal(signal.SIGKILL)
    process.wait()
    return alive and process.returncode == -signal.SIGKILL


def rows_of(catalog: Path) -> dict[str, list]:
    """What a survey knows, without ids and times: images, files, crops with pixels, embeddings."""
    crop = (
        "images.sha256, category, label, species, round(crops.x, 3), round(crops.y, 3), round(w, 3), round(h, 3), "
        "round(confidence, 4), rect_x, rect_y, rect_w, rect_h, crop_width, crop_height"
    )
    queries = {
        "images": "SELECT sha256, state, width, height, captured_at, serial, lighting, name, "
        "(SELECT sha256 FROM images AS first WHERE first.id = images.burst_id), "
        "(SELECT sha256 FROM images AS first WHERE first.id = images.event_id) "
        "FROM images LEFT JOIN deployments ON deployments.id = deployment_id",
        "files": "SELECT path, sha256, image_files.bytes FROM image_files JOIN images ON images.id = image_id",
        "done": "SELECT sha256 FROM run_images JOIN images ON images.id = image_id",
        "crops": f"SELECT {crop} FROM crops JOIN images ON images.id = image_id",
        "pixels": f"SELECT {crop}, hex(jpeg) FROM crops JOIN images ON images.id = image_id "
        "JOIN crop_pixels ON crop_id = crops.id",
        "embeddings": f"SELECT {crop}, vector FROM crops JOIN images ON images.id = image_id "
        "JOIN embeddings ON crop_id = crops.id",
        "runs": "SELECT command, identity FROM runs",
    }
    with contextlib.closing(sqlite3.connect(catalog)) as reader:
        assert reader.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        assert reader.execute("PRAGMA foreign_key_check").fetchall() == []
        return {name: sorted(reader.execute(sql).fetchall(), key=repr) for name, sql in queries.items()}


def assert_same(disturbed: Path, undisturbed: Path) -> None:
    ours, expected = rows_of(disturbed), rows_of(undisturbed)
    for name in expected:
        if name != "embeddings":
            assert ours[name] == expected[name], name
    vectors = [[np.frombuffer(row[-1], "<f4") for row in rows["embeddings"]] for rows in (ours, expected)]
    assert [row[:-1] for row in ours["embeddings"]] == [row[:-1] for row in expected["embeddings"]]
    if vectors[1]:
        np.testing.assert_allclose(np.stack(vectors[0]), np.stack(vectors[1]), atol=1e-4)


def moments(total: int) -> list[int]:
    """Row counts spread evenly between the first and the last commit."""
    return [round(1 + (total - 2) * i / (KILLS - 1)) for i in range(KILLS)]


@pytest.fixture(scope="module")
def survey(tmp_path_factory: pytest.TempPathFactory, root: Path) -> Path:
    """A catalog of the sample card that nobody disturbed, detected and indexed."""
    catalog = tmp_path_factory.mktemp("undisturbed") / "care.db"
    assert start(catalog, *detect(root)).wait() in (0, 1)
    shutil.copy(catalog, catalog.with_name("detected.db"))
    assert start(catalog, *INDEX).wait() == 0
    return catalog


def detect(root: Path) -> tuple[object, ...]:
    return "detect", root / "sample_data" / "card", "--model", "demo-detector", "--batch", 2


INDEX = ("index", "--model", "demo-embedder", "--batch", 2)


@pytest.mark.parametrize("command", ["detect", "index"])
def test_killed_ten_times_and_run_again(survey: Path, root: Path, tmp_path: Path, command: str) -> None:
    catalog = tmp_path / "care.db"
    undisturbed = survey.with_name("detected.db") if command == "detect" else survey
    table = "run_images" if command == "detect" else "embeddings"
    arguments = detect(root) if command == "detect" else INDEX
    if command == "index":
        shutil.copy(survey.with_name("detected.db"), catalog)
    killed = sum(kill_at(catalog, table, rows, *arguments) for rows in moments(committed(undisturbed, table)))
    assert killed >= KILLS - 1  # the last moment may be over before the signal comes
    assert start(catalog, *arguments).wait() in (0, 1)
    assert_same(catalog, undisturbed)
    before = rows_of(catalog)
    assert start(catalog, *arguments).wait() in (0, 1)  # and once more: nothing to do
    assert rows_of(catalog) == before
