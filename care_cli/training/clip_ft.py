"""CLIP-FT: CLIP's image tower fine-tuned under cross-entropy and triplets, without any text (CLIP-ReID's baseline)."""

from __future__ import annotations

from care_cli.records import Scheme
from care_cli.training import clip_towers, methods
from care_cli.training.alignment import Aligned
from care_cli.training.clip_towers import BACKBONE, PRESETS, WEIGHTS, architecture
from care_cli.training.config import TrainConfig

__all__ = ["BACKBONE", "PRESETS", "RECIPE", "VIEWPOINTS", "WEIGHTS", "architecture", "learner"]

VIEWPOINTS = True
RECIPE = clip_towers.RECIPE | {"class_weight": 1.0}


def learner(cfg: TrainConfig, classes: int, scheme: Scheme | None) -> Aligned:
    """The image tower under its two losses."""
    return Aligned(cfg, classes, methods.plain(cfg, scheme))
