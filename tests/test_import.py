"""`care import dataset`: names from folders and tables, once and never twice, whatever happens between."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from typer.testing import CliRunner

from care_cli.catalog import Catalog
from care_cli.errors import CareError
from care_cli.exchange.dataset_table import FLANK_WORDS, Dataset, flank
from care_cli.images import decode_jpeg
from care_cli.records import Crop, Detection, ModelSpec, Selection
from care_cli.stages import import_dataset
from care_cli.stages.import_dataset import run


def photo(path: Path, seed: int, size=(60, 40), **save) -> bytes:
    """A random photo at `path`; returns its bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    grain = np.random.default_rng(seed).integers(0, 255, (size[1] // 4, size[0] // 4, 3), np.uint8)
    Image.fromarray(grain).resize(size, Image.Resampling.BILINEAR).save(path, save.pop("format", "JPEG"), **save)
    return path.read_bytes()


@pytest.fixture
def catalog(tmp_path):
    with Catalog(tmp_path / "care.db", create=True) as opened:
        yield opened


def named(catalog: Catalog) -> dict[str, str | None]:
    return {row["path"]: row["individual"] for row in catalog.crop_rows(Selection())}


def contents(catalog: Catalog) -> list:
    """Everything that an import writes, without ids and times."""
    pixels = catalog.pixels(row["crop"] for row in catalog.crop_rows(Selection()))
    rows = [
        (row["path"], row["individual"], row["species"], row["flank"], row["x"], row["y"], row["w"], row["h"],
         hashlib.sha256(pixels[row["crop"]]).hexdigest())
        for row in catalog.crop_rows(Selection())
    ]  # fmt: skip
    log = [(entry.action, entry.value, entry.source, str(entry.evidence)) for entry in catalog.log()]
    return [sorted(map(str, rows)), sorted(map(str, log)), catalog.counts() | {"runs": 1}]


def test_folders_are_names_and_a_second_run_adds_nothing(catalog, tmp_path):
    data = tmp_path / "lions"
    kept = photo(data / "Ayo" / "1.png", 1)  # a JPEG under another name
    photo(data / "Ayo" / "2.jpg", 2)
    photo(data / "Bea" / "deeper" / "Cai" / "1.jpg", 3)
    photo(data / "unknown" / "1.jpg", 4)
    photo(data / "lost.jpg", 5)
    first = run(catalog, Dataset(data, species="lion"))
    assert {key: first[key] for key in ("images", "new", "known", "failed", "crops", "individuals", "unnamed")} == {
        "images": 5, "new": 5, "known": 0, "failed": 0, "crops": 5, "individuals": 2, "unnamed": 2}  # fmt: skip
    assert named(catalog) == {"Ayo/1.png": "Ayo", "Ayo/2.jpg": "Ayo", "Bea/deeper/Cai/1.jpg": "Cai",
                              "unknown/1.jpg": None, "lost.jpg": None}  # fmt: skip
    [row] = [row for row in catalog.crop_rows(Selection()) if row["path"] == "Ayo/1.png"]
    assert catalog.pixels([row["crop"]])[row["crop"]] == kept
    assert (row["x"], row["y"], row["w"], row["h"], row["species"]) == (0, 0, 60, 40, "lion")
    assert sorted((entry.action, entry.value) for entry in catalog.log()) == [
        ("create", "Ayo"), ("create", "Cai"), ("name", None)]  # fmt: skip
    before = contents(catalog)
    second = run(catalog, Dataset(data, species="lion"))
    assert (second["new"], second["known"], second["crops"], second["run"]) == (0, 5, 5, first["run"])
    assert contents(catalog) == before and catalog.divergences() == []
    assert catalog.rows("SELECT path FROM image_files WHERE gone_at IS NOT NULL") == []


def test_a_set_that_grows_or_moves_adds_only_what_is_new(catalog, tmp_path):
    data = tmp_path / "lions"
    photo(data / "Ayo" / "1.jpg", 1)
    run(catalog, Dataset(data))
    photo(data / "Ayo" / "2.jpg", 2)
    assert run(catalog, Dataset(data))["new"] == 1
    (tmp_path / "elsewhere").mkdir()
    data.rename(tmp_path / "elsewhere" / "lions")
    moved = run(catalog, Dataset(tmp_path / "elsewhere" / "lions"))
    assert (moved["new"], moved["known"], len(catalog.log())) == (0, 2, 2)


def test_the_same_bytes_are_one_image_and_another_name_for_them_is_told(catalog, tmp_path):
    data = tmp_path / "set"
    photo(data / "Ayo" / "1.jpg", 1)
    (data / "Bea").mkdir()
    (data / "Bea" / "copy.jpg").write_bytes((data / "Ayo" / "1.jpg").read_bytes())
    found = run(catalog, Dataset(data))
    assert (found["images"], found["crops"], found["individuals"]) == (1, 1, 1)
    assert len(found["conflicts"]) == 1 and "Bea" in found["conflicts"][0] and "Ayo" in found["conflicts"][0]
    assert catalog.counts()["image_files"] == 2


def write_table(path: Path, rows: list[dict], delimiter=",") -> Path:
    with path.open("w", encoding="utf-8-sig", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), delimiter=delimiter)
        writer.writeheader()
        writer.writerows(rows)
    return path


def test_a_table_with_boxes_dates_flanks_events_and_a_missing_file(catalog, tmp_path):
    data = tmp_path / "set"
    photo(data / "a.jpg", 1, (200, 100))
    photo(data / "sub" / "b.jpg", 2, (200, 100))
    photo(data / "c.jpg", 3)
    base = {"part": "train", "x": "", "y": "", "w": "", "h": "", "day": "", "side": "", "visit": "", "kind": ""}
    rows = [
        base | {"file": "a.jpg", "who": "Zoë", "x": "20", "y": "10", "w": "50", "h": "40", "day": "2021-05-06",
                "side": "Left flank", "visit": "v1", "kind": "nyala"},
        base | {"file": "a.jpg", "who": "-1", "x": "120", "y": "10", "w": "500", "h": "40", "visit": "v1"},
        base | {"file": "sub\\b.jpg", "who": "Zoë", "day": "2021:05:06 07:08:09.5", "side": "R", "visit": "v1"},
        base | {"file": "gone.jpg", "who": "Ayo"},
        base | {"file": "../set2/a.jpg", "who": "Ayo"},
        base | {"file": "c.jpg", "who": "Cai", "part": "test"},
    ]  # fmt: skip
    table = write_table(tmp_path / "t.csv", rows, ";")
    dataset = Dataset(
        data, table, "file", "who", "part", "train", "day", "side", "visit", "x,y,w,h", "kind", "antelope"
    )
    found = run(catalog, dataset)
    assert (found["images"], found["crops"], found["failed"], found["individuals"], found["unnamed"]) == (2, 3, 2, 1, 1)
    assert "gone.jpg: No such file or directory" in found["failures"]
    crops = {(row["path"], row["x"]): row for row in catalog.crop_rows(Selection())}
    one, two, three = crops["a.jpg", 20], crops["a.jpg", 120], crops["sub/b.jpg", 0]
    assert (one["individual"], one["flank"], one["species"], one["taken_at"]) == (
        "Zoë", "left", "nyala", "2021-05-06 00:00:00")  # fmt: skip
    assert (two["individual"], two["w"], two["species"]) == (None, 80, "antelope")  # clipped to the photo
    assert (three["flank"], three["taken_at"], three["w"]) == ("right", "2021-05-06 07:08:09.5", 200)
    assert one["event"] == three["event"] == one["image"]
    cut = catalog.crop(one["crop"])  # 10 % of 50 x 40 on each side of 20, 10
    assert [cut[f"rect_{side}"] for side in "xywh"] == [15, 6, 60, 48]
    whole = np.asarray(Image.open(data / "a.jpg"), int)
    stored = np.asarray(Image.open(io.BytesIO(catalog.pixels([one["crop"]])[one["crop"]])), int)
    error, beside = (np.abs(stored - whole[6:54, x : x + 60]).mean() for x in (15, 17))
    assert error < 8 < 2 * error < beside  # one more JPEG generation apart, and not two pixels beside
    [entry] = [entry for entry in catalog.log() if entry.action == "create"]
    assert entry.evidence == {"dataset": "set", "row": {"file": "a.jpg", "who": "Zoë", "part": "train",
                              "day": "2021-05-06", "side": "Left flank", "visit": "v1", "kind": "nyala"}}  # fmt: skip
    again = run(catalog, dataset)
    assert (again["new"], again["failed"], again["crops"], len(catalog.log())) == (0, 2, 3, 2)
    # a corrected table is another run, and still makes nothing twice; a name that was missing comes
    rows[1]["who"] = "Bea"
    later = run(catalog, Dataset(data, write_table(table, rows, ";"), "file", "who", "part", "train", "day", "side",
                                 "visit", "x,y,w,h", "kind", "antelope"))  # fmt: skip
    assert (later["new"], later["crops"], later["individuals"], later["unnamed"]) == (0, 3, 2, 0)
    assert later["run"] != found["run"] and catalog.divergences() == []


def test_what_is_kept_as_it_is_and_what_is_encoded_anew(catalog, tmp_path):
    data = tmp_path / "set"
    small = photo(data / "A" / "small.jpg", 1)
    photo(data / "A" / "large.jpg", 2, (1200, 600))
    flat = photo(data / "A" / "flat.png", 3, format="PNG")
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = photo(data / "A" / "turned.jpg", 4, exif=exif)
    whole = photo(data / "A" / "cut.jpg", 5)
    (data / "A" / "cut.jpg").write_bytes(whole[: len(whole) * 2 // 3])
    (data / "A" / "broken.jpg").write_bytes(b"no photo at all")
    found = run(catalog, Dataset(data))
    assert (found["failed"], found["crops"], found["images"]) == (1, 5, 6)
    pixels = {row["path"]: catalog.pixels([row["crop"]])[row["crop"]] for row in catalog.crop_rows(Selection())}
    assert pixels["A/small.jpg"] == small
    assert Image.open(io.BytesIO(pixels["A/large.jpg"])).size == (800, 400)
    assert pixels["A/flat.png"] == flat and decode_jpeg(flat).size == (60, 40)
    assert catalog.bad_pixels() == []
    assert pixels["A/turned.jpg"] != turned
    assert Image.open(io.BytesIO(pixels["A/turned.jpg"])).size == (40, 60)  # upright
    assert Image.open(io.BytesIO(pixels["A/cut.jpg"])).size == (60, 40)
    again = run(catalog, Dataset(data))
    assert (again["failed"], again["new"], again["crops"]) == (1, 0, 5)


def test_a_person_known_in_the_photo_is_black_in_the_imported_crop(catalog, tmp_path):
    data = tmp_path / "set"
    photo(data / "A" / "1.jpg", 1, (100, 100))
    detected = catalog.begin_run("detect", {}, ModelSpec("m", "detector", "ultralytics", sha256="b" * 64))
    with catalog.transaction():
        from care_cli.images import read_photo

        image = catalog.add_image(read_photo(data / "A" / "1.jpg").photo, None)
        catalog.add_crops(
            detected, image, [Crop(Detection((10, 20, 30, 40), 0.15, "person", "person"), (7, 16, 36, 48))]
        )
    run(catalog, Dataset(data))
    [row] = [row for row in catalog.crop_rows(Selection()) if row["category"] == "animal"]
    stored = np.asarray(Image.open(io.BytesIO(catalog.pixels([row["crop"]])[row["crop"]])))
    assert stored[24:56, 14:36].max() < 30 and stored[70:, 60:].max() > 60


def test_names_of_two_sets_are_never_joined_unasked(catalog, tmp_path):
    for number, name in enumerate(("first", "second")):
        photo(tmp_path / name / "7" / "1.jpg", number)
    run(catalog, Dataset(tmp_path / "first"))
    with pytest.raises(CareError, match="--join"):
        run(catalog, Dataset(tmp_path / "second"))
    assert catalog.counts()["images"] == 1
    assert run(catalog, Dataset(tmp_path / "second", prefix="b-"))["individuals"] == 1
    assert sorted(row["individual"] for row in catalog.individual_rows()) == ["7", "b-7"]
    photo(tmp_path / "third" / "7" / "1.jpg", 9)
    run(catalog, Dataset(tmp_path / "third", join=True))
    assert sorted(row["individual"] for row in catalog.crop_rows(Selection())) == ["7", "7", "b-7"]


def test_names_are_composed_and_must_be_printable(catalog, tmp_path):
    data = tmp_path / "set"
    photo(data / "1.jpg", 1)
    photo(data / "Zoe\u0308" / "2.jpg", 2)  # as macOS writes a folder's name: e and the two dots
    table = write_table(tmp_path / "t.csv", [{"path": "1.jpg", "identity": "Zoe\u0308"}])
    run(catalog, Dataset(data, table))
    run(catalog, Dataset(data, join=True))
    assert [row["individual"] for row in catalog.individual_rows()] == ["Zo\u00eb"]
    assert catalog.find_individual("Zoe\u0308") == catalog.find_individual(" Zo\u00eb ")
    assert len(catalog.crop_rows(Selection(individual="Zoe\u0308"))) == 2
    table = write_table(tmp_path / "t.csv", [{"path": "1.jpg", "identity": "A\x07B"}])
    with pytest.raises(CareError, match=r"t.csv line 2: A name has .* printable"):
        run(catalog, Dataset(data, table))


def test_what_a_cell_may_hold(catalog, tmp_path):
    data = tmp_path / "set"
    photo(data / "1.jpg", 1)
    names = {"1.jpg": "B\u2028C"}  # a line separator of Unicode ends no row
    notes = "first\x0bsecond\x0cthird\nfourth"
    table = write_table(tmp_path / "t.csv", [{"path": "1.jpg", "note": notes, "identity": names["1.jpg"]}])
    assert run(catalog, Dataset(data, table))["failed"] == 0 and named(catalog) == names
    table = write_table(tmp_path / "t.csv", [{"path": "1.jpg", "identity": "x" * 200_000}])
    with pytest.raises(CareError, match=r"t.csv cannot be read as CSV, behind line 1: field larger"):
        run(catalog, Dataset(data, table))


def test_a_name_that_was_changed_by_hand_stays(catalog, tmp_path):
    from care_cli.decisions import Decision

    data = tmp_path / "set"
    photo(data / "A" / "1.jpg", 1)
    run(catalog, Dataset(data))
    [row] = catalog.crop_rows(Selection())
    catalog.decide(Decision("rename", individual_id=catalog.find_individual("A"), value="Amber"))
    run(catalog, Dataset(data))
    assert named(catalog) == {"A/1.jpg": "Amber"}
    catalog.decide(Decision("unname", crop_id=row["crop"]))
    run(catalog, Dataset(data, species="cat"))  # another run over the same photos
    assert named(catalog) == {"A/1.jpg": None}


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"path": Path("nowhere")}, "folder of photos"),
        ({"csv": Path("nowhere.csv")}, "cannot be read"),
        ({"identity_column": "nobody"}, "no column 'nobody'; it has: path, identity, day, box"),
        ({"date_column": "day"}, "t.csv line 2: a date is YYYY-MM-DD"),
        ({"box_columns": "box"}, "t.csv line 2: a box is x, y, width, height"),
        ({"box_columns": "box,day"}, "one column or four"),
        ({"split": "train"}, "--split-column"),
        ({"csv": None, "date_column": "day"}, "--csv FILE"),
    ],
)
def test_wrong_use_is_said_before_anything_is_written(catalog, tmp_path, monkeypatch, change, says):
    monkeypatch.chdir(tmp_path)
    data = tmp_path / "set"
    photo(data / "1.jpg", 1)
    table = write_table(tmp_path / "t.csv", [{"path": "1.jpg", "identity": "A", "day": "5/6/2021", "box": "1 2 3"}])
    with pytest.raises(CareError, match=says):
        run(catalog, Dataset(**({"path": data, "csv": table} | change)))
    assert catalog.counts()["images"] == catalog.counts()["runs"] == 0


def test_the_command_and_its_exit_codes(tmp_path, monkeypatch):
    from care_cli.cli import app

    monkeypatch.chdir(tmp_path)
    refused = CliRunner().invoke(app, ["import", "dataset", "nowhere"])
    assert isinstance(refused.exception, CareError) and not Path("care.db").exists()
    photo(Path("set/A/1.jpg"), 1)
    done = CliRunner().invoke(app, ["--json", "import", "dataset", "set"])
    assert done.exit_code == 0 and json.loads(done.stdout)["individuals"] == 1
    Path("set/A/2.jpg").write_bytes(b"")
    partly = CliRunner().invoke(app, ["--json", "import", "dataset", "set"])
    assert partly.exit_code == 1 and json.loads(partly.stdout)["failed"] == 1


@given(st.text())
def test_flanks_are_said_or_not(text):
    assert flank(text) in {*FLANK_WORDS.values(), None}


def test_flanks_by_their_words():
    said = {"Left": "left", "left_body": "left", "RIGHT-side": "right", "r": "right", "frontal": "front",
            "nose": None, "left/right": None, "": None, "unknown": "unknown"}  # fmt: skip
    assert {text: flank(text) for text in said} == said


KILL = """
import os, signal, sys
from pathlib import Path
from care_cli.catalog import Catalog
from care_cli.stages import import_dataset
import_dataset.BATCH = 3
moment, left = sys.argv[1], int(sys.argv[2])
place = {"write": (import_dataset, "_write"), "name": (Catalog, "decide"), "end": (Catalog, "finish_run")}[moment]
genuine = getattr(*place)
def killing(*arguments, **named):
    global left
    left -= 1
    if left < 0:
        os.kill(os.getpid(), getattr(signal, "SIGKILL", signal.SIGTERM))
    return genuine(*arguments, **named)
setattr(*place, killing)
with Catalog(Path(sys.argv[4]), create=True) as catalog:
    import_dataset.run(catalog, import_dataset.Dataset(Path(sys.argv[3])))
"""


def test_killed_anywhere_and_run_again_is_as_never_killed(tmp_path):
    data = tmp_path / "set"
    for number in range(10):
        photo(data / f"animal {number % 3}" / f"{number}.jpg", number)
    with Catalog(tmp_path / "whole.db", create=True) as catalog:
        run(catalog, Dataset(data))
        expected = contents(catalog)
    moments = [("write", 0), ("write", 4), ("name", 5), ("name", 9), ("end", 0)]
    for number, (moment, left) in enumerate(moments):
        file = tmp_path / f"killed {number}.db"
        done = subprocess.run(
            [sys.executable, "-c", KILL, moment, str(left), str(data), str(file)],
            env={**os.environ, "PYTHONPATH": str(Path(import_dataset.__file__).parents[2])},
            capture_output=True,
        )
        assert done.returncode != 0 and b"Traceback" not in done.stderr, done.stderr
        with Catalog(file) as catalog:
            assert catalog.divergences() == []
            half = catalog.counts()
            assert half["crops"] == half["decisions"] == half["crop_pixels"] and half["crops"] % 3 in (0, 1)
            run(catalog, Dataset(data))
            assert contents(catalog) == expected


def test_real_sets(catalog, shared):
    lions = shared / "data" / "reid" / "lion_data"
    with (lions / "metadata.csv").open(encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["original_split"] == "val"]
    found = run(
        catalog,
        Dataset(lions, lions / "metadata.csv", split_column="original_split", split="val",
                flank_column="body_part_from_filename", species="lion"),
    )  # fmt: skip
    assert found["failed"] == 0 and found["images"] == len({hashlib.sha256((lions / row["path"]).read_bytes()).digest()
                                                           for row in rows})  # fmt: skip
    assert named(catalog) == {row["path"]: row["identity"] for row in rows}
    stored = catalog.pixels(row["crop"] for row in catalog.crop_rows(Selection()))
    for row in catalog.crop_rows(Selection()):
        assert stored[row["crop"]] == (lions / row["path"]).read_bytes()
        expected = next((side for side in ("left", "right") if side in row["path"].lower().rpartition("/")[2]), None)
        assert row["flank"] == expected
