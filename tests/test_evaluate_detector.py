"""`care evaluate detector`: figures against hand-worked and plain ones, and the demo detector on the rendered card."""

from __future__ import annotations

import csv
import io
import json
import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from labelled import write_card, write_folder, write_places
from PIL import Image
from test_cli import runner

from care_cli import recipes
from care_cli.checkpoints import read_header
from care_cli.evaluation import detection, figures
from care_cli.evaluation.detection import Boxes, Looked, Mistake
from care_cli.pages.labelled_photo import DrawnBox, labelled_photo


def boxes(rows: list) -> Boxes:
    """Boxes of rows (x, y, w, h, class, confidence)."""
    found = np.array(rows, float).reshape(-1, 6)
    return Boxes(found[:, :4], found[:, 4].astype(np.int64), found[:, 5])


def photo(true: list, shown: list, lighting: str = "day") -> Looked:
    """A photo on which all that was found is shown."""
    return Looked(lighting, boxes([(*row, 1.0) for row in true]), boxes(shown), boxes(shown))


def drawn(rng: np.random.Generator, classes: int = 3) -> Looked:
    """A photo with boxes at random, and found ones that lie on them more or less."""
    true = [(*rng.uniform(0, 60, 2), *rng.uniform(10, 40, 2), rng.integers(classes)) for _ in range(rng.integers(0, 5))]
    found = [
        (*np.array(row[:4]) + rng.normal(0, 4, 4).clip(-9, 9), rng.integers(classes), rng.random())
        for row in [*true, *true]
        if rng.random() < 0.7
    ]
    return photo(true, sorted(found, key=lambda row: -row[5]), str(rng.choice(["day", "infrared"])))


def overlap(one: np.ndarray, other: np.ndarray) -> float:
    """IoU of two boxes x, y, w, h."""
    w = min(one[0] + one[2], other[0] + other[2]) - max(one[0], other[0])
    h = min(one[1] + one[3], other[1] + other[3]) - max(one[1], other[1])
    shared = max(w, 0) * max(h, 0)
    return shared / (one[2] * one[3] + other[2] * other[3] - shared)


def test_average_precision_equals_the_area_worked_by_hand() -> None:
    """Three animals; found, by confidence: one of them, nothing, another. Precision 1 to recall 1/3, 2/3 to 2/3."""
    places = [(0, 0, 10, 10), (30, 0, 10, 10), (60, 0, 10, 10)]
    found = [(0, 0, 10, 10, 0, 0.9), (100, 100, 10, 10, 0, 0.8), (60, 0, 10, 8, 0, 0.7)]
    values = detection.average_precision([photo([(*place, 0) for place in places], found)], 2)
    by_hand = (1 / 3) * 1 + (1 / 3) * (2 / 3)
    assert values[0, 0] == pytest.approx(by_hand, abs=0.01)
    assert np.allclose(values[0, :7], values[0, 0])  # the third box has an IoU of 0.8
    assert values[0, 7:] == pytest.approx([1 / 3] * 3, abs=0.01)
    assert np.isnan(values[1]).all()  # no photo shows the other class: it is no zero


def test_claims_equal_those_of_ultralytics() -> None:
    import torch

    from care_cli.yolo import prepare_ultralytics

    prepare_ultralytics()
    from ultralytics.engine.validator import BaseValidator
    from ultralytics.utils.metrics import box_iou

    rng, many = np.random.default_rng(1), 0
    theirs = SimpleNamespace(iouv=torch.from_numpy(detection.LEVELS))

    def corners(of: Boxes) -> torch.Tensor:
        return torch.from_numpy(np.concatenate([of.boxes[:, :2], of.boxes[:, :2] + of.boxes[:, 2:]], 1))

    for _ in range(60):
        one = drawn(rng)
        if not len(one.true) or not len(one.found):
            continue
        overlaps = box_iou(corners(one.true), corners(one.found))
        classes = torch.from_numpy(one.found.classes), torch.from_numpy(one.true.classes)
        expected = BaseValidator.match_predictions(theirs, *classes, overlaps).numpy()
        ours = detection.claims(one.true, one.found, detection.LEVELS, named=True)
        assert np.array_equal(ours >= 0, expected)
        many += expected.sum()
    assert many > 50


def test_counts_equal_a_plain_loop() -> None:
    rng = np.random.default_rng(2)
    photos = [drawn(rng) for _ in range(40)]
    right, matrix = np.zeros(3, int), np.zeros((4, 4), int)
    for one in photos:
        for named in (True, False):
            free = set(range(len(one.true)))
            for row in range(len(one.shown)):
                meets = [
                    (overlap(one.true.boxes[t], one.shown.boxes[row]), -t)
                    for t in free
                    if not named or one.true.classes[t] == one.shown.classes[row]
                ]
                best, number = max(meets, default=(0.0, 0))
                if best >= 0.5:
                    free.remove(-number)
                if named:
                    right[one.shown.classes[row]] += best >= 0.5
                else:
                    matrix[one.true.classes[-number] if best >= 0.5 else 3, one.shown.classes[row]] += 1
            for t in () if named else free:
                matrix[one.true.classes[t], 3] += 1
    true, shown, ours = detection.counted(photos, 3)
    assert ours.tolist() == right.tolist() and right.sum() > 20
    assert detection.confusion(photos, 3).tolist() == matrix.tolist()
    found = detection.measured(photos, ["a", "b", "c"])
    for number, row in enumerate(found["classes"]):
        assert row["recall"] == pytest.approx(right[number] / true[number], abs=1e-4)
        assert row["precision"] == pytest.approx(right[number] / shown[number], abs=1e-4)
    assert found["recall"] == pytest.approx(right.sum() / true.sum(), abs=1e-4)
    assert found["lighting"]["day"]["photos"] + found["lighting"]["infrared"]["photos"] == 40


def test_mistakes_and_empty_photos_by_hand() -> None:
    photos = [
        photo([(0, 0, 10, 10, 0)], [(0, 0, 10, 10, 1, 0.6)]),  # another name
        photo([(0, 0, 10, 10, 0), (50, 50, 30, 30, 1)], [(0, 0, 10, 10, 0, 0.9)], "infrared"),  # the second is missed
        photo([], [(0, 0, 10, 10, 1, 0.7), (30, 30, 9, 9, 0, 0.4)]),  # an empty one with two
        photo([], []),
    ]
    found = detection.measured(photos, ["cat", "dog"])
    assert found["confusion"] == {"classes": ["cat", "dog", "nothing"], "matrix": [[1, 1, 0], [0, 0, 1], [1, 1, 0]]}
    assert found["empties"] == {"photos": 2, "with_boxes": 1, "share": 0.5, "boxes": 2}
    assert found["lighting"]["infrared"]["recall"] == 0.5
    assert found["lighting"]["infrared"]["empties"]["share"] is None
    assert detection.mistakes(photos) == [
        Mistake("miss", 1, 1, None),
        Mistake("false alarm", 2, None, 0),
        Mistake("confusion", 0, 0, 0),
        Mistake("false alarm", 2, None, 1),
    ]
    empty = detection.measured([photo([], [])], ["cat"])
    assert empty["mAP50"] is None and empty["recall"] is None and empty["classes"][0]["precision"] is None
    assert detection.overall([], 1) == {"photos": 0}


def test_examples_come_from_every_group_in_turn() -> None:
    items = [Mistake("miss", number, 0, None) for number in range(9)]
    chosen = detection.in_turn(items, lambda item: item.photo >= 7, 4)
    assert [item.photo for item in chosen] == [0, 7, 1, 8]


def test_the_confusion_picture_is_dark_where_most_is() -> None:
    picture = figures.confusion(np.array([[40, 0, 0], [0, 40, 0], [0, 0, 0]]), ["a", "b", "nothing"])
    grey = np.asarray(Image.open(io.BytesIO(picture)).convert("L")).astype(int)
    assert (grey < 90).mean() > 0.05


def test_boxes_are_drawn_and_people_blurred(tmp_path) -> None:
    stripes = np.tile(np.repeat([[0], [255]], 2, 1).reshape(1, -1, 1), (200, 60, 3)).astype(np.uint8)
    file = tmp_path / "stripes.png"
    Image.fromarray(stripes).save(file)
    about = [DrawnBox((20, 40, 60, 60), "Cat", True, True), DrawnBox((120, 40, 60, 60), "Dog 0.70", False)]
    jpeg = labelled_photo(file, (240, 200), about, [(60, 130, 60, 40)])
    seen = np.asarray(Image.open(io.BytesIO(jpeg))).astype(int)
    assert seen.shape == (200, 240, 3)
    red, green, blue = seen[41, 30:70].mean(0)
    assert green > red + 60 and green > blue + 30
    red, green, blue = seen[41, 121:126].mean(0)
    assert red > green + 60
    assert seen[140:160, 70:110].std() < 20 < 90 < seen[180:198, 10:60].std()
    assert labelled_photo(tmp_path / "gone.jpg", (240, 200), [], []) is None


# -- the command, with the demo detector on photos that it has never seen


@pytest.fixture(scope="module")
def card(tmp_path_factory, root: Path) -> Path:
    return write_card(tmp_path_factory.mktemp("card") / "fern", root / "sample_data", "test", "FERN001")


@pytest.fixture
def care(monkeypatch, capfd, tmp_path):
    return runner(monkeypatch, capfd, tmp_path / "care.db")


def test_the_demo_detector_is_examined_and_its_mistakes_shown(card: Path, care, tmp_path) -> None:
    page = tmp_path / "report"
    options = ["evaluate", "detector", "--model", "demo-detector", "--data", card, "--engine", "torch"]
    done = care(*options, "--report", page, "--json")
    found, truth = done.json, [path.read_text() for path in (card / "labels" / "test").iterdir()]
    assert done.code == 0 and found["part"] == "test" and found["photos"] == len(truth)
    assert found["boxes"] == sum(map(len, map(str.splitlines, truth)))
    assert found["empties"]["photos"] == sum(not text for text in truth) > 0
    assert found["mAP50"] > 0.8 and found["recall"] > 0.7 and found["precision"] > 0.7
    assert {row["class"] for row in found["classes"] if row["true"]} == {"Cat", "Deer", "Goat", "Pig", "Person"}
    assert sum(map(sum, found["confusion"]["matrix"])) >= found["boxes"]
    assert any("not whether it knows these places" in remark for remark in found["remarks"])
    assert not (tmp_path / "care.db").exists()  # an examination needs no catalog
    written = (page / "index.html").read_text("utf-8")
    assert "mAP50" in written and "Confusion matrix" in written and not re.search(r'(src|href)="https?:', written)
    assert json.loads((page / "result.json").read_text("utf-8")) == found
    rows = list(csv.DictReader((page / "table.csv").open(encoding="utf-8")))
    assert [row["class"] for row in rows] == [*(row["class"] for row in found["classes"]), "all"]
    assert Image.open(page / "confusion.png").format == "PNG"
    shown = care(*options)
    assert "all" in shown.out and "empty photos have a box" in shown.err and "infrared:" in shown.err


def test_places_that_a_model_knows_are_refused(card: Path, care, tmp_path) -> None:
    from care_cli.checkpoints import load_state, read_header, save
    from care_cli.registry import models_folder

    demo = models_folder() / "weights" / "demo-detector.safetensors"
    file = tmp_path / "knows.safetensors"
    header = read_header(demo) | {"name": "knows", "training": {"locations": ["FERN001", "elsewhere"]}}
    save(file, load_state(demo), header)
    options = ["evaluate", "detector", "--model", file, "--data", card, "--engine", "torch"]
    refused = care(*options)
    assert refused.code == 2 and "knows has learned from 1 of these 1 places (FERN001)" in refused.err
    allowed = care(*options, "--known-places", "--json")
    assert allowed.code == 0 and "the figures flatter it" in allowed.json["remarks"][0]


def test_what_cannot_be_examined_is_said(card: Path, care, tmp_path) -> None:
    options = ["evaluate", "detector", "--model", "demo-detector", "--engine", "torch"]
    assert "not known here what demo-detector was trained with" in care(*options).err
    assert "--part is one of train, val, test" in care(*options, "--data", card, "--part", "all").err
    assert "The part val of" in care(*options, "--data", card, "--part", "val").err
    assert "there is no model 'nobody'" in care(*options[:3], "nobody", "--data", card).err
    shapes = write_folder(tmp_path / "shapes", {"test": 4})
    assert "knows none of the classes" in care(*options, "--data", shapes).err
    assert "no report of CARE" in care(*options, "--data", card, "--report", card).err


def test_a_broken_photo_is_left_out_and_ends_in_code_1(root: Path, care, tmp_path) -> None:
    folder = write_card(tmp_path / "few", root / "sample_data", "val", "FERN001", most=4)
    (folder / "images" / "val" / "broken.jpg").write_bytes(b"\xff\xd8\xff")
    (folder / "labels" / "val" / "broken.txt").write_text("")
    write_places(folder, [("broken.jpg", "val", "FERN001")])
    done = care("evaluate", "detector", "--model", "demo-detector", "--data", folder, "--engine", "torch", "--json")
    assert done.code == 1 and done.json["part"] == "val" and done.json["photos"] == 4
    assert [fault["file"] for fault in done.json["left_out"]] == ["val/broken.jpg"]


def test_a_looser_detector_only_adds_boxes(card: Path) -> None:
    """What `care detect` stores is the same whatever confidence an examination asks for."""
    from care_cli import registry
    from care_cli.detectors import load_detector
    from care_cli.thresholds import STORED

    spec = registry.find("demo-detector")
    usual, loose = (
        load_detector(spec, registry.fetch(spec), engine="torch", precision="float32", least=least)
        for least in (STORED, 0.001)
    )
    pixels = np.asarray(Image.open(next((card / "images" / "test").glob("*.jpg"))))
    few, many = usual.detect([pixels])[0], loose.detect([pixels])[0]
    assert 0 < len(few) < len(many) and many[: len(few)] == few
    assert all(one.confidence <= STORED for one in many[len(few) :])


def test_the_demo_detector_is_what_its_recipe_and_its_card_say(root: Path) -> None:
    header = read_header(root / "models" / "weights" / "demo-detector.safetensors")
    recipe = recipes.load(str(root / "demo" / "detector.toml"))
    assert header["names"] == recipe.names and header["training"]["recipe"]["settings"]["recipe"]["name"] == recipe.name
    examined = header["metrics"]["examination"]
    assert examined["part"] == "test" and examined["locations"] == 25 and examined["mAP50"] >= 0.9
    told = f"| test part of its survey | {examined['photos']} | 25 | {examined['mAP50']:.3f} |"
    assert told in (root / "models" / "cards" / "demo-detector.md").read_text("utf-8")
