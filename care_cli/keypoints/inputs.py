"""A crop's points as a network sees them, and what tells them from others."""

from __future__ import annotations

import hashlib
import json

import numpy as np

from care_cli.records import CropFrame, Keypoints, KeypointScheme

LEAST = 1e-3  # weight of a visible point, whatever its confidence: 0 would mean that it is absent


def shares(scheme: KeypointScheme, keypoints: Keypoints | None, frame: CropFrame) -> np.ndarray:
    """`(K,3) float32`, a row for each category of the scheme: x and y as shares of the crop's width and height, 0 and
    1 its edges, and a weight: the confidence, above 0 and up to 1. Points that are absent or not visible are zeros.
    """
    seen = _seen(scheme, keypoints)
    x, y, w, h = frame.rect
    places = (seen[:, :2] - [x, y]) / [w, h]
    return np.where(seen[:, 2:] > 0, np.column_stack([places, seen[:, 2]]), 0).astype(np.float32)


def points_hash(scheme: KeypointScheme, keypoints: Keypoints | None) -> str:
    """SHA-256 of the points of a crop that a network is shown: of the scheme's names, visible, image frame."""
    seen = _seen(scheme, keypoints)
    shown = [[name, *row] for name, row in zip(scheme.names, seen.tolist(), strict=True) if row[2] > 0]
    return hashlib.sha256(json.dumps(shown).encode()).hexdigest()


def _seen(scheme: KeypointScheme, keypoints: Keypoints | None) -> np.ndarray:
    """`(K,3) float64` by category: x and y px of the image frame, and the weight; zeros for what is not visible."""
    rows = np.zeros((len(scheme.names), 3))
    place = {name: i for i, name in enumerate(scheme.names)}
    if keypoints is not None:
        weights = np.clip(keypoints.confidence, LEAST, 1)
        for name, xy, weight, visible in zip(
            keypoints.names, keypoints.kp_image, weights, keypoints.visible, strict=True
        ):
            if visible and name in place:
                rows[place[name]] = *xy, weight
    return rows
