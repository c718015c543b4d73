"""COCO keypoints and tables of points, out of a catalog and into one."""

from __future__ import annotations

import collections
import copy
import csv
import hashlib
import json
import sys
from pathlib import Path

import catalogs
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from care_cli import cli
from care_cli.catalog import Catalog
from care_cli.errors import CareError
from care_cli.exchange import coco_keypoints
from care_cli.images import decode_jpeg
from care_cli.records import CropFrame, Keypoints, NamedPoint, Selection, Template
from care_cli.stages import import_keypoints, keypoints
from care_cli.stages.import_keypoints import matched, run
from care_cli.stages.keypoints import PointSelection

BOX = (40.0, 30.0, 80.0, 60.0)  # of every animal of `catalogs.survey`, px
NAMES = ["left_eye", "right_eye", "nose"]


@pytest.fixture
def catalog(tmp_path):
    with catalogs.new(tmp_path / "care.db") as opened:
        yield opened


@pytest.fixture
def folder(tmp_path) -> Path:
    """Photos a.png and b.png of 320 x 240 px, which no catalog knows."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for name in ("a.png", "b.png"):
        Image.fromarray(catalogs.pixels_of(name)).save(folder / name)
    return folder


def coco(*annotations: dict, images=("a.png", "b.png"), category="cat", **category_fields) -> dict:
    """A document over these photos with one category of three points."""
    return {
        "images": [
            {"id": number, "file_name": name, "width": 320, "height": 240} for number, name in enumerate(images, 1)
        ],
        "annotations": [
            {"id": number, "image_id": 1, "category_id": 1, "bbox": list(BOX), **annotation}
            for number, annotation in enumerate(annotations, 1)
        ],
        "categories": [{"id": 1, "name": category, "keypoints": NAMES, **category_fields}],
    }


def annotation(shift: float = 0.0, **fields) -> dict:
    """Left eye seen at (60 + shift, 50), right eye hidden at (90 + shift, 50), no nose."""
    return {"keypoints": [60 + shift, 50, 2, 90 + shift, 50, 1, 0, 0, 0], **fields}


def written(tmp_path: Path, document: object, name: str = "points.json") -> Path:
    path = tmp_path / name
    path.write_text(json.dumps(document))
    return path


def contents(catalog: Catalog) -> list[tuple]:
    """Every point with its photo, its crop's box and species, without ids and times."""
    found = catalog.keypoints(catalog.crop_ids(Selection(category="animal")))
    rows = {row["crop"]: row for row in catalog.crop_rows(Selection())}
    digests = catalog.digests_of({row["image"] for row in rows.values()})
    return sorted(
        (
            digests[row["image"]],
            *(round(row[side], 6) for side in "xywh"),
            row["species"],
            name,
            *map(float, point),
            seen,
        )
        for crop, one in found.items()
        for row in [rows[crop]]
        for name, point, seen in zip(one.names, one.kp_image, one.visible.tolist(), strict=True)
    )


# -- the file


@st.composite
def surveys(draw):
    """Frames and points of a few crops, of photos of 640 x 480 px."""
    found, frames = [], {}
    for crop in range(1, draw(st.integers(1, 4)) + 1):
        names = draw(st.lists(st.text(st.characters(exclude_categories=["Cc", "Cs"]), min_size=1).map(str.strip)
                              .filter(bool), min_size=1, max_size=4, unique=True))  # fmt: skip
        axis = lambda most: st.floats(0, most)  # noqa: E731
        points = draw(st.lists(st.tuples(axis(640), axis(480)), min_size=len(names), max_size=len(names)))
        seen = draw(st.lists(st.booleans(), min_size=len(names), max_size=len(names)))
        confidence = np.linspace(0.2, 1, len(names), dtype=np.float32)
        found.append(Keypoints(crop, tuple(names), np.array(points, float), confidence, np.array(seen)))
        species = draw(st.sampled_from(["lion", "kea", None]))
        box = (draw(axis(300)), draw(axis(200)), draw(st.floats(1, 300)), draw(st.floats(1, 200)))
        frames[crop] = CropFrame(crop, "animal", species, box, (0, 0, 640, 480), (640, 480), (640, 480))
    return found, frames


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=60)
@given(surveys())
def test_what_is_written_is_read_again_to_the_last_digit(tmp_path, survey):
    found, frames = survey
    path = tmp_path / "points.json"
    facts = {
        crop: {"image": 7 + crop % 2, "path": f"p{crop % 2}.jpg", "sha256": "ab", "individual": "Bo"} for crop in frames
    }
    summary = coco_keypoints.write(path, found, frames, facts)
    document = coco_keypoints.read(path)
    assert document.failures == [] and document.without_points == 0
    assert summary["points"] == sum(len(one.names) for one in found)
    read = {one.place.split()[-1]: (image, one) for image in document.images for one in image.annotations}
    assert set(read) == {str(one.crop_id) for one in found}
    for one in found:
        image, again = read[str(one.crop_id)]
        assert (image.file_name, image.size, image.sha256) == (f"p{one.crop_id % 2}.jpg", (640, 480), "ab")
        assert (again.box, again.species) == (frames[one.crop_id].box, frames[one.crop_id].species or "animal")
        order = [one.names.index(name) for name in again.names]
        assert sorted(again.names) == sorted(one.names)
        assert [list(point) for point in again.kp_image] == one.kp_image[order].tolist()
        assert list(again.visible) == one.visible[order].tolist()


def test_the_file_by_hand(tmp_path):
    frame = CropFrame(5, "animal", "cat", (1.0, 2.0, 30.0, 40.0), (0, 0, 40, 50), (40, 50), (320, 240))
    one = Keypoints(5, ("right_eye", "nose"), np.array([[9.5, 8.0], [7.25, 6.0]]), np.array([0.5, 1.0], np.float32),
                    np.array([True, False]))  # fmt: skip
    other = Keypoints(6, ("left_eye",), np.array([[1.0, 2.0]]), np.array([0.5], np.float32), np.array([True]))
    template = Template(1, "t", 5, "cat", tuple(
        NamedPoint(name, 1, 1, mirror) for name, mirror in
        (("left_eye", "right_eye"), ("right_eye", "left_eye"), ("left_ear", "right_ear"), ("right_ear", "left_ear"))
    ), "expert")  # fmt: skip
    facts = {"image": 3, "path": "DCIM/a.jpg", "sha256": "cd", "individual": "Bo"}
    path = tmp_path / "points.json"
    coco_keypoints.write(
        path, [other, one], {5: frame, 6: frame}, {5: facts, 6: facts | {"individual": None}}, [template]
    )
    document = json.loads(path.read_text())
    assert document["images"] == [{"id": 3, "file_name": "DCIM/a.jpg", "width": 320, "height": 240, "sha256": "cd"}]
    assert document["categories"] == [
        {"id": 1, "name": "cat", "supercategory": "animal", "keypoints": ["right_eye", "nose", "left_eye"],
         "skeleton": [], "swap_pairs": [["right_eye", "left_eye"]]}
    ]  # fmt: skip
    assert document["annotations"][0] == {
        "id": 5, "image_id": 3, "category_id": 1, "bbox": [1, 2, 30, 40], "area": 1200, "iscrowd": 0,
        "individual": "Bo", "keypoints": [9.5, 8, 2, 7.25, 6, 1, 0, 0, 0], "num_keypoints": 2, "score": 0.75,
        "sources": ["propagated", "propagated", None], "confidences": [0.5, 1, None],
    }  # fmt: skip
    assert document["annotations"][1]["keypoints"] == [0, 0, 0, 0, 0, 0, 1, 2, 2]


FIELDS = ["id", "sources", "image_id", "category_id", "bbox", "keypoints", "name", "file_name", "width", "iscrowd"]
PLAIN = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.sampled_from([1, 2, 10**400])
JSON = st.recursive(
    PLAIN,
    lambda inner: st.lists(inner, max_size=7) | st.dictionaries(st.sampled_from(FIELDS), inner, max_size=6),
    max_leaves=20,
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=150)
@given(st.lists(JSON, max_size=4), st.lists(JSON, max_size=4), st.lists(JSON, max_size=4))
def test_no_file_is_too_odd_to_be_told_of(tmp_path, images, annotations, categories):
    document = coco(annotation())
    document["images"] += images
    document["annotations"] += annotations
    document["categories"] += categories
    path = tmp_path / "odd.json"
    path.write_text(json.dumps(document))
    read = coco_keypoints.read(path)
    used = sum(len(image.annotations) for image in read.images)
    assert used >= 1 and used + read.without_points <= 1 + len(annotations)
    assert used + read.without_points + len(read.failures) == 1 + sum(map(len, (images, annotations, categories))) - (
        len(images) + len(categories) - sum(one.startswith(("image", "category")) for one in read.failures)
    )


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("crop,name", "should be JSON"),
        ("[" * 100_000, "should be JSON"),
        ("[]", "not in COCO"),
        ('{"images": [], "annotations": {}, "categories": []}', "not in COCO"),
        ('{"images": [], "annotations": [], "categories": [{"id": 1, "name": "cat"}]}', "boxes only"),
    ],
)
def test_what_is_no_coco_keypoints_is_refused(tmp_path, text, reason):
    path = tmp_path / "a.json"
    path.write_text(text)
    with pytest.raises(CareError, match=reason):
        coco_keypoints.read(path)
    with pytest.raises(CareError, match="cannot be read"):
        coco_keypoints.read(tmp_path / "absent.json")


BAD = {  # what is wrong -> an annotation, and words of what is said of it
    "short": (annotation() | {"keypoints": [1, 2, 2]}, "should be 9 numbers"),
    "text": (annotation() | {"keypoints": [1, 2, "2"] * 3}, "finite numbers"),
    "nan": (annotation() | {"keypoints": [float("nan"), 2, 2] * 3}, "finite numbers"),
    "v": (annotation() | {"keypoints": [1, 2, 7] * 3}, "0, 1 or 2, but here 7"),
    "no box": (annotation(bbox=None), "bbox should be 4 numbers"),
    "flat box": (annotation(bbox=[1, 2, 0, 5]), "above 0 px"),
    "infinite box": (annotation(bbox=[1, 2, float("inf"), 5]), "finite numbers"),
    "box outside": (annotation(bbox=[400, 2, 20, 5]), "lies outside the photo of 320 x 240"),
    "point outside": (annotation(shift=260), "'right_eye' at (350, 50) lies outside"),
    "image": (annotation(image_id=9), "image_id 9 leads to nothing"),
    "category": (annotation(category_id="cat"), 'category_id "cat" leads to nothing'),
    "crowd": (annotation(iscrowd=1), "a group"),
    "twice": (annotation(id=1), "was given before"),
    "no id": (annotation(id=None), "should be a whole number, but is missing"),
}


def test_one_bad_annotation_is_told_and_the_others_are_taken(catalog, folder, tmp_path):
    document = coco(annotation(), *(copy.deepcopy(bad) for bad, _ in BAD.values()))
    document["images"] += [
        {"id": 3, "file_name": "../photos/../secret.png"}, {"id": 4, "file_name": "absent.png"}, {"id": 5},
        {"id": 6, "file_name": "b.png", "width": 240, "height": 320}, {"id": 7, "file_name": "torn.png"},
    ]  # fmt: skip
    document["annotations"] += [
        annotation(id=100 + image, image_id=image, category_id=1, bbox=BOX) for image in range(3, 8)
    ]
    document["annotations"].append({"id": 200, "image_id": 1, "category_id": 1, "bbox": BOX, "keypoints": [0] * 9})
    (tmp_path / "secret.png").write_bytes((folder / "b.png").read_bytes())
    (folder / "torn.png").write_bytes(b"\x89PNG torn")
    done = run(catalog, written(tmp_path, document), folder)
    said = "\n".join(done["failures"])
    others = ("secret.png: it lies outside", "absent.png", "image 5: its file", "annotation 105: its image_id 5",
              "240 x 320 px, but upright it is one of 320 x 240", "torn.png")  # fmt: skip
    for words in (*(words for _, words in BAD.values()), *others):
        assert words in said, words
    assert done["failed"] == len(done["failures"]) == len(BAD) + 6
    assert (done["annotations"], done["new_crops"], done["new_points"], done["without_points"]) == (1, 1, 2, 1)
    assert done["images"] == 1 and catalog.integrity() == []
    [point, other] = keypoints.rows(catalog, PointSelection())
    assert (point["name"], point["x"], point["y"], point["visible"]) == ("left_eye", 60, 50, 1)
    assert (other["name"], other["visible"], other["source"], other["species"]) == ("right_eye", 0, "import", "cat")


# -- into a catalog


def test_an_annotation_becomes_a_crop_once(catalog, folder, tmp_path):
    path = written(tmp_path, coco(annotation(), annotation(5, image_id=2)))
    first = run(catalog, path, folder)
    assert (first["images"], first["annotations"], first["new_crops"], first["new_points"]) == (2, 2, 2, 4)
    [row, _] = catalog.crop_rows(Selection(category="animal"))
    assert tuple(row[side] for side in "xywh") == BOX and (row["species"], row["confidence"]) == ("cat", 1)
    frame = catalog.crop_frame([row["crop"]])[row["crop"]]
    assert frame.rect == (32, 24, 96, 72)  # a tenth of the box on each side
    counts = catalog.counts()
    again = run(catalog, path, folder)
    assert again["new_crops"] == again["new_points"] == 0 and again["run"] == first["run"]
    assert catalog.counts() == counts


def test_points_join_the_animal_that_a_detector_found(catalog, folder, tmp_path):
    detect = catalogs.detect_run(catalog)
    image = catalogs.add_photo(catalog, "a.png", folder=tmp_path / "card")
    (folder / "a.png").write_bytes((tmp_path / "card" / "a.png").read_bytes())
    near, far = (44.0, 30.0, 80.0, 60.0), (200.0, 30.0, 80.0, 60.0)
    ids = catalogs.add_crops(catalog, detect, image, "a.png", [catalogs.found(near), catalogs.found(far)])
    catalog.db.conn.execute("UPDATE crops SET species = NULL, model_species = NULL")
    shifted = annotation(bbox=[90.0, 30.0, 80.0, 60.0])  # IoU with `near` 34 / 126
    done = run(catalog, written(tmp_path, coco(annotation(), shifted)), folder)
    assert done["new_crops"] == 1
    assert set(catalog.annotated()) == {ids[0], ids[1] + 1}
    assert catalog.crop(ids[0])["species"] == "cat" and catalog.crop(ids[1])["species"] is None


def test_the_pair_that_overlaps_most_comes_first():
    one, other, apart = (0.0, 0.0, 10.0, 10.0), (1.0, 0.0, 10.0, 10.0), (50.0, 0.0, 10.0, 10.0)
    assert matched([one, other], [other]) == [None, 0]
    assert matched([one, other], [other, one]) == [1, 0]
    assert matched([apart], [one, other]) == [None] and matched([], [one]) == [] and matched([one], []) == [None]


def test_people_of_an_annotated_photo_are_boxes_and_black(catalog, folder, tmp_path):
    document = coco(annotation(), annotation(image_id=1, category_id=2, bbox=[90, 60, 40, 40]))
    document["categories"].append({"id": 2, "name": "Person", "keypoints": NAMES})
    path = written(tmp_path, document)
    first, again = run(catalog, path, folder), run(catalog, path, folder)
    assert (first["people"], again["people"], first["new_points"], first["failed"]) == (1, 0, 2, 0)
    [animal] = catalog.crop_ids(Selection(category="animal"))
    [person] = catalog.crop_ids(Selection(category="person"))
    assert set(catalog.pixels([animal, person])) == {animal} and set(catalog.keypoints([animal, person])) == {animal}
    pixels = np.asarray(decode_jpeg(catalog.pixels([animal])[animal]))  # from (32, 24) on, in its own size
    assert pixels[60 - 24 + 4 : 92 - 24, 90 - 32 + 4 : 124 - 32].max() < 30 and pixels[:30, :50].min() > 30


def test_the_photo_is_known_by_its_bytes(catalog, folder, tmp_path):
    digest = hashlib.sha256((folder / "a.png").read_bytes()).hexdigest()
    document = coco(annotation())
    document["images"][0]["sha256"] = "0" * 64
    assert "its bytes" in run(catalog, written(tmp_path, document), folder)["failures"][0]
    document["images"][0]["sha256"] = digest
    known = written(tmp_path, document, "known.json")
    assert "--images" in run(catalog, known)["failures"][0]
    assert run(catalog, known, folder)["new_crops"] == 1
    moved = coco(annotation(7.0), annotation(bbox=[200, 30, 80, 60]))
    moved["images"][0] |= {"sha256": digest, "file_name": "elsewhere.png"}
    done = run(catalog, written(tmp_path, moved, "moved.json"))  # no folder at all
    assert (done["annotations"], done["new_crops"], done["new_points"]) == (1, 0, 2)
    assert "the photo is not here" in done["failures"][0]
    assert keypoints.rows(catalog, PointSelection(name="left_eye"))[0]["x"] == 67  # the newest file counts


def test_an_import_that_was_stopped_goes_on(catalog, folder, tmp_path, monkeypatch):
    path = written(tmp_path, coco(annotation(), annotation(5, image_id=2)))
    monkeypatch.setattr(import_keypoints, "BATCH", 1)
    batches = []

    def stopped(run_id, found):
        batches.append(found)
        if len(batches) == 2:
            raise KeyboardInterrupt
        return Catalog.add_keypoints(catalog, run_id, found)

    monkeypatch.setattr(catalog, "add_keypoints", stopped)
    with pytest.raises(KeyboardInterrupt):
        run(catalog, path, folder)
    assert catalog.counts()["crops"] == 1 and catalog.counts()["keypoints"] == 2
    monkeypatch.undo()
    done = run(catalog, path, folder)
    assert (done["new_crops"], done["new_points"]) == (1, 2)
    with catalogs.new(tmp_path / "at-once.db") as other:
        run(other, path, folder)
        assert contents(other) == contents(catalog) and len(contents(catalog)) == 4


def test_points_leave_one_catalog_for_another_as_they_are(catalog, folder, tmp_path):
    run(catalog, written(tmp_path, coco(annotation(0.125), annotation(5, image_id=2))), folder)
    crop = catalog.crop_ids(Selection())[0]
    catalog.correct_keypoint(crop, "nose", 75.0625, 66.1)
    out = tmp_path / "out.json"
    assert keypoints.export(catalog, out, PointSelection())["points"] == 5
    with catalogs.new(tmp_path / "other.db") as other:
        assert run(other, out, folder)["failed"] == 0
        assert contents(other) == contents(catalog)
    with pytest.raises(CareError, match="exists already"):
        keypoints.export(catalog, out, PointSelection())
    with pytest.raises(CareError, match="No point fits"):
        keypoints.export(catalog, tmp_path / "none.json", PointSelection(species="dog"))


def carried(catalog: Catalog) -> None:
    """Points of an annotated animal as a propagation finds them, sure and unsure."""
    [crop] = catalog.crop_ids(Selection())
    propagation = catalog.begin_run("propagate-keypoints", {})
    points = np.array([[60.1234567, 50.0], [90.0, 1 / 3], [75.0, 60.0]])
    catalog.add_keypoints(
        propagation, [Keypoints(crop, tuple(NAMES), points, np.array([0.9, 0.5, 0.25], np.float32), points[:, 0] < 80)]
    )
    catalog.finish_run(propagation)


def table_of(catalog: Catalog, path: Path) -> Path:
    """All points as `care keypoints --csv` prints them."""
    rows = keypoints.rows(catalog, PointSelection())
    with path.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


@pytest.mark.parametrize("form", ["json", "csv"])
def test_what_models_found_does_not_come_back_as_truth(catalog, folder, tmp_path, form):
    document = coco(annotation())
    document["annotations"][0]["keypoints"] = [0, 0, 0, 0, 0, 0, 70, 55, 2]  # the nose, by a person
    run(catalog, written(tmp_path, document), folder)
    carried(catalog)
    out = tmp_path / f"out.{form}"
    if form == "json":
        keypoints.export(catalog, out, PointSelection())
        assert json.loads(out.read_text())["annotations"][0]["sources"] == ["import", "propagated", "propagated"]
        assert json.loads(out.read_text())["annotations"][0]["confidences"] == [1, 0.9, 0.5]
    else:
        table_of(catalog, out)
    before = contents(catalog)
    done = run(catalog, out)
    assert (done["left_out"], done["new_points"], done["failed"]) == (2, 1, 0)  # the nose, of one more file
    assert contents(catalog) == before
    assert {row["name"]: row["source"] for row in keypoints.rows(catalog, PointSelection())} == {
        "left_eye": "propagated", "right_eye": "propagated", "nose": "import",
    }  # fmt: skip
    assert [one.names for one in catalog.annotated().values()] == [("nose",)]


@pytest.mark.parametrize("form", ["json", "csv"])
def test_a_point_that_somebody_moved_is_a_correction(catalog, folder, tmp_path, form):
    run(catalog, written(tmp_path, coco(annotation(bbox=BOX))), folder)
    catalog.db.conn.execute("DELETE FROM keypoints")
    carried(catalog)
    out = tmp_path / f"out.{form}"
    if form == "json":
        keypoints.export(catalog, out, PointSelection())
        document = json.loads(out.read_text())
        document["annotations"][0]["keypoints"][3] += 0.02
        document["annotations"][0]["keypoints"][6] += 0.009
        out.write_text(json.dumps(document))
    else:
        text = table_of(catalog, out).read_text()
        out.write_text(text.replace("right_eye,90.0,", "right_eye,90.02,").replace("nose,75.0,", "nose,75.009,"))
    for new in (1, 0):  # read twice
        done = run(catalog, out)
        assert (done["left_out"], done["new_points"], done["failed"]) == (2, new, 0)
    rows = {row["name"]: (row["source"], row["x"]) for row in keypoints.rows(catalog, PointSelection())}
    assert rows["right_eye"] == ("import", 90.02) and rows["nose"][0] == rows["left_eye"][0] == "propagated"


def test_no_animal_is_cut_for_points_that_a_model_found(catalog, folder, tmp_path):
    guessed, odd = annotation(sources=["propagated", "propagated", None]), annotation(sources=["propagated"])
    done = run(catalog, written(tmp_path, coco(guessed, odd)), folder)
    assert (done["left_out"], done["new_points"], done["new_crops"], done["annotations"]) == (2, 0, 0, 0)
    assert "sources should be 3" in done["failures"][0] and catalog.counts()["crops"] == 0


def test_real_annotations_are_taken_in_whole(shared, tmp_path, monkeypatch, capsys):
    folder = shared / "data" / "keypoints" / "animal_pose_cat_dog"
    plain = json.loads((folder / "annotations.coco.json").read_text())
    sizes = {image["id"]: (image["width"], image["height"]) for image in plain["images"]}
    names = {category["id"]: category for category in plain["categories"]}
    wanted, outside = collections.Counter(), 0
    for entry in plain["annotations"]:
        points = np.reshape(entry["keypoints"], (-1, 3))
        there = points[points[:, 2] > 0]
        if (there[:, :2] > sizes[entry["image_id"]]).any():
            outside += 1
            continue
        wanted["crops", names[entry["category_id"]]["name"]] += 1
        wanted["points"] += len(there)
        wanted["sum"] += int(there[:, :2].sum())
    command = ["care", "--catalog", str(tmp_path / "care.db"), "keypoints", "import", "--json",
               str(folder / "annotations.coco.json"), "--images", str(folder)]  # fmt: skip
    monkeypatch.setattr(sys, "argv", command)
    with pytest.raises(SystemExit) as end:
        cli.main()
    done = json.loads(capsys.readouterr().out)
    assert end.value.code == (1 if outside else 0) and done["failed"] == outside
    with Catalog(tmp_path / "care.db") as catalog:
        found = catalog.annotated()
        got = collections.Counter(("crops", row["species"]) for row in catalog.crop_rows(Selection()))
        got["points"] = sum(len(one.names) for one in found.values())
        got["sum"] = int(sum(one.kp_image.sum() for one in found.values()))
        assert got == wanted and set(found) == set(catalog.crop_ids(Selection()))


# -- tables


def test_a_table_of_points_speaks_of_crops(catalog, tmp_path):
    catalogs.survey(catalog)
    path = tmp_path / "points.csv"
    lines = ["crop;name;x;y;visible", "2;nose;75.5;65;", "2;tail;41;42;no", "2;nose;1;1;", "3;nose;x;1;",
             "99;nose;1;1;", "3;;1;1;", "3;nose;400;1;", "3;ear;50;40;perhaps", "three;ear;1;1;"]  # fmt: skip
    path.write_text("\n".join(lines))
    done = run(catalog, path)
    assert (done["annotations"], done["new_points"], done["failed"]) == (1, 2, 7)
    for line, words in ((4, "line 2 already"), (5, "px of the photo"), (6, "no crop 99"), (7, "no name"),
                        (8, "outside the photo"), (9, "1 or 0"), (10, "crop's number")):  # fmt: skip
        assert any(one.startswith(f"line {line}:") and words in one for one in done["failures"]), words
    [nose, tail] = keypoints.rows(catalog, PointSelection())
    assert (nose["x"], nose["visible"], tail["y"], tail["visible"]) == (75.5, 1, 42, 0)
    assert run(catalog, path)["new_points"] == 0
    path.write_text("crop,name,x\n")
    with pytest.raises(CareError, match="no column 'y'"):
        run(catalog, path)
