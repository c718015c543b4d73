"""How far a figure can be trusted: over seeds of training, and over the animals that happened to be examined.

Seeds: mean ± t_{0.975, n-1} · s / √n (Student 1908). Animals: the percentile bootstrap over individuals (Efron 1979;
clusters as in Field & Welsh 2007), for photos of one animal are not independent. The gallery stays as it is; what is
drawn again is whose queries count.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

DRAWS = 1000
LEAST_CLUSTERS = 3  # of fewer animals, draws say nothing


def t_interval(values: Sequence[float]) -> dict:
    """`{mean, half, values}`: half the width of the 95 % interval of the mean, sd with n - 1; None of one value."""
    numbers = np.asarray(values, float)
    half = None
    if len(numbers) > 1:
        from scipy.special import stdtrit

        half = float(stdtrit(len(numbers) - 1, 0.975) * numbers.std(ddof=1) / np.sqrt(len(numbers)))
    return {"mean": float(numbers.mean()), "half": half, "values": numbers.tolist()}


def drawn(clusters: int, draws: int = DRAWS, seed: int = 0) -> np.ndarray:
    """How often each of C clusters counts, `(1 + draws, C) float64`: once each, then as drawn with replacement.

    Of fewer than LEAST_CLUSTERS the first row alone.
    """
    draws = draws if clusters >= LEAST_CLUSTERS else 0
    ones = np.ones((1, clusters))
    if not draws:
        return ones
    again = np.random.default_rng(seed).multinomial(clusters, np.full(clusters, 1 / clusters), size=draws)
    return np.concatenate([ones, again])


def ends(values: np.ndarray) -> tuple[float | None, float | None]:
    """The middle 95 % of what draws gave: `values (1 + B,)`, the first of which is the figure itself."""
    again = values[1:][np.isfinite(values[1:])]
    if len(again) < 2:
        return None, None
    low, high = np.percentile(again, [2.5, 97.5])
    return float(low), float(high)
