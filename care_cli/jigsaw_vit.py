"""TransReID's network (He et al. 2021, ICCV): overlapping patches, and a jigsaw of them beside the class token.

The jigsaw patch module deals the tokens before the last block out to four runs, each of which has patches from all
over the photo. A run goes with the class token through a copy of the last block and norm that all four share, and
learns to tell animals apart by itself: what a run sees of an animal is covered elsewhere, or out of the frame.
"""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import torch
from timm.models import vision_transformer
from torch import Tensor, nn

from care_cli.errors import CareError
from care_cli.overlapping_vit import entering, overlapping_vit, through

JIGSAW = "care_jigsaw_vit"
SHIFT = 4  # patches; TransReID's shift of 5 counts the class token
GROUPS = 2
RUNS = 4


def runs(patches: int) -> np.ndarray:
    """Which patches each run has, `(RUNS, patches // RUNS) int64`, rows of the grid in turn.

    They are rotated by SHIFT, split into GROUPS halves, and these interleaved; what is then left over behind RUNS runs
    of one length is in none. Of an odd number the last but one is there twice, as in TransReID's release.

    Raises CareError for fewer patches than runs.
    """
    if patches < RUNS:
        raise CareError(f"The jigsaw has {RUNS} runs, but the photo {patches} patches: take a larger input.")
    order = np.roll(np.arange(patches), -SHIFT)
    if patches % GROUPS:
        order = np.append(order, order[-2])
    return order.reshape(GROUPS, -1).T.ravel()[: patches // RUNS * RUNS].reshape(RUNS, -1)


class JigsawViT(nn.Module):
    """`(B,3,H,W)` photos to `(B, 5 D)`: the global feature, and a quarter of each run's, none normalised.

    `options` are those of `overlapping_vit`; raises CareError as it does.
    """

    entrance = "trunk.patch_drop"  # the module whose input are the tokens with their positions

    def __init__(self, **options: Any):
        super().__init__()
        self.trunk = overlapping_vit(**options)
        self.local = nn.Sequential(copy.deepcopy(self.trunk.blocks[-1]), copy.deepcopy(self.trunk.norm))
        self.register_buffer("runs", torch.from_numpy(runs(self.trunk.patch_embed.num_patches)), persistent=False)
        self.dim: int = self.trunk.embed_dim
        self.num_features = (1 + RUNS) * self.dim

    def forward(self, images: Tensor) -> Tensor:
        """The embedding."""
        parts = self.features(images)
        return torch.cat([parts[:, :1], parts[:, 1:] / RUNS], 1).flatten(1)

    def features(self, images: Tensor) -> Tensor:
        """The global feature and those of the runs, one after the other: `(B, 1 + RUNS, D)`."""
        trunk, prefix = self.trunk, self.trunk.num_prefix_tokens
        tokens = through(trunk, trunk.blocks[:-1], entering(trunk, images))
        whole = trunk.norm(through(trunk, trunk.blocks[-1:], tokens))[:, :1]
        patches = tokens[:, prefix:][:, self.runs]  # (B, RUNS, L, D)
        before = tokens[:, None, :prefix].expand(-1, RUNS, -1, -1)
        parts = through(trunk, self.local, torch.cat([before, patches], 2).flatten(0, 1))[:, 0]
        return torch.cat([whole, parts.reshape(-1, RUNS, self.dim)], 1)

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Activations are computed twice instead of kept, by timm's convention."""
        self.trunk.set_grad_checkpointing(enable)

    def no_weight_decay(self) -> set[str]:
        """Names of parameters that are not to be drawn to zero, by timm's convention."""
        return {f"trunk.{name}" for name in self.trunk.no_weight_decay()}


def checkpoint_filter_fn(state: dict[str, Tensor], model: JigsawViT) -> dict[str, Tensor]:
    """Weights as `model` has them, by timm's convention: of a plain transformer, whose last block and norm the runs
    begin from, or of a jigsaw; positions that were learned on another grid are resampled."""
    jigsaw = any(name.startswith("trunk.") for name in state)
    local = {name: tensor for name, tensor in state.items() if name.startswith("local.")}
    trunk = {name.removeprefix("trunk."): tensor for name, tensor in state.items() if name not in local}
    trunk = vision_transformer.checkpoint_filter_fn(trunk, model.trunk)
    trunk = {name: tensor for name, tensor in trunk.items() if not name.startswith("head.")}
    if not jigsaw:
        for number, of in enumerate((f"blocks.{len(model.trunk.blocks) - 1}.", "norm.")):
            copies = {name.removeprefix(of): tensor for name, tensor in trunk.items() if name.startswith(of)}
            local |= {f"local.{number}.{name}": tensor for name, tensor in copies.items()}
    return {f"trunk.{name}": tensor for name, tensor in trunk.items()} | local
