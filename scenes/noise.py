"""Smooth random fields, the raw material of coats, bark, leaves and ground."""

from __future__ import annotations

import numpy as np
from PIL import Image


def enlarge(field: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """A field `(h, w) float32` resampled smoothly to `shape` (rows, columns)."""
    return np.asarray(Image.fromarray(field).resize(shape[::-1], Image.Resampling.BICUBIC))


def smooth_noise(rng: np.random.Generator, shape: tuple[int, int], cells: tuple[int, int]) -> np.ndarray:
    """`shape` float32 of about zero mean and unit spread, with `cells` (rows, columns) independent cells."""
    rows, columns = (max(2, n) for n in cells)
    return enlarge(rng.standard_normal((rows, columns)).astype(np.float32), shape)


def fractal_noise(
    rng: np.random.Generator, shape: tuple[int, int], cells: tuple[int, int], octaves: int = 4, fade: float = 0.6
) -> np.ndarray:
    """Sum of `octaves` smooth fields, each twice as fine and `fade` times as strong; unit spread."""
    total = np.zeros(shape, np.float32)
    norm = 0.0
    for octave in range(octaves):
        finer = (cells[0] << octave, cells[1] << octave)
        total += smooth_noise(rng, shape, finer) * np.float32(fade**octave)
        norm += fade ** (2 * octave)
    return total / np.float32(norm**0.5)


def smoothstep(x: np.ndarray, low: float, high: float) -> np.ndarray:
    """0 below `low`, 1 above `high`, smooth between; `low` may be the larger one."""
    t = np.clip((x - low) / (high - low), 0.0, 1.0)
    return t * t * (3.0 - 2.0 * t)
