"""Splits of published sizes, drawn: which individuals are tested, and which of their photos ask.

The papers print how many individuals and photos each part has, not which. What is drawn here hangs on names and a seed
alone, by SHA-256, so that it is the same on every machine and with every library's version.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

SEED = 666


def shuffled(names: Sequence[str], seed: int) -> list[str]:
    """The names in an order that hangs on them and the seed alone."""
    return sorted(names, key=lambda name: (hashlib.sha256(f"{seed} {name}".encode()).digest(), name))


def draw_individuals(counts: Mapping[str, int], individuals: int, photos: int, seed: int = SEED) -> list[str]:
    """So many of the individuals, with `photos` photos together or as near to that as can be; sorted.

    `counts` are photos by individual; those with a single one cannot be found again and are not drawn. Of all choices
    it is the one that comes first in the seed's order: an exact search over sums, as bits of whole numbers.
    """
    names = [name for name in shuffled(list(counts), seed) if counts[name] > 1]
    wanted = min(individuals, len(names))
    # reach[i][k]: bit s is set where k of names[i:] can have s photos
    reach = [[1] + [0] * wanted]
    for name in reversed(names):
        after = reach[-1]
        reach.append([1] + [after[k] | after[k - 1] << counts[name] for k in range(1, wanted + 1)])
    reach.reverse()
    left = _nearest(reach[0][wanted], photos)
    chosen = []
    for place, name in enumerate(names):
        k = wanted - len(chosen)
        if k and left >= counts[name] and reach[place + 1][k - 1] >> (left - counts[name]) & 1:
            chosen.append(name)
            left -= counts[name]
    return sorted(chosen)


def _nearest(sums: int, photos: int) -> int:
    """The set bit of `sums` nearest to `photos`, of two the lower."""
    for away in range(max(sums.bit_length(), photos) + 1):
        for one in (photos - away, photos + away):
            if one >= 0 and sums >> one & 1:
                return one
    return 0


def draw_queries(photos: Mapping[str, Sequence[str]], queries: int, seed: int = SEED) -> set[str]:
    """So many of all photos, of each individual as nearly the same share as can be, at least one and never all.

    `photos` are the names of each individual's photos, no two alike. An individual of a single photo has no query.
    """
    some = {name: shuffled(own, seed) for name, own in photos.items() if len(own) > 1}
    total = sum(map(len, some.values()))
    wanted = min(max(queries, len(some)), total - len(some))
    share = wanted / total if total else 0.0
    number = {name: min(max(int(share * len(own)), 1), len(own) - 1) for name, own in some.items()}
    order = shuffled(list(some), seed)
    while (missing := wanted - sum(number.values())) != 0:
        step = 1 if missing > 0 else -1
        free = [name for name in order if 1 <= number[name] + step < len(some[name])]
        name = max(free, key=lambda one: step * (share * len(some[one]) - number[one]))
        number[name] += step
    return {photo for name, own in some.items() for photo in own[: number[name]]}
