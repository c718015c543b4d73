"""What stands behind an embedding while it is learned, and is left behind."""

from __future__ import annotations

from torch import nn

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
