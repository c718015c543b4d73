"""Everything that changes what a training gives, the data apart. Defaults are those of WildlifeDatasets' recipe."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from care_cli.errors import CareError
from care_cli.geometry import InputSize, sides
from care_cli.training.augment import WILDLIFE, Augmentation
from care_cli.training.precision import PRECISIONS

RANGES = {
    "individuals photos accumulate": ("at least 1", lambda value: value >= 1),
    "epochs learning_rate validate_every clip arc_scale bias_rate": ("above 0", lambda value: value > 0),
    "seed least_rate warmup weight_decay arc_weight arc_margin triplet_weight triplet_margin class_weight "
    "prototype_weight stride side_weight": ("at least 0", lambda value: value >= 0),
    "warmup_from decay keypoint_dropout side_dropout": ("from 0 to 1", lambda value: 0 <= value <= 1),
    "smoothing prototype_smoothing momentum drop_path": ("at least 0 and below 1", lambda value: 0 <= value < 1),
    "ema": ("between 0 and 1", lambda value: 0 < value < 1),
}  # of settings by name: in words, and as a test

MOST_TOKENS = 64
TEXT_RANGES = {
    "tokens": (f"from 1 to {MOST_TOKENS} (CLIP reads 77)", lambda value: 1 <= value <= MOST_TOKENS),
    "reduction": ("at least 1", lambda value: value >= 1),
    "batch": ("at least 2 (a photo alone has nothing to be told from)", lambda value: value >= 2),
    "epochs learning_rate": ("above 0", lambda value: value > 0),
    "least_rate warmup weight_decay": ("at least 0", lambda value: value >= 0),
}
FREQUENCY_RANGES = {
    "tokens": ("at least 1", lambda value: value >= 1),
    "cutoff": ("above 0", lambda value: value > 0),
    "class_weight triplet_weight alike_weight": ("at least 0", lambda value: value >= 0),
}
WORDS = {  # settings that are one of a few
    "sampler": ("pk", "shuffle"),
    "optimizer": ("sgd", "adam", "adamw"),
    "embedding": ("both", "proj"),
    "side": ("camera", "view", "both"),
    "keypoint_mode": ("tokens", "pooled"),
    "precision": PRECISIONS,
}
IDENTITIES = ("context", "text", "both")
SIMILARITIES = ("clip", "dot", "cosine")


@dataclass(frozen=True)
class TextConfig:
    """The text side of the methods that describe animals in words for CLIP; see `training.prompts`.

    Raises CareError for a reading that is none, and for a number out of its range.
    """

    tokens: int = 4  # w, learnable ones in a prompt
    identity: str = "context"  # where it enters: tokens of its own | its name in the text | both
    meta_net: bool = True  # tokens are shifted by what the photo shows: F of the CARE paper; without it CLIP-ReID's
    reduction: int = 16  # of the meta-net's hidden layer against its input
    similarity: str = "clip"  # exp(ls) cos, CLIP's own | dot: as CLIP-ReID has it | cosine: at temperature 1
    normalize_first: bool = False  # features of prompts are of length 1 before their mean is a prototype
    epochs: float = 120.0
    batch: int = 64  # photos
    learning_rate: float = 3.5e-4
    least_rate: float = 1e-6
    warmup: float = 5.0  # epochs
    weight_decay: float = 1e-4

    def __post_init__(self) -> None:
        for name, words in (("identity", IDENTITIES), ("similarity", SIMILARITIES)):
            if getattr(self, name) not in words:
                raise CareError(f"text.{name} is {', '.join(words)}, got {getattr(self, name)!r}.")
        check_ranges(self, TEXT_RANGES, "text.")


def check_ranges(settings: Any, ranges: Mapping[str, tuple[str, Callable[[float], bool]]], table: str = "") -> None:
    """CareError for a number out of its range; `ranges` are those of settings by name: in words, and as a test.

    `table` stands before their names in what is said: "text.".
    """
    for names, (kind, fits) in ranges.items():
        for name in names.split():
            value = getattr(settings, name)
            if value is not None and not (math.isfinite(value) and fits(value)):
                raise CareError(f"{table}{name} is {kind}, got {value:g}.")


@dataclass(frozen=True)
class FrequencyConfig:
    """AdaFreq's second look, at a photo's fine detail; see `training.adafreq`.

    Raises CareError for a number out of its range.
    """

    tokens: int = 220  # patches that are looked at again, all of them where the photo has fewer
    cutoff: float = 70.0  # D of the high-pass filter, in periods a photo
    class_weight: float = 0.1  # cross-entropy of the second look
    triplet_weight: float = 0.2
    alike_weight: float = 0.1  # of both looks' patch tokens: smooth L1

    def __post_init__(self) -> None:
        check_ranges(self, FREQUENCY_RANGES, "frequency.")


@dataclass(frozen=True)
class TrainConfig:
    """One training of one method. Stored with the run and in the checkpoint's header.

    Raises CareError for a number out of its range, and for a word that none of the readings has.
    """

    method: str = "vit"  # a name of methods.METHODS
    backbone: str = "vit_small_patch16_224"  # timm's name, open_clip's, or one of encoders.OWN
    options: dict = field(default_factory=dict)  # to the backbone: img_size, patch_size, drop_path_rate ...
    input_size: InputSize = 224  # px, to which crops are squashed
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
    optimizer: str = "sgd"  # sgd | adam | adamw
    learning_rate: float = 1e-3  # at its highest
    bias_rate: float = 1.0  # of biases, against that of all others
    warmup: float = 0.0  # epochs
    warmup_from: float = 0.0  # share of the rate at which the warm-up begins
    least_rate: float = 1e-6  # at the end of the cosine
    milestones: tuple[float, ...] = ()  # epochs after which the rate falls by `decay`, instead of along a cosine
    decay: float = 0.1
    momentum: float = 0.9  # of sgd
    weight_decay: float = 0.0
    decay_vectors: bool = False  # vectors, positions, tokens and keypoint embeddings, too; else matrices alone
    clip: float | None = None  # longest gradient
    ema: float | None = None  # share of the averaged weights that a step keeps; those are then the result
    validate_every: float = 5.0  # epochs

    # loss
    arc_weight: float = 1.0
    arc_scale: float = 64.0
    arc_margin: float = 0.5  # radians
    triplet_weight: float = 1.0
    triplet_margin: float | None = 0.2  # of squared distance, or distance where the method has it; None: a soft one
    class_weight: float = 0.2  # lambda of the CKPE paper: cross-entropy of a linear head
    smoothing: float = 0.0  # of the labels of cross-entropies
    prototype_weight: float = 0.0  # contrast of photos with the prototypes that the text side made
    prototype_smoothing: float | None = None  # of the labels of that contrast; None: as those of cross-entropies
    neck: bool = False  # a BatchNorm1d without weights between embedding and loss, folded away at the end

    # CLIP
    embedding: str = "both"  # both: features before and behind the projection | proj: the latter
    text: TextConfig = TextConfig()

    # plain vision transformers
    stride: int = 0  # px from patch to patch, less than a patch where they overlap; 0: they lie side by side
    drop_path: float = 0.0  # chance that the last block is passed by; it grows from 0 at the first

    # side information
    side: str = "both"  # what is told: camera | view | both
    side_weight: float = 0.0  # lambda of TransReID's, of embeddings of camera and view; 0: these are not told
    side_dropout: float = 0.0  # chance that a photo's camera and view are hidden in training

    # AdaFreq
    frequency: FrequencyConfig = FrequencyConfig()

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
        if min(sides(self.input_size)) < 1:
            raise CareError(f"input_size is at least 1 px, got {self.input_size}.")
        for name, words in WORDS.items():
            if getattr(self, name) not in words:
                raise CareError(f"{name} is {', '.join(words)}, got {getattr(self, name)!r}.")
