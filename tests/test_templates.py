"""`care templates`: from every source to the catalog and back, and what is refused on the way."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path

import numpy as np
import pytest
from catalogs import add_crops, add_photo, detect_run, found, new, pixels_of, survey
from endpoint import EYES, completion, points, reply, saying, scaled, serving
from PIL import Image
from test_cli import Care, runner

from care_cli.catalog import Catalog
from care_cli.decisions import Decision
from care_cli.errors import CareError
from care_cli.geometry import to_crop
from care_cli.keypoints import files
from care_cli.records import Crop, Detection, NamedPoint
from care_cli.stages import templates as stage

BOX = (40.0, 30.0, 80.0, 60.0)  # the crop spans 32 to 128 and 24 to 96
GOOD = [
    {"name": "left_eye", "x": 60, "y": 40, "mirror": "right_eye"},
    {"name": "right_eye", "x": 80, "y": 41, "mirror": "left_eye"},
    {"name": "nose", "x": 70.5, "y": 55.25, "mirror": None},
]


@pytest.fixture
def catalog(tmp_path: Path):
    """Three photos, each with an animal of the species Lion: crops 1, 2 and 3."""
    with new(tmp_path / "care.db") as catalog:
        for crop in survey(catalog, photos=3):
            catalog.decide(Decision("species", crop_id=crop, value="Lion"))
        yield catalog


@pytest.fixture
def care(monkeypatch, capfd, tmp_path: Path, catalog) -> Care:
    """`care` on the catalog, in its folder, with the key of no service in the environment."""
    monkeypatch.chdir(tmp_path)
    for name in ("CARE_VLM_KEY", "OPENAI_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    return runner(monkeypatch, capfd, tmp_path / "care.db")


@pytest.fixture
def good(tmp_path: Path) -> Path:
    path = tmp_path / "points.json"
    path.write_text(json.dumps(GOOD))
    return path


def answer(monkeypatch, said: str) -> None:
    """A person at a terminal who types this."""
    stdin = io.StringIO(said)
    stdin.isatty = lambda: True
    monkeypatch.setattr(sys, "stdin", stdin)


# -- an expert's file


def test_an_experts_file_becomes_a_template(care: Care, catalog: Catalog, good: Path) -> None:
    done = care("templates", "add", "head", "--crop", 2, "--points", good, "--json")
    assert done.code == 0, done.err
    assert done.json["points"] == [{**point, "x": float(point["x"]), "y": float(point["y"])} for point in GOOD]
    template = catalog.template("head")
    assert (template.crop_id, template.species, template.source) == (2, "Lion", "expert")
    assert template.about["file"] == "points.json"
    [row] = care("templates", "--json").json
    assert row == {
        "name": "head", "species": "Lion", "crop": 2, "individual": None, "path": "DCIM/100CARE_/IMG_0001.PNG",
        "points": 3, "source": "expert", "created_at": template.created_at, "carried": 0,
    }  # fmt: skip
    assert "head" in care("templates").out and "name,species,crop" in care("templates", "--csv").out


def test_an_experts_points_are_set_by_hand_on_their_own_crop(care: Care, catalog: Catalog, good: Path) -> None:
    for name in ("head", "again"):  # twice says nothing new
        assert care("templates", "add", name, "--crop", 2, "--points", good).code == 0
        rows = care("keypoints", "--json").json
        assert [(row["crop"], row["name"], row["x"], row["y"], row["source"], row["template"]) for row in rows] == [
            (2, point["name"], point["x"], point["y"], "human", None) for point in GOOD
        ]
    assert set(catalog.annotated()) == {2}
    assert care("templates", "add", "guessed", "--crop", 3, "--random", 4).code == 0
    assert set(catalog.annotated()) == {2}
    assert care("templates", "add", "head", "--crop", 3, "--points", good).code == 2  # the name is taken
    assert set(catalog.annotated()) == {2}


def test_species_of_the_option_wins_over_the_crops(care: Care, catalog: Catalog, good: Path) -> None:
    assert care("templates", "add", "a", "--crop", 1, "--points", good, "--species", "Tiger").code == 0
    assert catalog.template("a").species == "Tiger"


def test_a_photo_is_known_by_its_bytes(care: Care, catalog: Catalog, good: Path, tmp_path: Path) -> None:
    Image.fromarray(pixels_of("DCIM/100CARE_/IMG_0002.PNG")).save(tmp_path / "copy.png", "PNG", compress_level=1)
    assert care("templates", "add", "a", "--photo", tmp_path / "copy.png", "--points", good).code == 0
    assert catalog.template("a").crop_id == 3


def test_a_photo_of_two_animals_names_its_crops(care: Care, catalog: Catalog, good: Path, tmp_path: Path) -> None:
    run = catalog.active_run()
    image = add_photo(catalog, "two.PNG", folder=tmp_path / "card")
    ids = add_crops(catalog, run, image, "two.PNG", [found(BOX), found((150.0, 30.0, 80.0, 60.0))])
    done = care("templates", "add", "a", "--photo", tmp_path / "card" / "two.PNG", "--points", good)
    assert done.code == 2 and all(str(crop) in done.err for crop in ids) and "--crop" in done.err


def test_photos_without_an_animal_or_unknown(care: Care, catalog: Catalog, good: Path, tmp_path: Path) -> None:
    image = add_photo(catalog, "person.PNG", folder=tmp_path / "card")
    add_crops(catalog, catalog.active_run(), image, "person.PNG", [found(BOX, "person")])
    for photo, words in (
        (tmp_path / "card" / "person.PNG", "No animal is shown"),
        (good, "does not know"),
        (tmp_path / "absent.jpg", "cannot be read"),
    ):
        done = care("templates", "add", "a", "--photo", photo, "--points", good)
        assert done.code == 2 and words in done.err
    assert catalog.templates() == []


def test_coco_points_are_found_by_the_photos_path(care: Care, catalog: Catalog, tmp_path: Path) -> None:
    document = {
        "images": [
            {"id": 1, "file_name": "101CARE_/IMG_0001.PNG", "width": 320, "height": 240},
            {"id": 2, "file_name": "100CARE_/IMG_0001.PNG", "width": 320, "height": 240},
            {"id": 3, "file_name": "small.jpg", "width": 160, "height": 120},
        ],
        "annotations": [
            {"id": i, "image_id": i, "category_id": 1, "keypoints": [60 + i, 40, 2, 80, 41, 2, 0, 0, 0]}
            for i in (1, 2, 3)
        ],
        "categories": [{"id": 1, "name": "cat", "keypoints": ["left_eye", "right_eye", "nose"]}],
    }
    path = tmp_path / "coco.json"
    path.write_text(json.dumps(document))
    assert care("templates", "add", "a", "--crop", 2, "--points", path).code == 0
    expected = (NamedPoint("left_eye", 62, 40, "right_eye"), NamedPoint("right_eye", 80, 41, "left_eye"))
    assert catalog.template("a").points == expected and catalog.template("a").about["annotation"] == "2"
    assert care("templates", "add", "b", "--crop", 1, "--points", path, "--annotation", 1).code == 0
    assert catalog.template("b").points[0].x == 61
    done = care("templates", "add", "c", "--crop", 1, "--points", path, "--annotation", 3)
    assert done.code == 2 and "160 x 120" in done.err and "320 x 240" in done.err
    done = care("templates", "add", "c", "--crop", 1, "--points", path)
    assert done.code == 2 and "--annotation" in done.err


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"x": 321}, "'nose' at (321, 55.25) lies outside the photo of 320 x 240 px"),
        ({"x": 31}, "'nose' at (31, 55.25) lies outside the animal's crop"),
        ({"name": "Left_Eye"}, "'Left_Eye'"),
        ({"mirror": "tail"}, "'tail', but there is no such point"),
        ({"mirror": "left_eye"}, "'left_eye' says 'right_eye'"),
        ({"x": None}, "point 3: x should be a finite number"),
    ],
)
def test_bad_points_are_refused_and_nothing_is_stored(care, catalog, tmp_path: Path, change: dict, words: str) -> None:
    path = tmp_path / "bad.json"
    path.write_text(json.dumps([*GOOD[:2], {**GOOD[2], **change}]))
    done = care("templates", "add", "a", "--crop", 1, "--points", path)
    assert done.code == 2 and words in done.err and done.err.count("\n") == 1
    assert catalog.templates() == []


def test_names_are_taken_once_and_crops_must_be_animals_with_pixels(care, catalog, good, tmp_path) -> None:
    assert care("templates", "add", "a", "--crop", 1, "--points", good).code == 0
    done = care("templates", "add", "a", "--crop", 2, "--points", good)
    assert done.code == 2 and "already" in done.err
    image = add_photo(catalog, "odd.PNG")
    [person] = add_crops(catalog, catalog.active_run(), image, "odd.PNG", [found((200.0, 30.0, 20.0, 20.0), "person")])
    image = add_photo(catalog, "bare.PNG")
    [bare] = catalog.add_crops(
        catalog.active_run(), image, [Crop(Detection(BOX, 0.9, "a", "animal"), (32, 24, 96, 72))]
    )
    for crop, words in ((0, "no crop 0"), (99, "no crop 99"), (person, "person"), (bare, "no pixels")):
        done = care("templates", "add", "b", "--crop", crop, "--points", good)
        assert done.code == 2 and words in done.err
    assert [template.name for template in catalog.templates()] == ["a"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--crop", 1), "by one of --points, --vlm-url, --gradcam, --random"),
        (("--crop", 1, "--points", "a.json", "--random", 3), "by one of"),
        (("--points", "a.json"), "--crop ID or --photo FILE"),
        (("--crop", 1, "--photo", "b.jpg", "--points", "a.json"), "--crop ID or --photo FILE"),
        (("--crop", 1, "--random", 3, "--annotation", 1), "--annotation is for --points"),
        (("--crop", 1, "--random", 3, "--count", 3), "--count is for --vlm-url and --gradcam"),
        (("--crop", 1, "--random", 3, "--yes"), "--yes is for --vlm-url and --gradcam"),
        (("--crop", 1, "--points", "a.json", "--overlay", "a.jpg"), "--overlay is for --vlm-url and --gradcam"),
        (("--crop", 1, "--points", "a.json", "--names", "nose"), "--names is for --vlm-url"),
        (("--crop", 1, "--gradcam", "timm:x", "--vlm-timeout", 9), "--vlm-timeout is for --vlm-url"),
        (
            ("--crop", 1, "--vlm-url", "http://localhost/v1", "--vlm-model", "m", "--names", "a", "--count", 2),
            "--count out",
        ),
        (("--crop", 1, "--points", "a.json", "--vlm-model", "m"), "--vlm-model is for --vlm-url"),
        (("--crop", 1, "--vlm-url", "http://localhost/v1"), "--vlm-model NAME"),
        (("--crop", 1, "--vlm-url", "http://localhost/v1", "--vlm-model", "m"), "--yes"),
        (("--crop", 1, "--vlm-url", "nonsense", "--vlm-model", "m", "--yes"), "--vlm-url should be like"),
        (("--crop", 1, "--gradcam", "timm:test_vit", "--yes"), "--weights"),
    ],
)
def test_options_that_do_not_fit(care: Care, catalog: Catalog, monkeypatch, options: tuple, words: str) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO())
    done = care("templates", "add", "a", *options)
    assert done.code == 2 and words in done.err
    assert catalog.templates() == []


def test_points_may_be_called_so_and_are_no_fractions(care: Care, catalog: Catalog, tmp_path: Path) -> None:
    path = tmp_path / "points.json"
    path.write_text(json.dumps({"points": GOOD, "species": "Lion"}))
    assert care("templates", "add", "a", "--crop", 1, "--points", path).code == 0
    assert [point.name for point in catalog.template("a").points] == [point["name"] for point in GOOD]
    path.write_text(json.dumps([{"name": "nose", "x": 0.4, "y": 0.55}, {"name": "tail", "x": 1, "y": 0}]))
    done = care("templates", "add", "b", "--crop", 1, "--points", path)
    assert done.code == 2 and "look like fractions" in done.err and "32 to 128" in done.err


def test_another_species_than_the_crops_is_noticed(care: Care, good: Path) -> None:
    odd = care("templates", "add", "a", "--crop", 1, "--points", good, "--species", "Dragon")
    assert odd.code == 0 and "Crop 1 shows the species Lion; the template is kept as one of Dragon" in odd.err
    same = care("templates", "add", "b", "--crop", 1, "--points", good, "--species", "Lion")
    assert same.code == 0 and "shows the species" not in same.err


# -- random points


def test_random_points_lie_on_the_animal_and_come_again(care: Care, catalog: Catalog) -> None:
    for name, seed in (("a", 5), ("b", 5), ("c", 6)):
        assert care("templates", "add", name, "--crop", 1, "--random", 4, "--seed", seed).code == 0
    a, b, c = (catalog.template(name).points for name in "abc")
    assert [p.name for p in a] == ["point_1", "point_2", "point_3", "point_4"]
    assert a == b != c
    assert all(40 <= p.x <= 120 and 30 <= p.y <= 90 for p in a + c)
    assert catalog.template("c").about["seed"] == 6


def test_random_points_of_a_small_stored_crop_lie_on_the_animal(tmp_path: Path) -> None:
    with new(tmp_path / "care.db") as catalog:
        name = "big.PNG"
        box = (11.0, 7.0, 290.0, 200.0)
        image = add_photo(catalog, name)
        [crop] = add_crops(catalog, detect_run(catalog), image, name, [found(box)], longest=50)
        for p in stage.from_random(catalog, crop, 50).points:
            assert 11 <= p.x <= 301 and 7 <= p.y <= 207


# -- a vision-language model


def ask(care: Care, server, *options, name: str = "head"):
    return care("templates", "add", name, "--crop", 1, "--vlm-url", server.url, "--vlm-model", "eye-9b", *options)


def test_a_models_proposal_is_shown_and_kept_when_confirmed(care, catalog, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("CARE_VLM_KEY", "sk-secret")
    answer(monkeypatch, "y\n")
    with serving(saying(points())) as server:
        done = ask(care, server)
    assert done.code == 0, done.err
    first = done.err.splitlines()[0]
    assert server.url in first and "eye-9b" in first and "crop 1" in first and "96 x 72 px" in first
    assert "head.jpg" in done.err and "left_eye" in done.err
    template = catalog.template("head")
    rect, size = (32, 24, 96, 72), (96, 72)
    for p, entry in zip(template.points, EYES, strict=True):
        kp_crop = to_crop(np.array([[p.x, p.y]]), rect, size)[0]
        assert kp_crop == pytest.approx([entry["x"] * 96, entry["y"] * 72])
    assert [p.mirror for p in template.points] == ["right_eye", "left_eye", None]
    assert (template.source, template.about["model"], len(template.about["replies"])) == ("vlm", "eye-9b", 5)
    assert server.asked[0].headers["Authorization"] == "Bearer sk-secret"
    with Image.open(tmp_path / "head.jpg") as picture:
        assert min(picture.size) >= 72
    for path in tmp_path.rglob("*"):  # nowhere: not in the catalog, not beside it
        assert b"sk-secret" not in (path.read_bytes() if path.is_file() else b"")
    assert "sk-secret" not in done.err + done.out


def test_the_key_of_openai_is_not_sent_to_another_server(care: Care, catalog: Catalog, monkeypatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    with serving(saying(points())) as server:
        assert ask(care, server, "--yes").code == 0
    assert server.asked and not any("Authorization" in asked.headers for asked in server.asked)


def test_what_is_sent_is_the_stored_crop_and_nothing_else_of_the_photo(care, catalog, monkeypatch, tmp_path) -> None:
    import base64

    exif = Image.Exif()
    exif[0x010F] = "Secret Camera Maker"
    stream = io.BytesIO()
    with Image.open(io.BytesIO(catalog.pixels([1])[1])) as picture:
        picture.save(stream, "PNG", exif=exif)
    catalog.replace_pixels(1, stream.getvalue())  # as an imported photo is kept
    with serving(saying(points())) as server:
        assert ask(care, server, "--yes", "--overlay", tmp_path / "o.jpg").code == 0
    assert len(server.asked) == 5
    for asked in server.asked:
        assert b"IMG_0000" not in asked.body and b"2024" not in asked.body
        data = base64.b64decode(asked.json["messages"][0]["content"][1]["image_url"]["url"].partition(",")[2])
        assert b"Secret" not in data
        with Image.open(io.BytesIO(data)) as sent, Image.open(io.BytesIO(catalog.pixels([1])[1])) as kept:
            assert sent.format == "JPEG" and sent.size == kept.size and not sent.getexif()
            assert np.abs(np.asarray(sent, int) - np.asarray(kept.convert("RGB"), int)).mean() < 12  # of noise


def test_a_proposal_that_is_not_confirmed_is_not_stored(care, catalog, monkeypatch, tmp_path) -> None:
    answer(monkeypatch, "n\n")
    with serving(saying(points())) as server:
        done = ask(care, server, "--save", "mine.json", "--overlay", "look.jpg")
    assert done.code == 0 and "Nothing is stored" in done.err and "mine.json" in done.err
    assert catalog.templates() == [] and (tmp_path / "look.jpg").exists() and not (tmp_path / "head.jpg").exists()
    saved = files.read(tmp_path / "mine.json")
    assert [p.name for p in saved.points] == ["left_eye", "right_eye", "nose"]
    assert care("templates", "add", "head", "--crop", 1, "--points", "mine.json").code == 0
    assert catalog.template("head").points[2].x == pytest.approx(32 + 0.5 * 96, abs=0.01)


@pytest.mark.parametrize("terminal", [True, False])
def test_where_nobody_answers_the_points_are_saved_and_not_stored(care, catalog, monkeypatch, terminal) -> None:
    answer(monkeypatch, "")
    monkeypatch.setattr(sys.stdin, "isatty", lambda: terminal)
    with serving(saying(points())) as server:
        done = ask(care, server, "--save", "mine.json")
        assert done.code == 0 and "Nothing is stored" in done.err and catalog.templates() == []
        before = Path("mine.json").read_bytes()
        done = ask(care, server, "--save", "mine.json")
    assert done.code == 2 and "exists already" in done.err and Path("mine.json").read_bytes() == before
    assert len(server.asked) == 5


def test_names_and_count_are_asked_for(care: Care, catalog: Catalog) -> None:
    with serving(saying(points(EYES[:2]))) as server:
        assert ask(care, server, "--yes", "--count", 2).code == 0
        assert ask(care, server, "--yes", "--names", "right_eye, left_eye", "--species", "Lynx", name="b").code == 0
    assert "Name 2 anatomical points" in server.asked[0].json["messages"][0]["content"][0]["text"]
    words = server.asked[5].json["messages"][0]["content"][0]["text"]
    assert "right_eye, left_eye" in words and "Lynx" in words and "Lion" not in words
    assert len(catalog.template("b").points) == 2


@pytest.mark.parametrize(
    ("behave", "words"),
    [
        (saying("A lion, I think."), "no usable answer in 3 tries"),
        (saying(scaled(1000)), "asked for fractions from 0 to 1, but gave coordinates up to 600"),
        (saying(points(EYES[:2])), "3 points were asked for, but 2 came"),
        (lambda handler, n: reply(handler, "", 500), "500"),
        (lambda handler, n: reply(handler, ""), "empty"),
        (saying(points(), points([*EYES[:2], {**EYES[2], "x": 0.8}])), "differ by"),
    ],
)  # fmt: skip
def test_a_bad_endpoint_is_one_line_and_stores_nothing(care, catalog, tmp_path, monkeypatch, behave, words) -> None:
    monkeypatch.setattr("time.sleep", lambda seconds: None)  # between the tries
    with serving(behave) as server:
        done = ask(care, server, "--yes")
    sent, error = done.err.splitlines()
    assert done.code == 2 and sent.startswith("Sending to") and error.startswith("Error:") and words in error
    assert catalog.templates() == [] and not list(tmp_path.glob("*.jpg"))


def test_no_photo_leaves_before_all_else_is_in_order(care, catalog, good, tmp_path, monkeypatch) -> None:
    (tmp_path / "card").mkdir()
    with catalog.transaction():
        source = catalog.add_source("volume", b"second", "second", (tmp_path / "card").as_posix())
        catalog.begin_meeting()
        catalog.finish_meeting(source, whole=True)
    assert care("templates", "add", "taken", "--crop", 1, "--points", good).code == 0
    with serving(lambda handler, n: reply(handler, completion(points()))) as server:
        for options, name in (
            (("--yes", "--overlay", tmp_path / "card" / "o.jpg"), "head"),
            (("--yes", "--overlay", "o.png"), "head"),
            (("--yes", "--save", tmp_path / "card" / "p.json"), "head"),
            (("--yes", "--save", tmp_path / "no" / "p.json"), "head"),
            (("--yes",), "taken"),
            (("--yes",), "bad\nname"),
            (("--yes", "--names", "nose,Nose"), "head"),
        ):
            assert ask(care, server, *options, name=name).code == 2
        monkeypatch.setenv("CARE_VLM_KEY", "two words")
        assert ask(care, server, "--yes").code == 2
    assert server.asked == [] and len(catalog.templates()) == 1
    assert not list((tmp_path / "card").iterdir())


# -- Grad-CAM


@pytest.fixture(scope="module")
def network(tmp_path_factory) -> Path:
    """Weights of timm's smallest ViT, drawn at random."""
    import timm
    import torch
    from safetensors.torch import save_file

    torch.manual_seed(3)
    path = tmp_path_factory.mktemp("weights") / "test_vit.safetensors"
    save_file(timm.create_model("test_vit", pretrained=False).state_dict(), path)
    return path


def look(care: Care, network: Path, crop: int, name: str, *options):
    return care("templates", "add", name, "--crop", crop, "--gradcam", "timm:test_vit", "--weights", network, "--yes",
                *options)  # fmt: skip


def test_where_a_network_looks_becomes_a_template(care: Care, catalog: Catalog, network: Path) -> None:
    done = look(care, network, 1, "seen", "--count", 2)
    assert done.code == 0, done.err
    template = catalog.template("seen")
    assert template.source == "gradcam-vit" and [p.name for p in template.points] == ["peak_1", "peak_2"]
    assert template.about["prototype"] == "Lion" and template.about["crops"] == [2, 3]
    assert "2 crops of Lion" in done.err
    assert all(32 <= p.x <= 128 and 24 <= p.y <= 96 for p in template.points)
    catalog.decide(Decision("create", crop_id=1, value="Kea"))
    catalog.decide(Decision("name", crop_id=3, individual_id=1, value="Kea"))
    assert look(care, network, 1, "kea", "--count", 2).code == 0
    assert catalog.template("kea").about["prototype"] == "Kea" and catalog.template("kea").about["crops"] == [3]


def test_without_anything_to_compare_with_it_says_what_to_do(care: Care, catalog: Catalog, network: Path) -> None:
    image = add_photo(catalog, "alone.PNG")
    [crop] = add_crops(catalog, catalog.active_run(), image, "alone.PNG", [found(BOX)])
    done = look(care, network, crop, "a")
    assert done.code == 2 and "care individuals name" in done.err and catalog.templates() == []


# -- showing and removing


def test_show_tells_all_and_draws_it(care: Care, catalog: Catalog, good: Path, tmp_path: Path) -> None:
    care("templates", "add", "head", "--crop", 1, "--points", good)
    done = care("templates", "show", "head", "--picture", "p.jpg")
    assert done.code == 0 and "right_eye" in done.out and "points.json" in done.out
    with Image.open(tmp_path / "p.jpg") as picture:
        assert picture.format == "JPEG"
    assert care("templates", "show", "head", "--json").json["points"][0]["mirror"] == "right_eye"
    assert care("templates", "show", "head", "--csv").out.splitlines()[0] == "name,x,y,mirror"
    done = care("templates", "show", "tail")
    assert done.code == 2 and "head" in done.err


def test_remove_keeps_what_rests_on_it_unless_said(care: Care, catalog: Catalog, good: Path) -> None:
    from care_cli.records import Keypoints

    care("templates", "add", "head", "--crop", 1, "--points", good)
    template = catalog.template("head")
    run = catalog.begin_run("propagate-keypoints", {})
    place, sure = np.array([[50.0, 50.0]]), np.array([0.9], np.float32)
    catalog.add_keypoints(run, [Keypoints(2, ("nose",), place, sure, np.array([True]), templates=(template.id,))])
    assert care("templates", "--json").json[0]["carried"] == 1
    done = care("templates", "remove", "head")
    assert done.code == 2 and "--with-points" in done.err and catalog.template("head")
    done = care("templates", "remove", "head", "--with-points", "--json")
    assert done.json == {"name": "head", "points": 1} and catalog.templates() == []
    assert care("templates", "--json").json == []
    with pytest.raises(CareError):
        catalog.template("head")
