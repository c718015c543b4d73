"""A timm transformer that is told where an animal's named points are: KPE and CKPE.

What is told is added to the patch tokens once they have their position embeddings and before anything is left out of
them or normalised, so that it enters attention. The backbone stays as timm made it, and without points it answers
exactly as it does alone. (CKPE paper, section 4; ALGORITHMS, section 3.)
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from timm.layers import resample_abs_pos_embed
from timm.models.eva import Eva
from timm.models.swin_transformer import SwinTransformer
from timm.models.swin_transformer_v2 import SwinTransformerV2
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from care_cli.errors import CareError
from care_cli.headers import KEYPOINT_MODES
from care_cli.records import KeypointScheme

SPREAD = 0.02  # of untrained embeddings, as of side information in TransReID
ENTRANCES = {  # which of its modules the tokens enter once they have their positions
    VisionTransformer: "patch_drop",
    Eva: "norm_pre",  # also of the DINOv3 and EVA-02 models, with rotary positions
    SwinTransformer: "layers",
    SwinTransformerV2: "layers",
}
Grid = tuple[int, int]  # rows, columns


def token_mask(points: Tensor, categories: Tensor, count: int, grid: Grid, soft: bool = False) -> Tensor:
    """Which patches hold a visible point of which category: `(B, h*w, C) float`, 0 or 1, rows of the grid in turn.

    points      (B,K,3): x and y as shares of the photo's width and height, 0 and 1 its edges, and a weight; 0: absent
    categories  (K,) int64, below `count`: what each column of points is
    grid        h and w, patches
    soft        weights instead of ones

    Points outside the photo, and those that are no numbers, are in no patch; several of a category in one patch
    are as one, of weight 1 at most.
    """
    visible = points[..., 2] > 0  # (B,K)
    weight = torch.where(visible, points[..., 2], 0) if soft else visible.to(points.dtype)
    columns, rows = (_places(points[..., axis], side) for axis, side in ((0, grid[1]), (1, grid[0])))
    patches = (rows[..., :, None] * columns[..., None, :]).flatten(2) * weight[..., None]  # (B,K,h*w)
    of = nn.functional.one_hot(categories, count).to(points.dtype)  # (K,C)
    return (patches.transpose(1, 2) @ of).clamp(max=1)


def _places(shares: Tensor, side: int) -> Tensor:
    """`(..., side)`: 1 in the cell where each share `(...)` lies; both edges belong to the photo, and so flips do."""
    cell = (shares * side).floor() - (shares == 1).to(shares.dtype)
    return (cell[..., None] == torch.arange(side, device=shares.device)).to(shares.dtype)


class KeypointViT(nn.Module):
    """`vit` with keypoint embeddings: `(B,3,S,S)` photos and `(B,C,3)` points (see `token_mask`) to `(B,D)`.

    Column c of the points is category c of the scheme. With X the tokens, M their mask by category (`token_mask`), m
    that of any category, and s the `scale`:

    ckpe        X + s·M·E, E (C,d): each category has an embedding
    kpe         X + s·diag(m)·W, W (prefix + patches, d): each place has one
    kpe-pooled  patch tokens + s·mᵀ·W: the sum of the places' embeddings, the same for all patches

    Class and register tokens, the prefix, get nothing. Takes one call at a time. Raises CareError for a network
    without patch tokens, one that drops patches before they could be marked, and an unknown mode.
    """

    def __init__(
        self, vit: nn.Module, scheme: KeypointScheme, mode: str = "ckpe", *, soft: bool = False, scale: float = 1.0
    ):
        super().__init__()
        if mode not in KEYPOINT_MODES:
            raise CareError(f"Keypoints are embedded by {', '.join(KEYPOINT_MODES)}, but got {mode!r}.")
        self.entrance = _entrance(vit)
        self.vit, self.scheme, self.mode, self.soft, self.scale = vit, scheme, mode, soft, scale
        self.prefix: int = getattr(vit, "num_prefix_tokens", 0)
        self.grid: Grid = tuple(vit.patch_embed.grid_size)
        self.num_features: int = vit.num_features
        count = len(scheme.names) if mode == "ckpe" else self.prefix + self.grid[0] * self.grid[1]
        self.embeddings = nn.Parameter(torch.empty(count, vit.embed_dim))
        nn.init.trunc_normal_(self.embeddings, std=SPREAD)
        self.register_buffer("categories", torch.arange(len(scheme.names)), persistent=False)

    def forward(self, images: Tensor, points: Tensor | None = None) -> Tensor:
        """Features `(B,D)`; without points those of `vit` alone."""
        if points is None:
            return self.vit(images)
        with adding(self.vit.get_submodule(self.entrance), self.added(points, self._grid_of(images))):
            return self.vit(images)

    def added(self, points: Tensor, grid: Grid) -> Tensor:
        """What the tokens of a grid get for points `(B,C,3)`: `(B, prefix + h*w, d)`."""
        mask = token_mask(points, self.categories, len(self.scheme.names), grid, self.soft)
        mask = nn.functional.pad(mask, (0, 0, self.prefix, 0))  # (B, T, C)
        if self.mode == "ckpe":
            return self.scale * (mask @ self.embeddings)
        places, marked = self._places(grid), mask.amax(2)  # (T,d), (B,T)
        if self.mode == "kpe":
            return self.scale * marked[..., None] * places
        patches = torch.ones_like(marked)
        patches[:, : self.prefix] = 0
        return self.scale * patches[..., None] * (marked @ places)[:, None]

    def describe(self) -> dict[str, Any]:
        """All that `encoders.build_embedder` needs to build it again, as a checkpoint's header has it."""
        return {"names": list(self.scheme.names), "mirrors": dict(self.scheme.mirrors), "mode": self.mode,
                "soft": self.soft, "scale": self.scale}  # fmt: skip

    def no_weight_decay(self) -> set[str]:
        """Names of parameters that are not to be drawn to zero, by timm's convention."""
        names = self.vit.no_weight_decay() if hasattr(self.vit, "no_weight_decay") else ()
        return {"embeddings", *(f"vit.{name}" for name in names)}

    def _grid_of(self, images: Tensor) -> Grid:
        if not getattr(self.vit, "dynamic_img_size", False):
            return self.grid
        return self.vit.patch_embed.dynamic_feat_size(images.shape[-2:])

    def _places(self, grid: Grid) -> Tensor:
        """`(T,d)`: the embeddings of places, resampled as position embeddings are where the grid is another one."""
        return self.embeddings if grid == self.grid else resampled(self.embeddings, self.grid, grid, self.prefix)


@contextmanager
def adding(entrance: nn.Module, added: Tensor) -> Iterator[None]:
    """What passes a module has something added: `(B,T,d)` to each of its tokens, or `(B,1,d)` to all of them alike,
    however they are laid out."""

    def add(_: nn.Module, given: tuple[Tensor]) -> tuple[Tensor]:
        [tokens] = given
        alike = (-1, *(1,) * (tokens.ndim - 2), added.shape[2])
        return (tokens + added.view(alike if added.shape[1] == 1 else tokens.shape).to(tokens.dtype),)

    hook = entrance.register_forward_pre_hook(add)
    try:
        yield
    finally:
        hook.remove()


def resampled(embeddings: Tensor, old: Grid, new: Grid, prefix: int) -> Tensor:
    """Embeddings of places `(prefix + patches, d)` of an old grid on a new one, by timm's bicubic resampling."""
    return resample_abs_pos_embed(embeddings[None], list(new), list(old), num_prefix_tokens=prefix)[0]


def checkpoint_filter_fn(state: dict[str, Tensor], model: KeypointViT) -> dict[str, Tensor]:
    """Weights as `model` has them, by timm's convention: older names, positions learned at another size."""
    own, backbone = {}, {}
    for name, tensor in state.items():
        (backbone if name.startswith("vit.") else own)[name.removeprefix("vit.")] = tensor
    translate = getattr(sys.modules[type(model.vit).__module__], "checkpoint_filter_fn", None)
    backbone = translate(backbone, model.vit) if translate else backbone
    return own | {f"vit.{name}": tensor for name, tensor in backbone.items()}


def entrance_of(vit: nn.Module) -> str | None:
    """The module of one of timm's transformers whose input are the tokens with their positions; None: it has none."""
    return next((name for family, name in ENTRANCES.items() if isinstance(vit, family)), None)


def _entrance(vit: nn.Module) -> str:
    """The module whose input are the tokens with their positions; CareError when there is none."""
    patches = getattr(vit, "patch_embed", None)
    if getattr(patches, "stride", None) not in (None, getattr(patches, "patch_size", None)):
        raise CareError("Keypoints mark the patch that they lie in, but these overlap: train with stride=0.")
    if isinstance(vit, Eva) and vit.patch_drop is not None:
        raise CareError("Keypoints mark patches before any is dropped, which this network does too early: leave out "
                        "patch_drop_rate.")  # fmt: skip
    if (name := entrance_of(vit)) is not None:
        return name
    raise CareError(
        f"{type(vit).__name__} has no patch tokens that keypoints could mark. Choose a plain ViT of timm's, an EVA or "
        "DINOv3 model, Swin, or our own small ViT."
    )
