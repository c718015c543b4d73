"""The demo diffusion model: made by its script, small, and better at carrying points than an untrained network."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from care_cli import registry
from care_cli.catalog import Catalog
from care_cli.features import load_extractor
from care_cli.stages.evaluate_keypoints import EvaluateConfig, run
from demo.examine_points import FROM, render_annotated
from demo.train_diffusion import QUICK, SCHEDULE, make_diffusion
from scenes.seeds import TEST


def test_the_script_makes_a_pipeline_that_gives_features(tmp_path: Path) -> None:
    folder = make_diffusion(QUICK, tmp_path / "diffusion", report=lambda text: None)
    extractor = load_extractor(registry.find_extractor(f"sd:{folder}"))
    chip = np.random.default_rng(0).integers(0, 255, (1, 3, extractor.size, extractor.size), np.uint8)
    features = extractor(chip, [1], "a photo of a Cat")
    assert features.shape == (1, extractor.channels, 16, 16) and bool(features.isfinite().all())
    assert not np.allclose(features, extractor(chip, [1], "a photo of a Goat"))  # words are heeded
    kept = json.loads((folder / "scheduler" / "scheduler_config.json").read_text("utf-8"))
    assert {key: kept[key] for key in SCHEDULE} == SCHEDULE


def test_it_is_small() -> None:
    spec = registry.find("demo-diffusion")
    folder = registry.location(spec)
    files = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert set(spec.files) <= files
    assert sum((folder / file).stat().st_size for file in files) < 12_000_000


@pytest.fixture(scope="module")
def annotated(tmp_path_factory) -> Path:
    """A catalog of rendered animals that the model has not seen, with their true points."""
    from care_cli.stages.import_keypoints import run as import_points

    folder = tmp_path_factory.mktemp("annotated")
    render_annotated(folder, TEST[FROM : FROM + 40], photos=2)
    with Catalog(folder / "care.db", create=True) as catalog:
        import_points(catalog, folder / "annotations.json", folder)
    return folder / "care.db"


def test_it_carries_points_better_than_untrained_weights(annotated: Path) -> None:
    with Catalog(annotated) as catalog:
        found = run(catalog, EvaluateConfig(registry.find("demo-diffusion"), untrained="unet", pairs=150))
    networks = found["settings"][0]["networks"]
    trained, untrained = (
        networks[name]["parts"]["all"]["all"]["pck"]["0.1"]["per_point"] for name in ("trained", "untrained")
    )
    assert trained["low"] > untrained["high"]
