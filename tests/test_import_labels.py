"""Labels and boxes of others: every format to the letter, photos before and after their files, hostile files."""

from __future__ import annotations

import io
import json
import os
import random
import shutil
from pathlib import Path

import catalogs
import pytest
from PIL import Image
from typer.testing import CliRunner

from care_cli import headers, registry, words
from care_cli.catalog import Catalog
from care_cli.cli import app
from care_cli.errors import CareError
from care_cli.exchange import coco_keypoints, megadetector
from care_cli.exchange.labels import Dropped, open_labels
from care_cli.records import Selection
from care_cli.stages import crops as crops_stage
from care_cli.stages import detect, import_labels, places, told_paths
from care_cli.stages.import_labels import LabelsConfig

CROPS = (
    "SELECT path, category, crops.species, confidence, x, y, w, h, rect_x, rect_y, rect_w, rect_h, crop_pixels.jpeg "
    "FROM crops JOIN images ON images.id = crops.image_id JOIN image_files ON image_files.image_id = images.id "
    "LEFT JOIN crop_pixels ON crop_id = crops.id ORDER BY path, confidence DESC"
)
LABELS = "SELECT path, label, of_sequence FROM image_labels JOIN image_files USING (image_id) ORDER BY path, label"


@pytest.fixture
def catalog(tmp_path):
    with catalogs.new(tmp_path / "care.db") as opened:
        yield opened


def photo(folder: Path, name: str, seed: int = 1, size: tuple[int, int] = (320, 240), **save) -> Path:
    """A JPEG of noise below a folder."""
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(catalogs.noise(seed)).resize(size).save(path, "JPEG", quality=60, **save)
    return path


def written(folder: Path, document: object, name: str = "labels.json") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(json.dumps(document), encoding="utf-8")
    return folder / name


def taken(catalog: Catalog, file: Path, images: Path | None = None, form: str | None = None) -> dict:
    return import_labels.run(catalog, LabelsConfig(file, form, images))


def dropped(summary: dict) -> dict[str, int]:
    return {row["reason"]: row["count"] for row in summary["dropped"]}


def shown(catalog: Catalog, query: str = CROPS) -> list[tuple]:
    rounded = [
        [round(value, 6) if isinstance(value, float) else value for value in row.values()]
        for row in catalog.rows(query)
    ]
    return [tuple(row) for row in rounded]


CCT = {
    "categories": [{"id": 0, "name": "empty"}, {"id": 1, "name": "deer"}, {"id": "x", "name": "human"}],
    "annotations": [
        {"id": 1, "image_id": "a", "category_id": 1, "bbox": [32, 24, 64, 48]},
        {"id": 2, "image_id": "a", "category_id": "x", "bbox_relative": [0.5, 0.5, 0.25, 0.25]},
        {"id": 3, "image_id": "b", "category_id": 0},
        {"id": 4, "image_id": "c", "category_id": 1, "sequence_level_annotation": True, "bbox": [1, 1, 9, 9]},
        {"id": 5, "image_id": "d", "category_id": 1},
    ],
    "images": [
        {"id": "a", "file_name": "n/a.jpg", "width": 320, "height": 240, "location": "north",
         "datetime": "2020-01-01 10:00:00"},
        {"id": "b", "file_name": "n\\b.jpg", "location": "north", "datetime": "2020-01-01 10:00:30"},
        {"id": "c", "file_name": "./s/../s/c.jpg", "location": 7, "seq_id": "q"},
        {"id": "d", "file_name": "s/d.jpg", "location": 7, "seq_id": "q"},
        {"id": "e", "file_name": "s/e.jpg", "species": "kea"},
    ],
}  # fmt: skip


def test_camera_traps_to_the_letter_without_the_files(catalog, tmp_path):
    summary = taken(catalog, written(tmp_path / "in", CCT))
    assert {key: summary[key] for key in ("format", "images", "new", "at_hand", "unseen", "labels", "boxes")} == {
        "format": "coco", "images": 5, "new": 5, "at_hand": 0, "unseen": 5, "labels": 4, "boxes": 2}  # fmt: skip
    assert summary["failed"] == 0 and list(dropped(summary).values()) == [1]  # the box of a sequence
    assert shown(catalog, LABELS) == [
        ("n/b.jpg", "empty", 0), ("s/c.jpg", "deer", 1), ("s/d.jpg", "deer", 0), ("s/e.jpg", "kea", 0)]  # fmt: skip
    assert shown(catalog) == [
        ("n/a.jpg", "animal", "deer", 1.0, 32.0, 24.0, 64.0, 48.0, 25, 19, 78, 58, None),
        ("n/a.jpg", "person", None, 1.0, 160.0, 120.0, 80.0, 60.0, 152, 114, 96, 72, None),
    ]
    rows = catalog.image_rows(Selection())
    assert [(row["path"], row["state"], row["deployment"], row["taken_at"]) for row in rows[-2:]] == [
        ("n/a.jpg", "unseen", "north", "2020-01-01 10:00:00"),
        ("n/b.jpg", "unseen", "north", "2020-01-01 10:00:30"),
    ]
    bursts = {row["path"]: row["burst"] for row in rows}
    assert bursts["n/a.jpg"] == bursts["n/b.jpg"] and bursts["s/c.jpg"] == bursts["s/d.jpg"] != bursts["s/e.jpg"]
    assert len(catalog.crop_rows(Selection())) == 2  # listed, without pixels


def test_photos_at_hand_are_read_and_cut_with_people_black(catalog, tmp_path):
    folder = tmp_path / "photos"
    for number, name in enumerate(("n/a.jpg", "n/b.jpg", "s/d.jpg")):
        photo(folder, name, number)
    document = json.loads(json.dumps(CCT))
    document["annotations"][1]["bbox_relative"] = [0.2, 0.1, 0.6, 0.2]  # on the deer's rectangle, not its body
    summary = taken(catalog, written(tmp_path / "in", document), folder)
    assert (summary["images"], summary["at_hand"], summary["unseen"]) == (5, 3, 2)
    [deer, person] = shown(catalog)
    assert person[-1] is None and deer[:4] == ("n/a.jpg", "animal", "deer", 1.0)
    with Image.open(io.BytesIO(deer[-1])) as crop:
        assert crop.size == (78, 58)
        assert max(max(pixel) for pixel in crop.crop((42, 8, 74, 50)).getdata()) < 30  # black from x 64, y 24 on
    before = shown(catalog), catalog.rows("SELECT * FROM image_labels")
    again = taken(catalog, tmp_path / "in" / "labels.json", folder)
    assert (shown(catalog), catalog.rows("SELECT * FROM image_labels")) == before
    assert (again["run"], again["new"], again["labels"]) == (summary["run"], 0, 4)
    assert catalog.integrity() == catalog.broken_references() == [] and catalog.divergences() == []


MD = {
    "info": {"format_version": "1.5", "detector_metadata": {"typical_detection_threshold": 0.35}},
    "detection_categories": {"1": "animal", "2": "person", "3": "vehicle"},
    "classification_categories": {"0": "stoat", "1": "animal"},
    "images": [
        {"file": "n/a.jpg", "detections": [
            {"category": "1", "conf": 0.9, "bbox": [0.1, 0.1, 0.25, 0.2], "classifications": [["0", 0.8], ["1", 0.1]]},
            {"category": "1", "conf": 0.3, "bbox": [0.5, 0.5, 0.25, 0.25]},
            {"category": "1", "conf": 0.04, "bbox": [0.5, 0.5, 0.2, 0.2]}]},
        {"file": "n/b.jpg", "detections": []},
        {"file": "n/c.jpg", "failure": "image access failure", "detections": None},
        {"file": "n/d.mp4", "detections": []},
    ],
}  # fmt: skip


def old_version(document: dict, version: str) -> dict:
    """Results as MegaDetector wrote them before."""
    document = json.loads(json.dumps(document))
    document["info"]["format_version"] = version
    document["images"][2].pop("detections")
    for image in document["images"]:
        image["max_detection_conf"] = max((one["conf"] for one in image.get("detections") or []), default=0)
        for one in image.get("detections") or []:
            one["category"] = int(one["category"])
    return document


@pytest.mark.parametrize("version", ["1.0", "1.1", "1.2", "1.3", "1.4", "1.5", "1.6"])
def test_results_of_every_version_are_a_detect_run(catalog, tmp_path, version):
    document = {**MD, "info": {**MD["info"], "format_version": version}}
    if version < "1.3":
        document = old_version(MD, version)
    if version == "1.0":
        del document["detection_categories"]
    summary = taken(catalog, written(tmp_path, document))
    assert (summary["format"], summary["images"], summary["boxes"], summary["failed"]) == ("megadetector", 2, 2, 0)
    assert sorted(dropped(summary).values()) == [1, 1, 1]  # too unsure, not read, a video
    rows = catalog.crop_rows(Selection())
    assert [(row["species"], row["confidence"], row["run"]) for row in rows] == [("stoat", 0.9, summary["run"])]
    assert [rows[0][side] for side in "xywh"] == pytest.approx([0.1, 0.1, 0.25, 0.2])  # shares, of an unknown size
    assert len(catalog.crop_rows(Selection(confidence=0.2))) == 2 and catalog.active_run() == summary["run"]
    assert taken(catalog, tmp_path / "labels.json")["new"] == 0 and len(shown(catalog)) == 2


def test_a_classification_makes_a_person_a_species_or_neither(catalog, tmp_path):
    taxa = "1f;mammalia;primates;hominidae;homo;sapiens;human", "2a;mammalia;carnivora;mustelidae;mustela;erminea;stoat"
    names = {"0": taxa[0], "1": taxa[1], "2": "3b;;;;;;blank", "3": "vehicle", "4": "4c;aves;;;;;"}
    told = [[["0", 0.99]], [["1", 0.5]], [["1", 0.49], ["0", 0.3]], [["0", 0.3], ["1", 0.2]], [["2", 0.9]],
            [["3", 0.8]], [["4", 0.7]], [["1", 0.41]]]  # fmt: skip
    boxes = [{"category": "1", "conf": 0.9 - n / 100, "bbox": [n / 10, 0.1, 0.08, 0.2], "classifications": pairs}
             for n, pairs in enumerate(told)]  # fmt: skip
    boxes[-1]["conf"] = 0.41  # by a detector of species, who is as sure of it as of the box
    photo(tmp_path, "n/a.jpg")
    images = [{"file": "n/a.jpg", "detections": boxes}]
    summary = taken(catalog, written(tmp_path, {**MD, "classification_categories": names, "images": images}))
    found = shown(catalog)
    assert [row[1:3] for row in found] == [
        ("person", None), ("animal", "stoat"), ("animal", None), ("person", None), ("animal", None), ("vehicle", None),
        ("animal", "aves"), ("animal", "stoat")]  # fmt: skip
    assert [row[-1] is None for row in found] == [row[1] != "animal" for row in found]  # of people no pixels
    assert summary["failed"] == 0 and summary["dropped"] == [
        {"reason": "its species is less sure than 0.5; it is an animal of unknown species", "count": 1,
         "examples": ["n/a.jpg: stoat 0.49"]}]  # fmt: skip


def test_drawn_boxes_on_one_body_are_one_only_of_one_species(catalog, tmp_path):
    names = ["deer", "stoat", "human"]
    of_photo = {1: [(0, 0), (0, 1), (1, 2)], 2: [(0, 0), (2, 1)]}  # class, and by how many px it is moved
    document = {
        "categories": [{"id": number, "name": name} for number, name in enumerate(names)],
        "annotations": [{"id": 1, "image_id": key, "category_id": number, "bbox": [20 + moved, 20, 60, 60]}
                        for key, boxes in of_photo.items() for number, moved in boxes],
        "images": [{"id": key, "file_name": f"{key}.jpg", "width": 320, "height": 240} for key in of_photo],
    }  # fmt: skip
    summary = taken(catalog, written(tmp_path, document))
    assert sorted(row[:3] for row in shown(catalog)) == [
        ("1.jpg", "animal", "deer"), ("1.jpg", "animal", "stoat"), ("2.jpg", "person", None)]  # fmt: skip
    assert list(dropped(summary).values()) == [2]


def test_models_and_imported_files_agree_on_what_a_name_means(tmp_path):
    names = ["Homo sapiens", "homo species", "woman", "child", "boat", "quad", "group", "unknown", "__ignore__",
             "no-animal", "human", "white-tailed deer", "Blank"]  # fmt: skip
    of_models = headers.meanings(names)
    read = [(name, *words.meaning(name)) for name in names]
    assert {name: (of.get("category"), of.get("species")) for name, of in of_models.items()} == {
        name: (category, species) for name, category, species in read if category
    }
    assert [category for _, category, _ in read] == ["person"] * 4 + ["vehicle"] * 2 + ["animal"] * 2 + [
        None, None, "person", "animal", None]  # fmt: skip
    assert coco_keypoints.Annotation("", (0, 0, 1, 1), "Homo_sapiens").person


def test_a_later_version_and_other_files_are_refused(tmp_path):
    with pytest.raises(CareError, match=r"1\.0 to 1\.6"):
        open_labels(written(tmp_path, {**MD, "info": {"format_version": "2.0"}}))
    for document in ({}, [], {"a": [1, {"images": 2}]}, "text"):
        with pytest.raises(CareError, match="no format known"):
            open_labels(written(tmp_path, document))
    with pytest.raises(CareError, match="speciesnet_to_md"):
        open_labels(written(tmp_path, {"predictions": [{"filepath": "a.jpg", "detections": []}]}))
    with pytest.raises(CareError, match="no results"):
        open_labels(written(tmp_path, {"detection": {}}), "megadetector")
    with pytest.raises(CareError, match="tells of no photo"):
        open_labels(written(tmp_path, {"annotations": []}))
    with pytest.raises(CareError, match="--format is one of"):
        open_labels(written(tmp_path, MD), "voc")
    with pytest.raises(CareError, match="no "):
        open_labels(tmp_path / "nothing.json")


def test_awaited_photos_become_one_with_their_files_by_import_and_by_detect(catalog, tmp_path):
    """Boxes in shares become px, pixels are cut, what was told stays, and nothing is there twice."""
    file, folder = written(tmp_path / "in", MD), tmp_path / "photos"
    taken(catalog, file)
    awaited = [row["image"] for row in catalog.image_rows(Selection())]
    photo(folder, "n/a.jpg", 1, (640, 480))
    summary = taken(catalog, file, folder)
    assert (summary["images"], summary["unseen"], summary["new"]) == (2, 1, 0)
    assert [row["image"] for row in catalog.image_rows(Selection())] == awaited
    best, other = shown(catalog)
    assert best[:12] == ("n/a.jpg", "animal", "stoat", 0.9, 64.0, 48.0, 160.0, 96.0, 48, 38, 192, 116)
    assert best[-1] and other[-1] and other[4:8] == (320.0, 240.0, 160.0, 120.0)
    with Catalog(tmp_path / "straight.db", create=True) as straight:
        taken(straight, file, folder)
        assert shown(straight) == shown(catalog)
    photo(folder, "n/b.jpg", 2)
    assert taken(catalog, file, folder)["unseen"] == 0
    assert catalog.value("SELECT count(*) FROM images") == catalog.value("SELECT count(*) FROM image_files") == 2
    assert catalog.integrity() == catalog.broken_references() == []


@pytest.fixture(scope="module")
def detector():
    return detect.load(registry.find("demo-detector"), "cpu", engine="torch")


def test_a_scan_of_the_folder_joins_photos_that_were_awaited_there(catalog, tmp_path, detector):
    file, folder = written(tmp_path / "in", MD), tmp_path / "photos"
    folder.mkdir()
    told = taken(catalog, file, folder)["run"]
    photo(folder, "n/a.jpg", 1)
    copy = shutil.copy(photo(folder, "n/b.jpg", 2), tmp_path / "copy.jpg")
    summary = detect.run(catalog, detect.DetectConfig((folder,)), detector)
    assert (summary["images"], catalog.value("SELECT count(*) FROM images")) == (2, 2)
    assert catalog.value("SELECT count(*) FROM images WHERE state = 'ok'") == 2
    rows = catalog.rows("SELECT x, y, w, h FROM crops WHERE run_id = ? ORDER BY id", (told,))
    assert [tuple(row.values()) for row in rows] == [(32.0, 24.0, 80.0, 48.0), (160.0, 120.0, 80.0, 60.0)]
    again = taken(catalog, file, folder)  # cuts what has no pixels yet, and is read from now on
    assert (again["run"], again["unseen"], len(catalog.bare_crops(told, 1))) == (told, 0, 0)
    assert [row["species"] for row in catalog.crop_rows(Selection())] == ["stoat"]
    detect.run(catalog, detect.DetectConfig((Path(copy),)), detector)
    assert catalog.value("SELECT count(*) FROM images") == 2 and catalog.broken_references() == []


@pytest.mark.parametrize(("awaited", "scanned"), [("photos", "photos/n"), ("photos/n", "photos")])
def test_a_scan_of_a_part_or_of_more_joins_them_too(catalog, tmp_path, detector, awaited, scanned):
    photo(tmp_path / "photos", "n/a.jpg", 1)
    name = "n/a.jpg" if awaited == "photos" else "a.jpg"
    images = [{"file": name, "detections": MD["images"][0]["detections"]}]
    (tmp_path / "photos/n/a.jpg").rename(tmp_path / "away.jpg")
    told = taken(catalog, written(tmp_path / "in", {**MD, "images": images}), tmp_path / awaited)["run"]
    (tmp_path / "away.jpg").rename(tmp_path / "photos/n/a.jpg")
    detect.run(catalog, detect.DetectConfig((tmp_path / scanned,)), detector)
    assert [row["state"] for row in catalog.image_rows(Selection())] == ["ok"]
    assert catalog.value("SELECT max(w) FROM crops WHERE run_id = ?", (told,)) == 80.0  # in px now
    again = taken(catalog, tmp_path / "in" / "labels.json", tmp_path / awaited)
    assert (again["unseen"], again["new"], len(catalog.bare_crops(told, 1))) == (0, 0, 0)


def test_a_photo_that_was_seen_under_another_path_takes_over_what_was_told_of_it(catalog, tmp_path, detector):
    file, folder, archive = written(tmp_path / "in", CCT), tmp_path / "photos", tmp_path / "archive"
    taken(catalog, file)
    shutil.copy(photo(folder, "n/a.jpg", 1), archive.mkdir() or archive / "x.jpg")
    shutil.copy(photo(folder, "n/b.jpg", 2), archive / "y.jpg")
    detect.run(catalog, detect.DetectConfig((archive,)), detector)
    assert catalog.value("SELECT count(*) FROM images") == 7
    taken(catalog, file, folder)
    assert catalog.value("SELECT count(*) FROM images") == 5
    rows = {row["path"]: row for row in catalog.image_rows(Selection())}
    assert rows["x.jpg"]["taken_at"] == "2020-01-01 10:00:00" and rows["x.jpg"]["state"] == "ok"
    label = "SELECT label FROM image_labels WHERE image_id = ?"
    assert catalog.value(label, (rows["y.jpg"]["image"],)) == "empty"
    assert catalog.bare_crops(1, rows["x.jpg"]["image"]) == [] and catalog.broken_references() == []


def test_a_box_that_people_drew_stands_for_the_detectors_own(catalog, tmp_path):
    folder = tmp_path / "photos"
    photo(folder, "n/a.jpg", 1)
    near = [33 / 320, 25 / 240, 64 / 320, 48 / 240]
    boxes = [
        {"category": "1", "conf": 0.9, "bbox": near},
        {"category": "1", "conf": 0.8, "bbox": [0.6, 0.1, 0.2, 0.2]},
    ]
    images = [{"file": "n/a.jpg", "detections": boxes}]
    taken(catalog, written(tmp_path / "md", {**MD, "images": images}), folder)
    taken(catalog, written(tmp_path / "cct", CCT), folder)
    rows = catalog.crop_rows(Selection(category="animal"))
    assert sorted((row["species"] or "-", row["confidence"]) for row in rows) == [("-", 0.8), ("deer", 1.0)]


def test_an_imported_person_is_black_in_crops_that_were_there(catalog, tmp_path):
    folder = tmp_path / "photos"
    photo(folder, "n/a.jpg", 1)
    animal = {"category": "1", "conf": 0.9, "bbox": [0.1, 0.1, 0.5, 0.5]}
    person = {"category": "2", "conf": 0.6, "bbox": [0.4, 0.3, 0.5, 0.6]}
    taken(catalog, written(tmp_path / "a", {**MD, "images": [{"file": "n/a.jpg", "detections": [animal]}]}), folder)
    [before] = shown(catalog)
    taken(catalog, written(tmp_path / "b", {**MD, "images": [{"file": "n/a.jpg", "detections": [person]}]}), folder)
    after = next(row for row in shown(catalog) if row[1] == "animal")
    with Image.open(io.BytesIO(before[-1])) as light, Image.open(io.BytesIO(after[-1])) as dark:
        corner = light.width - 20, light.height - 20
        assert max(light.getpixel(corner)) > 40 and max(dark.getpixel(corner)) < 30
    crops_stage.set_crops(catalog, [1], category="person")  # who was called one by hand is so in later imports
    images = [{"file": "n/a.jpg", "detections": [dict(animal, conf=0.8)]}]
    taken(catalog, written(tmp_path / "c", {**MD, "images": images}), folder)
    assert all(row[1] == "person" and row[-1] is None for row in shown(catalog))


def test_boxes_in_px_wait_for_the_size_and_follow_a_smaller_copy(catalog, tmp_path):
    document = {
        "categories": [{"id": 1, "name": "deer"}],
        "annotations": [{"id": n, "image_id": n, "category_id": 1, "bbox": [64, 48, 128, 96]} for n in (1, 2, 3)],
        "images": [{"id": 1, "file_name": "a.jpg"}, {"id": 2, "file_name": "b.jpg", "width": 640, "height": 480},
                   {"id": 3, "file_name": "c.jpg", "width": 480, "height": 640}],
    }  # fmt: skip
    file, folder = written(tmp_path / "in", document), tmp_path / "photos"
    first = taken(catalog, file)
    assert (first["images"], first["boxes"], first["failed"]) == (2, 2, 0) and list(dropped(first).values()) == [1]
    for number, name in enumerate(("a.jpg", "b.jpg")):
        photo(folder, name, number)  # 320 x 240: the second one is half as large as it was drawn on
    second = taken(catalog, file, folder)
    assert (second["images"], second["boxes"], second["unseen"], dropped(second)) == (3, 3, 1, {})
    boxes = {row[0]: row[4:8] for row in shown(catalog)}
    assert boxes["a.jpg"] == (64.0, 48.0, 128.0, 96.0) and boxes["b.jpg"] == (32.0, 24.0, 64.0, 48.0)
    with Catalog(tmp_path / "straight.db", create=True) as straight:
        photo(folder, "c.jpg", 3)  # lies where it was drawn standing
        summary = taken(straight, file, folder)
        assert summary["failed"] == 1 and "another shape" in next(iter(dropped(summary)))
        assert summary["dropped"][0]["examples"] == ["c.jpg: 480 x 640 px, but upright it is 320 x 240 px"]


def test_a_yolo_folder_with_images_beside_labels_or_in_one_folder(catalog, tmp_path):
    root = tmp_path / "set"
    for number, name in enumerate(("images/train/a.jpg", "images/train/b.jpg", "images/val/c.jpg", "images/val/d.jpg")):
        photo(root, name, number)
    lines = {
        "train/a": "0 0.5 0.5 0.25 0.5\n2 0.25 0.25 0.1 0.1 0.75\n",
        "train/b": "",
        "val/c": "1 0.1 0.1 0.3 0.1 0.3 0.4 0.1 0.4\n",
        "val/gone": "0 0.5 0.5 0.1 0.1\n",
    }
    for name, text in lines.items():
        (root / "labels" / name).parent.mkdir(parents=True, exist_ok=True)
        (root / "labels" / f"{name}.txt").write_text(text)
    (root / "data.yaml").write_text("train: images/train\nnames:\n  0: stoat\n  1: cat\n  2: person\n")
    summary = taken(catalog, root)
    assert (summary["format"], summary["images"], summary["failed"]) == ("yolo", 4, 1)
    assert dropped(summary) == {"a text file without its photo": 1, "it has no text file; it is not labelled": 1}
    assert [row[:8] for row in shown(catalog)] == [
        ("images/train/a.jpg", "animal", "stoat", 1.0, 120.0, 60.0, 80.0, 120.0),
        ("images/train/a.jpg", "person", None, 0.75, 64.0, 48.0, 32.0, 24.0),
        ("images/val/c.jpg", "animal", "cat", 1.0, 32.0, 24.0, 64.0, 72.0),
    ]
    assert shown(catalog, LABELS) == [("images/train/b.jpg", "empty", 0)]
    flat = tmp_path / "flat"
    shutil.copytree(root / "images" / "train", flat)
    shutil.copy(root / "labels" / "train" / "a.txt", flat)
    (flat / "classes.txt").write_text("stoat\ncat\nperson\n")
    with Catalog(tmp_path / "flat.db", create=True) as other:
        assert taken(other, flat)["boxes"] == 2
        assert [row[1:8] for row in shown(other)] == [row[1:8] for row in shown(catalog)][:2]
    with pytest.raises(CareError, match="classes are called"):
        open_labels(root / "images", "yolo")


@pytest.mark.skipif(os.name == "nt", reason="names there are text")
def test_photos_whose_names_are_no_text_keep_their_labels(catalog, tmp_path):
    name = os.fsdecode(b"caf\xe9.jpg")
    photo(tmp_path / "set", name, 1)
    (tmp_path / "set" / name).with_suffix(".txt").write_text("0 0.5 0.5 0.25 0.5\n")
    (tmp_path / "set" / "classes.txt").write_text("stoat\n")
    summary = taken(catalog, tmp_path / "set")
    assert (summary["images"], summary["failed"]) == (1, 0)
    assert [row[:3] for row in shown(catalog)] == [("caf\\xe9.jpg", "animal", "stoat")]
    assert taken(catalog, tmp_path / "set")["new"] == 0 and len(shown(catalog)) == 1


def test_absolute_paths_of_another_machine_are_stripped(catalog, tmp_path):
    folder = tmp_path / "photos"
    photo(folder, "n/a.jpg", 1)
    paths = {
        "/data/old/n/a.jpg": "/data/old",
        "D:\\old\\n\\a.jpg": "D:\\old\\",
        "D:/old/n/a.jpg": "D:\\old",
    }
    for number, (path, strip) in enumerate(paths.items()):
        images = [{"file": path, "detections": []}, {"file": "/data/older/n/b.jpg", "detections": []}]
        cfg = LabelsConfig(written(tmp_path / str(number), {**MD, "images": images}), images=folder, strip=strip)
        summary = import_labels.run(catalog, cfg)
        assert (summary["at_hand"], dropped(summary)) == (1, {told_paths.OUTSIDE: 1})
    assert [row["path"] for row in catalog.image_rows(Selection())] == ["n/a.jpg"]


def test_locations_of_a_file_are_not_the_deployments_of_other_cards(catalog, tmp_path):
    card, folder = "another volume", tmp_path / "photos"
    folder.mkdir()
    own = catalog.add_deployment("001", card, b"001")
    place = places.place_of(folder)
    here = catalog.add_deployment("7", place.volume, place.relative + b"/s")

    def places_of(name: str, **more) -> list[tuple]:
        images = [{"id": n, "file_name": f"{name}{n}.jpg", "location": at} for n, at in enumerate(("001", 7))]
        file = written(tmp_path / name, {**CCT, "annotations": [], "images": images})
        import_labels.run(catalog, LabelsConfig(file, images=folder, **more))
        query = "SELECT deployment FROM timed_images JOIN image_files ON image_id = timed_images.id WHERE path LIKE ?"
        return [row["deployment"] for row in catalog.rows(query + " ORDER BY path", (f"{name}%",))]

    assert places_of("a") == ["001 (2)", "7"]  # the folder of 7 lies among these very photos
    assert places_of("b") == ["001 (2)", "7"]
    assert places_of("c", prefix="nz ") == ["nz 001", "nz 7"]
    assert places_of("a", prefix="mine ") == ["001 (2)", "7"]  # a photo stays where it is
    assert not catalog.value("SELECT count(*) FROM deployments WHERE name LIKE 'mine%'")
    assert not catalog.value("SELECT count(*) FROM images WHERE deployment_id = ?", (own,))
    assert catalog.value("SELECT count(*) FROM images WHERE deployment_id = ?", (here,)) == 2


# -- files that are not as they should be

WRONG = ("text", [], {}, None, True, -1, 1e400, "../../etc", "\ud800", [1, 2], {"a": 1}, "a\0b", "C:\\a.jpg", 10**30)


def test_faults_are_counted_each_by_its_reason(catalog, tmp_path):
    boxes = [[0, 0, -5, 5], [0, 0, 0, 5], [1, 2, 3], "box", [0, 0, float("nan"), 5], [1e12, 0, 5, 5], [400, 0, 5, 5],
             [True, 0, 1, 1], [300, 200, 100, 100]]  # fmt: skip
    document = {
        "categories": [{"id": 1, "name": "deer"}, {"id": 2}, 7],
        "annotations": [
            *({"id": n, "image_id": "a", "category_id": 1, "bbox": box} for n, box in enumerate(boxes)),
            {"id": 20, "image_id": "nobody", "category_id": 1}, {"id": 21, "image_id": None, "category_id": 1},
            {"id": 22, "image_id": "a", "category_id": 9}, "annotation",
        ],
        "images": [
            None, {"id": "a", "file_name": "a.jpg", "width": 320, "height": 240, "datetime": "yesterday"},
            {"id": "a", "file_name": "again.jpg"}, {"id": "b", "file_name": "a.jpg"}, {"id": "c", "file_name": 5},
            {"id": "d", "file_name": "../d.jpg"}, {"id": "e", "file_name": "/etc/passwd"},
            {"id": "f", "file_name": "C:\\f.jpg"}, {"id": "g", "file_name": " "}, {"file_name": "h.jpg"}, 9,
        ],
    }  # fmt: skip
    summary = taken(catalog, written(tmp_path, document))
    counts = dropped(summary)
    assert counts == {
        "its box should be of a width and height above 0; its label is kept": 2,
        "its box should be four finite numbers; its label is kept": 4,
        "its box is larger than any photo; its label is kept": 1,
        "its box lies outside the photo": 1,
        "a category should have an id and a name": 2,
        "its image_id leads to no image": 1,
        "its image_id should be a number or text": 1,
        "its category_id leads to no category": 1,
        "an annotation should be an object": 1,
        "its datetime is no date; the photo is undated": 1,
        "its id was given before; the first one counts": 1,
        "its file was told of before; the first one counts": 1,
        "its file_name should be a path": 2,
        told_paths.OUTSIDE: 3,
        "an image should be an object with an id": 3,
    }
    assert (summary["failed"], summary["images"]) == (sum(counts.values()), 1)
    assert dropped(taken(catalog, tmp_path / "labels.json")) == counts  # again, though there is nothing to do
    assert all(len(row["examples"]) <= 5 for row in summary["dropped"])
    assert [row[:8] for row in shown(catalog)] == [("a.jpg", "animal", "deer", 1.0, 300.0, 200.0, 20.0, 40.0)]


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("good", [CCT, MD], ids=["coco", "megadetector"])
def test_no_value_in_any_place_stops_an_import(tmp_path, good, seed):
    """Every place of a document in turn holds something else; what is left is taken in, and the catalog is sound."""
    chance = random.Random(seed)
    document = json.loads(json.dumps(good))

    def spoil(value):
        if chance.random() < 0.06:
            return chance.choice(WRONG[:-1])
        if isinstance(value, list):
            return [spoil(one) for one in value]
        return {key: spoil(one) for key, one in value.items()} if isinstance(value, dict) else value

    for part in sorted(set(document) - {"info"}):
        document[part] = [spoil(one) for one in document[part]] if isinstance(document[part], list) else document[part]
    with Catalog(tmp_path / "care.db", create=True) as catalog:
        form = "megadetector" if good is MD else "coco"
        summary = taken(catalog, written(tmp_path, document), form=form)
        assert summary["images"] <= 5 and catalog.integrity() == catalog.broken_references() == []


def test_damaged_files_are_refused_before_a_catalog_begins(tmp_path):
    text = json.dumps(MD)
    runner = CliRunner()
    for number, data in enumerate((text[:-20].encode(), text.encode().replace(b"n/b.jpg", b"n/\xff.jpg"), b"\x00" * 9)):
        (tmp_path / f"{number}.json").write_bytes(data)
        command = ["--catalog", str(tmp_path / "care.db"), "import", "labels", str(tmp_path / f"{number}.json")]
        result = runner.invoke(app, command)
        assert isinstance(result.exception, CareError) and "should be JSON" in str(result.exception)
    assert not (tmp_path / "care.db").exists()
    for path in ("missing", "file"):
        (tmp_path / "file").touch()
        with catalogs.new(tmp_path / "c.db") as catalog, pytest.raises(CareError, match="--images names the folder"):
            taken(catalog, written(tmp_path, MD), tmp_path / path)


def test_files_that_are_no_photos_are_counted(catalog, tmp_path):
    folder = tmp_path / "photos"
    photo(folder, "n/a.jpg", 1).write_bytes(b"no photo")
    (folder / "n/b.jpg").mkdir()
    summary = taken(catalog, written(tmp_path / "in", MD), folder)
    assert dropped(summary)["its file is no photo"] == 1 and summary["failed"] == 1
    assert sorted(row["state"] for row in catalog.image_rows(Selection())) == ["unreadable", "unseen"]
    assert taken(catalog, tmp_path / "in" / "labels.json", folder)["new"] == 0


@pytest.mark.parametrize("stop", [1, 2, 3, 4, 5])
def test_an_import_stopped_anywhere_goes_on_without_loss_or_duplicates(tmp_path, monkeypatch, stop):
    monkeypatch.setattr(import_labels, "PAGE", 3)
    monkeypatch.setattr(import_labels, "BATCH", 2)
    folder = tmp_path / "photos"
    images = [{"file": f"n/{number}.jpg", "detections": MD["images"][0]["detections"]} for number in range(10)]
    for number in range(0, 10, 2):
        photo(folder, f"n/{number}.jpg", number)
    file = written(tmp_path / "in", {**MD, "images": images})
    with Catalog(tmp_path / "straight.db", create=True) as straight:
        taken(straight, file, folder)
        expected = shown(straight)
    with Catalog(tmp_path / "care.db", create=True) as catalog:
        count = [0]
        name = "forget_awaited" if stop > 4 else "finish_run" if stop > 3 else "add_labels"
        real = getattr(Catalog, name)

        def failing(self, *given):
            count[0] += 1
            if count[0] == stop or stop > 3:
                raise KeyboardInterrupt
            return real(self, *given)

        if stop > 4:
            taken(catalog, file)  # awaited first
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(Catalog, name, failing)
            taken(catalog, file, folder)
        summary = taken(catalog, file, folder)
        assert shown(catalog) == expected and summary["images"] == 10 and summary["unseen"] == 5
        assert catalog.value("SELECT count(*) FROM images") == 10 and catalog.broken_references() == []


def test_merged_notes_keep_counts_and_few_examples():
    one, other = Dropped(), Dropped()
    for number in range(4):
        one.add("a", f"one {number}")
        other.add("a", f"other {number}")
    other.add("b", "x", 3, fault=False)
    one.merge(other)
    assert one.counts == {"a": 8, "b": 3} and one.failed == 8
    assert one.examples["a"] == ["one 0", "one 1", "one 2", "one 3", "other 0"]


# -- real photos and weights


def test_results_that_we_wrote_give_the_same_crops(shared, tmp_path):
    """The crops of a run on real photos, by way of MegaDetector's format: boxes within what four decimals hold."""
    weights = shared / "weights" / "yolo11n.pt"
    cct20 = shared / "data" / "camera_trap" / "cct20_sample"
    if not weights.is_file() or not cct20.is_dir():
        pytest.skip("the real photos or weights are not here")
    folder = tmp_path / "photos"
    folder.mkdir()
    for path in sorted((cct20 / "images").glob("*.jpg"))[:16]:
        shutil.copy(path, folder)
    with catalogs.new(tmp_path / "ours.db") as ours, catalogs.new(tmp_path / "back.db") as back:
        detector = detect.load(registry.find(str(weights)), "cpu", engine="torch")
        detect.run(ours, detect.DetectConfig((folder,)), detector)
        megadetector.write(ours, tmp_path / "md.json")
        summary = taken(back, tmp_path / "md.json", folder)
        assert summary["failed"] == 0 and summary["images"] == 16
        before, after = shown(ours), shown(back)
        assert len(before) == len(after) > 5
        assert back.shown_confidence(summary["run"]) == ours.shown_confidence(1)
        by_place = lambda row: (row[0], row[1], round(row[3], 3), round(row[4]))  # noqa: E731
        for one, other in zip(sorted(before, key=by_place), sorted(after, key=by_place), strict=True):
            assert one[:3] == other[:3] and abs(one[3] - other[3]) <= 0.0005
            assert max(abs(a - b) for a, b in zip(one[4:8], other[4:8], strict=True)) < 0.2
            assert max(abs(a - b) for a, b in zip(one[8:12], other[8:12], strict=True)) <= 1
            assert (one[12] is None) == (other[12] is None)
