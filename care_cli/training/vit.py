"""A vision transformer that sees pixels alone: what the CKPE paper calls "none", to compare with."""

from __future__ import annotations

from care_cli.records import Scheme
from care_cli.training import methods
from care_cli.training.config import TrainConfig

VIEWPOINTS = True


def learner(cfg: TrainConfig, classes: int, scheme: Scheme | None) -> methods.Learner:
    """Any timm backbone under the whole loss."""
    return methods.Learner(cfg, classes, methods.plain(cfg, scheme))
