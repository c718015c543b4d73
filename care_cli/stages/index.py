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
from care_cli.records import KeypointScheme, ModelSpec, Scheme, Selection
from care_cli.stages import shown_points, viewpoints
from care_cli.stages.pipeline import WORKERS, ahead, batches

if TYPE_CHECKING:
    from care_cli.catalog import Catalog
    from care_cli.embedders import Embedder
    from care_cli.stages.shown_points import Shown


@dataclass(frozen=True)
class IndexConfig:
    """What `care index` was asked to do."""

    spec: ModelSpec  # the embedder
    device: str = "cpu"
    engine: str = "auto"  # auto | torch | openvino
    precision: str = "auto"  # auto | float32 | bfloat16 | float16
    batch: int | None = None  # crops a forward pass and a transaction; None: what suits the engine
    selection: Selection = field(default_factory=lambda: Selection(category="animal"))
    points_run: int | None = None  # a run whose points are shown instead of the standing ones
    whole: bool = True  # False: some crops are wanted for a while; the run isn't finished by it and stays unasked


def run(catalog: Catalog, cfg: IndexConfig) -> dict:
    """Embed every selected animal crop that the model has not embedded yet; returns the summary.

    A model that looks at points gets those that the crops have; those that lack them, and are of a species that
    points were carried for, get them first. One that is told of cameras and flanks gets these. Crops of which something
    else is known since are embedded anew. Crops without pixels, and those whose pixels are damaged, are listed and left
    out. Raises CareError when there is no crop.
    """
    started = time.monotonic()
    crop_ids = catalog.crop_ids(cfg.selection)
    if not crop_ids:
        raise CareError("There is no animal crop to index. Run `care detect FOLDER` first, or widen the selection.")
    embedder, used = load(cfg.spec, cfg.device, cfg.engine, cfg.precision, catalog.notice)
    batch, scheme = cfg.batch or embedder.batch, embedder.scheme
    without_pixels = catalog.without_pixels(crop_ids)
    told = _told(catalog, cfg, scheme, sorted(set(crop_ids) - set(without_pixels)))
    noted = {"device": embedder.device, "engine": embedder.engine, "batch": batch, "stands": cfg.whole}
    run_id = catalog.begin_run("index", settings_of(embedder, cfg.points_run), used, **noted)
    changed = told.changed(run_id) if told else []
    todo = catalog.without_embedding(run_id, crop_ids) + changed
    damaged: list[int] = []
    with tqdm(total=len(todo), unit="crop", desc="index", disable=None) as bar:
        for group in embeddings_of(stored(catalog, todo, batch, scheme, cfg.points_run), embedder, batch):
            good = [one for one in group if one.vector is not None]
            damaged += [one.crop_id for one in group if one.vector is None]
            if good:
                ids, vectors = [one.crop_id for one in good], np.stack([one.vector for one in good])
                hashes = [one.shown and one.shown.hash for one in good] if scheme else None
                catalog.add_embeddings(run_id, ids, vectors, [one.digest for one in good], hashes)
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
        "changed": len(changed),
        "known": len(crop_ids) - len(todo) - len(without_pixels),
        "without_pixels": without_pixels,
        "damaged": damaged,
        "points": told.summary() if isinstance(told, _Points) else None,
        "viewpoints": told.summary() if isinstance(told, _Viewpoints) else None,
        "seconds": round(seconds, 3),
        "crops_per_second": round(len(todo) / seconds, 3),
    }


class _Told:
    """What a model is told of the crops of an index."""

    def __init__(self, catalog: Catalog, cfg: IndexConfig, scheme: Scheme, crop_ids: Sequence[int]):
        self.catalog, self.scheme = catalog, scheme
        self.hashes = shown_points.hashes(catalog, crop_ids, scheme, cfg.points_run)

    def changed(self, run_id: int) -> list[int]:
        """Crops that have an embedding in a run that was made when something else was told."""
        made = self.catalog.embedding_hashes(run_id, list(self.hashes))
        return [crop_id for crop_id, own in made.items() if own != self.hashes[crop_id]]


class _Viewpoints(_Told):
    """Cameras and flanks of the crops of an index."""

    def summary(self) -> dict:
        """Of how many of the crops with pixels the model knows from where they were taken."""
        nothing = shown_points.seen_from(self.scheme).hash
        return viewpoints.summary(self.scheme, (one != nothing for one in self.hashes.values()))


class _Points(_Told):
    """The points of the crops of an index, carried first where that can be done."""

    def __init__(self, catalog: Catalog, cfg: IndexConfig, scheme: KeypointScheme, crop_ids: Sequence[int]):
        self.carried, self.reasons = 0, []
        if cfg.points_run is None:
            self.carried, self.reasons = shown_points.carry(catalog, crop_ids, scheme, cfg.device, cfg.engine)
        super().__init__(catalog, cfg, scheme, crop_ids)

    def summary(self) -> dict:
        """How many of the crops with pixels have points that the model looks at, how many none, and what to do."""
        some, none = shown_points.count(self.hashes, self.scheme)
        advice = [*self.reasons, shown_points.advice(self.catalog, self.scheme, "`care index`")] if none else []
        return {"names": list(self.scheme.names), "with": some, "without": none, "carried": self.carried,
                "advice": " ".join(advice) or None}  # fmt: skip


def _told(catalog: Catalog, cfg: IndexConfig, scheme: Scheme | None, crop_ids: Sequence[int]) -> _Told | None:
    if scheme is None:
        return None
    return (_Points if isinstance(scheme, KeypointScheme) else _Viewpoints)(catalog, cfg, scheme, crop_ids)


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


def settings_of(embedder: Embedder, points_run: int | None = None) -> dict:
    """What identifies an index beside the weights; `points_run` where other points than the standing ones are shown."""
    points = {} if points_run is None else {"keypoints_run": points_run}
    return {**embedder.settings, "precision": embedder.precision, **points}


def stored(
    catalog: Catalog,
    crop_ids: Sequence[int],
    page: int,
    scheme: Scheme | None = None,
    points_run: int | None = None,
) -> Iterator[Stored]:
    """Crops with their stored pixels, and what a model is told beside them, read a page at a time."""
    for start in range(0, len(crop_ids), page):
        ids = crop_ids[start : start + page]
        beside = shown_points.of_crops(catalog, ids, scheme, points_run) if scheme else {}
        for crop_id, jpeg in catalog.pixels(ids).items():
            yield Stored(crop_id, jpeg, beside.get(crop_id))


@dataclass(frozen=True, eq=False)
class Stored:
    """A crop as it is stored."""

    crop_id: int
    jpeg: bytes
    shown: Shown | None = None  # None: nothing is told


@dataclass(frozen=True, eq=False)
class Embedding:
    """A stored crop on its way: its input `(S,S,3) uint8`, then its vector `(D,) float32`; None: damaged pixels."""

    crop_id: int
    digest: bytes  # SHA-256 of the stored pixels
    shown: Shown | None = None
    pixels: np.ndarray | None = None
    vector: np.ndarray | None = None


def embeddings_of(crops: Iterable[Stored], embedder: Embedder, batch: int) -> Iterator[list[Embedding]]:
    """Stored crops with their vectors, batch by batch.

    Decoding and the network go on at the same time, ahead of the caller, who writes.
    """

    def transformed(crop: Stored) -> Embedding:
        one = Embedding(crop.crop_id, hashlib.sha256(crop.jpeg).digest(), crop.shown)
        try:
            return replace(one, pixels=embedder.transform(decode_jpeg(crop.jpeg)))
        except CareError:
            return one

    def embedded(group: list[Embedding]) -> list[Embedding]:
        whole = [one for one in group if one.pixels is not None]
        beside = np.stack([one.shown.beside for one in whole]) if whole and embedder.scheme else None
        vectors = iter(embedder.embed(np.stack([one.pixels for one in whole]), beside) if whole else ())
        return [
            replace(one, pixels=None, vector=None if one.pixels is None else _sound(next(vectors))) for one in group
        ]

    ready = ahead(
        transformed,
        crops,
        depth=2 * batch + WORKERS,
        weigh=lambda crop: len(crop.jpeg) + 3 * embedder.preparation.height * embedder.preparation.width,
    )
    groups = batches(ready, max(1, batch // embedder.workers))
    return ahead(embedded, groups, workers=embedder.workers, depth=3 * embedder.workers)


def _sound(vector: np.ndarray) -> np.ndarray | None:
    """The vector, or None when the network gave no direction: pixels without contrast, a number out of range."""
    return vector if abs(float(np.linalg.norm(vector)) - 1) < 1e-3 else None


def embed(embedder: Embedder, crops: Sequence[tuple[bytes, Shown | None]]) -> list[Embedding]:
    """Crops, in their order, with their vectors: of their JPEGs, and what is told beside them."""
    numbered = (Stored(number, *crop) for number, crop in enumerate(crops))
    return [one for group in embeddings_of(numbered, embedder, embedder.batch) for one in group]
