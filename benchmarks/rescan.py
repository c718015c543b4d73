"""A card that was seen before: how fast `care detect` finds that nothing is new."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from benchmarks.bench import SAMPLE, Bench, photos_in
from benchmarks.grown import add_known_files
from benchmarks.report import Row

FILES = 50_000


def parts(bench: Bench) -> Iterator[Callable[[], Iterable[Row]]]:
    """The measurements of this family."""
    yield lambda: rescan(bench)


def rescan(bench: Bench, files: int = FILES) -> Iterator[Row]:
    """The whole command on a card of known files, one of them a photo, the others empty."""
    catalog, card = known_card(bench, files)
    done = bench.care(catalog, "detect", card, "--model", "demo-detector", times=3)
    answer = done.json
    assert (answer["images"], answer["new"]) == (files + 1, 0), answer
    yield Row(
        f"rescan of {answer['images']:,} known files",
        answer["images"] / answer["seconds"],
        "files a second",
        more=True,
        target=50_000,
        note=f"walk, look-up, bursts and summary; the whole command took {done.seconds:.2f} s, best of 3",
    )


def known_card(bench: Bench, files: int) -> tuple[Path, Path]:
    """A card of `files` known files beside one photo of the sample card, in a copy of the sample survey."""
    card = bench.folder(f"card-{files}")
    photo = card / "DCIM" / "100CARE_" / "IMG_0001.JPG"
    photo.parent.mkdir(parents=True)
    shutil.copy(photos_in(SAMPLE / "card")[0], photo)
    catalog = bench.copy(bench.survey, f"rescan-{files}")
    bench.care(catalog, "detect", card, "--model", "demo-detector")
    add_known_files(catalog, card, files)
    return catalog, card
