"""`care train --method wildlife` beside wildlife-tools' own trainer: who is recognised better, at the same settings.

    python -m benchmarks.reidentify CATALOG ARCHITECTURE WEIGHTS --work FOLDER [--split NAME] [--seeds 5] [--epochs 6]

Both begin from the same weights and learn from the crops of the split's training part; both results, and the weights
as they were, answer `care evaluate` on its test part, prepared alike. Beside the catalog's own models nothing of it is
changed. What is done is kept in FOLDER and not done again.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from pathlib import Path

from benchmarks import peers
from benchmarks.processes import finish, python
from care_cli import checkpoints, encoders
from care_cli.catalog import Catalog
from care_cli.records import Selection

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
NO_CHANCE = ("flip", "rotation", "zoom", "shift", "grey", "light", "noise", "ops")  # augmentations that are left out
BATCH = 32
SETTINGS = [
    part
    for setting in (f"individuals={BATCH}", "photos=1", "accumulate=1", "augmentation.crop=0.8",
                    *(f"augmentation.{name}=0" for name in NO_CHANCE))
    for part in ("--set", setting)
]  # fmt: skip


def main() -> None:
    """Train both, and print what `care evaluate` says of them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("catalog", type=Path)
    parser.add_argument("architecture", help="timm's name")
    parser.add_argument("weights", type=Path, help="to begin from")
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--split", default="default")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--rate", type=float, default=1e-3)
    parser.add_argument("--exclude", help="event or day, as `care evaluate` takes it")
    given = parser.parse_args()
    given.work.mkdir(parents=True, exist_ok=True)
    with Catalog(given.catalog) as catalog:
        if "val" in catalog.split_parts(given.split).values():
            parser.error(
                "The split has a validation part, by which ours would choose its best checkpoint and the peer not."
            )
    models = [path for seed in range(given.seeds) for path in (ours(given, seed), theirs(given, seed))]
    models.append(checkpoint(given, "frozen", given.weights, {}))
    asked = [part for path in models for part in ("--model", path)]
    exclude = ["--exclude", given.exclude] if given.exclude else []
    care(given, "evaluate", *asked, "--split", given.split, "--baseline", "wildlife-tools", *exclude, shown=True)
    found = care(given, "--json", "evaluate", *asked, "--split", given.split, "--baseline", "wildlife-tools", *exclude)
    (given.work / "figures.json").write_text(found, encoding="utf-8")


def care(given: argparse.Namespace, *arguments: object, shown: bool = False) -> str:
    """What a command answers."""
    done = finish(python("-m", "care_cli", "--device", "cpu", "--catalog", given.catalog, *arguments), accept=(0, 1))
    if shown:
        print(done.out, done.err, sep="\n", flush=True)
    return done.out


def ours(given: argparse.Namespace, seed: int) -> Path:
    """Our training of a seed."""
    path = given.work / f"care-{seed}.safetensors"
    if not path.exists():
        care(given, "train", "--method", "wildlife", "--name", f"care-{seed}", "--seed", seed, "--backbone",
             given.architecture, "--weights", given.weights, "--size", given.size, "--learning-rate", given.rate,
             "--split", given.split, "--out", given.work, "--set", f"epochs={given.epochs}", *SETTINGS)  # fmt: skip
    return path


def theirs(given: argparse.Namespace, seed: int) -> Path:
    """The peer's training of a seed, as a checkpoint that `care` reads."""
    path = given.work / f"wildlife-tools-{seed}.safetensors"
    if not path.exists():
        photos, digests = exported(given.catalog, given.split, given.work)
        raw = given.work / "raw.safetensors"
        options = [
            "--size",
            given.size,
            "--epochs",
            given.epochs,
            "--rate",
            given.rate,
            "--seed",
            seed,
            "--batch",
            BATCH,
        ]
        finish(python("-m", "benchmarks.trainer", given.architecture, given.weights, photos, "--out", raw, *options),
               env=peers.on_the_path())  # fmt: skip
        settings = {"epochs": given.epochs, "rate": given.rate, "seed": seed}
        checkpoint(given, path.stem, raw, {"settings": settings, "crops": digests})
    return path


def exported(catalog: Path, split: str, work: Path) -> tuple[Path, list[str]]:
    """The stored crops of the training part as files, listed as `trainer` reads them, and their digests."""
    listing, folder = work / "photos.json", work / "photos"
    folder.mkdir(exist_ok=True)
    with Catalog(catalog) as opened:
        parts = opened.split_parts(split)
        names = {row["crop"]: row["individual"] for row in opened.crop_rows(Selection(category="animal"))}
        stored = opened.pixels(crop for crop, part in parts.items() if part == "train")
    files = {crop: folder / f"{crop}.jpg" for crop in stored}
    for crop, jpeg in stored.items():
        files[crop].write_bytes(jpeg)
    listed = {"files": [str(path.resolve()) for path in files.values()], "identities": [names[crop] for crop in files]}
    listing.write_text(json.dumps(listed), encoding="utf-8")
    return listing, [hashlib.sha256(jpeg).hexdigest() for jpeg in stored.values()]


def checkpoint(given: argparse.Namespace, name: str, weights: Path, training: dict) -> Path:
    """Weights of timm's form as a checkpoint, prepared for as in training."""
    path = given.work / f"{name}.safetensors"
    model = encoders.build_backbone(given.architecture)
    state = checkpoints.load_state(weights)
    encoders.load_weights(model, state, weights, head=encoders.classifier_layers(model))
    header = {"name": name, "method": "wildlife-tools" if training else "frozen", "architecture": given.architecture,
              "input_size": given.size, "mean": MEAN, "std": STD, "interpolation": "bilinear", "crop_pct": 1.0,
              "crop_mode": "squash", "training": training}  # fmt: skip
    encoders.save_embedder(model, path, header)
    return path


if __name__ == "__main__":
    main()
