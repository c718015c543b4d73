"""`care train` beside wildlife-tools' BasicTrainer: same backbone, same crops, batch, image size and augmentation.

Both are timed for the training alone. Ours decodes every crop once, before, and that is counted.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from functools import partial

from benchmarks import peers
from benchmarks.backbones import MOBILENET, backbone
from benchmarks.bench import Bench
from benchmarks.machine import cuda
from benchmarks.processes import LeftOut
from benchmarks.reidentify import BATCH, SETTINGS, exported
from benchmarks.report import Row

NEEDED = ("wildlife_tools", "pandas", "transformers", "pycocotools", "pytorch_metric_learning")
VIT = "vit_small_patch16_224"
EPOCHS = {MOBILENET: 6, VIT: 2}  # passes over the crops of the sample survey
PRECISIONS = {"cpu": ("float32", "bfloat16"), "cuda": ("float32", "bfloat16", "float16")}
TARGET = {("cpu", "float32"): 1, ("cpu", "bfloat16"): 1.5, ("cuda", "bfloat16"): 1.5, ("cuda", "float16"): 1.5}


def parts(bench: Bench) -> Iterator[Callable[[], Iterable[Row]]]:
    """The measurements of this family, for each backbone on each device."""
    for device in ("cpu", "cuda") if cuda() else ("cpu",):
        for architecture in (MOBILENET, VIT):
            yield partial(beside_wildlife_tools, bench, architecture, device)


def beside_wildlife_tools(bench: Bench, architecture: str, device: str) -> Iterator[Row]:
    """The rows of one backbone on one device."""
    peers.need(NEEDED)
    weights, epochs = backbone(bench, architecture), EPOCHS[architecture]
    catalog = bench.copy(bench.survey, f"train-{architecture}")
    bench.care(catalog, "train", "--show-split", "--val", 0, "--test", 0.05)
    photos, digests = exported(catalog, "default", bench.folder(f"train-{architecture}"))
    options = ["--batch", BATCH, "--epochs", epochs, "--device", device]
    done = bench.module("trainer", architecture, weights, photos, *options, env=peers.on_the_path())
    told = json.loads(done.out.splitlines()[-1])
    theirs = told["photos"] / told["seconds"]
    for precision in PRECISIONS[device]:
        what = f"`train --method wildlife`, {architecture}, {device}"
        try:
            mine = bench.care(
                catalog, "train", "--method", "wildlife", "--name", precision, "--backbone", architecture, "--weights",
                weights, "--precision", precision, "--set", f"epochs={epochs}", *SETTINGS, device=device,
            )  # fmt: skip
        except LeftOut as reason:
            yield Row(what, precision=precision, note=str(reason))
            continue
        yield Row(
            what,
            epochs * len(digests) / mine.json["models"][0]["seconds"],
            "photos a second",
            peer="wildlife-tools BasicTrainer, float32",
            peers=theirs,
            more=True,
            target=TARGET.get((device, precision)),
            precision=precision,
            note=f"224 px, batches of {BATCH}, {epochs} x {len(digests)} crops; peak memory {mine.peak_mb:,.0f} and "
            f"{done.peak_mb:,.0f} MiB",
        )
