"""How far a figure can be trusted: over seeds of training, and over the animals that happened to be examined.

Seeds: mean ± t_{0.975, n-1} · s / √n (Student 1908). Animals: the percentile bootstrap over individuals (Efron 1979;
clusters as in Field & Welsh 2007), for photos of one animal are not independent. The gallery stays as it is; what is
drawn again is whose queries count.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from care_cli.evaluation.metrics import figures

Columns = Mapping[str, np.ndarray]  # what each query adds to each metric: `metrics.columns`

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


def summary(models: Sequence[Columns], individuals: np.ndarray, seed: int = 0) -> dict[str, dict]:
    """Of each metric over models that differ in their seeds: `{mean, half, values, low, high}`.

    `half` and `values` are over seeds (`t_interval`), `low` and `high` over animals, of what the models say on
    average. `models` hold what each of the same queries adds (`metrics.columns`), `individuals (Q,)` whose they are.
    """
    each = [figures(values, individuals) for values in models]
    over = figures(_averaged(models), individuals, drawn(animals(models[0], individuals), seed=seed))
    return {name: _figure([float(one[name][0]) for one in each], over[name]) for name in over}


def difference(
    one: Sequence[Columns], other: Sequence[Columns], individuals: np.ndarray, seeds: int = 0, seed: int = 0
) -> dict[str, dict]:
    """Of each metric by how much the models of `one` lie above those of `other`, asked the same.

    `{mean, half, values, low, high}` as of `summary`. `low` and `high` are of the paired bootstrap over animals of what
    each side says on average; `half` is Student's over the differences seed by seed, where the first `seeds` models
    of both were trained with the same seeds and there are two or more, else None.
    """
    weights = drawn(animals(one[0], individuals), seed=seed)
    above, below = (figures(_averaged(models), individuals, weights) for models in (one, other))
    pairs = (
        [(figures(a, individuals), figures(b, individuals)) for a, b in zip(one[:seeds], other[:seeds], strict=True)]
        if seeds > 1
        else []
    )
    return {
        name: _figure([float(a[name][0] - b[name][0]) for a, b in pairs] or [float(over[0])], over)
        for name, over in ((name, above[name] - below[name]) for name in above)
    }


def animals(values: Columns, individuals: np.ndarray) -> int:
    """How many animals have a query with a right crop."""
    return len(np.unique(np.asarray(individuals)[~np.isnan(values["top1"])]))


def _averaged(models: Sequence[Columns]) -> Columns:
    return {name: np.mean([values[name] for values in models], axis=0) for name in models[0]}


def _figure(values: Sequence[float], over: np.ndarray) -> dict:
    low, high = ends(over)
    return {**t_interval(values), "low": low, "high": high}
