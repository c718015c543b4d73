"""A small plain vision transformer that has learned to tell rendered animals apart, to begin others from.

    python -m demo.train_vit --out FILE.safetensors [--epochs 12] [--individuals 1600]

What ImageNet's weights are to a transformer on photos, this file is to one on rendered chips: the study `plain` of
`python -m demo.examine_methods` begins each of its rows from it. It is of no use in the field.
"""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path

from care_cli.encoders import save_embedder
from demo.train_clip import HALF, KNOWN, SIZE
from demo.train_data import render_chips

BACKBONE = "vit_tiny_patch16_224"
OPTIONS = {"img_size": SIZE, "patch_size": 8, "embed_dim": 128, "depth": 4, "num_heads": 4}  # as the small CLIP sees
CHIPS = 8  # of each individual


def main() -> None:
    """Render, learn, and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--epochs", type=float, default=12.0)
    parser.add_argument("--individuals", type=int, default=1600)
    given = parser.parse_args()
    make_vit(given.out, given.individuals, given.epochs)


def make_vit(path: Path, individuals: int, epochs: float) -> None:
    """Train method `vit` on chips of known animals, in the order of their seeds, and write it to `path`."""
    from care_cli.training.config import TrainConfig
    from care_cli.training.data import LabelledCrops
    from care_cli.training.loop import train

    seeds = KNOWN[:individuals]
    chips, labels = render_chips(seeds, CHIPS, SIZE)
    cfg = TrainConfig(
        method="vit", backbone=BACKBONE, options=OPTIONS, input_size=SIZE, mean=HALF, std=HALF, epochs=epochs,
        individuals=min(96, individuals), photos=1, accumulate=1, optimizer="adamw", learning_rate=1e-3, least_rate=0.0,
        warmup=0.05 * epochs, weight_decay=0.05, clip=5.0, arc_scale=16.0, arc_margin=0.2, triplet_weight=0.0,
        class_weight=0.0, neck=True,
    )  # fmt: skip
    trained = train(LabelledCrops(chips, labels), cfg, report=_say)
    about = {"on": "rendered scenes alone", "individuals": f"seeds {seeds[0]} to {seeds[-1]}"}
    header = {
        "method": "vit", "architecture": BACKBONE, "options": OPTIONS, "input_size": SIZE, "mean": HALF, "std": HALF,
        "interpolation": "bicubic", "crop_pct": 1.0, "crop_mode": "squash", "licence": "AGPL-3.0-or-later",
        "purpose": "a ViT trained on rendered scenes, to compare methods with; not for the field",
        "training": asdict(cfg) | about,
    }  # fmt: skip
    save_embedder(trained.model, path, header)


def _say(row: dict) -> None:
    if row["step"] % 100 == 0:
        print(f"step {row['step']}: loss {row['loss']:.3f}", flush=True)


if __name__ == "__main__":
    main()
