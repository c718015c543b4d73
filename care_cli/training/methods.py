"""What can be trained: methods by name, sizes of backbones by name, and what all methods share.

A method is a module. It has `learner(cfg, classes, scheme)`, an embedder and the loss that teaches it, or `train`, as
`loop.train` is one, where learning has several phases. What else it may have:

RECIPE        settings of its own
PRESETS       bundles of settings, by name
BACKBONE      what it takes unless something else is said; WEIGHTS: and what that begins from, a name of the registry
POINTS        True: its embedder sees points beside the pixels
VIEWPOINTS    True: its embedder can be told by which camera a photo was taken, and which view it shows
DESCRIBES     True: it says in words what is on a photo
architecture  (cfg) -> what the finished model is: a name and options for `encoders.build_backbone`
"""

from __future__ import annotations

import copy
import functools
import pkgutil
from collections.abc import Mapping, Sequence
from dataclasses import is_dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from care_cli import backbones, clip, encoders
from care_cli.errors import CareError
from care_cli.geometry import sides
from care_cli.records import Scheme, ViewpointScheme
from care_cli.side_information import SideInformation, without_viewpoints
from care_cli.training.config import TrainConfig
from care_cli.training.heads import check_weights
from care_cli.training.losses import arcface, triplet

if TYPE_CHECKING:
    from care_cli.training import loop
    from care_cli.training.data import LabelledCrops

METHODS = {
    "vit": "care_cli.training.vit",
    "kpe": "care_cli.training.kpe",
    "ckpe": "care_cli.training.ckpe",
    "wildlife": "care_cli.training.wildlife",
    "care": "care_cli.training.care",
    "clip-reid": "care_cli.training.clip_reid",
    "clip-ft": "care_cli.training.clip_ft",
    "transreid": "care_cli.training.transreid",
    "adafreq": "care_cli.training.adafreq",
}

LAPTOP = {"individuals": 8, "accumulate": 4}  # 32 photos x 4: half the memory of the default, 64 x 2
SIZES: dict[str, dict[str, Any]] = {
    "tiny": {"backbone": "vit_tiny_patch16_224", **LAPTOP},
    "small": {"backbone": "vit_small_patch16_224", **LAPTOP},
    "base": {"backbone": "vit_base_patch16_224"},
    "large": {"backbone": "vit_large_patch16_224"},
    "huge": {"backbone": "vit_huge_patch14_224.orig_in21k", "checkpointing": True},
}
LARGE_PHOTOS = {"individuals": 4, "accumulate": 8}  # 16 photos x 8, above 224 px


class Learner(nn.Module):
    """An embedder, and the loss of the CKPE paper: L = ArcFace + triplet + 0.2 x cross-entropy, each with its weight.

    embedder  (B, 3, H, W) float32, and what it is told beside them -> (B, D); what is kept in the end
    classes   C, individuals that are learned from
    """

    def __init__(self, cfg: TrainConfig, classes: int, embedder: nn.Module):
        super().__init__()
        self.cfg, self.embedder = cfg, embedder
        check_weights(cfg.arc_weight, cfg.triplet_weight, cfg.class_weight)
        with torch.no_grad():
            dim = embedder.eval()(torch.zeros(1, 3, *sides(cfg.input_size))).shape[1]
        self.neck = nn.BatchNorm1d(dim, affine=False) if cfg.neck else nn.Identity()
        self.finished()  # a neck that cannot be folded away is refused now, not when all is learned
        self.centres = nn.Parameter(0.1 * torch.randn(classes, dim)) if cfg.arc_weight else None
        self.classifier = nn.Linear(dim, classes) if cfg.class_weight else None

    def forward(self, images: Tensor, beside: Tensor | None, labels: Tensor) -> dict[str, Tensor]:
        """Weighted terms of the loss by name, each () float32: their sum is the loss.

        images  (B, 3, H, W) float32, normalised
        beside  (B, K, 3) float32 points, or (B, V) float32 viewpoints; None for an embedder that is told nothing
        labels  (B,) int64
        """
        embeddings = self.embedder(images) if beside is None else self.embedder(images, beside)
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


def configure(
    method: str,
    size: str | None = None,
    presets: Sequence[str] = (),
    begun: Mapping[str, Any] | None = None,
    own: Mapping[str, Any] | None = None,
    **given: Any,
) -> TrainConfig:
    """Settings, later ones over earlier: those of a backbone's size, what weights to begin from say of themselves
    (`begun`), the method's, what a model of ours says that is gone on from (`own`), the presets' in their order, and
    what is `given`. All are fields of TrainConfig.

    Raises CareError for names that do not exist.
    """
    if size is not None and size not in SIZES:
        raise CareError(f"There is no size {size!r}; there are {', '.join(SIZES)}.")
    if unknown := sorted(set(given) - set(TrainConfig.__dataclass_fields__)):
        raise CareError(f"A training has no setting {', '.join(unknown)}; see care_cli/training/config.py.")
    module = _module(method)
    known = getattr(module, "PRESETS", {})
    if strange := [name for name in presets if name not in known]:
        there = f"it has {', '.join(known)}" if known else "it has none"
        raise CareError(f"The method {method} has no preset {strange[0]!r}; {there}.")
    large = LARGE_PHOTOS if max(sides(given.get("input_size", 224))) > 224 else {}
    layers = [
        SIZES.get(size, {}),
        large,
        begun or {},
        getattr(module, "RECIPE", {}),
        own or {},
        *(known[name] for name in presets),
    ]
    return TrainConfig(method=method, **functools.reduce(_over, [*layers, given]))


def _over(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Settings over others; of the tables in them those that are named."""
    usual = TrainConfig()
    tables = {
        name: replace(below.get(name, getattr(usual, name)), **value)
        for name, value in above.items()
        if isinstance(value, dict) and is_dataclass(getattr(usual, name))
    }
    return {**below, **above, **tables}


def build(cfg: TrainConfig, classes: int, scheme: Scheme | None) -> Learner:
    """The untrained learner of a method, drawn from torch's generator as it stands."""
    return _module(cfg.method).learner(cfg, classes, scheme)


def about(method: str) -> str:
    """What a method is, in a sentence or two: the beginning of its module's docstring."""
    return " ".join(_module(method).__doc__.split("\n\n")[0].split())


def sees_points(method: str) -> bool:
    """Does the method's embedder want points beside the pixels?"""
    return getattr(_module(method), "POINTS", False)


def told_viewpoints(cfg: TrainConfig) -> bool:
    """Is the method's embedder told by which camera a photo was taken? CareError for one that cannot be."""
    if cfg.side_weight and not getattr(_module(cfg.method), "VIEWPOINTS", False):
        able = [name for name in METHODS if getattr(_module(name), "VIEWPOINTS", False)]
        raise CareError(f"{cfg.method} is told of no cameras: set side_weight=0, or take {', '.join(able)}.")
    return cfg.side_weight > 0


def describes(method: str) -> bool:
    """Does the method say in words what is on a photo?"""
    return getattr(_module(method), "DESCRIBES", False)


def usual(method: str) -> tuple[str | None, str | None]:
    """The backbone that a method takes, and the weights that this begins from, unless something else is said."""
    module = _module(method)
    return getattr(module, "BACKBONE", None), getattr(module, "WEIGHTS", None)


def presets(method: str) -> set[str]:
    """Names of a method's bundles of settings."""
    return set(getattr(_module(method), "PRESETS", ()))


def train(data: LabelledCrops, cfg: TrainConfig, folder: Path | None = None, **how: Any) -> loop.Trained:
    """Train a method in all its phases; takes and gives what `loop.train` does."""
    from care_cli.training import loop

    return getattr(_module(cfg.method), "train", loop.train)(data, cfg, folder, **how)


def plain(cfg: TrainConfig, scheme: Scheme | None = None) -> nn.Module:
    """The backbone as it is, seeing pixels alone; told from where they were taken where `scheme` is of viewpoints."""
    name, options = architecture(cfg)
    backbone = encoders.build_backbone(name, **options)
    checkpoint(backbone, cfg)
    if isinstance(scheme, ViewpointScheme) and told_viewpoints(cfg):
        return SideInformation(backbone, scheme, cfg.side_weight)
    return backbone


def architecture(cfg: TrainConfig) -> tuple[str, dict[str, Any]]:
    """What `encoders.build_backbone` needs to build the finished model; for the checkpoint's header."""
    return getattr(_module(cfg.method), "architecture", for_size)(cfg)


def for_size(cfg: TrainConfig) -> tuple[str, dict[str, Any]]:
    """The backbone as it is for photos of the training's size, over patches that overlap where a stride is set.

    CareError for a CLIP, which has methods of its own.
    """
    import timm

    if cfg.backbone in clip.ARCHITECTURES:
        raise CareError(f"A CLIP is trained by care, clip-reid or clip-ft; {cfg.method} takes a backbone of timm's.")
    from care_cli.training import plain_vits

    if cfg.backbone in plain_vits.OURS:
        return plain_vits.architecture(cfg, cfg.backbone)
    if cfg.stride or cfg.drop_path:
        return plain_vits.architecture(cfg)
    own = cfg.backbone == backbones.STEM_VIT
    pretrained = None if own or not timm.is_model(cfg.backbone) else timm.get_pretrained_cfg(cfg.backbone)
    learned = pretrained.input_size[1:] if pretrained and pretrained.fixed_input_size else None
    fixed = own or (learned and tuple(learned) != sides(cfg.input_size))
    return cfg.backbone, ({"img_size": cfg.input_size} if fixed else {}) | cfg.options


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
    """Begin from pretrained weights, of the embedder or of its backbone; a classifier's layers are left out, and so are
    embeddings of cameras.

    `path` is the file that they are of, for messages.

    Raises CareError when they do not fit, naming what differs.
    """
    start = without_viewpoints(start)
    backbone = getattr(embedder, "vit", embedder)
    whole = backbone is embedder or set(embedder.state_dict()) <= set(start)
    target = embedder if whole else backbone
    encoders.load_weights(target, dict(start), path, head=encoders.classifier_layers(backbone))


def _module(method: str) -> Any:
    if method not in METHODS:
        raise CareError(f"There is no method {method!r}; there are {', '.join(METHODS)}.")
    return pkgutil.resolve_name(METHODS[method])
