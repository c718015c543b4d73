"""What the demo models learn from: rendered chips of many individuals, and rendered surveys with labels."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from tqdm import tqdm

from scenes import SPECIES, make_individual, render_chip, shoot_place, write_labels

PHOTO_SIZE = (640, 480)  # px
VISITS_A_PLACE = 15  # of which about a half leave more than one photo
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


def render_survey(
    out: Path, places: Sequence[int], animals: Sequence[int], visits: int = VISITS_A_PLACE
) -> list[dict[str, Any]]:
    """The cards of all `places` (seeds of locations) with animals of these seeds below `out`, with `labels.json`
    (COCO Camera Traps) and `truth.json` beside them; returns the truth.

    About a photo in two is infrared; see `scenes.labelled` for what they show.
    """
    shoot = partial(shoot_place, out=out, animals=animals, visits=visits, size=PHOTO_SIZE)
    out.mkdir(parents=True, exist_ok=True)
    records = [record for card in in_processes(shoot, places, f"places in {out.name}") for record in card]
    write_labels(out, records, places=[int(place) for place in places])
    return records


def in_processes(work: partial, seeds: Sequence[int], what: str) -> list:
    """`work` of every seed, in their order, spread over processes."""
    seeds = [int(seed) for seed in seeds]
    with get_context("spawn").Pool(WORKERS) as pool:
        return list(tqdm(pool.imap(work, seeds, chunksize=2), what, len(seeds), mininterval=5))
