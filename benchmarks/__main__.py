"""`make bench`: each row measured in one run on one machine, ours beside the peer, printed as a ratio.

    python -m benchmarks [--weights FILE.pt] [--photos FOLDER]

Without weights of your own the rows that need Ultralytics' command line are left out, and said so: it reads
`.pt` files only, and none is shipped here.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from scenes.seeds import TEST
from scenes.survey import make_survey

RESCAN_FILES = 20_000
RESCAN_TARGET = 50_000  # files a second
HELP_TARGET = 0.25  # seconds


def main() -> None:
    """Print every row with both figures, the machine and the commit."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--weights", type=Path, help="a YOLO .pt file, for the rows against `yolo predict`")
    parser.add_argument("--photos", type=Path, help="a folder of photos; default: 48 rendered at 12 megapixels")
    given = parser.parse_args()
    print(f"{machine()}, commit {commit()}\n")
    with tempfile.TemporaryDirectory() as work:
        help_speed()
        rescan(Path(work))
        if given.weights is None:
            print("detect against `yolo predict`: left out, give --weights FILE.pt")
        else:
            detect(Path(work), given.photos or rendered(Path(work)), given.weights.resolve())


def machine() -> str:
    """Processor, cores and Python."""
    return f"{platform.machine()} ({os.cpu_count()} cores), {platform.system()}, Python {platform.python_version()}"


def commit() -> str:
    """The commit that is measured; '+' when the tree differs from it."""
    ask = ["git", "describe", "--always", "--dirty=+", "--exclude=*"]
    return subprocess.run(ask, capture_output=True, text=True, check=False).stdout.strip() or "unknown"


def timed(command: list[str], accept: tuple[int, ...] = (0,)) -> float:
    """Seconds that a command takes, start-up included."""
    started = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ | {"YOLO_OFFLINE": "1"})
    seconds = time.perf_counter() - started
    if done.returncode not in accept:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stderr[-2000:]}")
    return seconds


def care(*arguments: object) -> list[str]:
    """A `care` command on the CPU."""
    return [sys.executable, "-m", "care_cli", "--device", "cpu", "-q", *map(str, arguments)]


def help_speed() -> None:
    """The start of the program, best of five."""
    best = min(timed(care("--help")) for _ in range(5))
    print(f"care --help: {best:.3f} s (target under {HELP_TARGET} s)")


def rescan(work: Path) -> None:
    """A card that was seen before, nothing new: empty files stand for photos, each an image of its own."""
    from care_cli.catalog import Catalog
    from care_cli.records import Photo
    from care_cli.scan import Found, display_path, scan
    from care_cli.stages.detect import Tally, look_up, pages
    from care_cli.stages.places import add_place

    card = work / "card"
    for i in range(RESCAN_FILES):
        folder = card / f"{100 + i // 1000}CARE_"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"IMG_{i % 1000:04}.JPG").touch()
    with Catalog(work / "rescan.db", create=True) as catalog:
        run_id = catalog.begin_run("detect", {})
        tally = Tally()
        with catalog.transaction():
            source = add_place(catalog, card).source_id
            for found in scan([card]):
                assert isinstance(found, Found)
                image = catalog.add_image(Photo(hashlib.sha256(found.relative).hexdigest()), None)
                catalog.add_crops(run_id, image, [])
                path = display_path(found.relative)
                catalog.add_file(source, found.relative, path, found.bytes, found.mtime_ns, image_id=image)
        started = time.perf_counter()
        catalog.begin_meeting()
        left = sum(len(look_up(catalog, run_id, page, tally, Silent())) for page in pages(scan([card]), tally))
        catalog.finish_meeting(source, whole=True)
        seconds = time.perf_counter() - started
    assert left == 0
    print(f"rescan: {RESCAN_FILES / seconds:,.0f} files a second (target {RESCAN_TARGET:,})")


class Silent:
    """A progress bar that shows nothing."""

    def update(self, n: int) -> None:
        """Nothing to show."""


def rendered(work: Path) -> Path:
    """48 rendered photos of 12 megapixels."""
    make_survey(work / "scenes", seed=TEST[400], individuals=12, photos_per_individual=4, size=(4000, 3000))
    return work / "scenes"


def detect(work: Path, photos: Path, weights: Path) -> None:
    """Photos a second, start-up included: `care detect` with hashing, crops and catalog against `yolo predict`."""
    count = sum(path.suffix.lower() in (".jpg", ".jpeg") for path in photos.rglob("*"))
    ours = timed(care("--catalog", work / "bench.db", "detect", photos, "--model", weights), accept=(0, 1))
    flat = work / "flat"
    flat.mkdir()
    for i, path in enumerate(sorted(one for one in photos.rglob("*") if one.suffix.lower() in (".jpg", ".jpeg"))):
        (flat / f"{i:06}.jpg").symlink_to(path.resolve())
    yolo = [str(Path(sys.executable).with_name("yolo")), "predict", f"model={weights}", f"source={flat}", "imgsz=640",
            "save=False", "save_txt=True", "save_conf=True", "device=cpu", f"project={work / 'yolo'}"]  # fmt: skip
    theirs = timed(yolo)
    print(
        f"detect, CPU, float32, {count} photos: {count / ours:.2f} a second, yolo predict {count / theirs:.2f}: "
        f"{theirs / ours:.2f} times (target 3)"
    )


if __name__ == "__main__":
    main()
