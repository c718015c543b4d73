"""Graphs of image models that end in a vector: timm, open_clip, MiewID and our own checkpoints."""

from __future__ import annotations

import difflib
import functools
import logging
import pkgutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from care_cli import checkpoints
from care_cli.backbones import STEM_VIT
from care_cli.engines import Network, images_of
from care_cli.errors import CareError
from care_cli.geometry import as_size, sides
from care_cli.headers import TOLD, scheme_of
from care_cli.records import ModelSpec, ViewpointScheme

if TYPE_CHECKING:
    import torch

DATA_KEYS = ("input_size", "mean", "std", "interpolation", "crop_pct", "crop_mode")
Built = tuple["torch.nn.Module", dict[str, Any], dict[str, Any]]  # model, settings, preparation
OWN = {
    STEM_VIT: "care_cli.backbones:stem_vit",
    "care_clip": "care_cli.clip:Clip",
    "care_clip_image": "care_cli.clip:ImageTower",
    "care_overlapping_vit": "care_cli.overlapping_vit:overlapping_vit",
    "care_jigsaw_vit": "care_cli.jigsaw_vit:JigsawViT",
}  # architectures beside timm's: what builds them from their options
COSINE = 0.999  # from which two vectors of a crop are the same


def load_network(spec: ModelSpec, weights: Path) -> Network:
    """The graph that `spec` describes, with these weights: crops in, vectors that are not yet of norm 1 out.

    The module maps `(B,H,W,3) uint8` to `(B,dim) float32`; `about` has `dim`, `settings` (what changes results beside
    the weights) and `preparation` (the fields of `preparation.Preparation`). A network that is told something beside
    the crops, `(B, ...) float32`, has `keypoints` or `viewpoints` in its settings, as its header has.

    Raises CareError when the weights do not fit, naming what differs; only a classifier's layers may be left over.
    """
    checkpoints.prepare_torch()
    model, settings, preparation = FAMILIES[spec.family](spec, Path(weights))
    size = sides(preparation["size"])
    module = normalising(model, settings["mean"], settings["std"])
    scheme = scheme_of(settings)
    beside = (scheme.shape,) if scheme else ()
    import torch

    with torch.inference_mode():
        pixels = torch.zeros((1, *size, 3), dtype=torch.uint8)
        dim = int(module.float().eval()(pixels, *(torch.zeros((1, *shape)) for shape in beside)).shape[1])
    about = {"dim": dim, "settings": settings, "preparation": preparation}
    return Network(module, about, (size, size), _agree, beside)


def build_backbone(architecture: str, **options: Any) -> torch.nn.Module:
    """An untrained timm model that ends in its pooled features, e.g. of `vit_small_patch16_224`, or one of `OWN`.

    `options` go to what builds it (of timm img_size, patch_size, embed_dim, depth, num_heads ...). Raises CareError,
    with the names that come close, for an architecture that timm does not have.
    """
    import timm

    if architecture in OWN:
        return pkgutil.resolve_name(OWN[architecture])(**options)
    try:
        return timm.create_model(architecture, pretrained=False, num_classes=0, **options)
    except RuntimeError as error:
        if timm.is_model(architecture.split(".")[0]):
            raise CareError(f"timm has no variant {architecture!r}: {error}") from error
        close = difflib.get_close_matches(architecture, timm.list_models(), n=4, cutoff=0.5)
        hint = f"close are {', '.join(close)}" if close else "its names are those of timm.list_models()"
        raise CareError(f"timm has no model {architecture!r}; {hint}") from error
    except (TypeError, ValueError) as error:
        raise CareError(f"timm can't build {architecture} with {options}: {error}") from error


def build_embedder(
    architecture: str,
    options: dict[str, Any] | None = None,
    keypoints: dict[str, Any] | None = None,
    viewpoints: dict[str, Any] | None = None,
) -> torch.nn.Module:
    """An untrained backbone, `(B,3,S,S)` to `(B,D)`; with `keypoints`, one that takes points `(B,K,3)` too, and with
    `viewpoints` one that takes `(B,V)`.

    `options` are those of `build_backbone`, `keypoints` and `viewpoints` what a header says of them: names, mirrors,
    mode, soft, scale (`KeypointViT.describe`); cameras, views, weight (`SideInformation.describe`). Raises CareError as
    these do, and for both at once.
    """
    model = build_backbone(architecture, **(options or {}))
    if keypoints is not None and viewpoints is not None:
        raise CareError("A model is told of keypoints or of viewpoints, not of both.")
    if viewpoints is not None:
        from care_cli.side_information import SideInformation

        return SideInformation(model, scheme_of({"viewpoints": viewpoints}), viewpoints["weight"])
    if keypoints is None:
        return model
    from care_cli.keypoint_vit import KeypointViT

    how = {key: keypoints[key] for key in ("soft", "scale") if key in keypoints}
    return KeypointViT(model, scheme_of({"keypoints": keypoints}), keypoints["mode"], **how)


def save_embedder(model: torch.nn.Module, path: Path, header: dict[str, Any]) -> None:
    """Write a network of `build_embedder` as our checkpoint.

    `header` needs `method`, `architecture` (timm's name), `input_size`, `mean` and `std`; `options` (what
    `build_embedder` was given), `interpolation`, `crop_pct`, `crop_mode`, class names, training split and
    metrics are kept. What a network that is told something says of itself is its `keypoints` or `viewpoints`.
    """
    if missing := {"method", "architecture", "input_size", "mean", "std"} - set(header):
        raise CareError(f"an embedder's header needs {', '.join(sorted(missing))}")
    checkpoints.save(path, model.state_dict(), {"task": "embedder", **header, **told(model)})


def told(model: torch.nn.Module) -> dict[str, Any]:
    """What a network of `build_embedder` is told beside pixels, as a header has it; empty: nothing."""
    scheme = getattr(model, "scheme", None)
    return {} if scheme is None else {TOLD[isinstance(scheme, ViewpointScheme)]: model.describe()}


def _timm(spec: ModelSpec, weights: Path) -> Built:
    model = build_backbone(spec.architecture)
    load_weights(model, checkpoints.load_state(weights), weights, head=classifier_layers(model))
    return model, *as_timm_says(model, spec.architecture, stated(spec))


def _ours(spec: ModelSpec, weights: Path) -> Built:
    model, header = untrained(weights), checkpoints.read_header(weights)
    load_weights(model, checkpoints.load_state(weights), weights, exact=True)
    said = {key: header[key] for key in DATA_KEYS if header.get(key) is not None}
    settings, preparation = as_timm_says(getattr(model, "vit", model), header["architecture"], said)
    return model, settings | {"method": header.get("method")} | told(model), preparation


def untrained(weights: Path) -> torch.nn.Module:
    """The network that the header of one of our checkpoints describes; CareError when it describes none."""
    header = checkpoints.read_header(weights)
    if header.get("task") != "embedder" or not isinstance(header.get("architecture"), str):
        raise CareError(f"{weights.name} is not an embedder; its header says {header.get('task', 'nothing')}")
    said = {key: header.get(key) for key in ("options", *TOLD)}
    return checkpoints.build(weights, functools.partial(build_embedder, header["architecture"], **said))


def _miewid(spec: ModelSpec, weights: Path) -> Built:
    """MiewID: a timm backbone, generalised-mean pooling, batch norm; photos squashed to a square."""
    import torch

    class MiewID(torch.nn.Module):
        def __init__(self, backbone: torch.nn.Module):
            super().__init__()
            self.backbone = backbone
            self.power = torch.nn.Parameter(torch.full((1,), 3.0))
            self.bn = torch.nn.BatchNorm1d(backbone.num_features)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.backbone.forward_features(x).clamp(min=1e-6).pow(self.power)
            return self.bn(x.mean((2, 3)).pow(1 / self.power))

    model = MiewID(build_backbone(spec.architecture))
    state = checkpoints.load_state(weights)
    for name in ("pooling.p", "backbone.global_pool.p"):
        if name in state:
            state["power"] = state.pop(name)
    load_weights(model, state, weights, head=("final", "backbone.classifier"))
    said = {"crop_pct": 1.0, "crop_mode": "squash", "interpolation": "bilinear"} | stated(spec)
    return model, *as_timm_says(model.backbone, spec.architecture, said)


def _open_clip(spec: ModelSpec, weights: Path) -> Built:
    import open_clip
    from open_clip.transform import PreprocessCfg

    if spec.architecture not in open_clip.list_models():
        raise CareError(f"open_clip has no model {spec.architecture!r}")
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)  # it warns of random weights; ours come next
    try:
        model = open_clip.create_model(spec.architecture, pretrained=None, load_weights=False)
    finally:
        logging.disable(before)
    load_weights(model, checkpoints.load_state(weights), weights)
    said = {key: list(value) for key, value in stated(spec).items() if key in ("mean", "std")}
    preprocess = PreprocessCfg(**{**model.visual.preprocess_cfg, **said})
    size = preprocess.size if isinstance(preprocess.size, int) else preprocess.size[0]
    settings = {
        "architecture": spec.architecture,
        "input_size": size,
        "mean": list(preprocess.mean),
        "std": list(preprocess.std),
        "interpolation": preprocess.interpolation,
        "crop_mode": preprocess.resize_mode,
    }
    preparation = {
        "size": size,
        "mode": {"shortest": "center", "longest": "border", "squash": "squash"}[preprocess.resize_mode],
        "interpolation": "bilinear" if preprocess.interpolation == "bilinear" else "bicubic",
        "crop_pct": 1.0,
        "fill": [preprocess.fill_color] * 3,
    }
    return model.visual, settings, preparation


def stated(spec: ModelSpec) -> dict[str, Any]:
    """The data configuration that a registry entry states."""
    return {key: getattr(spec, key) for key in ("input_size", "mean", "std") if getattr(spec, key) is not None}


def as_timm_says(
    model: torch.nn.Module, architecture: str, said: dict[str, Any]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Settings, and the preparation of timm's evaluation, from the model's data configuration; `said` goes first."""
    from timm.data import resolve_data_config

    said = dict(said)
    if said.get("input_size") is not None:
        said["input_size"] = (3, *sides(said["input_size"]))
    config = resolve_data_config(said, model=model)
    settings = {key: config[key] for key in DATA_KEYS if key in config}
    settings = {key: list(value) if isinstance(value, tuple) else value for key, value in settings.items()}
    size = as_size(config["input_size"][1:])
    settings |= {"architecture": architecture, "input_size": size}
    preparation = {
        "size": size,
        "mode": config["crop_mode"] if config["crop_mode"] in ("squash", "border") else "center",
        "interpolation": config["interpolation"],
        "crop_pct": config["crop_pct"] or 0.875,
        "fill": [round(255 * value) for value in config["mean"]],
    }
    return settings, preparation


def normalising(model: torch.nn.Module, mean: list[float], std: list[float]) -> torch.nn.Module:
    """The model from `(B,H,W,3) uint8` RGB, normalised as torchvision does it, and whatever else it takes."""
    import torch

    class Normalising(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model
            self.register_buffer("mean", torch.tensor(mean)[:, None, None])
            self.register_buffer("std", torch.tensor(std)[:, None, None])

        def forward(self, pixels: torch.Tensor, *beside: torch.Tensor) -> torch.Tensor:
            return self.model((images_of(pixels) - self.mean) / self.std, *beside)

    return Normalising()


def _agree(expected: np.ndarray, answer: np.ndarray) -> bool:
    norms = np.linalg.norm(expected, axis=1) * np.linalg.norm(answer, axis=1)
    return bool(((expected * answer).sum(1) >= COSINE * norms).all())


def classifier_layers(model: torch.nn.Module) -> tuple[str, ...]:
    """Names of the layers that only classify: absent from a model that ends in its features."""
    names = (getattr(model, "pretrained_cfg", None) or {}).get("classifier") or ()
    return (names,) if isinstance(names, str) else tuple(names)


def load_weights(
    model: torch.nn.Module,
    state: dict[str, torch.Tensor],
    weights: Path,
    head: tuple[str, ...] = (),
    exact: bool = False,
) -> None:
    """Strict but for the classifier, after timm's own translation of older names and of positions of another grid.

    With `exact` weights that fit are of this very grid: timm takes one of as many places for that of its pretraining.
    """
    translate = getattr(sys.modules[type(model).__module__], "checkpoint_filter_fn", None)
    if translate is not None and not (exact and _shapes(state) == _shapes(model.state_dict())):
        try:
            state = translate(state, model)
        except Exception as error:  # it reshapes tensors by what the model says of itself
            raise CareError(f"the weights {weights.name} do not fit the model: {error}") from error
    wanted = model.state_dict()
    extra = [n for n in state if n not in wanted and not any(n == h or n.startswith(f"{h}.") for h in head)]
    missing = [n for n in wanted if n not in state and not n.endswith("num_batches_tracked")]
    shapes = [n for n in wanted if n in state and state[n].shape != wanted[n].shape]
    for kind, names in (("lack", missing), ("have beside it", extra), ("differ in shape in", shapes)):
        if names:
            shown = ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
            raise CareError(f"the weights {weights.name} do not fit the model: they {kind} {shown}")
    model.load_state_dict({n: t for n, t in state.items() if n in wanted}, strict=False)


def on_grid_of(
    new: torch.nn.Module, old: torch.nn.Module, state: Mapping[str, torch.Tensor]
) -> Mapping[str, torch.Tensor]:
    """Weights of `old` whose positions, and whose keypoint embeddings of places, are resampled to the grid of `new`.

    timm's own translation takes every grid that positions were learned on for a square one. Networks without a grid of
    patches, positions in a shape of their own, and whatever is not as `old` has it, are left to it.
    """
    from care_cli.keypoint_vit import resampled

    was, wanted = _grid(old), _grid(new)
    if None in (was, wanted) or was == wanted:
        return state
    shapes, moved = _shapes(old.state_dict()), dict(state)
    for name, tensor in state.items():
        of_places = name == "embeddings" and getattr(old, "mode", "ckpe") != "ckpe"  # (T, d)
        of_positions = name.rpartition(".")[2] == "pos_embed" and tensor.ndim == 3  # (1, T, d)
        if not (of_places or of_positions) or shapes.get(name) != tuple(tensor.shape):
            continue
        flat = tensor.flatten(0, -2)
        prefix = len(flat) - was[0] * was[1]
        if prefix >= 0:
            moved[name] = resampled(flat, was, wanted, prefix).reshape(*tensor.shape[:-2], -1, tensor.shape[-1])
    return moved


def _grid(network: torch.nn.Module) -> tuple[int, int] | None:
    """Rows and columns of a transformer's patches; None: of anything else."""
    grids = (getattr(getattr(module, "patch_embed", None), "grid_size", None) for module in network.modules())
    return next((tuple(grid) for grid in grids if grid is not None), None)


def _shapes(state: dict[str, torch.Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in state.items()}


FAMILIES = {"timm": _timm, "open_clip": _open_clip, "miewid": _miewid, "care": _ours}
