"""`care train`: from named animals in a catalog to a model that `care index` uses."""

from __future__ import annotations

import hashlib
from pathlib import Path

import catalogs
import numpy as np
import pytest
import torch
from PIL import Image
from test_cli import runner
from timm.layers import resample_abs_pos_embed

from care_cli.catalog import Catalog
from care_cli.checkpoints import load_state, read_header
from care_cli.decisions import Decision
from care_cli.encoders import save_embedder
from care_cli.errors import CareError
from care_cli.records import NamedPoint
from care_cli.stages import train, trained
from care_cli.stages.train import examined
from care_cli.stages.train_settings import overrides
from tests.miniatures import SMALL_CLIP, small_clip

ANIMALS, SIGHTINGS = 12, 3
BOX = (100.0, 60.0, 90.0, 60.0)  # px
TINY = ["--backbone", "test_vit", "--size", "32", "--set", 'options={"img_size": 32}', "--epochs", "1.5"]
TINY += ["--val", "0.2", "--batch", "3x2", "--set", "accumulate=1", "--set", "arc_scale=16", "--learning-rate", "0.01"]


def herd(path: Path, animals: int = ANIMALS, sightings: int = SIGHTINGS) -> list[int]:
    """A catalog of animals that differ in colour, each seen some hours apart; the crops' ids, animal by animal."""
    ids = []
    rng = np.random.default_rng(0)
    with catalogs.new(path) as catalog:
        run = catalogs.detect_run(catalog)
        for animal in range(animals):
            coat = rng.integers(30, 226, 3)
            for visit in range(sightings):
                name = f"{animal}_{visit}.PNG"
                image = catalogs.add_photo(catalog, name, f"2024-05-{animal + 1:02} {6 * visit:02}:00:00")
                pixels = (coat + rng.integers(-30, 30, (catalogs.HEIGHT, catalogs.WIDTH, 3))).clip(0, 255)
                one = catalogs.crop_of(pixels.astype(np.uint8), catalogs.found(BOX))
                ids += catalog.add_crops(run, image, [one])
                if visit == 0:
                    catalog.decide(Decision("create", crop_id=ids[-1], value=f"Animal {animal}"))
                else:
                    animal_id = catalog.find_individual(f"Animal {animal}")
                    catalog.decide(Decision("name", crop_id=ids[-1], individual_id=animal_id))
    return ids


def point_out(path: Path, crops: list[int]) -> None:
    """Two eyes and a nose on these crops, by hand."""
    with Catalog(path) as catalog:
        for crop in crops:
            catalog.say_keypoints(
                crop, [NamedPoint("left_eye", 110, 70), NamedPoint("right_eye", 130, 70), NamedPoint("nose", 120, 90)]
            )


@pytest.fixture
def survey(tmp_path) -> Path:
    herd(tmp_path / "care.db")
    return tmp_path / "care.db"


@pytest.fixture
def care(monkeypatch, capfd, survey):
    return runner(monkeypatch, capfd, survey)


def test_a_model_is_trained_kept_and_used_at_once(care, survey):
    done = care("train", "--method", "vit", "--name", "reds", *TINY, "--json")
    assert done.code == 0, done.err
    [model] = done.json["models"]
    header = read_header(Path(model["file"]))
    assert Path(model["file"]) == survey.with_name("care.models") / "reds.safetensors"
    assert header["name"] == "reds" and header["method"] == "vit" and header["crop_mode"] == "squash"
    reached = model["metrics"]["validation"]
    assert header["metrics"]["validation"] == reached and 0 <= reached["top1"] <= 1
    card = " ".join(Path(model["card"]).read_text(encoding="utf-8").split())
    assert card.startswith("# reds ") and "the CKPE paper calls" in card and "from random weights" in card
    assert f"1.5 epochs over {8 * SIGHTINGS} crops of 8 animals" in card and f"top1 {reached['top1']:.3f}" in card
    with Catalog(survey) as catalog:
        parts = catalog.split_parts("default")
        learned = {hashlib.sha256(jpeg).hexdigest() for crop, jpeg in catalog.pixels(parts).items()
                   if parts[crop] == "train"}  # fmt: skip
        assert set(header["training"]["crops"]) == learned and len(learned) == 8 * SIGHTINGS
        assert header["training"]["split"]["sha256"] == catalog.split("default")["sha256"]
        assert trained.newest(catalog).name == "reds"
    again = care("train", "--method", "vit", "--name", "reds", *TINY, "--json")
    assert again.json["models"][0]["new"] is False and again.json["models"][0]["run"] == model["run"]
    for chosen in ([], ["--model", "reds"]):
        indexed = care("index", *chosen, "--json")
        assert indexed.json["model"] == "reds" and indexed.json["crops"] == ANIMALS * SIGHTINGS


def test_ckpe_learns_from_the_points_there_are(care, survey):
    with Catalog(survey) as catalog:
        crops = sorted(catalog.names_of_crops())
    refused = care("train", "--method", "ckpe", *TINY)
    assert refused.code == 2 and "care propagate-keypoints" in refused.err
    point_out(survey, crops[1:])
    done = care("train", "--method", "ckpe", *TINY, "--json")
    assert done.code == 0, done.err
    header = read_header(Path(done.json["models"][0]["file"]))
    assert header["keypoints"]["names"] == ["left_eye", "nose", "right_eye"]
    assert header["keypoints"]["mirrors"] == {"left_eye": "right_eye", "right_eye": "left_eye"}


@pytest.mark.parametrize("method", ["clip-ft", "clip-reid", "care", "transreid", "adafreq"])
def test_methods_of_papers_go_from_names_to_answers(care, survey, tmp_path, method):
    """Trained, indexed, examined and asked."""
    if method in ("transreid", "adafreq"):
        begin = ["--weights", "none", "--backbone", "test_vit", "--size", "48"]
        begin += ["--set", "frequency.tokens=5"] if method == "adafreq" else ["--set", "drop_path=0"]
    else:
        path = tmp_path / "clip.safetensors"
        save_embedder(small_clip(), path, {"method": "clip", "architecture": "care_clip", "options": SMALL_CLIP,
                                           "input_size": (64, 32), "mean": [0.5] * 3, "std": [0.5] * 3})  # fmt: skip
        begin = ["--weights", str(path), "--size", "64x32", "--set", "text.epochs=2", "--set", "text.batch=8"]
    done = care("train", "--method", method, "--name", "mine", *begin, "--epochs", "2", "--batch", "4x2", "--val",
                "0.2", "--learning-rate", "1e-3", "--json")  # fmt: skip
    assert done.code == 0, done.err
    header = read_header(Path(done.json["models"][0]["file"]))
    assert header["method"] == method and header["training"]["settings"]["method"] == method
    describes = method in ("clip-reid", "care")
    assert (survey.with_name("care.models") / "mine" / "prototypes.safetensors").exists() == describes
    card = " ".join(Path(done.json["models"][0]["card"]).read_text(encoding="utf-8").split())
    assert ("Before, for 2 epochs, 4 words were learned that stand for each animal." in card) == describes
    assert care("index", "--model", "mine", "--json").json["crops"] == ANIMALS * SIGHTINGS
    examined = care("evaluate", "--model", "mine", "--json").json["rows"][0]["metrics"]
    assert 0 < examined["mAP"]["mean"] <= 1
    photo = tmp_path / "new.png"
    Image.new("RGB", (catalogs.WIDTH, catalogs.HEIGHT), (200, 90, 40)).save(photo)
    [answer] = care("identify", str(photo), "--whole", "--model", "mine", "--top", "3", "--json").json["photos"]
    assert len({one["individual"] for one in answer["crops"][0]["candidates"]}) == 3


# -- bad input


def test_what_cannot_be_trained_is_refused_and_leaves_nothing(care, survey):
    for said, reason in (
        (["--name", "dinov2-base"], "There is a model 'dinov2-base' already"),
        (["--name", "../x"], "letters, digits"),
        (["--backbone", "no_such_net"], "timm has no model"),
        (["--method", "magic"], "There is no method 'magic'"),
        (["--batch", "sixteen"], "such as 16x4"),
        (["--set", "epoks=3"], "NAME=VALUE"),
        (["--set", "epochs=many"], "epochs is a number"),
        (["--set", "augmentation.flop=1"], "NAME=VALUE"),
        (["--split-by", "colour"], "split is by individual, event, site, random"),
        (["--weights", "no-such-weights"], "there is no model"),
        (["--species", "Yeti"], "No crop of Yeti shows a named animal"),
        (["--split", "other", "--test", "0.79"], "the training part has 1"),
    ):
        done = care("train", "--method", "vit", *TINY, *said)
        assert done.code == 2 and reason in done.err, (said, done.err)
    assert not survey.with_name("care.models").exists()
    with Catalog(survey) as catalog:
        assert catalog.latest_run("train") is None


def test_one_animal_or_none_is_refused(tmp_path, monkeypatch, capfd):
    for animals, reason in ((0, "shows a named animal"), (1, "'train' empty")):
        path = tmp_path / f"{animals}.db"
        herd(path, animals)
        done = runner(monkeypatch, capfd, path)("train", "--method", "vit", *TINY)
        assert done.code == 2 and reason in done.err


def test_animals_seen_once_are_learned_from_but_find_nobody(tmp_path, monkeypatch, capfd):
    herd(tmp_path / "care.db", ANIMALS, sightings=1)
    care = runner(monkeypatch, capfd, tmp_path / "care.db")
    done = care("train", "--method", "vit", *TINY)
    assert done.code == 2 and "no animal has two crops in the test part" in done.err


def test_without_a_validation_part_the_last_model_is_taken(care):
    done = care("train", "--method", "vit", *TINY, "--val", "0", "--json")
    assert done.code == 0 and "no validation part" in done.err, done.err
    header = read_header(Path(done.json["models"][0]["file"]))
    steps = round(1.5 * header["training"]["individuals"] * SIGHTINGS / 6)  # of 3 x 2 photos
    assert header["metrics"] == {} and header["training"]["step"] == steps


def test_damaged_pixels_are_left_out_and_named(care, survey):
    done = care("train", "--method", "vit", *TINY, "--show-split", "--json")
    with Catalog(survey) as catalog:
        parts = catalog.split_parts(done.json["split"])
        hurt = next(crop for crop, part in parts.items() if part == "train")
        with catalog.transaction():
            catalog.replace_pixels(hurt, b"no picture")
    done = care("train", "--method", "vit", *TINY, "--json")
    assert done.code == 1 and f"Crops whose pixels are damaged: {hurt}." in done.err
    header = read_header(Path(done.json["models"][0]["file"]))
    assert hashlib.sha256(b"no picture").hexdigest() not in header["training"]["crops"]
    assert len(header["training"]["crops"]) == 8 * SIGHTINGS - 1


def test_a_model_s_name_stays_its_own(care, survey):
    first = care("train", "--method", "vit", "--name", "reds", *TINY, "--json").json["models"][0]
    pixels = Path(first["file"]).read_bytes()
    done = care("train", "--method", "wildlife", "--name", "reds", *TINY)
    assert done.code == 2 and "'reds' already" in done.err and Path(first["file"]).read_bytes() == pixels
    Path(first["file"]).unlink()
    lost = care("index", "--model", "reds")
    assert lost.code == 2 and "not on this machine" in lost.err
    again = care("train", "--method", "vit", "--name", "reds", *TINY, "--json").json["models"][0]
    assert again["run"] == first["run"] and Path(first["file"]).read_bytes() == pixels  # what was kept is used


def test_seeds_are_models_of_their_own_and_weights_can_be_begun_from(care, survey):
    done = care("train", "--method", "vit", "--name", "pair", "--seeds", 2, *TINY, "--json")
    assert [model["name"] for model in done.json["models"]] == ["pair-0", "pair-1"]
    files = [Path(model["file"]) for model in done.json["models"]]
    assert files[0].read_bytes() != files[1].read_bytes()
    more = care("train", "--method", "wildlife", "--weights", "pair-0", *TINY[2:], "--json")
    assert more.code == 0, more.err
    header = read_header(Path(more.json["models"][0]["file"]))
    assert header["architecture"] == "test_vit" and header["training"]["begun_from"] == "pair-0"
    assert "learns from scratch" in done.err and "learns from scratch" not in more.err


@pytest.mark.parametrize("method", ["vit", "ckpe"])
def test_another_size_resamples_positions_and_none_keeps_those_there_are(care, survey, method):
    """A model that was built for 32 px is gone on from, at a rate that changes nothing."""
    if method == "ckpe":
        with Catalog(survey) as catalog:
            point_out(survey, sorted(catalog.names_of_crops()))
    first = care("train", "--method", method, "--name", "first", *TINY, "--json")
    assert first.code == 0, first.err
    positions = "pos_embed" if method == "vit" else "vit.pos_embed"
    start = load_state(Path(first.json["models"][0]["file"]))[positions].float()
    for size, side, grid in ((None, 32, (2, 2)), ("48", 48, (3, 3)), ("32x48", [32, 48], (2, 3))):
        asked = ["train", "--method", method, "--weights", "first", *TINY[6:], "--learning-rate", "1e-9", "--json"]
        asked += ["--size", size] if size else []
        done = care(*asked)
        assert done.code == 0, done.err
        [model] = done.json["models"]
        header, found = read_header(Path(model["file"])), load_state(Path(model["file"]))[positions].float()
        assert header["input_size"] == header["options"]["img_size"] == side
        expected = resample_abs_pos_embed(start, list(grid), num_prefix_tokens=1)
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)
        again = care(*asked).json["models"][0]
        assert (again["run"], again["new"]) == (model["run"], False)


@pytest.mark.parametrize("method", ["vit", "kpe", "ckpe", "transreid", "adafreq"])
def test_positions_of_a_rectangle_are_resampled_as_such(care, survey, method):
    """Of 32 x 128 px: as many patches as a square of 64 px has lie otherwise, as those of 128 x 32 do."""
    if method in ("kpe", "ckpe"):
        with Catalog(survey) as catalog:
            point_out(survey, sorted(catalog.names_of_crops()))
    common = ["train", "--method", method, "--val", "0", "--epochs", "1", "--batch", "3x2", "--json"]
    common += ["--learning-rate", "1e-9", "--set", "least_rate=0", "--set", "accumulate=1"]
    overlaps = method in ("transreid", "adafreq")
    own = ["--set", "stride=8"] if overlaps else ["--set", 'options={"img_size": [32, 128]}']
    first = care(*common, "--name", "first", "--backbone", "test_vit", "--weights", "none", "--size", "32x128", *own)
    assert first.code == 0, first.err
    name = {"vit": "pos_embed", "adafreq": "pos_embed", "transreid": "trunk.pos_embed"}.get(method, "vit.pos_embed")
    start = load_state(Path(first.json["models"][0]["file"]))

    def grid(rows: int, columns: int) -> list[int]:
        return [side // 8 - 1 if overlaps else side // 16 for side in (rows, columns)]

    for size, sides in (("64", (64, 64)), ("128x32", (128, 32)), ("48", (48, 48))):
        done = care(*common, "--weights", "first", "--size", size)
        assert done.code == 0, done.err
        found = load_state(Path(done.json["models"][0]["file"]))
        for places in [name, *(["embeddings"] if method == "kpe" else [])]:
            was = start[places].reshape(1, -1, start[places].shape[-1])
            expected = resample_abs_pos_embed(was, grid(*sides), grid(32, 128), num_prefix_tokens=1)
            torch.testing.assert_close(found[places].reshape(expected.shape), expected, rtol=0, atol=1e-4)


def test_settings_are_read_as_what_they_are():
    texts = ["ema=0.999", "neck=true", "mean=[0.5, 0.5, 0.5]", "augmentation.crop=0.7", "optimizer=adamw", "clip=null"]
    assert overrides(texts) == {
        "ema": 0.999,
        "neck": True,
        "mean": (0.5, 0.5, 0.5),
        "augmentation.crop": 0.7,
        "optimizer": "adamw",
        "clip": None,
    }
    for text in ("neck=1", "individuals=2.5", "method=vit", "mean=grey", "clip"):
        with pytest.raises(CareError):
            overrides([text])


def test_a_stopped_training_goes_on_to_the_same_weights(tmp_path, monkeypatch, capfd):
    """Ctrl-C while it validates for the second time, then the same command; beside one that nothing happened to."""
    settings = ["--method", "vit", "--name", "kept", *TINY, "--epochs", "6", "--set", "validate_every=2"]
    measured = []

    def stopping(*arguments, **settings):
        measured.append(len(measured))
        if len(measured) == 2:
            raise KeyboardInterrupt
        return examined(*arguments, **settings)

    models = {}
    for place in ("stopped", "whole"):
        folder = tmp_path / place
        folder.mkdir()
        herd(folder / "care.db")
        care = runner(monkeypatch, capfd, folder / "care.db")
        if place == "stopped":
            with monkeypatch.context() as patched:
                patched.setattr(train, "examined", stopping)
                assert care("train", *settings).code == 130
            assert not (folder / "care.models" / "kept.safetensors").exists()
        done = care("train", *settings, "--json")
        assert done.code == 0, done.err
        models[place] = done.json["models"][0]
    assert models["stopped"]["resumed_from"] == 8 and models["whole"]["resumed_from"] is None  # a third of the steps
    assert Path(models["stopped"]["file"]).read_bytes() == Path(models["whole"]["file"]).read_bytes()


def test_weights_that_know_the_test_animals_are_not_begun_from(care, survey):
    first = care("train", "--method", "vit", "--name", "first", "--split", "one", "--split-seed", "1", *TINY, "--json")
    assert first.code == 0, first.err
    start = ["--method", "vit", "--weights", "first", *TINY]
    refused = care("train", "--name", "leaky", "--split", "two", "--split-seed", "2", *start)
    assert refused.code == 2 and "has learned from" in refused.err and "'two'" in refused.err
    again = care("train", "--name", "second", "--split", "one", "--set", "arc_scale=8", *start, "--json")
    assert again.code == 0, again.err
    crops = [set(read_header(Path(done.json["models"][0]["file"]))["training"]["crops"]) for done in (first, again)]
    assert crops[0] <= crops[1]
    own = survey.with_name("care.models") / "first" / "last.safetensors"
    refused = care("train", "--method", "vit", "--name", "odd", "--split", "one", "--weights", own, *TINY)
    assert refused.code == 2 and "checkpoint" in refused.err
