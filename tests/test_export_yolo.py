"""Training folders: what is in them, byte for byte again, never in the originals' way; and back into a catalog."""

from __future__ import annotations

import csv
import hashlib
import json
import shutil
from dataclasses import replace
from pathlib import Path

import catalogs
import pytest
import yaml
from PIL import Image
from typer.testing import CliRunner

from care_cli import recipes, registry
from care_cli.catalog import Catalog
from care_cli.cli import app
from care_cli.decisions import Decision
from care_cli.errors import CareError
from care_cli.exchange import csv_tables, megadetector, yolo_export
from care_cli.recipes import selection
from care_cli.recipes.selection import judge
from care_cli.records import Selection
from care_cli.stages import detect, export_yolo, import_labels
from care_cli.stages.export_yolo import YoloConfig
from care_cli.stages.import_labels import LabelsConfig

NZ = recipes.load("nz-trailcams-15")
SIZE = (64, 48)


def picture(path: Path, number: int) -> None:
    """A small JPEG whose bytes no other number has."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", SIZE, (number % 250, 90, 40)).save(path, "JPEG", comment=str(number).encode())


@pytest.fixture(scope="module")
def labelled(tmp_path_factory) -> Path:
    """A folder with photos of 10 locations, their labels and a detector's results; every third photo is not here."""
    folder = tmp_path_factory.mktemp("labelled")
    labels = ["stoat", "mouse", "empty", "weasel"]
    images, annotations, results = [], [], []
    for number in range(80):
        name = f"l{number % 10}/{number:03}.jpg"
        images.append({"id": number, "file_name": name, "location": f"l{number % 10}",
                       "datetime": f"2020-01-01 {number // 10:02}:00:00"})  # fmt: skip
        annotations.append({"id": number, "image_id": number, "category_id": number // 10 % 4})
        boxes = [] if number // 10 % 4 == 2 else [{"category": "1", "conf": 0.9, "bbox": [0.25, 0.25, 0.5, 0.25]}]
        results.append({"file": name, "detections": boxes})
        if number % 3:
            picture(folder / "photos" / name, number)
    document = {"images": images, "annotations": annotations,
                "categories": [{"id": number, "name": name} for number, name in enumerate(labels)]}  # fmt: skip
    (folder / "labels.json").write_text(json.dumps(document))
    tables = {"detection_categories": {"1": "animal"}, "info": {"format_version": "1.5"}}
    (folder / "md.json").write_text(json.dumps({"images": results} | tables))
    return folder


@pytest.fixture
def catalog(tmp_path, labelled):
    with catalogs.new(tmp_path / "care.db") as opened:
        for file in ("labels.json", "md.json"):
            import_labels.run(opened, LabelsConfig(labelled / file, images=labelled / "photos"))
        yield opened


def exported(catalog: Catalog, folder: Path, recipe=NZ, **more) -> dict:
    return export_yolo.run(catalog, YoloConfig(folder, recipe, **more))


def table(path: Path) -> list[dict]:
    return list(csv.DictReader(path.open(encoding="utf-8")))


def files(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_the_folder_to_the_letter(catalog, labelled, tmp_path):
    summary = exported(catalog, tmp_path / "set", NZ.changed({"empties": "0.5"}))
    taken = [n for n in range(80) if n // 10 % 4 != 3]  # weasels are left out
    here = [n for n in taken if n % 3]
    assert (summary["photos"], summary["missing"], summary["linked"]) == (len(here), len(taken) - len(here), len(here))
    assert summary["left_out"] == [{"reason": "the recipe leaves its species out", "count": 20}]
    rows = table(tmp_path / "set" / "photos.csv")
    assert [row["file"] for row in rows] == sorted(row["file"] for row in rows) and len(rows) == len(here)
    for row in rows:
        number, original = int(Path(row["source"]).stem), labelled / "photos" / row["source"]
        copy = tmp_path / "set" / row["file"]
        data = original.read_bytes()
        assert copy.read_bytes() == data and row["sha256"] == hashlib.sha256(data).hexdigest()
        assert copy.samefile(original)
        assert (row["location"], row["lighting"]) == (f"l{number % 10}", "day")
        assert row["taken_at"] == f"2020-01-01 {number // 10:02}:00:00"
        text = (tmp_path / "set" / "labels" / row["part"] / f"{copy.stem}.txt").read_text()
        expected = {0: "13 0.500000 0.375000 0.500000 0.250000\n", 1: "12 0.500000 0.375000 0.500000 0.250000\n", 2: ""}
        assert text == expected[number // 10 % 4] and row["empty"] == str(int(not text))
    locations = {row["location"]: row["part"] for row in rows}
    assert all(locations[row["location"]] == row["part"] for row in rows)
    assert sorted(locations.values()) == ["test", *["train"] * 8, "val"]
    data = yaml.safe_load((tmp_path / "set" / "data.yaml").read_text())
    assert data == {"train": "images/train", "val": "images/val", "test": "images/test", "nc": 15, "names": NZ.names}
    scores = table(tmp_path / "set" / "scores.csv")
    assert len(scores) == sum(not int(row["empty"]) for row in rows) and {row["confidence"] for row in scores} == {
        "0.9"
    }
    by_class = {row.pop("class"): row for row in summary["by_class"]}
    of_part = {part: sum(row["part"] == part and not int(row["empty"]) for row in rows) for part in summary["parts"]}
    assert {part: by_class["Stoat"][part] + by_class["Rodent"][part] for part in of_part} == of_part
    assert by_class["Stoat"]["photos"] == sum(by_class["Stoat"][part] for part in of_part) == by_class["Stoat"]["boxes"]
    assert len(table(tmp_path / "set" / "missing.csv")) == summary["missing"]
    told = json.loads((tmp_path / "set" / "recipe.json").read_text())
    assert told["settings"]["recipe"]["empties"] == 0.5 and told["classes"] == NZ.names
    assert catalog.run_settings(summary["run"])["recipe"] == told["settings"]["recipe"]


def test_the_same_catalog_and_recipe_give_the_same_bytes(catalog, labelled, tmp_path):
    exported(catalog, tmp_path / "one")
    exported(catalog, tmp_path / "two", copy=True)
    with catalogs.new(tmp_path / "other.db") as other:  # imported in another order
        for file in ("md.json", "labels.json"):
            import_labels.run(other, LabelsConfig(labelled / file, images=labelled / "photos"))
        exported(other, tmp_path / "three")
    one = files(tmp_path / "one")
    assert one == files(tmp_path / "two")
    photos = {row["source"] for row in table(tmp_path / "one" / "photos.csv")}
    exported(catalog, tmp_path / "four", NZ.changed({"seed": "3"}))
    assert {row["source"]: row["part"] for row in table(tmp_path / "four" / "photos.csv")} != {
        row["source"]: row["part"] for row in table(tmp_path / "one" / "photos.csv")
    }
    assert photos and not any((labelled / "photos" / row["source"]).samefile(tmp_path / "two" / row["file"])
                              for row in table(tmp_path / "two" / "photos.csv"))  # fmt: skip
    assert one == files(tmp_path / "three")


def test_an_export_that_was_stopped_goes_on_and_one_of_other_settings_is_not_overwritten(
    catalog, tmp_path, monkeypatch
):
    exported(catalog, tmp_path / "whole")
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(yolo_export.YoloFolder, "finish", lambda *given: (_ for _ in ()).throw(KeyboardInterrupt))
        exported(catalog, tmp_path / "set")
    whole = next((tmp_path / "set" / "images" / "train").iterdir())
    whole.rename(whole.with_name(whole.name + ".part"))
    assert exported(catalog, tmp_path / "set")["linked"] == 1  # the others are there
    assert files(tmp_path / "set") == files(tmp_path / "whole")
    other = NZ.changed({"per_camera": "1"})
    with pytest.raises(CareError, match="other settings"):
        exported(catalog, tmp_path / "set", other)
    exported(catalog, tmp_path / "set", other, overwrite=True)
    exported(catalog, tmp_path / "fresh", other)
    assert files(tmp_path / "set") == files(tmp_path / "fresh") != files(tmp_path / "whole")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("dear")
    with pytest.raises(CareError, match="no export wrote"):
        exported(catalog, tmp_path / "mine", overwrite=True)
    assert files(tmp_path / "mine") == {"thesis.txt": b"dear"}


def test_what_no_export_wrote_stays_where_it_is_and_is_named(catalog, tmp_path):
    folder, other = tmp_path / "set", NZ.changed({"per_camera": "1"})
    exported(catalog, folder)
    mine = {"images/train/mine.jpg": b"photo", "images/train/deep/a.jpg": b"b", "labels/train/mine.txt": b"0 0 0 1 1\n"}
    for name, data in mine.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(data)
    named = ["images/train/deep", "images/train/mine.jpg", "labels/train/mine.txt"]
    assert exported(catalog, folder)["foreign"] == named
    summary = exported(catalog, folder, other, overwrite=True)  # fewer photos: what was exported before goes
    exported(catalog, tmp_path / "fresh", other)
    assert summary["foreign"] == named and files(folder) == files(tmp_path / "fresh") | mine


def test_copies_take_the_place_of_links(catalog, labelled, tmp_path):
    summary = exported(catalog, tmp_path / "set")
    assert exported(catalog, tmp_path / "set", copy=True)["copied"] == summary["photos"]
    for row in table(tmp_path / "set" / "photos.csv"):
        assert not (tmp_path / "set" / row["file"]).samefile(labelled / "photos" / row["source"])
    assert exported(catalog, tmp_path / "set", copy=True)["copied"] == 0


def test_nothing_is_written_among_photos_or_to_them(catalog, labelled, tmp_path):
    with pytest.raises(CareError, match="nothing is written there"):
        exported(catalog, labelled / "photos" / "set")
    own = tmp_path / "photos"
    shutil.copytree(labelled / "photos", own)
    trailing = sorted(own.rglob("*.jpg"))[0]
    trailing.write_bytes(trailing.read_bytes() + b"maker's note")  # a trainer would save such a file anew, in its place
    with catalogs.new(tmp_path / "own.db") as other:
        for file in ("labels.json", "md.json"):
            import_labels.run(other, LabelsConfig(labelled / file, images=own))
        summary = exported(other, tmp_path / "set", NZ.changed({"empties": "0.5"}))
        source = trailing.relative_to(own).as_posix()
        [row] = [row for row in table(tmp_path / "set" / "photos.csv") if row["source"] == source]
        assert summary["copied"] == 1 and not trailing.samefile(tmp_path / "set" / row["file"])
        assert (tmp_path / "set" / row["file"]).read_bytes() == trailing.read_bytes()
        changed = sorted(own.rglob("*.jpg"))[1]
        changed.write_bytes(b"other bytes")  # no longer the photo that was labelled
        again = exported(other, tmp_path / "again", NZ.changed({"empties": "0.5"}))
        assert again["missing"] == summary["missing"] + 1


def test_what_no_recipe_takes_is_said(tmp_path, labelled):
    with catalogs.new(tmp_path / "care.db") as catalog:
        with pytest.raises(CareError, match="no boxes in this catalog"):
            exported(catalog, tmp_path / "set", None)
        import_labels.run(catalog, LabelsConfig(labelled / "labels.json"))
        with pytest.raises(CareError, match="no detector has looked at it: 40"):
            exported(catalog, tmp_path / "set", NZ.changed({"empties": "0"}))
        assert not (tmp_path / "set").exists()


def test_the_command_prints_the_recipe_and_takes_settings(tmp_path, labelled):
    catalog, runner = tmp_path / "care.db", CliRunner()

    def care(*arguments: str):
        return runner.invoke(app, ["--catalog", str(catalog), *map(str, arguments)])

    for file in ("labels.json", "md.json"):
        done = care("--json", "import", "labels", labelled / file, "--images", labelled / "photos")
        assert done.exit_code == 0 and json.loads(done.stdout)["unseen"] == 27
    done = care("export", "yolo", tmp_path / "set", "--recipe", "nz-trailcams-15", "--set", "per_camera=1", "--copy")
    assert done.exit_code == 1 and "missing.csv" in done.stderr  # some originals are missing
    assert "13 Stoat: stoat" in done.stderr and "per_camera 1," in done.stderr
    assert max(len(list((tmp_path / "set" / "images" / part).iterdir())) for part in ("val", "test")) <= 3
    nz = ["--recipe", "nz-trailcams-15"]
    for wrong in (["--set", "per_camera=1"], [*nz, "--set", "per_camera"], [*nz, "--people"], ["--preset", "other"],
                  ["--recipe", "mars"]):  # fmt: skip
        assert isinstance(care("export", "yolo", tmp_path / "no", *wrong).exception, CareError)
    assert not (tmp_path / "no").exists()


# -- boxes as they are


def test_photos_of_people_are_left_out_unless_told_otherwise(tmp_path):
    with catalogs.new(tmp_path / "care.db") as catalog:
        run = catalogs.detect_run(catalog)
        found = {
            "a.PNG": [catalogs.found((40, 30, 80, 60), species="stoat")],
            "b.PNG": [catalogs.found((40, 30, 80, 60)), catalogs.found((200, 30, 80, 60), "person")],
            "c.PNG": [],
            "d.PNG": [catalogs.found((40, 30, 80, 60), confidence=0.2)],  # not shown
            "e.PNG": [catalogs.found((40, 30, 80, 60), "person", 0.15)],  # not shown, and yet perhaps a person
        }
        for name, boxes in found.items():
            image = catalogs.add_photo(catalog, name, folder=tmp_path / "photos")
            catalogs.add_crops(catalog, run, image, name, boxes)
        summary = exported(catalog, tmp_path / "set", None)
        assert (summary["photos"], summary["empty"]) == (3, 2) and summary["left_out"][0]["count"] == 2
        assert exported(catalog, tmp_path / "all", None, people=True)["photos"] == 5
        names = yaml.safe_load((tmp_path / "all" / "data.yaml").read_text())["names"]
        assert names == ["animal", "person", "stoat"]
        assert exported(catalog, tmp_path / "low", None, confidence=0.1)["empty"] == 1
        catalogs.detect_run(catalog, size=960)  # another run is the active one, and found nothing
        catalog.decide(Decision("category", crop_id=1, value="person"))
        with pytest.raises(CareError, match="person or vehicle may be on it: 3"):
            exported(catalog, tmp_path / "nz")


def test_what_a_detector_found_stays_its_own_on_the_way_through_a_folder(labelled, tmp_path):
    """Doubtful boxes are no ground truth after export and import; drawn ones are, and sure ones get people's label."""
    recipe = NZ.changed({"val": "0"})
    with catalogs.new(tmp_path / "one.db") as one, catalogs.new(tmp_path / "two.db") as two:
        run = catalogs.detect_run(one)
        for name, confidence in (("a.PNG", 0.31), ("b.PNG", 0.9)):
            image = catalogs.add_photo(one, name, folder=tmp_path / "photos")
            catalogs.add_crops(one, run, image, name, [catalogs.found((40, 30, 80, 60), "animal", confidence, "stoat")])
        exported(one, tmp_path / "set", None)
        import_labels.run(two, LabelsConfig(tmp_path / "set"))
        photos = [photo for _, photo in export_yolo.known_photos(two, 0, recipe, export_yolo.every_image(two))]
        assert [(photo.looked, [box.given for box in photo.boxes]) for photo in photos] == [(True, [False])] * 2
        verdicts = [judge(replace(photo, labels=(("stoat", False),)), recipe).reason for photo in photos]
        assert sorted(verdicts) == [selection.DOUBTFUL, selection.KEPT]
        with pytest.raises(CareError, match="nothing says what it shows"):
            exported(two, tmp_path / "again", recipe)
        (tmp_path / "set" / "scores.csv").unlink()  # now they are boxes without a confidence: drawn
        with catalogs.new(tmp_path / "three.db") as three:
            import_labels.run(three, LabelsConfig(tmp_path / "set"))
            pages = export_yolo.every_image(three)
            photos = [photo for _, photo in export_yolo.known_photos(three, 0, recipe, pages)]
            assert all(box.given for photo in photos for box in photo.boxes)


def test_the_real_card_comes_back_as_it_went(shared, tmp_path):
    """Detected, exported, taken into a fresh catalog: the same photos and classes, boxes within half a pixel."""
    weights, card = shared / "weights" / "yolo11n.pt", shared / "data" / "camera_trap" / "sdcard_sdzg1"
    if not weights.is_file() or not card.is_dir():
        pytest.skip("the real card or weights are not here")
    folder = tmp_path / "card"
    folder.mkdir()
    for path in sorted(card.rglob("*.JPG"))[10:19]:
        shutil.copy(path, folder)
    query = (
        "SELECT sha256, round(confidence, 6) AS c, category, species, x, y, w, h FROM crops JOIN images "
        "ON images.id = image_id WHERE crops.id IN (SELECT value FROM json_each(?)) ORDER BY sha256, c DESC, x"
    )

    def shown(catalog: Catalog) -> list[dict]:
        return catalog.rows(query, (json.dumps(catalog.crop_ids(Selection())),))

    with catalogs.new(tmp_path / "one.db") as one, catalogs.new(tmp_path / "two.db") as two:
        detector = detect.load(registry.find(str(weights)), "cpu", engine="torch")
        detect.run(one, detect.DetectConfig((folder,)), detector)
        summary = exported(one, tmp_path / "set", None, people=True)
        assert (summary["photos"], summary["missing"]) == (9, 0)
        import_labels.run(two, LabelsConfig(tmp_path / "set"))
        digests = "SELECT sha256, captured_at FROM images ORDER BY sha256"
        assert one.rows(digests) == two.rows(digests)
        before, after = shown(one), shown(two)
        assert len(before) == len(after) == sum(row["boxes"] for row in summary["by_class"]) > 3
        for row, back in zip(before, after, strict=True):
            assert all(row[key] == back[key] for key in ("sha256", "category", "species"))
            assert abs(row["c"] - back["c"]) <= 0.0005  # three decimals, as listings have them
            assert max(abs(row[side] - back[side]) for side in "xywh") < 0.5
        for path in sorted(folder.iterdir())[:3]:
            path.unlink()
        shutil.rmtree(tmp_path / "set")
        assert exported(one, tmp_path / "set", None, people=True)["missing"] == 3


# -- the original toolkit's way of reading


def test_the_toolkit_keeps_one_animal_a_photo_the_best_stoat_before_all(tmp_path):
    with catalogs.new(tmp_path / "care.db") as catalog:
        run = catalogs.detect_run(catalog)
        found = {
            "a.PNG": [("possum", 0.9, 0), ("Stoat", 0.5, 100), ("stoat", 0.7, 200)],
            "b.PNG": [("cat", 0.4, 0), ("rat", 0.8, 100)],
            "c.PNG": [(None, 0.6, 0)],
        }
        for name, boxes in found.items():
            image = catalogs.add_photo(catalog, name)
            animals = [catalogs.found((x, 30.0, 60.0, 60.0), "animal", c, species) for species, c, x in boxes]
            catalogs.add_crops(catalog, run, image, name, [*animals, catalogs.found((10, 150, 60, 60), "person")])

        def kept(**filters) -> list[tuple]:
            rows = catalog.crop_rows(Selection(preset="toolkit", **filters))
            return sorted((row["path"], row["species"], row["confidence"]) for row in rows)

        assert kept(category="animal") == [("a.PNG", "stoat", 0.7), ("b.PNG", "rat", 0.8), ("c.PNG", None, 0.6)]
        assert kept(species="cat") == [] and len(kept(category="person")) == 3  # people stay what they are
        assert len(catalog.crop_rows(Selection(category="animal"))) == 6  # nothing of what is stored changed
        csv_tables.write(catalog, tmp_path / "csv", preset="toolkit")
        assert len(table(tmp_path / "csv" / "crops.csv")) == 6
        megadetector.write(catalog, tmp_path / "md.json", preset="toolkit")
        images = json.loads((tmp_path / "md.json").read_text())["images"]
        assert [len(image["detections"]) for image in images] == [2, 2, 2]
        catalog.decide(Decision("species", crop_id=1, value="Stoat"))  # what is said by hand is what is read
        assert ("a.PNG", "Stoat", 0.9) in kept(category="animal")
    done = CliRunner().invoke(app, ["--json", "--catalog", str(tmp_path / "care.db"), "crops", "--preset", "toolkit"])
    assert done.exit_code == 0 and len(json.loads(done.stdout)) == 6
