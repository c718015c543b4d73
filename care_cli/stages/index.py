"""`care index`: embed the animals' crops with a model."""

from __future__ import annotations

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


def run(catalog: Catalog, cfg: IndexConfig) -> dict:
    """Embed every selected animal crop that the model has not embedded yet; returns the summary.

    Crops without pixels, and those whose pixels are damaged, are listed and left out. Raises CareError when
    there is no crop.
    """
    started = time.monotonic()
    crop_ids = [row["crop"] for row in catalog.crop_rows(cfg.selection)]
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
        for ids, vectors in embeddings_of(stored(catalog, todo, batch), embedder, batch):
            damaged += [crop_id for crop_id, vector in zip(ids, vectors, strict=True) if vector is None]
            good = [(crop_id, vector) for crop_id, vector in zip(ids, vectors, strict=True) if vector is not None]
            if good:
                catalog.add_embeddings(run_id, [crop_id for crop_id, _ in good], np.stack([v for _, v in good]))
            bar.update(len(ids))
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


def embeddings_of(
    crops: Iterable[tuple[int, bytes]], embedder: Embedder, batch: int
) -> Iterator[tuple[list[int], list[np.ndarray | None]]]:
    """Ids of stored crops and their vectors `(D,) float32`, None where the pixels are damaged; batch by batch.

    Decoding and the network go on at the same time, ahead of the caller, who writes.
    """

    def transformed(crop: tuple[int, bytes]) -> tuple[int, np.ndarray | None]:
        crop_id, jpeg = crop
        try:
            return crop_id, embedder.transform(decode_jpeg(jpeg))
        except CareError:
            return crop_id, None

    def embedded(group: list[tuple[int, np.ndarray | None]]) -> tuple[list[int], list[np.ndarray | None]]:
        inputs = [pixels for _, pixels in group if pixels is not None]
        vectors = iter(embedder.embed(np.stack(inputs)) if inputs else ())
        return [crop_id for crop_id, _ in group], [None if pixels is None else next(vectors) for _, pixels in group]

    ready = ahead(transformed, crops, depth=2 * batch * embedder.workers + WORKERS, weigh=lambda crop: len(crop[1]))
    return ahead(embedded, batches(ready, batch), workers=embedder.workers, depth=embedder.workers + 1)


def embed(embedder: Embedder, jpegs: Sequence[bytes]) -> list[np.ndarray | None]:
    """Vectors `(D,) float32` of crops, None where the pixels are damaged."""
    numbered = enumerate(jpegs)
    return [vector for _, vectors in embeddings_of(numbered, embedder, embedder.batch) for vector in vectors]
