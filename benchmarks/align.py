"""Phase 2 of `care train --method care` at the size of CLIP's ViT-B/16, beside a plain loop over the same crops.

Both learn the same things: the losses and the tower are CARE's. What differs is how photos come to them, files that
Pillow decodes again each time and torchvision augments one by one, and the loop: plain Adam in float32 at one rate.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path

from benchmarks.bench import Bench
from benchmarks.machine import cuda
from benchmarks.processes import Done
from benchmarks.report import Row
from benchmarks.train import by_precision, learnable

BACKBONE = "ViT-B-16-quickgelu"
EPOCHS = {"cpu": 2, "cuda": 20}  # passes over the crops of the sample survey
INDIVIDUALS, PHOTOS = 8, 4  # the batch of most of the paper's data sets


def parts(bench: Bench) -> Iterator[Callable[[], Iterable[Row]]]:
    """The measurement on each device."""
    for device in ("cpu", "cuda") if cuda() else ("cpu",):
        yield partial(beside_a_plain_loop, bench, device)


def beside_a_plain_loop(bench: Bench, device: str) -> Iterator[Row]:
    """The rows of one device: each precision, untrained weights."""
    catalog, photos, _ = learnable(bench, f"align-{device}")
    options = ["--epochs", EPOCHS[device], "--batch", f"{INDIVIDUALS}x{PHOTOS}"]
    peer = bench.module("plain_align", BACKBONE, photos, *options, "--device", device)
    options += ["--backbone", BACKBONE, "--weights", "none", "--set", "text.epochs=1"]
    yield from by_precision(
        Row(
            f"`train --method care`, phase 2, {BACKBONE}, 256 x 128 px, {device}",
            peer="a plain loop, float32",
            note=f"batches of {INDIVIDUALS} x {PHOTOS}, random weights, medians of steps, our memory of both phases",
        ),
        peer,
        device,
        partial(bench.care, catalog, "train", "--method", "care", *options, device=device),
        speed,
    )


def speed(done: Done) -> float:
    """Photos a second in the median of a training's steps, its checkpoints left aside."""
    history = Path(done.json["models"][0]["file"]).with_suffix("") / "history.jsonl"
    rows = map(json.loads, history.read_text("utf-8").splitlines())
    return statistics.median(row["images_per_second"] for row in rows if "images_per_second" in row)
