"""The catalog's rules, by SQL and through its methods, on real SQLite files."""

from __future__ import annotations

import dataclasses
import hashlib
import random
import sqlite3
from dataclasses import replace

import catalogs
import numpy as np
import pytest

from care_cli import geometry
from care_cli.catalog import Catalog, crops, embeddings, store
from care_cli.catalog.migrations import MIGRATIONS
from care_cli.catalog.store import free_name, schema, statements
from care_cli.decisions import Decision
from care_cli.errors import CareError
from care_cli.records import Crop, Detection, Photo, Selection

ANIMAL, PERSON = (40.0, 30.0, 80.0, 60.0), (200.0, 100.0, 60.0, 120.0)


@pytest.fixture
def catalog(tmp_path):
    with catalogs.new(tmp_path / "care.db") as opened:
        yield opened


@pytest.fixture
def pair(catalog):
    """One photo with an animal (crop 1) and a person (crop 2), and an index run."""
    run = catalogs.detect_run(catalog)
    image = catalogs.add_photo(catalog, "a.png")
    found = [catalogs.found(ANIMAL), catalogs.found(PERSON, "person")]
    assert catalogs.add_crops(catalog, run, image, "a.png", found) == [1, 2]
    catalog.begin_run("index", {}, catalogs.EMBEDDER)
    return catalog


# -- rule 6: people

FORBIDDEN = {
    "pixels": "INSERT INTO crop_pixels VALUES (:crop, x'FFD8')",
    "template": "INSERT INTO templates VALUES (1, 't', :crop, 'cat', '[]', 'expert', 'now', '{}')",
    "keypoint": "INSERT INTO keypoints VALUES (1, 2, :crop, NULL, 'eye', 1, 1, 1, NULL, NULL, 1, 'expert')",
    "embedding": "INSERT INTO embeddings VALUES (1, 2, :crop, 1, x'0000803F', NULL)",
    "identity": "INSERT INTO crop_identity VALUES (:crop, 1, 1)",
    "create": "INSERT INTO decisions (at, who, source, action, crop_id, individual_id, value) "
    "VALUES ('now', 'me', 'human', 'create', :crop, 1, 'Bo')",
    "name": "INSERT INTO decisions (at, who, source, action, crop_id, individual_id) "
    "VALUES ('now', 'me', 'human', 'name', :crop, 1)",
}


@pytest.mark.parametrize("what", FORBIDDEN)
@pytest.mark.parametrize("category", ["person", "vehicle"])
def test_sql_cannot_give_a_person_more_than_a_box(pair, what, category):
    execute = pair.db.conn.execute
    execute("UPDATE crops SET category = ? WHERE id = 2", (category,))
    execute("INSERT INTO individuals VALUES (1, 'Luna', 'active', NULL)")
    execute("INSERT INTO decisions (id, at, who, source, action) VALUES (1, 'now', 'me', 'human', 'different')")
    with pytest.raises(sqlite3.IntegrityError, match="animals only"):
        execute(FORBIDDEN[what], {"crop": 2})
    execute("DELETE FROM crop_pixels")
    execute(FORBIDDEN[what], {"crop": 1})  # the same statement is well-formed: an animal may have it


@pytest.mark.parametrize("table", ["crop_pixels", "embeddings"])
def test_sql_cannot_move_an_animals_rows_to_a_person(pair, table):
    pair.add_embeddings(2, [1], np.eye(1, 4, dtype=np.float32))
    with pytest.raises(sqlite3.IntegrityError, match="stay with their crop"):
        pair.db.conn.execute(f"UPDATE {table} SET crop_id = 2 WHERE crop_id = 1")


def test_a_crop_set_to_person_loses_all_but_its_box(pair):
    pair.add_embeddings(2, [1], np.eye(1, 4, dtype=np.float32))
    pair.decide(Decision("create", crop_id=1, value="Luna"))
    execute = pair.db.conn.execute
    execute(FORBIDDEN["template"], {"crop": 1})
    execute("INSERT INTO keypoints VALUES (1, 2, 1, 1, 'eye', 1, 1, 1, NULL, NULL, 1, 'expert')")
    pair.decide(Decision("category", crop_id=1, value="person"))
    for table in ("crop_pixels", "templates", "keypoints", "embeddings", "crop_identity"):
        assert pair.value(f"SELECT count(*) FROM {table}") == 0, table
    assert pair.crop(1)["w"] == ANIMAL[2]
    with pytest.raises(CareError, match="no animal"):
        pair.decide(Decision("name", crop_id=1, individual_id=1))
    pair.add_embeddings(2, [1], np.eye(1, 4, dtype=np.float32))  # a batch that was under way passes it over
    assert pair.value("SELECT count(*) FROM embeddings") == 0


def test_a_vector_of_pixels_that_were_replaced_is_passed_over(pair):
    """A person was made black in the crop while its vector was on its way."""
    before = hashlib.sha256(pair.pixels([1])[1]).digest()
    pair.replace_pixels(1, b"\xff\xd8 with the person black")
    pair.add_embeddings(2, [1], np.eye(1, 4, dtype=np.float32), [before])
    assert pair.value("SELECT count(*) FROM embeddings") == 0
    now = hashlib.sha256(pair.pixels([1])[1]).digest()
    pair.add_embeddings(2, [1], np.eye(1, 4, dtype=np.float32), [now])
    assert pair.value("SELECT count(*) FROM embeddings") == 1


def test_the_log_is_append_only(pair):
    pair.decide(Decision("create", crop_id=1, value="Luna"))
    for statement in ("UPDATE decisions SET value = 'Bo'", "DELETE FROM decisions", "REPLACE INTO decisions "
                      "SELECT * FROM decisions"):  # fmt: skip
        with pytest.raises(sqlite3.IntegrityError, match="append-only"):
            pair.db.conn.execute(statement)


# -- the schema


def test_every_table_and_view_says_what_a_row_is(catalog):
    for row in catalog.rows("SELECT name, sql FROM sqlite_master WHERE type IN ('table', 'view')"):
        first = row["sql"].splitlines()[0]
        assert "-- " in first or "/* " in first, row["name"]
        assert "STRICT" in row["sql"] or row["sql"].startswith("CREATE VIEW"), row["name"]


def test_every_foreign_key_has_an_index(catalog):
    for (table,) in catalog.db.conn.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall():
        indexed = set()
        for index in catalog.rows(f"PRAGMA index_list({table})"):
            indexed.add(catalog.rows(f"PRAGMA index_info({index['name']})")[0]["name"])
        indexed |= {column["name"] for column in catalog.rows(f"PRAGMA table_info({table})") if column["pk"] == 1}
        for key in catalog.rows(f"PRAGMA foreign_key_list({table})"):
            assert key["from"] in indexed, f"{table}.{key['from']}"


def test_a_photo_is_a_row_of_images(catalog):
    columns = [column["name"] for column in catalog.rows("PRAGMA table_info(images)")]
    fields = [field.name for field in dataclasses.fields(Photo)]
    assert columns == ["id", *fields, "deployment_id", "burst_id", "event_id"]
    columns = {column["name"] for column in catalog.rows("PRAGMA table_info(decisions)")}
    assert columns == {field.name for field in dataclasses.fields(Decision)}


def test_settings_of_the_file(tmp_path):
    with catalogs.new(tmp_path / "care.db") as catalog:
        pragmas = ("journal_mode", "synchronous", "page_size", "cache_size", "foreign_keys", "secure_delete")
        values = [catalog.value(f"PRAGMA {name}") for name in pragmas]
        assert values == ["wal", 2, 16384, -64000, 1, 1]
        assert catalog.value("PRAGMA mmap_size") in (0, None)
        catalogs.survey(catalog, 1)
    assert [path.name for path in tmp_path.iterdir()] == ["care.db"]  # the one file is complete


def test_statements_splits_what_sqlite_would_run():
    script = (
        "CREATE TABLE a (x TEXT); -- a ; in a comment\n"
        "/* ; */ CREATE TABLE b (y TEXT DEFAULT ';');\n"
        "CREATE TRIGGER t AFTER INSERT ON a BEGIN\n  DELETE FROM b; INSERT INTO b VALUES ('x');\nEND;\n"
        "INSERT INTO a VALUES (1);\n"
    )
    one_by_one, at_once = sqlite3.connect(":memory:"), sqlite3.connect(":memory:")
    for statement in statements(script):
        one_by_one.execute(statement)
    at_once.executescript(script)
    assert list(one_by_one.iterdump()) == list(at_once.iterdump())
    assert "".join(statements(schema())).count("CREATE TABLE") == schema().count("CREATE TABLE")


# -- opening


def test_files_that_are_no_catalog_are_refused_and_left_alone(tmp_path):
    foreign = tmp_path / "foreign.db"
    with sqlite3.connect(foreign) as other:
        other.execute("CREATE TABLE t (x)")
    other.close()
    text = tmp_path / "notes.txt"
    text.write_text("these are my notes, and no catalog\n" * 50)
    empty = tmp_path / "empty.db"
    empty.touch()
    newer = tmp_path / "newer.db"
    with catalogs.new(newer) as catalog:
        catalog.db.conn.execute("PRAGMA user_version = 99")
    expected = {foreign: "not a CARE catalog", text: "not a database", newer: "newer CARE", empty: "is empty"}
    for path, reason in expected.items():
        before = path.read_bytes()
        with pytest.raises(CareError, match=reason):
            Catalog(path)
        assert path.read_bytes() == before
    with pytest.raises(CareError, match="There is no catalog"):
        Catalog(tmp_path / "absent.db")
    with pytest.raises(CareError, match="existing folder"):
        Catalog(tmp_path / "no" / "care.db", create=True)
    assert not (tmp_path / "absent.db").exists()


def test_a_truncated_catalog_is_refused_or_found_damaged(tmp_path):
    path = tmp_path / "care.db"
    with catalogs.new(path) as catalog:
        catalogs.survey(catalog, 6)
    whole = path.read_bytes()
    for share in (0.1, 0.5, 0.9):
        path.write_bytes(whole[: int(len(whole) * share)])
        try:
            with Catalog(path) as catalog:
                assert catalog.integrity()
        except CareError as error:
            assert "damaged" in str(error)


# -- migrations


def older(path):
    """A catalog with a survey in it, to be older than what the test adds."""
    with catalogs.new(path) as catalog:
        ids = catalogs.survey(catalog, 3)
        catalog.decide(Decision("create", crop_id=ids[0], value="Luna"))


def add_notes(db):
    """A step as a later format would have: a column, and rows touched."""
    db["individuals"].add_column("note", str)
    db.conn.execute("UPDATE individuals SET note = 'from ' || name")


def test_an_older_catalog_is_backed_up_and_migrated(tmp_path, monkeypatch):
    path = tmp_path / "care.db"
    older(path)
    monkeypatch.setattr(store, "MIGRATIONS", [*MIGRATIONS, add_notes])
    said = []
    with Catalog(path, notice=said.append) as catalog:
        assert catalog.rows("SELECT name, note FROM individuals") == [{"name": "Luna", "note": "from Luna"}]
        assert catalog.format() == len(MIGRATIONS) + 2 and catalog.divergences() == []
    assert "migrating" in said[0]
    monkeypatch.undo()
    with Catalog(tmp_path / f"care.format-{len(MIGRATIONS) + 1}.backup.db") as backup:
        assert backup.format() == len(MIGRATIONS) + 1 and len(backup.crop_rows(Selection())) == 3
        assert "note" not in backup.rows("SELECT * FROM individuals")[0]
    with pytest.raises(CareError, match="newer"):
        Catalog(path)


def test_a_failing_step_leaves_the_old_format_whole(tmp_path, monkeypatch):
    path = tmp_path / "care.db"
    older(path)

    def failing(db):
        db["crops"].add_column("extra", str)
        db["crops"].insert_all([])
        raise RuntimeError("power cut")

    monkeypatch.setattr(store, "MIGRATIONS", [*MIGRATIONS, add_notes, failing])
    with pytest.raises(RuntimeError):
        Catalog(path)
    monkeypatch.setattr(store, "MIGRATIONS", [*MIGRATIONS, add_notes])
    with Catalog(path) as catalog:  # the first step stands, the second left nothing
        assert catalog.format() == len(MIGRATIONS) + 2
        assert "extra" not in catalog.crop(1) and catalog.names_of_crops() == {1: "Luna"}


# -- transactions and copies


def test_a_transaction_is_all_or_nothing(catalog):
    run = catalogs.detect_run(catalog)
    before = catalog.counts()
    with pytest.raises(RuntimeError), catalog.transaction():
        image = catalogs.add_photo(catalog, "a.png")
        catalogs.add_crops(catalog, run, image, "a.png", [catalogs.found(ANIMAL)])
        raise RuntimeError
    assert catalog.counts() == before


def test_a_full_disk_is_a_clear_refusal_and_loses_no_row(catalog):
    run = catalogs.detect_run(catalog)
    catalog.db.conn.execute(f"PRAGMA max_page_count = {catalog.value('PRAGMA page_count') + 4}")
    stored = 0
    with pytest.raises(CareError, match="full"):
        for number in range(100):
            name = f"{number}.png"
            image = catalogs.add_photo(catalog, name)
            catalogs.add_crops(catalog, run, image, name, [catalogs.found(ANIMAL)])
            stored += 1
    assert (
        0 < stored == catalog.value("SELECT count(*) FROM crops") == catalog.value("SELECT count(*) FROM crop_pixels")
    )
    assert catalog.integrity() == []


def test_a_backup_is_complete_and_never_overwrites(catalog, tmp_path):
    ids = catalogs.survey(catalog)
    target = tmp_path / "copy.db"
    catalog.backup(target)
    with Catalog(target) as copy:
        assert copy.pixels(ids) == catalog.pixels(ids) and copy.integrity() == []
    with pytest.raises(CareError, match="never overwrites"):
        catalog.backup(target)
    with pytest.raises(CareError, match="could not be copied"):
        catalog.backup(tmp_path / "absent" / "copy.db")
    assert sorted(path.name for path in tmp_path.iterdir() if "care" not in path.name) == ["copy.db"]
    assert free_name(target).name == "copy-2.db"


def test_expunge_finds_copies_in_the_unused_parts_of_pages(catalog):
    """SQLite moves rows between pages and now and then leaves their bytes behind, secure_delete or not.

    A row that was deleted with secure_delete off is such a copy, and there whenever the test is run.
    """
    run, generator = catalogs.detect_run(catalog), random.Random(5)
    image = catalogs.add_photo(catalog, "a.png")
    found = Detection(ANIMAL, 0.9, "cat", "animal")
    blobs = [generator.randbytes(3000) for _ in range(30)]  # on several pages
    ids = catalog.add_crops(run, image, [Crop(found, (0, 0, 9, 9), blob, (9, 9)) for blob in blobs])
    catalog.db.conn.execute("PRAGMA secure_delete = OFF")
    catalog.db.conn.execute("DELETE FROM crop_pixels WHERE crop_id = ?", (ids[-1],))
    catalog.db.conn.execute("PRAGMA secure_delete = ON")
    assert catalog.checkpoint()
    assert blobs[-1][200:2800] in catalog.path.read_bytes()
    assert catalog.expunge()
    written = catalog.path.read_bytes()
    assert not any(blobs[-1][i : i + 12] in written for i in range(0, 2988, 12))
    assert catalog.pixels(ids) == dict(zip(ids[:-1], blobs[:-1], strict=True)) and catalog.integrity() == []


def test_what_stands_in_the_way_of_expunging_leaves_it_to_be_done(catalog):
    said = []
    ids = catalogs.survey(catalog, 2)
    catalog.notice = said.append
    assert catalog.expunge() and catalog.rows("SELECT * FROM leftovers") == []
    with Catalog(catalog.path) as reader:
        reader.db.conn.execute("BEGIN")
        reader.value("SELECT count(*) FROM crop_pixels")
        catalog.db.conn.execute("PRAGMA busy_timeout = 100")
        catalog.decide(Decision("category", crop_id=ids[0], value="person"))
        assert not catalog.expunge() and "care doctor" in said[0]
        reader.db.conn.execute("COMMIT")
    assert len(catalog.rows("SELECT * FROM leftovers")) == 1
    assert catalog.expunge() and catalog.rows("SELECT * FROM leftovers") == []
    size = catalog.path.stat().st_mtime_ns
    assert catalog.expunge() and catalog.path.stat().st_mtime_ns == size  # nothing to do


def test_that_pixels_are_to_be_expunged_outlives_the_process(tmp_path):
    """What is noted in the transaction that replaces pixels is there for whoever opens the file next."""
    with catalogs.new(tmp_path / "care.db") as catalog:
        [first, _] = catalogs.survey(catalog, 2)
        with pytest.raises(RuntimeError), catalog.transaction():
            catalog.replace_pixels(first, b"\xff\xd8 other")
            raise RuntimeError
        assert catalog.rows("SELECT * FROM leftovers") == []
        catalog.replace_pixels(first, b"\xff\xd8 other")
    with Catalog(catalog.path) as later:
        assert len(later.rows("SELECT * FROM leftovers")) == 1 and later.expunge()
        assert later.rows("SELECT * FROM leftovers") == [] and later.pixels([first]) == {first: b"\xff\xd8 other"}


# -- what SQLite refuses


def test_damaged_pages_and_numbers_too_large_are_said_in_words(tmp_path):
    with catalogs.new(tmp_path / "care.db") as catalog:
        catalogs.survey(catalog, 4)
        [root] = catalog.rows("SELECT rootpage FROM sqlite_master WHERE name = 'crops'")
    data = bytearray(catalog.path.read_bytes())
    start = (root["rootpage"] - 1) * 16384
    data[start : start + 300] = bytes(range(150)) * 2
    catalog.path.write_bytes(data)
    with Catalog(catalog.path) as damaged:
        with pytest.raises(CareError, match=r"is damaged.*care doctor"):
            damaged.crop_rows(Selection())
        with pytest.raises(CareError, match="that large"):
            damaged.value("SELECT ?", (2**63,))
        with pytest.raises(sqlite3.OperationalError, match="no such table"):  # our own mistake stays one
            damaged.value("SELECT * FROM absent")


def test_a_locked_catalog_is_said_in_words(catalog):
    with Catalog(catalog.path) as other:
        other.db.conn.execute("BEGIN IMMEDIATE")
        catalog.db.conn.execute("PRAGMA busy_timeout = 10")
        with pytest.raises(CareError, match="locked"):
            catalogs.detect_run(catalog)
        other.db.conn.execute("ROLLBACK")


# -- runs


def test_a_run_is_its_command_model_and_settings(catalog):
    spec = catalogs.DETECTOR
    first = catalog.begin_run("detect", {"size": 640, "iou": 0.7}, spec, paths=["a"])
    assert catalog.begin_run("detect", {"iou": 0.7, "size": 640}, spec, paths=["b"], device="cuda") == first
    assert catalog.begin_run("detect", {"size": 640, "iou": 0.7}, replace(spec, name="renamed")) == first
    others = [
        catalog.begin_run("detect", {"size": 641, "iou": 0.7}, spec),
        catalog.begin_run("detect", {"size": 640, "iou": 0.7}, replace(spec, sha256="f" * 64)),
        catalog.begin_run("index", {"size": 640, "iou": 0.7}, spec),
        catalog.begin_run("detect", {"size": 640, "iou": 0.7}),
    ]
    assert len({first, *others}) == 5
    executions = catalog.value("SELECT json_array_length(executions) FROM runs WHERE id = ?", (first,))
    assert executions == 3
    catalog.finish_run(others[0])
    catalog.finish_run(first)
    assert catalog.active_run() == first
    assert catalog.active_run(others[0]) == others[0]
    with pytest.raises(CareError, match="no detect run 99"):
        catalog.active_run(99)
    assert catalog.find_run("detect", {"iou": 0.7, "size": 641}, spec) == others[0]
    assert catalog.find_run("detect", {"size": 642}, spec) is None


def test_a_model_is_described_as_it_was_used_last(catalog):
    run = catalog.begin_run("detect", {}, catalogs.DETECTOR)
    assert catalog.shown_confidence(run) == 0.3
    assert catalog.begin_run("detect", {}, replace(catalogs.DETECTOR, shown=0.4, licence="MIT")) == run
    assert catalog.shown_confidence(run) == 0.4
    assert [row["licence"] for row in catalog.rows("SELECT licence FROM models")] == ["MIT"]


def test_embeddings_must_be_of_length_one_and_stay_in_their_run(pair):
    pair.add_embeddings(2, [1], np.array([[0.6, 0.8]], np.float32))
    np.testing.assert_array_equal(pair.embeddings(2).vectors, np.array([[0.6, 0.8]], np.float32))
    other = pair.begin_run("index", {"flip": True}, catalogs.EMBEDDER)
    assert pair.embeddings(other).ids.tolist() == [] and pair.without_embedding(other, [1, 2]) == [1]
    with pytest.raises(CareError, match="norm 1"):
        pair.add_embeddings(other, [1], np.array([[0.6, 0.9]], np.float32))
    with pytest.raises(sqlite3.IntegrityError, match=r"length\(vector\)"):
        pair.db.conn.execute("INSERT INTO embeddings VALUES (9, 2, 1, 3, x'00', NULL)")


def test_embeddings_are_read_in_pages(catalog, monkeypatch):
    monkeypatch.setattr(embeddings, "PAGE", 2)
    ids = catalogs.survey(catalog, 5)
    run = catalog.begin_run("index", {}, catalogs.EMBEDDER)
    vectors = np.eye(5, 8, dtype=np.float32)
    for chosen in ([3, 0], [4, 1, 2]):  # not in the order of the crops
        catalog.add_embeddings(run, [ids[i] for i in chosen], vectors[chosen])
    stored = catalog.embeddings(run)
    assert stored.ids.tolist() == ids
    np.testing.assert_array_equal(stored.vectors, vectors)
    plan = catalog.rows(
        "EXPLAIN QUERY PLAN SELECT vector FROM embeddings WHERE run_id = 1 AND crop_id > 0 ORDER BY crop_id LIMIT 9"
    )
    assert "B-TREE" not in str(plan)


# -- which crops commands read


def shifted(overlap: float):
    """ANIMAL moved to the right so that its IoU with ANIMAL is `overlap`."""
    x, y, w, h = ANIMAL
    return x + w * (1 - overlap) / (1 + overlap), y, w, h


def visible(catalog, **filters):
    return [row["crop"] for row in catalog.crop_rows(Selection(**filters))]


def test_crops_are_shown_from_the_models_confidence(catalog):
    image = catalogs.add_photo(catalog, "a.png")
    boxes = [(10.0 * n, 10.0, 8.0, 8.0) for n in range(3)]
    found = [catalogs.found(box, confidence=c) for box, c in zip(boxes, (0.29, 0.3, 0.9), strict=True)]
    weak, edge, strong = catalogs.add_crops(catalog, catalogs.detect_run(catalog), image, "a.png", found)
    assert visible(catalog) == [edge, strong]  # the test detector is shown from 0.3
    assert visible(catalog, confidence=0.05) == [weak, edge, strong]
    catalog.decide(Decision("species", crop_id=weak, value="cat"))
    assert visible(catalog) == [weak, edge, strong]
    assert visible(catalog, species="cat") == [weak]


@pytest.mark.parametrize(("overlap", "counts_as_it"), [(0.62, True), (0.58, False)])
def test_a_new_runs_crop_on_a_named_crop_counts_as_that_one(catalog, overlap, counts_as_it):
    image = catalogs.add_photo(catalog, "a.png")
    first = catalogs.detect_run(catalog, size=640)
    [named] = catalogs.add_crops(catalog, first, image, "a.png", [catalogs.found(ANIMAL)])
    catalog.decide(Decision("create", crop_id=named, value="Luna"))
    second = catalogs.detect_run(catalog, size=960)
    [again] = catalogs.add_crops(catalog, second, image, "a.png", [catalogs.found(shifted(overlap))])
    assert catalog.active_run() == second
    assert visible(catalog) == ([named] if counts_as_it else [named, again])
    assert visible(catalog, unnamed=True) == ([] if counts_as_it else [again])
    person = catalogs.found(ANIMAL, "person")
    third = catalogs.detect_run(catalog, size=1280)
    [body] = catalogs.add_crops(catalog, third, image, "a.png", [person])
    assert visible(catalog) == [named, body]  # another category is another thing


@pytest.mark.parametrize(("overlap", "is_that_body"), [(0.52, True), (0.48, False)])
def test_an_animal_of_a_new_run_on_a_decided_persons_body_is_not_shown(catalog, overlap, is_that_body):
    image = catalogs.add_photo(catalog, "a.png")
    [first] = catalogs.add_crops(catalog, catalogs.detect_run(catalog), image, "a.png", [catalogs.found(ANIMAL)])
    second = catalogs.detect_run(catalog, size=960)
    [again] = catalogs.add_crops(catalog, second, image, "a.png", [catalogs.found(shifted(overlap))])
    catalog.decide(Decision("category", crop_id=first, value="person"))
    assert visible(catalog) == ([first] if is_that_body else [first, again])


def test_a_decision_that_is_taken_back_shows_and_hides_nothing(catalog):
    image = catalogs.add_photo(catalog, "a.png")
    [old] = catalogs.add_crops(catalog, catalogs.detect_run(catalog), image, "a.png", [catalogs.found(ANIMAL)])
    second = catalogs.detect_run(catalog, size=960)
    [new] = catalogs.add_crops(catalog, second, image, "a.png", [catalogs.found(ANIMAL)])
    named = catalog.decide(Decision("create", crop_id=old, value="Luna"))
    assert visible(catalog) == [old]
    undo = catalog.decide(Decision("undo", undoes=named.id))
    assert visible(catalog) == [new]
    catalog.decide(Decision("undo", undoes=undo.id))
    assert visible(catalog) == [old]
    catalog.begin_meeting()
    catalog.meet([1])
    assert catalog.count_visible(second) == {"animal": 1}


def test_overlap_in_sql_is_the_iou_of_geometry(catalog):
    generator = np.random.default_rng(3)
    columns = "x REAL, y REAL, w REAL, h REAL"
    catalog.db.conn.execute(f"CREATE TEMP TABLE one ({columns})")
    catalog.db.conn.execute(f"CREATE TEMP TABLE other ({columns})")
    boxes = generator.uniform(1, 9, (2, 40, 4))
    for table, rows in zip(("one", "other"), boxes, strict=True):
        catalog.db.conn.executemany(f"INSERT INTO {table} VALUES (?, ?, ?, ?)", rows.tolist())
    for least in (0.2, 0.5):
        sql = f"SELECT sum({crops.overlap('one', 'other', least)}) FROM one, other"
        assert catalog.value(sql) == (geometry.iou(*boxes) >= least).sum() > 10


def test_imported_crops_are_always_shown(catalog):
    image = catalogs.add_photo(catalog, "a.png")
    run = catalog.begin_run("import", {"dataset": "lions"})
    [imported] = catalogs.add_crops(catalog, run, image, "a.png", [catalogs.found(ANIMAL, confidence=0.1)])
    assert visible(catalog) == [imported]
    catalogs.detect_run(catalog)
    assert visible(catalog) == [imported]


def test_a_decided_persons_box_is_told_to_later_runs(pair):
    assert pair.decided_people(1) == []  # the model's own people are in every run's own boxes
    pair.decide(Decision("category", crop_id=1, value="person"))
    assert pair.decided_people(1) == [ANIMAL]


# -- images and their files


def test_an_image_known_from_results_becomes_one_with_its_bytes(catalog):
    source = catalog.add_source("v", b"r", "r", "/r")
    run = catalog.begin_run("import", {"file": "results.json"})
    photo = Photo("a" * 64, 10, width=100, height=100, captured_at="2024-05-01 12:00:00")
    with catalog.transaction():  # results name a.jpg and b.jpg, of which nobody has seen the bytes
        unseen = [catalog.value("INSERT INTO images (state) VALUES ('unseen') RETURNING id") for _ in "ab"]
        files = [
            catalog.add_file(source, name, name.decode(), 0, 0, image_id=image)
            for name, image in zip((b"a.jpg", b"b.jpg"), unseen, strict=True)
        ]
        found = Crop(Detection((1.0, 1.0, 9.0, 9.0), 0.9, "animal", "animal"), (0, 0, 11, 11))
        crops = [catalog.add_crops(run, image, [found])[0] for image in unseen]
        first = catalog.add_image(photo, None, catalog.unseen_image(unseen[0]))
    assert first == unseen[0] and catalog.unseen_image(first) is None
    assert catalog.rows("SELECT sha256, state FROM images WHERE id = ?", (first,)) == [
        {"sha256": "a" * 64, "state": "ok"}
    ]
    with catalog.transaction():  # b.jpg has the same bytes: its row gives all it has to the first
        assert catalog.add_image(photo, None, catalog.unseen_image(unseen[1])) == first
    assert catalog.value("SELECT count(*) FROM images") == 1
    assert catalog.rows("SELECT id, image_id FROM crops") == [{"id": crops[0], "image_id": first}]  # said once
    owners = catalog.rows("SELECT id, image_id FROM image_files ORDER BY id")
    assert [(row["id"], row["image_id"]) for row in owners] == [(file, first) for file in files]
    assert catalog.undone_images(run, [first]) == [] and catalog.broken_references() == []


def test_of_two_crops_that_become_one_the_decided_one_stays(catalog):
    run = catalog.begin_run("detect", {}, catalogs.DETECTOR)
    other = catalog.begin_run("detect", {"size": 960}, catalogs.DETECTOR)
    found = Crop(Detection((1.0, 1.0, 9.0, 9.0), 0.9, "animal", "animal"), (0, 0, 11, 11))
    with catalog.transaction():
        seen = catalog.add_image(Photo("a" * 64, 10), None)
        unseen = catalog.value("INSERT INTO images (state) VALUES ('unseen') RETURNING id")
        north = catalog.add_deployment("north")
        catalog.db.conn.execute("UPDATE images SET deployment_id = ? WHERE id = ?", (north, unseen))
        catalog.add_crops(run, seen, [found])
        [decided] = catalog.add_crops(run, unseen, [found])
        [alone] = catalog.add_crops(other, unseen, [found])
    catalog.decide(Decision("create", crop_id=decided, value="Luna"))
    with catalog.transaction():
        assert catalog.add_image(Photo("a" * 64, 10), None, unseen) == seen
    assert catalog.rows("SELECT id, image_id FROM crops ORDER BY id") == [
        {"id": decided, "image_id": seen}, {"id": alone, "image_id": seen}]  # fmt: skip
    assert catalog.value("SELECT deployment_id FROM images") == north and catalog.broken_references() == []


def test_files_not_met_by_a_whole_scan_are_gone_until_met_again(catalog):
    source, other = catalog.add_source("v", b"r", "r", "/r"), catalog.add_source("w", b"r", "r", "/r")
    image = catalogs.add_photo(catalog, "x.png")
    with catalog.transaction():
        a, b = (catalog.add_file(source, name, name.decode(), 1, 1, image_id=image) for name in (b"a", b"b"))
        c = catalog.add_file(other, b"a", "a", 1, 1, image_id=image)  # another card, mounted at the same place

    def scan(met, whole):
        catalog.begin_meeting()
        catalog.meet(met)
        newly = catalog.finish_meeting(source, whole)
        gone = {row["id"] for row in catalog.rows("SELECT id FROM image_files WHERE gone_at IS NOT NULL")}
        return newly, gone

    assert scan([a, b], whole=True) == (0, set())
    assert scan([a], whole=False) == (0, set())  # a part was scanned: that says nothing of the rest
    assert scan([a], whole=True) == (1, {b})
    assert scan([a], whole=True) == (0, {b})
    assert scan([b], whole=False) == (0, set())
    assert scan([], whole=True) == (2, {a, b})
    assert c not in scan([b], whole=True)[1]


# -- deployments, bursts, events


def test_deployments_by_folder_get_a_name_of_their_own(catalog):
    one, two = (catalog.add_source(volume, b"", "", "/mnt") for volume in ("v", "w"))
    first = catalog.add_deployment("north", one, b"north")
    assert catalog.add_deployment("north", one, b"north") == first
    second = catalog.add_deployment("north", two, b"north")
    third = catalog.add_deployment("north", two, b"old/north")
    assert catalog.add_deployment("north") == first  # said by name: the one of that name
    fresh = catalog.add_deployment("south")
    names = {row["id"]: row["name"] for row in catalog.rows("SELECT id, name FROM deployments")}
    assert names == {first: "north", second: "north (2)", third: "north (3)", fresh: "south"}


def groups(catalog):
    rows = catalog.rows("SELECT id, burst_id, event_id FROM images ORDER BY id")
    return [(row["id"], row["burst_id"], row["event_id"]) for row in rows]


def test_bursts_and_events_by_hand(catalog):
    times = [
        "2024-05-01 23:40:00",  # 1
        "2024-05-01 23:41:00",  # 2: 60 s later, the same burst
        "2024-05-01 23:42:00.500",  # 3: 60.5 s later, another burst
        "2024-05-02 00:12:00.500",  # 4: 30 min later, over midnight: the same event
        "2024-05-02 00:42:01",  # 5: 30 min and half a second later: another
        None,  # 6: undated
        "2024-05-01 23:40:30",  # 7: seen last, between 1 and 2
    ]
    for number, time in enumerate(times):
        catalogs.add_photo(catalog, f"{number}.png", time)
    catalog.regroup(1)
    expected = [(1, 1, 1), (2, 1, 1), (3, 3, 1), (4, 4, 1), (5, 5, 5), (6, None, None), (7, 1, 1)]
    assert groups(catalog) == expected
    catalog.set_deployment(1, clock_shift_s=-86400 * 400)
    catalog.regroup(1)
    assert groups(catalog) == expected  # a shift moves all alike
    taken = [row["taken_at"] for row in catalog.rows("SELECT taken_at FROM timed_images ORDER BY id")]
    assert taken[:3] == ["2023-03-28 23:40:00", "2023-03-28 23:41:00", "2023-03-28 23:42:00.500"]
    assert taken[5] is None
    stored = [row["captured_at"] for row in catalog.rows("SELECT captured_at FROM images ORDER BY id")]
    assert stored == times  # verbatim, whatever the shift
    catalog.set_deployment(1, burst_gap_s=10, event_gap_s=61)
    catalog.regroup(1)
    assert groups(catalog) == [(1, 1, 1), (2, 2, 1), (3, 3, 1), (4, 4, 4), (5, 5, 5), (6, None, None), (7, 7, 1)]


def test_the_event_of_a_photo_from_outside(catalog):
    for number, minute in enumerate((0, 20, 55)):
        catalogs.add_photo(catalog, f"{number}.png", f"2024-05-01 12:{minute:02}:00", serial="H500")
    catalogs.add_photo(catalog, "other.png", "2024-05-01 12:10:00", deployment="south", serial="H501")
    catalog.regroup(1)
    catalog.regroup(2)
    assert catalog.event_images("H500", "2024-05-01 11:35:00") == {1, 2}  # within the gap of 1, whose event has 2
    assert catalog.event_images("H500", "2024-05-01 13:00:00") == {3}
    assert catalog.event_images("H500", "2024-05-01 15:00:00") == set()
    assert catalog.event_images(None, "2024-05-01 12:00:00") == set()
    assert catalog.event_images("H500", None) == set()
    loose = catalogs.add_photo(catalog, "loose.png", "2024-05-01 15:10:00", deployment=None, serial="H500")
    assert catalog.event_images("H500", "2024-05-01 15:00:00") == {loose}  # of no event, but of that time


def test_a_photo_without_a_deployment_joins_the_event_of_its_camera(catalog):
    loose = catalogs.add_photo(catalog, "a.png", "2024-05-01 12:00:00", deployment=None, serial="H500")
    catalogs.add_photo(catalog, "b.png", "2024-05-01 12:10:00", serial="H500")
    catalog.regroup(1)
    added = catalogs.add_photo(catalog, "c.png", "2024-05-01 12:05:00", deployment=None, serial="H500")
    catalog.take_event(added)
    assert groups(catalog)[added - 1][2] == groups(catalog)[1][2] is not None
    assert catalog.images_of_event(added) == {2, added} and groups(catalog)[loose - 1][2] is None
