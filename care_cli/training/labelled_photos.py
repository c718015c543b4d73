"""Training folders of a detector, as `care export yolo` writes them and Ultralytics reads them: checked, never written
to.

    data.yaml              names: the classes, in the order of their numbers
    images/{train,val,test}/*.jpg
    labels/{train,val,test}/*.txt    a line an object: class, centre x, centre y, width, height, in 0..1 of the photo
    photos.csv, recipe.json          where each photo was taken, and how the folder came about; not in folders of others

A photo without anything on it has an empty label file. What cannot be used is left out, each photo with its reason: a
photo whose labels are unsound is no empty one.
"""

from __future__ import annotations

import csv
import hashlib
import json
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from tqdm import tqdm

from care_cli.errors import CareError
from care_cli.headers import check_labels
from care_cli.images import read_photo
from care_cli.outputs import write_whole
from care_cli.splits import PARTS

SUFFIXES = (".jpg", ".jpeg", ".png", ".tif", ".tiff", ".bmp", ".webp")
TOLERANCE = 0.01  # of the photo's side, by which an edge may lie outside for having been rounded
LARGEST_LABELS = 1 << 20  # bytes of a label file
LARGEST_TABLE = 1 << 24  # bytes of data.yaml or recipe.json
LEAST = 64  # px, a photo is decoded to at least, when it is checked


@dataclass(frozen=True, eq=False, slots=True)
class LabelledPhoto:
    """A photo and what is on it: `boxes (N,4) float64` are centre x, centre y, width and height as shares of the
    upright photo, `classes (N,) int64` numbers of classes."""

    file: Path
    name: str  # PART/FILE
    sha256: str
    width: int  # px, upright
    height: int  # px, upright
    lighting: str  # day | infrared
    location: str | None
    classes: np.ndarray
    boxes: np.ndarray

    @property
    def corners(self) -> np.ndarray:
        """Boxes `(N,4) float64`: x, y, w, h px of the image frame."""
        centre, size = self.boxes[:, :2], self.boxes[:, 2:]
        return np.concatenate([centre - size / 2, size], 1) * [self.width, self.height, self.width, self.height]


@dataclass(frozen=True, eq=False)
class LabelledFolder:
    """What a training folder holds; `faults` are photos and labels that were left out, `{"file", "why"}`."""

    folder: Path
    names: tuple[str, ...]
    parts: Mapping[str, tuple[LabelledPhoto, ...]]
    faults: tuple[dict[str, str], ...] = ()
    recipe: Any = None  # of recipe.json
    located: bool = field(default=False)  # whether it is known where photos were taken

    def photos(self, part: str) -> tuple[LabelledPhoto, ...]:
        """Photos of a part; none where the folder has no such part."""
        return self.parts.get(part, ())

    def locations(self, part: str) -> set[str]:
        """Where photos of a part were taken."""
        return {photo.location for photo in self.photos(part) if photo.location}

    def counts(self, part: str) -> np.ndarray:
        """Boxes of each class in a part, `(C,) int64`."""
        classes = [photo.classes for photo in self.photos(part)]
        return np.bincount(np.concatenate([np.zeros(0, np.int64), *classes]), minlength=len(self.names))

    def digest(self, part: str) -> str:
        """SHA-256 of a part's photos and labels."""
        found = hashlib.sha256()
        for photo in self.photos(part):
            found.update(f"{photo.name}\0{photo.sha256}\0".encode())
            found.update(photo.classes.tobytes() + photo.boxes.tobytes())
        return found.hexdigest()

    def summary(self) -> list[dict[str, Any]]:
        """A row a part: photos, empty ones, boxes, locations."""
        return [
            {
                "part": part,
                "photos": len(self.photos(part)),
                "empty": sum(not len(photo.classes) for photo in self.photos(part)),
                "boxes": int(self.counts(part).sum()),
                "locations": len(self.locations(part)) if self.located else None,
            }
            for part in PARTS
        ]


def read_folder(
    folder: Path, *, names: Sequence[str] | None = None, parts: Iterable[str] = PARTS, notes: Path | None = None
) -> LabelledFolder:
    """Read a training folder: every photo is decoded once, every label checked.

    `names` are the classes where there is no data.yaml. `notes` is a file in which what was found of photos is kept: a
    photo of the same size and time is not decoded again. Raises CareError when it is no such folder.
    """
    folder = Path(folder).resolve()
    if not (folder / "images").is_dir():
        raise CareError(
            f"{folder} is no training folder: expected images/train, images/val and labels beside them, as "
            "`care export yolo` writes them."
        )
    names = tuple(names or read_names(folder / "data.yaml"))
    locations, known = read_locations(folder / "photos.csv"), _read_notes(notes)
    listed = {part: _listed(folder / "images" / part) for part in parts}
    files = [(part, file, file.relative_to(folder / "images").as_posix()) for part in listed for file in listed[part]]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        work = pool.map(lambda one: _facts(one[1], known.get(one[2])), files)
        facts = list(tqdm(work, "check photos", len(files), unit="photo", disable=None))
    if notes is not None:
        write_whole(notes, json.dumps(known | {name: fact for (_, _, name), fact in zip(files, facts, strict=True)}))
    found: dict[str, list[LabelledPhoto]] = {part: [] for part in listed}
    faults = [fault for part in listed for fault in _without_photo(folder, part, listed[part])]
    for (part, file, name), fact in zip(files, facts, strict=True):
        try:
            if fact["failure"]:
                raise ValueError(fact["failure"])
            classes, boxes = read_labels(_labels_of(folder, part, file), len(names))
        except ValueError as error:
            faults.append({"file": name, "why": str(error)})
            continue
        place = locations.get((part, file.name)) if locations else None
        sizes = fact["width"], fact["height"], fact["lighting"]
        found[part].append(LabelledPhoto(file, name, fact["sha256"], *sizes, place, classes, boxes))
    whole = {part: tuple(photos) for part, photos in found.items()}
    return LabelledFolder(folder, names, whole, tuple(faults), _read_recipe(folder), locations is not None)


# -- what lies beside the photos


def read_names(path: Path) -> list[str]:
    """Names of the classes in a data.yaml, in the order of their numbers. Nothing else of it is heeded.

    Raises CareError when it is absent or names none.
    """
    import yaml

    text = _read_table(path)
    if text is None:
        raise CareError(f"{path} is missing; it names the classes, as in 'names: [cat, dog]'.")
    try:
        names = (yaml.safe_load(text) or {}).get("names")
        if isinstance(names, dict):
            names = [names[number] for number in range(len(names))]
        names = [str(name) for name in names]
    except (yaml.YAMLError, AttributeError, KeyError, TypeError, RecursionError) as error:
        raise CareError(f"{path} names no classes; expected a list, as in 'names: [cat, dog]'.") from error
    if not names or len(set(names)) < len(names):
        raise CareError(f"{path} must name at least one class, and each once, but names {', '.join(names) or 'none'}.")
    check_labels(str(path), names)
    return names


def read_locations(path: Path) -> dict[tuple[str, str], str] | None:
    """Where photos were taken, by part and file name; None without a photos.csv. CareError when it cannot be read."""
    if not path.is_file():
        return None
    try:
        with path.open(newline="", encoding="utf-8-sig") as stream:
            rows = csv.DictReader(stream)
            if missing := {"file", "part", "location"} - set(rows.fieldnames or ()):
                raise CareError(f"{path} lacks the columns {', '.join(sorted(missing))}.")
            return {(row["part"], PurePosixPath(row["file"] or "").name): row["location"] or "" for row in rows}
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise CareError(f"{path} cannot be read: {error}.") from error


def _read_recipe(folder: Path) -> Any:
    text = _read_table(folder / "recipe.json")
    try:
        return None if text is None else json.loads(text)
    except (ValueError, RecursionError) as error:
        raise CareError(f"{folder / 'recipe.json'} is no JSON: {error}.") from error


def _read_table(path: Path) -> str | None:
    """A small text file; None where there is none."""
    if not path.is_file():
        return None
    try:
        if path.stat().st_size > LARGEST_TABLE:
            raise CareError(f"{path} has {path.stat().st_size:,} bytes; expected a few lines.")
        return path.read_text("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise CareError(f"{path} cannot be read: {error}.") from error


# -- photos


def _listed(folder: Path) -> list[Path]:
    """Photos below a folder, by name."""
    return sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())


def _facts(file: Path, known: Any) -> dict[str, Any]:
    """Size, time, SHA-256, sides, light and failure of a photo; as `known` where size and time are the same."""
    try:
        about = file.stat()
        stamp = {"bytes": about.st_size, "mtime_ns": about.st_mtime_ns}
        if isinstance(known, dict) and known.items() >= stamp.items():
            return dict(known)
        photo = read_photo(file, LEAST).photo
    except OSError as error:
        return {"failure": f"the photo cannot be read: {error.strerror or error}"}
    facts = {name: getattr(photo, name) for name in ("sha256", "width", "height", "lighting", "failure")}
    return stamp | facts


def _read_notes(path: Path | None) -> dict[str, Any]:
    """What was found of photos before; nothing where the file is absent or damaged."""
    with suppress(OSError, ValueError):
        found = json.loads(path.read_text("utf-8")) if path else {}
        return found if isinstance(found, dict) else {}
    return {}


# -- labels


def _labels_of(folder: Path, part: str, file: Path) -> Path:
    return (folder / "labels" / part / file.relative_to(folder / "images" / part)).with_suffix(".txt")


def _without_photo(folder: Path, part: str, files: Sequence[Path]) -> list[dict[str, str]]:
    """Label files whose photo is missing."""
    wanted = {_labels_of(folder, part, file) for file in files}
    labels = (path for path in sorted((folder / "labels" / part).rglob("*.txt")) if path not in wanted)
    return [{"file": path.relative_to(folder).as_posix(), "why": "its photo is missing"} for path in labels]


def read_labels(path: Path, classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Classes `(N,) int64` and boxes `(N,4) float64` of a label file, without doubles, clipped to the photo.

    Raises ValueError, with the reason, for anything that is no label of `classes` classes.
    """
    try:
        if path.stat().st_size > LARGEST_LABELS:
            raise ValueError(f"its label file has {path.stat().st_size:,} bytes")
        lines = [line.split() for line in path.read_text("utf-8-sig").splitlines() if line.strip()]
    except FileNotFoundError:
        raise ValueError("it has no label file; that of an empty photo is empty") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"its label file cannot be read: {error}") from None
    rows = np.array([_row(line, classes) for line in lines]).reshape(-1, 5)
    rows = rows[np.sort(np.unique(rows, axis=0, return_index=True)[1])]
    low, high = rows[:, 1:3] - rows[:, 3:] / 2, rows[:, 1:3] + rows[:, 3:] / 2
    low, high = low.clip(0, 1), high.clip(0, 1)
    return rows[:, 0].astype(np.int64), np.concatenate([(low + high) / 2, high - low], 1)


def _row(words: Sequence[str], classes: int) -> list[float]:
    """The five numbers of a line. ValueError when they are no class and box."""
    line = " ".join(words)[:60]
    try:
        number, x, y, w, h = (float(word) for word in words)
    except ValueError:
        raise ValueError(f"its label '{line}' is no class with centre, width and height") from None
    if not all(map(math.isfinite, (number, x, y, w, h))):
        raise ValueError(f"its label '{line}' holds what is no number")
    if number != int(number) or not 0 <= number < classes:
        raise ValueError(f"its label '{line}' is of no class from 0 to {classes - 1}")
    edges = (x - w / 2, y - h / 2, x + w / 2, y + h / 2)
    if min(w, h) <= 0 or min(edges) < -TOLERANCE or max(edges) > 1 + TOLERANCE:
        raise ValueError(f"its label '{line}' lies outside the photo")
    if not (0 < x < 1 and 0 < y < 1):
        raise ValueError(f"its label '{line}' has its centre outside the photo")
    return [number, x, y, w, h]
