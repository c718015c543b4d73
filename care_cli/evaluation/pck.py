"""PCK: how many points that were carried from one animal to another lie near where they should, pure NumPy.

PCK@α is the share of points whose error is at most α times the longer side of the target's box (Yang & Ramanan 2013,
with the box of the animal as in Min et al. 2019, SPair-71k). Only points that are visible in both photos are asked.

Intervals are 95 % percentile bootstraps over clusters, which are individuals where they are named and photos
otherwise. An animal stands in many pairs, as source and as target, so that neither points nor pairs are independent:
animals are what is drawn, with replacement, and a pair counts as often as both of its ends were drawn, multiplied
(Snijders & Borgatti 1999).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np

from care_cli.errors import CareError

ALPHAS = (0.05, 0.1, 0.2)  # of the longer side of the target's box
HEADLINE = 0.1  # the α that settings are chosen by and worst points are named by
DRAWS = 1000  # of the bootstrap
LEAST_CLUSTERS = 3  # of fewer, every draw with a pair in it is the whole
LEAST_TARGETS = 5  # crops that a point is asked of: of fewer, its figure says too little for an interval


@dataclass(frozen=True, eq=False)
class Carried:
    """Points that were carried to crops where the truth is known: columns of one length N, a row a point.

    Lengths are shares of the longer side of the target's box, measured in px of the image frame.
    """

    pair: np.ndarray  # (N,) int, which transfer: one target with its reference(s)
    target: np.ndarray  # (N,) int, crop that the point was carried to
    source: np.ndarray  # (N,) int, crop that it was carried from
    target_cluster: np.ndarray  # (N,) str, individual or photo of the target
    source_cluster: np.ndarray  # (N,) str
    species: np.ndarray  # (N,) str
    name: np.ndarray  # (N,) str, of the point
    error: np.ndarray  # (N,) float64, distance to its own truth
    mirror_error: np.ndarray  # (N,) float64, distance to the truth of its mirror point; NaN where there is none
    kept: np.ndarray  # (N,) bool, what the matching's own gates call visible

    def __len__(self) -> int:
        return len(self.error)

    def where(self, rows: np.ndarray) -> Carried:
        """The rows that a mask or an index picks."""
        return Carried(*(getattr(self, column.name)[rows] for column in fields(self)))

    @staticmethod
    def joined(parts: Sequence[Carried]) -> Carried:
        """All rows of several."""
        return Carried(*(np.concatenate([getattr(part, column.name) for part in parts]) for column in fields(Carried)))


def measure(carried: Carried, alphas: Sequence[float] = ALPHAS, *, draws: int = DRAWS, seed: int = 0) -> dict:
    """PCK per point, per image and per pair, left/right confusions, and what the gates keep, each with its interval.

    `per_point`: all points alike. `per_image`: mean over target crops of the share of each. `per_pair`: mean over
    pairs of the share of each. `confused`: of the points whose mirror point is visible too, the share that lies
    within α of the mirror point's truth and nearer to it than to their own. `kept`: the share that the gates call
    visible, their PCK per point, and how much it lies above that of all. A measured figure is
    `{value, low, high}`; the ends are None of fewer than three clusters. Raises CareError
    without rows.
    """
    if not len(carried):
        raise CareError("There is no point to measure: no pair of annotated crops shares a visible point.")
    drawn = _Drawn(carried, draws, seed)
    kept = carried.where(carried.kept)
    return {
        "points": len(carried),
        "pairs": len(np.unique(carried.pair)),
        "images": len(np.unique(carried.target)),
        "clusters": len(drawn.labels),
        "pck": {
            str(alpha): {
                "per_point": drawn.of_points(carried, carried.error <= alpha),
                "per_image": drawn.of_images(carried, carried.error <= alpha),
                "per_pair": drawn.of_pairs(carried, carried.error <= alpha),
            }
            for alpha in alphas
        },
        "confused": {
            "points": int((~np.isnan(carried.mirror_error)).sum()),
            **{str(alpha): _confused(carried, drawn, alpha) for alpha in alphas},
        },
        "kept": {
            "share": drawn.of_points(carried, carried.kept),
            "pck": {str(alpha): drawn.of_points(kept, kept.error <= alpha) for alpha in alphas},
            "above_all": {
                str(a): _figure(drawn.ratios(kept, kept.error <= a) - drawn.ratios(carried, carried.error <= a))
                for a in alphas
            },
        },
    }


def by_point(
    carried: Carried, alphas: Sequence[float] = ALPHAS, *, draws: int = DRAWS, seed: int = 0
) -> dict[str, dict]:
    """For each name of a point: how often it was asked, of how many crops, its PCK, how often it lands on its mirror
    point within HEADLINE, and the share that the gates keep, as `measure` says them.

    The ends of intervals are also None of a point that was asked of fewer than LEAST_TARGETS crops.
    """
    found = {}
    for name in np.unique(carried.name).tolist():
        rows = carried.where(carried.name == name)
        targets = len(np.unique(rows.target))
        drawn = _Drawn(rows, draws if targets >= LEAST_TARGETS else 0, seed)
        found[name] = {
            "points": len(rows),
            "images": targets,
            "pck": {str(alpha): drawn.of_points(rows, rows.error <= alpha) for alpha in alphas},
            "confused": _confused(rows, drawn, HEADLINE),
            "kept": drawn.of_points(rows, rows.kept),
        }
    return found


def _confused(carried: Carried, drawn: _Drawn, alpha: float) -> dict[str, float | None]:
    paired = carried.where(~np.isnan(carried.mirror_error))
    on_mirror = (paired.mirror_error <= alpha) & (paired.mirror_error < paired.error)
    return drawn.of_points(paired, on_mirror)


def difference(
    one: Carried, other: Carried, alpha: float = HEADLINE, *, draws: int = DRAWS, seed: int = 0
) -> dict[str, float | None]:
    """PCK@α per point of `one` less that of `other`, over the same draws of its clusters: `{value, low, high}`.

    Raises CareError when the two do not hold the same points of the same pairs.
    """
    if not comparable(one, other):
        raise CareError("Two settings can be compared over the same points of the same pairs only.")
    drawn = _Drawn(one, draws, seed)
    first, second = (drawn.ratios(one, part.error <= alpha) for part in (one, other))
    return _figure(first - second)


def comparable(one: Carried, other: Carried) -> bool:
    """Do the two hold the same points of the same targets, in the same order (perhaps from more references)?"""
    same = ("pair", "target", "name")
    return len(one) == len(other) and all((getattr(one, each) == getattr(other, each)).all() for each in same)


class _Drawn:
    """How often each cluster was drawn: `weights (1 + B, C)`, the first row of ones for the figure itself."""

    def __init__(self, carried: Carried, draws: int, seed: int):
        self.labels = np.unique(np.concatenate([carried.source_cluster, carried.target_cluster]))
        count = len(self.labels)
        draws = draws if count >= LEAST_CLUSTERS else 0
        drawn = np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), size=draws)
        self.weights = np.concatenate([np.ones((1, count)), drawn])

    def places(self, clusters: np.ndarray) -> np.ndarray:
        return np.searchsorted(self.labels, clusters)

    def ratios(self, rows: Carried, hits: np.ndarray) -> np.ndarray:
        """Weighted share of hits `(N,)`, for each row of the weights: `(1 + B,)`; NaN where nothing was drawn."""
        at = self.places(rows.source_cluster), self.places(rows.target_cluster)
        good, all_ = np.zeros((2, len(self.labels), len(self.labels)))
        np.add.at(good, at, hits)
        np.add.at(all_, at, 1.0)
        with np.errstate(invalid="ignore"):
            return ((self.weights @ good) * self.weights).sum(1) / ((self.weights @ all_) * self.weights).sum(1)

    def of_points(self, rows: Carried, hits: np.ndarray) -> dict[str, float | None]:
        return _figure(self.ratios(rows, hits))

    def of_pairs(self, rows: Carried, hits: np.ndarray) -> dict[str, float | None]:
        _, first, pair, sizes = np.unique(rows.pair, return_index=True, return_inverse=True, return_counts=True)
        return _figure(self.ratios(rows.where(first), np.bincount(pair, hits) / sizes))

    def of_images(self, rows: Carried, hits: np.ndarray) -> dict[str, float | None]:
        _, first, image = np.unique(rows.target, return_index=True, return_inverse=True)
        source = self.places(rows.source_cluster)
        good, all_ = np.zeros((2, len(self.labels), len(first)))
        np.add.at(good, (source, image), hits)
        np.add.at(all_, (source, image), 1.0)
        seen = self.weights @ all_
        share = np.divide(self.weights @ good, seen, out=np.zeros_like(seen), where=seen > 0)
        times = self.weights[:, self.places(rows.target_cluster[first])] * (seen > 0)
        with np.errstate(invalid="ignore"):
            return _figure((share * times).sum(1) / times.sum(1))


def _figure(ratios: np.ndarray) -> dict[str, float | None]:
    """A figure and the middle 95 % of what its draws gave."""
    drawn = ratios[1:][np.isfinite(ratios[1:])]
    low, high = np.percentile(drawn, [2.5, 97.5]) if len(drawn) > 1 else (None, None)
    value = ratios[0] if np.isfinite(ratios[0]) else None
    return {name: None if x is None else float(x) for name, x in (("value", value), ("low", low), ("high", high))}
