"""`care keypoints` at the terminal, and points drawn where they are."""

from __future__ import annotations

import csv
import io
import json
import sys
from dataclasses import replace

import catalogs
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

import scenes
from care_cli import cli
from care_cli.catalog import Catalog
from care_cli.decisions import Decision
from care_cli.errors import CareError
from care_cli.pages.cells import HEADING
from care_cli.pages.keypoint_sheet import CAPTION, CELL, PLAIN, RAMP, Cell, colour, free_place, keypoint_sheet
from care_cli.pages.keypoint_sheet import template_picture as draw_template
from care_cli.records import Keypoints, NamedPoint
from care_cli.stages import crops
from care_cli.stages.keypoints import evenly


def jpeg(pixels: np.ndarray) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "JPEG", quality=95)
    return stream.getvalue()


GREY = jpeg(np.full((120, 160, 3), 128, np.uint8))  # 160 x 120 px


@pytest.fixture
def path(tmp_path):
    """Four crops; 2 and 3 with three points carried from template 'cat', crop 2 is Bo, crop 3 a lion."""
    with catalogs.new(tmp_path / "care.db") as catalog:
        catalogs.survey(catalog)
        eyes = [NamedPoint("left_eye", 60, 50, "right_eye"), NamedPoint("right_eye", 90, 50, "left_eye"),
                NamedPoint("nose", 75, 65)]  # fmt: skip
        catalog.add_template("cat", 1, eyes, "expert")
        catalog.decide(Decision("create", crop_id=2, value="Bo"))
        catalog.decide(Decision("species", crop_id=3, value="lion"))
        run = catalog.begin_run("propagate-keypoints", {})
        one = Keypoints(2, ("left_eye", "right_eye", "nose"), np.array([[60, 50], [90, 50], [75, 65.5]]),
                        np.array([0.9, 0.75, 0.25], np.float32), np.array([True, True, False]),
                        np.full(3, 0.125, np.float32), None, (1, 1, 1))  # fmt: skip
        catalog.add_keypoints(run, [one, replace(one, crop_id=3)])
        catalog.finish_run(run)
    return tmp_path / "care.db"


def care(path, monkeypatch, capsys, *arguments) -> tuple[int, str, str]:
    """`care keypoints ...` on a catalog: exit code, what it printed, what it said."""
    monkeypatch.setattr(sys, "argv", ["care", "--catalog", str(path), "keypoints", *map(str, arguments)])
    with pytest.raises(SystemExit) as end:
        cli.main()
        sys.exit(0)
    out, err = capsys.readouterr()
    assert "Traceback" not in err
    return end.value.code, out, err


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        ([], [(2, "left_eye"), (2, "right_eye"), (2, "nose"), (3, "left_eye"), (3, "right_eye"), (3, "nose")]),
        (["--uncertain"], [(2, "nose"), (3, "nose")]),
        (["--species", "lion", "--name", "nose"], [(3, "nose")]),
        (["--crop", 2, "--template", "cat", "--source", "propagated", "--name", "left_eye"], [(2, "left_eye")]),
        (["--source", "human"], []),
        (["--crop", 4, "--crop", 3, "--run", 2, "--name", "nose"], [(3, "nose")]),
    ],
)
def test_points_are_listed(path, monkeypatch, capsys, filters, expected):
    code, out, _ = care(path, monkeypatch, capsys, "--json", *filters)
    rows = json.loads(out)
    assert code == 0 and [(row["crop"], row["name"]) for row in rows] == expected
    for row in rows:
        assert (
            (row["source"], row["template"], row["run"]) == ("propagated", "cat", 2)
            and row["margin"] == 0.125
            and row["cycle"] is None
        )
        assert row["visible"] == (row["name"] != "nose") and row["individual"] == ("Bo" if row["crop"] == 2 else None)
    _, out, _ = care(path, monkeypatch, capsys, "--csv", *filters)
    assert [(int(row["crop"]), row["name"]) for row in csv.DictReader(io.StringIO(out))] == expected


@pytest.mark.parametrize(
    ("filters", "words"),
    [
        (["--source", "me"], "propagated, human, import"),
        (["--crop", 9], "no crop 9"),
        (["--run", 1], "runs that have: 2 (propagate-keypoints)"),
        (["--template", "dog"], "there are: cat"),
        (["--name", "tail"], "there are: left_eye, nose, right_eye"),
    ],
)
def test_filters_that_mean_nothing_are_refused(path, monkeypatch, capsys, filters, words):
    code, _, err = care(path, monkeypatch, capsys, *filters)
    assert code == 2 and words in err


def test_a_point_is_set_by_hand(path, monkeypatch, capsys):
    code, out, _ = care(path, monkeypatch, capsys, "set", 2, "nose", 70.5, 60, "--json")
    before = {"x": 75.0, "y": 65.5, "visible": False, "source": "propagated"}
    assert code == 0
    assert json.loads(out) == {"crop": 2, "name": "nose", "x": 70.5, "y": 60, "visible": True, "before": before}
    for arguments, words in (
        ((2, "tail", 50, 40), "it has: left_eye, right_eye, nose. Add --new"),
        ((4, "tail", 50, 40), "templates have: left_eye, right_eye, nose"),
        ((2, "nose", 50, 240.5), "outside the photo of 320 x 240"),
        ((9, "nose", 50, 40), "no crop 9"),
    ):
        code, _, err = care(path, monkeypatch, capsys, "set", *arguments)
        assert code == 2 and words in err
    assert care(path, monkeypatch, capsys, "set", 2, "tail", 50, 40, "--new", "--hidden")[0] == 0
    assert care(path, monkeypatch, capsys, "set", 4, "nose", 50, 40)[0] == 0
    _, out, _ = care(path, monkeypatch, capsys, "--source", "human", "--json")
    said = [(row["crop"], row["name"], row["x"], row["visible"]) for row in json.loads(out)]
    assert said == [(2, "nose", 70.5, 1), (2, "tail", 50, 0), (4, "nose", 50, 1)]


def test_points_are_removed(path, monkeypatch, capsys):
    assert care(path, monkeypatch, capsys, "set", 2, "nose", 70.5, 60)[0] == 0
    for options, words in (
        ((), "--run N"), (("--run", 2, "--crop", 2), "--run N"), (("--run", 2, "--name", "nose"), "--name goes with"),
        (("--crop", 9), "no crop 9"), (("--crop", 3), "Crop 3 has no point"), (("--run", 1), "2 (propagate-keypoints)"),
    ):  # fmt: skip
        code, _, err = care(path, monkeypatch, capsys, "remove", *options)
        assert code == 2 and words in err
    code, out, _ = care(path, monkeypatch, capsys, "remove", "--crop", 2, "--name", "nose", "--json")
    assert (code, json.loads(out)) == (0, {"crop": 2, "name": "nose", "points": 1})
    code, out, _ = care(path, monkeypatch, capsys, "remove", "--run", 2)
    assert (code, out) == (0, "Removed 6 points of run 2; the same command makes them anew.\n")
    assert json.loads(care(path, monkeypatch, capsys, "--json")[1]) == []


def test_a_template_that_a_person_takes_with_it_is_told(path, monkeypatch, capsys):
    with Catalog(path) as catalog:
        catalog.add_template("other", 4, [NamedPoint("nose", 75, 65)], "expert")
    command = ["care", "--catalog", str(path), "crops", "set", "1", "--category", "person"]
    monkeypatch.setattr(sys, "argv", command)
    with pytest.raises(SystemExit):
        cli.main()
        sys.exit(0)
    assert "Template cat was on it: it is deleted, with 6 points carried from it." in capsys.readouterr().err
    with Catalog(path) as catalog:
        assert [one.name for one in catalog.templates()] == ["other"] and catalog.keypoints([2, 3]) == {}
        done = crops.set_crops(catalog, [4, 2], category="vehicle")
        assert (done["templates"], done["points"]) == (["other"], 0)
        assert crops.set_crops(catalog, [3], species="cat")["templates"] == []


def test_a_sheet_says_how_many_it_shows(path, tmp_path, monkeypatch, capsys):
    target = tmp_path / "points.jpg"
    code, out, _ = care(path, monkeypatch, capsys, "sheet", target, "--most", 1, "--json")
    assert code == 0 and json.loads(out) == {"files": [str(target)], "shown": 1, "crops": 2}
    assert Image.open(target).format == "JPEG"
    code, _, err = care(path, monkeypatch, capsys, "sheet", tmp_path / "none.jpg", "--source", "human")
    assert code == 2 and "nothing was drawn" in err and not (tmp_path / "none.jpg").exists()
    code, _, err = care(path, monkeypatch, capsys, "sheet", tmp_path / "points.png")
    assert code == 2 and "FILE.jpg" in err


@given(st.integers(0, 500), st.integers(1, 90))
def test_crops_are_drawn_evenly(count, most):
    chosen = evenly(list(range(count)), most)
    assert len(chosen) == len(set(chosen)) == min(count, most) and chosen == sorted(chosen)
    if most > 1 and count > most:
        gaps = np.diff(chosen)
        assert (chosen[0], chosen[-1]) == (0, count - 1) and gaps.max() - gaps.min() <= 1


# -- pictures


def sheet_pixels(cells, tmp_path) -> np.ndarray:
    [file] = keypoint_sheet(cells, tmp_path / "sheet.jpg")
    return np.asarray(Image.open(file)).astype(int)


def cell(points, confidence, visible) -> Cell:
    names = tuple(f"p{number}" for number in range(len(points)))
    return Cell(GREY, "crop 1", names, np.array(points, float), np.array(confidence), np.array(visible), (160, 120))


def test_a_point_is_drawn_where_it_is_in_the_colour_of_its_confidence(tmp_path):
    drawn = sheet_pixels([cell([(40, 30), (80, 90), (140, 60)], [0.9, 0.5, 0.1], [True, True, False])], tmp_path)
    top = HEADING + 22 * 2 + 20  # below the ramp and one line of names
    left, scale = 28, CELL / 160
    top += (CELL - 120 * scale) / 2
    at = [drawn[round(top + y * scale), round(left + x * scale)] for x, y in ((40, 30), (80, 90), (140, 60))]
    assert np.abs(at[0] - RAMP[-1]).max() < 40 and np.abs(at[1] - RAMP[4]).max() < 40
    assert np.abs(at[2] - 128).max() < 40  # hollow: the coat is seen through it
    ring = drawn[round(top + 60 * scale) + 4, round(left + 140 * scale)]
    assert np.abs(ring - RAMP[0]).max() < 70


def test_the_ramp_grows_lighter_all_the_way():
    luma = [np.dot(colour(value, 0.2, 0.8), (0.299, 0.587, 0.114)) for value in np.linspace(0.2, 0.8, 50)]
    assert (np.diff(luma) > 0).all()
    assert colour(-1, 0.2, 0.8) == tuple(RAMP[0]) and colour(2, 0.2, 0.8) == tuple(RAMP[-1])


def test_sheets_go_on_in_further_files_and_points_outside_are_counted(tmp_path):
    inside, outside = cell([(80, 60)], [0.5], [True]), cell([(-5, 60)], [0.5], [True])
    files = keypoint_sheet([inside] * 61, tmp_path / "many.jpg", of=100)
    assert [file.name for file in files] == ["many.jpg", "many-2.jpg"]
    assert all(file.exists() for file in files)
    one, two = sheet_pixels([inside], tmp_path), sheet_pixels([outside], tmp_path)
    caption = slice(one.shape[0] - 28 - CAPTION, None)
    assert (np.abs(one[caption] - two[caption]).max(2) > 100).any()
    assert Image.open(files[1]).height < Image.open(files[0]).height / 5


def test_odd_crops_are_drawn_too(tmp_path):
    broken = replace(cell([(80, 60)], [0.5], [True]), jpeg=b"\xff\xd8 no picture")
    none = replace(broken, names=(), kp_crop=np.zeros((0, 2)), confidence=np.zeros(0), visible=np.zeros(0, bool))
    long = replace(cell([(80, 60)], [1.0], [True]), names=("n" * 500,), caption="c" * 500)
    assert sheet_pixels([broken, none, long], tmp_path).shape[1] == 2 * 28 + 4 * (CELL + 16) - 16


BOUNDS = (0.0, 0.0, 400.0, 300.0)


@given(st.lists(st.tuples(st.floats(0, 400), st.floats(0, 300), st.floats(20, 90)), min_size=1, max_size=20))
def test_names_never_lie_over_each_other(wanted):
    taken = []
    for x, y, width in wanted:
        place = free_place((x, y), (width, 20), taken, BOUNDS)
        assert place[0] >= 0 and place[1] >= 0 and place[2] <= 400 and place[3] <= 300
        inter = [
            max(0, min(place[2], other[2]) - max(place[0], other[0]))
            * max(0, min(place[3], other[3]) - max(place[1], other[1]))
            for other in taken
        ]
        if len(taken) < 8:  # more need not find room
            assert not any(inter)
        taken.append(place)


def test_a_template_is_drawn_large_with_its_names(tmp_path):
    chip = scenes.render_chip(scenes.make_individual("Cat", 1), np.random.default_rng(5))
    width, height = chip.image.size
    points = [NamedPoint(name, x, y) for name, (x, y, visible) in chip.keypoints.items() if visible]
    assert len(points) > 3
    draw_template(jpeg(np.asarray(chip.image)), points, tmp_path / "template.jpg")
    with Image.open(tmp_path / "template.jpg") as drawn:
        there = np.asarray(drawn).astype(int)
    yellow = np.abs(there - PLAIN).max(2) < 40
    scale = 1000 / max(width, height)
    room = (there.shape[1] - round(width * scale)) // 2
    for point in points:
        x, y = round(point.x * scale + room), round(point.y * scale + 28)
        assert yellow[y - 2 : y + 3, x - 2 : x + 3].mean() > 0.8
    with pytest.raises(CareError, match="JPEG"):
        draw_template(b"no picture", points, tmp_path / "template.jpg")


def test_what_is_drawn_of_a_survey_is_where_the_points_are(path, tmp_path, monkeypatch, capsys):
    """The sheet of a real crop: the coat is noise, the point a disc of one colour."""
    with Catalog(path) as catalog:
        catalog.correct_keypoint(4, "nose", 80.0, 60.0)
    care(path, monkeypatch, capsys, "sheet", tmp_path / "a.jpg", "--crop", 4)
    drawn = np.asarray(Image.open(tmp_path / "a.jpg")).astype(int)
    scale = CELL / 96  # the crop is the rectangle (32, 24, 96, 72) of the photo
    x, y = 28 + (80 - 32) * scale, HEADING + 22 * 2 + 20 + (CELL - 72 * scale) / 2 + (60 - 24) * scale
    disc = drawn[round(y) - 1 : round(y) + 2, round(x) - 1 : round(x) + 2]
    assert np.abs(disc - RAMP[-1]).max() < 60
