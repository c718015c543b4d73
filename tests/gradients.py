"""What a batch teaches, of a learner's parameters."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn


def moved(learner: nn.Module, *batch: object) -> set[str]:
    """Names of the parameters, the text tower's among them, that a batch gives a gradient, and one that is not 0."""
    sum(learner(*batch).values()).backward()
    text = getattr(learner, "_text", ())
    everything = [*learner.named_parameters(), *(pair for tower in text for pair in tower.named_parameters())]
    return {name for name, parameter in everything if parameter.grad is not None and parameter.grad.abs().sum() > 0}
