"""CLIP's towers, as open_clip builds them: the image tower as a backbone of ours, the text tower as what describes.

Their options are open_clip's own configuration, flat, with `vision_` and `text_` before the names, so that a
checkpoint's header says all that is needed to build them again. (Radford et al. 2021.)
"""

from __future__ import annotations

import difflib
import functools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import open_clip
import torch
from open_clip.model import CLIPTextCfg, CLIPVisionCfg
from open_clip.transformer import VisionTransformer
from timm.layers import resample_abs_pos_embed
from torch import Tensor, nn

from care_cli.errors import CareError
from care_cli.geometry import InputSize, sides

CLIP, IMAGE_TOWER = "care_clip", "care_clip_image"  # architectures: both towers, and the image tower alone
ARCHITECTURES = (CLIP, IMAGE_TOWER)
EMBEDDINGS = ("both", "proj")
VISION, TEXT = "vision_", "text_"
SHARED = ("embed_dim", "quick_gelu")
KNOWN = {  # what a tower may be made of; anything else could fetch weights by a name, or is none of CLIP's
    VISION: {"image_size", "layers", "width", "head_width", "mlp_ratio", "patch_size", "ls_init_value",
             "patch_dropout", "no_ln_pre"},
    TEXT: {"context_length", "vocab_size", "width", "heads", "layers", "mlp_ratio", "ls_init_value"},
}  # fmt: skip
CONFIGS = {VISION: CLIPVisionCfg, TEXT: CLIPTextCfg}
GRID = "grid"  # name of the buffer that says of which grid positions are


@dataclass(frozen=True)
class Features:
    """What an image tower makes of photos.

    early      (B, W) the class token before the last block: f_11 of a ViT-B
    whole      (B, W) behind the last norm: f
    projected  (B, D) in the space that texts share: v
    """

    early: Tensor
    whole: Tensor
    projected: Tensor


class ImageTower(nn.Module):
    """CLIP's vision transformer: `(B, 3, H, W)` photos to `(B, W + D)`, or to the D projected numbers alone.

    options    as `options_of` gives them, those of the text left aside
    embedding  both: whole and projected features, one behind the other | proj: the projected ones

    Raises CareError for towers that are no plain transformer with a class token.
    """

    entrance = "visual.patch_dropout"  # the module whose input are the tokens with their positions
    told = "class"  # which of them is told of cameras: as CLIP-ReID's release has it, unlike TransReID's

    def __init__(self, embedding: str = "both", **options: Any):
        super().__init__()
        if embedding not in EMBEDDINGS:
            raise CareError(f"An embedding is {' or '.join(EMBEDDINGS)}, got {embedding!r}.")
        self.embedding = embedding
        self.visual = _visual(options)
        self.register_buffer(GRID, torch.tensor(self.visual.grid_size))
        self.num_features = self.visual.ln_post.normalized_shape[0]

    def forward(self, images: Tensor) -> Tensor:
        """The embedding, not normalised."""
        seen = self.features(images)
        return seen.projected if self.embedding == "proj" else torch.cat([seen.whole, seen.projected], 1)

    def features(self, images: Tensor) -> Features:
        """All that the losses look at."""
        visual, early = self.visual, []
        hook = self.blocks[-1].register_forward_pre_hook(lambda block, given: early.append(given[0][:, 0]))
        try:
            whole, _ = visual._pool(visual.transformer(visual._embeds(images)))  # as its own forward, unprojected
        finally:
            hook.remove()
        return Features(early[0], whole, whole @ visual.proj)

    @property
    def blocks(self) -> nn.ModuleList:
        """The transformer's."""
        return self.visual.transformer.resblocks

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Activations are computed twice instead of kept, by timm's convention."""
        self.visual.set_grad_checkpointing(enable)

    def no_weight_decay(self) -> set[str]:
        """Names of parameters that are not to be drawn to zero, by timm's convention."""
        return {f"visual.{name}" for name in self.visual.no_weight_decay()}


class Clip(open_clip.CLIP):
    """Both towers; as an embedder, `(B, 3, H, W)` photos to `(B, D)` projected features: CLIP as it is, zero-shot."""

    def __init__(self, **options: Any):
        vision, text = (_config(part, options) for part in (VISION, TEXT))
        super().__init__(options["embed_dim"], vision, text, quick_gelu=options.get("quick_gelu", False))
        self.register_buffer(GRID, torch.tensor(_check(self.visual).grid_size))
        self.num_features = options["embed_dim"]

    def forward(self, images: Tensor) -> Tensor:
        """Projected features, not normalised."""
        return self.visual(images)


class TextTower(nn.Module):
    """The frozen text side of a CLIP, which it takes over: prompts whose tokens are vectors, to where photos are."""

    def __init__(self, clip: Clip):
        super().__init__()
        clip.visual = nn.Identity()  # its weights are not needed any more
        self.clip = clip.eval().requires_grad_(False)
        self.width: int = clip.token_embedding.embedding_dim
        self.dim: int = clip.text_projection.shape[1]
        self.context: int = clip.context_length

    @property
    def scale(self) -> float:
        """exp(ls), what CLIP multiplies cosines with."""
        return self.clip.logit_scale.exp().item()

    def vectors(self, tokens: Tensor) -> Tensor:
        """Token numbers `(..., L) int64` as vectors `(..., L, width)`."""
        return self.clip.token_embedding(tokens)

    def forward(self, vectors: Tensor, ends: Tensor) -> Tensor:
        """Features `(B, D)` of prompts `(B, L, width)`, each of which ends at its token `ends (B,) int64`.

        A token sees those before it only, so what stands behind the end changes nothing: L may be the longest prompt
        instead of CLIP's 77.
        """
        clip, length = self.clip, vectors.shape[1]
        x = vectors + clip.positional_embedding[:length]
        x = clip.transformer(x, attn_mask=clip.attn_mask[:length, :length])
        return clip.ln_final(x)[torch.arange(len(x)), ends] @ clip.text_projection


def options_of(name: str, size: InputSize | None = None) -> dict[str, Any]:
    """The options of both towers of a model that open_clip knows by name, for images of a `size` (None: its own).

    Raises CareError for a name that it does not know, with those that come close, and for towers that are not CLIP's.
    """
    known = open_clip.get_model_config(name) if name in open_clip.list_models() else None
    if known is None:
        close = difflib.get_close_matches(name, open_clip.list_models(), n=4, cutoff=0.6)
        hint = f"close are {', '.join(close)}" if close else "take one such as ViT-B-16-quickgelu"
        raise CareError(f"open_clip has no model {name!r}; {hint}.")
    if known.get("custom_text") or set(known["text_cfg"]) - KNOWN[TEXT]:
        raise CareError(f"The text tower of {name} is not CLIP's own. Take a ViT such as ViT-B-16-quickgelu.")
    options = {key: known[key] for key in SHARED if key in known}
    options |= {VISION + key: value for key, value in known["vision_cfg"].items()}
    options |= {TEXT + key: value for key, value in known["text_cfg"].items()}
    with torch.device("meta"):
        _visual(options)
    return options if size is None else resized(options, size)


def resized(options: Mapping[str, Any], size: InputSize) -> dict[str, Any]:
    """The options for images of another size."""
    return {**options, "vision_image_size": list(sides(size))}


def image_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """The options of the image tower alone."""
    return {key: value for key, value in options.items() if not key.startswith(TEXT)}


def checkpoint_filter_fn(state: dict[str, Tensor], model: ImageTower | Clip) -> dict[str, Tensor]:
    """Weights as `model` has them, by timm's convention: the image tower of a whole CLIP, positions of another grid.

    Weights that do not say of which grid theirs are have those of a square, as all that open_clip knows, unless there
    are as many as `model` has.
    """
    state = dict(state)
    old, places = state.pop(GRID, None), state.get("visual.positional_embedding")
    if isinstance(model, ImageTower):
        state = {name: tensor for name, tensor in state.items() if name.startswith("visual.")}
    if places is not None:
        new, side = list(model.visual.grid_size), math.isqrt(len(places) - 1)
        if old is None:
            old = torch.tensor(new if len(places) == 1 + math.prod(new) else [side, side])
        state["visual.positional_embedding"] = resample_abs_pos_embed(
            places[None], new, old.tolist(), num_prefix_tokens=1
        )[0]
    return state | {GRID: model.grid}


def is_text(name: str) -> bool:
    """Is a weight of a whole CLIP its text side's?"""
    return name != GRID and not name.startswith("visual.")


def has_text(state: Mapping[str, Tensor]) -> bool:
    """Do weights hold a text tower?"""
    return "token_embedding.weight" in state and "text_projection" in state


@functools.cache
def tokenizer() -> open_clip.SimpleTokenizer:
    """CLIP's byte-pair encoding; works offline."""
    return open_clip.SimpleTokenizer()


def _visual(options: Mapping[str, Any]) -> VisionTransformer:
    """The image tower that options describe. CareError when it is no vision transformer with a class token."""
    config = _config(VISION, options)
    return _check(open_clip.model._build_vision_tower(options["embed_dim"], config, options.get("quick_gelu", False)))


def _check(visual: nn.Module) -> VisionTransformer:
    if not isinstance(visual, VisionTransformer):
        raise CareError(
            "This image tower is no vision transformer with a class token. Take one such as ViT-B-16-quickgelu, "
            "ViT-B-32-quickgelu or ViT-L-14-quickgelu."
        )
    return visual


def _config(part: str, options: Mapping[str, Any]) -> CLIPVisionCfg | CLIPTextCfg:
    """open_clip's configuration of a tower. CareError for what no tower of CLIP's is made of."""
    found = {key.removeprefix(part): value for key, value in options.items() if key.startswith(part)}
    if strange := sorted(set(found) - KNOWN[part]):
        raise CareError(
            f"A tower of CLIP's is not made with {part}{strange[0]}. Take a plain vision transformer such as "
            "ViT-B-16-quickgelu."
        )
    return CONFIGS[part](**{key: tuple(value) if isinstance(value, list) else value for key, value in found.items()})
