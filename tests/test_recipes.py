"""Recipes: the labels of A.4, every edge of the joining rule, bursts, caps, empties and parts by location."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from care_cli import recipes
from care_cli.errors import CareError
from care_cli.recipes import selection
from care_cli.recipes.selection import Candidate, KnownBox, KnownPhoto, bursts_of, judge, parts, thin
from scenes import FAUNA

ROOT = Path(__file__).resolve().parent.parent
NZ = recipes.load("nz-trailcams-15")
CLASSES = ["Bird", "Cat", "Deer", "Dog", "Ferret", "Goat", "Hedgehog", "Kiwi", "Lagomorph", "Livestock", "Pig",
           "Possum", "Rodent", "Stoat", "Wallaby"]  # fmt: skip

# class -> its labels among the 97 of nz-trailcams, typed from the table apart from the recipe's file
OF_CLASS = {
    "Cat": "cat", "Deer": "deer white_tailed_deer", "Dog": "dog", "Ferret": "ferret", "Goat": "goat",
    "Hedgehog": "hedgehog", "Kiwi": "kiwi", "Lagomorph": "rabbit hare", "Livestock": "cow sheep horse", "Pig": "pig",
    "Possum": "possum", "Rodent": "mouse rat", "Stoat": "stoat", "Wallaby": "wallaby",
    "Bird": "robin kea thrush blackbird tomtit rifleman parakeet weka bellbird harrier pukeko dunnock chaffinch "
    "kereru silvereye pipit yellow_eyed_penguin fantail tui magpie myna greenfinch yellowhammer quail_brown "
    "quail_california takahe starling sparrow pateke banded_rail morepork chicken oystercatcher paradise_duck "
    "black_fronted_tern mallard goldfinch tieke banded_dotterel redpoll little_blue_penguin kaka fernbird "
    "shore_plover canada_goose spurwing_plover black_backed_gull white_faced_heron pheasant shag brown_creeper "
    "black_billed_gull wrybill crake grey_warbler rosella swan fiordland_crested_penguin plover nz_falcon stilt "
    "long_tailed_cuckoo mohua kingfisher grey_duck spotted_dove fluttering_shearwater whitehead "
    "grey_faced_petrol swallow",
}  # fmt: skip
LEFT_OUT = ["weasel", "chamois", "tahr", "human", "sealion", "lizard", "skink", "moth"]

BOX = (0.2, 0.3, 0.1, 0.2)


def animal(confidence: float = 0.9, box=BOX, **more) -> KnownBox:
    return KnownBox(box, "animal", confidence, **more)


def known(*labels: str, boxes=(animal(),), **more) -> KnownPhoto:
    facts = {"looked": True, "size": (1000, 500), "location": "north"} | more
    return KnownPhoto("a.jpg", tuple((label, False) for label in labels), tuple(boxes), **facts)


def test_all_97_labels_map_or_drop_as_the_table_says():
    assert NZ.names == CLASSES
    labels = [(label, name) for name, listed in OF_CLASS.items() for label in listed.split()]
    assert len(labels) + len(LEFT_OUT) == 97 and len(OF_CLASS["Bird"].split()) == 70
    for label, name in labels:
        assert judge(known(label), NZ) == selection.Verdict(selection.KEPT, ((CLASSES.index(name), BOX, 0.9),))
    for label in LEFT_OUT:
        assert judge(known(label), NZ).reason == selection.LEFT_OUT
    listed = sum(map(len, NZ.classes.values()))
    assert listed == len(labels) and set(NZ.dropped) == set(LEFT_OUT)
    for label in (" Brown  Creeper ", "brown-creeper", "Brown_Creeper"):  # whatever letters and signs between
        assert judge(known(label), NZ).boxes[0][0] == 0


REASONS = {
    "two species": (known("mouse", "rat"), selection.SEVERAL),
    "a species and empty": (known("mouse", "empty"), selection.SEVERAL),
    "unmapped": (known("yeti"), selection.UNKNOWN),
    "unmapped, and no box": (known("yeti", boxes=()), selection.UNKNOWN),  # never background
    "left out, and no box": (known("weasel", boxes=()), selection.LEFT_OUT),
    "no label": (known(), selection.NO_LABEL),
    "sure": (known("cat", boxes=[animal(0.5)]), selection.KEPT),
    "just not sure": (known("cat", boxes=[animal(0.4999)]), selection.DOUBTFUL),
    "just doubtful": (known("cat", boxes=[animal(), animal(0.1)]), selection.DOUBTFUL),
    "just not doubtful": (known("cat", boxes=[animal(), animal(0.0999)]), selection.KEPT),
    "only unlikely": (known("cat", boxes=[animal(0.0999)]), selection.NO_BOX),
    "no box": (known("cat", boxes=()), selection.NO_BOX),
    "no detector": (known("cat", boxes=(), looked=False), selection.NOT_LOOKED),
    "a person": (known("cat", boxes=[animal(), KnownBox(BOX, "person", 0.1)]), selection.PEOPLE),
    "hardly a person": (known("cat", boxes=[animal(), KnownBox(BOX, "person", 0.0999)]), selection.KEPT),
    "a vehicle": (known("cat", boxes=[animal(), KnownBox(BOX, "vehicle", 0.3)]), selection.PEOPLE),
    "a person on an empty one": (known("empty", boxes=[KnownBox(BOX, "person", 0.2)]), selection.PEOPLE),
    "empty": (known("Empty", boxes=()), selection.EMPTY),
    "empty, unseen by detectors": (known("blank", boxes=(), looked=False), selection.EMPTY),
    "empty, hardly a box": (known("empty", boxes=[animal(0.0999)]), selection.EMPTY),
    "empty, perhaps a box": (known("empty", boxes=[animal(0.1)]), selection.CONTRADICTION),
    "damaged": (known("cat", damaged=True), selection.DAMAGED),
    "nowhere": (known("cat", location=None), selection.NO_LOCATION),
    "3.9 px high": (known("cat", boxes=[animal(box=(0.1, 0.1, 0.1, 0.0078))]), selection.SMALL),
    "4 px high": (known("cat", boxes=[animal(box=(0.1, 0.1, 0.1, 0.008))]), selection.KEPT),
    "4 px, half of them outside": (known("cat", boxes=[animal(box=(0.1, -0.004, 0.1, 0.008))]), selection.SMALL),
    "of unknown size": (known("cat", boxes=[animal(box=(0.1, 0.1, 0.1, 0.001))], size=None), selection.KEPT),
    "drawn": (known(boxes=[animal(1.0, label="cat", given=True)], looked=False), selection.KEPT),
    "drawn, two species": (
        known(boxes=[animal(label="cat", given=True), animal(label="stoat", given=True)]), selection.KEPT),
    "drawn, one unmapped": (
        known(boxes=[animal(label="cat", given=True), animal(label="yeti", given=True)]), selection.UNKNOWN),
    "drawn, one left out": (
        known(boxes=[animal(label="cat", given=True), animal(label="moth", given=True)]), selection.LEFT_OUT),
    "drawn, one nameless": (
        known(boxes=[animal(label="cat", given=True), animal(given=True)]), selection.NAMELESS),
    "drawn, another one named": (known("stoat", boxes=[animal(label="cat", given=True)]), selection.UNBOXED),
    "drawn, said to be empty": (known("empty", boxes=[animal(label="cat", given=True)]), selection.CONTRADICTION),
    "drawn, beside a person": (
        known(boxes=[animal(label="cat", given=True), KnownBox(BOX, "person", 1.0, given=True)]), selection.PEOPLE),
}  # fmt: skip


@pytest.mark.parametrize(("photo", "reason"), REASONS.values(), ids=list(REASONS))
def test_the_rule_edge_by_edge(photo, reason):
    verdict = judge(photo, NZ)
    assert verdict.reason == reason and bool(verdict.boxes) == (reason == selection.KEPT)


def test_all_sure_boxes_get_the_label_and_drawn_ones_win_over_detected_ones():
    two = known("stoat", boxes=[animal(0.9), animal(0.6, (0.5, 0.5, 0.6, 0.2)), animal(0.05)])
    [one, other] = judge(two, NZ).boxes
    assert one == (13, BOX, 0.9) and other[0] == 13 and other[2] == 0.6
    assert other[1] == pytest.approx((0.5, 0.5, 0.5, 0.2))  # clipped
    drawn = known("stoat", boxes=[animal(0.3), animal(0.95, (0, 0, 0.1, 0.1)), animal(1.0, label="Stoat", given=True)])
    assert judge(drawn, NZ).boxes == ((13, BOX, 1.0),)


def test_boxes_of_people_are_of_no_species_however_sure_a_person_must_be():
    lenient = replace(NZ, people=0.9)
    person, vehicle = KnownBox((0, 0, 0.5, 0.5), "person", 0.6), KnownBox((0.5, 0, 0.5, 0.5), "vehicle", 0.2)
    assert judge(known("stoat", boxes=[animal(), person, vehicle]), lenient).boxes == ((13, BOX, 0.9),)
    assert judge(known("stoat", boxes=[person]), lenient).reason == selection.NO_BOX


def test_an_animal_that_two_detectors_found_is_one():
    near = animal(0.8, (0.2, 0.3, 0.1, 0.19))
    assert judge(known("stoat", boxes=[near, animal()]), NZ).boxes == ((13, BOX, 0.9),)


def test_people_are_learned_as_drawn_by_a_recipe_with_a_class_for_them():
    with_people = replace(NZ, classes={**NZ.classes, "Person": ("human",)}, dropped=("weasel",))
    drawn, found = KnownBox(BOX, "person", 1.0, given=True), KnownBox(BOX, "person", 0.9)
    cat, vehicle = animal(label="cat", given=True), KnownBox(BOX, "vehicle", 1.0, given=True)
    person, cats = (15, BOX, 1.0), (CLASSES.index("Cat"), BOX, 0.9)
    assert judge(known(boxes=[drawn, cat]), with_people).boxes == (person, cats)
    assert judge(known(boxes=[drawn, found]), with_people).boxes == (person,)  # what a detector says is not needed
    for boxes in ([found], [drawn, vehicle], [cat, vehicle]):
        assert judge(known("human", boxes=boxes), with_people).reason == selection.PEOPLE
    assert judge(known(boxes=[drawn, cat]), NZ).reason == selection.PEOPLE
    hikers = replace(with_people, classes={**NZ.classes, "Person": ("human", "hiker")})
    for label in ("human", "hiker", "person"):  # a detector's animal on the photo of a person is not that person
        assert judge(known(label, boxes=[animal()]), hikers).reason == selection.PEOPLE


def test_the_demo_learns_the_fifteen_classes_and_people():
    demo = recipes.load(str(ROOT / "demo" / "detector.toml"))
    assert demo.names == [*CLASSES, "Person"]
    assert demo.classes == FAUNA | {"Person": ("human",)}


def test_labels_of_sequences_count_when_that_is_wanted_and_empty_ones_always():
    of_sequence = replace(known(), labels=(("cat", True),))
    assert judge(of_sequence, NZ).reason == selection.SEQUENCE
    assert judge(of_sequence, replace(NZ, sequence_labels=True)).reason == selection.KEPT
    assert judge(replace(known(boxes=()), labels=(("empty", True),)), NZ).reason == selection.EMPTY
    some = replace(known(boxes=()), labels=(("empty", True), ("cat", True)))  # which photos are the empty ones?
    assert judge(some, NZ).reason == selection.SEQUENCE


# -- many photos


def shot(
    number: int, *classes: int, at: str | None = None, camera: str = "c", location: str = "l", **more
) -> Candidate:
    at = at if at is not None else f"2020-01-{1 + number // 24:02} {number % 24:02}:00:00"
    return Candidate(f"{camera}/{number}.jpg", frozenset(classes), location, camera, at or None, **more)


def test_of_a_burst_of_ten_three_are_kept_whichever_order_they_come_in():
    burst = [shot(n, 1, at=f"2020-01-01 10:{n:02}:00") for n in range(10)]  # 60 s apart: one burst of nine minutes
    alone = [shot(20, 1, at="2020-01-01 10:10:01"), shot(21, 1, at="2020-01-01 10:09:00", location="m")]
    reasons = thin([*burst, *alone], NZ)
    assert Counter(reasons[:10]) == {selection.KEPT: 3, selection.BURST: 7}
    assert reasons[10:] == [selection.KEPT] * 2  # 61 s later, and elsewhere
    kept = {one.key for one, reason in zip([*burst, *alone], reasons, strict=True) if reason == selection.KEPT}
    mixed = [*burst, *alone]
    random.Random(0).shuffle(mixed)
    again = {one.key for one, reason in zip(mixed, thin(mixed, NZ), strict=True) if reason == selection.KEPT}
    assert again == kept
    chosen = {
        frozenset(one.key for one, reason in zip(burst, thin(burst, replace(NZ, seed=seed)), strict=True)
                  if reason == selection.KEPT)
        for seed in range(20)
    }  # fmt: skip
    assert len(chosen) > 10  # by the seed


def test_undated_photos_are_bursts_of_their_sequences_or_alone():
    photos = [shot(n, 1, at="", burst=7) for n in range(5)] + [shot(n, 1, at="") for n in range(5, 8)]
    numbers = bursts_of([*photos, shot(9, 1)], 60)
    assert len(set(numbers[:5])) == 1 and len(set(numbers)) == 5
    assert Counter(thin(photos, NZ)) == {selection.KEPT: 6, selection.BURST: 2}


def test_empty_photos_take_no_animals_place_in_a_burst():
    burst = [shot(n, *([1] if n in (4, 7) else []), at=f"2020-01-01 10:00:{n:02}") for n in range(10)]
    for seed in range(20):
        reasons = thin(burst, replace(NZ, seed=seed, empties=0.4))
        assert [reasons[4], reasons[7]] == [selection.KEPT] * 2 and reasons.count(selection.EMPTY) == 1


def test_caps_by_camera_and_class_and_the_share_of_empties():
    recipe = replace(NZ, per_camera=4, per_class=6, empties=0.25)
    photos = [shot(n, 1, camera=camera) for camera in "ab" for n in range(5)]
    photos += [shot(50 + n, 2, camera="a") for n in range(3)] + [shot(90, 1, 2, camera="c")]
    photos += [shot(100 + n, camera=f"e{n // 3}") for n in range(9)]
    reasons = dict(zip([one.key for one in photos], thin(photos, recipe), strict=True))
    per = Counter((key[0], reason) for key, reason in reasons.items())
    assert (per["a", selection.CAMERA], per["b", selection.CAMERA]) == (1, 1)
    cats = [one for one in photos if 1 in one.classes and reasons[one.key] == selection.KEPT]
    assert len(cats) == 6 and sum(reason == selection.CLASS for reason in reasons.values()) == 3
    kept = list(reasons.values()).count(selection.KEPT)
    empties = list(reasons.values()).count(selection.EMPTY)
    assert empties == round(kept / 3) and per["e", selection.EMPTIES] == 9 - empties
    none = thin(photos, replace(recipe, empties=0))
    assert selection.EMPTY not in none


def test_the_caps_hold_for_whatever_comes():
    chance = random.Random(3)
    recipe = replace(NZ, per_burst=2, per_camera=5, per_class=11, empties=0.1)
    photos = [
        shot(
            n,
            *chance.choice([(), (0,), (1,), (0, 1), (2,)]),
            at=f"2020-01-01 {chance.randrange(24):02}:{chance.randrange(60):02}:00",
            camera=(place := chance.choice("abcd")),
            location=place,
        )
        for n in range(400)
    ]
    reasons = thin(photos, recipe)
    kept = [i for i, reason in enumerate(reasons) if reason in (selection.KEPT, selection.EMPTY)]
    bursts = Counter(bursts_of(photos, recipe.burst_gap)[i] for i in kept)
    cameras = Counter((photos[i].camera, number) for i in kept for number in photos[i].classes)
    classes = Counter(number for i in kept for number in photos[i].classes)
    empty = sum(not photos[i].classes for i in kept)
    assert max(bursts.values()) <= 2 and max(cameras.values()) <= 5 and max(classes.values()) <= 11
    assert abs(empty / len(kept) - 0.1) < 0.5 / len(kept) + 0.02


def test_all_photos_of_a_location_are_in_one_part():
    photos = [shot(n, 1, location=f"l{n % 20}") for n in range(200)]
    found = parts(photos, NZ)
    by_location = {one.location: set() for one in photos}
    for one, part in zip(photos, found, strict=True):
        by_location[one.location].add(part)
    assert all(len(its) == 1 for its in by_location.values())
    assert Counter(part for (part,) in map(tuple, by_location.values())) == {"train": 16, "val": 2, "test": 2}
    assert parts(photos, replace(NZ, seed=1)) != found == parts(photos, NZ)
    with pytest.raises(CareError, match="of 2 locations"):
        parts([shot(0, 1, location="a"), shot(1, 1, location="b")], NZ)
    assert sorted(parts([shot(0, 1, location="a"), shot(1, 1, location="b")], replace(NZ, val=0))) == ["test", "train"]


# -- the files


def test_a_region_of_ones_own_is_one_file(tmp_path):
    file = tmp_path / "alps.toml"
    file.write_text('positive = 0.7\ndropped = ["marmot"]\n[classes]\nIbex = ["capra ibex"]\nChamois = []\n')
    alps = recipes.load(str(file))
    assert (alps.name, alps.names, alps.positive, alps.per_burst) == ("alps", ["Ibex", "Chamois"], 0.7, 3)
    assert judge(known("Capra_ibex"), alps).boxes[0][0] == 0 and judge(known("chamois"), alps).boxes[0][0] == 1
    assert judge(known("marmot"), alps).reason == selection.LEFT_OUT
    changed = alps.changed({"per_burst": "5", "sequence_labels": "true", "empties": "0.05"})
    assert (changed.per_burst, changed.sequence_labels, changed.empties) == (5, True, 0.05)
    assert changed.settings()["classes"] == {"Ibex": ("capra ibex",), "Chamois": ()}
    assert "per_burst 5" in changed.lines()[-1] and "Ibex: capra ibex" in changed.lines()[1]


@pytest.mark.parametrize(
    ("text", "words"),
    [("[classes", "should be TOML"), ("a = 1\n[classes]\nA = []", "unknown settings a"), ("", "needs a table"),
     ("[classes]", "has no classes"), ("[classes]\nA = 'x'", "list of labels"),
     ("dropped = 1\n[classes]\nA = []", "list of labels"),
     ("[classes]\nA = ['x']\nB = ['X']", "twice"), ("dropped = ['a']\n[classes]\nA = []", "twice"),
     ("positive = 2\n[classes]\nA = []", "from 0 to 1"), ("doubtful = 0.6\n[classes]\nA = []", "at most positive"),
     ("per_burst = 'x'\n[classes]\nA = []", "whole number"), ("val = 0.5\ntest = 0.5\n[classes]\nA = []", "nothing to"),
     ("name = 3\n[classes]\nA = []", "should be text"), ("seed = 1.5\n[classes]\nA = []", "whole number")],
)  # fmt: skip
def test_a_recipe_that_is_none_is_refused_in_words(tmp_path, text, words):
    (tmp_path / "r.toml").write_text(text)
    with pytest.raises(CareError, match=words):
        recipes.load(str(tmp_path / "r.toml"))


def test_settings_and_names_that_do_not_exist_are_refused(tmp_path):
    with pytest.raises(CareError, match="nz-trailcams-15"):
        recipes.load("atlantis")
    for given in ({"name": "x"}, {"positive": "much"}, {"sequence_labels": "perhaps"}, {"per_class": "0"}):
        with pytest.raises(CareError):
            NZ.changed(given)
