"""What a stage's chain is made of: work done ahead in threads, in order, within bounds."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from care_cli.engines import cores

Item = TypeVar("Item")
Result = TypeVar("Result")

WORKERS = min(16, cores())  # threads of one link; decoders leave Python's lock while they work
IN_FLIGHT = 256_000_000  # bytes a link holds at most


def ahead(
    work: Callable[[Item], Result],
    items: Iterable[Item],
    *,
    workers: int = WORKERS,
    depth: int,
    weigh: Callable[[Item], int] = lambda item: 0,
    bound: int = IN_FLIGHT,
) -> Iterator[Result]:
    """`work(item)` for every item, in order, done by `workers` threads before it is asked for.

    At most `depth` items, weighing `bound` bytes by `weigh`, are begun and not yet handed on; an item heavier
    than that goes alone. Items are drawn in the caller's thread. What `work` raises is raised here, and what was
    not begun then is dropped.
    """
    pool = ThreadPoolExecutor(max_workers=workers)
    begun: deque[tuple[Future[Result], int]] = deque()
    held = 0
    try:
        for item in items:
            weight = weigh(item)
            while begun and (len(begun) >= depth or held + weight > bound):
                result, its = begun.popleft()
                yield result.result()
                held -= its
            begun.append((pool.submit(work, item), weight))
            held += weight
        while begun:
            yield begun.popleft()[0].result()
    finally:
        pool.shutdown(cancel_futures=True)


def batches(
    items: Iterable[Item], size: int, weigh: Callable[[Item], int] = lambda item: 0, bound: int = IN_FLIGHT
) -> Iterator[list[Item]]:
    """Lists of `size` items, the last one shorter, and those whose items weigh more than `bound` bytes together."""
    batch: list[Item] = []
    held = 0
    for item in items:
        weight = weigh(item)
        if batch and held + weight > bound:
            yield batch
            batch, held = [], 0
        batch.append(item)
        held += weight
        if len(batch) == size:
            yield batch
            batch, held = [], 0
    if batch:
        yield batch
