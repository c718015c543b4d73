"""Files that are no catalog, and catalogs that others changed: refused or named in a sentence, never silently used."""

from __future__ import annotations

import dataclasses
import os
import random
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path

import catalogs
import numpy as np
import pytest
from test_cli import Care, runner

from care_cli import registry
from care_cli.catalog import Catalog
from care_cli.decisions import Decision

posix = pytest.mark.skipif(os.name == "nt", reason="Windows has no such files")
LISTINGS = (("images",), ("crops",), ("individuals", "list"), ("individuals", "log"), ("individuals", "show", "Asha"))
EXPORTS = (("export", "megadetector", "{out}/o.json"), ("export", "csv", "{out}/tables"))
COMPUTING = (("index", "--model", "demo-embedder"), ("identify", "{photo}"))
NAN = "0000C07F"  # of a float32, as SQLite writes bytes


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A catalog of six photos, two named animals and a finished index."""
    path = tmp_path_factory.mktemp("sound") / "care.db"
    spec = registry.find("demo-embedder")
    spec = dataclasses.replace(spec, sha256=registry.model_sha256(spec))
    with catalogs.new(path) as catalog:
        crops = catalogs.survey(catalog, photos=6)
        index = catalog.begin_run("index", {}, spec)
        catalog.add_embeddings(index, crops, np.eye(6, 160, dtype=np.float32))
        catalog.finish_run(index)
        catalog.decide(Decision("create", crop_id=crops[0], value="Asha"))
        catalog.decide(Decision("create", crop_id=crops[1], value="Bo"))
    return path


class Tried:
    """Commands on a fresh copy of a damaged catalog each, in this process."""

    def __init__(self, care: Care, sound: Path, folder: Path, photo: Path):
        self.care, self.sound, self.folder, self.photo = care, sound, folder, photo

    def __call__(self, damage: Callable[[Path], object], *command: str):
        shutil.rmtree(self.folder / "out", ignore_errors=True)
        (self.folder / "out").mkdir()
        path = self.folder / "care.db"
        for file in self.folder.glob("care.*"):
            file.rmdir() if file.is_dir() and not file.is_symlink() else file.unlink()
        shutil.copy(self.sound, path)
        damage(path)
        done = self.care(*(word.format(out=self.folder / "out", photo=self.photo) for word in command), catalog=path)
        assert "Traceback" not in done.err, done.err
        if done.code == 2:
            assert len([line for line in done.err.splitlines() if line.startswith("Error: ")]) == 1, done.err
            assert done.out == "" and not [path for path in (self.folder / "out").rglob("*") if path.is_file()]
        return done


@pytest.fixture
def tried(monkeypatch, capfd, sound: Path, tmp_path: Path, root: Path) -> Tried:
    monkeypatch.setenv("CARE_MODELS", str(tmp_path / "cache"))
    (tmp_path / "work").mkdir()
    photo = root / "sample_data" / "queries" / "known_01.JPG"
    return Tried(runner(monkeypatch, capfd, tmp_path / "none.db"), sound, tmp_path / "work", photo)


def sql(*statements: str) -> Callable[[Path], None]:
    """What another program does to the file, without the tables' own checks."""

    def change(path: Path) -> None:
        with sqlite3.connect(path, isolation_level=None) as other:
            other.execute("PRAGMA ignore_check_constraints = ON")
            for statement in statements:
                other.execute(statement)
            other.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        other.close()

    return change


def foreign(*statements: str) -> Callable[[Path], None]:
    """Another database in the catalog's place."""
    return lambda path: (path.unlink(), sql(*statements)(path))


def cut(share: float) -> Callable[[Path], None]:
    return lambda path: path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])


def scrambled(table: str) -> Callable[[Path], None]:
    """The first page of a table or index with every seventh byte changed."""

    def change(path: Path) -> None:
        with sqlite3.connect(path) as reader:
            [page] = reader.execute("SELECT rootpage FROM sqlite_master WHERE name = ?", (table,)).fetchone()
        reader.close()
        data = bytearray(path.read_bytes())
        for place in range((page - 1) * 16384, page * 16384, 7):
            data[place] ^= 0xFF
        path.write_bytes(data)

    return change


NO_CATALOG = {
    "text": lambda path: path.write_text("no database\n" * 999),
    "nothing": lambda path: path.write_bytes(b""),
    "zeros": lambda path: path.write_bytes(bytes(99_999)),
    "noise": lambda path: path.write_bytes(random.Random(1).randbytes(99_999)),
    "noise behind the header": lambda path: path.write_bytes(
        path.read_bytes()[:100] + random.Random(1).randbytes(99_999)
    ),
    "another database": foreign("CREATE TABLE notes (text)"),
    "another program's": foreign("CREATE TABLE notes (text)", "PRAGMA application_id = 7"),
    "a newer format": sql("PRAGMA user_version = 99"),
    "a format before the first": sql("PRAGMA user_version = 0"),
    "a format below zero": sql("PRAGMA user_version = -1"),
    **{f"cut at {share}": cut(share) for share in (0.001, 0.01, 0.1, 0.3, 0.5, 0.9)},
    "a folder": lambda path: (path.unlink(), path.mkdir()),
}
SPECIAL = {
    "a pipe": lambda path: (path.unlink(), os.mkfifo(path)),
    "a link onto itself": lambda path: (path.unlink(), path.symlink_to(path.name)),
    "a link to nowhere": lambda path: (path.unlink(), path.symlink_to("nowhere/care.db")),
    "a device": lambda path: (path.unlink(), path.symlink_to("/dev/zero")),
}


def is_refused_by_all(tried: Tried, damage: Callable[[Path], object]) -> None:
    path = tried.folder / "care.db"
    for command in (*LISTINGS, *EXPORTS, *COMPUTING, ("doctor",), ("doctor", "--repair")):
        done = tried(damage, *command)
        assert done.code == 2 or (done.code == 1 and command[0] == "doctor"), (command, done)
    if path.is_file() and not path.is_symlink():
        left = path.read_bytes()
        damage(Path(shutil.copy(tried.sound, path)))
        assert left == path.read_bytes()  # and nothing was done to it


@pytest.mark.parametrize("what", NO_CATALOG)
def test_what_is_no_catalog_is_refused_and_left_as_it_is(tried: Tried, what: str) -> None:
    is_refused_by_all(tried, NO_CATALOG[what])


@posix
@pytest.mark.parametrize("what", SPECIAL)
def test_what_is_no_file_is_refused(tried: Tried, what: str) -> None:
    is_refused_by_all(tried, SPECIAL[what])


# -- what runs by itself, or is missing

RUNNING = {
    "a trigger": "CREATE TRIGGER evil AFTER INSERT ON runs BEGIN DELETE FROM crops; END",
    "a rule made harmless": "CREATE TRIGGER pixels_of_animals_only BEFORE INSERT ON crop_pixels BEGIN SELECT 1; END",
    "an endless view": "CREATE VIEW timed_images AS WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) "
    "SELECT i AS id, i AS taken_at FROM n",
    "a view of one's own": "CREATE VIEW mine AS SELECT 1",
    "a missing table": "DROP TABLE embeddings",
    "a missing index": "DROP INDEX crops_by_image",
    "a missing rule": "DROP TRIGGER decisions_are_not_deleted",
}


@pytest.mark.parametrize("what", RUNNING)
def test_a_changed_schema_is_refused_and_named_by_doctor(tried: Tried, what: str) -> None:
    statement = RUNNING[what]
    [kind, name] = statement.replace("AFTER", "").split()[1:3]
    drop = [f"DROP {kind} IF EXISTS {name}"] if statement.startswith("CREATE") else []
    change = sql("PRAGMA foreign_keys = OFF", *drop, statement)
    for command in (*LISTINGS, *EXPORTS, *COMPUTING):
        done = tried(change, *command)
        assert done.code == 2 and name in done.err, done.err
    for command in (("doctor",), ("doctor", "--repair")):
        done = tried(change, "--json", *command)
        assert done.code == 1 and done.json["repaired"] == []
        assert [(finding["level"], finding["topic"]) for finding in done.json["findings"]] == [("problem", "schema")]
        assert name in done.json["findings"][0]["text"]


def test_tables_of_others_beside_ours_are_no_fault(tried: Tried) -> None:
    assert tried(sql("CREATE TABLE notes (text)"), "images").code == 0
    assert "notes" not in tried(sql("CREATE TABLE notes (text)"), "doctor").out


# -- rows that mean nothing, and pages that are not what they were


VALUES = {
    "a vector of NaN": f"UPDATE embeddings SET vector = x'{NAN * 160}' WHERE crop_id = 1",
    "a vector of zeros": "UPDATE embeddings SET vector = zeroblob(640) WHERE crop_id = 1",
    "a short vector": "UPDATE embeddings SET vector = x'00' WHERE crop_id = 1",
    "a vector of another length": "UPDATE embeddings SET dim = 1, vector = x'0000803F' WHERE crop_id = 1",
    "pixels cut off": "UPDATE crop_pixels SET jpeg = substr(jpeg, 1, 400) WHERE crop_id = 2",
    "pixels of another size": "UPDATE crops SET crop_width = 5 WHERE id = 2",
    "no pixels in pixels": "UPDATE crop_pixels SET jpeg = x'FFD8FF00' WHERE crop_id = 2",
    "settings that are no JSON": "UPDATE runs SET settings = '{no'",
    "settings that are a list": "UPDATE runs SET settings = '[1]'",
    "executions that are no JSON": "UPDATE runs SET executions = '{'",
    "a model that is no JSON": "UPDATE models SET spec = '{'",
    "a model that is a list": "UPDATE models SET spec = '[]'",
    "a circle of merges": "UPDATE individuals SET status = 'merged', merged_into = 3 - id",
    "one merged into itself": "UPDATE individuals SET status = 'merged', merged_into = 1 WHERE id = 1",
    "a box inside out": "UPDATE crops SET w = -5, h = -5 WHERE id = 1",
    "a box at infinity": "UPDATE crops SET x = 9e999 WHERE id = 1",
    "a confidence beyond": "UPDATE crops SET confidence = 9e999 WHERE id = 1",
    "an unknown category": "UPDATE crops SET category = 'weapon' WHERE id = 1",
    "photos without a size": "UPDATE images SET width = 0, height = NULL",
}
NAMED_ONLY = {  # what doctor names, and what commands that need nothing of it go on without
    "a name of NUL": "UPDATE image_files SET path_bytes = x'00', path = '' WHERE id = 1",
    "a name that leads out": "UPDATE image_files SET path_bytes = CAST('../../../etc/passwd' AS BLOB) WHERE id = 1",
    "a date that is none": "UPDATE images SET captured_at = 'garbage' WHERE id = 1",
    "dates beyond": "UPDATE images SET captured_at = '9999-99-99 99:99:99'",
    "a model of odd values": "UPDATE models SET spec = json_set(spec, '$.file', '../../passwd', '$.input_size', 'x')",
    "settings without anything": "UPDATE runs SET settings = '{}'",
    "a location that is no path": r"UPDATE sources SET location = '\q'",
}
PAGES = ("crops", "crops_by_run", "images", "decisions", "runs", "embeddings", "crop_pixels")


@pytest.mark.parametrize("what", [*VALUES, *NAMED_ONLY])
def test_rows_that_mean_nothing_are_named_by_doctor_and_stop_nothing_with_a_traceback(tried: Tried, what: str) -> None:
    change = sql((VALUES | NAMED_ONLY)[what])
    for command in (*LISTINGS, *EXPORTS):
        tried(change, *command)
    done = tried(change, "--json", "doctor")
    if what in VALUES:
        assert done.code == 1 and any(finding["level"] == "problem" for finding in done.json["findings"])


@pytest.mark.parametrize("table", PAGES)
def test_scrambled_pages_are_named_by_doctor(tried: Tried, table: str) -> None:
    for command in (*LISTINGS, *EXPORTS):
        tried(scrambled(table), *command)
    done = tried(scrambled(table), "doctor", "--repair", "--backup", "{out}/copy.db")
    assert done.code == 2 or (done.code == 1 and "SQLite finds the file damaged" in done.out)
    assert not list((tried.folder / "out").iterdir())  # a damaged file is no backup


@pytest.mark.slow
@pytest.mark.parametrize("what", [*VALUES, *NAMED_ONLY, *PAGES])
def test_damage_stops_no_computing_with_a_traceback(tried: Tried, what: str) -> None:
    change = scrambled(what) if what in PAGES else sql((VALUES | NAMED_ONLY)[what])
    for command in COMPUTING:
        tried(change, *command)


@pytest.mark.parametrize(
    "what", ["a vector of NaN", "a vector of zeros", "a short vector", "a vector of another length"]
)
def test_a_damaged_vector_is_never_compared(tried: Tried, what: str) -> None:
    done = tried(sql(VALUES[what]), "identify", "{photo}")
    assert done.code == 2 and "embedding of crop" in done.err.lower() and "care doctor" in done.err, done.err


@pytest.mark.parametrize("what", ["a circle of merges", "one merged into itself"])
def test_doctor_repairs_names_from_the_log_after_a_backup(tried: Tried, what: str) -> None:
    done = tried(sql(VALUES[what]), "--json", "doctor", "--repair")
    assert done.code == 0 and done.json["verdict"] != "damaged" and "kept as" in done.json["repaired"][0]
    [kept] = tried.folder.glob("care.before-repair*.db")
    with Catalog(kept) as before, Catalog(tried.folder / "care.db") as after:
        assert after.names_of_crops() == {1: "Asha", 2: "Bo"} and before.divergences()
        assert after.divergences() == after.faults() == after.schema_faults() == []


def test_an_error_of_ours_is_no_damage(sound: Path, tmp_path: Path) -> None:
    path = shutil.copy(sound, tmp_path / "care.db")
    with pytest.raises(ZeroDivisionError), Catalog(path):
        _ = 1 / 0
