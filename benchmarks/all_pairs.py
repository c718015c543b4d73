"""1,000 crops indexed and 100 identified, beside the algorithm of the original CARE toolkit.

That one stores no embedding: for every query it runs the network again on the whole gallery, a crop at a time. This
is a plain version of our own with an open backbone (its weights are not public). A part is measured, and
extrapolated from the number of forward passes; ours runs in full, each command in a process of its own.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

from benchmarks.backbones import MOBILENET, backbone, loaded
from benchmarks.bench import Bench
from benchmarks.crops import crops_catalog, export
from benchmarks.grown import bulk, name_everything
from benchmarks.report import Row

GALLERY, QUERIES = 1_000, 100
PART = (3, 100)  # queries and gallery of the part that is measured


def parts(bench: Bench) -> Iterator[Callable[[], Iterable[Row]]]:
    """The measurements of this family."""
    yield lambda: against_all_pairs(bench)


def all_pairs(embed: Callable, queries: Sequence, gallery: Sequence) -> np.ndarray:
    """Cosine distances `(Q, G)`, the original way: for each query its own forward pass and one for each crop of
    the gallery, nothing kept from one query to the next. `embed` turns one crop into a vector `(D,)`.
    """
    distances = np.empty((len(queries), len(gallery)))
    for i, query in enumerate(queries):
        asked = embed(query)
        for j, crop in enumerate(gallery):
            known = embed(crop)
            distances[i, j] = 1 - asked @ known / (np.linalg.norm(asked) * np.linalg.norm(known))
    return distances


def against_all_pairs(bench: Bench, gallery: int = GALLERY, queries: int = QUERIES) -> Iterator[Row]:
    """Ours in full, theirs extrapolated."""
    weights = backbone(bench, MOBILENET)
    catalog, files = filled(bench, gallery)
    model = ("--model", f"timm:{MOBILENET}", "--weights", weights)
    bench.care(bench.copy(bench.survey, "warm"), "index", *model)
    indexed = bench.care(catalog, "index", *model)
    asked = bench.folder("asked")
    for path in files[:queries]:
        (asked / path.name).write_bytes(path.read_bytes())
    identified = bench.care(catalog, "identify", asked, "--whole", *model)
    seconds, passes = measured_part(weights, files)
    of_all = queries * (1 + len(files))
    yield Row(
        f"{len(files):,} crops indexed and {queries} identified, {MOBILENET}, cpu",
        indexed.seconds + identified.seconds,
        "s",
        peer="the original toolkit's all-pairs algorithm, extrapolated",
        peers=seconds / passes * of_all,
        target=100,
        precision="float32",
        note=f"ours in full, start-up included: index {indexed.seconds:.1f} s, identify {identified.seconds:.1f} s; "
        f"theirs from {passes} forward passes of {of_all:,} ({seconds / passes * 1e3:.1f} ms each)",
    )


def filled(bench: Bench, gallery: int) -> tuple[Path, list[Path]]:
    """A catalog of at least `gallery` named crops, and the first of them as files."""
    once = export(bench.survey, bench.folder("survey-crops"))
    catalog = crops_catalog(bench, "all-pairs", math.ceil(gallery / len(once)))
    with bulk(catalog) as connection:
        name_everything(connection)
    return catalog, export(catalog, bench.folder("all-pairs-crops"))


def measured_part(weights: Path, files: Sequence[Path]) -> tuple[float, int]:
    """Seconds of the original way on a part, crops held in memory as there, and its forward passes."""
    import torch
    from PIL import Image

    network, transform = loaded(MOBILENET, weights)
    queries, gallery = PART
    crops = [transform(Image.open(path).convert("RGB")) for path in files[:gallery]]

    def embed(crop: torch.Tensor) -> np.ndarray:
        with torch.no_grad():
            return network(crop[None])[0].numpy()

    embed(crops[0])
    started = time.perf_counter()
    all_pairs(embed, crops[:queries], crops)
    return time.perf_counter() - started, len(crops[:queries]) * (1 + len(crops))
