"""`care train` beside wildlife-tools' BasicTrainer: same backbone, same crops, batch, image size and augmentation.

Both are timed for the training alone. Ours decodes every crop once, before, and that is counted.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

from benchmarks import peers
from benchmarks.backbones import MOBILENET, backbone
from benchmarks.bench import Bench
from benchmarks.machine import cuda
from benchmarks.processes import Done, LeftOut
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
    catalog, photos, digests = learnable(bench, f"train-{architecture}")
    options = ["--batch", BATCH, "--epochs", epochs, "--device", device]
    peer = bench.module("trainer", architecture, weights, photos, *options, env=peers.on_the_path())
    options = ["--backbone", architecture, "--weights", weights, "--set", f"epochs={epochs}", *SETTINGS]
    yield from by_precision(
        Row(
            f"`train --method wildlife`, {architecture}, {device}",
            peer="wildlife-tools BasicTrainer, float32",
            note=f"224 px, batches of {BATCH}, {epochs} x {len(digests)} crops",
        ),
        peer,
        device,
        partial(bench.care, catalog, "train", "--method", "wildlife", *options, device=device),
        lambda mine: epochs * len(digests) / mine.json["models"][0]["seconds"],
        TARGET,
    )


def learnable(bench: Bench, name: str) -> tuple[Path, Path, list[str]]:
    """A catalog that learns from nearly all crops of the sample survey; these as `exported` lists them."""
    catalog = bench.copy(bench.survey, name)
    bench.care(catalog, "train", "--show-split", "--val", 0, "--test", 0.05)
    return catalog, *exported(catalog, "default", bench.folder(name))


def by_precision(
    row: Row,
    peer: Done,
    device: str,
    train: Callable[..., Done],
    speed: Callable[[Done], float],
    target: Mapping[tuple[str, str], float] | None = None,
) -> Iterator[Row]:
    """The row of each precision of the device, in which `train`, told so, has a `speed` in photos a second.

    peer    what trained beside us, in float32, and told of how many photos and seconds
    target  for the ratio, by device and precision; None: there is none
    """
    told = json.loads(peer.out.splitlines()[-1])
    for precision in PRECISIONS[device]:
        try:
            mine = train("--name", precision, "--precision", precision)
        except LeftOut as reason:
            yield Row(row.what, precision=precision, note=str(reason))
            continue
        yield replace(
            row,
            ours=speed(mine),
            unit="photos a second",
            peers=told["photos"] / told["seconds"],
            more=True,
            target=target and target.get((device, precision)),
            precision=precision,
            note=f"{row.note}; peak memory {mine.peak_mb:,.0f} and {peer.peak_mb:,.0f} MiB",
        )
