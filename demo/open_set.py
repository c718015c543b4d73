"""Known or new, measured as the product does it: photos through the detector, crops through the embedder,
the best match of each individual, two thresholds."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from functools import partial

import numpy as np

from care_cli import geometry
from care_cli.detectors import Detector
from care_cli.embedders import Embedder
from care_cli.images import decode_jpeg, read_bytes
from care_cli.matching import Thresholds, rank
from care_cli.records import Detection
from care_cli.stages.cropping import cut_crops
from care_cli.stages.photos import found_in, least_side
from demo.carry import Carrier
from demo.train_data import in_processes
from scenes import SPECIES, make_individual, make_location
from scenes.survey import START, Event, Settings, shoot

GALLERY_BURST, QUERIES = 3, 4  # photos of one burst, beside a single photo elsewhere; photos asked about
GALLERY_PLACES, QUERY_PLACES = slice(0, 6), slice(100, 112)  # of the seeds' range


@dataclass(frozen=True)
class Sightings:
    """Crops of many individuals: `individual (N,) int`, `query (N,) bool`, `vectors (N, D) float32`;
    `found` is the share of animals that the detector gave a box with IoU >= 0.5 and the right species."""

    individual: np.ndarray
    query: np.ndarray
    vectors: np.ndarray
    found: float


def photograph(seed: int, places: Sequence[int]) -> list[tuple[bool, bytes, tuple[float, ...]]]:
    """One individual's photos: whether it is a query, the JPEG, the true box.

    The gallery is a burst of three and a single photo at two places, the queries are single photos at other
    places on other days, as with the demo's sample.
    """
    who = make_individual(list(SPECIES)[seed % len(SPECIES)], seed)
    rng = np.random.default_rng([seed, 29])
    settings = Settings(seed, size=(960, 720), difficulty=0.3, quality=66)
    stays = [*rng.choice(places[GALLERY_PLACES], 2, replace=False)]
    asked = [*rng.choice(places[QUERY_PLACES], QUERIES, replace=False)]
    photos = []
    for number, place in enumerate(stays + asked):
        when = START + timedelta(days=number, seconds=int(rng.integers(0, 86400)))
        frames = GALLERY_BURST if number == 0 else 1
        event = Event(number, make_location(int(place)), when, (who,), frames)
        for _, scene in shoot(event, settings):
            if scene.objects:
                jpeg = io.BytesIO()
                scene.image.save(jpeg, "JPEG", quality=settings.quality)
                photos.append((number >= len(stays), jpeg.getvalue(), scene.objects[0]["box"]))
    return photos


def sightings(
    seeds: Sequence[int], places: Sequence[int], detector: Detector | None, embedder: Embedder, carrier: Carrier
) -> Sightings:
    """Photograph the individuals of `seeds`, detect, crop, carry points and embed them as the product does; without
    a detector the true boxes are cut."""
    sets = in_processes(partial(photograph, places=[int(p) for p in places]), seeds, "sightings")
    individual, query, crops, kinds, total = [], [], [], [], 0
    for seed, photos in zip(seeds, sets, strict=True):
        species = list(SPECIES)[seed % len(SPECIES)]
        for asked, jpeg, box in photos:
            total += 1
            crop = _crop(jpeg, box, species, detector)
            if crop is not None:
                individual.append(seed)
                query.append(asked)
                crops.append(crop)
                kinds.append(species)
    inputs = np.stack([embedder.transform(decode_jpeg(crop)) for crop in crops])
    points = carrier.of_jpegs(crops, kinds)
    pages = [slice(i, i + 64) for i in range(0, len(crops), 64)]
    vectors = np.concatenate([embedder.embed(inputs[page], points[page]) for page in pages])
    return Sightings(np.array(individual), np.array(query), vectors, len(crops) / total)


def _crop(jpeg: bytes, box: tuple[float, ...], species: str, detector: Detector | None) -> bytes | None:
    """The stored crop of the detection that is the animal; None when there is none."""
    reading = read_bytes(jpeg, least_side(detector.image_size, "reduced") if detector else None)
    if detector is None:
        return cut_crops(reading, [Detection(box, 1.0, species, "animal", species)])[0].jpeg
    shown = [d for d in found_in(reading, detector) if d.confidence >= detector.spec.shown]
    crops = [c for c in cut_crops(reading, shown) if c.jpeg and c.detection.species == species]
    overlap = geometry.iou([c.detection.box for c in crops], [box])[:, 0]
    return crops[int(overlap.argmax())].jpeg if len(crops) and overlap.max() >= 0.5 else None


def ask(seen: Sightings, gallery_size: int, rounds: int, seed: int) -> list[tuple[float, bool, bool]]:
    """Every query of every individual, asked of `rounds` random galleries of `gallery_size` individuals:
    `(best similarity, whether the best is the right one, whether the individual is in the gallery)`."""
    rng = np.random.default_rng(seed)
    names = np.unique(seen.individual)
    answers = []
    for _ in range(rounds):
        enrolled = set(rng.choice(names, gallery_size, replace=False).tolist())
        rows = np.flatnonzero(~seen.query & np.isin(seen.individual, list(enrolled)))
        labels = [str(name) for name in seen.individual[rows]]
        for query in np.flatnonzero(seen.query):
            best = rank(seen.vectors[rows] @ seen.vectors[query], labels)[0]
            name = int(seen.individual[query])
            answers.append((best.similarity, best.individual == str(name), name in enrolled))
    return answers


def figures(answers: list[tuple[float, bool, bool]], thresholds: Thresholds) -> dict[str, float]:
    """Shares: the right name first; right and called known, of known animals; called new, of new ones."""
    known = [(s, right) for s, right, enrolled in answers if enrolled]
    new = [s for s, _, enrolled in answers if not enrolled]
    return {
        "right_first": round(float(np.mean([right for _, right in known])), 4),
        "known_as_known": round(float(np.mean([right and s >= thresholds.known for s, right in known])), 4),
        "new_as_new": round(float(np.mean([s < thresholds.new for s in new])), 4),
    }


def fix_thresholds(galleries: Sequence[list[tuple[float, bool, bool]]], margin: float = 0.01) -> Thresholds:
    """The pair, `margin` either way of one similarity, at which the worst share of all galleries is best.

    `galleries` are the answers of `ask` for galleries of several sizes: the larger one is, the likelier a new
    animal resembles someone in it, and one pair has to serve all.
    """
    grid = np.round(np.arange(0.2, 0.96, 0.005), 3)

    def worst(value: float) -> float:
        shares = [figures(answers, Thresholds(value, value)) for answers in galleries]
        return min(min(share["known_as_known"], share["new_as_new"]) for share in shares)

    middle = float(max(grid, key=worst))
    return Thresholds(known=round(middle + margin, 3), new=round(middle - margin, 3))
