"""Open set: does a model say that an animal is new when it is? Pure NumPy.

A seeded share of the individuals is unknown: all their crops ask, none of them answers. A query's score is its
highest similarity; from a threshold upward it is called known, as the animal of that crop, below it is called new.

BAKS   balanced accuracy on known samples: mean over known animals of the share of crops that are called known, by the
       right name (Picek et al. 2024, WildlifeDatasets)
BAUS   balanced accuracy on unknown samples: mean over unknown animals of the share that is called new
root   √(BAKS · BAUS)
AUROC  chance that a known query scores higher than an unknown one, equal scores counting half (Fawcett 2006)
EER    where as many unknown queries are taken for known as known ones for new, on the ROC curve's line
TPR5   share of known queries above the lowest threshold that takes at most 5 % of the unknown ones for known
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np

from care_cli.evaluation.protocols import Crops, Protocol, nearest, sides

SHARE = 0.3  # of the individuals, unknown
DRAWS = 10  # of who is unknown
LEAST_INDIVIDUALS = 4


@dataclass(frozen=True, eq=False)
class Faced:
    """Queries of known and unknown animals; columns of one length."""

    known: np.ndarray  # (Q,) bool, is the animal in the gallery?
    score: np.ndarray  # (Q,) float32, highest similarity; -inf: compared with nobody
    right: np.ndarray  # (Q,) bool, is the first answer the animal?
    individual: np.ndarray  # (Q,) str

    @staticmethod
    def joined(parts: Sequence[Faced]) -> Faced:
        """The queries of several."""
        return Faced(*(np.concatenate([getattr(part, column.name) for part in parts]) for column in fields(Faced)))


def unknown(individuals: np.ndarray, share: float, seed: int) -> np.ndarray:
    """Names of round(share · n) of the individuals, at least one and at most n - 1, drawn by `seed`; sorted."""
    names = np.unique(individuals)
    count = min(max(round(share * len(names)), 1), len(names) - 1)
    return np.sort(np.random.default_rng(seed).choice(names, count, replace=False))


def face(
    crops: Crops, vectors: np.ndarray, protocol: Protocol, new: np.ndarray, may_ask: np.ndarray | None = None
) -> Faced:
    """Ask with known animals' crops as the protocol says, and with all crops of those in `new`, which never answer.

    Known queries whose animal is not in the gallery (a single crop, or all others filtered) are left out.
    """
    is_new = np.isin(crops.individual, new)
    queries, gallery = sides(crops, protocol, may_ask)
    asking = np.union1d(queries, np.flatnonzero(is_new if may_ask is None else is_new & may_ask))
    own, other = nearest(crops, vectors, protocol, asking, gallery[~is_new[gallery]])
    known = ~is_new[asking]
    kept = ~known | np.isfinite(own)
    return Faced(known[kept], np.maximum(own, other)[kept], (own > other)[kept], crops.individual[asking][kept])


def at(faced: Faced, threshold: float) -> dict[str, float]:
    """`BAKS`, `BAUS` and `root` of a threshold; NaN where there is no known or no unknown animal."""
    taken = faced.score >= threshold
    baks = _balanced(faced.individual[faced.known], (faced.right & taken)[faced.known])
    baus = _balanced(faced.individual[~faced.known], ~taken[~faced.known])
    return {"BAKS": baks, "BAUS": baus, "root": float(np.sqrt(baks * baus))}


def best_threshold(faced: Sequence[Faced]) -> float:
    """The threshold with the highest mean of √(BAKS · BAUS) over several draws, in the middle of its gap of scores.

    Of equally good ones the lowest. NaN when no draw has both known and unknown animals.
    """
    parts = [one for one in faced if one.known.any() and not one.known.all()]
    if not parts:
        return float("nan")
    cuts = np.unique(np.concatenate([one.score[np.isfinite(one.score)] for one in parts]))
    cuts = np.append(cuts, np.inf)
    roots = np.mean([np.sqrt(np.maximum(_above(one, cuts) * _below(one, cuts), 0)) for one in parts], axis=0)
    best = int(np.argmax(roots))
    if best == len(cuts) - 1:
        return float(np.nextafter(cuts[-2], np.inf)) if len(cuts) > 1 else float("nan")
    return float(cuts[best] if best == 0 else (np.float64(cuts[best - 1]) + cuts[best]) / 2)


def separation(faced: Faced) -> dict[str, float]:
    """`AUROC`, `EER` and `TPR5` of the scores of known against unknown queries; NaN where one kind is missing."""
    known, new = np.sort(faced.score[faced.known]), np.sort(faced.score[~faced.known])
    if not len(known) or not len(new):
        return dict.fromkeys(("AUROC", "EER", "TPR5"), float("nan"))
    below, upto = np.searchsorted(new, known, "left"), np.searchsorted(new, known, "right")
    cuts = np.unique(faced.score)[::-1]
    taken_known = np.r_[0, 1 - np.searchsorted(known, cuts, "left") / len(known)]  # share with score >= cut
    taken_new = np.r_[0, 1 - np.searchsorted(new, cuts, "left") / len(new)]
    excess = taken_new - (1 - taken_known)  # rises from -1 to 1
    after = int(np.argmax(excess >= 0))
    share = -excess[after - 1] / (excess[after] - excess[after - 1])
    return {
        "AUROC": float((below + upto).mean() / 2 / len(new)),
        "EER": float(taken_new[after - 1] + share * (taken_new[after] - taken_new[after - 1])),
        "TPR5": float(taken_known[taken_new <= 0.05].max()),
    }


def _balanced(individuals: np.ndarray, hits: np.ndarray) -> float:
    names, member = np.unique(individuals, return_inverse=True)
    return float(np.mean(np.bincount(member, hits) / np.bincount(member))) if len(names) else float("nan")


def _weights(individuals: np.ndarray) -> np.ndarray:
    """Of each query, so that every animal weighs the same and all together 1."""
    names, member, counts = np.unique(individuals, return_inverse=True, return_counts=True)
    return 1 / counts[member] / len(names)


def _above(faced: Faced, cuts: np.ndarray) -> np.ndarray:
    """BAKS of each cut, `(T,)`."""
    weights = _weights(faced.individual[faced.known]) * faced.right[faced.known]
    return weights.sum() - _sums_below(faced.score[faced.known], weights, cuts)


def _below(faced: Faced, cuts: np.ndarray) -> np.ndarray:
    """BAUS of each cut, `(T,)`."""
    return _sums_below(faced.score[~faced.known], _weights(faced.individual[~faced.known]), cuts)


def _sums_below(score: np.ndarray, weights: np.ndarray, cuts: np.ndarray) -> np.ndarray:
    """Sum of the weights of scores below each cut, `(T,)`."""
    order = np.argsort(score)
    return np.r_[0, np.cumsum(weights[order])][np.searchsorted(score[order], cuts, "left")]
