"""What stands behind an embedding while it is learned, and is left behind."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from care_cli.errors import CareError

CLASSIFIER_SPREAD = 0.001  # of untrained classifiers, as in TransReID and CLIP-ReID


def neck(dim: int) -> nn.BatchNorm1d:
    """BNNeck (Luo et al. 2019): a batch norm that scales and does not shift."""
    norm = nn.BatchNorm1d(dim)
    norm.bias.requires_grad_(False)
    return norm


def classifier(dim: int, classes: int) -> nn.Linear:
    """A linear one without bias, near zero."""
    layer = nn.Linear(dim, classes, bias=False)
    nn.init.normal_(layer.weight, std=CLASSIFIER_SPREAD)
    return layer


class Heads(nn.Module):
    """A neck and a classifier behind each of several features, whose widths are `dims`, of the same C `classes`."""

    def __init__(self, dims: Sequence[int], classes: int):
        super().__init__()
        self.necks = nn.ModuleList(map(neck, dims))
        self.classifiers = nn.ModuleList(classifier(dim, classes) for dim in dims)

    def forward(self, features: Sequence[Tensor], labels: Tensor, smoothing: float) -> list[Tensor]:
        """Cross-entropies, each () float32, of features `(B, D) float32`, labels `(B,) int64` smoothed."""
        logits = [layer(norm(x)) for layer, norm, x in zip(self.classifiers, self.necks, features, strict=True)]
        return [F.cross_entropy(one, labels, label_smoothing=smoothing) for one in logits]


def check_weights(*weights: float) -> None:
    """CareError where every part of a loss has weight 0."""
    if not any(weights):
        raise CareError("Every part of the loss has weight 0, so there is nothing to learn: set one above 0.")
