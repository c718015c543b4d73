"""From similarity to probability: curves fitted to pairs of crops, how far they can be believed, and thresholds.

A pair is a query and the candidate that came first, as `identify` answers. Every query asks twice: with its own
animal among the others (a known one), and without it (a new one). Known and new weigh the same, so that a
probability is that of an animal of which nothing is known beforehand, least of all whether it was met before.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np

from care_cli.errors import CareError

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
    def weights(self) -> np.ndarray:
        """`(N,) float64`, of mean 1: known and new ones weigh the same together."""
        count = np.where(self.known, self.known.sum(), (~self.known).sum())
        return len(self) / 2 / count if self.known.any() and not self.known.all() else np.ones(len(self))


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


def fit(pairs: Pairs, method: str = "isotonic") -> Curve:
    """The probability that a pair shows one animal, never falling with its similarity.

    'isotonic': the non-decreasing steps of least squared error (Barlow et al. 1972), each step a node at its mean
    similarity. One imagined exception at either end, a pair of two animals as similar as any and a pair of one as
    dissimilar as any, keeps probabilities from 0 and 1, as Laplace's rule of succession does. 'logistic': Platt's
    1 / (1 + exp(-(a s + b))) with his targets (N+ + 1) / (N+ + 2) and 1 / (N- + 2) (1999). Raises CareError for
    another method.
    """
    if method not in METHODS:
        raise CareError(f"--method is one of {', '.join(METHODS)}, but got {method!r}.")
    similarity, same, weights = np.asarray(pairs.similarity, np.float64), pairs.same, pairs.weights
    return _isotonic(similarity, same, weights) if method == "isotonic" else _logistic(similarity, same, weights)


def _isotonic(similarity: np.ndarray, same: np.ndarray, weights: np.ndarray) -> Curve:
    from sklearn.isotonic import IsotonicRegression

    x = np.concatenate([similarity, [similarity.max(), similarity.min()]])
    y = np.concatenate([same, [0.0, 1.0]])
    w = np.concatenate([weights, [1.0, 1.0]])
    steps, step = np.unique(IsotonicRegression().fit_transform(x, y, w), return_inverse=True)
    return Curve(np.bincount(step, w * x) / np.bincount(step, w), steps)


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

    Individuals are dealt into `folds`; the curve for one is fitted to the pairs of which no animal is in it. NaN
    where that leaves none.
    """
    everybody = np.unique(np.concatenate([pairs.individual, pairs.candidate]))
    fold = np.random.default_rng(seed).permutation(len(everybody)) % folds
    asked, first = (fold[np.searchsorted(everybody, who)] for who in (pairs.individual, pairs.candidate))
    probability = np.full(len(pairs), np.nan)
    for number in range(folds):
        apart, held = (asked != number) & (first != number), asked == number
        if apart.any():
            probability[held] = fit(pairs[apart], method)(pairs.similarity[held])
    return probability


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


# -- thresholds


def balanced_shares(pairs: Pairs, cuts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """BAKS and BAUS `(C,) float64` when the first candidate is believed from each of `cuts (C,)` upward.

    BAKS: of known animals the share that is believed and right; BAUS: of new ones the share that is not believed.
    Every individual weighs the same in each (balanced accuracy on known and unknown samples, WildlifeDatasets).
    """
    known, new = pairs.known, ~pairs.known
    right = known & pairs.same
    baks = _mass(pairs.similarity[right], _evenly(pairs.individual[known])[pairs.same[known]], cuts)
    missed = _mass(pairs.similarity[new], _evenly(pairs.individual[new]), cuts)
    return baks, 1 - missed


def _evenly(individual: np.ndarray) -> np.ndarray:
    """Weights `(N,)` that add up to 1, each individual's to the same."""
    _, who, count = np.unique(individual, return_inverse=True, return_counts=True)
    return 1 / count[who] / max(1, len(count))


def _mass(values: np.ndarray, weights: np.ndarray, cuts: np.ndarray) -> np.ndarray:
    """What the values from each cut upward weigh together."""
    order = np.argsort(values)
    below = np.concatenate([[0.0], np.cumsum(weights[order])])
    return below[-1] - below[np.searchsorted(values[order], cuts, "left")]


def possible_cuts(pairs: Pairs) -> np.ndarray:
    """All cuts that differ in what they believe: everything, between any two similarities, nothing."""
    values = np.unique(np.asarray(pairs.similarity, np.float64))
    return np.concatenate([values[:1], (values[1:] + values[:-1]) / 2, [np.nextafter(values[-1], np.inf)]])


def balanced_threshold(pairs: Pairs) -> float:
    """The cut of the greatest √(BAKS · BAUS), in the middle of its gap; of several the one in the widest gap."""
    cuts = possible_cuts(pairs)
    baks, baus = balanced_shares(pairs, cuts)
    value = np.sqrt(baks * baus)
    best = np.flatnonzero(value >= value.max() - 1e-12)
    gaps = np.concatenate([[0.0], np.diff(np.unique(np.asarray(pairs.similarity, np.float64))), [0.0]])
    return float(cuts[best[np.argmax(gaps[best])]])


def false_positive_threshold(pairs: Pairs, rate: float) -> float:
    """The least cut at which at most the share `rate` of new animals, each weighing the same, is taken for known.

    Raises CareError for a rate that is no share.
    """
    if not 0 < rate < 1:
        raise CareError(f"A false-positive rate lies between 0 and 1, but got {rate:g}.")
    cuts = possible_cuts(pairs)
    _, baus = balanced_shares(pairs, cuts)
    return float(cuts[np.flatnonzero(1 - baus <= rate + 1e-12)[0]])
