"""`care index`: embed the animals' crops with a model."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np
from tqdm import tqdm

from care_cli import registry
from care_cli.errors import CareError
from care_cli.images import decode_jpeg
from care_cli.records import ModelSpec, Selection
from care_cli.stages.pipeline import WORKERS, ahead, batches

if TYPE_CHECKING:
    from care_cli.catalog import Catalog
    from care_cli.embedders import Embedder


@dataclass(frozen=True)
class IndexConfig:
    """What `care index` was asked to do."""

    spec: ModelSpec  # the embedder
    device: str = "cpu"
    engine: str = "auto"  # auto | torch | openvino
    precision: str = "auto"  # auto | float32 | bfloat16 | float16
    batch: int | None = None  # crops a forward pass and a transaction; None: what suits the engine
    selection: Selection = field(default_factory=lambda: Selection(category="animal"))
    whole: bool = True  # False: some crops are wanted for a while; the run isn't finished by it and stays unasked


def run(catalog: Catalog, cfg: IndexConfig) -> dict:
    """Embed every selected animal crop that the model has not embedded yet; returns the summary.

    Crops without pixels, and those whose pixels are damaged, are listed and left out. Raises CareError when
    there is no crop.
    """
    started = time.monotonic()
    crop_ids = catalog.crop_ids(cfg.selection)
    if not crop_ids:
        raise CareError("There is no animal crop to index. Run `care detect FOLDER` first, or widen the selection.")
    embedder, used = load(cfg.spec, cfg.device, cfg.engine, cfg.precision, catalog.notice)
    batch = cfg.batch or embedder.batch
    noted = {"device": embedder.device, "engine": embedder.engine, "batch": batch}
    run_id = catalog.begin_run("index", settings_of(embedder), used, **noted)
    todo = catalog.without_embedding(run_id, crop_ids)
    without_pixels = catalog.without_pixels(crop_ids)
    damaged: list[int] = []
    with tqdm(total=len(todo), unit="crop", desc="index", disable=None) as bar:
        for group in embeddings_of(stored(catalog, todo, batch), embedder, batch):
            good = [one for one in group if one.vector is not None]
            damaged += [one.crop_id for one in group if one.vector is None]
            if good:
                ids, vectors = [one.crop_id for one in good], np.stack([one.vector for one in good])
                catalog.add_embeddings(run_id, ids, vectors, [one.digest for one in good])
            bar.update(len(group))
    if cfg.whole:
        catalog.finish_run(run_id)
    seconds = time.monotonic() - started
    return {
        "run": run_id,
        "model": used.name,
        "dim": embedder.dim,
        "crops": len(crop_ids),
        "new": len(todo) - len(damaged),
        "known": len(crop_ids) - len(todo) - len(without_pixels),
        "without_pixels": without_pixels,
        "damaged": damaged,
        "seconds": round(seconds, 3),
        "crops_per_second": round(len(todo) / seconds, 3),
    }


def load(
    spec: ModelSpec,
    device: str,
    engine: str = "auto",
    precision: str = "auto",
    notice: Callable[[str], None] | None = None,
) -> tuple[Embedder, ModelSpec]:
    """The embedder ready for use, and its description with the digest that identifies it in runs."""
    from care_cli.embedders import load_embedder

    embedder = load_embedder(spec, registry.fetch(spec), device, engine=engine, precision=precision, notice=notice)
    return embedder, replace(spec, sha256=registry.model_sha256(spec))


def settings_of(embedder: Embedder) -> dict:
    """What identifies an index beside the weights."""
    return {**embedder.settings, "precision": embedder.precision}


def stored(catalog: Catalog, crop_ids: Sequence[int], page: int) -> Iterator[tuple[int, bytes]]:
    """Ids and stored pixels of crops, read a page at a time."""
    for start in range(0, len(crop_ids), page):
        yield from catalog.pixels(crop_ids[start : start + page]).items()


@dataclass(frozen=True)
class Embedding:
    """A stored crop on its way: its input `(S,S,3) uint8`, then its vector `(D,) float32`; None: damaged pixels."""

    crop_id: int
    digest: bytes  # SHA-256 of the stored pixels
    pixels: np.ndarray | None = None
    vector: np.ndarray | None = None


def embeddings_of(crops: Iterable[tuple[int, bytes]], embedder: Embedder, batch: int) -> Iterator[list[Embedding]]:
    """Stored crops with their vectors, batch by batch.

    Decoding and the network go on at the same time, ahead of the caller, who writes.
    """

    def transformed(crop: tuple[int, bytes]) -> Embedding:
        crop_id, jpeg = crop
        digest = hashlib.sha256(jpeg).digest()
        try:
            return Embedding(crop_id, digest, embedder.transform(decode_jpeg(jpeg)))
        except CareError:
            return Embedding(crop_id, digest)

    def embedded(group: list[Embedding]) -> list[Embedding]:
        inputs = [one.pixels for one in group if one.pixels is not None]
        vectors = iter(embedder.embed(np.stack(inputs)) if inputs else ())
        return [
            replace(one, pixels=None, vector=None if one.pixels is None else _sound(next(vectors))) for one in group
        ]

    ready = ahead(
        transformed,
        crops,
        depth=2 * batch + WORKERS,
        weigh=lambda crop: len(crop[1]) + 3 * embedder.size**2,
    )
    groups = batches(ready, max(1, batch // embedder.workers))
    return ahead(embedded, groups, workers=embedder.workers, depth=3 * embedder.workers)


def _sound(vector: np.ndarray) -> np.ndarray | None:
    """The vector, or None when the network gave no direction: pixels without contrast, a number out of range."""
    return vector if abs(float(np.linalg.norm(vector)) - 1) < 1e-3 else None


def embed(embedder: Embedder, jpegs: Sequence[bytes]) -> list[Embedding]:
    """Crops, in their order, with their vectors."""
    return [one for group in embeddings_of(enumerate(jpegs), embedder, embedder.batch) for one in group]
