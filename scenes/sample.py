"""The committed sample: a miniature survey card, query photos, the truth and the ecologist's names."""

from __future__ import annotations

import csv
import json
import shutil
from dataclasses import replace
from datetime import datetime, timedelta
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np

from .coats import SPECIES, Individual
from .photos import MIRROR_PAIRS
from .places import make_location
from .seeds import SAMPLE
from .survey import Card, Event, Settings, make_individuals, plan, write_card, write_event, write_truth

KNOWN, NEW, PHOTOS = 24, 16, 4  # animals on the card, animals only in queries, photos of each on the card
CARD_PLACES = (0, 1, 4)  # of the sample's seeds: three kinds of country
QUERY_PLACES = range(100, 108)
NEW_FROM = 500
SETTINGS = Settings(SAMPLE[0], size=(960, 720), difficulty=0.3, quality=66)
QUERIES_START = datetime(2024, 5, 11, 5, 40)

README = """# Sample data

Rendered by CARE's own scene renderer (`scenes/`), from seeds; nothing here is a photo of a real animal.

| what | where |
|---|---|
| a miniature survey: three cameras, 24 animals of four species, 4 photos of each or more | `card/` |
| photos of animals of the card, at other places and times | `queries/known_*.JPG` |
| photos of animals that are not on the card | `queries/new_*.JPG` |
| the truth of every file: time, place, lighting, kind, boxes, names, keypoints, flank | `truth.json` |
| the names of the card's animals, as an ecologist would keep them | `names.csv` |
| named points of one animal of each species, as an expert would set them | `templates/` |

The card also has empty photos, people, two animals in one frame, a photo stored rotated (EXIF orientation 6),
an exact duplicate and a truncated file. Boxes are `x, y, w, h` and keypoints `x, y, visible` in px of the
upright photo; paths are relative to this folder; a photo's `visible` is the share of the animal that can be seen.

Coats are the same on both flanks. The seeds of these animals and places (`scenes/seeds.py`) are used for nothing
else: not for training, not for choosing thresholds, not for tests.

Made again, byte for byte on one machine and Pillow version, by `python -m scenes card sample_data`.
"""


def _queries(
    rng: np.random.Generator, animals: list[Individual], seeds: range, first_event: int, start: datetime
) -> list[Event]:
    """One photo of each animal at a place and hour of its own."""
    places = [make_location(seeds[i]) for i in QUERY_PLACES]
    events = []
    for i, who in enumerate(animals):
        when = start + timedelta(seconds=round((5.3 * i + float(rng.uniform(0, 4))) * 3600, 2))
        events.append(Event(first_event + i, places[int(rng.integers(len(places)))], when, (who,)))
    return events


def _write_names(path: Path, records: list[dict[str, Any]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(("path", "x", "y", "w", "h", "individual"))
        for record in records:
            for found in record["objects"] if record["kind"] == "animal" else ():
                table.writerow((record["path"], *(f"{v:g}" for v in found["box"]), found["individual"]))


def _write_templates(folder: Path, records: list[dict[str, Any]]) -> None:
    """The points that can be seen of each species' plainest animal, by day, with its photo."""
    folder.mkdir(exist_ok=True)
    for species in SPECIES:
        alone = [
            one
            for one in records
            if one["kind"] == "animal" and one["lighting"] == "day" and len(one["objects"]) == 1
            if one["objects"][0]["species"] == species and one["orientation"] == 1
        ]
        best = max(alone, key=lambda one: (_seen(one), one["objects"][0]["visible"], one["path"]))
        points = {name: at[:2] for name, at in best["objects"][0]["keypoints"].items() if at[2]}
        pairs = {a: b for pair in MIRROR_PAIRS for a, b in (pair, pair[::-1]) if set(pair) <= set(points)}
        said = [
            {"name": name, "x": x, "y": y} | ({"mirror": pairs[name]} if name in pairs else {})
            for name, (x, y) in points.items()
        ]
        document = {"photo": best["path"], "species": species, "keypoints": said}
        text = json.dumps(document, indent=1) + "\n"
        (folder / f"{species.lower()}.json").write_text(text, encoding="utf-8", newline="\n")


def _seen(record: dict[str, Any]) -> int:
    return sum(point[2] for point in record["objects"][0]["keypoints"].values())


def make_sample(
    out: Path, seeds: range = SAMPLE, known: int = KNOWN, new: int = NEW, asked: int | None = None
) -> list[dict[str, Any]]:
    """Writes the whole of `sample_data` to `out`, in place of what was there; returns the truth.

    Other `seeds` and counts make a set of the same form with other animals at other places. `asked` is the number
    of queries of known animals, each in turn; one of each where it is None.
    """
    out = Path(out)
    for old in ("card", "queries"):
        shutil.rmtree(out / old, ignore_errors=True)
    settings = replace(SETTINGS, seed=seeds[0])
    rng = np.random.default_rng([seeds[0], 41])
    on_card = make_individuals(seeds, known)
    strangers = make_individuals(seeds[NEW_FROM:], new, first_name=known)
    places = [make_location(seeds[i]) for i in CARD_PLACES]
    events = plan(rng, on_card, PHOTOS, places, seeds[0])
    card = write_card(out, "card", events, settings)
    queries = []
    known_asked = [on_card[i % known] for i in range(known if asked is None else asked)]
    for word, animals, days in (("known", known_asked, 0), ("new", strangers, 7)):
        files = Card(out / "queries", word + "_{:02d}.JPG", count(1))
        start, first = QUERIES_START + timedelta(days=days), len(events) + len(queries) + 1
        for event in _queries(rng, animals, seeds, first, start):
            queries += write_event(out, files, event, settings)
    _write_names(out / "names.csv", card)
    _write_templates(out / "templates", card)
    write_truth(out / "truth.json", card + queries, seed=settings.seed, difficulty=settings.difficulty)
    (out / "README.md").write_text(README, encoding="utf-8", newline="\n")
    return card + queries
