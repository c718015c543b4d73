"""The exact five nearest of a million vectors, one query at a time, beside FAISS' flat index in float32.

Ours is what `identify` does: the gallery of a catalog, opened from its cache, candidates re-scored from the
catalog's own vectors, individuals ranked. FAISS has the same vectors in memory and answers with five of them.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np

from benchmarks import peers
from benchmarks.bench import Bench
from benchmarks.grown import BLOCK, SIGHTINGS, grow, unit_vectors
from benchmarks.report import Row
from care_cli.catalog import Catalog

DIM = 512
TOP = 5
QUERIES = 20


def parts(bench: Bench) -> Iterator[Callable[[], Iterable[Row]]]:
    """The measurements of this family."""
    yield lambda: nearest(bench)


def nearest(bench: Bench) -> Iterator[Row]:
    """The cold start of the gallery in a fresh process, then the queries."""
    catalog, run = gallery_catalog(bench)
    bench.module("opened", catalog, run)  # makes the cache
    cold = min((json.loads(bench.module("opened", catalog, run).out) for _ in range(3)), key=lambda one: one["open"])
    yield Row(
        f"a gallery of {bench.vectors:,} {DIM}-d vectors opened in a fresh process",
        cold["open"],
        "s",
        target=0.2,
        note=f"best of 3; its first query {cold['query'] * 1e3:.0f} ms",
    )
    yield from beside_faiss(bench, catalog, run)
    catalog.unlink()


def gallery_catalog(bench: Bench) -> tuple[Path, int]:
    """A catalog whose index run has so many named crops."""
    catalog = bench.copy(bench.survey, "gallery")
    with Catalog(catalog) as opened:
        run = opened.begin_run("index", {"dim": DIM})
        opened.finish_run(run)
    grow(catalog, 0, bench.vectors, DIM)
    return catalog, run


def beside_faiss(bench: Bench, catalog: Path, run: int) -> Iterator[Row]:
    """Milliseconds a query, the middle of twenty, and whether the answers are the same."""
    from care_cli.stages.gallery import open_gallery

    queries = unit_vectors(QUERIES, DIM, seed=1) + 0.5 * unit_vectors(QUERIES, DIM, seed=0)  # half of them in it
    queries /= np.linalg.norm(queries, axis=1, keepdims=True)
    with Catalog(catalog) as opened:
        gallery = open_gallery(opened, run)
        ours = [timed(lambda query=query: gallery.search(query, TOP)) for query in queries]
    index = flat_index(bench.vectors)
    theirs = [timed(lambda query=query: index.search(query[None], TOP)) for query in queries]
    same = sum(names(answer) == expected(index, query) for (_, answer), query in zip(ours, queries, strict=True))
    ms, peer_ms = (statistics.median(seconds for seconds, _ in found) * 1e3 for found in (ours, theirs))
    yield Row(
        f"exact top-{TOP} of {bench.vectors:,} {DIM}-d vectors, one query",
        ms,
        "ms",
        peer="FAISS flat, float32",
        peers=peer_ms,
        target=2,
        precision="float16 scan, exact re-scoring",
        note=f"{same} of {QUERIES} answers the same; median, threads as each takes them",
    )


def flat_index(count: int):
    """FAISS' exact index over the vectors that `grow` wrote."""
    index = peers.faiss().IndexFlatIP(DIM)
    for start in range(0, count, BLOCK):
        index.add(unit_vectors(min(BLOCK, count - start), DIM, seed=start))
    return index


def expected(index, query: np.ndarray) -> list[str]:
    """The first individuals by FAISS' own ranking of crops."""
    _, rows = index.search(query[None], TOP * SIGHTINGS)
    individuals = dict.fromkeys(f"animal {row // SIGHTINGS}" for row in rows[0].tolist() if row >= 0)
    return list(individuals)[:TOP]


def names(candidates: list) -> list[str]:
    """The individuals of an answer, best first."""
    return [one.individual for one in candidates]


def timed(work: Callable) -> tuple[float, object]:
    """Seconds that work takes, and what it gives."""
    started = time.perf_counter()
    made = work()
    return time.perf_counter() - started, made
