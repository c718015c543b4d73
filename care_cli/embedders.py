"""Image models that turn a crop into a unit vector: timm, open_clip, MiewID and our own checkpoints.

Preprocessing is the model's own: timm's data configuration and evaluation transform, open_clip's
preprocessing, or what the checkpoint's header says.
"""

from __future__ import annotations

import difflib
import logging
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from care_cli import checkpoints
from care_cli.backbones import STEM_VIT, stem_vit
from care_cli.errors import CareError
from care_cli.records import ModelSpec

if TYPE_CHECKING:
    import torch
    from PIL import Image

DATA_KEYS = ("input_size", "mean", "std", "interpolation", "crop_pct", "crop_mode")


class Embedder:
    """An embedding model ready for use; made by `load_embedder`.

    `dim` is the vector's length; `settings` is what changes results beside the weights.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        transform: Callable[[Image.Image], torch.Tensor],
        settings: dict[str, Any],
        device: str,
    ):
        self.device = device
        self.settings = settings
        self.size = int(settings["input_size"])
        self._transform = transform
        self._model = model.float().eval().requires_grad_(False).to(device)
        self.dim = int(self.embed(np.zeros((1, 3, self.size, self.size), np.float32)).shape[1])

    def transform(self, image: Image.Image) -> np.ndarray:
        """One crop as the network wants it: `(3,S,S) float32`, normalised."""
        return np.ascontiguousarray(self._transform(image.convert("RGB")).numpy(), dtype=np.float32)

    def embed(self, batch: np.ndarray) -> np.ndarray:
        """Vectors `(B,dim) float32` of L2 norm 1 for transformed crops `(B,3,S,S) float32`."""
        import torch

        with torch.inference_mode():
            features = self._model(torch.as_tensor(batch).to(self.device))
            return torch.nn.functional.normalize(features.float(), dim=-1).cpu().numpy()


def load_embedder(
    spec: ModelSpec, weights: Path, device: str = "cpu", *, engine: str = "auto", precision: str = "auto"
) -> Embedder:
    """The embedding model that `spec` describes, with these weights.

    Raises CareError when the weights do not fit, naming what differs; only a classifier's layers may be
    left over.
    """
    families = {"timm": _timm, "open_clip": _open_clip, "miewid": _miewid, "care": _ours}
    if spec.task != "embedder" or spec.family not in families:
        raise CareError(f"{spec.name} is not an embedder: its task is {spec.task}, its family {spec.family}")
    if not Path(weights).is_file():
        raise CareError(f"there is no weights file {weights}")
    checkpoints.prepare_torch()
    embedder = families[spec.family](spec, Path(weights), device)
    if spec.dim not in (None, embedder.dim):
        raise CareError(f"{spec.name} is described with vectors of {spec.dim} numbers, got {embedder.dim}")
    return embedder


def build_backbone(architecture: str, **options: Any) -> torch.nn.Module:
    """An untrained timm model that ends in its pooled features, e.g. of `vit_small_patch16_224`, or our own.

    `options` go to timm (img_size, patch_size, embed_dim, depth, num_heads ...). Raises CareError, with
    the names that come close, for an architecture that timm does not have.
    """
    import timm

    if architecture == STEM_VIT:
        return stem_vit(**options)
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


def save_embedder(model: torch.nn.Module, path: Path, header: dict[str, Any]) -> None:
    """Write a timm backbone as our checkpoint.

    `header` needs `method`, `architecture` (timm's name), `input_size`, `mean` and `std`; `options` (what
    `build_backbone` was given), `interpolation`, `crop_pct`, `crop_mode`, class names, training split and
    metrics are kept.
    """
    if missing := {"method", "architecture", "input_size", "mean", "std"} - set(header):
        raise CareError(f"an embedder's header needs {', '.join(sorted(missing))}")
    checkpoints.save(path, model.state_dict(), {"task": "embedder", **header})


def _timm(spec: ModelSpec, weights: Path, device: str) -> Embedder:
    model = build_backbone(spec.architecture)
    _load(model, checkpoints.load_state(weights), weights, head=_classifier(model))
    return _timm_embedder(model, spec.architecture, _said(spec), device)


def _ours(spec: ModelSpec, weights: Path, device: str) -> Embedder:
    header = checkpoints.read_header(weights)
    if header.get("task") != "embedder" or not isinstance(header.get("architecture"), str):
        raise CareError(f"{weights.name} is not an embedder; its header says {header.get('task', 'nothing')}")
    model = build_backbone(header["architecture"], **header.get("options", {}))
    _load(model, checkpoints.load_state(weights), weights)
    said = {key: header[key] for key in DATA_KEYS if header.get(key) is not None}
    embedder = _timm_embedder(model, header["architecture"], said, device)
    embedder.settings["method"] = header.get("method")
    return embedder


def _miewid(spec: ModelSpec, weights: Path, device: str) -> Embedder:
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
    _load(model, state, weights, head=("final", "backbone.classifier"))
    said = {"crop_pct": 1.0, "crop_mode": "squash", "interpolation": "bilinear"} | _said(spec)
    return _timm_embedder(model, spec.architecture, said, device, backbone=model.backbone)


def _open_clip(spec: ModelSpec, weights: Path, device: str) -> Embedder:
    import open_clip
    from open_clip.transform import PreprocessCfg, image_transform_v2

    if spec.architecture not in open_clip.list_models():
        raise CareError(f"open_clip has no model {spec.architecture!r}")
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)  # it warns of random weights; ours come next
    try:
        model = open_clip.create_model(spec.architecture, pretrained=None, load_weights=False)
    finally:
        logging.disable(before)
    _load(model, checkpoints.load_state(weights), weights)
    said = {key: list(value) for key, value in _said(spec).items() if key in ("mean", "std")}
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
    return Embedder(model.visual, image_transform_v2(preprocess, is_train=False), settings, device)


def _said(spec: ModelSpec) -> dict[str, Any]:
    """The data configuration that a registry entry states."""
    return {key: getattr(spec, key) for key in ("input_size", "mean", "std") if getattr(spec, key) is not None}


def _timm_embedder(
    model: torch.nn.Module,
    architecture: str,
    said: dict[str, Any],
    device: str,
    backbone: torch.nn.Module | None = None,
) -> Embedder:
    """With timm's evaluation transform from the model's data configuration; what was `said` goes first."""
    from timm.data import create_transform, resolve_data_config

    said = dict(said)
    if isinstance(said.get("input_size"), int):
        said["input_size"] = (3, said["input_size"], said["input_size"])
    config = resolve_data_config(said, model=backbone or model)
    settings = {key: config[key] for key in DATA_KEYS if key in config}
    settings = {key: list(value) if isinstance(value, tuple) else value for key, value in settings.items()}
    settings |= {"architecture": architecture, "input_size": config["input_size"][-1]}
    return Embedder(model, create_transform(**config, is_training=False), settings, device)


def _classifier(model: torch.nn.Module) -> tuple[str, ...]:
    """Names of the layers that only classify: absent from a model that ends in its features."""
    names = (getattr(model, "pretrained_cfg", None) or {}).get("classifier") or ()
    return (names,) if isinstance(names, str) else tuple(names)


def _load(model: torch.nn.Module, state: dict[str, torch.Tensor], weights: Path, head: tuple[str, ...] = ()) -> None:
    """Strict but for the classifier, after timm's own translation of older names."""
    translate = getattr(sys.modules[type(model).__module__], "checkpoint_filter_fn", None)
    if translate is not None:
        state = translate(state, model)
    wanted = model.state_dict()
    extra = [n for n in state if n not in wanted and not any(n == h or n.startswith(f"{h}.") for h in head)]
    missing = [n for n in wanted if n not in state and not n.endswith("num_batches_tracked")]
    shapes = [n for n in wanted if n in state and state[n].shape != wanted[n].shape]
    for kind, names in (("lack", missing), ("have beside it", extra), ("differ in shape in", shapes)):
        if names:
            shown = ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
            raise CareError(f"the weights {weights.name} do not fit the model: they {kind} {shown}")
    model.load_state_dict({n: t for n, t in state.items() if n in wanted}, strict=False)
