"""The scene renderer keeps its promises, and the committed sample is what its truth says."""

from __future__ import annotations

import csv
import json
from collections import Counter, defaultdict
from datetime import datetime
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

import scenes
from demo.train_data import render_survey
from scenes.coats import RESOLUTION, coat_of
from scenes.figures import trace, view_matrix
from scenes.labelled import CATEGORIES, shoot_place
from scenes.poses import bone_turns, pose_bones, random_pose
from scenes.seeds import SAMPLE, TEST, TRAIN, TUNE

SMALL = (480, 360)
VISITS = 8  # of a place that is shot with its labels
DAY, NIGHT = datetime(2024, 3, 14, 11, 5, 7), datetime(2024, 3, 14, 23, 5, 7)


@pytest.fixture(scope="module")
def sample(root: Path) -> Path:
    return root / "sample_data"


@pytest.fixture(scope="module")
def truth(sample: Path) -> list[dict]:
    return json.loads((sample / "truth.json").read_text(encoding="utf-8"))["photos"]


def of_kind(truth: list[dict], kind: str) -> list[dict]:
    return [photo for photo in truth if photo["kind"] == kind]


KINDS = [(species, kind) for species, kinds in scenes.FAUNA.items() for kind in kinds]


def of_the_kind(species: str, kind: str, first: int = TEST[0]) -> scenes.Individual:
    """The first individual of the kind from that seed."""
    made = (scenes.make_individual(species, first + i) for i in range(len(scenes.FAUNA[species])))
    return next(who for who in made if who.kind == kind)


def one_placed(species: str, seed: int, **options):
    """A location, an animal placed well inside its view, and what it was placed with."""
    location = scenes.make_location(seed)
    individual = scenes.make_individual(species, seed)
    return location, scenes.place(location, individual, np.random.default_rng(seed), size=SMALL, **options)


def test_the_same_seed_gives_the_same_bytes_and_another_seed_others(tmp_path):
    settings = {"individuals": 4, "photos_per_individual": 1, "locations": 2, "size": (320, 240)}
    for name, seed in (("a", TEST[0]), ("b", TEST[0]), ("c", TEST[50])):
        scenes.make_survey(tmp_path / name, seed=seed, **settings)
    bytes_of = {
        name: {p.relative_to(tmp_path / name): p.read_bytes() for p in (tmp_path / name).rglob("*") if p.is_file()}
        for name in "abc"
    }
    assert bytes_of["a"] == bytes_of["b"]
    assert len(bytes_of["a"]) > 8
    assert not set(bytes_of["a"].values()) & set(bytes_of["c"].values())


@pytest.mark.parametrize("species", scenes.SPECIES)
@pytest.mark.parametrize("infrared", [False, True])
def test_the_box_is_where_the_animal_changed_the_photo(species, infrared):
    checked = 0
    for seed in TEST[10:14]:
        location, item = one_placed(species, seed)
        when = NIGHT if infrared else DAY
        looks = {"size": SMALL, "infrared": infrared, "when": when, "bar": False, "difficulty": 0.0}
        photo = scenes.render_scene(location, [item], np.random.default_rng(1), **looks)
        empty = scenes.render_scene(location, [], np.random.default_rng(1), **looks)
        assert empty.objects == []
        change = np.abs(np.asarray(photo.image, int) - np.asarray(empty.image, int)).max(2)
        (found,) = photo.objects
        x, y, w, h = (int(v) for v in found["box"])
        assert x >= 0 and y >= 0 and x + w <= SMALL[0] and y + h <= SMALL[1]
        outside = change.copy()
        outside[max(y - 4, 0) : y + h + 4, max(x - 4, 0) : x + w + 4] = 0
        inside = change[y : y + h, x : x + w]
        assert (inside > 14).mean() > 0.15
        assert all(edge.max() > 5 for edge in (inside[:3], inside[-3:], inside[:, :3], inside[:, -3:]))
        assert (outside > 60).sum() < 0.02 * (change > 60).sum() + 5
        for points, (px, py, visible) in found["keypoints"].items():
            if visible:
                checked += 1
                assert x <= px <= x + w and y <= py <= y + h, points
    assert checked > 20


@pytest.mark.parametrize("species, kind", [one for one in KINDS if one[0] not in scenes.SPECIES])
def test_every_kind_is_boxed_by_day_and_by_night(species, kind):
    """The location's photo without the animal is the measure of what was drawn."""
    who = of_the_kind(species, kind)
    location = scenes.make_location(TEST[10])
    for infrared, when in ((False, DAY), (True, NIGHT)):
        item = scenes.place(location, who, np.random.default_rng(4), size=SMALL, side="left")
        looks = {"size": SMALL, "infrared": infrared, "when": when, "bar": False, "difficulty": 0.0}
        photo = scenes.render_scene(location, [item], np.random.default_rng(1), **looks)
        empty = scenes.render_scene(location, [], np.random.default_rng(1), **looks)
        (found,) = photo.objects
        assert (found["species"], found["kind"], found["side"]) == (species, kind, "left")
        x, y, w, h = (int(v) for v in found["box"])
        assert x >= 0 and y >= 0 and x + w <= SMALL[0] and y + h <= SMALL[1]
        assert max(w, h) > 0.1 * SMALL[0]
        pixels = np.asarray(photo.image, int)
        change = np.abs(pixels - np.asarray(empty.image, int)).max(2)
        inside, outside = change[y : y + h, x : x + w], change.copy()
        outside[max(y - 4, 0) : y + h + 4, max(x - 4, 0) : x + w + 4] = 0
        assert (inside > 10).mean() > 0.12
        assert all(edge.max() > 2 for edge in (inside[:3], inside[-3:], inside[:, :3], inside[:, -3:]))
        assert (outside > 60).sum() < 0.02 * (change > 60).sum() + 5
        assert (np.ptp(pixels, axis=2).max() == 0) == infrared
        assert sum(visible for *_, visible in found["keypoints"].values()) >= 2


def silhouette(who: scenes.Individual, seed: int) -> np.ndarray:
    """The outline in a pose of its kind seen from the side, on a square of 64 px with its own proportions."""
    surface = trace(who.body, random_pose(who.species, np.random.default_rng(seed), 0.0, "right"), 90.0)
    rows, columns = np.nonzero(surface.inside)
    scale = 63 / max(np.ptp(rows), np.ptp(columns))
    square = np.zeros((64, 64), bool)
    square[((rows - rows.min()) * scale).astype(int), ((columns - columns.min()) * scale).astype(int)] = True
    return square


def test_kinds_of_different_classes_have_outlines_of_their_own():
    drawn = {one: [silhouette(of_the_kind(*one), seed) for seed in range(3)] for one in KINDS}

    def likeness(some: list[np.ndarray], others: list[np.ndarray]) -> float:
        return float(np.mean([(a & b).sum() / (a | b).sum() for a in some for b in others if a is not b]))

    own = {one: likeness(found, found) for one, found in drawn.items()}
    for one, found in drawn.items():
        for other, compared in drawn.items():
            if one[0] < other[0]:
                alike = likeness(found, compared)
                assert alike < 0.9 and alike < max(own[one], own[other]), (one, other, alike, own[one], own[other])


def test_coats_of_a_kind_have_its_marks_in_their_places():
    for seed in TEST[:6]:
        stoat = scenes.make_individual("Stoat", seed)
        marks, (x0, z0, *_) = stoat.body.marks, stoat.body.canvas
        grey = coat_of(stoat)[0].mean(2)

        def tone(u: float, z: float, grey=grey, x0=x0, z0=z0) -> float:
            row, column = round((z - z0) * RESOLUTION), round((u - x0) * RESOLUTION)
            return float(grey[row - 2 : row + 3, column - 2 : column + 3].mean())

        back = tone(0.0, marks["back"] + 0.5 * marks["girth"])
        assert tone(marks["tail_end"], marks["tail_z"]) < 0.5 * back
        assert tone(0.1, marks["back"] - 0.8 * marks["girth"]) > 1.5 * back


@pytest.mark.parametrize("species", scenes.FAUNA)
def test_every_pixel_shows_the_rest_point_that_the_bones_carry_there(species):
    """The coat is looked up by `rest`; carried forward by the bones it must land on the pixel that shows it."""
    rng = np.random.default_rng(3)
    body = scenes.make_individual(species, TEST[0]).body
    scale = 120.0
    for _ in range(4):
        pose = random_pose(species, rng, 0.6)
        surface = trace(body, pose, scale)
        rotation, shift = pose_bones(body, bone_turns(pose))
        view = view_matrix(pose, scale)
        rows, columns = np.nonzero(surface.inside)
        rest = surface.rest[rows, columns]
        landed = np.einsum("bij,nj->bni", view @ rotation, rest) + (shift @ view.T)[:, None]
        aim = np.stack([columns + 0.5 - surface.foot[0], rows + 0.5 - surface.foot[1]], 1)
        miss = np.linalg.norm(landed[..., :2] - aim, axis=2).min(0) / scale
        assert np.median(miss) < 0.02
        assert np.quantile(miss, 0.9) < 0.08


def test_named_points_show_the_same_place_of_the_coat_in_every_pose():
    rng = np.random.default_rng(5)
    body = scenes.make_individual("Goat", TEST[1]).body
    seen = Counter()
    for _ in range(12):
        pose = random_pose("Goat", rng, 0.3)
        surface = trace(body, pose, 150.0)
        for name in ("left_shoulder", "right_shoulder", "left_hip", "right_hip"):
            x, y, depth = surface.points[name]
            if depth > surface.depth[int(y), int(x)] - 8:
                seen[name] += 1
                shown, meant = surface.rest[int(y), int(x)], body.points[name][1]
                assert np.hypot(shown[0] - meant[0], shown[2] - meant[2]) < 0.12
                assert name.startswith(pose.side)
    assert min(seen.values()) >= 2 and len(seen) == 4


def test_coats_are_individual_and_symmetric_only_where_asked():
    coats = [coat_of(scenes.make_individual("Cat", seed)).astype(int) for seed in TEST[:8]]
    for i, coat in enumerate(coats):
        assert (coat[0] == coat[1]).all()
        assert all(np.abs(coat - other).mean() > 10 for other in coats[:i])
    left, right = coat_of(scenes.make_individual("Cat", TEST[0], symmetric=False)).astype(int)
    assert np.abs(left - right).mean() > 10


def test_two_tones_stay_apart_in_grey():
    for species in scenes.SPECIES:
        for seed in TEST[:10]:
            grey = coat_of(scenes.make_individual(species, seed))[0].mean(2)
            dark, light = np.quantile(grey, (0.03, 0.97))
            assert light - dark > 55, (species, seed)


def test_difficulty_takes_contrast_from_the_coat():
    spread = []
    for difficulty in (0.0, 1.0):
        location, item = one_placed("Pig", TEST[3], share=0.4)
        photo = scenes.render_scene(
            location, [item], np.random.default_rng(0), size=SMALL, when=DAY, bar=False, difficulty=difficulty
        )
        x, y, w, h = (int(v) for v in photo.objects[0]["box"])
        middle = np.asarray(photo.image.convert("L"), float)[y + h // 4 : y + h // 2, x + w // 4 : x + 3 * w // 4]
        spread.append(middle.std())
    assert spread[1] < 0.7 * spread[0]


def test_chips_frame_their_animal_and_infrared_ones_are_grey():
    rng = np.random.default_rng(2)
    for i, species in enumerate([*scenes.SPECIES] * 2):
        chip = scenes.render_chip(scenes.make_individual(species, TEST[i]), rng, infrared=i % 2 == 0)
        pixels = np.asarray(chip.image, int)
        assert 140 < max(chip.image.size) <= 200 and chip.image.mode == "RGB"
        assert (np.ptp(pixels, axis=2).max() == 0) == (i % 2 == 0)
        assert chip.species == species and chip.side in ("left", "right")
        assert {name for pair in scenes.MIRROR_PAIRS for name in pair} < set(chip.keypoints)
        visible = [(x, y) for x, y, seen in chip.keypoints.values() if seen]
        assert len(visible) >= 3
        assert all(0 <= x <= chip.image.width and 0 <= y <= chip.image.height for x, y in visible)


def test_the_seed_ranges_share_nothing():
    ranges = (TRAIN, TUNE, SAMPLE, TEST)
    assert len({seed for part in ranges for seed in part}) == sum(len(part) for part in ranges)


def test_the_classes_are_those_of_the_species_detector():
    assert list(scenes.FAUNA) == sorted(scenes.FAUNA) and len(scenes.FAUNA) == 15
    assert set(scenes.SPECIES) < set(scenes.FAUNA)
    kinds = [kind for _, kind in KINDS]
    assert len(set(kinds)) == len(kinds) and set(CATEGORIES) == {"empty", "human", *kinds}


@pytest.fixture(scope="module")
def labelled(tmp_path_factory) -> Path:
    """A survey of two places, shot by processes of their own."""
    folder = tmp_path_factory.mktemp("labelled")
    assert len(render_survey(folder, TEST[60:62], TEST[:50], VISITS)) >= 2 * VISITS
    return folder


def test_places_are_shot_again_the_same_in_any_order(labelled, tmp_path):
    known = json.loads((labelled / "truth.json").read_text(encoding="utf-8"))["photos"]
    again = shoot_place(TEST[61], tmp_path, TEST[:50], VISITS)
    assert again == json.loads(json.dumps([one for one in known if one["location"] == again[0]["location"]]))
    assert all((tmp_path / one["path"]).read_bytes() == (labelled / one["path"]).read_bytes() for one in again)
    assert len({one["location"] for one in known}) == 2 and len(again) < len(known)


def test_camera_trap_labels_say_what_the_truth_says(labelled):
    truth = {one["path"]: one for one in json.loads((labelled / "truth.json").read_text(encoding="utf-8"))["photos"]}
    labels = json.loads((labelled / "labels.json").read_text(encoding="utf-8"))
    words = {one["id"]: one["name"] for one in labels["categories"]}
    files = {path.relative_to(labelled).as_posix() for path in labelled.rglob("*.JPG")}
    assert files == set(truth) == {one["file_name"] for one in labels["images"]}
    boxes, sequences = defaultdict(list), defaultdict(list)
    for one in labels["annotations"]:
        boxes[one["image_id"]].append((words[one["category_id"]], one.get("bbox")))
    for one in labels["images"]:
        known = truth[one["file_name"]]
        assert one["datetime"] == datetime.fromisoformat(known["captured_at"]).strftime("%Y-%m-%d %H:%M:%S")
        assert one["location"] == known["location"] == one["file_name"].split("/")[0]
        expected = [(found["kind"], found["box"]) for found in known["objects"]] or [("empty", None)]
        assert boxes[one["id"]] == expected
        for found in known["objects"]:
            assert found["kind"] in scenes.FAUNA.get(found["species"], ("human",))
        sequences[one["seq_id"]].append((one["frame_num"], one["seq_num_frames"], known["event"], one["location"]))
    for frames in sequences.values():
        assert [frame for frame, *_ in sorted(frames)] == list(range(len(frames)))
        assert {(count, event, place) for _, count, event, place in frames} == {(len(frames), *frames[0][2:])}
    assert len({one["species"] for known in truth.values() for one in known["objects"]}) >= 6


def test_sample_files_and_truth_name_each_other(sample, truth):
    files = {p.relative_to(sample).as_posix() for p in sample.rglob("*.JPG")}
    assert files == {photo["path"] for photo in truth} and len(files) == len(truth)
    assert sum(p.stat().st_size for p in sample.rglob("*") if p.is_file()) < 9_000_000
    kinds = Counter(photo["kind"] for photo in truth)
    assert kinds["empty"] >= 8 and kinds["person"] >= 1 and kinds["duplicate"] == kinds["truncated"] == 1
    assert all(not photo["objects"] for photo in of_kind(truth, "empty"))
    assert all(photo["objects"][0]["category"] == "person" for photo in of_kind(truth, "person"))
    assert any(len(photo["objects"]) == 2 for photo in of_kind(truth, "animal"))


def test_sample_has_enough_animals_and_queries(truth):
    photos, species = defaultdict(set), {}
    queries = {"known": set(), "new": set()}
    for photo in truth:
        for found in photo["objects"]:
            if found["category"] != "animal":
                continue
            if photo["path"].startswith("card/"):
                photos[found["individual"]].add(photo["path"])
                species[found["individual"]] = found["species"]
            else:
                queries[Path(photo["path"]).name.split("_")[0]].add(found["individual"])
    assert min(Counter(species.values()).values()) >= 6 and len(set(species.values())) == 4
    assert min(len(paths) for paths in photos.values()) >= 3
    assert queries["known"] == set(photos) and len(queries["known"]) >= 24
    assert len(queries["new"]) >= 16 and not queries["new"] & set(photos)
    card_places = {photo["location"] for photo in truth if photo["path"].startswith("card/")}
    assert not card_places & {photo["location"] for photo in truth if photo["path"].startswith("queries/")}


def test_sample_exif_reads_back(sample, truth):
    for photo in truth:
        with Image.open(sample / photo["path"]) as image:
            exif = image.getexif()
            details, position = exif.get_ifd(0x8769), exif.get_ifd(0x8825)
            stored = image.size
        taken = datetime.fromisoformat(photo["captured_at"])
        assert details[0x9003] == taken.strftime("%Y:%m:%d %H:%M:%S")
        assert int(details[0x9291]) == taken.microsecond // 10000
        assert details[0xA431] == photo["camera"] and exif[0x010F] and exif[0x0110]
        assert exif[0x0112] == photo["orientation"]
        upright = stored if photo["orientation"] == 1 else stored[::-1]
        assert upright == (photo["width"], photo["height"])
        degrees, minutes, seconds = (float(v) for v in position[2])
        assert position[1] == "S" and 41 <= degrees + minutes / 60 + seconds / 3600 <= 45.51
        assert position[3] == "E"


def test_sample_bursts_are_a_second_or_two_apart(truth):
    events = defaultdict(list)
    for photo in of_kind(truth, "animal"):
        events[photo["event"]].append(datetime.fromisoformat(photo["captured_at"]))
    bursts = [times for times in events.values() if len(times) == 3]
    assert len(bursts) >= 24
    for times in bursts:
        gaps = np.diff([t.timestamp() for t in times])
        assert gaps.min() > 0.99 and gaps.max() < 2.01


def test_sample_mishaps_are_what_the_truth_says(sample, truth):
    (twin,), (cut,) = of_kind(truth, "duplicate"), of_kind(truth, "truncated")
    assert (sample / twin["path"]).read_bytes() == (sample / twin["duplicate_of"]).read_bytes()
    with Image.open(sample / cut["path"]) as image, pytest.raises(OSError, match="truncated"):
        image.load()
    (turned,) = (photo for photo in truth if photo["orientation"] == 6)
    with Image.open(sample / turned["path"]) as image:
        upright = ImageOps.exif_transpose(image)
    assert upright.size == (turned["width"], turned["height"])
    neighbour = next(p for p in truth if p["location"] == turned["location"] and p["kind"] == "empty")
    with Image.open(sample / neighbour["path"]) as image:
        bar = np.asarray(image.convert("L"), float)
    turned_grey = np.asarray(upright.convert("L"), float)
    rows = np.abs(np.diff(bar.mean(1)) - np.diff(turned_grey.mean(1)))
    flipped = np.abs(np.diff(bar.mean(1)) - np.diff(turned_grey[::-1].mean(1)))
    assert rows.mean() < flipped.mean()


def test_sample_lighting_is_in_the_pixels(sample, truth):
    for photo in [p for p in truth if p["kind"] == "animal"][::6]:
        with Image.open(sample / photo["path"]) as image:
            pixels = np.asarray(image.convert("RGB"), int)
        spread = np.median(np.ptp(pixels, axis=2))
        assert (spread < 3) == (photo["lighting"] == "infrared"), photo["path"]


def test_sample_names_are_the_truth_of_the_card(sample, truth):
    with (sample / "names.csv").open(encoding="utf-8", newline="") as file:
        rows = [(r["path"], *(float(r[k]) for k in "xywh"), r["individual"]) for r in csv.DictReader(file)]
    expected = [
        (photo["path"], *found["box"], found["individual"])
        for photo in of_kind(truth, "animal")
        if photo["path"].startswith("card/")
        for found in photo["objects"]
    ]
    assert sorted(rows) == sorted(expected)
