"""Where the time of `detect` goes: each stage by itself on one core, and the bound that follows from their sum."""

from __future__ import annotations

import hashlib
import io
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
    paths = [path for path in photos_in(folder) if whole(path)][:MOST]
    cost: dict[str, float] = {}

    def timed(name: str, work: Callable[[], list]) -> list:
        work()  # caches warm, lazy imports done
        started = time.perf_counter()
        made = work()
        cost[name] = (time.perf_counter() - started) / len(paths) * 1e3
        return made

    files = timed("read and hash", lambda: [read(path) for path in paths])
    timed(FULL, lambda: [decode(data, 0)[0] for data in files])
    decoded = timed("decode at the smallest scale of twice the input", lambda: [decode(data, 2 * SIZE) for data in files])
    found = look([pixels for pixels, _ in decoded], model, timed)
    crops = timed("decode in full where an animal is, and cut crops", lambda: cut(files, found, [scale for _, scale in decoded]))
    timed("catalog", lambda: write(folder, files, crops))
    moved = {
        "read": sum(map(len, files)) / len(files),
        "decoded": sum(pixels.nbytes for pixels, _ in decoded) / len(files),
        "of crops written": sum(len(crop.jpeg or b"") for cut_ in crops for crop in cut_) / len(files),
    }
    print(json.dumps({"milliseconds": cost, "bytes": moved}))


def whole(path: Path) -> bool:
    """Whether a photo can be decoded to its end."""
    try:
        decode(path.read_bytes(), 0)
    except OSError:
        return False
    return True


def read(path: Path) -> bytes:
    """A file's bytes, hashed on the way."""
    data = path.read_bytes()
    hashlib.sha256(data).hexdigest()
    return data


def decode(data: bytes, least: int):
    """RGB pixels, not turned, at the smallest DCT scale whose sides are at least `least`, and that scale; 0: full."""
    import numpy as np
    from PIL import Image

    with Image.open(io.BytesIO(data)) as image:
        scale = next((s for s in (8, 4, 2) if least and min(image.size) >= s * least), 1)
        image.draft("RGB", (image.width // scale, image.height // scale))
        return np.asarray(image.convert("RGB")), scale


def look(pixels: list, model: str, timed: Callable) -> list:
    """What the detector finds in each photo, most of it timed as 'letterbox' and 'network'."""
    from care_cli import registry
    from care_cli.detectors import load_detector, settle

    spec = registry.find(model, task="detector")
    detector = load_detector(spec, registry.fetch(spec), image_size=SIZE)
    prepared = timed("letterbox", lambda: [detector.prepare(one) for one in pixels])
    batches = [prepared[start : start + BATCH] for start in range(0, len(prepared), BATCH)]
    found = timed("network and suppression", lambda: [one for b in batches for one in detector.detect_prepared(b)])
    return [[one for one in settle(boxes) if one.category] for boxes in found]


def cut(files: list[bytes], found: list, scales: list[int]) -> list:
    """Crops of the photos with boxes in full resolution, as `detect` cuts them."""
    from dataclasses import replace

    from care_cli.stages.cropping import CropSettings, cut_crops

    crops = []
    for data, boxes, scale in zip(files, found, scales, strict=True):
        full = [replace(one, box=tuple(scale * side for side in one.box)) for one in boxes]
        animals = any(one.category == "animal" for one in full)
        crops.append(cut_crops(decode(data, 0)[0], full, None, CropSettings()) if animals else [])
    return crops


def write(folder: Path, files: list[bytes], crops: list) -> list:
    """Rows of photos and crops, a transaction a batch, in a catalog beside the photos."""
    from care_cli.catalog import Catalog
    from care_cli.records import Photo

    path = folder.with_name(f"{folder.name}-stages.db")
    path.unlink(missing_ok=True)
    with Catalog(path, create=True) as catalog:
        run = catalog.begin_run("detect", {})
        source = catalog.add_source("volume", b".", ".", ".")
        for start in range(0, len(files), BATCH):
            with catalog.transaction():
                for number in range(start, min(start + BATCH, len(files))):
                    digest = hashlib.sha256(number.to_bytes(4, "little")).hexdigest()
                    image = catalog.add_image(Photo(digest), None)
                    catalog.add_crops(run, image, crops[number])
                    name = f"{number}.jpg"
                    catalog.add_file(source, name.encode(), name, len(files[number]), 1, image_id=image)
    return crops


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
