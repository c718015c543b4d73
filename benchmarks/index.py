"""`care index` beside wildlife-tools' DeepFeatures: same backbone, same weights, same crops.

The peer is timed for its extraction alone, imports and loading left out; ours without start-up, by the difference
of two lengths, with the catalog read and written. Its defaults are batches of 128 and one loading process.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from benchmarks import peers
from benchmarks.backbones import MOBILENET, VIT, backbone
from benchmarks.bench import Bench
from benchmarks.crops import crops_catalog, export, write_list
from benchmarks.machine import cuda
from benchmarks.processes import Done, LeftOut
from benchmarks.report import Row
from care_cli.catalog import Catalog

NEEDED = ("wildlife_tools", "pandas", "transformers", "pycocotools")
BATCH = 32  # beside its default
COPIES = {VIT: (2, 6), MOBILENET: (10, 50)}  # of each crop of the sample survey, in the short and the long run
TARGET = {
    (VIT, "cpu", "float32"): 2,
    (VIT, "cpu", "bfloat16"): 4,
    (MOBILENET, "cpu", "float32"): 6,
    (MOBILENET, "cpu", "bfloat16"): 6,
    (VIT, "cuda", "float16"): 2,
    (MOBILENET, "cuda", "float16"): 2,
}
PRECISIONS = {"cpu": ("float32", "bfloat16"), "cuda": ("float32", "float16")}


@dataclass(frozen=True)
class Crops:
    """The same crops in a short and a long catalog, and the files of the short one for the peer."""

    short: Path
    long: Path
    files: Path
    count: int  # in the short one


def parts(bench: Bench) -> Iterator[Callable[[], Iterable[Row]]]:
    """The measurements of this family, for each backbone on each device."""
    for device in ("cpu", "cuda") if cuda() else ("cpu",):
        for architecture in (VIT, MOBILENET):
            yield partial(beside_wildlife_tools, bench, architecture, device)


def beside_wildlife_tools(bench: Bench, architecture: str, device: str) -> Iterator[Row]:
    """The rows of one backbone on one device."""
    peers.need(NEEDED)
    weights, crops = backbone(bench, architecture), prepared(bench, architecture)
    theirs = {
        "its defaults": deep_features(bench, architecture, weights, crops, device),
        f"batch {BATCH}": deep_features(bench, architecture, weights, crops, device, "--batch", BATCH),
    }
    vectors = np.load(bench.work / "features.npy")
    for precision in PRECISIONS[device]:
        what = f"`index`, {architecture}, {device}"
        try:
            rate, whole = ours(bench, architecture, weights, crops, device, precision)
        except LeftOut as reason:
            yield Row(what, precision=precision, note=str(reason))
            continue
        near = agreement(crops.short, vectors)
        for name, (done, seconds) in theirs.items():
            yield Row(
                f"{what}, peer with {name}",
                rate,
                "crops a second",
                peer="wildlife-tools DeepFeatures, float32",
                peers=crops.count / seconds,
                more=True,
                target=TARGET.get((architecture, device, precision)),
                precision=precision,
                note=f"without start-up; {crops.count} crops with it: {whole.seconds:.1f} s and {done.seconds:.1f} s; "
                f"cosine of the vectors at least {near:.5f}",
            )


def prepared(bench: Bench, architecture: str) -> Crops:
    """The crops for one backbone; more of them for a fast one."""
    few, many = COPIES[architecture]
    short, long = (crops_catalog(bench, f"crops-{architecture}-{n}", n) for n in (few, many))
    files = export(short, bench.folder(f"crops-{architecture}"))
    return Crops(short, long, write_list(files, bench.work / f"{architecture}.json"), len(files))


def deep_features(
    bench: Bench, architecture: str, weights: Path, crops: Crops, device: str, *options: object
) -> tuple[Done, float]:
    """The peer's process, and the seconds of its extraction; its vectors are in features.npy."""
    out = bench.work / "features.npy"
    given = (architecture, weights, crops.files, out, "--device", device, *options)
    done = bench.module("wildlife", *given, env=peers.on_the_path())
    return done, json.loads(done.out.splitlines()[-1])["seconds"]


def ours(
    bench: Bench, architecture: str, weights: Path, crops: Crops, device: str, precision: str
) -> tuple[float, Done]:
    """Crops a second of `care index` without start-up, and the short run; models are converted before."""
    options = ["--model", f"timm:{architecture}", "--weights", weights]
    if (device, precision) != ("cpu", "float32"):  # what the CPU takes by itself
        options += ["--precision", precision]
    bench.care(bench.copy(bench.survey, "warm"), "index", *options, device=device)
    runs = []
    for catalog in (crops.short, crops.long):
        empty = bench.copy(catalog, "measured")
        runs.append(bench.care(empty, "index", *options, device=device))
        empty.replace(catalog)
    more, seconds = runs[1].json["new"] - runs[0].json["new"], runs[1].seconds - runs[0].seconds
    if seconds <= 0:
        raise LeftOut("the two runs are too short to tell apart")
    return more / seconds, runs[0]


def agreement(catalog: Path, theirs: np.ndarray) -> float:
    """The least cosine of our newest vectors, by crop id, with the peer's in the same order."""
    with Catalog(catalog) as opened:
        found = opened.embeddings(opened.index_runs()[0]["id"])
    theirs = theirs / np.linalg.norm(theirs, axis=1, keepdims=True)
    return float((found.vectors * theirs).sum(1).min())
