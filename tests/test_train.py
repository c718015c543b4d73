"""`care train`: from named animals in a catalog to a model that `care index` uses."""

from __future__ import annotations

import hashlib
from pathlib import Path

import catalogs
import numpy as np
import pytest
from test_cli import runner

from care_cli.catalog import Catalog
from care_cli.checkpoints import read_header
from care_cli.decisions import Decision
from care_cli.errors import CareError
from care_cli.records import NamedPoint
from care_cli.stages import trained
from care_cli.stages.train_settings import overrides

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
            for time in range(sightings):
                name = f"{animal}_{time}.PNG"
                image = catalogs.add_photo(catalog, name, f"2024-05-{animal + 1:02} {6 * time:02}:00:00")
                pixels = (coat + rng.integers(-30, 30, (catalogs.HEIGHT, catalogs.WIDTH, 3))).clip(0, 255)
                one = catalogs.crop_of(pixels.astype(np.uint8), catalogs.found(BOX))
                ids += catalog.add_crops(run, image, [one])
                if time == 0:
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
    assert header["metrics"]["validation"] == model["metrics"]["validation"]
    assert 0 <= model["metrics"]["validation"]["top1"] <= 1
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
