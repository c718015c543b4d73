"""SIGKILL at any moment of any writing command: the same command again, and nothing is lost or there twice.

24 kills in the usual suite; ten times as many, at moments ten times as close, in the slow one.
"""

from __future__ import annotations

import hashlib
import os
import random
import shutil
import sqlite3
import threading
import time
from contextlib import closing
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import catalogs
import numpy as np
import pytest
import textures
from PIL import Image
from processes import INDEX, Care, assert_same, come_to, committed, detect, rows_of, until

from care_cli.catalog import Catalog
from care_cli.records import NamedPoint

TIMES = [1, pytest.param(10, marks=pytest.mark.slow)]
LONGEST_DELAY = 0.1  # seconds from a commit to the kill, more than a batch takes


def moments(kills: int, total: int) -> list[int]:
    """Numbers spread evenly between the first and the last of `total`."""
    return [round(1 + (total - 2) * i / max(kills - 1, 1)) for i in range(kills)]


def kill_and_repeat(care: Care, catalog: Path, table: str, total: int, kills: int, *arguments: object) -> None:
    """Kill the command again and again while `table` grows to `total` rows, then let it end, then have it again."""
    chance = random.Random(total)
    killed = 0
    for rows in moments(kills, total):
        process = care.start(catalog, *arguments)
        come_to(process, catalog, rows, table)
        time.sleep(chance.uniform(0, LONGEST_DELAY))
        killed += process.kill()
    assert killed >= kills - max(1, kills // 10)  # the last moments may be over before the signal comes
    assert care.run(catalog, *arguments).code in (0, 1)
    once = rows_of(catalog)
    assert care.run(catalog, *arguments).code in (0, 1)  # nothing is left to do
    assert rows_of(catalog) == once


# -- commands of many transactions


@pytest.mark.parametrize("times", TIMES)
def test_detect(care: Care, root: Path, tmp_path: Path, surveyed: Path, times: int) -> None:
    card, undisturbed = detected(care, root, surveyed, tmp_path, times)
    catalog = tmp_path / "care.db"
    kill_and_repeat(care, catalog, "run_images", committed(undisturbed), 7 * times, *detect(card, 1))
    assert_same(catalog, undisturbed)


def detected(care: Care, root: Path, surveyed: Path, folder: Path, times: int) -> tuple[Path, Path]:
    """A card and its undisturbed catalog: the small one in the usual suite, all sample photos for more kills."""
    if times == 1:
        return surveyed.with_name("FERN001"), surveyed
    card, catalog = root / "sample_data" / "card", folder / "undisturbed.db"
    assert care.run(catalog, *detect(card)).code == 0
    return card, catalog


@pytest.mark.parametrize("times", TIMES)
def test_index(care: Care, root: Path, tmp_path: Path, surveyed: Path, times: int) -> None:
    _, survey = detected(care, root, surveyed, tmp_path, times)
    undisturbed, catalog = (Path(shutil.copy(survey, tmp_path / name)) for name in ("indexed.db", "care.db"))
    assert care.run(undisturbed, *INDEX).code == 0
    total = committed(undisturbed, "embeddings")
    kill_and_repeat(care, catalog, "embeddings", total, 4 * times, *INDEX[:-1], 1)
    assert_same(catalog, undisturbed)


@pytest.mark.parametrize("times", TIMES)
def test_propagate_keypoints(care: Care, tmp_path: Path, times: int) -> None:
    spec, undisturbed, catalog = textures.extractor(tmp_path), tmp_path / "undisturbed.db", tmp_path / "care.db"
    with catalogs.new(undisturbed) as opened:
        truth = textures.survey(opened, 40)
        opened.add_template("lynx", 1, textures.named(truth[1]), "expert")
    shutil.copy(undisturbed, catalog)
    command = "-q", "propagate-keypoints", "--extractor", spec.name, "--weights", spec.file, "--batch", 1
    assert care.run(undisturbed, *command).code == 0
    total = committed(undisturbed, "keypoints")
    assert total == 40 * len(textures.POINTS)
    kill_and_repeat(care, catalog, "keypoints", total, 4 * times, *command)
    assert_same(catalog, undisturbed)


@pytest.mark.slow
def test_the_lions_points_survive_two_kills(care: Care, tmp_path: Path, shared: Path) -> None:
    folder, weights = shared / "data/reid/lion_data", shared / "weights/timm_mobilenetv2_100_fp16.safetensors"
    undisturbed, catalog = tmp_path / "undisturbed.db", tmp_path / "care.db"
    table = "--csv", folder / "metadata.csv", "--species", "Lion"
    assert care.run(undisturbed, "-q", "import", "dataset", folder, *table).code in (0, 1)
    with Catalog(undisturbed) as opened:
        [frame] = opened.crop_frame([1]).values()
        x, y, w, h = frame.rect
        corners = [NamedPoint(f"p{i}{j}", x + w * (1 + i) / 4, y + h * (1 + j) / 4) for i in range(3) for j in range(3)]
        opened.add_template("lion", 1, corners, "expert")
    shutil.copy(undisturbed, catalog)
    command = "-q", "propagate-keypoints", "--extractor", "timm:mobilenetv2_100", "--weights", weights
    whole = care.run(undisturbed, *command)
    assert whole.code in (0, 1), whole.messages  # some lions may be too small
    kill_and_repeat(care, catalog, "keypoints", committed(undisturbed, "keypoints") * 2 // 3, 2, *command)
    ours, expected = rows_of(catalog)["keypoints"], rows_of(undisturbed)["keypoints"]
    assert len(ours) == len(expected) == len(set(expected)) > 6000
    same = [one[-4:] == other[-4:] for one, other in zip(ours, expected, strict=True)]
    assert np.mean(same) > 0.999  # a point may fall into another cell in other company


@pytest.mark.parametrize("times", TIMES)
def test_import(care: Care, tmp_path: Path, times: int) -> None:
    folder = tmp_path / "lions"
    total = 320 * times
    for number in range(total):
        (folder / f"lion {number % 9}").mkdir(parents=True, exist_ok=True)
        grain = np.random.default_rng(number).integers(0, 255, (12, 16, 3), np.uint8)
        Image.fromarray(grain).save(folder / f"lion {number % 9}" / f"{number}.png")
    undisturbed, catalog = tmp_path / "undisturbed.db", tmp_path / "care.db"
    command = "-q", "import", "dataset", folder
    assert care.run(undisturbed, *command).code == 0
    kill_and_repeat(care, catalog, "run_images", total, 3 * times, *command)
    assert_same(catalog, undisturbed)


# -- commands of one transaction: done or not begun, and killed before any statement of theirs


def sayings(folder: Path, crops: list[int]) -> list[tuple[object, ...]]:
    """Commands that name twenty crops in all ways, each right after the one before it."""
    table = folder / "names.csv"
    table.write_text("crop,individual\n" + "".join(f"{crop},Bea\n" for crop in crops[8:16]), encoding="utf-8")
    return [
        ("individuals", "name", *crops[:8], "--as", "Ayo"),
        ("individuals", "name", "--from", table),
        ("individuals", "name", *crops[16:], "--as", "Cai"),
        ("individuals", "rename", "Cai", "Dov"),
        ("individuals", "merge", "Dov", "--into", "Ayo"),
        ("individuals", "split", "Bea", "--crops", ",".join(map(str, crops[8:11])), "--as", "Eli"),
        ("individuals", "undo", "21"),
        ("crops", "set", crops[0], "--category", "person"),
        ("individuals", "unname", crops[1]),
    ]


def decisions(catalog: Path) -> list[tuple]:
    """The log without times."""
    with closing(sqlite3.connect(catalog)) as reader:
        sql = "SELECT action, crop_id, individual_id, other_id, value, crops, undoes FROM decisions ORDER BY id"
        return reader.execute(sql).fetchall()


def test_sayings_are_all_or_nothing(care: Care, tmp_path: Path) -> None:
    """Each is killed once in the usual suite, in the midst of what it does."""
    all_or_nothing(care, tmp_path, lambda total, chance: [chance.randrange(total // 3, total)], only={0, 4, 6})


@pytest.mark.slow
def test_all_sayings_are_all_or_nothing(care: Care, tmp_path: Path) -> None:
    killed = all_or_nothing(care, tmp_path, lambda total, _: sorted({*moments(8, total + 1)}), only=set(range(9)))
    assert killed >= 40


def all_or_nothing(care: Care, folder: Path, choose, only: set[int]) -> int:
    """Kill each saying before the statements that `choose` picks of all; then let it be said, and go on."""
    catalog = folder / "care.db"
    with catalogs.new(catalog) as opened:
        sequence = sayings(folder, catalogs.survey(opened, 20))
    chance, killed = random.Random(3), 0
    for number, command in enumerate(sequence[: max(only) + 1]):
        whole = Path(shutil.copy(catalog, folder / "whole.db"))
        counted = care.run(whole, *command, die_at_statement=0)
        assert counted.code == 0, counted.messages
        before, after = rows_of(catalog) | {"log": decisions(catalog)}, rows_of(whole) | {"log": decisions(whole)}
        assert before != after
        statements = until(lambda counted=counted: counted.told("statements"))
        for statement in choose(statements, chance) if number in only else []:
            broken = Path(shutil.copy(catalog, folder / "broken.db"))
            assert care.run(broken, *command, die_at_statement=statement).code == -9
            killed += 1
            found = rows_of(broken) | {"log": decisions(broken)}
            assert found in (before, after), f"{command} killed before statement {statement}"
            if found == before:
                assert care.run(broken, *command).code == 0
                assert rows_of(broken) | {"log": decisions(broken)} == after
            with Catalog(broken) as opened:
                assert opened.divergences() == []
        shutil.move(whole, catalog)
    return killed


# -- weights


class Slowly(BaseHTTPRequestHandler):
    """Serves one file in pieces, so that there is time to be killed."""

    payload = bytes(range(256)) * 8192
    piece = 1 << 16

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(self.payload)))
        self.end_headers()
        for start in range(0, len(self.payload), self.piece):
            try:
                self.wfile.write(self.payload[start : start + self.piece])
            except OSError:
                return  # killed
            time.sleep(0.01)

    def log_message(self, *_: object) -> None:
        pass


@pytest.mark.parametrize("times", TIMES)
def test_models_pull(care: Care, tmp_path: Path, times: int) -> None:
    cache, manifest = tmp_path / "cache", tmp_path / "mine.toml"
    environment = {"CARE_MODELS": str(cache)}
    digest = hashlib.sha256(Slowly.payload).hexdigest()
    with ThreadingHTTPServer(("127.0.0.1", 0), Slowly) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        manifest.write_text(
            f'[models.mine]\ntask = "embedder"\nfamily = "timm"\nurl = "http://127.0.0.1:{server.server_port}/w.pt"\n'
            f'sha256 = "{digest}"\nlicence = "CC0"\n',
            encoding="utf-8",
        )
        assert care.run(tmp_path / "no.db", "models", "add", manifest, environment=environment).code == 0
        pull = "models", "pull", "mine"

        def arrived() -> int:
            return sum(part.stat().st_size for part in cache.rglob("*.part"))

        for size in moments(2 * times, len(Slowly.payload) // 2):
            process = care.start(tmp_path / "no.db", *pull, environment=environment)
            until(lambda size=size, process=process: arrived() >= size or process.code is not None)
            assert process.kill()
            assert not list(cache.glob("mine*/w.pt")) and not (cache / "mine.pt").exists()
            for part in cache.rglob("*.part"):
                os.utime(part, (0, 0))  # as if the kill had been long ago
        again = care.run(tmp_path / "no.db", *pull, environment=environment)
        assert again.code == 0, again.messages
        server.shutdown()
    weights = [path for path in cache.rglob("*") if path.is_file() and path.suffix not in (".json", ".toml")]
    assert [path.read_bytes() for path in weights] == [Slowly.payload]  # and nothing of what was begun is left


# -- an older catalog


STEPS = [  # what two later formats might do
    ["ALTER TABLE images ADD COLUMN note TEXT", "UPDATE images SET note = 'of ' || sha256"],
    [
        "ALTER TABLE crops ADD COLUMN grade INTEGER",
        "UPDATE crops SET grade = id * id",
        "CREATE TABLE extra (id INTEGER)",
    ],
]


def migrated(catalog: Path) -> tuple[int, list]:
    """The format, and the rows of what the steps change as far as they were taken."""
    with closing(sqlite3.connect(catalog)) as reader:
        tables = [reader.execute(f"SELECT * FROM {name} ORDER BY id").fetchall() for name in ("images", "crops")]
        things = reader.execute("SELECT count(*) FROM sqlite_master").fetchone()
        return reader.execute("PRAGMA user_version").fetchone()[0], [*tables, things]


@pytest.mark.parametrize("times", TIMES)
def test_migration(care: Care, tmp_path: Path, times: int) -> None:
    catalog = tmp_path / "care.db"
    with catalogs.new(catalog) as opened:
        catalogs.survey(opened, 40)
        old = opened.format()
    steps = [migrated(catalog)]
    for taken in (1, 2):
        whole = Path(shutil.copy(catalog, tmp_path / f"whole{taken}.db"))
        process = care.run(whole, "images", "--csv", migrations=STEPS[:taken], die_at_statement=0)
        assert process.code == 0, process.messages
        steps.append(migrated(whole))
    total = process.told("statements")
    assert [found[0] for found in steps] == [old, old + 1, old + 2]
    for statement in [round(total * (i + 0.7) / (2 * times)) for i in range(2 * times)]:
        folder = tmp_path / str(statement)
        folder.mkdir()
        broken = Path(shutil.copy(catalog, folder / "care.db"))
        process = care.run(broken, "images", "--csv", migrations=STEPS, die_at_statement=statement)
        assert process.code == (-9 if statement < total else 0)
        assert migrated(broken) in steps
        again = care.run(broken, "images", "--csv", migrations=STEPS)
        assert again.code == 0, again.messages
        assert migrated(broken) == steps[-1]
        backups = [migrated(path) for path in folder.glob("*.backup*.db")]
        assert steps[0] in backups and all(found in steps for found in backups)
        assert not list(folder.glob("*.part*"))
