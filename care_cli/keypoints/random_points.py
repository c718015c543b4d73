"""Points drawn at random on the animal: the baseline that named points are held against."""

from __future__ import annotations

import numpy as np

from care_cli.errors import CareError
from care_cli.geometry import Box
from care_cli.records import NamedPoint


def propose(box: Box, count: int, seed: int = 0) -> list[NamedPoint]:
    """`count` points, uniform in `box`, called point_1, point_2, ...; in the box's own frame.

    The same box, count and seed give the same points. Raises CareError when `count` is below 1 or `seed` below 0.
    """
    if count < 1 or seed < 0:
        raise CareError(f"Random points need a count from 1 and a seed from 0, but got {count} and {seed}.")
    drawn = np.array(box[:2]) + np.random.default_rng(seed).random((count, 2)) * box[2:]
    return [NamedPoint(f"point_{i}", float(x), float(y)) for i, (x, y) in enumerate(drawn, 1)]
