"""Templates and points in the catalog: what is kept, what wins, and what goes with a person."""

from __future__ import annotations

import hashlib
import sqlite3
from dataclasses import replace

import catalogs
import numpy as np
import pytest

from care_cli.decisions import Decision
from care_cli.errors import CareError
from care_cli.records import Keypoints, NamedPoint, Selection

EYES = [NamedPoint("left_eye", 60.0, 50.0, "right_eye"), NamedPoint("right_eye", 90.0, 50.0, "left_eye"),
        NamedPoint("nose", 75.5, 65.25)]  # fmt: skip


@pytest.fixture
def catalog(tmp_path):
    """Four photos, each with one animal at (40, 30, 80, 60) px; template 'cat' on crop 1."""
    with catalogs.new(tmp_path / "care.db") as opened:
        catalogs.survey(opened)
        opened.add_template("cat", 1, EYES, "expert", about={"file": "eyes.json"})
        yield opened


def points(crop: int, shift: float = 0.0, names=("left_eye", "nose"), template: int | None = 1) -> Keypoints:
    """Points of a crop as a propagation finds them, each `shift` px further to the right than the one before."""
    count = len(names)
    return Keypoints(
        crop_id=crop,
        names=tuple(names),
        kp_image=np.array([[60.0 + shift + i, 50.0 + i] for i in range(count)]),
        confidence=np.linspace(0.9, 0.5, count, dtype=np.float32),
        visible=np.array([True] * (count - 1) + [False]),
        margin=np.full(count, 0.25, np.float32),
        cycle=np.full(count, 0.05, np.float32),
        templates=(template,) * count,
    )


def propagated(catalog, crops, finished=True, **settings) -> int:
    run = catalog.begin_run("propagate-keypoints", settings, catalogs.EMBEDDER)
    catalog.add_keypoints(run, [points(crop, settings.get("shift", 0.0)) for crop in crops])
    if finished:
        catalog.finish_run(run)
    return run


def at(catalog, crop: int, name: str, **asked) -> tuple[float, float]:
    found = catalog.keypoints([crop], **asked)[crop]
    return tuple(found.kp_image[found.names.index(name)])


# -- templates


def test_a_template_is_what_was_given(catalog):
    template = catalog.template("cat")
    assert (template.crop_id, template.species, template.source) == (1, None, "expert")
    assert list(template.points) == EYES and template.about == {"file": "eyes.json"}
    catalog.add_template("dog", 2, EYES[2:], "vlm", species="dog")
    assert [one.name for one in catalog.templates()] == ["cat", "dog"]
    assert [one.name for one in catalog.templates("dog")] == ["dog"]
    with pytest.raises(CareError, match=r"no template 'lion'.*there are: cat, dog"):
        catalog.template("lion")


def test_a_template_takes_the_species_of_its_crop(catalog):
    catalog.decide(Decision("species", crop_id=3, value="kea"))
    catalog.add_template("bird", 3, EYES, "expert")
    assert catalog.template("bird").species == "kea"


def test_a_template_that_cannot_be_is_refused_and_nothing_kept(catalog):
    far = [NamedPoint("nose", 320.5, 10.0)]
    twice = [NamedPoint("nose", 50.0, 40.0), NamedPoint("nose", 60.0, 40.0)]
    alone = [NamedPoint("left_eye", 50.0, 40.0, "right_eye")]
    own = [NamedPoint("nose", 50.0, 40.0, "nose")]
    nowhere = [NamedPoint("nose", float("nan"), 40.0)]
    for given, reason in ((far, "outside the photo of 320 x 240"), (twice, "given twice"), (alone, "mirror"),
                          (own, "mirror"), (nowhere, "no numbers"), ([], "no point")):  # fmt: skip
        with pytest.raises(CareError, match=reason):
            catalog.add_template("new", 1, given, "expert")
    with pytest.raises(CareError, match="'cat' already"):
        catalog.add_template(" cat ", 2, EYES, "expert")
    with pytest.raises(CareError, match="no crop 99"):
        catalog.add_template("new", 99, EYES, "expert")
    catalog.decide(Decision("category", crop_id=2, value="vehicle"))
    with pytest.raises(CareError, match="animals only"):
        catalog.add_template("new", 2, EYES, "expert")
    catalog.decide(Decision("category", crop_id=2, value="animal"))
    with pytest.raises(CareError, match="no pixels"):
        catalog.add_template("new", 2, EYES, "expert")
    assert [one.name for one in catalog.templates()] == ["cat"]


def test_a_template_goes_with_its_points_only_when_that_is_said(catalog):
    run = propagated(catalog, [2, 3])
    with pytest.raises(CareError, match="4 points were carried"):
        catalog.remove_template("cat")
    assert set(catalog.keypoints([2, 3], run)) == {2, 3}
    assert catalog.remove_template("cat", with_points=True) == 4
    assert catalog.templates() == [] and catalog.keypoints([2, 3]) == {}
    with pytest.raises(CareError, match="none yet"):
        catalog.remove_template("cat")


# -- points


def test_points_come_back_as_they_were_written(catalog):
    run = propagated(catalog, [2])
    found = catalog.keypoints([1, 2, 3], run)
    assert set(found) == {2}
    wanted = points(2)
    for field in ("kp_image", "confidence", "visible", "margin", "cycle"):
        np.testing.assert_array_equal(getattr(found[2], field), getattr(wanted, field))
    assert (found[2].names, found[2].templates) == (wanted.names, wanted.templates)
    assert found[2].source == "propagated" and found[2].runs == (run, run)
    bare = replace(wanted, crop_id=3, margin=np.array([np.nan, 0.5], np.float32), cycle=None)
    catalog.add_keypoints(run, [bare])
    read = catalog.keypoints([3], run)[3]
    np.testing.assert_array_equal(read.margin, bare.margin)
    assert read.cycle is None


def test_what_a_run_has_is_not_written_again(catalog):
    run = propagated(catalog, [2, 3], finished=False)
    assert catalog.without_keypoints(run, [4, 3, 2, 1]) == [4, 1]
    catalog.add_keypoints(run, [points(2, 30.0), points(4)])
    assert at(catalog, 2, "left_eye", run_id=run) == (60.0, 50.0)
    assert catalog.without_keypoints(run, [4, 3, 2, 1]) == [1]


def test_a_batch_is_all_or_nothing(catalog):
    run = propagated(catalog, [], finished=False)
    with pytest.raises(CareError, match="finite"):
        catalog.add_keypoints(run, [points(2), replace(points(3), kp_image=np.full((2, 2), np.nan))])
    assert catalog.without_keypoints(run, [2, 3]) == [2, 3]


def test_crops_that_changed_meanwhile_are_passed_over_whole(catalog):
    run = propagated(catalog, [], finished=False)
    digests = [hashlib.sha256(jpeg).digest() for _, jpeg in sorted(catalog.pixels([1, 2, 3, 4]).items())]
    catalog.replace_pixels(1, b"\xff\xd8 with the person black")
    catalog.decide(Decision("category", crop_id=2, value="person"))
    gone = replace(points(3), templates=(1, 77))
    catalog.add_keypoints(run, [points(1), points(2), gone, points(4)], digests)
    assert set(catalog.keypoints([1, 2, 3, 4], run)) == {4}


def test_the_newest_finished_run_counts_and_what_a_person_said_wins_by_name(catalog):
    first, second = propagated(catalog, [2, 3], shift=1.0), propagated(catalog, [2], shift=2.0)
    propagated(catalog, [2, 3], finished=False, shift=3.0)
    assert at(catalog, 2, "left_eye") == (62.0, 50.0) and at(catalog, 3, "left_eye") == (61.0, 50.0)
    assert [run["id"] for run in catalog.propagate_runs()] == [second, first]
    imported = catalog.begin_run("import-keypoints", {"file": "a"})
    catalog.add_keypoints(imported, [replace(points(2, 4.0, template=None), source="import")])
    catalog.finish_run(imported)
    catalog.correct_keypoint(2, "nose", 70.0, 71.0)
    catalog.correct_keypoint(2, "tail", 40.0, 40.0, visible=False)
    propagated(catalog, [4], shift=5.0)
    found = catalog.keypoints([2])[2]
    told = zip(found.names, found.sources, map(tuple, found.kp_image), found.visible, strict=True)
    named = {name: rest for name, *rest in told}
    assert named == {
        "left_eye": ["import", (64.0, 50.0), True],
        "nose": ["human", (70.0, 71.0), True],
        "tail": ["human", (40.0, 40.0), False],
    }
    assert found.source == "mixed" and at(catalog, 2, "nose", run_id=first) == (62.0, 51.0)
    assert set(catalog.annotated()) == {2} and set(catalog.annotated()[2].names) == {"left_eye", "nose", "tail"}
    assert catalog.annotated("lion") == {}


def test_a_correction_is_noted_and_may_be_corrected(catalog):
    catalog.correct_keypoint(3, "nose", 70.0, 71.0)
    catalog.correct_keypoint(3, "nose", 72.0, 73.5, visible=False)
    found = catalog.keypoints([3])[3]
    assert found.kp_image.tolist() == [[72.0, 73.5]] and found.visible.tolist() == [False]
    assert found.confidence.tolist() == [1.0] and found.source == "human"
    run = catalog.latest_run("annotate")
    assert run["finished_at"] and '"x": 70.0' in run["executions"].replace('"x":70.0', '"x": 70.0')
    for crop, x, reason in ((3, 320.5, "outside"), (3, float("inf"), "no numbers"), (99, 1.0, "no crop")):
        with pytest.raises(CareError, match=reason):
            catalog.correct_keypoint(crop, "nose", x, 10.0)


def test_an_experts_points_are_said_once_and_never_undo_a_correction(catalog):
    catalog.correct_keypoint(1, "nose", 70.0, 71.0)
    assert catalog.say_keypoints(1, EYES) == 2 and catalog.say_keypoints(1, EYES) == 0
    [said] = catalog.annotated().values()
    assert dict(zip(said.names, map(tuple, said.kp_image.tolist()), strict=True)) == {
        "nose": (70.0, 71.0), "left_eye": (60.0, 50.0), "right_eye": (90.0, 50.0),
    }  # fmt: skip
    assert set(said.sources) == {"human"} and said.confidence.tolist() == [1, 1, 1] and said.visible.all()


# -- removing


def test_a_removed_run_is_made_anew_by_the_same_command(catalog):
    run, other = propagated(catalog, [2, 3], shift=1.0), propagated(catalog, [4], shift=2.0)
    assert catalog.remove_points_of_run(run) == 4
    assert set(catalog.keypoints([2, 3, 4])) == {4} and [one["id"] for one in catalog.propagate_runs()] == [other]
    assert catalog.run(run, "propagate-keypoints")["finished_at"] is None
    for nothing, words in ((run, "has no points now"), (1, "runs that have"), (99, "runs that have")):
        with pytest.raises(CareError, match=words):
            catalog.remove_points_of_run(nothing)
    assert propagated(catalog, [2, 3], shift=1.0) == run and at(catalog, 3, "left_eye") == (61.0, 50.0)


def test_what_was_said_of_a_crop_is_taken_back(catalog):
    propagated(catalog, [2, 3])
    imported = catalog.begin_run("import-keypoints", {"file": "a"})
    catalog.add_keypoints(imported, [replace(points(2, 4.0, template=None), source="import")])
    for crop in (2, 3):
        catalog.correct_keypoint(crop, "nose", 70.0, 71.0)
    assert catalog.remove_points_said(2, "nose") == 2  # by hand, and of the file
    assert at(catalog, 2, "nose") == (61.0, 51.0) and at(catalog, 2, "left_eye") == (64.0, 50.0)
    assert '"removed":"nose"' in catalog.latest_run("annotate")["executions"].replace(": ", ":")
    assert catalog.remove_points_said(2) == 1 and at(catalog, 2, "left_eye") == (60.0, 50.0)
    assert set(catalog.annotated()) == {3}
    with pytest.raises(CareError, match="Crop 2 has no point that was set by hand or imported"):
        catalog.remove_points_said(2)
    with pytest.raises(CareError, match="no point 'left_eye'"):
        catalog.remove_points_said(3, "left_eye")


def test_a_run_tells_whose_points_no_longer_count(catalog):
    first, second = propagated(catalog, [2, 3], shift=1.0), propagated(catalog, [3, 4], shift=2.0)
    unfinished = propagated(catalog, [2], finished=False, shift=3.0)
    assert (catalog.superseded(first), catalog.superseded(second), catalog.superseded(unfinished)) == ([], [first], [])
    third = propagated(catalog, [2, 3, 4], shift=4.0)
    assert catalog.superseded(third) == [second, first]
    assert catalog.superseded(second) == []  # they no longer count themselves
    catalog.remove_points_of_run(third)
    assert catalog.superseded(second) == [first]


def test_where_a_crop_lies(catalog):
    frames = catalog.crop_frame([1, 99])
    assert set(frames) == {1}
    frame = frames[1]
    assert frame.box == (40.0, 30.0, 80.0, 60.0) and frame.rect == (32, 24, 96, 72)
    assert frame.size == (96, 72) and frame.image_size == (320, 240) and frame.category == "animal"


# -- people


def test_a_crop_that_becomes_a_person_takes_its_template_and_what_was_carried_from_it(catalog):
    catalog.add_template("other", 4, EYES, "expert")
    propagated(catalog, [1, 2])
    other = catalog.begin_run("propagate-keypoints", {"template": "other"}, catalogs.EMBEDDER)
    catalog.add_keypoints(other, [points(1, template=2), points(3, template=2)])
    catalog.finish_run(other)
    catalog.correct_keypoint(1, "nose", 70.0, 70.0)
    catalog.correct_keypoint(2, "nose", 70.0, 70.0)
    catalog.decide(Decision("category", crop_id=1, value="person"))
    assert [one.name for one in catalog.templates()] == ["other"]
    assert set(catalog.keypoints([1, 2, 3, 4])) == {2, 3}
    assert catalog.keypoints([2])[2].names == ("nose",)  # what was said of crop 2 itself
    with pytest.raises(CareError, match="animals only"):
        catalog.correct_keypoint(1, "nose", 70.0, 70.0)
    with pytest.raises(sqlite3.IntegrityError, match="stay with their crop"):
        catalog.db.conn.execute("UPDATE keypoints SET crop_id = 1")


def test_points_that_a_model_found_go_with_the_pixels_it_saw(catalog):
    propagated(catalog, [2])
    catalog.correct_keypoint(2, "tail", 41.0, 42.0)
    catalog.replace_pixels(2, b"\xff\xd8 with the person black")
    assert catalog.keypoints([2])[2].names == ("tail",)


# -- what is worked on by hand stays in sight


def test_crops_with_a_template_or_points_by_hand_stay_visible_when_another_run_is_active(catalog):
    catalog.correct_keypoint(2, "nose", 70.0, 70.0)
    run = catalogs.detect_run(catalog, other=True)
    image = catalog.crop(2)["image_id"]
    name = "DCIM/100CARE_/IMG_0001.PNG"
    again, apart = catalogs.add_crops(
        catalog, run, image, name, [catalogs.found((42.0, 30.0, 80.0, 60.0)), catalogs.found((200.0, 30.0, 60.0, 60.0))]
    )
    assert set(catalog.crop_ids(Selection())) == {1, 2, apart} and again > 4


# -- plans


@pytest.mark.parametrize(
    "question", ["standing", "of a run", "without", "annotated", "said", "resting", "superseded", "found"]
)
def test_questions_about_points_use_indexes(catalog, question, monkeypatch):
    asked = []
    fetched = catalog._fetched
    monkeypatch.setattr(catalog, "_fetched", lambda sql, given: asked.append((sql, given)) or fetched(sql, given))
    {
        "standing": lambda: catalog.keypoints([1]),
        "of a run": lambda: catalog.keypoints([1], 1),
        "without": lambda: catalog.without_keypoints(1, [1]),
        "annotated": lambda: catalog.annotated(),
        "said": lambda: catalog.crop_ids(Selection()),
        "superseded": lambda: catalog.superseded(1),
        "found": lambda: catalog.found_places([1]),
        "resting": lambda: catalog.remove_template("cat"),
    }[question]()
    monkeypatch.undo()
    plans = [row["detail"] for sql, given in asked for row in catalog.rows("EXPLAIN QUERY PLAN " + sql, given)]
    assert any("keypoints USING" in plan for plan in plans)
    assert not [plan for plan in plans if plan.startswith("SCAN keypoints")]
