"""CKPE: tokens that hold a keypoint get the embedding of its category added, X' = X + M E_cat (CKPE paper)."""

from __future__ import annotations

from care_cli.keypoint_vit import KeypointViT
from care_cli.records import KeypointScheme
from care_cli.training import methods
from care_cli.training.config import TrainConfig

POINTS = True  # it sees them


def learner(cfg: TrainConfig, classes: int, scheme: KeypointScheme | None, mode: str = "ckpe") -> methods.Learner:
    """A vision transformer that is told where points of which category are.

    `mode` is what `KeypointViT` adds: `ckpe`, or as `kpe` has it.
    """
    embedder = KeypointViT(methods.plain(cfg), scheme, mode, soft=cfg.soft, scale=cfg.keypoint_scale)
    return methods.Learner(cfg, classes, embedder)
