"""What TransReID and AdaFreq have in common: a plain vision transformer over overlapping patches, and its recipe."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from care_cli.jigsaw_vit import JIGSAW
from care_cli.overlapping_vit import OVERLAPPING
from care_cli.training.augment import PERSON_REID
from care_cli.training.config import TrainConfig

BACKBONE = "vit_base_patch16_224"  # timm's name: ViT-B/16 of ImageNet-21k, refined on ImageNet-1k
WEIGHTS = "vit-base"  # the registry's name of its weights

OURS = (OVERLAPPING, JIGSAW)  # architectures of our own, whose backbone and stride are among their options

FLANKS = replace(PERSON_REID, flip=0.0, cover=0.0)  # for animals whose flanks differ
RECIPE: dict[str, Any] = {  # TransReID's, which AdaFreq took over
    "input_size": 256,  # square, as TransReID has it for vehicles; photos of people are 256 x 128
    "augmentation": PERSON_REID,
    "stride": 12, "drop_path": 0.1,
    "individuals": 16, "photos": 4, "accumulate": 1,
    "optimizer": "sgd", "bias_rate": 2.0, "weight_decay": 1e-4, "decay_vectors": True,
    "warmup": 5.0, "warmup_from": 0.01,
    "arc_weight": 0.0, "class_weight": 1.0, "triplet_weight": 1.0, "triplet_margin": None,
}  # fmt: skip
PRESETS: dict[str, dict[str, Any]] = {
    "portrait": {"input_size": (256, 128)},  # for people
    "square-224": {"input_size": 224},  # as the backbone was trained
}


def schedule(learning_rate: float, epochs: float) -> dict[str, Any]:
    """A cosine from a rate down to 0.002 of it, as TransReID's release has it."""
    return {"learning_rate": learning_rate, "least_rate": 0.002 * learning_rate, "epochs": epochs}


def begun(options: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of a training that begins from a model of OURS with these options: its stride, and other options.

    How often blocks are passed by belongs to a training and not to what it begins from.
    """
    rest = {key: value for key, value in options.items() if key not in ("stride", "drop_path_rate")}
    return {"stride": options.get("stride", 0), "options": rest}


def architecture(cfg: TrainConfig, name: str = OVERLAPPING) -> tuple[str, dict[str, Any]]:
    """What the finished model is: `name`, of a backbone of timm's or of a model of ours that is begun from."""
    options = cfg.options if cfg.backbone in OURS else {"backbone": cfg.backbone} | cfg.options
    options = options | {"img_size": cfg.input_size}
    given = {"stride": cfg.stride, "drop_path_rate": cfg.drop_path}
    return name, options | {key: value for key, value in given.items() if value}


def halves(losses: Sequence[Any]) -> Any:
    """1/2 (L_g + mean of L_l): the global feature's loss counts as much as those of all local ones."""
    whole, *parts = losses
    return 0.5 * whole + 0.5 * sum(parts) / len(parts)
