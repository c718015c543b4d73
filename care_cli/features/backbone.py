"""Dense features of timm's models: a stage of a CNN, or the patch tokens of a transformer's block."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from care_cli import checkpoints, encoders, engines
from care_cli.errors import CareError
from care_cli.features import FeatureConfig, refuse, whole_grid
from care_cli.records import ModelSpec
from care_cli.weights import digest

if TYPE_CHECKING:
    import torch

FINEST = 16  # px, stride of the stage that is taken unless one is named: deeper ones are too coarse for points
COSINE = 0.999  # from which two features of a cell are the same


class Backbone:
    """An `Extractor` of timm's family; see `features`. Made by `load`."""

    def __init__(self, engine: engines.Engine, about: dict[str, Any]):
        self.settings: dict[str, Any] = about["settings"]
        self.size, self.stride, self.channels = self.settings["size"], about["stride"], about["channels"]
        engine.plan(self.size, self.size)
        self.engine, self.device, self.precision = engine.name, engine.device, engine.precision
        self.batch = engine.batch
        self._engine = engine

    def __call__(self, images: np.ndarray, seeds: Sequence[int], prompt: str = "") -> torch.Tensor:
        """See `Extractor`; nothing here is drawn at random, and words are passed over."""
        import torch

        maps = self._engine(np.ascontiguousarray(np.moveaxis(images, 1, 3)))
        return torch.from_numpy(maps).to(self.device)


def load(
    spec: ModelSpec,
    weights: Path,
    cfg: FeatureConfig,
    device: str,
    *,
    engine: str = "auto",
    precision: str = "auto",
    notice: engines.Notice | None = None,
) -> Backbone:
    """The extractor that `spec` describes, with these weights; see `features.load_extractor`."""
    refuse(spec, cfg, "timestep", "ensemble")
    described = {key: getattr(spec, key) for key in ("family", "architecture", "input_size", "mean", "std")}
    running, about = engines.load(
        described | {"weights": digest(weights), "size": cfg.size, "block": cfg.block, "answers": "features"},
        lambda: load_network(spec, weights, cfg),
        device,
        name=spec.name,
        engine=engine,
        precision=precision,
        notice=notice,
    )
    return Backbone(running, about)


def load_network(spec: ModelSpec, weights: Path, cfg: FeatureConfig) -> engines.Network:
    """The graph: `(B,S,S,3) uint8` to `(B,C,h,w) float32`, rows before columns.

    `about` has `settings`, `stride` (px) and `channels`. Position embeddings learned at another size are resampled.
    Raises CareError when the weights do not fit, the size is no multiple of the stride, or there is no such block.
    """
    checkpoints.prepare_torch()
    import torch

    model = encoders.build_backbone(spec.architecture)
    settings, _ = encoders.as_timm_says(model, spec.architecture, encoders.stated(spec))
    own = model.pretrained_cfg["input_size"][-1]
    size = cfg.size or settings["input_size"]
    strides = [int(stage["reduction"]) for stage in model.feature_info]
    block = _block(spec, cfg.block, strides)
    whole_grid(spec, size, strides[block])
    if size != own and model.pretrained_cfg.get("fixed_input_size"):
        model = encoders.build_backbone(spec.architecture, img_size=size)
    state = checkpoints.load_state(weights)
    encoders.load_weights(model, state, weights, head=encoders.classifier_layers(model))
    module = encoders.normalising(_maps(model, block), settings["mean"], settings["std"])
    try:
        with torch.inference_mode():
            shape = module.float().eval()(torch.zeros((1, size, size, 3), dtype=torch.uint8)).shape
    except (RuntimeError, AssertionError, ValueError) as error:
        raise CareError(f"{spec.name} does not take photos of {size} px: {error}") from error
    about = {
        "settings": {
            "extractor": "timm",
            "architecture": spec.architecture,
            "size": size,
            "block": block,
            "mean": settings["mean"],
            "std": settings["std"],
        },
        "stride": size / shape[2],
        "channels": shape[1],
    }
    return engines.Network(module, about, ((size, size), (size, size)), _agree)


def _block(spec: ModelSpec, asked: int | None, strides: list[int]) -> int:
    """Which stage or block, from 0: the one asked for, else the deepest whose cells are not too coarse."""
    if asked is None:
        return max((i for i, stride in enumerate(strides) if stride <= FINEST), default=len(strides) - 1)
    if not -len(strides) <= asked < len(strides):
        raise CareError(f"{spec.name} has {len(strides)} blocks, 0 to {len(strides) - 1}, but got --block {asked}.")
    return asked % len(strides)


def _maps(model: torch.nn.Module, block: int) -> torch.nn.Module:
    """The model up to a block; class and register tokens are left out."""
    import torch

    class Maps(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return self.model.forward_intermediates(
                images, indices=[block], norm=True, stop_early=True, output_fmt="NCHW", intermediates_only=True
            )[0]

    return Maps()


def _agree(expected: np.ndarray, answer: np.ndarray) -> bool:
    norms = np.linalg.norm(expected, axis=1) * np.linalg.norm(answer, axis=1)
    return bool(((expected * answer).sum(1) >= COSINE * norms).all())
