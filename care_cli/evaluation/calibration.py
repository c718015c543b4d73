"""From similarity to probability: curves fitted to pairs of crops, how far they can be believed, and thresholds.

A pair is a query and the candidate that came first, as `identify` answers. Every query asks twice: with its own
animal among the others (a known one), and without it (a new one). Known and new weigh the same, so that a
probability is that of an animal of which nothing is known beforehand, least of all whether it was met before.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np

from care_cli.errors import CareError
from care_cli.evaluation.open_set import Faced

METHODS = ("isotonic", "logistic")
LEAST_PAIRS = 20  # known queries; the errors of fewer are as large as what they are to tell
LEAST_INDIVIDUALS = 10  # that these are of
BINS = 10  # of the reliability curve
FOLDS = 5
LOGITS = np.linspace(-8, 8, 65)  # where a logistic curve is kept: between them it is 0.001 from straight at most


@dataclass(frozen=True, eq=False)
class Pairs:
    """N queries with their first candidates.

    similarity  (N,) float, of the candidate
    same        (N,) bool, whether it is the animal that was asked about
    known       (N,) bool, whether that animal was among the others
    individual  (N,) int64, who was asked about
    candidate   (N,) int64, who came first
    """

    similarity: np.ndarray
    same: np.ndarray
    known: np.ndarray
    individual: np.ndarray
    candidate: np.ndarray

    def __len__(self) -> int:
        return len(self.similarity)

    def __getitem__(self, rows: np.ndarray) -> Pairs:
        return Pairs(**{field.name: getattr(self, field.name)[rows] for field in fields(self)})

    @property
    def faced(self) -> Faced:
        """The pairs as an open-set examination sees them."""
        return Faced(self.known, self.similarity, self.same, self.individual)

    @property
    def weights(self) -> np.ndarray:
        """`(N,) float64`, of mean 1: known and new ones weigh the same together."""
        return _halved(self.known, np.ones(len(self)))


@dataclass(frozen=True, eq=False)
class Curve:
    """Probability by similarity: straight between the nodes `(K,) float64`, level beyond the first and the last."""

    similarity: np.ndarray
    probability: np.ndarray

    def __call__(self, similarity: np.ndarray) -> np.ndarray:
        """Probabilities of similarities, of any shape."""
        return np.interp(similarity, self.similarity, self.probability)


def require(pairs: Pairs) -> None:
    """CareError when there are too few known queries, or of too few individuals, to fit anything to."""
    queries, individuals = int(pairs.known.sum()), len(np.unique(pairs.individual[pairs.known]))
    if queries < LEAST_PAIRS or individuals < LEAST_INDIVIDUALS:
        raise CareError(
            f"Calibration needs at least {LEAST_PAIRS} crops of animals that were met at another event too, of at "
            f"least {LEAST_INDIVIDUALS} animals, but there are {queries} such crops of {individuals} animals."
        )


def fit(pairs: Pairs, method: str = "isotonic", weights: np.ndarray | None = None) -> Curve:
    """The probability that a pair shows one animal, never falling with its similarity.

    'isotonic': the non-decreasing steps of least squared error (Barlow et al. 1972), each step a node at its mean
    similarity. One imagined exception at either end, a pair of two animals as similar as any and a pair of one as
    dissimilar as any, keeps probabilities from 0 and 1, as Laplace's rule of succession does. 'logistic': Platt's
    1 / (1 + exp(-(a s + b))) with his targets (N+ + 1) / (N+ + 2) and 1 / (N- + 2) (1999). `weights (N,)` are the
    pairs' own unless they are given. Raises CareError for another method.
    """
    if method not in METHODS:
        raise CareError(f"--method is one of {', '.join(METHODS)}, but got {method!r}.")
    similarity, same = np.asarray(pairs.similarity, np.float64), pairs.same
    weights = pairs.weights if weights is None else weights
    return _isotonic(similarity, same, weights) if method == "isotonic" else _logistic(similarity, same, weights)


def _isotonic(similarity: np.ndarray, same: np.ndarray, weights: np.ndarray) -> Curve:
    from sklearn.isotonic import isotonic_regression

    x = np.concatenate([similarity, [similarity.max(), similarity.min()]])
    y = np.concatenate([same, [0.0, 1.0]])
    w = np.concatenate([weights, [1.0, 1.0]])
    values, place = np.unique(x, return_inverse=True)
    weight = np.bincount(place, w)
    fitted = isotonic_regression(np.bincount(place, w * y) / weight, sample_weight=weight)
    steps, step = np.unique(fitted, return_inverse=True)
    return Curve(np.bincount(step, weight * values) / np.bincount(step, weight), steps)


def _logistic(similarity: np.ndarray, same: np.ndarray, weights: np.ndarray) -> Curve:
    from sklearn.linear_model import LogisticRegression

    right, wrong = weights[same].sum(), weights[~same].sum()
    target = np.where(same, (right + 1) / (right + 2), 1 / (wrong + 2))
    middle, spread = similarity.mean(), similarity.std() or 1.0
    x = np.tile((similarity - middle) / spread, 2)[:, None]
    y = np.repeat([1, 0], len(similarity))
    model = LogisticRegression(C=np.inf).fit(x, y, np.concatenate([weights * target, weights * (1 - target)]))
    slope, offset = model.coef_[0, 0], model.intercept_[0]
    if slope <= 0:  # similarity tells nothing, or the wrong thing
        return Curve(np.array([middle]), np.array([np.average(target, weights=weights)]))
    return Curve(middle + spread * (LOGITS - offset) / slope, 1 / (1 + np.exp(-LOGITS)))


def cross_validated(pairs: Pairs, method: str = "isotonic", folds: int = FOLDS, seed: int = 0) -> np.ndarray:
    """Probabilities `(N,) float64` of pairs by curves that know neither animal of theirs.

    Individuals are dealt into `folds`; the curve for a pair is fitted to those pairs of which no animal is in the fold
    of either, one curve for each two folds. A pair of two animals is left by chance less often than a pair of one, and
    weighs the more for it, so that the base rate stays what it was. NaN where no pair is left.
    """
    everybody = np.unique(np.concatenate([pairs.individual, pairs.candidate]))
    fold = np.random.default_rng(seed).permutation(len(everybody)) % folds
    asked, first = (fold[np.searchsorted(everybody, who)] for who in (pairs.individual, pairs.candidate))
    probability = np.full(len(pairs), np.nan)
    low, high = np.minimum(asked, first), np.maximum(asked, first)
    for one, other in sorted(set(zip(low.tolist(), high.tolist(), strict=True))):
        out = [one, other]
        apart, held = ~np.isin(asked, out) & ~np.isin(first, out), (low == one) & (high == other)
        if apart.any():
            left = pairs[apart]
            kept = 1 - len(set(out)) / folds  # the share of animals of whom pairs are left
            weights = _halved(left.known, np.where(left.individual == left.candidate, 1.0, 1 / kept))
            probability[held] = fit(left, method, weights)(pairs.similarity[held])
    return probability


def _halved(known: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Weights of mean 1 of which known and new ones have a half each; of one kind alone, all."""
    total = np.where(known, weights[known].sum(), weights[~known].sum())
    return weights * len(known) / total / len(set(known.tolist()))


def reliability(probability: np.ndarray, same: np.ndarray, weights: np.ndarray, bins: int = BINS) -> list[dict]:
    """Said against seen, in `bins` equal spans of probability; spans without pairs are left out.

    Of each span `low`, `high`, its number of `pairs`, their `weight` as a share of all, the mean `probability` that
    was said, and `same`, the share that showed one animal. NaN probabilities are left out.
    """
    there = np.isfinite(probability)
    probability, same, weights = probability[there], same[there], weights[there]
    span = np.minimum((probability * bins).astype(np.int64), bins - 1)
    rows = []
    for number in np.unique(span):
        of = span == number
        rows.append({
            "low": float(number / bins), "high": float((number + 1) / bins), "pairs": int(of.sum()),
            "weight": float(weights[of].sum() / weights.sum()),
            "probability": float(np.average(probability[of], weights=weights[of])),
            "same": float(np.average(same[of], weights=weights[of])),
        })  # fmt: skip
    return rows


def expected_calibration_error(spans: list[dict]) -> float:
    """ECE = Σ weight |seen - said| over the spans of `reliability` (Guo et al. 2017, eq. 3)."""
    return float(sum(span["weight"] * abs(span["same"] - span["probability"]) for span in spans))


def likely_from(curve: Curve, probability: float = 0.5) -> float:
    """The similarity from which the curve says at least `probability`; 1, that of a picture with itself, if never."""
    if curve.probability[-1] < probability:
        return 1.0
    return (
        -1.0
        if curve.probability[0] >= probability
        else float(np.interp(probability, curve.probability, curve.similarity))
    )


def false_positive_threshold(faced: Faced, rate: float) -> float:
    """The lowest threshold, in the middle of its gap of scores, with 1 - BAUS <= `rate`: so large a share of new
    animals, each weighing the same, is taken for known. Just above all of them when none may be.

    Raises CareError for a rate that is no share.
    """
    if not 0 < rate < 1:
        raise CareError(f"A false-positive rate lies between 0 and 1, but got {rate:g}.")
    cuts = np.unique(faced.score)
    _, who, count = np.unique(faced.individual[~faced.known], return_inverse=True, return_counts=True)
    order = np.argsort(faced.score[~faced.known])
    below = np.concatenate([[0.0], np.cumsum((1 / count[who] / len(count))[order])])
    taken = below[-1] - below[np.searchsorted(faced.score[~faced.known][order], cuts, "left")]
    [low_enough] = np.nonzero(taken <= rate + 1e-12)
    if not len(low_enough):
        return float(np.nextafter(cuts[-1], np.inf))
    first = low_enough[0]
    return float(cuts[0] if first == 0 else (np.float64(cuts[first - 1]) + cuts[first]) / 2)
