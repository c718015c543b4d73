"""Labelled sets as public archives hold them: every location's own photos of all kinds of animals, in bursts, among
empties and people, with COCO Camera Traps labels under the archives' words."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from datetime import datetime, timedelta
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np

from .coats import FAUNA, Individual, make_individual, make_person
from .places import Location, make_location
from .survey import START, Event, Settings, write_card, write_truth

EMPTY, HUMAN = "empty", "human"
CATEGORIES = (EMPTY, HUMAN, *sorted(kind for kinds in FAUNA.values() for kind in kinds))  # by their number
VISITS = {"animal": 0.74, "herd": 0.05, "mixed": 0.02, "person": 0.07, "both": 0.02, "empty": 0.10}
FRAMES = {1: 0.6, 2: 0.2, 3: 0.2}  # photos in a burst


def visits_of(location: Location, animals: Sequence[int], visits: int, rng: np.random.Generator) -> list[Event]:
    """What passes the location: single animals, two of a kind, two kinds, people, and nothing, hours apart.

    The fifteen classes come in turn, in an order of the location's own; an animal's seed is one of `animals`.
    """
    classes = cycle(rng.permutation(list(FAUNA)).tolist())

    def animal(species: str) -> Individual:
        return make_individual(species, int(rng.choice(animals)))

    when = START + timedelta(days=int(rng.integers(300)), seconds=round(float(rng.uniform(0, 18000)), 2))
    events = []
    for number in range(1, visits + 1):
        visit = str(rng.choice(list(VISITS), p=list(VISITS.values())))
        species = [] if visit in ("person", "empty") else [next(classes)]
        species += species if visit == "herd" else [next(classes)] if visit == "mixed" else []
        who = [animal(name) for name in species]
        who += [make_person(int(rng.integers(1 << 30)))] if visit in ("person", "both") else []
        frames = int(rng.choice(list(FRAMES), p=list(FRAMES.values()))) if who else 1
        events.append(Event(number, location, when, tuple(who), frames))
        when += timedelta(seconds=round(float(rng.uniform(1.2, 6.5)) * 3600, 2))
    return events


def shoot_place(
    place: int, out: Path, animals: Sequence[int], visits: int, size: tuple[int, int] = (640, 480)
) -> list[dict[str, Any]]:
    """Writes the card of the location with seed `place` below `out`; returns the truth of its photos.

    All follows from the seeds, so that places may be shot in any order and by any process.
    """
    rng = np.random.default_rng([place, 47])
    events = visits_of(make_location(place), animals, visits, rng)
    told = ("category", "species", "kind", "individual")
    settings = Settings(place, size, difficulty=float(rng.uniform(0.05, 0.4)), told=told)
    return write_card(out, ".", events, settings)


def camera_traps(records: Sequence[dict[str, Any]], description: str) -> dict[str, Any]:
    """COCO Camera Traps 1.0 of truth records: images with location, datetime and sequence; annotations with
    `bbox` x, y, width, height in px of the upright photo; a photo that shows nothing is labelled `empty`."""
    sequence = [(record["location"], record["event"]) for record in records]
    lengths, seen = Counter(sequence), Counter()
    images, annotations = [], []
    for record, which in zip(records, sequence, strict=True):
        name = record["path"].rsplit(".", 1)[0]
        images.append(
            {
                "id": name,
                "file_name": record["path"],
                "width": record["width"],
                "height": record["height"],
                "location": record["location"],
                "datetime": f"{datetime.fromisoformat(record['captured_at']):%Y-%m-%d %H:%M:%S}",
                "seq_id": "{}-{}".format(*which),
                "seq_num_frames": lengths[which],
                "frame_num": seen[which],
            }
        )
        seen[which] += 1
        labels = [(found["kind"], {"bbox": found["box"]}) for found in record["objects"]] or [(EMPTY, {})]
        for number, (kind, box) in enumerate(labels):
            label = {"id": f"{name}#{number}", "image_id": name, "category_id": CATEGORIES.index(kind)}
            annotations.append(label | box)
    return {
        "info": {"version": "1.0", "description": description, "contributor": "CARE scenes"},
        "categories": [{"id": number, "name": name} for number, name in enumerate(CATEGORIES)],
        "images": images,
        "annotations": annotations,
    }


def write_labels(out: Path, records: Sequence[dict[str, Any]], **about: Any) -> None:
    """Writes `labels.json` (COCO Camera Traps) and `truth.json` (all that is known) beside the cards in `out`."""
    document = camera_traps(records, "rendered scenes of fifteen classes; no photo of a real animal")
    (out / "labels.json").write_text(json.dumps(document, indent=0) + "\n", encoding="utf-8", newline="\n")
    write_truth(out / "truth.json", list(records), **about)
