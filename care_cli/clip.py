"""CLIP's towers, as open_clip builds them: the image tower as a backbone of ours, the text tower as what describes.

Their options are open_clip's own configuration, flat, with `vision_` and `text_` before the names, so that a
checkpoint's header says all that is needed to build them again. (Radford et al. 2021.)
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import open_clip
import torch
from open_clip.model import CLIPTextCfg, CLIPVisionCfg, resize_pos_embed
from open_clip.transformer import VisionTransformer
from torch import Tensor, nn

from care_cli.errors import CareError
from care_cli.geometry import InputSize, sides

CLIP, IMAGE_TOWER = "care_clip", "care_clip_image"  # architectures: both towers, and the image tower alone
ARCHITECTURES = (CLIP, IMAGE_TOWER)
EMBEDDINGS = ("both", "proj")
VISION, TEXT = "vision_", "text_"
SHARED = ("embed_dim", "quick_gelu")
OTHER_TEXTS = ("hf_model_name", "hf_tokenizer_name", "no_causal_mask", "embed_cls", "pool_type")  # than CLIP's own


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

    def __init__(self, embedding: str = "both", **options: Any):
        super().__init__()
        if embedding not in EMBEDDINGS:
            raise CareError(f"An embedding is {' or '.join(EMBEDDINGS)}, got {embedding!r}.")
        self.embedding = embedding
        self.visual = _visual(options)
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
        text = CLIPTextCfg(**_of(TEXT, options))
        super().__init__(options["embed_dim"], _vision(options), text, quick_gelu=options.get("quick_gelu", False))
        self.num_features = options["embed_dim"]

    def forward(self, images: Tensor) -> Tensor:
        """Projected features, not normalised."""
        return self.visual(images)


class TextTower(nn.Module):
    """The frozen text side of a CLIP: prompts whose tokens are vectors, to where photos are.

    `options` and `state` are those of a whole `Clip`, of which only the text side is kept.
    """

    def __init__(self, options: Mapping[str, Any], state: Mapping[str, Tensor]):
        super().__init__()
        clip = Clip(**options)
        clip.load_state_dict(checkpoint_filter_fn(dict(state), clip))
        clip.visual = nn.Identity()
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
        close = [one for one in open_clip.list_models() if one.lower().startswith(name.lower()[:5])][:4]
        hint = f"close are {', '.join(close)}" if close else "take one such as ViT-B-16-quickgelu"
        raise CareError(f"open_clip has no model {name!r}; {hint}.")
    if known.get("custom_text") or any(known["text_cfg"].get(key) for key in OTHER_TEXTS):
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
    """Weights as `model` has them, by timm's convention: the image tower of a whole CLIP, positions of another size."""
    if isinstance(model, ImageTower):
        state = {name: tensor for name, tensor in state.items() if name.startswith("visual.")}
    state = dict(state)
    resize_pos_embed(state, model)
    return state


def has_text(state: Mapping[str, Tensor]) -> bool:
    """Do weights hold a text tower?"""
    return "token_embedding.weight" in state and "text_projection" in state


@functools.cache
def tokenizer() -> open_clip.SimpleTokenizer:
    """CLIP's byte-pair encoding; works offline."""
    return open_clip.SimpleTokenizer()


def _visual(options: Mapping[str, Any]) -> VisionTransformer:
    """The image tower that options describe. CareError when it is no vision transformer with a class token."""
    config = _vision(options)
    visual = None
    if isinstance(config.layers, int) and not config.timm_model_name:
        visual = open_clip.model._build_vision_tower(options["embed_dim"], config, options.get("quick_gelu", False))
    if not isinstance(visual, VisionTransformer) or visual.pool_type != "tok" or visual.attn_pool is not None:
        raise CareError(
            "This image tower is no vision transformer with a class token. Take one such as ViT-B-16-quickgelu, "
            "ViT-B-32-quickgelu or ViT-L-14-quickgelu."
        )
    return visual


def _vision(options: Mapping[str, Any]) -> CLIPVisionCfg:
    return CLIPVisionCfg(**_of(VISION, options))


def _of(prefix: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Options with a prefix, without it. CareError for names that open_clip does not know."""
    found = {key.removeprefix(prefix): value for key, value in options.items() if key.startswith(prefix)}
    known = {field.name for field in fields(CLIPVisionCfg if prefix == VISION else CLIPTextCfg)}
    if strange := sorted(set(found) - known):
        raise CareError(f"open_clip knows no {prefix}{strange[0]} of a tower.")
    return {key: tuple(value) if isinstance(value, Sequence) and not isinstance(value, str) else value
            for key, value in found.items()}  # fmt: skip
