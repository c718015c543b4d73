"""Training folders of a detector for tests: rectangles and discs at places of their own, and the rendered card."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

WIDTH, HEIGHT = 96, 72  # px, of the drawn photos
NAMES = ("box", "disc")
COUNTS = {"train": 8, "val": 4, "test": 4}


def write_folder(folder: Path, counts: Mapping[str, int] = COUNTS, located: bool = True) -> Path:
    """Photos of noise with one red shape, every fourth without any, every second grey; two places a part."""
    rng, rows = np.random.default_rng(0), []
    for part, count in counts.items():
        for kind in ("images", "labels"):
            (folder / kind / part).mkdir(parents=True)
        for i in range(count):
            photo, line = draw_photo(rng, empty=i % 4 == 3)
            photo = photo.convert("L").convert("RGB") if i % 2 else photo
            photo.save(folder / "images" / part / f"{part}{i}.jpg", quality=90)
            (folder / "labels" / part / f"{part}{i}.txt").write_text(line)
            rows.append((f"{part}{i}.jpg", part, f"{part} ridge {i % 2}"))
    (folder / "data.yaml").write_text(f"path: .\nnames: [{', '.join(NAMES)}]\ndownload: raise SystemExit(3)\n")
    (folder / "recipe.json").write_text(json.dumps({"settings": {"recipe": {"name": "shapes", "burst": 3}}}))
    if located:
        write_places(folder, rows)
    return folder


def write_places(folder: Path, rows: list[tuple[str, str, str]]) -> None:
    """A photos.csv."""
    with (folder / "photos.csv").open("w", newline="", encoding="utf-8") as stream:
        csv.writer(stream).writerows([("file", "part", "location"), *rows])


def draw_photo(rng: np.random.Generator, empty: bool) -> tuple[Image.Image, str]:
    """A photo and the line of its label."""
    photo = Image.fromarray(rng.integers(90, 120, (HEIGHT, WIDTH, 3), dtype=np.uint8))
    if empty:
        return photo, ""
    w, h = (int(side) for side in rng.integers(24, 50, 2))
    x, y, disc = int(rng.integers(0, WIDTH - w)), int(rng.integers(0, HEIGHT - h)), int(rng.integers(2))
    pen = ImageDraw.Draw(photo)
    (pen.ellipse if disc else pen.rectangle)([x, y, x + w, y + h], fill=(230, 40, 40))
    return photo, f"{disc} {(x + w / 2) / WIDTH} {(y + h / 2) / HEIGHT} {w / WIDTH} {h / HEIGHT}\n"


def write_card(folder: Path, sample: Path, part: str, place: str, most: int = 1000) -> Path:
    """Photos of one place of the rendered card that decode, with the renderer's own boxes."""
    names = ["Cat", "Deer", "Goat", "Pig", "Person"]
    truth = json.loads((sample / "truth.json").read_text("utf-8"))
    rows = []
    for kind in ("images", "labels"):
        (folder / kind / part).mkdir(parents=True)
    photos = [one for one in truth["photos"] if one["location"] == place and one["kind"] != "truncated"]
    for one in photos[:most]:
        stem = Path(one["path"]).stem
        shutil.copyfile(sample / one["path"], folder / "images" / part / f"{stem}.jpg")
        lines = [label(names, found, one["width"], one["height"]) for found in one["objects"]]
        (folder / "labels" / part / f"{stem}.txt").write_text("".join(lines))
        rows.append((f"{stem}.jpg", part, place))
    (folder / "data.yaml").write_text(f"names: [{', '.join(names)}]\n")
    write_places(folder, rows)
    return folder


def label(names: list[str], found: dict, width: int, height: int) -> str:
    """A line of a label file from a box in px."""
    x, y, w, h = found["box"]
    number = names.index(found["species"] or "Person")
    return f"{number} {(x + w / 2) / width} {(y + h / 2) / height} {w / width} {h / height}\n"
