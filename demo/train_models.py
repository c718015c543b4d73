"""`make demo-models`: the demo models from scratch, from seeds, on rendered animals only.

    python -m demo.train_models [--out models/weights] [--minutes 100] [--quick]

Writes demo-detector.safetensors, demo-embedder.safetensors and the folder demo-diffusion, and prints what they reach
(`python -m demo.examine_points` does for the last). The registry's digests and the cards are written by hand.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from tqdm import tqdm

from care_cli.backbones import STEM_VIT
from care_cli.checkpoints import read_header
from care_cli.detectors import load_detector
from care_cli.embedders import load_embedder
from care_cli.encoders import save_embedder
from care_cli.matching import Thresholds
from care_cli.records import ModelSpec
from care_cli.weights import file_sha256
from care_cli.yolo import load_model, save_detector
from demo import train_diffusion
from demo.carry import Carrier
from demo.chain import Chain
from demo.open_set import ask, figures, fix_thresholds, sightings
from demo.train_data import render_chips, render_survey
from demo.train_diffusion import Recipe, make_diffusion
from scenes import SPECIES
from scenes.seeds import TEST, TRAIN, TUNE

if TYPE_CHECKING:  # training loads torch, which the processes that render do without
    from care_cli.training.config import TrainConfig

WEIGHTS = Path(__file__).resolve().parent.parent / "models" / "weights"
DETECTOR_RECIPE = Path(__file__).resolve().parent / "detector.toml"
ARCHITECTURE = STEM_VIT
OPTIONS = {"img_size": 64, "widths": [24, 48, 96, 160], "depth": 2, "num_heads": 5}
SHOWN = 0.3  # confidence from which the demo detector's boxes are shown
LICENCE = "AGPL-3.0-or-later"
MINUTES = 100  # of which the detector's 24 epochs take about half
PURPOSE = "for CARE's demo and tests on rendered animals; not for the field"


@dataclass(frozen=True)
class Plan:
    """How much is rendered and learned; what takes about MINUTES on two cores."""

    places: int = 250  # locations of the detector's survey, 15 visits at each
    epochs: int = 24
    individuals: int = 640  # whose chips train the embedder
    chips: int = 12  # of each
    steps: int = 3000
    tuning: int = 180  # individuals on which the thresholds are fixed, and as many on which they are tested
    galleries: tuple[int, ...] = (24, 96)  # individuals in a gallery
    diffusion: Recipe = field(default_factory=Recipe)

    def scaled(self, share: float) -> Plan:
        """Less training on as many animals; rendering is left as it is."""
        less = {name: max(10, round(getattr(self.diffusion, name) * share)) for name in ("autoencoder_steps", "steps")}
        return replace(
            self,
            epochs=max(1, round(self.epochs * share)),
            steps=max(10, round(self.steps * share)),
            diffusion=replace(self.diffusion, **less),
        )


QUICK = Plan(
    places=4, epochs=1, individuals=24, chips=4, steps=10, tuning=12, galleries=(6,), diffusion=train_diffusion.QUICK
)


def main() -> None:
    """Train the models and print a summary."""
    arguments = _arguments()
    plan = QUICK if arguments.quick else Plan().scaled(min(1.0, arguments.minutes / MINUTES))
    started = time.monotonic()
    arguments.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as work:
        detector = make_detector(plan, Path(work), arguments.out / "demo-detector.safetensors")
    make_diffusion(plan.diffusion, arguments.out / "demo-diffusion")
    carrier = Carrier(arguments.out / "demo-diffusion")
    embedder = make_embedder(plan, detector, carrier, arguments.out / "demo-embedder.safetensors")
    for path in (detector, embedder):
        print(f"{path.name}  {path.stat().st_size / 1e6:.2f} MB  sha256 {file_sha256(path)}")
    print(f"Done in {(time.monotonic() - started) / 60:.1f} minutes.")


def make_detector(plan: Plan, work: Path, path: Path) -> Path:
    """Render a labelled survey, train YOLO11n on what the recipe takes of it, and write it to `path`: the commands that
    anyone trains a detector with."""
    survey = work / "survey"
    render_survey(survey, TRAIN[: plan.places], TRAIN[1000:2000])
    care = Chain(work / "survey.db", echo=True)
    care.care("import", "labels", survey / "labels.json", "--images", survey)
    settings = detector_settings(plan)
    asked = [part for name, value in settings.items() for part in ("--set", f"{name}={json.dumps(value)}")]
    care.care(
        "train",
        "--method",
        "detector",
        "--recipe",
        DETECTOR_RECIPE,
        "--name",
        "detector",
        "--out",
        work,
        "--weights",
        "none",
        *asked,
    )
    trained = work / "detector.safetensors"
    header = read_header(trained)
    seeds = {"locations": _span(TRAIN[: plan.places]), "individuals": _span(TRAIN[1000:2000])}
    training = header["training"] | {"on": "rendered scenes alone", "seeds": seeds}
    own = {"name": "demo-detector", "purpose": PURPOSE, "training": training}
    save_detector(load_model(trained, header), path, header | own)
    return path


def detector_settings(plan: Plan) -> dict[str, Any]:
    """What differs from the defaults of `care train --method detector`, which are for a training of days."""
    return {
        "input_size": 320,
        "epochs": plan.epochs,
        "patience": 0,
        "nominal_batch": None,
        "optimizer": "AdamW",
        "learning_rate": 2e-3,
        "cosine": True,
        "warmup_epochs": 0.5,
        "mosaic": 0.5,  # in so few epochs whole photos are needed too
        "close_mosaic": max(1, plan.epochs // 4),
        "shown": SHOWN,
    }


def make_embedder(plan: Plan, detector: Path, carrier: Carrier, path: Path) -> Path:
    """Render chips, carry points to them, train a CKPE model, fix its thresholds through the whole chain, and write it
    to `path`."""
    from care_cli.training.data import LabelledCrops
    from care_cli.training.loop import train

    seeds = TRAIN[: plan.individuals]
    chips, labels = render_chips(seeds, plan.chips, OPTIONS["img_size"])
    points = points_of(carrier, chips, np.asarray(seeds)[labels])
    cfg = embedder_recipe(plan)
    trained = train(LabelledCrops(chips, labels, points, carrier.scheme), cfg, report=_progress(plan.steps))
    header = embedder_header(plan, cfg) | {"keypoints": trained.model.describe()}
    save_embedder(trained.model, path, header)
    thresholds, metrics = examine(plan, detector, carrier, path)
    save_embedder(trained.model, path, header | {"thresholds": told(plan, thresholds), "metrics": metrics})
    return path


def points_of(carrier: Carrier, chips: np.ndarray, seeds: np.ndarray) -> np.ndarray:
    """Points `(N,K,3) float32` of chips, whose individuals' seeds tell their species."""
    points = np.zeros((len(chips), len(carrier.scheme.names), 3), np.float32)
    pages = [np.flatnonzero(seeds % len(SPECIES) == number) for number in range(len(SPECIES))]
    pages = [(species, rows[i : i + 32]) for species, rows in zip(SPECIES, pages, strict=True)
             for i in range(0, len(rows), 32)]  # fmt: skip
    for species, rows in tqdm(pages, "points", mininterval=5):
        points[rows] = carrier.of_chips(chips[rows], species)
    return points


def embedder_recipe(plan: Plan) -> TrainConfig:
    """ArcFace alone on one photo of each of many animals, `plan.steps` times."""
    from care_cli.training.augment import Augmentation
    from care_cli.training.config import TrainConfig

    individuals = min(96, plan.individuals)
    epochs = plan.steps * individuals / (plan.individuals * plan.chips)
    return TrainConfig(
        method="ckpe",
        keypoint_scale=10.0,
        keypoint_dropout=0.2,  # a gallery without points is served too
        backbone=ARCHITECTURE,
        options=OPTIONS,
        input_size=OPTIONS["img_size"],
        mean=(0.5, 0.5, 0.5),
        std=(0.5, 0.5, 0.5),
        epochs=epochs,
        individuals=individuals,
        photos=1,
        accumulate=1,
        optimizer="adamw",
        learning_rate=2e-3,
        least_rate=0.0,
        warmup=0.03 * epochs,
        weight_decay=0.02,
        clip=5.0,
        arc_scale=16.0,
        arc_margin=0.2,
        triplet_weight=0.0,
        class_weight=0.0,
        neck=True,
        augmentation=Augmentation(),
    )


def embedder_header(plan: Plan, cfg: TrainConfig) -> dict[str, Any]:
    """All that a user of the weights needs, thresholds apart, and how they came about."""
    seeds = TRAIN[: plan.individuals]
    return {
        "method": "ckpe",
        "architecture": ARCHITECTURE,
        "options": OPTIONS,
        "input_size": OPTIONS["img_size"],
        "mean": cfg.mean,
        "std": cfg.std,
        "interpolation": "bicubic",
        "crop_pct": 1.0,
        "crop_mode": "squash",
        "licence": LICENCE,
        "purpose": PURPOSE,
        "training": asdict(cfg) | {"individuals": _span(seeds), "chips": len(seeds) * plan.chips},
    }


def told(plan: Plan, thresholds: Thresholds) -> dict[str, Any]:
    """The thresholds, with how they were fixed."""
    how = (
        f"best match of each individual in galleries of {' and '.join(map(str, plan.galleries))}, on {plan.tuning} "
        f"rendered individuals ({_span(TUNE[: plan.tuning])}) seen through the demo detector"
    )
    return {"known": thresholds.known, "new": thresholds.new, "how": how}


def examine(
    plan: Plan, detector_file: Path, carrier: Carrier, embedder_file: Path
) -> tuple[Thresholds, dict[str, Any]]:
    """Thresholds fixed on the tuning individuals, and what they give there and on the test individuals.

    The shares are of the photos in which the detector found the animal; `found` says how many those are.
    """
    detector = None  # one of a few steps finds nothing
    if plan != QUICK:
        detector = load_detector(ModelSpec("demo-detector", "detector", "ultralytics"), detector_file)
    embedder = load_embedder(ModelSpec("demo-embedder", "embedder", "care"), embedder_file)
    metrics, thresholds = {}, None
    for name, seeds in (("tuning", TUNE), ("test", TEST)):
        seen = sightings(seeds[: plan.tuning], seeds, detector, embedder, carrier)
        answers = {size: ask(seen, size, rounds=6, seed=0) for size in plan.galleries}
        thresholds = thresholds or fix_thresholds(list(answers.values()))
        metrics[name] = {f"gallery_{size}": figures(found, thresholds) for size, found in answers.items()}
        metrics[name]["found"] = round(seen.found, 4)
        print(f"embedder, {name} individuals:", metrics[name], thresholds, flush=True)
    return thresholds, metrics


def _span(seeds: range) -> str:
    return f"seeds {seeds[0]} to {seeds[-1]}"


def _progress(steps: int):
    """A report that says the mean loss now and then."""
    losses: list[float] = []

    def report(row: dict[str, Any]) -> None:
        losses.append(row["loss"])
        if row["step"] % max(1, steps // 25) == 0:
            print(f"embedder, step {row['step']} of {steps}: loss {np.mean(losses[-50:]):.3f}", flush=True)

    return report


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=WEIGHTS, help="folder for the models")
    parser.add_argument("--minutes", type=float, default=MINUTES, help="on two cores; training is shortened to fit")
    parser.add_argument("--quick", action="store_true", help="a few steps each, to see that all works")
    return parser.parse_args()


if __name__ == "__main__":
    main()
