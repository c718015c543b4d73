"""`care detect`, with hashing, crops and catalog, beside `yolo predict`: same photos, same weights, input 640 px.

Both read one flat folder. Start-up is included, and left out by the difference of two lengths: the photos once,
and four times over with other bytes behind their end, so that each copy is a photo of its own. Models are
converted before, by a run on one photo.
"""

from __future__ import annotations

import math
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from benchmarks.bench import Bench, photos_in
from benchmarks.boxes import compare
from benchmarks.machine import cores, cuda
from benchmarks.processes import Done, LeftOut, finish
from benchmarks.report import Row
from benchmarks.stages import stages
from benchmarks.weights import Weights, weights

COPIES = 4
SIZE = 640  # px, input of the network
PRECISIONS = {"cpu": ("float32", "bfloat16"), "cuda": ("float32", "float16")}
TARGET = {"cpu": 3, "cuda": 8}  # times the peer's photos a second
HEADLINE = ("save=False", "save_txt=True", "save_conf=True")
DEFAULTS = ("save=True",)


@dataclass(frozen=True)
class Photos:
    """A set of photos in two lengths."""

    name: str
    once: Path
    often: Path
    count: int

    @property
    def more(self) -> int:
        """How many photos the longer run has more."""
        return (COPIES - 1) * self.count


@dataclass(frozen=True)
class Pair:
    """A short and a long run of one program."""

    once: Done
    often: Done

    def rate(self, photos: Photos) -> float:
        """Photos a second of the long run, start-up included."""
        return COPIES * photos.count / self.often.seconds

    def steady(self, photos: Photos) -> float | None:
        """Photos a second without start-up; None when the runs are too short to tell."""
        seconds = self.often.seconds - self.once.seconds
        return photos.more / seconds if seconds > 0 else None


def parts(bench: Bench) -> Iterator[Callable[[], Iterable[Row]]]:
    """The measurements of this family, for each set of photos on each device."""
    given = {"rendered, 12 megapixels": lambda: bench.scenes} if bench.count else {}
    if bench.photos:
        given[f"card {bench.photos.name}"] = lambda: photos_in(bench.photos)
    for number, (name, find) in enumerate(given.items()):
        for device in ("cpu", "cuda") if cuda() else ("cpu",):
            yield partial(beside_yolo, bench, name, find, device, f"{device}-{number}")


def beside_yolo(bench: Bench, name: str, find: Callable[[], list[Path]], device: str, label: str) -> Iterator[Row]:
    """The rows of one set of photos on one device."""
    ours = weights(bench)
    photos = two_lengths(bench, name, find(), label)
    shutil.copy(photos_in(photos.once)[0], bench.folder("warm-yolo"))
    yolo(bench, bench.work / "warm-yolo", ours, device, *HEADLINE)
    peer = Pair(*(yolo(bench, folder, ours, device, *HEADLINE) for folder in (photos.once, photos.often)))
    slow = yolo(bench, photos.often, ours, device, *DEFAULTS)
    labels = bench.work / "yolo" / photos.once.name / "labels"
    for precision in PRECISIONS[device]:
        try:
            pair = Pair(*(care(bench, folder, ours, device, precision) for folder in (photos.once, photos.often)))
        except LeftOut as reason:
            yield Row(f"`detect` ({name}), {device}", precision=precision, note=str(reason))
            continue
        yield from speed_rows(photos, pair, peer, slow, device, precision)
        yield from box_rows(catalog_of(bench, photos.once, device, precision), labels, ours, photos, device, precision)
        yield memory_row(photos, pair, device, precision)
    if device == "cpu":
        yield from stages(bench, photos.name, photos.once, ours)
    for folder in (photos.once, photos.often):
        shutil.rmtree(folder)


def two_lengths(bench: Bench, name: str, photos: list[Path], label: str) -> Photos:
    """Flat folders of the photos once and COPIES times over, every file with bytes of its own."""
    once, often = bench.folder(f"once-{label}"), bench.folder(f"often-{label}")
    for i, path in enumerate(photos):
        data = path.read_bytes() + i.to_bytes(4, "big")
        for copy in range(COPIES):
            (often / f"{i:06}-{copy}.jpg").write_bytes(data + bytes([copy]))
        (once / f"{i:06}.jpg").write_bytes(data)
    return Photos(f"{name}, {len(photos)} photos", once, often, len(photos))


def care(bench: Bench, folder: Path, ours: Weights, device: str, precision: str) -> Done:
    """A run of `care detect` into a new catalog, after one on one photo, which converts the model."""
    options = ["--model", ours.model, "--image-size", SIZE]
    if (device, precision) != ("cpu", "float32"):  # what the CPU takes by itself
        options += ["--precision", precision]
    bench.care(bench.folder("warm") / "warm.db", "detect", photos_in(folder)[0], *options, device=device)
    catalog = catalog_of(bench, folder, device, precision)
    catalog.unlink(missing_ok=True)
    return bench.care(catalog, "detect", folder, *options, device=device)


def catalog_of(bench: Bench, folder: Path, device: str, precision: str) -> Path:
    """The catalog of such a run."""
    return bench.work / f"{folder.name}-{device}-{precision}.db"


def yolo(bench: Bench, folder: Path, ours: Weights, device: str, *options: str) -> Done:
    """A run of `yolo predict` with the same weights, size and photos; its results in yolo/FOLDER."""
    program = shutil.which("yolo", path=Path(sys.executable).parent) or "yolo"
    where = (f"project={bench.work / 'yolo'}", f"name={folder.name}", "exist_ok=True")
    number = "cpu" if device == "cpu" else "0"
    command = [program, "predict", f"model={ours.pt}", f"source={folder}", f"imgsz={SIZE}", f"device={number}"]
    return finish([*command, *where, *options], env=bench.env)


def speed_rows(photos: Photos, ours: Pair, peer: Pair, slow: Done, device: str, precision: str) -> Iterator[Row]:
    """The headline, the same without start-up, and against the peer's defaults."""
    what = f"`detect` ({photos.name}), {device}"
    unit, beside = "photos a second", f"`yolo predict {' '.join(HEADLINE)}`, float32"
    common = {"unit": unit, "more": True, "target": TARGET[device], "precision": precision}
    count = COPIES * photos.count
    yield Row(
        what,
        ours.rate(photos),
        peer=beside,
        peers=peer.rate(photos),
        note=f"start-up included, {count} photos: {ours.often.seconds:.1f} s and {peer.often.seconds:.1f} s",
        **common,
    )
    steady, peers = ours.steady(photos), peer.steady(photos)
    told = steady and peers
    yield Row(
        f"{what}, without start-up",
        steady if told else None,
        peer=beside,
        peers=peers,
        note=f"the time of {count} photos less that of {photos.count}" if told else "the runs are too short to tell",
        **common,
    )
    yield Row(
        f"{what}, the peer's defaults",
        ours.rate(photos),
        peer="`yolo predict`, float32",
        peers=count / slow.seconds,
        note=f"it draws and saves each photo; start-up included, {slow.seconds:.1f} s",
        **{**common, "target": None},
    )


def box_rows(catalog: Path, labels: Path, ours: Weights, photos: Photos, device: str, precision: str) -> Iterator[Row]:
    """How the boxes agree with the peer's of the same run."""
    parity = compare(catalog, labels, ours.kept)
    what = f"boxes of `detect` ({photos.name}), {device}"
    if math.isnan(parity.mean_iou):
        yield Row(what, precision=precision, note=f"{parity.boxes} confident boxes of the peer, none matched")
        return
    note = (
        f"{parity.matched} of {parity.boxes} boxes matched, {parity.extra} beside them; confidence moved by at most "
        f"{parity.largest_shift:.3f}"
    )
    yield Row(f"{what}: mean IoU", parity.mean_iou, more=True, target=0.97, precision=precision, note=note)
    yield Row(f"{what}: lost from confidence 0.25", float(parity.lost), "boxes", target=0, precision=precision)


def memory_row(photos: Photos, ours: Pair, device: str, precision: str) -> Row:
    """The largest resident memory of the long run beside the short one's: flat within a tenth."""
    what = f"peak memory of `detect` ({photos.name}), {device}: {COPIES} times the photos"
    if not ours.once.peak_mb:
        return Row(what, precision=precision, note="this system does not tell")
    note = f"{ours.often.peak_mb:.0f} MiB with {COPIES * photos.count} photos, {ours.once.peak_mb:.0f} with a quarter"
    ratio = ours.often.peak_mb / ours.once.peak_mb
    return Row(what, ratio, "times the memory", target=1.1, precision=precision, note=f"{note}; {cores()} cores")
