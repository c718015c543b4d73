"""Scores and verdicts against values worked by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from care_cli.matching import SCORES, Candidate, Thresholds, decide, rank, shortlist

SIMILARITY = np.array([0.9, 0.2, 0.8, 0.7, 0.85, 0.6])
NAMES = ["Moss", "Moss", "Kea", "Kea", "Fern", "Kea"]


def test_best_match_is_the_default() -> None:
    ranked = rank(SIMILARITY, NAMES)
    assert [(one.individual, one.index) for one in ranked] == [("Moss", 0), ("Fern", 4), ("Kea", 2)]
    assert [one.similarity for one in ranked] == pytest.approx([0.9, 0.85, 0.8])


def test_mean_of_the_best_matches() -> None:
    ranked = rank(SIMILARITY, NAMES, "mean", m=3)
    # Fern has one: 0.85. Kea: (0.8 + 0.7 + 0.6) / 3 = 0.7. Moss: (0.9 + 0.2) / 2 = 0.55
    assert [one.individual for one in ranked] == ["Fern", "Kea", "Moss"]
    assert [one.similarity for one in ranked] == pytest.approx([0.85, 0.7, 0.55])


def test_vote_of_the_nearest() -> None:
    ranked = rank(SIMILARITY, NAMES, "vote", k=4)
    # the four nearest are Moss .9, Fern .85, Kea .8, Kea .7: Kea has two votes, then Moss before Fern
    assert [one.individual for one in ranked] == ["Kea", "Moss", "Fern"]
    assert ranked[0].similarity == pytest.approx(0.75)


@given(
    st.lists(st.tuples(st.floats(-1, 1, width=32), st.sampled_from("abcd")), min_size=1, max_size=30),
    st.sampled_from(SCORES),
)
def test_every_individual_is_ranked_once(entries: list[tuple[float, str]], score: str) -> None:
    similarity, names = np.array([value for value, _ in entries]), [name for _, name in entries]
    ranked = rank(similarity, names, score)
    assert sorted(one.individual for one in ranked) == sorted(set(names))
    for one in ranked:
        own = similarity[[i for i, name in enumerate(names) if name == one.individual]]
        assert names[one.index] == one.individual
        assert similarity[one.index] == own.max()  # the evidence is the best match, whatever the score
        assert own.min() - 1e-6 <= one.similarity <= own.max() + 1e-6


@pytest.mark.parametrize(
    ("similarity", "verdict"), [(0.70, "known"), (0.69, "unsure"), (0.50, "unsure"), (0.49, "new"), (-1.0, "new")]
)
def test_two_thresholds(similarity: float, verdict: str) -> None:
    told, reason = decide(candidates=[Candidate("Kea", similarity, 0)], thresholds=Thresholds(known=0.7, new=0.5))
    assert told == verdict
    assert f"{similarity:.2f}" in reason


def test_no_verdict_is_pretended() -> None:
    assert decide(candidates=[], thresholds=Thresholds(0.7, 0.5))[0] == "new"
    verdict, reason = decide(candidates=[Candidate("Kea", 0.99, 0)], thresholds=None)
    assert verdict == "unsure" and "no thresholds" in reason


near_ties = st.floats(-1, 1, width=16).flatmap(
    lambda value: st.sampled_from([value, value, value + 3e-4, value - 7e-4])
)


@settings(deadline=None, max_examples=300)
@given(
    st.lists(st.tuples(near_ties, st.integers(1, 9)), min_size=1, max_size=60),
    st.sampled_from(SCORES),
    st.integers(1, 6),
    st.integers(1, 5),
    st.integers(1, 12),
    st.sampled_from([0.0, 4e-4, 0.05]),
    st.randoms(use_true_random=False),
)
def test_a_shortlist_decides_as_all_entries_do(entries, score, top, m, k, error, random):
    true = np.array([value for value, _ in entries], np.float32)
    owner = np.array([who for _, who in entries], np.int64)
    names = "xkcbzaqmfw"
    rough = (true + np.array([random.uniform(-error, error) for _ in entries])).astype(np.float32)
    rough = np.clip(rough, true - np.float32(error), true + np.float32(error))
    chosen = shortlist(rough, owner, error, top, score, m, k)
    assert np.all(np.diff(chosen) > 0)
    few = rank(true[chosen], [names[one] for one in owner[chosen]], score, m, k)[:top]
    few = [replace(one, index=int(chosen[one.index])) for one in few]
    assert few == rank(true, [names[one] for one in owner], score, m, k)[:top]


def test_a_shortlist_is_short():
    rng = np.random.default_rng(0)
    similarity = rng.normal(0, 0.05, 100_000).astype(np.float32)
    owner = rng.integers(1, 1000, len(similarity))
    for score in SCORES:
        assert 5 <= len(shortlist(similarity, owner, 4e-4, 5, score)) < 100
    assert len(shortlist(similarity[:0], owner[:0], 4e-4, 5)) == 0
