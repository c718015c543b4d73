"""Dense image features, whose cells know which part of an animal they show: diffusion models and timm backbones.

A new kind is a file here with a `load`, and a line in `EXTRACTORS`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

if TYPE_CHECKING:
    import torch

EXTRACTORS = {  # family of the registry -> what loads it
    "diffusers": "care_cli.features.diffusion:load",
    "timm": "care_cli.features.backbone:load",
}


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
