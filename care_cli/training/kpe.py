"""KPE: tokens that hold a keypoint get an embedding added, whatever the point's category (CKPE paper, section 3).

Two readings: E = diag(m) W, a keypoint's token gets its own row of W ("tokens"); or e = m' W, the rows' sum goes to
all tokens ("pooled").
"""

from __future__ import annotations

from care_cli.records import KeypointScheme
from care_cli.training import ckpe, methods
from care_cli.training.config import TrainConfig

POINTS = True  # it sees them
READINGS = {"tokens": "kpe", "pooled": "kpe-pooled"}


def learner(cfg: TrainConfig, classes: int, scheme: KeypointScheme | None) -> methods.Learner:
    """A vision transformer that is told where points are, in one of the two readings."""
    return ckpe.learner(cfg, classes, scheme, READINGS[cfg.keypoint_mode])
