"""YOLO folders: photos, a text file of boxes for each, and the names of the classes.

Of a photo below a folder `images` the text lies in the same place below `labels`, else beside the photo. A line is
`class xc yc w h`, shares of the photo's sides, with a confidence behind it where a detector wrote it, or the corners
of a polygon, whose box is taken. A photo with an empty text shows nothing; one without a text is not labelled. Of
folders that CARE wrote, photos.csv tells location and time, and scores.csv confidences.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from care_cli.errors import CareError
from care_cli.exchange.dataset_table import read_table, wall_clock
from care_cli.exchange.labels import Dropped, Source, Told, ToldBox, fault_of, is_text, numbers_of, short
from care_cli.scan import Found, Unreadable, display_path, scan
from care_cli.words import meaning

PHOTOS, SCORES, DATA = "photos.csv", "scores.csv", "data.yaml"
NAMES = ("classes.txt", "labels/classes.txt", "obj.names")
LARGEST_TEXT = 10_000_000  # bytes of one text file


@dataclass(frozen=True)
class Folder:
    """A folder of labels, its tables read."""

    root: Path
    names: dict[int, str]
    facts: dict[str, dict[str, str]] = field(default_factory=dict)  # rows of photos.csv by file
    scores: dict[tuple[str, int], float] = field(default_factory=dict)  # by file and line


def open_folder(path: Path, name: str) -> Source:
    """The labels of a folder, or of one that a data.yaml is of.

    CareError when there is no photo in it, or nothing says what the classes are called.
    """
    folder, described = path, None
    if not path.is_dir():
        folder, described = path.parent, path
    folder = Path(os.path.abspath(folder))  # noqa: PTH100 - as `scan` names its roots
    data = _described(described or _first(folder, DATA, "dataset.yaml", "data.yml", "dataset.yml"))
    if isinstance(data.get("path"), str) and (folder / data["path"]).is_dir():
        folder = Path(os.path.abspath(folder / data["path"]))  # noqa: PTH100
    names = _names(data.get("names")) or _listed(_first(folder, *NAMES))
    if not names:
        raise CareError(
            f"Nothing in {path} says what the classes are called: a YOLO folder has a data.yaml with `names`, or a "
            "classes.txt with one name a line."
        )
    if not any(isinstance(found, Found) for found in scan([folder])):
        raise CareError(f"There is no photo in {folder}. A YOLO folder holds its photos, in `images` or beside texts.")
    taken = Folder(folder, names, _facts(folder / PHOTOS), _scores(folder / SCORES))
    return Source(path, name, _digest(taken), folder, partial(read, taken))


def read(folder: Folder, dropped: Dropped) -> Iterator[Told]:
    """The photos of a folder."""
    texts = {relative for relative in _texts(folder.root) if relative.name not in {"classes.txt", "README.txt"}}
    for found in scan([folder.root]):
        if isinstance(found, Unreadable):
            dropped.add("it could not be looked at", f"{display_path(found.path)}: {found.reason}")
            continue
        file = os.fsdecode(found.relative)
        text = next((one for one in _places(Path(file)) if one in texts), None)
        texts.discard(text)
        if text is None:
            dropped.add("it has no text file; it is not labelled", display_path(found.relative), fault=False)
            yield Told(file, file, **_about(folder, file, dropped))
        else:
            yield _told(folder, file, text, dropped)
    for text in sorted(texts):
        if _has_photo(text):
            dropped.add("a text file without its photo", display_path(os.fsencode(text.as_posix())))


def _told(folder: Folder, file: str, text: Path, dropped: Dropped) -> Told:
    about = _about(folder, file, dropped)
    try:
        if (folder.root / text).stat().st_size > LARGEST_TEXT:
            raise ValueError(f"it has more than {LARGEST_TEXT / 1e6:.0f} MB")
        lines = (folder.root / text).read_text("utf-8").splitlines()
    except (OSError, ValueError) as error:
        dropped.add("its text file cannot be read; it is not labelled", f"{text}: {error}")
        return Told(file, file, **about)
    filled = [(number, line.split()) for number, line in enumerate(lines, 1) if line.strip()]
    if not filled:
        return Told(file, file, labels=(("empty", False),), **about)
    boxes = []
    for number, cells in filled:
        box = _box(folder, cells, (file, number))
        if isinstance(box, str):
            dropped.add(box, f"{text} line {number}: {short(' '.join(cells))}")
        else:
            boxes.append(box)
    return Told(file, file, tuple(boxes), **about)


def _box(folder: Folder, cells: list[str], place: tuple[str, int]) -> ToldBox | str:
    """The box of a line, or why there is none."""
    try:
        number, values = int(cells[0]), [float(cell) for cell in cells[1:]]
    except ValueError:
        return "a line should be a class and numbers"
    if number not in folder.names:
        return "its class has no name"
    confidence = folder.scores.get(place, 1.0)
    if len(values) in (4, 5):
        confidence = values[4] if len(values) == 5 else confidence
        x, y, w, h = values[:4]
        corner = [x - w / 2, y - h / 2, w, h]
    elif len(values) >= 6 and len(values) % 2 == 0:
        left, top = min(values[::2]), min(values[1::2])
        corner = [left, top, max(values[::2]) - left, max(values[1::2]) - top]
    else:
        return "a line should be a class and four numbers, or a polygon's corners"
    if fault := fault_of(numbers_of(corner)):
        return fault
    if not 0 <= confidence <= 1:
        return "its confidence should lie from 0 to 1"
    name = folder.names[number]
    category, species = meaning(name)
    if category is None:
        return "it is of nothing"
    return ToldBox(tuple(corner), True, name, category, species, confidence)


def _about(folder: Folder, file: str, dropped: Dropped) -> dict[str, Any]:
    """What photos.csv says of a photo."""
    row = folder.facts.get(Path(file).as_posix(), {})
    location, time = row.get("location") or None, row.get("taken_at") or None
    try:
        return {"location": location, "taken_at": time and wall_clock(time)}
    except ValueError:
        dropped.add("its time in photos.csv is no date; the photo is undated", f"{file}: {short(time)}")
        return {"location": location}


# -- where things lie


def _places(photo: Path) -> Iterator[Path]:
    """Where the text of a photo may lie: the last folder `images` exchanged for `labels`, and beside it."""
    parts = photo.parts
    for index in reversed(range(len(parts) - 1)):
        if parts[index].casefold() == "images":
            yield Path(*parts[:index], "labels", *parts[index + 1 :]).with_suffix(".txt")
            break
    yield photo.with_suffix(".txt")


def _texts(root: Path) -> Iterator[Path]:
    for folder, _, files in os.walk(root):
        for name in files:
            if name.lower().endswith(".txt"):
                yield Path(folder, name).relative_to(root)


def _has_photo(text: Path) -> bool:
    """Is a text one that a photo should have, and not a list or a note?"""
    return "labels" in [part.casefold() for part in text.parts[:-1]]


def _first(folder: Path, *names: str) -> Path | None:
    return next((folder / name for name in names if (folder / name).is_file()), None)


# -- tables


def _described(path: Path | None) -> dict:
    """What a data.yaml holds; nothing where there is none."""
    if path is None:
        return {}
    import yaml

    try:
        data = yaml.safe_load(path.read_text("utf-8"))
    except (OSError, ValueError, yaml.YAMLError, RecursionError) as error:
        raise CareError(f"{path} should be YAML, but cannot be read: {str(error).splitlines()[0]}.") from error
    return data if isinstance(data, dict) else {}


def _names(listed: object) -> dict[int, str]:
    """Names of classes by number, of a list or a table."""
    pairs = enumerate(listed) if isinstance(listed, list) else listed.items() if isinstance(listed, dict) else ()
    return {
        int(number): str(name).strip()
        for number, name in pairs
        if str(number).isdecimal() and is_text(str(name)) and isinstance(name, str | int | bool)
    }


def _listed(path: Path | None) -> dict[int, str]:
    try:
        lines = path.read_text("utf-8").splitlines() if path else []
    except (OSError, UnicodeDecodeError) as error:
        raise CareError(f"{path} should hold one class a line, but cannot be read: {error}.") from error
    return {number: line.strip() for number, line in enumerate(lines) if line.strip()}


def _facts(path: Path) -> dict[str, dict[str, str]]:
    if not path.is_file():
        return {}
    _, rows = read_table(path)
    return {row["file"]: row for _, row in rows if row.get("file")}


def _scores(path: Path) -> dict[tuple[str, int], float]:
    if not path.is_file():
        return {}
    scores = {}
    for number, row in read_table(path)[1]:
        try:
            scores[row["file"], int(row["line"])] = float(row["confidence"])
        except (KeyError, ValueError) as error:
            raise CareError(f"{path} line {number} should be file,line,confidence: {error}.") from error
    return scores


def _digest(folder: Folder) -> str:
    """SHA-256 of all that the folder says: names, tables and texts."""
    sha256 = hashlib.sha256(repr(sorted(folder.names.items())).encode())
    for relative in sorted([*_texts(folder.root), Path(PHOTOS), Path(SCORES)]):
        path = folder.root / relative
        if path.is_file():
            data = path.read_bytes()
            sha256.update(f"{os.fsencode(relative.as_posix())!r} {len(data)}\n".encode())
            sha256.update(data)
    return sha256.hexdigest()
