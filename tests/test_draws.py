"""Splits of published sizes: exact where they can be, whole animals, photos on both sides, the same everywhere."""

from __future__ import annotations

from itertools import combinations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from care_cli.evaluation.draws import draw_individuals, draw_queries, shuffled

COUNTS = st.dictionaries(st.integers(0, 99).map(str), st.integers(1, 12), min_size=2, max_size=9)


@settings(max_examples=80, deadline=None)
@given(COUNTS, st.integers(1, 9), st.integers(0, 90), st.integers(0, 9))
def test_individuals_against_every_choice(counts, individuals, photos, seed):
    chosen = draw_individuals(counts, individuals, photos, seed)
    several = [name for name in counts if counts[name] > 1]
    wanted = min(individuals, len(several))
    assert chosen == sorted(set(chosen)) and len(chosen) == wanted and set(chosen) <= set(several)
    sums = [sum(counts[name] for name in some) for some in combinations(several, wanted)]
    assert abs(sum(counts[name] for name in chosen) - photos) == min(abs(one - photos) for one in sums)


def test_the_sizes_of_the_tigers_split_are_met_exactly():
    """182 animals with 4675 photos, skewed as wildlife is: 33 with 945."""
    chance = np.random.default_rng(0)
    cuts = np.sort(chance.choice(np.arange(1, 4675 - 182), 181, replace=False))
    numbers = np.diff(np.r_[0, cuts, 4675 - 182]) + 1
    counts = {f"{number:03}": int(count) for number, count in enumerate(numbers)}
    assert sum(counts.values()) == 4675
    chosen = draw_individuals(counts, 33, 945)
    assert len(chosen) == 33 and sum(counts[name] for name in chosen) == 945
    assert chosen != draw_individuals(counts, 33, 945, seed=1)
    assert chosen == draw_individuals(dict(reversed(counts.items())), 33, 945)


@settings(max_examples=80, deadline=None)
@given(COUNTS, st.integers(0, 90), st.integers(0, 9))
def test_queries_are_as_many_as_wanted_and_leave_an_answer(counts, queries, seed):
    photos = {name: [f"{name}/{number}" for number in range(count)] for name, count in counts.items()}
    chosen = draw_queries(photos, queries, seed)
    some = {name: own for name, own in photos.items() if len(own) > 1}
    total = sum(map(len, some.values()))
    assert len(chosen) == min(max(queries, len(some)), total - len(some))
    shares = {name: len(chosen & set(own)) for name, own in photos.items()}
    assert all(1 <= shares[name] < len(own) for name, own in some.items())
    assert all(shares[name] == 0 for name in set(photos) - set(some))
    if len(some) <= queries <= total - len(some):  # nobody's share is further off than a photo, but for the clamps
        free = [name for name, own in some.items() if 1 < shares[name] < len(own) - 1]
        assert all(abs(shares[name] - queries / total * len(some[name])) < 1.5 for name in free)


def test_the_order_hangs_on_names_and_seed_alone():
    """`printf '666 a' | sha256sum` begins with 36, of c with 4a, of b with b8."""
    assert shuffled(["c", "b", "a"], 666) == ["a", "c", "b"]
