"""From each older format to today's, on catalogs that hold a survey."""

from __future__ import annotations

import contextlib
import sqlite3
from pathlib import Path

import catalogs
import numpy as np
import pytest

from care_cli.catalog import Catalog, store
from care_cli.catalog.migrations import MIGRATIONS
from care_cli.catalog.store import APPLICATION_ID
from care_cli.decisions import Decision
from care_cli.records import NamedPoint
from care_cli.stages import crops, gallery

SCHEMA = "SELECT type, name, tbl_name, sql FROM sqlite_master WHERE name NOT LIKE 'sqlite_%' ORDER BY name"


EYES = [NamedPoint("left_eye", 60.0, 50.0, "right_eye"), NamedPoint("right_eye", 90.0, 50.0, "left_eye")]


@pytest.fixture(params=[1, 2, 3, 4])
def old(root, tmp_path, monkeypatch, request) -> Path:
    """A catalog of an older format with photos, crops, names, a person, two indexes, a template and a point."""
    monkeypatch.setenv("CARE_MODELS", str(tmp_path / "cache"))
    with catalogs.new(tmp_path / "new.db") as catalog:
        ids = catalogs.survey(catalog, 6)
        for name in ("a", "b"):
            index = catalog.begin_run("index", {"variant": name}, catalogs.EMBEDDER)
            catalog.add_embeddings(index, ids, np.eye(6, 16, dtype=np.float32))
            catalog.finish_run(index)
        for crop, name in ((1, "Luna"), (2, "Moss"), (5, "Kea")):
            catalog.decide(Decision("create", crop_id=crop, value=name))
        catalog.add_template("cat", 3, EYES, "expert")
        catalog.correct_keypoint(6, "nose", 70.0, 70.0)
        crops.set_crops(catalog, [4], category="person")
    path = tmp_path / "care.db"
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.executescript((root / "tests" / f"format_{request.param}.sql").read_text("utf-8"))
        tables = [name for (name,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        db.execute("ATTACH ? AS new", (str(tmp_path / "new.db"),))
        for table in ("images", "runs", "crops", *tables):  # crops before what triggers allow to animals only
            if not db.execute(f"SELECT count(*) FROM main.{table}").fetchone()[0]:
                names = ", ".join(name for _, name, *_ in db.execute(f"PRAGMA main.table_info({table})"))
                db.execute(f"INSERT INTO main.{table} ({names}) SELECT {names} FROM new.{table}")
        db.execute("DETACH new")
        db.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        db.execute(f"PRAGMA user_version = {request.param}")
    return path


def contents(path: Path) -> dict[str, list[tuple]]:
    """All rows of the tables that format 1 has, their first columns as it has them."""
    with contextlib.closing(sqlite3.connect(path)) as db:
        new = ("this_catalog", "embedding_blocks", "identity_blocks", "splits", "split_crops", "calibrations",
               "image_labels")  # fmt: skip
        tables = [name for (name,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        width = {"templates": 7}
        return {
            table: [row[: width.get(table)] for row in db.execute(f"SELECT * FROM {table} ORDER BY 1, 2")]
            for table in tables
            if table not in new
        }


def number(path: Path) -> int:
    """A catalog's format."""
    with contextlib.closing(sqlite3.connect(path)) as db:
        return db.execute("PRAGMA user_version").fetchone()[0]


def test_migrated_and_fresh_catalogs_are_of_one_schema(old, tmp_path):
    with Catalog(old) as migrated, catalogs.new(tmp_path / "fresh.db") as fresh:
        assert migrated.format() == fresh.format() == len(MIGRATIONS) + 1
        assert migrated.rows(SCHEMA) == fresh.rows(SCHEMA)
        assert migrated.schema_faults() == migrated.integrity() == migrated.broken_references() == []
        assert migrated.number() != fresh.number()


def test_no_row_is_lost_and_the_old_file_is_kept(old, tmp_path):
    before, said, form = contents(old), [], number(old)
    assert len(before["embeddings"]) == 10 and len(before["decisions"]) == 4 and len(before["keypoints"]) == 1
    backup = tmp_path / f"care.format-{form}.backup.db"
    with Catalog(old, notice=said.append) as migrated:
        assert backup.name in said[0] and migrated.divergences() == []
        assert migrated.template("cat").points == tuple(EYES) and migrated.template("cat").about == {}
        assert set(migrated.keypoints([3, 6])) == {6}
    assert contents(old) == contents(backup) == before
    assert number(backup) == form
    with contextlib.closing(sqlite3.connect(backup)) as kept:
        assert kept.execute("SELECT count(*) FROM sqlite_master WHERE name = 'image_labels'").fetchone() == (0,)
    with Catalog(old, notice=said.append):
        assert len(said) == 1  # once


def test_the_blocks_of_what_is_there_are_numbered(old):
    with Catalog(old) as migrated:
        indexes = [run["id"] for run in migrated.index_runs()]
        assert set(migrated.embedding_blocks()) == {(run, 0) for run in indexes}
        assert set(migrated.identity_blocks()) == {0}
        numbers = [*migrated.embedding_blocks().values(), *migrated.identity_blocks().values(), migrated.number()]
        assert len(set(numbers)) == 4
        query = np.eye(6, 16, dtype=np.float32)[4]
        found = gallery.open_gallery(migrated, indexes[0]).search(query, 1)
        assert [one.individual for one in found] == ["Kea"]
        before = migrated.embedding_blocks()
        crops.set_crops(migrated, [5], category="person")
        assert all(before[key] != value for key, value in migrated.embedding_blocks().items())
        found = gallery.open_gallery(migrated, indexes[0]).search(query, 3)
        assert [one.individual for one in found] == ["Luna", "Moss"]


def test_a_migration_that_fails_leaves_the_older_format(old, monkeypatch):
    before, form = contents(old), number(old)

    def halfway(db):
        MIGRATIONS[form - 1](db)
        raise OSError("power cut")

    monkeypatch.setattr(store, "MIGRATIONS", [*MIGRATIONS[: form - 1], halfway])
    with contextlib.closing(sqlite3.connect(old)) as db:
        schema = db.execute(SCHEMA).fetchall()
    with pytest.raises(OSError, match="power cut"):
        Catalog(old)
    with contextlib.closing(sqlite3.connect(old)) as db:
        assert db.execute(SCHEMA).fetchall() == schema
    assert number(old) == form and contents(old) == before
    monkeypatch.undo()
    with Catalog(old) as migrated:
        assert migrated.schema_faults() == []
