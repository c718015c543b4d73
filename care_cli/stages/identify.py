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

from care_cli import registry
from care_cli.decisions import checked_name
from care_cli.errors import CareError
from care_cli.headers import scheme_of
from care_cli.images import File, Reading, decode, read_file
from care_cli.matching import SCORES, Calibration, Candidate
from care_cli.records import Crop, CropFrame, Detection, Keypoints, KeypointScheme, ModelSpec, Selection
from care_cli.scan import Found, display_path, scan
from care_cli.stages import detect, gallery, index, individuals, shown_points
from care_cli.stages.cropping import CropSettings, cut_crops
from care_cli.stages.crops import black_out
from care_cli.stages.devices import precision_like
from care_cli.stages.photos import count, found_in, least_side, require_photos
from care_cli.stages.places import add_place
from care_cli.stages.query_points import QueryPoints
from care_cli.stages.shown_points import Shown
from care_cli.stages.verdicts import Verdicts
from care_cli.thresholds import ONE_BEING, PERSON, SHOWN

if TYPE_CHECKING:
    from care_cli.catalog import Catalog
    from care_cli.detectors import Detector
    from care_cli.embedders import Embedder


@dataclass(frozen=True)
class IdentifyConfig:
    """What `care identify` was asked to do; None leaves a value to the catalog or the model."""

    paths: tuple[Path, ...]
    top: int = 5
    model: ModelSpec | None = None  # embedder; default: that of the newest finished index
    detector: ModelSpec | None = None  # default: that of the active detect run
    whole: bool = False  # each photo is one animal, cut out already
    device: str = "cpu"
    engine: str = "auto"  # auto | torch | openvino
    precision: str = "auto"  # auto | float32 | bfloat16 | float16
    score: str = "best"  # best | mean | vote, see matching.rank
    m: int = 3  # matches that 'mean' averages
    k: int = 5  # neighbours that 'vote' asks
    known: float | None = None  # cosine from which the best candidate is the animal; default: see Verdicts
    new_below: float | None = None  # cosine below which it is none of them
    candidates: Selection = field(default_factory=Selection)  # who comes into question
    name: str | None = None  # said of the animal of the one photo
    new: bool = False  # nobody bears that name yet
    keep: bool = False  # the queries' pixels, for a sheet
    keypoints: bool = False  # find the queries' points too


@dataclass
class Query:
    """One crop of a query photo on its way to an answer."""

    box: tuple[float, float, float, float]  # x, y, w, h px of the upright image
    category: str
    species: str | None
    crop_id: int | None = None  # when it is in the catalog
    jpeg: bytes | None = None
    vector: np.ndarray | None = None  # (D,) float32, norm 1
    digest: bytes | None = None  # of the pixels that it was made of
    keypoints: Keypoints | None = None  # when they were asked for, or the model looks at points
    frame: CropFrame | None = None  # where its points lie
    shown: Shown | None = None  # what a model is told beside the pixels
    points_run: int | None = None  # the run that they belong to when they are new
    candidates: list[Candidate] = field(default_factory=list)
    calibration: Calibration | None = None  # that their probabilities are of
    verdict: str | None = None
    reason: str = ""


@dataclass
class QueryPhoto:
    """One photo that was asked about."""

    path: str  # readable form
    found: Found | None = None  # None: a folder that could not be looked into
    reading: Reading | None = None
    failure: str | None = None
    image_id: int | None = None  # when it is in the catalog
    queries: list[Query] = field(default_factory=list)
    detected: list[Crop] = field(default_factory=list)  # when its crops are not in the catalog


class Identifier:
    """Everything that answers: the models of the catalog's runs and its named crops, loaded when needed."""

    def __init__(self, catalog: Catalog, cfg: IdentifyConfig):
        self.catalog = catalog
        self.cfg = cfg
        self.index_run = gallery.index_run(catalog, cfg.model)
        self.spec = registry.recall(json.loads(self.index_run["spec"]))
        self.gallery = gallery.open_gallery(catalog, self.index_run["id"], cfg.candidates)
        self.verdicts = Verdicts(catalog, self.index_run, self.spec, cfg)
        active = catalog.latest_run("detect")
        self.active_run = active["id"] if active else None
        settings = json.loads(active["settings"]) if active else None
        self.crop = CropSettings.of_run(settings) if settings else CropSettings()
        self.active = settings if active and active["spec"] else None  # imported results have no model that could look
        self._embedder: Embedder | None = None
        self._detector: tuple[Detector, dict] | None = None
        self.scheme = scheme_of(json.loads(self.index_run["settings"]))
        self.points = self._points() if cfg.keypoints or isinstance(self.scheme, KeypointScheme) else None

    def _points(self) -> QueryPoints:
        looked_at = self.scheme if isinstance(self.scheme, KeypointScheme) else None
        cfg, how = self.cfg, {"scheme": looked_at, "needed": self.cfg.keypoints}
        return QueryPoints(self.catalog, cfg.device, cfg.engine, cfg.precision, cfg.candidates.species, **how)

    @property
    def embedder(self) -> Embedder:
        """The index's model."""
        if self._embedder is None:
            made = json.loads(self.index_run["settings"])
            precision = precision_like(made, self.cfg.precision, self.cfg.device)
            embedder, _ = index.load(self.spec, self.cfg.device, self.cfg.engine, precision, self.catalog.notice)
            if made != json.loads(json.dumps(index.settings_of(embedder))) | {"precision": made["precision"]}:
                raise CareError("This index was made with other settings of its model. Run `care index` again.")
            self._embedder = embedder
        return self._embedder

    def as_indexed(self) -> bool:
        """Are the vectors of query photos of the index's own precision?"""
        return self.embedder.precision == json.loads(self.index_run["settings"])["precision"]

    def query_run(self) -> tuple[str, dict, ModelSpec | None]:
        """Command, settings and model of the run to which a query photo's new crops belong.

        That is the active detect run when it is its model; any other way of cutting never becomes the active run.
        """
        if self.cfg.whole:
            return "identify", {**self.crop.as_run_settings(), "whole": True}, None
        detector, settings = self.detector
        active = self.catalog.find_run("detect", settings, detector.spec) == self.active_run is not None
        return "detect" if active else "identify", settings, detector.spec

    def stored(self, image_id: int | None) -> list[dict]:
        """The crops of an image that is in the catalog, as the survey shows them or as was asked for them."""
        if image_id is None:
            return []
        if self.cfg.whole or (self.cfg.detector and self.query_run()[0] == "identify"):
            run_id = self.catalog.find_run(*self.query_run())
            rows = self.catalog.crops_of_run(run_id, image_id) if run_id else []
            return [row for row in rows if row["confidence"] >= self.shown]
        return self.catalog.crop_rows(Selection(images=(image_id,)))

    @property
    def shown(self) -> float:
        """The confidence from which a photo's new crops are shown."""
        own = None if self.cfg.whole else self.detector[0].spec.shown
        return SHOWN if own is None else own

    @property
    def decode(self) -> str:
        """How the active detect run decodes photos."""
        return self.active.get("decode", "full") if self.active else "reduced"

    @property
    def least(self) -> int | None:
        """Px that a query photo's longer side must be decoded with; None: in full."""
        if self.cfg.whole:
            return None
        if self.active and not self.cfg.detector:  # the detector is not needed for photos of the catalog
            return least_side(self.active["image_size"], self.decode)
        return least_side(self.detector[0].image_size, self.decode)

    @property
    def detector(self) -> tuple[Detector, dict]:
        """The active detect run's model, else the one that was asked for, and its settings in a run."""
        if self._detector is None:
            size, precision, cfg = None, self.cfg.precision, self.cfg
            spec = cfg.detector
            if spec is None and self.active:
                spec = registry.recall(json.loads(self.catalog.latest_run("detect")["spec"]))
                size = self.active["image_size"]
                precision = precision_like(self.active, precision, cfg.device)
            detector = detect.load(spec, cfg.device, size, cfg.engine, precision, self.catalog.notice)
            self._detector = detector, detect.settings_of(detector, self.crop, self.decode)
        return self._detector

    def look(self, photo: QueryPhoto, file: File) -> None:
        """Fill a photo's facts and queries: from the catalog when it is there, else by detecting and cutting."""
        photo.image_id = self.catalog.find_image(file.sha256)
        stored = self.stored(photo.image_id)
        photo.reading = decode(file, 1)  # its facts, and whether there is anything to see
        if photo.reading.picture is None:
            photo.failure = photo.reading.photo.failure
        elif stored:
            ids = [row.get("crop", row.get("id")) for row in stored]
            pixels = self.catalog.pixels(ids)
            photo.queries = [
                Query((row["x"], row["y"], row["w"], row["h"]), row["category"], row["species"], id_, pixels.get(id_))
                for id_, row in zip(ids, stored, strict=True)
            ]
        else:
            self.detect(photo, decode(file, self.least))
        photo.reading = Reading(photo.reading.photo, None)

    def detect(self, photo: QueryPhoto, reading: Reading) -> None:
        """Fill the queries of a photo that the catalog has no crops of."""
        facts, image, photo.reading = reading.photo, photo.image_id, reading
        people = self.catalog.people([image], PERSON).get(image, []) if image else []
        if self.cfg.whole:
            box = (0.0, 0.0, float(facts.width), float(facts.height))
            found = [Detection(box, 1.0, "whole photo", "animal")]
        else:
            found = found_in(reading, self.detector[0])
        photo.detected = cut_crops(reading, found, None, self.crop, people)
        photo.queries = [
            Query(crop.detection.box, crop.detection.category, crop.detection.species, jpeg=crop.jpeg)
            for crop in photo.detected
            if crop.detection.confidence >= self.shown
        ]

    def answer(self, photo: QueryPhoto) -> None:
        """Fill in candidates and verdicts of a photo's animals."""
        asked = [query for query in photo.queries if query.jpeg is not None]
        if not asked:
            return
        if self.points:
            self.points.find(photo)
        cfg, own = self.cfg, self.catalog.crops_of_images(self.own_event(photo))
        if self.scheme:
            self.tell(asked)
        vectors = index.embed(self.embedder, [(query.jpeg, query.shown) for query in asked])
        for query, made in zip(asked, vectors, strict=True):
            query.vector, query.digest = made.vector, made.digest
            if query.vector is None:
                query.verdict, query.reason = "unsure", "its stored pixels are damaged: `care doctor`"
                continue
            query.candidates = self.gallery.search(query.vector, cfg.top, cfg.score, cfg.m, cfg.k, without=own)
            self.verdicts.judge(query)

    def tell(self, asked: Sequence[Query]) -> None:
        """Fill what the model is told of queries; of a photo that is not in the catalog no camera is known."""
        if isinstance(self.scheme, KeypointScheme):
            for query in asked:
                query.shown = shown_points.shown(self.scheme, query.keypoints, query.frame)
            return
        known = shown_points.of_crops(self.catalog, [query.crop_id for query in asked if query.crop_id], self.scheme)
        for query in asked:
            query.shown = known.get(query.crop_id) or shown_points.seen_from(self.scheme)

    def own_event(self, photo: QueryPhoto) -> set[int]:
        """Images that say nothing about who this is: the photo itself and all others of its event."""
        facts = photo.reading.photo
        images = self.catalog.event_images(facts.serial, facts.captured_at)
        if photo.image_id:
            images |= {photo.image_id} | self.catalog.images_of_event(photo.image_id)
        return images


def run(catalog: Catalog, cfg: IdentifyConfig) -> tuple[Identifier, list[QueryPhoto]]:
    """Answer for every photo under `cfg.paths`; nothing is written.

    What could not be read has `failure`. Raises CareError when there is no photo, no finished index, or no usable
    model, and when a name is to be said that cannot be, or of several photos.
    """
    if cfg.score not in SCORES:
        raise CareError(f"--score is one of {', '.join(SCORES)}, but got {cfg.score!r}.")
    require_photos(cfg.paths)
    total = count(cfg.paths)
    if cfg.name is not None:
        _check_name(catalog, cfg.name, cfg.new)
        if total != 1:
            raise CareError(f"--confirm and --new say who is on one photo, but there are {total}.")
    identifier = Identifier(catalog, cfg)
    photos = []
    for found in tqdm(scan(cfg.paths), total=total, unit="photo", desc="identify", disable=None):
        if not isinstance(found, Found):
            photos.append(QueryPhoto(display_path(found.path), failure=found.reason))
            continue
        photo = QueryPhoto(display_path(os.fsencode(found.path)), found)
        try:
            file = read_file(found.path)
        except OSError as error:
            photo.failure = error.strerror or type(error).__name__
        else:
            identifier.look(photo, file)
        if photo.failure is None:
            identifier.answer(photo)
        if not cfg.keep and cfg.name is None:
            photo.queries = [replace(query, jpeg=None, vector=None) for query in photo.queries]
            photo.detected = []
        photos.append(photo)
    return identifier, photos


def _check_name(catalog: Catalog, name: str, new: bool) -> int | None:
    """The individual that a name means, None for a new one; CareError when it cannot be said."""
    standing = individuals.known_as(catalog, checked_name(name))
    if new and standing:
        raise CareError(f"There is an individual called {name!r} already; use --confirm, or another name.")
    return standing if new or standing else catalog.find_individual(name)


def confirm(identifier: Identifier, photos: Sequence[QueryPhoto], number: int | None) -> dict:
    """Add the one photo that was asked about, and the decision that its animal is `cfg.name`; one transaction.

    `number` counts the photo's shown crops from 1 and is needed when it shows several animals.
    """
    for one in photos:
        if one.failure:
            raise CareError(f"Nothing was said: {one.path} could not be read ({one.failure}).")
    [photo] = photos
    animals = [i for i, query in enumerate(photo.queries) if query.category == "animal"]
    if number is None and len(animals) != 1:
        raise CareError(f"The photo shows {len(animals)} animals; say which with --crop N (see the table).")
    chosen = animals[0] if number is None else number - 1
    if chosen not in animals:
        raise CareError(f"--crop {number} is no animal of this photo; its animals are {[i + 1 for i in animals]}.")
    query, catalog, cfg = photo.queries[chosen], identifier.catalog, identifier.cfg
    standing = _check_name(catalog, cfg.name, cfg.new)
    best = next((one for one in query.candidates if catalog.active(one.individual) == standing), None)
    evidence = {
        "run": identifier.index_run["id"],
        "crop": int(identifier.gallery.crops[best.index]) if best else None,
        "verdict": query.verdict,
    }
    with catalog.transaction():
        crop_id = query.crop_id or add_photo(identifier, photo)[chosen]
        if query.vector is not None and identifier.as_indexed():
            hashes = [query.shown.hash] if query.shown else None
            catalog.add_embeddings(identifier.index_run["id"], [crop_id], query.vector[None], [query.digest], hashes)
        if query.points_run is not None:
            catalog.add_keypoints(query.points_run, [replace(query.keypoints, crop_id=crop_id)], [query.digest])
        facts = {"score": best.similarity, "probability": best.probability} if best else {}
        done = individuals.name(catalog, [crop_id], cfg.name, evidence=evidence, **facts)
    gallery.forget(catalog)
    return {"crop": crop_id, "individual": done["individual"], "decisions": done["decisions"]}


def add_photo(identifier: Identifier, photo: QueryPhoto) -> list[int]:
    """Write the photo and its detections as a detect run would have; ids of the shown crops in order."""
    catalog, found = identifier.catalog, photo.found
    command, settings, spec = identifier.query_run()
    run_id = catalog.begin_run(command, settings, spec, paths=[], device=identifier.cfg.device)
    if command == "identify":
        catalog.finish_run(run_id)
    source_id = add_place(catalog, found.root).source_id
    image_id = catalog.add_image(photo.reading.photo, None)
    catalog.add_file(
        source_id, found.relative, display_path(found.relative), found.bytes, found.mtime_ns, image_id=image_id
    )
    catalog.take_event(image_id)
    ids = catalog.add_crops(run_id, image_id, photo.detected)
    for crop, crop_id in zip(photo.detected, ids, strict=True):
        if crop.detection.category == "person" and crop.detection.confidence >= PERSON:
            black_out(catalog, crop_id, spare=ONE_BEING, run_id=run_id)
    boxes = [crop.detection.box for crop in photo.detected]
    return [ids[boxes.index(query.box)] for query in photo.queries]
