"""A backbone of our own, beside those of timm: a small ViT that learns from few photos and from scratch."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from care_cli.errors import CareError
from care_cli.geometry import InputSize, sides

if TYPE_CHECKING:
    from torch import Tensor, nn

STEM_VIT = "care_stem_vit"
FLAT = 0.04  # added to the contrast of a photo, so that one without any is not blown up


def stem_vit(img_size: InputSize = 64, widths: tuple[int, ...] = (24, 48, 96, 160), depth: int = 2, num_heads: int = 5):
    """timm's VisionTransformer over the features of a convolutional stem, averaged: `(B, widths[-1])`.

    Early convolutions let a transformer learn from far fewer photos (Xiao et al. 2021, "Early convolutions
    help transformers see better"). The stem first makes the photo grey and gives it zero mean and unit
    contrast: a coat then looks alike by day and in infrared.

    img_size  px, sides that are multiples of 2 ** len(widths)
    widths    channels of the stem's stages; each halves the side
    """
    import torch
    from timm.models.vision_transformer import VisionTransformer
    from torch import nn

    class ConvStem(nn.Module):
        """`(B, 3, H, W)` normalised RGB to tokens `(B, H W / 4 ** stages, embed_dim)`."""

        def __init__(self, img_size: InputSize, patch_size: int, embed_dim: int, **_: object):
            super().__init__()
            self.img_size, self.patch_size = sides(img_size), (patch_size, patch_size)
            self.grid_size = tuple(side // patch_size for side in self.img_size)
            self.num_patches = math.prod(self.grid_size)
            stages = [_stage(before, after) for before, after in zip((1, *widths), widths, strict=False)]
            self.stages = nn.Sequential(*stages)
            self.proj = nn.Conv2d(widths[-1], embed_dim, 1)

        def forward(self, x: Tensor) -> Tensor:
            grey = x.float().mean(1, keepdim=True)
            spread, middle = torch.std_mean(grey, dim=(1, 2, 3), keepdim=True)
            grey = (grey - middle) / (spread + FLAT)
            return self.proj(self.stages(grey)).flatten(2).transpose(1, 2)

    def _stage(before: int, after: int) -> nn.Sequential:
        return nn.Sequential(
            nn.Conv2d(before, after, 3, stride=2, padding=1),
            nn.BatchNorm2d(after),
            nn.ReLU(),
            nn.Conv2d(after, after, 3, padding=1),
            nn.BatchNorm2d(after),
            nn.ReLU(),
        )

    return VisionTransformer(
        img_size=img_size,
        patch_size=2 ** len(widths),
        embed_dim=widths[-1],
        depth=depth,
        num_heads=num_heads,
        num_classes=0,
        global_pool="avg",
        embed_layer=ConvStem,
    )


def fold_neck(model: nn.Module, neck: nn.BatchNorm1d) -> None:
    """Let a transformer's last norm do what a BatchNorm1d did behind it in training.

    Both are linear by channel: s·(w·n + b - mean) + t = (s·w)·n + s·(b - mean) + t, with s the neck's weight by its
    deviation and t its bias, 1 by deviation and 0 where it has none. That norm stands behind pooling (`fc_norm`) or,
    when a token is taken or all are averaged, before it (`norm`). What wraps a transformer as its `vit` passes it on.
    Raises CareError for a network without such a norm.
    """
    import torch

    model = getattr(model, "vit", model)
    before_pooling = "norm" if getattr(model, "global_pool", None) in ("token", "avg") else ""
    norms = [getattr(model, name, None) for name in ("fc_norm", before_pooling) if name]
    norm = next((one for one in norms if getattr(one, "bias", None) is not None), None)
    if norm is None:
        raise CareError(
            f"{type(model).__name__} does not end in a norm with weight and bias, into which a neck could be folded: "
            "train it without one."
        )
    with torch.no_grad():
        scale = (neck.running_var + neck.eps).rsqrt() * (1 if neck.weight is None else neck.weight)
        norm.bias.copy_((norm.bias - neck.running_mean) * scale + (0 if neck.bias is None else neck.bias))
        norm.weight.mul_(scale)
