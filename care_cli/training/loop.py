"""Training of a re-identification model: one loop, top to bottom.

A batch of P individuals with K photos each, one forward pass, ArcFace plus triplet, one step of AdamW,
the rate warmed up and then lowered along a cosine.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from care_cli.errors import CareError
from care_cli.training.augment import Augmentation, augment
from care_cli.training.losses import arcface, triplet
from care_cli.training.sampling import pk_batches

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class TrainConfig:
    """Everything that changes the result, the data apart."""

    seed: int = 0
    steps: int = 1000
    individuals: int = 24  # P, in a batch
    photos: int = 4  # K, of each of them
    learning_rate: float = 2e-3  # at its highest
    warmup: float = 0.03  # share of the steps
    weight_decay: float = 0.02
    arc_weight: float = 1.0
    arc_scale: float = 16.0
    arc_margin: float = 0.2  # radians
    triplet_weight: float = 0.0
    triplet_margin: float = 0.2  # of squared distance
    precision: str = "auto"  # auto: bf16 where the processor has it | bf16 | f32
    mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    std: tuple[float, float, float] = (0.5, 0.5, 0.5)
    augmentation: Augmentation = field(default_factory=Augmentation)


@dataclass(frozen=True)
class Trained:
    """`losses`: one a step; `neck`: the BatchNorm1d without weights that stood behind the model in training
    and belongs behind it in use (`backbones.fold_neck`)."""

    losses: list[float]
    neck: nn.Module


def train(
    model: nn.Module,
    chips: np.ndarray,
    labels: np.ndarray,
    cfg: TrainConfig,
    report: Callable[[int, float], None] | None = None,
) -> Trained:
    """Train `model` in place to tell individuals apart.

    model   maps (B, 3, S, S) float32, normalised by `cfg.mean` and `cfg.std`, to (B, D)
    chips   (N, S, S, 3) uint8 RGB, in memory or mapped from a file
    labels  (N,) int, individuals 0..C-1
    report  called with the number of finished steps and the last loss

    Raises CareError for too few individuals and when the loss stops being a number.
    """
    import torch

    torch.manual_seed(cfg.seed)
    generator = torch.Generator().manual_seed(cfg.seed)
    batches = pk_batches(labels, cfg.individuals, cfg.photos, cfg.seed)
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (cfg.mean, cfg.std))

    with torch.no_grad():
        dim = model.eval()(torch.zeros(1, 3, *chips.shape[1:3])).shape[1]
    neck = torch.nn.BatchNorm1d(dim, affine=False)  # what all photos share would hide the angles between them
    centres = torch.nn.Parameter(torch.randn(int(labels.max()) + 1, dim, generator=generator) * 0.1)
    matrices = [p for p in model.parameters() if p.ndim > 1]
    vectors = [p for p in model.parameters() if p.ndim <= 1]
    optimizer = torch.optim.AdamW(
        [
            {"params": [*matrices, centres], "weight_decay": cfg.weight_decay},
            {"params": vectors, "weight_decay": 0.0},
        ],
        lr=cfg.learning_rate,
    )
    bf16 = cfg.precision == "bf16" or (cfg.precision == "auto" and has_bf16())

    model.train()
    losses: list[float] = []
    for step, rows in zip(range(cfg.steps), batches, strict=False):
        for group in optimizer.param_groups:
            group["lr"] = cfg.learning_rate * rate(step, cfg.steps, cfg.warmup)
        images = torch.from_numpy(chips[rows]).permute(0, 3, 1, 2).float() / 255  # (P*K, 3, S, S)
        images = (augment(images, cfg.augmentation, generator) - mean) / std
        own = torch.from_numpy(np.asarray(labels)[rows]).long()  # (P*K,)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16):
            embeddings = model(images).float()  # (P*K, D)
        embeddings = neck(embeddings)
        loss = cfg.arc_weight * arcface(embeddings, own, centres, scale=cfg.arc_scale, margin=cfg.arc_margin)
        if cfg.triplet_weight:
            loss = loss + cfg.triplet_weight * triplet(embeddings, own, margin=cfg.triplet_margin)
        if not torch.isfinite(loss):
            raise CareError(
                f"The loss is no longer a number at step {step}: lower the learning rate "
                f"(now {cfg.learning_rate:g}) or train in f32."
            )
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 5.0)
        optimizer.step()
        losses.append(loss.item())
        if report:
            report(step + 1, losses[-1])
    model.eval()
    return Trained(losses, neck.eval())


def rate(step: int, steps: int, warmup: float) -> float:
    """Share of the highest learning rate at a step: a linear rise, then half a cosine down to zero."""
    rise = max(1, round(warmup * steps))
    if step < rise:
        return (step + 1) / rise
    return 0.5 * (1 + math.cos(math.pi * (step - rise) / max(1, steps - rise)))


def has_bf16() -> bool:
    """Whether this processor multiplies bfloat16 natively, so that it pays."""
    import torch

    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())
