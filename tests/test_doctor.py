"""`care doctor`: each kind of damage is found, named, and answered with what to do."""

from __future__ import annotations

import hashlib
import json
import shutil
import sys

import catalogs
import numpy as np
import pytest

from care_cli import cli
from care_cli.catalog import Catalog
from care_cli.decisions import Decision
from care_cli.errors import CareError
from care_cli.records import ModelSpec, NamedPoint
from care_cli.stages import doctor
from care_cli.volumes import volume_of


@pytest.fixture(scope="module")
def blank(tmp_path_factory):
    """A sound catalog: four photos on a card that is there, two named animals, an index."""
    folder = tmp_path_factory.mktemp("blank")
    weights = folder / "weights.safetensors"
    weights.write_bytes(b"weights")
    spec = ModelSpec("mine", "embedder", "care", sha256=hashlib.sha256(b"weights").hexdigest(), file=str(weights))
    with catalogs.new(folder / "care.db") as catalog:
        run = catalog.begin_run("import", {"dataset": "test"})
        for number in range(4):
            name = f"IMG_{number}.PNG"
            image = catalogs.add_photo(catalog, name, f"2024-05-01 0{number}:00:00", folder=folder / "card")
            catalogs.add_crops(catalog, run, image, name, [catalogs.found((40.0, 30.0, 80.0, 60.0))])
        catalog.finish_run(run)
        index = catalog.begin_run("index", {}, spec)
        catalog.add_embeddings(index, [1, 2, 3, 4], np.eye(4, 8, dtype=np.float32))
        catalog.finish_run(index)
        catalog.decide(Decision("create", crop_id=1, value="Asha"))
        catalog.decide(Decision("create", crop_id=2, value="Bindi"))
        volume = volume_of(folder / "card").id
        catalog.db.conn.execute("UPDATE sources SET volume = ?", (volume,))
    return folder / "care.db"


@pytest.fixture
def path(blank, tmp_path, monkeypatch):
    monkeypatch.setenv("CARE_MODELS", str(tmp_path / "cache"))
    return shutil.copy(blank, tmp_path / "care.db")


@pytest.fixture
def catalog(path):
    with Catalog(path) as opened:
        yield opened


def run(path, monkeypatch, capsys, *arguments):
    """`care doctor` on a catalog: exit code, what it printed, what it said."""
    monkeypatch.setattr(sys, "argv", ["care", "--catalog", str(path), "doctor", *map(str, arguments)])
    with pytest.raises(SystemExit) as end:
        cli.main()
        sys.exit(0)
    out, err = capsys.readouterr()
    assert "Traceback" not in err
    return end.value.code, out, err


def topics(report):
    return [(finding["level"], finding["topic"]) for finding in report["findings"]]


def test_a_sound_catalog_is_healthy(path, monkeypatch, capsys):
    code, out, _ = run(path, monkeypatch, capsys, "--json")
    report = json.loads(out)
    assert (code, report["verdict"], report["findings"]) == (0, "healthy", [])
    assert report["counts"]["crops"] == 4 and report["counts"]["decisions"] == 2
    [source] = report["sources"]
    assert (source["connected"], source["files"], source["missing"]) == (True, 4, 0)
    code, out, _ = run(path, monkeypatch, capsys)
    assert code == 0 and "healthy" in out and "4 images" in out


# -- what another program may do to the tables: statement, level, topic

DAMAGE = {
    "a wrong name": ("UPDATE crop_identity SET individual_id = 2 WHERE crop_id = 1", "problem", "names"),
    "a wrong species": ("UPDATE crops SET species = 'cat' WHERE id = 3", "problem", "names"),
    "a row that points nowhere": ("DELETE FROM images WHERE id = 4", "problem", "references"),
    "a vector": ("UPDATE embeddings SET vector = zeroblob(32) WHERE crop_id = 2", "problem", "embeddings"),
    "a vector of NaN": (
        f"UPDATE embeddings SET vector = x'{'0000C07F' * 8}' WHERE crop_id = 2",
        "problem",
        "embeddings",
    ),
    "pixels": ("UPDATE crop_pixels SET jpeg = x'00' WHERE crop_id = 2", "problem", "pixels"),
    "a trigger": ("DROP TRIGGER pixels_of_animals_only", "problem", "schema"),
    "an index": ("DROP INDEX crops_by_image", "problem", "schema"),
    "no pixels": ("DELETE FROM crop_pixels WHERE crop_id = 2", "advice", "pixels"),
    "an interrupted run": ("UPDATE runs SET finished_at = NULL WHERE id = 2", "advice", "runs"),
    "old keypoints": (
        """UPDATE runs SET settings = '{"keypoints": {"names": ["nose"], "mode": "ckpe"}}' WHERE command = 'index'""",
        "advice",
        "embeddings",
    ),
    "a clock": ("UPDATE images SET captured_at = '1992-01-01 00:00:00' WHERE id = 1", "advice", "clock"),
    "weights": ("UPDATE models SET spec = json_set(spec, '$.file', '/absent.pt')", "advice", "models"),
    "an orphan": ("INSERT INTO images (state) VALUES ('unseen')", "advice", "orphans"),
    "an unread file": ("UPDATE image_files SET failure = 'I/O error' WHERE id = 1", "advice", "photos"),
}


@pytest.mark.parametrize("what", DAMAGE)
def test_each_kind_of_damage_is_found(catalog, what):
    statement, level, topic = DAMAGE[what]
    execute = catalog.db.conn.execute
    execute("PRAGMA foreign_keys = OFF")
    execute(statement)
    report = doctor.examine(catalog)
    assert (level, topic) in topics(report)
    assert report["verdict"] == ("damaged" if level == "problem" else "advice")
    assert all(finding["action"] for finding in report["findings"])
    words = "\n".join(doctor.in_words(report))
    assert all(finding["text"] in words for finding in report["findings"])


def test_a_person_with_pixels_is_found(catalog):
    execute = catalog.db.conn.execute
    [sql] = execute("SELECT sql FROM sqlite_master WHERE name = 'no_longer_an_animal'").fetchone()
    execute("DROP TRIGGER no_longer_an_animal")
    execute("UPDATE crops SET category = 'person', model_category = 'person' WHERE id = 3")
    execute(sql)
    report = doctor.examine(catalog)
    assert ("problem", "people") in topics(report) and report["verdict"] == "damaged"


def test_decisions_at_odds_are_advice(catalog):
    catalog.decide(Decision("different", individual_id=1, other_id=2))
    catalog.decide(Decision("merge", individual_id=1, other_id=2))
    catalog.decide(Decision("name", crop_id=3, individual_id=2))
    report = doctor.examine(catalog)
    assert (report["verdict"], topics(report)) == ("advice", [("advice", "contradiction")])
    catalog.decide(Decision("undo", undoes=2))
    assert {topic for _, topic in topics(doctor.examine(catalog))} == {"conflict"}
    catalog.decide(Decision("unname", crop_id=1))
    assert {topic for _, topic in topics(doctor.examine(catalog))} == {"conflict", "individuals"}


def test_an_animal_that_another_run_calls_a_person_is_told_until_someone_decides(catalog):
    later = catalogs.detect_run(catalog)
    for image, (x, confidence) in enumerate([(44.0, 0.15), (44.0, 0.05), (160.0, 0.9)], 1):
        body = catalogs.found((x, 30.0, 80.0, 60.0), "person", confidence)
        catalogs.add_crops(catalog, later, image, f"IMG_{image - 1}.PNG", [body])
    catalog.decide(Decision("undo", undoes=1))
    report = doctor.examine(catalog)
    [finding] = [one for one in report["findings"] if one["topic"] == "people"]
    assert (finding["level"], "crops 1." in finding["text"]) == ("advice", True)
    assert report["counts"]["individuals"] == 1  # the one whose making is undone is none
    catalog.decide(Decision("category", crop_id=1, value="animal"))
    assert "people" not in {topic for _, topic in topics(doctor.examine(catalog))}


def test_copies_of_deleted_pixels_are_removed(catalog):
    catalog.db.conn.execute("UPDATE crops SET category = 'person', model_category = 'person' WHERE id = 3")
    assert len(catalog.rows("SELECT * FROM leftovers")) == 1  # as a killed command leaves it
    doctor.examine(catalog)
    assert catalog.rows("SELECT * FROM leftovers") == []


def test_files_are_looked_for_in_pages(catalog):
    paths, after = [], b""
    while page := catalog.files_of_source(1, after, limit=3):
        paths += [row["path"] for row in page]
        after = page[-1]["path_bytes"]
    assert paths == [f"IMG_{number}.PNG" for number in range(4)]


def test_files_gone_from_a_connected_card_and_a_card_that_is_not_there(catalog, blank, tmp_path):
    card = tmp_path / "card"
    shutil.copytree(blank.parent / "card", card)
    catalog.db.conn.execute("UPDATE sources SET location = ?", (card.as_posix(),))
    assert doctor.examine(catalog)["verdict"] == "healthy"
    (card / "IMG_2.PNG").unlink()
    report = doctor.examine(catalog)
    assert topics(report) == [("advice", "files")] and "1 files" in report["findings"][0]["text"]
    assert report["sources"][0]["examples"] == ["IMG_2.PNG"]
    catalog.db.conn.execute("UPDATE sources SET volume = 'uuid:another card at this place'")
    report = doctor.examine(catalog)
    assert report["verdict"] == "healthy" and not report["sources"][0]["connected"]
    shutil.rmtree(card)
    report = doctor.examine(catalog)
    assert report["verdict"] == "healthy" and "not connected" in "\n".join(doctor.in_words(report))


# -- damaged files


def test_a_file_that_sqlite_finds_damaged(path, monkeypatch, capsys):
    data = bytearray(path.read_bytes())
    with Catalog(path) as catalog:
        [root] = catalog.rows("SELECT rootpage FROM sqlite_master WHERE name = 'crops'")
    start = (root["rootpage"] - 1) * 16384
    data[start : start + 200] = bytes(range(200))
    path.write_bytes(data)
    code, out, err = run(path, monkeypatch, capsys, "--repair", "--backup", path.with_name("copy.db"))
    assert code in (1, 2) and ("DAMAGED" in out or "damaged" in err)
    assert not path.with_name("copy.db").exists()


@pytest.mark.parametrize("share", [0.02, 0.3, 0.6, 0.95])
def test_a_truncated_catalog_gets_clear_words(path, monkeypatch, capsys, share):
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    code, out, err = run(path, monkeypatch, capsys)
    assert (code == 1 and "SQLite finds the file damaged" in out) or (code == 2 and "damaged" in err)


def test_files_that_are_no_catalog(tmp_path, monkeypatch, capsys):
    (tmp_path / "notes.txt").write_text("not a catalog " * 40)
    for name, expected in (("notes.txt", "cannot be opened"), ("absent.db", "There is no catalog")):
        code, out, err = run(tmp_path / name, monkeypatch, capsys)
        assert code == 2 and expected in err and out == ""
    assert not (tmp_path / "absent.db").exists()


# -- backup and repair


def test_backup(path, tmp_path, monkeypatch, capsys):
    target = tmp_path / "copy.db"
    code, out, _ = run(path, monkeypatch, capsys, "--backup", target)
    assert code == 0 and "written and checked" in out
    with Catalog(path) as catalog, Catalog(target) as copy:
        assert copy.counts() == catalog.counts() and copy.divergences() == []
    before = target.read_bytes()
    code, _, err = run(path, monkeypatch, capsys, "--backup", target)
    assert code == 2 and "never overwrites" in err and target.read_bytes() == before
    code, _, err = run(path, monkeypatch, capsys, "--backup", tmp_path / "absent" / "copy.db")
    assert code == 2 and "could not be copied" in err


def test_a_backup_is_complete_while_another_program_writes(catalog, path, tmp_path):
    with Catalog(path) as writer, writer.transaction():
        writer.decide(Decision("create", crop_id=3, value="Chui"))
        catalog.backup(tmp_path / "copy.db")
    with Catalog(tmp_path / "copy.db") as copy:  # as it was before the unfinished transaction
        assert copy.names_of_crops() == {1: "Asha", 2: "Bindi"} and copy.divergences() == []
    assert catalog.names_of_crops() == {1: "Asha", 2: "Bindi", 3: "Chui"}


def test_repair_rebuilds_names_after_a_backup(path, tmp_path, monkeypatch, capsys):
    with Catalog(path) as catalog:
        catalog.db.conn.execute("UPDATE crop_identity SET individual_id = 2 WHERE crop_id = 1")
        catalog.db.conn.execute("UPDATE crops SET species = 'cat' WHERE id = 4")
    (tmp_path / "care.before-repair.db").write_text("taken")
    code, out, _ = run(path, monkeypatch, capsys)
    assert code == 1 and "care doctor --repair" in out
    code, out, _ = run(path, monkeypatch, capsys, "--repair", "--json")
    report = json.loads(out)
    assert (code, report["verdict"]) == (0, "healthy")
    assert "the name of crop 1" in "".join(report["repaired"]) and "care.before-repair-2.db" in report["repaired"][0]
    with Catalog(path) as catalog, Catalog(tmp_path / "care.before-repair-2.db") as kept:
        assert catalog.names_of_crops() == {1: "Asha", 2: "Bindi"} and catalog.crop(4)["species"] is None
        assert kept.names_of_crops() == {1: "Bindi", 2: "Bindi"}
    code, out, _ = run(path, monkeypatch, capsys, "--repair", "--json")
    assert code == 0 and json.loads(out)["repaired"] == []
    assert len(list(tmp_path.glob("*before-repair*"))) == 2  # nothing to repair, nothing copied


def test_the_copy_of_a_damaged_catalog_is_no_backup(catalog, tmp_path):
    catalog.db.conn.execute("PRAGMA writable_schema = ON")
    catalog.db.conn.execute("UPDATE sqlite_master SET rootpage = 2 WHERE name = 'crop_pixels'")
    with pytest.raises(CareError, match="damaged"):
        catalog.backup(tmp_path / "copy.db")
    assert not list(tmp_path.glob("copy*"))


# -- templates and points


@pytest.fixture
def annotated(catalog):
    """A template on crop 1 and a point of crop 2 carried from it."""
    eyes = [NamedPoint("left_eye", 60, 50.5, "right_eye"), NamedPoint("right_eye", 90, 50.5, "left_eye")]
    catalog.add_template("cat", 1, eyes, "expert", about={"file": "eyes.json"})
    catalog.correct_keypoint(2, "left_eye", 320.0, 240.0)  # the very corner
    return catalog


def test_sound_templates_and_points_are_healthy(annotated):
    report = doctor.examine(annotated)
    assert report["verdict"] == "healthy" and report["counts"]["templates"] == report["counts"]["keypoints"] == 1


@pytest.mark.parametrize(
    ("sql", "topic", "words"),
    [
        ("UPDATE templates SET points = json_replace(points, '$[0].x', 400)", "templates", "cat: 'left_eye' at (400"),
        ("UPDATE templates SET points = json_replace(points, '$[1].mirror', null)", "templates", "mirror"),
        ("UPDATE templates SET points = json_remove(points, '$[1]')", "templates", "mirror"),
        ("UPDATE keypoints SET y = 242", "keypoints", "1 crops lie outside their photos: crops 2"),
        ("UPDATE keypoints SET x = 9e999", "values", "the point 1"),
        ("UPDATE templates SET points = '{}'", "values", "the points of template 1"),
        ("UPDATE templates SET points = '[3]'", "values", "the points of template 1"),
        ("UPDATE templates SET points = json_replace(points, '$[0].x', 'left')", "values", "the points of template 1"),
        ("UPDATE templates SET points = json_remove(points, '$[1].mirror')", "values", "the points of template 1"),
        ("UPDATE templates SET points = json_insert(points, '$[1].z', 1)", "values", "the points of template 1"),
        ("UPDATE templates SET about = '[]'", "values", "the origin of template 1"),
    ],
)
def test_points_that_cannot_be_are_found(annotated, sql, topic, words):
    annotated.db.conn.execute(sql)
    report = doctor.examine(annotated)
    assert topics(report) == [("problem", topic)] and words in report["findings"][0]["text"]
