"""Where the time of `detect` goes: each stage by itself on one core, and the bound that follows from their sum."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from benchmarks.bench import Bench, photos_in
from benchmarks.machine import cores
from benchmarks.report import Row
from benchmarks.weights import Weights
from care_cli import registry
from care_cli.catalog import Catalog
from care_cli.detectors import load_detector, settle
from care_cli.images import decode, read_file, read_photo
from care_cli.records import Crop, Photo
from care_cli.stages.cropping import cut_crops

MOST = 24  # photos that are looked at
BATCH = 8
SIZE = 640  # px, input of the network
FULL = "decode in full, for comparison"
ONE_CORE = {"OMP_NUM_THREADS": "1"}


def stages(bench: Bench, name: str, folder: Path, ours: Weights) -> Iterator[Row]:
    """Milliseconds a photo of every stage on one core; what all cores can do at best by their sum."""
    done = bench.module("stages", folder, ours.model, env=ONE_CORE)
    said = json.loads(done.out.splitlines()[-1])
    cost, moved = said["milliseconds"], said["bytes"]
    for stage, milliseconds in cost.items():
        yield Row(f"stage of `detect` ({name}): {stage}", milliseconds, "ms a photo on one core")
    work = sum(milliseconds for stage, milliseconds in cost.items() if stage != FULL)
    yield Row(
        f"bound of `detect` ({name}): {cores()} cores, all stages busy, nothing else running",
        cores() / work * 1e3,
        "photos a second",
        more=True,
        precision="float32",
        note=f"{work:.0f} ms of work a photo; moved a photo: "
        + ", ".join(f"{size / 1e6:.2f} MB {what}" for what, size in moved.items()),
    )


def main(folder: Path, model: str) -> None:
    """Measure in a process of its own that is kept to one core where the system allows it."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    spec = registry.find(model, task="detector")
    detector = load_detector(spec, registry.fetch(spec), image_size=SIZE)
    paths = [path for path in photos_in(folder)[:MOST] if read_photo(path).photo.state == "ok"]
    cost: dict[str, float] = {}

    def timed(name: str, work: Callable[[], list]) -> list:
        work()  # caches warm, lazy imports done
        started = time.perf_counter()
        made = work()
        cost[name] = (time.perf_counter() - started) / len(paths) * 1e3
        return made

    files = timed("read and hash", lambda: [read_file(path) for path in paths])
    timed(FULL, lambda: [decode(file).photo for file in files])
    read = timed("decode at the scale that the network needs", lambda: [decode(file, 2 * SIZE) for file in files])
    ready = timed("letterbox", lambda: [detector.prepare(one.pixels, one.scale) for one in read])
    batches = [ready[start : start + BATCH] for start in range(0, len(ready), BATCH)]
    found = timed("network and suppression", lambda: [one for b in batches for one in detector.detect_prepared(b)])
    crops = timed("crops", lambda: [cut_crops(*pair) for pair in zip(read, map(settle, found), strict=True)])
    timed("catalog", lambda: write(folder, [one.photo for one in read], crops))
    moved = {
        "read": sum(file.size for file in files) / len(files),
        "decoded": sum(one.pixels.nbytes for one in read) / len(files),
        "of crops written": sum(len(crop.jpeg or b"") for one in crops for crop in one) / len(files),
    }
    print(json.dumps({"milliseconds": cost, "bytes": moved}))


def write(folder: Path, photos: list[Photo], crops: list[list[Crop]]) -> list:
    """Rows of photos and crops, a transaction a batch, in a catalog beside the photos."""
    path = folder.with_name(f"{folder.name}-stages.db")
    path.unlink(missing_ok=True)
    with Catalog(path, create=True) as catalog:
        run = catalog.begin_run("detect", {})
        source = catalog.add_source("volume", b".", ".", ".")
        for start in range(0, len(photos), BATCH):
            with catalog.transaction():
                for number in range(start, min(start + BATCH, len(photos))):
                    image = catalog.add_image(photos[number], None)
                    catalog.add_crops(run, image, crops[number])
                    name = f"{number}.jpg"
                    catalog.add_file(source, name.encode(), name, 1, 1, image_id=image)
    return crops


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
