"""The links of a chain: order, bounds on what is in flight, and how a chain ends."""

from __future__ import annotations

import itertools
import threading
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from care_cli.stages.pipeline import ahead, batches


class Watched:
    """Work that notes how much of it was begun and not yet handed on, at the most."""

    def __init__(self):
        self.lock = threading.Lock()
        self.begun, self.handed_on, self.most, self.most_weight = 0, 0, 0, 0

    def work(self, item: int) -> int:
        time.sleep(0.001 * (item % 3))  # so that later items are done before earlier ones
        return item

    def items(self, weights: list[int]):
        """Numbers of items, drawn one by one; the link holds what was drawn before and not handed on."""
        held = 0
        for number in range(len(weights)):
            held = sum(weights[self.handed_on : number])
            self.most, self.most_weight = max(self.most, number - self.handed_on), max(self.most_weight, held)
            yield number


@given(st.lists(st.integers(0, 60), max_size=40), st.integers(1, 6), st.integers(1, 4))
def test_results_come_in_order_and_no_more_than_the_bounds_is_in_flight(weights, depth, workers) -> None:
    watched = Watched()
    results = []
    chain = ahead(
        watched.work, watched.items(weights), workers=workers, depth=depth, weigh=lambda i: weights[i], bound=100
    )
    for result in chain:
        results.append(result)
        watched.handed_on += 1
    assert results == list(range(len(weights)))
    assert watched.most <= depth and watched.most_weight <= max([100, *weights])


def test_an_item_heavier_than_the_bound_goes_alone() -> None:
    running, together = [], []

    def work(item: int) -> int:
        running.append(item)
        together.append(list(running))
        time.sleep(0.01)
        running.remove(item)
        return item

    weights = [10, 10, 500, 10, 10]
    assert list(ahead(work, range(5), workers=4, depth=4, weigh=lambda i: weights[i], bound=100)) == list(range(5))
    assert [alone for alone in together if 2 in alone] == [[2]]


def test_an_error_is_raised_in_its_turn_and_what_was_not_begun_is_dropped() -> None:
    done = []

    def work(item: int) -> int:
        if item == 3:
            raise ValueError("three")
        time.sleep(0.005)
        done.append(item)
        return item

    chain = ahead(work, range(100), workers=2, depth=10)
    with pytest.raises(ValueError, match="three"):
        list(chain)
    assert {0, 1, 2} <= set(done) and max(done) < 20


def test_links_work_at_the_same_time() -> None:
    """Three links of 20 ms an item take the time of one, not of three."""

    def work(item: int) -> int:
        time.sleep(0.02)
        return item

    started = time.monotonic()
    chain = range(20)
    for _ in range(3):
        chain = ahead(work, chain, workers=1, depth=4)
    assert list(chain) == list(range(20))
    assert time.monotonic() - started < 0.9  # 1.2 s one after the other, 0.44 s together


@given(st.lists(st.integers(0, 60), max_size=40), st.integers(1, 6))
def test_batches_hold_all_items_within_both_bounds(weights, size) -> None:
    found = list(batches(range(len(weights)), size, weigh=lambda i: weights[i], bound=100))
    assert [item for batch in found for item in batch] == list(range(len(weights)))
    for batch in found:
        assert len(batch) <= size and (len(batch) == 1 or sum(weights[i] for i in batch) <= 100)
    for batch, following in itertools.pairwise(found):  # closed early only because the next did not fit
        assert len(batch) == size or sum(weights[i] for i in [*batch, following[0]]) > 100
