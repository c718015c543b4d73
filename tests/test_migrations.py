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
from care_cli.stages import crops, gallery

SCHEMA = "SELECT type, name, tbl_name, sql FROM sqlite_master WHERE name NOT LIKE 'sqlite_%' ORDER BY name"


def rows(connection: sqlite3.Connection, tables: list[str]) -> dict[str, list[tuple]]:
    return {table: connection.execute(f"SELECT * FROM {table} ORDER BY 1, 2").fetchall() for table in tables}


@pytest.fixture
def old(root, tmp_path, monkeypatch) -> Path:
    """A catalog of format 1 with photos, crops, names, a person, and two indexes."""
    monkeypatch.setenv("CARE_MODELS", str(tmp_path / "cache"))
    with catalogs.new(tmp_path / "new.db") as catalog:
        ids = catalogs.survey(catalog, 6)
        for name in ("a", "b"):
            index = catalog.begin_run("index", {"variant": name}, catalogs.EMBEDDER)
            catalog.add_embeddings(index, ids, np.eye(6, 16, dtype=np.float32))
            catalog.finish_run(index)
        for crop, name in ((1, "Luna"), (2, "Moss"), (5, "Kea")):
            catalog.decide(Decision("create", crop_id=crop, value=name))
        crops.set_crops(catalog, [4], category="person")
    path = tmp_path / "care.db"
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.executescript((root / "tests" / "format_1.sql").read_text("utf-8"))
        tables = [name for (name,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        db.execute("ATTACH ? AS new", (str(tmp_path / "new.db"),))
        for table in ("images", "runs", "crops", *tables):  # crops before what triggers allow to animals only
            if not db.execute(f"SELECT count(*) FROM main.{table}").fetchone()[0]:
                names = ", ".join(name for _, name, *_ in db.execute(f"PRAGMA main.table_info({table})"))
                db.execute(f"INSERT INTO main.{table} ({names}) SELECT {names} FROM new.{table}")
        db.execute("DETACH new")
        db.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        db.execute("PRAGMA user_version = 1")
    return path


def contents(path: Path) -> dict[str, list[tuple]]:
    """All rows of the tables that format 1 has."""
    with contextlib.closing(sqlite3.connect(path)) as db:
        new = ("this_catalog", "embedding_blocks", "identity_blocks")
        names = [name for (name,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        return rows(db, [name for name in names if name not in new])


def test_migrated_and_fresh_catalogs_are_of_one_schema(old, tmp_path):
    with Catalog(old) as migrated, catalogs.new(tmp_path / "fresh.db") as fresh:
        assert migrated.format() == fresh.format() == len(MIGRATIONS) + 1
        assert migrated.rows(SCHEMA) == fresh.rows(SCHEMA)
        assert migrated.schema_faults() == migrated.integrity() == migrated.broken_references() == []
        assert migrated.number() != fresh.number()


def test_no_row_is_lost_and_the_old_file_is_kept(old, tmp_path):
    before, said = contents(old), []
    assert len(before["embeddings"]) == 10 and len(before["decisions"]) == 4
    with Catalog(old, notice=said.append) as migrated:
        assert "care.format-1.backup.db" in said[0] and migrated.divergences() == []
    assert contents(old) == before
    assert contents(tmp_path / "care.format-1.backup.db") == before
    with contextlib.closing(sqlite3.connect(tmp_path / "care.format-1.backup.db")) as backup:
        assert backup.execute("PRAGMA user_version").fetchone() == (1,)
        assert not backup.execute("SELECT * FROM sqlite_master WHERE name = 'this_catalog'").fetchall()
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


def test_a_migration_that_fails_leaves_format_1(old, monkeypatch):
    before = contents(old)

    def halfway(db):
        MIGRATIONS[0](db)
        raise OSError("power cut")

    monkeypatch.setattr(store, "MIGRATIONS", [halfway])
    with pytest.raises(OSError, match="power cut"):
        Catalog(old)
    with contextlib.closing(sqlite3.connect(old)) as db:
        assert db.execute("PRAGMA user_version").fetchone() == (1,)
        assert not db.execute("SELECT * FROM sqlite_master WHERE name LIKE '%blocks%'").fetchall()
    assert contents(old) == before
    monkeypatch.undo()
    with Catalog(old) as migrated:
        assert migrated.schema_faults() == []
