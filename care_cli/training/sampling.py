"""Which photos make a batch."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from care_cli.errors import CareError


def pk_batches(labels: np.ndarray, individuals: int, photos: int, rng: np.random.Generator) -> Iterator[np.ndarray]:
    """Endless batches of P individuals with K photos each: `(P*K,) int64` rows of `labels`.

    labels       (N,) int, the individual of every photo
    individuals  P; every individual comes once before any comes again; within a batch all differ
    photos       K; drawn without repetition where an individual has K photos, else with

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
    queue: list = []
    while True:
        if len(queue) < individuals:
            waiting = set(queue)  # they come last in the next round, so that no batch holds one twice
            queue += sorted(rng.permutation(names), key=lambda name: name in waiting)
        chosen, queue = queue[:individuals], queue[individuals:]
        yield np.concatenate([rng.choice(rows[name], photos, replace=len(rows[name]) < photos) for name in chosen])
