"""Which photos make a batch."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import numpy as np

from care_cli.errors import CareError


def pk_batches(labels: np.ndarray, individuals: int, photos: int, seed: int, start: int = 0) -> Iterator[np.ndarray]:
    """Endless batches of P individuals with K photos each: `(P*K,) int64` rows of `labels`.

    labels       (N,) int, the individual of every photo
    individuals  P; every individual comes once before any comes again; within a batch all differ
    photos       K; drawn without repetition where an individual has K photos, else with
    seed         of everything drawn
    start        number of the first batch: what follows is what follows it in the sequence from 0

    Raises CareError when there are fewer than P individuals.
    """
    labels = np.asarray(labels)
    names = np.unique(labels)
    if len(names) < individuals:
        raise CareError(
            f"A batch needs {individuals} individuals, but there are only {len(names)}: "
            "add individuals or make the batch smaller."
        )
    rows = {name: np.flatnonzero(labels == name) for name in names}
    order = _rounds(names, individuals, seed)
    for number, chosen in enumerate(order):
        if number < start:
            continue
        rng = np.random.default_rng([seed, 1, number])
        yield np.concatenate([rng.choice(rows[name], photos, replace=len(rows[name]) < photos) for name in chosen])


def shuffled(count: int, batch: int, seed: int, start: int = 0) -> Iterator[np.ndarray]:
    """Endless batches of rows of `count` photos, `(batch,) int64`: every photo once before any comes again.

    seed, start  as of `pk_batches`
    """
    first = start * batch
    for number in range(first, sys.maxsize, batch):
        passes = range(number // count, (number + batch - 1) // count + 1)
        orders = np.concatenate([np.random.default_rng([seed, 2, one]).permutation(count) for one in passes])
        yield orders[number - passes[0] * count :][:batch]


def _rounds(names: np.ndarray, individuals: int, seed: int) -> Iterator[list]:
    """P individuals at a time, round after round through all of them."""
    rng = np.random.default_rng([seed, 0])
    queue: list = []
    while True:
        if len(queue) < individuals:
            waiting = set(queue)  # they come last in the next round, so that no batch holds one twice
            queue += sorted(rng.permutation(names), key=lambda name: name in waiting)
        chosen, queue = queue[:individuals], queue[individuals:]
        yield chosen
