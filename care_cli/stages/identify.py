"""`care identify`: name the animals in photos, with evidence; write only when told to."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from tqdm import tqdm

from care_cli import checkpoints, registry
from care_cli.errors import CareError
from care_cli.images import Reading, read_photo
from care_cli.matching import SCORES, Candidate, Thresholds, decide, rank
from care_cli.records import Crop, Detection, ModelSpec, Selection
from care_cli.scan import Found, display_path, scan
from care_cli.search import similarities
from care_cli.stages import detect, index, individuals
from care_cli.stages.cropping import CropSettings, cut_crops
from care_cli.stages.places import add_place
from care_cli.thresholds import SHOWN

if TYPE_CHECKING:
    from care_cli.catalog import Catalog
    from care_cli.detectors import Detector
    from care_cli.embedders import Embedder
    from care_cli.pages.sheet import QuerySheetRow

__all__ = ["SCORES"]  # of matching, for those who know only this stage


@dataclass(frozen=True)
class IdentifyConfig:
    """What `care identify` was asked to do; None leaves a value to the catalog or the model."""

    paths: tuple[Path, ...]
    top: int = 5
    model: ModelSpec | None = None  # embedder; default: that of the newest finished index
    detector: ModelSpec | None = None  # default: that of the active detect run
    whole: bool = False  # each photo is one animal, cut out already
    device: str = "cpu"
    score: str = "best"  # best | mean | vote, see matching.rank
    m: int = 3  # matches that 'mean' averages
    k: int = 5  # neighbours that 'vote' asks
    known: float | None = None  # cosine from which the best candidate is the animal
    new_below: float | None = None  # cosine below which it is none of them
    candidates: Selection = field(default_factory=Selection)  # who comes into question


@dataclass
class Query:
    """One crop of a query photo on its way to an answer."""

    box: tuple[float, float, float, float]  # x, y, w, h px of the upright image
    category: str
    species: str | None
    crop_id: int | None = None  # when it is in the catalog
    jpeg: bytes | None = None
    vector: np.ndarray | None = None  # (D,) float32, norm 1
    candidates: list[Candidate] = field(default_factory=list)
    verdict: str | None = None
    reason: str = ""


@dataclass
class QueryPhoto:
    """One photo that was asked about."""

    found: Found
    reading: Reading | None = None
    failure: str | None = None
    image_id: int | None = None  # when it is in the catalog
    queries: list[Query] = field(default_factory=list)
    detected: list[Crop] = field(default_factory=list)  # of a photo that is not in the catalog


@dataclass(frozen=True)
class Gallery:
    """The named animals to compare with; all arrays have G entries."""

    crops: np.ndarray  # int64
    images: np.ndarray  # int64
    events: np.ndarray  # int64, 0 for none
    names: list[str]
    vectors: np.ndarray  # (G, D) float32


class Identifier:
    """Everything that answers: the models of the catalog's runs and its named crops, loaded when needed."""

    def __init__(self, catalog: Catalog, cfg: IdentifyConfig):
        self.catalog = catalog
        self.cfg = cfg
        self.index_run = self._index_run()
        self.spec = registry.recall(json.loads(self.index_run["spec"]))
        self.gallery = self._gallery()
        self.thresholds = self._thresholds()
        active = catalog.latest_run("detect")
        self.active = json.loads(active["settings"]) if active else None
        self.crop = CropSettings.of_run(self.active) if self.active else CropSettings()
        self._embedder: Embedder | None = None
        self._detector: tuple[Detector, dict] | None = None

    def _index_run(self) -> dict:
        wanted = registry.model_sha256(self.cfg.model) if self.cfg.model else None
        for row in self.catalog.index_runs():
            if wanted in (None, row["sha256"]):
                return row
        made = f" with {self.cfg.model.name}" if self.cfg.model else ""
        raise CareError(f"There is no finished index{made} in {self.catalog.path}. Run `care index` first.")

    def _gallery(self) -> Gallery:
        rows = self.catalog.gallery_rows(self.index_run["id"], self.cfg.candidates)
        stored = self.catalog.embeddings(self.index_run["id"])
        place = {int(crop): i for i, crop in enumerate(stored.ids)}
        columns = ("crop", "image", "event")
        crops, images, events = (np.array([row[name] or 0 for row in rows], np.int64) for name in columns)
        vectors = stored.vectors[[place[int(crop)] for crop in crops]]
        return Gallery(crops, images, events, [row["individual"] for row in rows], vectors)

    def _thresholds(self) -> Thresholds | None:
        said = {}
        if self.spec.family == "care":
            said = checkpoints.read_header(registry.fetch(self.spec)).get("thresholds", {})
        known = self.cfg.known if self.cfg.known is not None else said.get("known")
        new = self.cfg.new_below if self.cfg.new_below is not None else said.get("new", known)
        if known is None:
            return None
        if new > known:
            raise CareError(f"--new-below must not be above --known, but {new} is above {known}.")
        return Thresholds(known, new)

    @property
    def embedder(self) -> Embedder:
        """The index's model."""
        if self._embedder is None:
            embedder, _ = index.load(self.spec, self.cfg.device)
            if json.loads(self.index_run["settings"]) != json.loads(json.dumps(index.settings_of(embedder))):
                raise CareError("This index was made with other settings of its model. Run `care index` again.")
            self._embedder = embedder
        return self._embedder

    @property
    def detector(self) -> tuple[Detector, dict]:
        """The active detect run's model, else the one that was asked for, and its settings in a run."""
        if self._detector is None:
            size = None
            spec = self.cfg.detector
            if spec is None and self.active:
                spec = registry.recall(json.loads(self.catalog.latest_run("detect")["spec"]))
                size = self.active["image_size"]
            detector = detect.load(spec, self.cfg.device, size)
            self._detector = detector, detect.settings_of(detector, self.crop)
        return self._detector

    def look(self, photo: QueryPhoto) -> None:
        """Fill a photo's queries: from the catalog when it is there, else by detecting and cutting."""
        stored = self.catalog.crop_rows(Selection(images=(photo.image_id,))) if photo.image_id else []
        if stored:
            pixels = self.catalog.pixels([row["crop"] for row in stored])
            photo.queries = [
                Query((row["x"], row["y"], row["w"], row["h"]), row["category"], row["species"], row["crop"],
                      pixels.get(row["crop"]))
                for row in stored
            ]  # fmt: skip
            return
        pixels = photo.reading.pixels
        if self.cfg.whole:
            box = (0.0, 0.0, float(pixels.shape[1]), float(pixels.shape[0]))
            photo.detected = cut_crops(pixels, [Detection(box, 1.0, "whole photo", "animal")], None, self.crop)
            shown = 0.0
        else:
            from care_cli.detectors import settle

            detector, _ = self.detector
            photo.detected = cut_crops(pixels, settle(detector.detect([pixels])[0]), None, self.crop)
            shown = detector.spec.shown if detector.spec.shown is not None else SHOWN
        photo.queries = [
            Query(crop.detection.box, crop.detection.category, crop.detection.species, jpeg=crop.jpeg)
            for crop in photo.detected
            if crop.detection.confidence >= shown
        ]

    def answer(self, photo: QueryPhoto) -> None:
        """Fill in candidates and verdicts of a photo's animals."""
        asked = [query for query in photo.queries if query.jpeg is not None]
        if not asked:
            return
        vectors = index.embed_jpegs(self.embedder, [query.jpeg for query in asked])
        allowed = np.flatnonzero(~np.isin(self.gallery.images, list(self.own_event(photo))))
        names = [self.gallery.names[i] for i in allowed]
        cosines = similarities(vectors, self.gallery.vectors[allowed]) if len(allowed) else np.zeros((len(asked), 0))
        for query, vector, cosine in zip(asked, vectors, cosines, strict=True):
            ranked = rank(cosine, names, self.cfg.score, self.cfg.m, self.cfg.k) if len(allowed) else []
            query.vector = vector
            query.candidates = [replace(one, index=int(allowed[one.index])) for one in ranked[: self.cfg.top]]
            query.verdict, query.reason = decide(candidates=query.candidates, thresholds=self.thresholds)

    def own_event(self, photo: QueryPhoto) -> set[int]:
        """Images that say nothing about who this is: the photo itself and all others of its event."""
        facts = photo.reading.photo
        images = self.catalog.event_images(facts.serial, facts.captured_at)
        if photo.image_id:
            images |= {photo.image_id} | self.catalog.images_of_event(photo.image_id)
        return images


def run(catalog: Catalog, cfg: IdentifyConfig) -> tuple[Identifier, list[QueryPhoto]]:
    """Answer for every photo under `cfg.paths`; nothing is written.

    Raises CareError when there is no photo, no finished index, or no usable model.
    """
    total = detect.count(cfg.paths)
    identifier = Identifier(catalog, cfg)
    photos = []
    for found in tqdm(scan(cfg.paths), total=total, unit="photo", desc="identify", disable=None):
        if not isinstance(found, Found):
            raise CareError(f"{display_path(found.path)} cannot be read: {found.reason}.")
        photo = QueryPhoto(found)
        try:
            photo.reading = read_photo(found.path)
        except OSError as error:
            photo.failure = error.strerror or type(error).__name__
        else:
            photo.failure = photo.reading.photo.failure if photo.reading.pixels is None else None
        if photo.failure is None:
            photo.image_id = catalog.find_image(photo.reading.photo.sha256)
            identifier.look(photo)
            identifier.answer(photo)
            photo.reading = replace(photo.reading, pixels=None)  # memory stays flat in the number of photos
        photos.append(photo)
    return identifier, photos


def confirm(identifier: Identifier, photo: QueryPhoto, name: str, number: int | None, new: bool) -> dict:
    """Add a photo that was asked about, and the decision that its animal is `name`; one transaction.

    `number` counts the photo's shown crops from 1 and is needed when it shows several animals.
    """
    animals = [i for i, query in enumerate(photo.queries) if query.category == "animal"]
    if number is None and len(animals) != 1:
        raise CareError(f"The photo shows {len(animals)} animals; say which with --crop N (see the table).")
    chosen = animals[0] if number is None else number - 1
    if chosen not in animals:
        raise CareError(f"--crop {number} is no animal of this photo; its animals are {[i + 1 for i in animals]}.")
    query, catalog = photo.queries[chosen], identifier.catalog
    name = individuals.checked_name(name)
    standing = individuals.known_as(catalog, name)
    if new and standing:
        raise CareError(f"There is an individual called {name!r} already; use --confirm, or another name.")
    if not new and standing is None:
        catalog.find_individual(name)  # says that there is none
    best = next((one for one in query.candidates if catalog.active(one.individual) == standing), None)
    evidence = {
        "run": identifier.index_run["id"],
        "crop": int(identifier.gallery.crops[best.index]) if best else None,
        "verdict": query.verdict,
    }
    with catalog.transaction():
        crop_id = query.crop_id or add_photo(identifier, photo)[chosen]
        if query.vector is not None:
            catalog.add_embeddings(identifier.index_run["id"], [crop_id], query.vector[None])
        score = best.similarity if best else None
        done = individuals.name(catalog, [crop_id], name, score=score, evidence=evidence)
    return {"crop": crop_id, "individual": done["individual"], "decisions": done["decisions"]}


def add_photo(identifier: Identifier, photo: QueryPhoto) -> list[int]:
    """Write the photo and its detections as the detect run would have; ids of the shown crops in order."""
    catalog, found = identifier.catalog, photo.found
    if identifier.cfg.whole:
        run_id = catalog.begin_run("identify", {**identifier.crop.as_run_settings(), "whole": True})
    else:
        detector, settings = identifier.detector
        run_id = catalog.begin_run("detect", settings, detector.spec, paths=[], device=identifier.cfg.device)
        if catalog.run(run_id, "detect")["finished_at"] is None and catalog.latest_run("detect")["id"] == run_id:
            catalog.finish_run(run_id)
    source_id = add_place(catalog, found.root).source_id
    image_id = catalog.add_image(photo.reading.photo, None)
    catalog.add_file(
        source_id, found.relative, display_path(found.relative), found.bytes, found.mtime_ns, image_id=image_id
    )
    catalog.take_event(image_id)
    ids = catalog.add_crops(run_id, image_id, photo.detected)
    boxes = [crop.detection.box for crop in photo.detected]
    return [ids[boxes.index(query.box)] for query in photo.queries]


def contract(identifier: Identifier, photos: Sequence[QueryPhoto]) -> dict:
    """The JSON contract of `care identify`; a photo that could not be read has `failure` beside no crops."""
    return {"photos": [_photo(identifier, photo) for photo in photos]}


def _photo(identifier: Identifier, photo: QueryPhoto) -> dict:
    shown = {"path": display_path(os.fsencode(photo.found.path)), "crops": []}
    if photo.failure:
        return shown | {"failure": photo.failure}
    for query in photo.queries:
        candidates = [
            {
                "individual": one.individual,
                "similarity": round(one.similarity, 4),
                "probability": None,
                "crop": int(identifier.gallery.crops[one.index]),
            }
            for one in query.candidates
        ]
        box = [round(value, 1) for value in query.box]
        shown["crops"].append(
            {"box": box, "category": query.category, "species": query.species, "verdict": query.verdict,
             "reason": query.reason or None, "candidates": candidates}
        )  # fmt: skip
    return shown


def sheet_rows(identifier: Identifier, photos: Sequence[QueryPhoto]) -> list[QuerySheetRow]:
    """The answers as `pages.sheet.identify_sheet` draws them: one row for each animal."""
    from care_cli.pages.sheet import QuerySheetRow

    rows = []
    for photo in photos:
        for number, query in enumerate(photo.queries, 1):
            if query.jpeg is None:
                continue
            crops = [int(identifier.gallery.crops[one.index]) for one in query.candidates]
            pixels = identifier.catalog.pixels(crops)
            candidates = [
                (one.individual, one.similarity, None, pixels[crop])
                for one, crop in zip(query.candidates, crops, strict=True)
            ]
            label = display_path(photo.found.relative).rpartition("/")[2]
            label += f" · {number}" if len(photo.queries) > 1 else ""
            rows.append(QuerySheetRow(label, query.jpeg, query.verdict, query.reason, candidates))
    return rows
