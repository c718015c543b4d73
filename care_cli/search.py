"""Exact nearest neighbours by cosine."""

from __future__ import annotations

import numpy as np


def similarities(queries: np.ndarray, gallery: np.ndarray) -> np.ndarray:
    """Cosine of unit vectors `queries (Q, D) float32` with `gallery (G, D) float32`: `(Q, G) float32`."""
    return np.asarray(queries, np.float32) @ np.asarray(gallery, np.float32).T
