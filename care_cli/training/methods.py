"""What can be trained: methods by name, sizes of backbones by name, and what all methods share.

A method is a function from a configuration to a `Learner`: an embedder, and the loss that teaches it.
"""

from __future__ import annotations

import copy
import pkgutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from care_cli import backbones, encoders
from care_cli.errors import CareError
from care_cli.records import KeypointScheme
from care_cli.training.config import TrainConfig
from care_cli.training.losses import arcface, triplet

METHODS = {
    "vit": "care_cli.training.vit",
    "kpe": "care_cli.training.kpe",
    "ckpe": "care_cli.training.ckpe",
    "wildlife": "care_cli.training.wildlife",
}  # modules with `learner(cfg, classes, scheme)`; where it is so `POINTS`, and settings of their own in `RECIPE`

LAPTOP = {"individuals": 8, "accumulate": 4}  # 32 photos x 4: half the memory of the default, 64 x 2
PRESETS: dict[str, dict[str, Any]] = {
    "tiny": {"backbone": "vit_tiny_patch16_224", **LAPTOP},
    "small": {"backbone": "vit_small_patch16_224", **LAPTOP},
    "base": {"backbone": "vit_base_patch16_224"},
    "large": {"backbone": "vit_large_patch16_224"},
    "huge": {"backbone": "vit_huge_patch14_224.orig_in21k", "checkpointing": True},
}
LARGE_PHOTOS = {"individuals": 4, "accumulate": 8}  # 16 photos x 8, above 224 px


class Learner(nn.Module):
    """An embedder, and the loss of the CKPE paper: L = ArcFace + triplet + 0.2 x cross-entropy, each with its weight.

    embedder  (B, 3, S, S) float32, and (B, K, 3) float32 points where it sees them -> (B, D); what is kept in the end
    classes   C, individuals that are learned from
    """

    def __init__(self, cfg: TrainConfig, classes: int, embedder: nn.Module):
        super().__init__()
        self.cfg, self.embedder = cfg, embedder
        if not (cfg.arc_weight or cfg.triplet_weight or cfg.class_weight):
            raise CareError("Every part of the loss has weight 0, so there is nothing to learn: set one above 0.")
        with torch.no_grad():
            dim = embedder.eval()(torch.zeros(1, 3, cfg.input_size, cfg.input_size)).shape[1]
        self.neck = nn.BatchNorm1d(dim, affine=False) if cfg.neck else nn.Identity()
        self.finished()  # a neck that cannot be folded away is refused now, not when all is learned
        self.centres = nn.Parameter(0.1 * torch.randn(classes, dim)) if cfg.arc_weight else None
        self.classifier = nn.Linear(dim, classes) if cfg.class_weight else None

    def forward(self, images: Tensor, points: Tensor | None, labels: Tensor) -> dict[str, Tensor]:
        """Weighted terms of the loss by name, each () float32: their sum is the loss.

        images  (B, 3, S, S) float32, normalised
        points  (B, K, 3) float32, or None for an embedder without points
        labels  (B,) int64
        """
        embeddings = self.embedder(images) if points is None else self.embedder(images, points)
        with torch.autocast(images.device.type, enabled=False):  # a batch's statistics and angles are delicate
            embeddings = self.neck(embeddings.float())  # (B, D)
            return self.terms(embeddings, labels)

    def terms(self, embeddings: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """The loss of embeddings `(B, D)`, term by term."""
        cfg, terms = self.cfg, {}
        if self.centres is not None:
            loss = arcface(embeddings, labels, self.centres, scale=cfg.arc_scale, margin=cfg.arc_margin)
            terms["arcface"] = cfg.arc_weight * loss
        if cfg.triplet_weight:
            terms["triplet"] = cfg.triplet_weight * triplet(embeddings, labels, margin=cfg.triplet_margin)
        if self.classifier is not None:
            loss = nn.functional.cross_entropy(self.classifier(embeddings), labels)
            terms["class"] = cfg.class_weight * loss
        return terms

    def finished(self) -> nn.Module:
        """A copy of the embedder for use: in eval mode, the neck folded into it."""
        embedder = copy.deepcopy(self.embedder).eval()
        if self.cfg.neck:
            backbones.fold_neck(embedder, self.neck)
        return embedder


def configure(method: str, preset: str | None = None, **given: Any) -> TrainConfig:
    """The settings of a method, then those of a backbone's size, then what is `given`: fields of TrainConfig.

    Raises CareError for names that do not exist.
    """
    if preset is not None and preset not in PRESETS:
        raise CareError(f"There is no preset {preset!r}; there are {', '.join(PRESETS)}.")
    if unknown := sorted(set(given) - set(TrainConfig.__dataclass_fields__)):
        raise CareError(f"A training has no setting {', '.join(unknown)}; see care_cli/training/config.py.")
    size = LARGE_PHOTOS if given.get("input_size", 224) > 224 else {}
    recipe = getattr(_module(method), "RECIPE", {})
    return TrainConfig(method=method, **{**(PRESETS[preset] if preset else {}), **size, **recipe, **given})


def build(cfg: TrainConfig, classes: int, scheme: KeypointScheme | None) -> Learner:
    """The untrained learner of a method, drawn from torch's generator as it stands."""
    return _module(cfg.method).learner(cfg, classes, scheme)


def sees_points(method: str) -> bool:
    """Does the method's embedder want points beside the pixels?"""
    return getattr(_module(method), "POINTS", False)


def plain(cfg: TrainConfig) -> nn.Module:
    """The backbone as it is, seeing pixels alone."""
    backbone = encoders.build_backbone(cfg.backbone, **options(cfg))
    checkpoint(backbone, cfg)
    return backbone


def options(cfg: TrainConfig) -> dict[str, Any]:
    """What `encoders.build_backbone` needs to build the backbone for this image size; for the checkpoint's header."""
    import timm

    own = cfg.backbone == backbones.STEM_VIT
    pretrained = None if own or not timm.is_model(cfg.backbone) else timm.get_pretrained_cfg(cfg.backbone)
    fixed = own or (pretrained and pretrained.fixed_input_size and pretrained.input_size[-1] != cfg.input_size)
    return ({"img_size": cfg.input_size} if fixed else {}) | cfg.options


def checkpoint(backbone: nn.Module, cfg: TrainConfig) -> None:
    """Have the backbone compute its activations twice instead of keeping them, where that is asked for.

    Raises CareError for backbones that cannot.
    """
    if cfg.checkpointing:
        try:
            backbone.set_grad_checkpointing(True)
        except (AttributeError, AssertionError) as error:
            raise CareError(f"{cfg.backbone} has no gradient checkpointing: train without it.") from error


def load(embedder: nn.Module, start: Mapping[str, Tensor], path: Path) -> None:
    """Begin from pretrained weights, of the embedder or of its backbone; a classifier's layers are left out.

    `path` is the file that they are of, for messages.

    Raises CareError when they do not fit, naming what differs.
    """
    backbone = getattr(embedder, "vit", embedder)
    whole = backbone is embedder or set(embedder.state_dict()) <= set(start)
    target = embedder if whole else backbone
    encoders.load_weights(target, dict(start), path, head=encoders.classifier_layers(backbone))


def _module(method: str) -> Any:
    if method not in METHODS:
        raise CareError(f"There is no method {method!r}; there are {', '.join(METHODS)}.")
    return pkgutil.resolve_name(METHODS[method])
