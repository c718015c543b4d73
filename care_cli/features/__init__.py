"""Dense image features, whose cells know which part of an animal they show: diffusion models and timm backbones.

A new kind is a file here with a `load`, and a line in `EXTRACTORS`.
"""

from __future__ import annotations

import pkgutil
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from care_cli import registry
from care_cli.engines import Notice
from care_cli.errors import CareError
from care_cli.records import ModelSpec

if TYPE_CHECKING:
    import torch
    from PIL import Image

EXTRACTORS = {  # family of the registry -> what loads it
    "cleandift": "care_cli.features.diffusion:load_clean",
    "diffusers": "care_cli.features.diffusion:load",
    "timm": "care_cli.features.backbone:load",
}
WORDED = ("cleandift", "diffusers")  # families whose features depend on a prompt


@dataclass(frozen=True)
class FeatureConfig:
    """What can be said about features; None leaves a value to the extractor, and what it has not is refused."""

    size: int | None = None  # px, side of the square that a crop is squashed to
    block: int | None = None  # diffusion: up-block of the U-Net, from 0; timm: stage or block, from 0, -1 the last
    timestep: int | None = None  # diffusion: how much noise is added, 0..999
    ensemble: int | None = None  # diffusion: draws of noise whose features are averaged


class Extractor(Protocol):
    """A network whose features are asked for, cell by cell. Made by `load_extractor`.

    A cell `(row, column)` of a map is centred at `((column + 0.5) * stride, (row + 0.5) * stride)` px of the input.
    """

    engine: str  # torch | openvino
    size: int  # px, side S of the square input
    stride: float  # px of the input a cell is wide
    channels: int  # C
    batch: int  # crops that it likes in a call
    device: str
    precision: str  # float32 | bfloat16 | float16
    settings: dict[str, Any]  # plain JSON: all that changes features beside the weights, the prompt and the precision

    def __call__(self, images: np.ndarray, seeds: Sequence[int], prompt: str = "") -> torch.Tensor:
        """Features `(B,C,h,w) float32`, on `device`, of crops `(B,3,S,S) uint8` RGB.

        `seeds (B,)`, one a crop, fix whatever is drawn at random: the same crop, seed and prompt give the same
        features, whatever else is in the batch. `prompt` says what the crops show; extractors without words
        pass it over.
        """
        ...


def gives_features(spec: ModelSpec) -> bool:
    """Is there an extractor for this kind of model?"""
    return spec.family in EXTRACTORS and spec.task in ("diffusion", "embedder")


def has_words(spec: ModelSpec) -> bool:
    """Do its features depend on what it is told that crops show?"""
    return spec.family in WORDED


def load_extractor(
    spec: ModelSpec,
    cfg: FeatureConfig = FeatureConfig(),
    device: str = "cpu",
    *,
    engine: str = "auto",
    precision: str = "auto",
    notice: Notice | None = None,
) -> Extractor:
    """The extractor that `spec` describes, with its verified weights; never touches the network.

    `device` is torch's name; `engine` and `precision` as `engines.choose` takes them; `notice` is told what takes long
    or is not as asked. Raises CareError when the weights are not on this machine (naming the `care models pull` to
    run) or do not fit, when the model gives no features, and for a setting that it has not or that is out of range.
    """
    if not gives_features(spec):
        raise CareError(
            f"{spec.name} gives no features for points: its task is {spec.task}, its family {spec.family}. "
            f"Known families are {', '.join(EXTRACTORS)}, e.g. --extractor sd or --extractor dinov2-base."
        )
    for name, value in (("size", cfg.size), ("ensemble", cfg.ensemble)):
        if value is not None and value < 1:
            raise CareError(f"--{name} is at least 1, but got {value}.")
    if cfg.timestep is not None and cfg.timestep < 0:
        raise CareError(f"--timestep is 0 (no noise) or more, but got {cfg.timestep}.")
    load = pkgutil.resolve_name(EXTRACTORS[spec.family])
    return load(spec, registry.fetch(spec), cfg, device, engine=engine, precision=precision, notice=notice)


def prepare(image: Image.Image, size: int) -> np.ndarray:
    """A picture of any mode squashed to the input frame: `(3, size, size) uint8` RGB, bicubic."""
    from PIL import Image

    squashed = image.convert("RGB").resize((size, size), Image.Resampling.BICUBIC)
    return np.ascontiguousarray(np.moveaxis(np.asarray(squashed), 2, 0))


def seed_of(jpeg_sha256: bytes | str) -> int:
    """The noise's seed for a crop, 0 .. 2**32 - 1, from the SHA-256 of its stored bytes (raw or hexadecimal)."""
    digest = bytes.fromhex(jpeg_sha256) if isinstance(jpeg_sha256, str) else jpeg_sha256
    return int.from_bytes(digest[:4], "big")


def refuse(spec: ModelSpec, cfg: FeatureConfig, *names: str) -> None:
    """CareError when a setting is given that this kind of extractor has not."""
    for name in names:
        if getattr(cfg, name) is not None:
            raise CareError(f"--{name} is for diffusion models; {spec.name} ({spec.family}) has none: leave it out.")


def whole_grid(spec: ModelSpec, size: int, step: int) -> None:
    """CareError unless the input's side is a whole number of the network's steps of `step` px."""
    if size % step:
        below = max(size // step, 1) * step
        raise CareError(
            f"--size must be a multiple of {step} px for {spec.name}, but got {size}; try {below} or {below + step}."
        )
