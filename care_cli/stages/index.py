"""`care index`: embed the animals' crops with a model."""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np
from tqdm import tqdm

from care_cli import registry
from care_cli.errors import CareError
from care_cli.images import decode_jpeg
from care_cli.records import ModelSpec, Selection

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
    batch: int = 32  # crops a forward pass and a transaction
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
    embedder, used = load(cfg.spec, cfg.device, cfg.engine, cfg.precision)
    run_id = catalog.begin_run("index", settings_of(embedder), used, device=cfg.device, batch=cfg.batch)
    todo = catalog.without_embedding(run_id, crop_ids)
    without_pixels = catalog.without_pixels(crop_ids)
    damaged: list[int] = []
    with tqdm(total=len(todo), unit="crop", desc="index", disable=None) as bar:
        for start in range(0, len(todo), cfg.batch):
            ids = todo[start : start + cfg.batch]
            readable, vectors = embed(embedder, catalog.pixels(ids))
            damaged += sorted(set(ids) - set(readable))
            if readable:
                catalog.add_embeddings(run_id, readable, vectors)
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


def load(spec: ModelSpec, device: str, engine: str = "auto", precision: str = "auto") -> tuple[Embedder, ModelSpec]:
    """The embedder ready for use, and its description with the digest that identifies it in runs."""
    from care_cli.embedders import load_embedder

    embedder = load_embedder(spec, registry.fetch(spec), device, engine=engine, precision=precision)
    return embedder, replace(spec, sha256=registry.model_sha256(spec))


def settings_of(embedder: Embedder) -> dict:
    """What identifies an index beside the weights."""
    return {**embedder.settings, "precision": "float32"}


def embed(embedder: Embedder, pixels: dict[int, bytes]) -> tuple[list[int], np.ndarray]:
    """Vectors `(N, D) float32` of stored crops, and the ids `(N,)` of those that could be decoded."""
    readable, batch = [], []
    for crop_id, jpeg in pixels.items():
        try:
            batch.append(embedder.transform(decode_jpeg(jpeg)))
        except CareError:
            continue
        readable.append(crop_id)
    return readable, embedder.embed(np.stack(batch)) if batch else np.zeros((0, embedder.dim), np.float32)
