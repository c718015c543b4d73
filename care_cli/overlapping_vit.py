"""A plain vision transformer of timm's over patches that overlap, as TransReID and AdaFreq have it (He et al. 2021)."""

from __future__ import annotations

import functools
from typing import Any

import timm
import torch
from timm.layers import PatchEmbed
from timm.layers.attention import Attention
from timm.models import checkpoint_seq
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from care_cli.errors import CareError
from care_cli.geometry import InputSize, sides

OVERLAPPING = "care_overlapping_vit"


class OverlappingPatches(PatchEmbed):
    """timm's patches of P px, one every `stride` px: (floor((H - P) / stride) + 1) rows, and columns likewise."""

    def __init__(self, img_size: InputSize, patch_size: int, *, stride: int, **how: Any):
        self.stride = (stride, stride)  # known before patches are counted
        super().__init__(img_size, patch_size, **how)
        self.proj.stride = self.stride

    def _init_img_size(self, img_size: InputSize) -> tuple[tuple[int, int], tuple[int, int], int]:
        size = sides(img_size)
        rows, columns = (
            (side - patch) // step + 1 for side, patch, step in zip(size, self.patch_size, self.stride, strict=True)
        )
        if min(rows, columns) < 1:
            raise CareError(
                f"A photo of {size[0]} x {size[1]} px holds no patch of {self.patch_size[0]} px: take a larger input."
            )
        return size, (rows, columns), rows * columns


def overlapping_vit(backbone: str, img_size: InputSize, stride: int = 0, **options: Any) -> VisionTransformer:
    """An untrained vision transformer that ends in its class token, behind the last norm: `(B,3,H,W)` to `(B,D)`.

    backbone  timm's name of a plain one
    stride    px from patch to patch; 0: they lie side by side
    options   to timm: drop_path_rate, embed_dim, depth ...

    timm's own `checkpoint_filter_fn` resamples positions that were learned on another grid. Raises CareError for
    anything but a plain transformer with a class token that the embedding is taken from.
    """
    if not timm.is_model(backbone.partition(".")[0]):  # other names could lead timm to a file or over the network
        raise CareError(f"timm has no model {backbone!r}; {_WANTED}")
    how = functools.partial(_patches, stride=stride)
    fixed = {"num_classes": 0, "img_size": sides(img_size), "dynamic_img_size": False, "embed_layer": how}
    try:
        model = timm.create_model(backbone, pretrained=False, **options | fixed)
    except CareError:
        raise
    except (RuntimeError, TypeError, ValueError) as error:
        raise CareError(f"{backbone} cannot be built over overlapping patches ({error}); {_WANTED}") from error
    plain = type(model) is VisionTransformer and model.has_class_token and model.global_pool == "token"
    if not (plain and isinstance(model.patch_drop, nn.Identity) and isinstance(model.blocks[-1].attn, Attention)):
        raise CareError(f"{backbone} is no plain transformer that ends in its class token; {_WANTED}")
    return model


_WANTED = "overlapping patches want one of timm's plain vision transformers, such as vit_base_patch16_224."


def entering(vit: VisionTransformer, images: Tensor) -> Tensor:
    """Tokens `(B, prefix + N, D)` of photos `(B,3,H,W)` as the first block takes them."""
    return vit.norm_pre(vit.patch_drop(vit._pos_embed(vit.patch_embed(images))))


def through(vit: VisionTransformer, blocks: nn.Sequential, tokens: Tensor) -> Tensor:
    """Tokens behind some blocks, whose activations are computed twice where that was asked of `vit`."""
    if vit.grad_checkpointing and len(blocks) and torch.is_grad_enabled():
        return checkpoint_seq(blocks, tokens)
    return blocks(tokens)


def _patches(*, patch_size: int, stride: int, **how: Any) -> OverlappingPatches:
    return OverlappingPatches(patch_size=patch_size, stride=stride or patch_size, **how)
