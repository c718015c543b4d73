"""TransReID (He et al. 2021, ICCV): a vision transformer over overlapping patches with a jigsaw patch module beside it,
told by which camera a photo was taken where that is known.

Equations 1 to 4 of the paper; what these leave open (shift, order of the jigsaw, rates) is as in its release.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from care_cli.jigsaw_vit import JIGSAW, RUNS, JigsawViT
from care_cli.records import Scheme
from care_cli.side_information import SideInformation
from care_cli.training import methods, plain_vits
from care_cli.training.config import TrainConfig
from care_cli.training.heads import Heads, check_weights
from care_cli.training.losses import batch_hard
from care_cli.training.plain_vits import BACKBONE, PRESETS, WEIGHTS

__all__ = ["BACKBONE", "PRESETS", "RECIPE", "VIEWPOINTS", "WEIGHTS", "architecture", "learner"]

VIEWPOINTS = True
RECIPE = plain_vits.RECIPE | plain_vits.schedule(learning_rate=0.008, epochs=120.0) | {"side_weight": 3.0}


class TransReID(nn.Module):
    """A jigsaw transformer under L = w1 L_id + w2 L_tri, each 1/2 (of the global feature + mean of the runs').

    L_id   cross-entropy of a linear classifier behind a batch norm, of each feature its own
    L_tri  batch-hard triplets with a soft margin, before the batch norm, not normalised

    classes   C, individuals that are learned from
    embedder  may be told by which camera a photo was taken: the paper's side information embeddings
    """

    def __init__(self, cfg: TrainConfig, classes: int, embedder: JigsawViT | SideInformation):
        super().__init__()
        check_weights(cfg.class_weight, cfg.triplet_weight)
        self.cfg, self.embedder = cfg, embedder
        dim = embedder.num_features // (1 + RUNS)
        self.heads = Heads([dim] * (1 + RUNS), classes)

    def forward(self, images: Tensor, beside: Tensor | None, labels: Tensor) -> dict[str, Tensor]:
        """Weighted terms of the loss by name, as `methods.Learner.forward`."""
        features = self.embedder.features(images) if beside is None else self.embedder.features(images, beside)
        with torch.autocast(images.device.type, enabled=False):  # a batch's statistics and distances are delicate
            return self.terms(features.float().unbind(1), labels)

    def terms(self, features: Sequence[Tensor], labels: Tensor) -> dict[str, Tensor]:
        """The loss of the global feature and those of the runs, each `(B, D)`, term by term."""
        cfg, terms = self.cfg, {}
        if cfg.class_weight:
            terms["class"] = cfg.class_weight * plain_vits.halves(self.heads(features, labels, cfg.smoothing))
        if cfg.triplet_weight:
            losses = [batch_hard(x, labels, margin=cfg.triplet_margin) for x in features]
            terms["triplet"] = cfg.triplet_weight * plain_vits.halves(losses)
        return terms

    def finished(self) -> nn.Module:
        """A copy of the transformer for use; necks and classifiers stay behind."""
        return copy.deepcopy(self.embedder).eval()


def architecture(cfg: TrainConfig) -> tuple[str, dict[str, Any]]:
    """What the finished model is."""
    return plain_vits.architecture(cfg, JIGSAW)


def learner(cfg: TrainConfig, classes: int, scheme: Scheme | None) -> TransReID:
    """The jigsaw transformer under its two losses."""
    return TransReID(cfg, classes, methods.plain(cfg, scheme))
