"""Files of named points: what is read out of them, and that nothing else than good points ever is."""

from __future__ import annotations

import csv
import io
import json
import string
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from care_cli.errors import CareError
from care_cli.keypoints import files, random_points
from care_cli.keypoints.points import checked, paired_by_name
from care_cli.records import NamedPoint

SIZE = (320, 240)
RECT = (30, 20, 100, 80)
SAME_FOLDER = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])

WORD = st.text(string.ascii_letters + string.digits + " _-ŠÉß中ñ", min_size=1, max_size=12).map(str.strip).filter(bool)
PLACE = st.tuples(st.floats(0, SIZE[0]), st.floats(0, SIZE[1])).map(lambda xy: tuple(round(v, 2) for v in xy))


@st.composite
def point_lists(draw) -> list[NamedPoint]:
    """Good points: names apart whatever the case, some of them in mirror pairs."""
    names = draw(st.lists(WORD, min_size=1, max_size=8, unique_by=str.casefold))
    pairs = draw(st.integers(0, len(names) // 2))
    mirrors = {names[2 * i + side]: names[2 * i + 1 - side] for i in range(pairs) for side in (0, 1)}
    return [NamedPoint(name, *draw(PLACE), mirrors.get(name)) for name in names]


def as_json(points: list[NamedPoint]) -> list[dict]:
    return [{"name": p.name, "x": p.x, "y": p.y, "mirror": p.mirror} for p in points]


def read_text(folder: Path, name: str, text: str | bytes, **where) -> files.Annotation:
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return files.read(path, **where)


# -- good files


@SAME_FOLDER
@given(point_lists(), st.sampled_from([None, "Lion", "Žirafa"]))
def test_what_is_written_is_read(tmp_path: Path, points: list[NamedPoint], species: str | None) -> None:
    files.write(tmp_path / "points.json", points, species)
    found = files.read(tmp_path / "points.json")
    assert checked(found.points, SIZE) == tuple(points)
    assert found.species == species


@SAME_FOLDER
@given(point_lists(), st.sampled_from(",;\t"), st.sampled_from(["", "\ufeff"]), st.booleans())
def test_tables_of_any_delimiter_say_the_same(tmp_path, points, delimiter, mark, comma) -> None:
    stream = io.StringIO()
    writer = csv.writer(stream, delimiter=delimiter)
    writer.writerow(["Name", "x", "y", "mirror"])
    for p in points:
        x, y = (str(v).replace(".", ",") if comma and delimiter != "," else str(v) for v in (p.x, p.y))
        writer.writerow([p.name, x, y, p.mirror or ""])
    found = read_text(tmp_path, "points.csv", mark + stream.getvalue())
    assert checked(found.points, SIZE) == tuple(points)


def test_a_list_alone_and_mirror_of_are_taken(tmp_path: Path) -> None:
    entries = [{"name": "l", "x": 1, "y": 2, "mirror_of": "r"}, {"name": "r", "x": "3.5", "y": 4, "mirror": "l"}]
    found = read_text(tmp_path, "a.json", json.dumps(entries))
    assert found.points == (NamedPoint("l", 1.0, 2.0, "r"), NamedPoint("r", 3.5, 4.0, "l"))
    assert found.about["file"] == "a.json" and found.species is None


# -- bad points


def break_name(entries, i, _):
    entries[i]["name"] = entries[i - 1]["name"].swapcase() if len(entries) > 1 else ""


def break_place(entries, i, bad):
    entries[i]["x" if i % 2 else "y"] = bad


def break_mirror(entries, i, _):
    entries[i]["mirror"] = {None: "nobody at all"}.get(entries[i]["mirror"], entries[i]["name"])


BAD = st.sampled_from([-0.01, 321, 1e300, float("nan"), float("inf"), True, None, "left", "1_0", "", [], {}, 10**400])


@SAME_FOLDER
@given(point_lists(), st.data())
def test_any_broken_point_is_refused_in_words(tmp_path: Path, points: list[NamedPoint], data) -> None:
    entries = as_json(points)
    i = data.draw(st.integers(0, len(entries) - 1))
    data.draw(st.sampled_from([break_name, break_place, break_mirror]))(entries, i, data.draw(BAD))
    with pytest.raises(CareError):
        checked(read_text(tmp_path, "points.json", json.dumps(entries)).points, SIZE)


@pytest.mark.parametrize(
    ("points", "words"),
    [
        ([], "at least one"),
        ([NamedPoint("nose", 321, 5)], r"'nose' at \(321, 5\) lies outside the photo of 320 x 240"),
        ([NamedPoint("nose", 50, float("nan"))], "'nose'.*no place"),
        ([NamedPoint("nose", 10, 40)], r"'nose'.*outside the animal's crop.*30 to 130 and 20 to 100"),
        ([NamedPoint("nose", 50, 50), NamedPoint("Nose", 51, 50)], "'Nose', as 'nose' too"),
        ([NamedPoint("nose", 50, 50), NamedPoint("nose", 51, 50)], "Two points are called 'nose';"),
        ([NamedPoint(" ", 50, 50)], "Point 1: A name has"),
        ([NamedPoint("a\nb", 50, 50)], "Point 1: A name has"),
        ([NamedPoint("nose", 50, 50, "nose")], "its own mirror point"),
        ([NamedPoint("l", 50, 50, "r")], "'l' should be 'r', but there is no such point"),
        ([NamedPoint("l", 50, 50, "r"), NamedPoint("r", 51, 50)], "'r' says none"),
        ([NamedPoint("l", 50, 50, "r"), NamedPoint("r", 51, 50, "m"), NamedPoint("m", 52, 50, "r")], "'r' says 'm'"),
    ],
)
def test_each_fault_is_told_with_its_point(points: list[NamedPoint], words: str) -> None:
    with pytest.raises(CareError, match=words):
        checked(points, SIZE, RECT)


def test_edges_of_photo_and_crop_belong_to_them() -> None:
    corners = [NamedPoint("a", 30, 20), NamedPoint("b", 130, 100)]
    assert checked(corners, SIZE, RECT) == tuple(corners)
    assert checked([NamedPoint("c", *SIZE)], SIZE)


# -- hostile files


HOSTILE = [
    b"",
    b"\xff\xfe\x00n",
    b"[" * 100_000,
    b'{"keypoints": ' * 50_000,
    b'[{"name": "a", "x": ' + b"9" * 5000 + b', "y": 1}]',
    b'[{"name": "a", "x": 1e999, "y": 1}]',
    b'[{"name": "a", "x": true, "y": 1}]',
    b'[{"name": ["a"], "x": 1, "y": 1}]',
    b'[{"name": "\\ud800", "x": 1, "y": 1}]',
    b'[{"name": "a", "x": 1, "y": 1, "mirror": 3}]',
    b'[["a", 1, 1]]',
    b'{"keypoints": {"a": [1, 1]}}',
    b'{"keypoints": [], "species": 3}',
    b'{"images": 1, "annotations": [], "categories": []}',
    b'{"images": [1], "annotations": [], "categories": []}',
    b'"nose at the left"',
    b"The nose is at the left.",
    b"name,x,y\nnose,1",
    b"name,x,y\nnose,12,5,30,5",
    b"name,x\nnose,1",
    b"name,x,x,y\nnose,1,2,3",
    b'name,x,y\n"nose,1,2',
    b"\0\0\0",
]


@pytest.mark.parametrize("suffix", ["json", "csv"])
@pytest.mark.parametrize("data", HOSTILE, ids=lambda data: repr(data[:30]))
def test_hostile_files_are_refused_in_words(tmp_path: Path, data: bytes, suffix: str) -> None:
    with pytest.raises(CareError) as refusal:
        checked(read_text(tmp_path, f"points.{suffix}", data).points, SIZE)
    assert len(str(refusal.value)) < 600


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "absent.json"):
        with pytest.raises(CareError, match="cannot be read"):
            files.read(path)


JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(
        ["name", "x", "y", "mirror", "keypoints", "images", "annotations", "categories", "id", "image_id",
         "category_id", "file_name", "flip_pairs", "species"]), inner, max_size=8),
    max_leaves=25,
)  # fmt: skip


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(JSON, st.sampled_from([None, 1]))
def test_any_json_gives_points_or_a_refusal(tmp_path: Path, value, annotation) -> None:
    try:
        found = read_text(tmp_path, "any.json", json.dumps(value), photo=["a.jpg"], annotation=annotation)
        assert all(0 <= p.x <= SIZE[0] for p in checked(found.points, SIZE))
    except CareError:
        pass


# -- COCO


def coco(keypoints, names=("left_eye", "right_eye", "nose"), files_=("cards/A/IMG_1.JPG",), **category) -> dict:
    return {
        "images": [{"id": i, "file_name": name, "width": 320, "height": 240} for i, name in enumerate(files_, 1)],
        "annotations": [{"id": 7 + i, "image_id": 1, "category_id": 3, "keypoints": kp}
                        for i, kp in enumerate(keypoints)],
        "categories": [{"id": 3, "name": "cat", "keypoints": list(names), **category}],
    }  # fmt: skip


EYES = [10, 11, 2, 20, 21, 1, 0, 0, 0]


def test_coco_gives_the_points_that_are_there(tmp_path: Path) -> None:
    found = read_text(tmp_path, "a.json", json.dumps(coco([EYES])), photo=["A/IMG_1.JPG"])
    assert found.points == (NamedPoint("left_eye", 10, 11, "right_eye"), NamedPoint("right_eye", 20, 21, "left_eye"))
    assert (found.species, found.size, found.about["annotation"]) == ("cat", (320, 240), "7")


@pytest.mark.parametrize(
    ("photo", "annotation"),
    [("x/A/IMG_1.JPG", 7), ("B/IMG_1.JPG", 8), ("C/IMG_1.JPG", None), ("IMG_1.JPG", None), ("C/IMG_3.JPG", 9)],
)
def test_of_photos_with_one_name_the_folders_decide(tmp_path: Path, photo: str, annotation: int | None) -> None:
    document = coco([EYES] * 3, files_=("cards\\A\\IMG_1.JPG", "cards/B/IMG_1.JPG", "cards/B/IMG_3.JPG"))
    for i, entry in enumerate(document["annotations"], 1):
        entry["image_id"] = i
    if annotation is None:
        with pytest.raises(CareError, match="2 annotations that could be meant: 7, 8"):
            read_text(tmp_path, "a.json", json.dumps(document), photo=[photo])
    else:
        found = read_text(tmp_path, "a.json", json.dumps(document), photo=["elsewhere/x.png", photo])
        assert found.about["annotation"] == str(annotation)


@pytest.mark.parametrize(
    ("key", "said"),
    [
        ("swap_pairs", [[0, 1]]),
        ("flip_pairs", [["a", "b"]]),
        ("flip_idx", [1, 0, 2]),
        ("flip_indices", [1, 0, 2]),
    ],
)
def test_coco_pairs_as_the_file_says_them(tmp_path: Path, key: str, said: list) -> None:
    document = coco([[1, 1, 2, 2, 2, 2, 3, 3, 2]], names=("a", "b", "c"), **{key: said})
    found = read_text(tmp_path, "a.json", json.dumps(document), annotation=7)
    assert [p.mirror for p in found.points] == ["b", "a", None]


@pytest.mark.parametrize("said", [[[0, 3]], [[0, 0]], [[0, 1], [1, 2]], [0, 1], "ab", [[0]], [["a", "z"]], [[True, 0]]])
def test_coco_pairs_that_cannot_be(tmp_path: Path, said) -> None:
    document = coco([[1, 1, 2, 2, 2, 2, 3, 3, 2]], names=("a", "b", "c"), flip_pairs=said)
    with pytest.raises(CareError, match="'flip_pairs' should pair"):
        read_text(tmp_path, "a.json", json.dumps(document), annotation=7)


def test_an_absent_counterpart_is_no_mirror(tmp_path: Path) -> None:
    one_eye = [10, 11, 2, 0, 0, 0, 5, 5, 2]
    for pairs in ({}, {"flip_pairs": [[0, 1]]}):
        found = read_text(tmp_path, "a.json", json.dumps(coco([one_eye], **pairs)), annotation=7)
        assert [(p.name, p.mirror) for p in found.points] == [("left_eye", None), ("nose", None)]


@pytest.mark.parametrize(
    ("document", "where", "words"),
    [
        (coco([EYES]), {"photo": ["A/IMG_2.JPG"]}, "no annotation of A/IMG_2.JPG"),
        (coco([EYES]), {"photo": ["MG_1.JPG"]}, "no annotation of"),
        (coco([EYES]), {}, "no annotation of the photo"),
        (coco([EYES]), {"annotation": 9}, "no annotation 9"),
        (coco([EYES, EYES]), {"photo": ["IMG_1.JPG"]}, "2 annotations that could be meant: 7, 8"),
        (coco([EYES[:-1]]), {"annotation": 7}, "9 numbers"),
        (coco([[*EYES[:-1], "v"]]), {"annotation": 7}, "v of 'nose'"),
        (coco([["x", *EYES[1:]]]), {"annotation": 7}, "x of 'left_eye'"),
        (coco([EYES]) | {"categories": []}, {"annotation": 7}, "of category 3"),
        (coco([EYES], names=("a", 1, "c")), {"annotation": 7}, "list the points' names"),
    ],
)
def test_coco_faults_are_told(tmp_path: Path, document: dict, where: dict, words: str) -> None:
    with pytest.raises(CareError, match=words):
        read_text(tmp_path, "a.json", json.dumps(document), **where)


def test_annotation_is_for_coco_alone(tmp_path: Path) -> None:
    for name, text in (("a.json", '[{"name": "a", "x": 1, "y": 1}]'), ("a.csv", "name,x,y\na,1,1")):
        with pytest.raises(CareError, match="--annotation"):
            read_text(tmp_path, name, text, annotation=1)


def test_real_animal_pose_annotations(shared: Path) -> None:
    path = shared / "data" / "keypoints" / "animal_pose_cat_dog" / "annotations.coco.json"
    document = json.loads(path.read_text())
    images = {image["id"]: image for image in document["images"]}
    names = document["categories"][0]["keypoints"]
    for entry in document["annotations"][:20]:
        image = images[entry["image_id"]]
        here = [one for one in document["annotations"] if one["image_id"] == image["id"]]
        found = files.read(path, [image["file_name"]], None if len(here) == 1 else entry["id"])
        expected = np.array(entry["keypoints"]).reshape(-1, 3)
        assert [(p.name, p.x, p.y) for p in found.points] == [
            (name, x, y) for name, (x, y, v) in zip(names, expected.tolist(), strict=True) if v
        ]
        present = {p.name for p in found.points}
        for p in found.points:
            other = p.name.replace("left", "*").replace("right", "left").replace("*", "right")
            assert p.mirror == (other if other != p.name and other in present else None)
        checked(found.points, (image["width"], image["height"]))


@pytest.mark.parametrize(
    ("left", "right"),
    [("left_eye", "right_eye"), ("L_Eye", "R_Eye"), ("eye_l", "eye_r"), ("Left Ear", "Right Ear"), ("LEye", "REye"),
     ("leftEye", "rightEye"), ("eyeLeft", "eyeRight"), ("eyeL", "eyeR"), ("LEFT-PAW", "RIGHT-PAW"), ("l", "r"),
     ("L1", "R1")],
)  # fmt: skip
def test_sides_in_names_make_pairs(left: str, right: str) -> None:
    points = [NamedPoint(left, 1, 1), NamedPoint("Rump", 2, 2), NamedPoint(right, 3, 3), NamedPoint("lleft", 4, 4)]
    assert [p.mirror for p in paired_by_name(points)] == [right, None, left, None]


# -- random points


@given(st.tuples(*[st.floats(0, 500)] * 4), st.integers(1, 20), st.integers(0, 2**40))
def test_random_points_lie_in_the_box_and_come_again(box, count, seed) -> None:
    x, y, w, h = box
    points = random_points.propose(box, count, seed)
    assert [p.name for p in points] == [f"point_{i}" for i in range(1, count + 1)]
    assert all(x <= p.x <= x + w and y <= p.y <= y + h for p in points)
    assert points == random_points.propose(box, count, seed)


def test_random_points_are_uniform_and_each_seed_has_its_own() -> None:
    box = (10.0, 100.0, 40.0, 200.0)
    places = np.array([(p.x, p.y) for p in random_points.propose(box, 4000, 1)])
    unit = (places - box[:2]) / box[2:]
    assert np.allclose(unit.mean(0), 0.5, atol=0.03) and np.allclose(unit.var(0), 1 / 12, atol=0.01)
    assert random_points.propose(box, 3, 1) != random_points.propose(box, 3, 2)
    for count, seed in ((0, 0), (1, -1)):
        with pytest.raises(CareError):
            random_points.propose(box, count, seed)
