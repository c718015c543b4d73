"""Phase 2 of `care train --method care` at the size of CLIP's ViT-B/16, beside a plain loop over the same crops.

Both learn the same things: the losses and the tower are CARE's. What differs is how photos come to them: files that
Pillow decodes again each time and torchvision augments one by one, in float32, against our loop.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path

from benchmarks.bench import Bench
from benchmarks.machine import cuda
from benchmarks.processes import LeftOut
from benchmarks.reidentify import exported
from benchmarks.report import Row
from benchmarks.train import PRECISIONS

BACKBONE = "ViT-B-16-quickgelu"
EPOCHS = {"cpu": 2, "cuda": 20}  # passes over the crops of the sample survey
INDIVIDUALS, PHOTOS = 8, 4  # the batch of most of the paper's data sets


def parts(bench: Bench) -> Iterator[Callable[[], Iterable[Row]]]:
    """The measurement on each device."""
    for device in ("cpu", "cuda") if cuda() else ("cpu",):
        yield partial(beside_a_plain_loop, bench, device)


def beside_a_plain_loop(bench: Bench, device: str) -> Iterator[Row]:
    """The rows of one device: each precision, untrained weights."""
    catalog = bench.copy(bench.survey, f"align-{device}")
    bench.care(catalog, "train", "--show-split", "--val", 0, "--test", 0.05)
    photos, _ = exported(catalog, "default", bench.folder(f"align-{device}"))
    options = ["--epochs", EPOCHS[device], "--batch", f"{INDIVIDUALS}x{PHOTOS}", "--device", device]
    done = bench.module("plain_align", BACKBONE, photos, *options)
    told = json.loads(done.out.splitlines()[-1])
    theirs = told["photos"] / told["seconds"]
    for precision in PRECISIONS[device]:
        what = f"`train --method care`, phase 2, {BACKBONE}, 256 x 128 px, {device}"
        try:
            mine = bench.care(
                catalog, "train", "--method", "care", "--name", precision, "--weights", "none", "--backbone", BACKBONE,
                "--batch", f"{INDIVIDUALS}x{PHOTOS}", "--precision", precision, "--epochs", EPOCHS[device],
                "--set", "text.epochs=1", device=device,
            )  # fmt: skip
        except LeftOut as reason:
            yield Row(what, precision=precision, note=str(reason))
            continue
        model = Path(mine.json["models"][0]["file"])
        yield Row(
            what,
            speed(model.with_suffix("") / "history.jsonl"),
            "photos a second",
            peer="a plain loop, float32",
            peers=theirs,
            more=True,
            precision=precision,
            note=f"batches of {INDIVIDUALS} x {PHOTOS}, random weights; peak memory {mine.peak_mb:,.0f} (both phases) "
            f"and {done.peak_mb:,.0f} MiB",
        )


def speed(history: Path) -> float:
    """Photos a second over all steps of a training, its checkpoints left aside."""
    steps = [row for row in map(json.loads, history.read_text("utf-8").splitlines()) if "images_per_second" in row]
    return len(steps) / sum(1 / row["images_per_second"] for row in steps)
