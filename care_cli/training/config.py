"""Everything that changes what a training gives, the data apart. Defaults are those of WildlifeDatasets' recipe."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from care_cli.errors import CareError
from care_cli.training.augment import WILDLIFE, Augmentation
from care_cli.training.precision import PRECISIONS

RANGES = {
    "individuals photos accumulate input_size": ("at least 1", lambda value: value >= 1),
    "epochs learning_rate validate_every clip arc_scale": ("above 0", lambda value: value > 0),
    "seed least_rate weight_decay arc_weight arc_margin triplet_weight triplet_margin class_weight": (
        "at least 0",
        lambda value: value >= 0,
    ),
    "warmup keypoint_dropout": ("from 0 to 1", lambda value: 0 <= value <= 1),
    "momentum": ("at least 0 and below 1", lambda value: 0 <= value < 1),
    "ema": ("between 0 and 1", lambda value: 0 < value < 1),
}  # of settings by name: in words, and as a test


def check_ranges(settings: Any, ranges: Mapping[str, tuple[str, Callable[[float], bool]]]) -> None:
    """CareError for a number out of its range; `ranges` are those of settings by name: in words, and as a test."""
    for names, (kind, fits) in ranges.items():
        for name in names.split():
            value = getattr(settings, name)
            if value is not None and not (math.isfinite(value) and fits(value)):
                raise CareError(f"{name} is {kind}, got {value:g}.")


@dataclass(frozen=True)
class TrainConfig:
    """One training of one method. Stored with the run and in the checkpoint's header.

    Raises CareError for a number out of its range, and for an unknown precision.
    """

    method: str = "vit"  # a name of methods.METHODS
    backbone: str = "vit_small_patch16_224"  # timm's name, or backbones.STEM_VIT
    options: dict = field(default_factory=dict)  # to the backbone: img_size, patch_size, drop_path_rate ...
    input_size: int = 224  # px, of the square that crops are squashed to
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    seed: int = 0

    # batches
    sampler: str = "pk"  # pk: P individuals with K photos each | shuffle: P*K photos, each once before any again
    epochs: float = 100.0  # passes over as many photos as there are
    individuals: int = 16  # P, in a forward pass
    photos: int = 4  # K, of each of them
    accumulate: int = 2  # forward passes a step

    # steps
    optimizer: str = "sgd"  # sgd | adamw
    learning_rate: float = 1e-3  # at its highest
    least_rate: float = 1e-6  # at the end of the cosine
    warmup: float = 0.0  # share of the steps
    momentum: float = 0.9  # of sgd
    weight_decay: float = 0.0  # of matrices; vectors, positions, tokens and keypoint embeddings have none
    clip: float | None = None  # longest gradient
    ema: float | None = None  # share of the averaged weights that a step keeps; those are then the result
    validate_every: float = 5.0  # epochs

    # loss
    arc_weight: float = 1.0
    arc_scale: float = 64.0
    arc_margin: float = 0.5  # radians
    triplet_weight: float = 1.0
    triplet_margin: float = 0.2  # of squared distance
    class_weight: float = 0.2  # lambda of the CKPE paper: cross-entropy of a linear head
    neck: bool = False  # a BatchNorm1d without weights between embedding and loss, folded away at the end

    # keypoints
    keypoint_mode: str = "tokens"  # kpe: tokens (reading B) | pooled (reading A)
    keypoint_scale: float = 1.0
    soft: bool = False  # masks hold confidences instead of ones
    keypoint_dropout: float = 0.0  # chance that a photo's points are hidden in training

    # how it is computed
    precision: str = "auto"  # auto: bfloat16 where the processor or card has it | bfloat16 | float16 | float32
    checkpointing: bool = False  # activations are computed twice instead of kept
    augmentation: Augmentation = WILDLIFE

    def __post_init__(self) -> None:
        check_ranges(self, RANGES)
        if self.precision not in PRECISIONS:
            raise CareError(f"The precision is {', '.join(PRECISIONS)}, got {self.precision!r}.")
