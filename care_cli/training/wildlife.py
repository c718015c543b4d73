"""The baseline "WildlifeDatasets": any timm backbone under ArcFace alone (Cermak et al. 2024, WACV).

s = 64, m = 0.5 rad, SGD with momentum 0.9, rate 1e-3 falling along a cosine, batches of 128: TrainConfig's defaults;
photos are shuffled, not drawn by individual.
"""

from __future__ import annotations

from care_cli.records import Scheme
from care_cli.training import methods
from care_cli.training.config import TrainConfig

RECIPE = {"triplet_weight": 0.0, "class_weight": 0.0, "sampler": "shuffle"}


def learner(cfg: TrainConfig, classes: int, scheme: Scheme | None) -> methods.Learner:
    """A convolutional network or transformer whose embeddings ArcFace spreads, alone unless other weights are set."""
    return methods.Learner(cfg, classes, methods.plain(cfg))
