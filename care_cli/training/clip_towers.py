"""What the methods that begin from CLIP have in common: which towers, which photos, and how weights are begun from."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from care_cli import clip, encoders
from care_cli.errors import CareError
from care_cli.training.augment import PERSON_REID
from care_cli.training.config import TrainConfig

BACKBONE = "ViT-B-16-quickgelu"  # open_clip's name of OpenAI's ViT-B/16
WEIGHTS = "clip-vit-b-16"  # the registry's name of its weights
CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
HALF = (0.5, 0.5, 0.5)

RECIPE: dict[str, Any] = {  # CLIP-ReID's, which CARE took over
    "input_size": (256, 128), "mean": HALF, "std": HALF,
    "augmentation": PERSON_REID,
    "individuals": 16, "photos": 4, "accumulate": 1,
    "epochs": 60.0, "optimizer": "adam", "learning_rate": 5e-6, "bias_rate": 2.0,
    "weight_decay": 1e-4, "decay_vectors": True,
    "warmup": 10.0, "warmup_from": 0.1, "milestones": (30.0, 50.0),
    "arc_weight": 0.0, "class_weight": 0.25, "smoothing": 0.1, "triplet_weight": 1.0, "triplet_margin": 0.3,
}  # fmt: skip
PORTRAIT = {"input_size": (256, 128), "mean": HALF, "std": HALF}
PRESETS: dict[str, dict[str, Any]] = {
    "portrait": PORTRAIT,  # as CLIP-ReID has it, for people
    "seed": PORTRAIT,  # and as the CARE paper's code took over
    "square-224": {"input_size": 224, "mean": CLIP_MEAN, "std": CLIP_STD},  # as CLIP was trained
    "square-256": {"input_size": 256, "mean": CLIP_MEAN, "std": CLIP_STD},
}


def options(cfg: TrainConfig) -> dict[str, Any]:
    """Of both towers, or of the image tower where there is no other, for photos of the training's size.

    CareError for a backbone that is no CLIP.
    """
    if cfg.backbone in clip.ARCHITECTURES:
        given = {key: value for key, value in cfg.options.items() if key != "embedding"}
        return clip.resized(given, cfg.input_size)
    if cfg.options or cfg.stride or cfg.drop_path:
        raise CareError("A CLIP tower is chosen by its name and has no options of its own, no stride and no drop path.")
    return clip.options_of(cfg.backbone, cfg.input_size)


def architecture(cfg: TrainConfig) -> tuple[str, dict[str, Any]]:
    """What the finished model is: CLIP's image tower, its positions resampled where the photos' size is another."""
    return clip.IMAGE_TOWER, clip.image_options(options(cfg)) | {"embedding": cfg.embedding}


def whole(cfg: TrainConfig, start: Mapping[str, Tensor] | None, path: Path | None) -> clip.Clip:
    """A CLIP with both towers, of the weights to begin from, else untrained and drawn from the seed.

    CareError when the weights hold no text tower, or do not fit.
    """
    known = options(cfg)
    if not any(key.startswith(clip.TEXT) for key in known) or (start is not None and not clip.has_text(start)):
        raise CareError(
            f"{path.name if path else cfg.backbone} has no text tower, and {cfg.method} learns from descriptions in "
            f"words: begin from a whole CLIP (--weights {WEIGHTS}), or train with --method clip-ft."
        )
    torch.manual_seed(cfg.seed)
    model = encoders.build_backbone(clip.CLIP, **known)
    if start is not None:
        encoders.load_weights(model, dict(start), path or Path("to begin from"))
    return model
