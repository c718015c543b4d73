"""A vision transformer that sees pixels alone: what the CKPE paper calls "none", to compare with."""

from __future__ import annotations

from care_cli.records import KeypointScheme
from care_cli.training import methods
from care_cli.training.config import TrainConfig


def learner(cfg: TrainConfig, classes: int, scheme: KeypointScheme | None) -> methods.Learner:
    """Any timm backbone under the whole loss."""
    return methods.Learner(cfg, classes, methods.plain(cfg))
