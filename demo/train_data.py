"""What the demo models learn from: rendered chips of many individuals, and rendered photos with boxes."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from scenes import SPECIES, make_individual, make_location, make_person, render_chip, render_scene

CLASSES = {name: {"category": "animal", "species": name} for name in SPECIES} | {"Person": {"category": "person"}}
PHOTO_SIZE = (640, 480)  # px
PHOTOS_A_PLACE = 12
LONGEST = 160  # px, of a chip before it is squashed
WORKERS = 2


def chips_of(seed: int, photos: int, side: int) -> np.ndarray:
    """One individual in `photos` chips at all difficulties, squashed to squares: `(photos, side, side, 3) uint8`.

    The species follow from the seed in turn.
    """
    individual = make_individual(list(SPECIES)[seed % len(SPECIES)], seed)
    rng = np.random.default_rng([seed, 5])
    chips = []
    for _ in range(photos):
        chip = render_chip(individual, rng, difficulty=float(rng.uniform(0.15, 0.5)), longest=LONGEST)
        chips.append(np.asarray(chip.image.resize((side, side), Image.Resampling.BICUBIC)))
    return np.stack(chips)


def render_chips(seeds: Sequence[int], photos: int, side: int) -> tuple[np.ndarray, np.ndarray]:
    """Chips `(N, side, side, 3) uint8` of one individual a seed, and their labels `(N,) int64`."""
    done = in_processes(partial(chips_of, photos=photos, side=side), seeds, "chips")
    return np.concatenate(done), np.repeat(np.arange(len(seeds)), photos)


def write_photos(place: int, folder: Path, part: str, animals: Sequence[int]) -> None:
    """Photos of one location, with Ultralytics' label files, below `folder`.

    Of ten photos about seven show one animal, one shows two, one a person (some with an animal), and one
    nothing. Half are infrared, at all difficulties.
    """
    location = make_location(place)
    rng = np.random.default_rng([place, 17])
    for number in range(PHOTOS_A_PLACE):
        kind = rng.choice(["animal", "pair", "person", "both", "empty"], p=[0.66, 0.08, 0.10, 0.03, 0.13])
        count = {"animal": 1, "pair": 2, "both": 1}.get(str(kind), 0)
        seeds = rng.choice(animals, count, replace=False)
        who = [make_individual(str(rng.choice(list(SPECIES))), int(seed)) for seed in seeds]
        who += [make_person(int(rng.integers(1 << 30)))] if kind in ("person", "both") else []
        infrared = bool(rng.random() < 0.5)
        hour = int(rng.integers(7, 19)) if not infrared else int(rng.choice([20, 22, 1, 4]))
        when = datetime(2024, int(rng.integers(1, 13)), int(rng.integers(1, 29)), hour)
        difficulty = float(rng.uniform(0.1, 0.6))
        scene = render_scene(location, who, rng, size=PHOTO_SIZE, infrared=infrared, when=when, difficulty=difficulty)
        name = f"{place}_{number:02d}"
        scene.image.save(folder / "images" / part / f"{name}.jpg", quality=85)
        lines = [_label(found) for found in scene.objects]
        (folder / "labels" / part / f"{name}.txt").write_text("".join(lines), encoding="utf-8")


def render_photos(folder: Path, part: str, places: Sequence[int], animals: Sequence[int]) -> None:
    """Photos of all `places` (seeds of locations) with animals of these seeds: one part of a training folder."""
    for kind in ("images", "labels"):
        (folder / kind / part).mkdir(parents=True, exist_ok=True)
    write = partial(write_photos, folder=folder, part=part, animals=animals)
    in_processes(write, places, f"photos to {part}")


def _label(found: dict) -> str:
    x, y, w, h = found["box"]
    number = list(CLASSES).index(found["species"] or "Person")
    width, height = PHOTO_SIZE
    values = ((x + w / 2) / width, (y + h / 2) / height, w / width, h / height)
    return f"{number} " + " ".join(f"{value:.6f}" for value in values) + "\n"


def in_processes(work: partial, seeds: Sequence[int], what: str) -> list:
    """`work` of every seed, in their order, spread over processes."""
    seeds = [int(seed) for seed in seeds]
    with get_context("spawn").Pool(WORKERS) as pool:
        return list(tqdm(pool.imap(work, seeds, chunksize=2), what, len(seeds), mininterval=5))
