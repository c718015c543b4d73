"""From similarities to an answer: one score per individual, and known, new or unsure. No I/O."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

SCORES = ("best", "mean", "vote")


@dataclass(frozen=True)
class Candidate:
    """One individual as an answer: its score and the gallery entry that speaks most for it."""

    individual: str
    similarity: float  # cosine, by the chosen score
    index: int  # of the best gallery entry
    probability: float | None = None  # that it is the animal; None: the model is not calibrated


@dataclass(frozen=True)
class Thresholds:
    """From `known` upward the best candidate is the animal, below `new` it is none of them; unsure between."""

    known: float
    new: float


@dataclass(frozen=True)
class Calibration:
    """What a model's similarities mean: the probability that a first candidate is the animal.

    It is straight between the nodes (`similarity`, `probability`), both ascending, and level beyond them.
    """

    similarity: tuple[float, ...]
    probability: tuple[float, ...]
    thresholds: Thresholds
    species: str | None = None  # that it was made for; None: all together
    pairs: int = 0  # that it rests on
    individuals: int = 0  # that these are of
    ece: float = 0.0  # expected calibration error, by curves that know neither individual of a pair


def rank(
    similarity: np.ndarray, individuals: Sequence[str], score: str = "best", m: int = 3, k: int = 5
) -> list[Candidate]:
    """Individuals by how well a query matches them, best first; ties by name.

    `similarity (G,) float` is the query's cosine with each gallery entry, `individuals (G,)` their names.
    `score` is 'best' (the best match), 'mean' (of the m best matches, or as many as there are), or 'vote'
    (how many of the k nearest entries are the individual's; ties by the mean of those; the similarity given
    is that mean, and individuals without a vote follow by their best match).
    """
    by_individual: dict[str, list[int]] = {}
    order = np.argsort(-np.asarray(similarity), kind="stable")
    for index in order:
        by_individual.setdefault(individuals[index], []).append(int(index))
    nearest = set(order[:k].tolist())
    ranked = []
    for name, entries in by_individual.items():
        voters = [entry for entry in entries if entry in nearest] if score == "vote" else []
        counted = voters or entries[: m if score == "mean" else 1]
        value = float(np.mean(similarity[counted]))
        ranked.append((-len(voters), -value, name, Candidate(name, value, entries[0])))
    return [candidate for *_, candidate in sorted(ranked, key=lambda entry: entry[:3])]


def with_probabilities(candidates: Sequence[Candidate], calibration: Calibration) -> list[Candidate]:
    """Candidates, the first one first, with the probability that each is the animal.

    If the first is not the animal, the second is the first of those that remain: p_j = f(s_j) Π_{i<j} (1 - f(s_i)),
    where f is the calibration. What is missing to 1 is the probability that it is none of them.
    """
    said, left = [], 1.0
    for one in candidates:
        first = float(np.interp(one.similarity, calibration.similarity, calibration.probability))
        said.append(replace(one, probability=left * first))
        left *= 1 - first
    return said


def shortlist(
    similarity: np.ndarray,
    individuals: np.ndarray,
    error: float,
    top: int,
    score: str = "best",
    m: int = 3,
    k: int = 5,
) -> np.ndarray:
    """Gallery entries `(S,) int64`, ascending, that decide who the first `top` individuals are.

    `similarity (G,) float` is at most `error` off the true one, `individuals (G,) int` are small positive
    numbers. `rank` of the true similarities of these entries alone begins with the same `top` candidates as
    `rank` of all. For an individual's score is at most `error` off too, so that whoever is among the first has one
    at most twice that below the top-th of the approximate scores; and an individual's m best entries are among
    those at most twice that below its m-th best.
    """
    if not len(similarity):
        return np.zeros(0, np.int64)
    margin = 2 * error + 1e-6  # and what rounding of means may turn
    value = np.full(int(individuals.max()) + 1, -np.inf, similarity.dtype)  # of one type: much faster below
    np.maximum.at(value, individuals, similarity)
    least = value
    if score == "mean":
        value, least = _means(similarity, individuals, m)
    present = value[np.isfinite(value)]
    last = max(0, len(present) - top)
    eligible = value >= np.partition(present, last)[last] - margin
    chosen = eligible[individuals]
    chosen[chosen] = similarity[chosen] >= least[individuals[chosen]] - margin
    if score == "vote":
        last = max(0, len(similarity) - k)
        chosen |= similarity >= np.partition(similarity, last)[last] - margin
    return np.flatnonzero(chosen)


def _means(similarity: np.ndarray, individuals: np.ndarray, m: int) -> tuple[np.ndarray, np.ndarray]:
    """By individual: the mean of its m best entries, and the last of these; -inf and inf where it has none."""
    order = np.lexsort((-similarity, individuals))
    owner = individuals[order]
    starts = np.flatnonzero(np.diff(owner, prepend=-1))
    place = np.arange(len(owner)) - np.repeat(starts, np.diff(starts, append=len(owner)))
    owner, counted = owner[place < m], similarity[order][place < m]
    entries, sums = np.bincount(owner), np.bincount(owner, counted)
    least = np.full(len(entries), np.inf)
    np.minimum.at(least, owner, counted)
    return np.where(entries > 0, sums / np.maximum(entries, 1), -np.inf), least


def decide(*, candidates: Sequence[Candidate], thresholds: Thresholds | None) -> tuple[str, str]:
    """The verdict 'known', 'new' or 'unsure', and the reason for it in words."""
    # 1. Nobody to compare with
    if not candidates:
        return "new", "no named animal to compare with"
    best = candidates[0]
    # 2. Nothing known about what this model's similarities mean
    if thresholds is None:
        return "unsure", "this model has no thresholds; give --known and --new-below, or calibrate it"
    # 3. Clear
    if best.similarity >= thresholds.known:
        return "known", f"{best.similarity:.2f} with {best.individual}, at least {thresholds.known:.2f}"
    if best.similarity < thresholds.new:
        return "new", f"the first candidate has {best.similarity:.2f}, below {thresholds.new:.2f}"
    # 4. Between
    return (
        "unsure",
        f"{best.similarity:.2f} with {best.individual}, between {thresholds.new:.2f} and {thresholds.known:.2f}",
    )
