"""What a training learns from: labelled crops, as pixels and as points."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from care_cli.records import KeypointScheme


class Photos(Protocol):
    """Crops squashed to squares: `len(photos)` of them, `photos[rows (B,) int64]` is `(B, S, S, 3) uint8` RGB."""

    def __len__(self) -> int: ...

    def __getitem__(self, rows: np.ndarray) -> np.ndarray: ...


@dataclass(frozen=True, eq=False)
class LabelledCrops:
    """N crops of C individuals.

    photos  `Photos`, or `(N, S, S, 3) uint8` RGB
    labels  (N,) int64, 0..C-1
    points  (N, K, 3) float32: x and y as shares 0..1 of the crop's width and height, and a weight: 0 absent, else the
            confidence in (0, 1]; column k is `scheme.names[k]`
    """

    photos: Photos | np.ndarray
    labels: np.ndarray
    points: np.ndarray | None = None
    scheme: KeypointScheme | None = None
