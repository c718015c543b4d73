"""Side information embeddings (SIE; He et al. 2021): a transformer is told by which camera a photo was taken, and
which view of the animal it shows.

Each pair has an embedding S, which is added to all tokens once they have their positions (a CLIP's tower: to its class
token alone, as CLIP-ReID's release has it), so that what one camera's light and place do to a photo need not be read
from its pixels. Of an unknown camera or view nothing is added.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from care_cli.errors import CareError
from care_cli.keypoint_vit import SPREAD, adding, entrance_of
from care_cli.records import ViewpointScheme


class SideInformation(nn.Module):
    """`vit`, a transformer, with `weight` S[viewpoint] added to all of its tokens, or to those that it says (`told`).

    Takes photos `(B,3,H,W)` and `(B,V) float32`, 1 at each photo's viewpoint (`ViewpointScheme.place`), 0 elsewhere;
    a row of zeros, and None, is answered exactly as by `vit` alone. Takes one call at a time. Raises CareError for a
    network without tokens.
    """

    def __init__(self, vit: nn.Module, scheme: ViewpointScheme, weight: float):
        super().__init__()
        self.entrance = getattr(vit, "entrance", None) or entrance_of(vit)
        if self.entrance is None:
            raise CareError(
                f"{type(vit).__name__} has no tokens that a camera could be added to: take a vision transformer, or "
                "train with side_weight=0."
            )
        self.vit, self.scheme, self.weight = vit, scheme, weight
        self.num_features: int = vit.num_features
        width = getattr(getattr(vit, "trunk", vit), "embed_dim", None) or vit.num_features
        self.viewpoints = nn.Parameter(torch.empty(*scheme.shape, width))
        nn.init.trunc_normal_(self.viewpoints, std=SPREAD)

    def forward(self, images: Tensor, told: Tensor | None = None) -> Tensor:
        """The embedding of `vit`."""
        with self._telling(told):
            return self.vit(images)

    def features(self, images: Tensor, told: Tensor | None = None) -> Any:
        """All that the losses look at, as `vit` has it."""
        with self._telling(told):
            return self.vit.features(images)

    def _telling(self, told: Tensor | None) -> AbstractContextManager[None]:
        if told is None:
            return nullcontext()
        added = self.weight * (told.to(self.viewpoints.dtype) @ self.viewpoints)  # (B, D)
        added = added[:, None]
        if getattr(self.vit, "told", "all") == "class":
            patches = self.vit.visual.grid_size[0] * self.vit.visual.grid_size[1]
            added = nn.functional.pad(added, (0, 0, 0, patches))  # the class token is the first one
        return adding(self.vit.get_submodule(self.entrance), added)

    def describe(self) -> dict[str, Any]:
        """All that `encoders.build_embedder` needs to build it again, as a checkpoint's header has it."""
        return {"cameras": list(self.scheme.cameras), "views": list(self.scheme.views), "weight": self.weight}

    def no_weight_decay(self) -> set[str]:
        """Names of parameters that are not to be drawn to zero, by timm's convention."""
        names = self.vit.no_weight_decay() if hasattr(self.vit, "no_weight_decay") else ()
        return {"viewpoints", *(f"vit.{name}" for name in names)}


def checkpoint_filter_fn(state: dict[str, Tensor], model: SideInformation) -> dict[str, Tensor]:
    """Weights as `model` has them, by timm's convention."""
    inner = dict(without_viewpoints(state))
    translate = getattr(sys.modules[type(model.vit).__module__], "checkpoint_filter_fn", None)
    inner = translate(inner, model.vit) if translate else inner
    own = {name: tensor for name, tensor in state.items() if name == "viewpoints"}
    return own | {f"vit.{name}": tensor for name, tensor in inner.items()}


def without_viewpoints(state: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """Weights of the transformer alone: cameras of one survey say nothing of another's. Others stay as they are."""
    if "viewpoints" not in state:
        return state
    return {name.removeprefix("vit."): tensor for name, tensor in state.items() if name != "viewpoints"}
