"""Surveys: the card folders of several cameras, with bursts, empties and mishaps, and the truth beside them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from .coats import SPECIES, Individual, make_individual, make_person
from .exif import camera_exif
from .photos import Scene, render_scene
from .places import Location, make_location
from .staging import Placement, place

_WORDS = """Luna Kea Moss Bramble Tui Pip Rata Hazel Flint Willow Koru Ash Clover Miro Juniper Sorrel Teal Rimu
Pepper Lark Nettle Totara Biscuit Finch Manuka Basil Wren Pebble Ngaio Thistle Cocoa Heron Mistral Poppy Hebe
Ember Marlow Toetoe Quill Saffron Karo Bilbo Olive Tansy Puriri Dusty Fable Kowhai Maple Nimbus Otter Plum
Raupo Sable Tawa Umber Violet Whin Yarrow Zephyr Acorn Birch Cedar Dill Elder Fennel Gorse Heath Indigo Jasper
Kelp Linden Mallow Nutmeg Opal Piper Quince Rowan Sage Tarn Ursa Vesper Wattle Aspen Bracken Comet Dune Echo
Frost Glen Hollow Iris Jet Karst Lichen Mica Nova Onyx Pumice Reed Slate Tide Umbra Vale Wisp"""
NAMES = tuple(_WORDS.split())

START = datetime(2024, 3, 4, 6, 20)
DAY = range(7, 19)  # hours with enough light for colour


@dataclass(frozen=True)
class Event:
    """Something that passes a camera once: `frames` photos of a burst. `mishap` is "", "rotated",
    "duplicate" or "truncated" and befalls the last photo."""

    number: int
    location: Location
    when: datetime
    animals: tuple[Individual, ...] = ()
    frames: int = 1
    mishap: str = ""

    @property
    def infrared(self) -> bool:
        """Whether it is too dark for colour."""
        return self.when.hour not in DAY


@dataclass(frozen=True)
class Settings:
    """How a whole set is made: the seed of all chance, `size` in px, `difficulty` 0..1, JPEG quality, and which
    of an object's names the truth tells."""

    seed: int
    size: tuple[int, int] = (1280, 960)
    difficulty: float = 0.3
    quality: int = 80
    told: tuple[str, ...] = ("category", "species", "individual")


@dataclass
class Card:
    """Where an event's photos go: numbered files in `folder`, which `pattern` names."""

    folder: Path
    pattern: str = "IMG_{:04d}.JPG"
    numbers: Iterator[int] = field(default_factory=lambda: count(1))

    def next_path(self) -> Path:
        """The next photo's path; the folder is made."""
        self.folder.mkdir(parents=True, exist_ok=True)
        return self.folder / self.pattern.format(next(self.numbers))


def make_individuals(seeds: Sequence[int], total: int, first_name: int = 0) -> list[Individual]:
    """`total` individuals, the species in turn, with seeds in order and a name each."""
    species = list(SPECIES)
    made = []
    for i in range(total):
        turn, name = divmod(first_name + i, len(NAMES))
        label = NAMES[name] + (f" {turn + 1}" if turn else "")
        made.append(make_individual(species[i % len(species)], seeds[i // len(species)], name=label))
    return made


def _animals_of(scene: Scene) -> float:
    """How much of the least visible of the placed animals can be seen, 0..1."""
    if len(scene.objects) < len(scene.placements):
        return 0.0
    return min((found["visible"] for found in scene.objects), default=1.0)


def _first_frame(event: Event, rng, looks: dict[str, Any]) -> Scene:
    """A scene in which every animal can be made out."""
    scene = None
    for _ in range(12):
        share = 0.28 if len(event.animals) > 1 else None
        items = [
            place(event.location, who, rng, size=looks["size"], difficulty=looks["difficulty"], share=share)
            for who in event.animals
        ]
        if len(items) > 1:
            items = [replace(item, x=x) for item, x in zip(items, (0.27, 0.72), strict=True)]
        tried = render_scene(event.location, items, rng, when=event.when, **looks)
        if scene is None or _animals_of(tried) > _animals_of(scene):
            scene = tried
        if _animals_of(scene) > 0.85 - 0.4 * looks["difficulty"]:
            break
    return scene


def shoot(event: Event, settings: Settings) -> list[tuple[datetime, Scene]]:
    """The photos of an event with their times, 1 to 2 s apart, the animals moving on."""
    rng = np.random.default_rng([settings.seed, event.number])
    degrees = round(14 - 8 * np.cos((event.when.hour - 3) / 24 * 2 * np.pi) + rng.normal(0, 2))
    difficulty = settings.difficulty
    looks = {"size": settings.size, "infrared": event.infrared, "difficulty": difficulty, "temperature": degrees}
    scene = _first_frame(event, rng, looks)
    when = event.when
    photos = [(when, scene)]
    for _ in range(event.frames - 1):
        seconds = float(rng.uniform(1.0, 2.0))
        when += timedelta(seconds=round(seconds, 2))
        for pace in (1.0, 0.3, -0.5, -1.0, 0.0):
            items: list[Individual | Placement] = [item.moved(pace * seconds, rng) for item in scene.placements]
            tried = render_scene(event.location, items, rng, when=when, **looks)
            if _animals_of(tried) > 0.7 - 0.4 * difficulty:
                break
        scene = tried
        photos.append((when, scene))
    return photos


def _kind(event: Event) -> str:
    if not event.animals:
        return "empty"
    return event.animals[0].category


def write_event(out: Path, card: Card, event: Event, settings: Settings) -> list[dict[str, Any]]:
    """Writes the event's photos and returns the truth of each file."""
    records = []
    photos = shoot(event, settings)
    for i, (when, scene) in enumerate(photos):
        mishap = event.mishap if i == len(photos) - 1 else ""
        path = card.next_path()
        orientation = 6 if mishap == "rotated" else 1
        stored = scene.image.transpose(Image.Transpose.ROTATE_90) if orientation == 6 else scene.image
        exif = camera_exif(event.location, when, event.infrared, orientation)
        stored.save(path, "JPEG", quality=settings.quality, optimize=True, exif=exif.tobytes())
        if mishap == "truncated":
            data = path.read_bytes()
            path.write_bytes(data[: int(0.72 * len(data))])
        record = {
            "path": path.relative_to(out).as_posix(),
            "kind": "truncated" if mishap == "truncated" else _kind(event),
            "captured_at": when.isoformat(timespec="milliseconds"),
            "location": event.location.name,
            "camera": event.location.serial,
            "lighting": "infrared" if event.infrared else "day",
            "event": event.number,
            "orientation": orientation,
            "width": settings.size[0],
            "height": settings.size[1],
            "objects": [_plain(found, settings.told) for found in scene.objects],
        }
        records.append(record)
        if mishap == "duplicate":
            copy = card.next_path()
            copy.write_bytes(path.read_bytes())
            twin = {"path": copy.relative_to(out).as_posix(), "kind": "duplicate", "duplicate_of": record["path"]}
            records.append(record | twin)
    return records


def _plain(found: dict[str, Any], told: Sequence[str]) -> dict[str, Any]:
    points = {name: [float(x), float(y), visible] for name, (x, y, visible) in found["keypoints"].items()}
    truth = {key: found[key] for key in told}
    return truth | {"box": list(found["box"]), "flank": found["side"], "visible": found["visible"], "keypoints": points}


def plan(
    rng: np.random.Generator, known: Sequence[Individual], photos: int, places: Sequence[Location], person_seed: int
) -> list[Event]:
    """Every individual in bursts of three at one place after another, among empties, people, a pair and the
    three mishaps; events of one place are hours apart, in order of time."""
    visits: list[tuple[int, tuple[Individual, ...], int, str]] = []
    for who in known:
        order = rng.permutation(len(places))
        for turn, left in enumerate(range(photos, 0, -3)):
            visits.append((int(order[turn % len(places)]), (who,), min(3, left), ""))
    total = len(known) * photos

    def anywhere() -> int:
        return int(rng.integers(len(places)))

    visits += [(anywhere(), (), 1, "") for _ in range(max(2, total // 12))]
    visits += [(anywhere(), (make_person(person_seed + i),), 1, "") for i in range(max(1, total // 48))]
    pair = (known[0], known[-1])
    visits.append((anywhere(), pair, 1, ""))
    for mishap in ("rotated", "duplicate", "truncated"):
        visits.append((anywhere(), (known[int(rng.integers(len(known)))],), 1, mishap))
    clocks = [START + timedelta(seconds=round(float(rng.uniform(0, 18000)), 2)) for _ in places]
    events = []
    for i in rng.permutation(len(visits)):
        where, animals, frames, mishap = visits[i]
        clocks[where] += timedelta(seconds=round(float(rng.uniform(1.2, 6.5)) * 3600, 2))
        events.append((clocks[where], where, animals, frames, mishap))
    events.sort(key=lambda event: event[:2])
    return [
        Event(number, places[where], when, animals, frames, mishap)
        for number, (when, where, animals, frames, mishap) in enumerate(events, 1)
    ]


def write_card(out: Path, below: str, events: Sequence[Event], settings: Settings) -> list[dict[str, Any]]:
    """Writes each location's events into its own card folder below `out / below`."""
    cards: dict[str, Card] = {}
    records = []
    for event in events:
        name = event.location.name
        card = cards.setdefault(name, Card(out / below / name / "DCIM" / "100CARE_"))
        records += write_event(out, card, event, settings)
    return sorted(records, key=lambda record: record["path"])


def write_truth(path: Path, records: list[dict[str, Any]], **about: Any) -> None:
    """The truth file: what the set is, then one object a photo, a line each."""
    lines = ",\n".join(json.dumps(record, ensure_ascii=False) for record in records)
    head = json.dumps(about, ensure_ascii=False)[1:-1]
    path.write_text(f'{{{head},\n"photos": [\n{lines}\n]}}\n', encoding="utf-8", newline="\n")


def make_survey(
    out: Path,
    *,
    seed: int,
    individuals: int = 24,
    photos_per_individual: int = 4,
    locations: int = 3,
    difficulty: float = 0.3,
    size: tuple[int, int] = (1280, 960),
) -> list[dict[str, Any]]:
    """Writes `LOCATION/DCIM/100CARE_/IMG_0001.JPG` and so on with `truth.json` below `out`; returns the truth.

    Individuals and locations take the seeds from `seed` upward: choose it from a range of `seeds`. An
    individual's photos come in bursts of three, each burst at another place than the one before.
    """
    out = Path(out)
    rng = np.random.default_rng([seed, 31])
    known = make_individuals(range(seed, seed + individuals), individuals)
    places = [make_location(seed + i) for i in range(locations)]
    events = plan(rng, known, photos_per_individual, places, seed)
    records = write_card(out, ".", events, Settings(seed, size, difficulty))
    write_truth(out / "truth.json", records, seed=seed, difficulty=difficulty)
    return records
