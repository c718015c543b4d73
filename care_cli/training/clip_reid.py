"""CLIP-ReID (Li et al. 2023, AAAI): words for each individual, without a look at the photo, then alignment to them.

It is CARE with F = 0: an individual's prompts are all the same, so its prototype is that prompt's feature.
"""

from __future__ import annotations

from care_cli.training import care, clip_towers
from care_cli.training.care import BACKBONE, DESCRIBES, VIEWPOINTS, WEIGHTS, architecture, train
from care_cli.training.clip_towers import PRESETS
from care_cli.training.config import TextConfig

__all__ = ["BACKBONE", "DESCRIBES", "PRESETS", "RECIPE", "VIEWPOINTS", "WEIGHTS", "architecture", "train"]

TEXT = TextConfig(meta_net=False, similarity="dot")
RECIPE = care.RECIPE | {name: clip_towers.RECIPE[name] for name in ("learning_rate", "triplet_margin")} | {"text": TEXT}
