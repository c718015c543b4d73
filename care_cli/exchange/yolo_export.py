"""YOLO folders as training takes them: photos as they are, a text of boxes for each, and what they rest on.

    images/{train,val,test}/NAME.jpg   a hard link to the original, or a copy; never encoded again
    labels/{train,val,test}/NAME.txt   class xc yc w h, shares of the upright photo's sides; empty: it shows nothing
    data.yaml                          the parts, and the names of the classes
    photos.csv                         file, part, location, lighting, taken_at, source, sha256, empty
    scores.csv                         file, line (of its text, from 1), confidence
    missing.csv                        photos that should be here and whose originals are not: part, location, source
    recipe.json                        the settings, and what came of them

NAME is the beginning of the SHA-256 of the photo's bytes, so that the same catalog and recipe give the same folder,
byte for byte. What no export wrote into `images` and `labels` is left as it is, and named.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from care_cli.errors import CareError
from care_cli.exchange.dataset_table import read_table
from care_cli.exchange.yolo_folder import DATA, PHOTOS, SCORES
from care_cli.geometry import Box
from care_cli.outputs import write_whole
from care_cli.scan import parse_path
from care_cli.splits import PARTS

RECIPE, MISSING = "recipe.json", "missing.csv"
JOURNAL = "written.part"  # files of an export that has not ended, one a line; before each is written
PHOTO_COLUMNS = ("file", "part", "location", "lighting", "taken_at", "source", "sha256", "empty")
MISSING_COLUMNS = ("part", "location", "source")
NAME = 24  # hexadecimal digits of a photo's name
PARTIAL = ".part"  # behind the name of a photo that is being put there
END_OF_JPEG = b"\xff\xd9"


@dataclass(frozen=True, slots=True)
class Exported:
    """A photo to be written."""

    image_id: int
    part: str
    source: str  # its path, readable
    sha256: str | None  # None: nobody has seen it
    boxes: tuple[tuple[int, Box, float], ...]  # number of the class, box as shares, confidence
    location: str | None = None
    lighting: str | None = None
    taken_at: str | None = None


class YoloFolder:
    """A folder being written. Goes on where it was stopped when the settings are the same.

    Raises CareError when the folder holds anything else, unless that was written by an export and is to be replaced.
    """

    def __init__(self, folder: Path, settings: dict, overwrite: bool = False, copy: bool = False):
        self.folder = folder
        self.copy = copy
        self.settings = json.loads(json.dumps(settings))  # as it is read back
        self.linked = self.copied = 0
        self.photos: list[dict] = []
        self.foreign: list[str] = []  # what lies among photos and texts and no export wrote, once it is finished
        self._written: set[Path] = set()
        self.scores: list[dict] = []
        self.missing: list[dict] = []
        self._prepare(overwrite)
        for part in PARTS:
            for kind in ("images", "labels"):
                (folder / kind / part).mkdir(parents=True, exist_ok=True)

    def _prepare(self, overwrite: bool) -> None:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            present = sorted(path.name for path in self.folder.iterdir())
            before = json.loads((self.folder / RECIPE).read_text("utf-8")) if RECIPE in present else {}
        except (OSError, ValueError) as error:
            raise CareError(f"{self.folder} cannot be used as a folder for training: {error}.") from error
        ours = isinstance(before, dict) and "settings" in before
        if present and not ours:
            raise CareError(f"{self.folder} holds files that no export wrote ({present[0]}). Name an empty folder.")
        other = ours and before["settings"] != self.settings
        if other and not overwrite:
            raise CareError(f"{self.folder} was exported with other settings. Name another folder, or add --overwrite.")
        self._earlier = self._of_exports()
        if other:
            self._clear()
        write_whole(self.folder / RECIPE, _json({"settings": self.settings}))  # whose folder it is, if it is stopped

    def _of_exports(self) -> set[Path]:
        """The photos and texts that exports wrote here: one that ended, and one that was stopped after it."""
        table, journal = self.folder / PHOTOS, self.folder / JOURNAL
        files = [row["file"] for _, row in read_table(table)[1] if row.get("file")] if table.is_file() else []
        files += journal.read_text("ascii", "replace").splitlines() if journal.is_file() else []
        photos = {self.folder / file for file in files}
        return photos | {self._text_of(photo) for photo in photos}

    def _text_of(self, photo: Path) -> Path:
        return self.folder / "labels" / photo.parent.name / f"{photo.stem}.txt"

    def _present(self) -> Iterator[Path]:
        """All that lies where photos and texts do."""
        for kind in ("images", "labels"):
            for part in PARTS:
                if (folder := self.folder / kind / part).is_dir():
                    yield from folder.iterdir()

    def _clear(self) -> None:
        """Delete what earlier exports wrote and this one has not; what no export wrote is the user's."""
        ours = self._earlier | self._written
        self.foreign = []
        for path in set(self._present()) - self._written:
            if path in ours or (path.suffix == PARTIAL and path.with_suffix("") in ours):
                path.unlink()
            else:
                self.foreign.append(path.relative_to(self.folder).as_posix())
        self.foreign.sort()

    def add(self, photo: Exported, places: Sequence[dict]) -> None:
        """Write a photo and its boxes; `places` are those of `Catalog.places`. One without its original is noted."""
        original = next((path for place in places if (path := _original(place)) is not None), None)
        if original is None:
            self.missing.append({"part": photo.part, "location": photo.location, "source": photo.source})
            return
        name = photo.sha256[:NAME]
        target = self.folder / "images" / photo.part / f"{name}{original.suffix.lower()}"
        file = target.relative_to(self.folder).as_posix()
        with (self.folder / JOURNAL).open("a", encoding="ascii", newline="\n") as journal:
            journal.write(file + "\n")
        self._put(original, target)
        boxes = sorted(photo.boxes, key=lambda one: (-one[2], one[0], one[1]))
        text = "".join(_line(number, box) + "\n" for number, box, _ in boxes)
        self._text_of(target).write_text(text, encoding="ascii", newline="\n")
        self._written |= {target, self._text_of(target)}
        facts = {column: getattr(photo, column, None) for column in PHOTO_COLUMNS}
        self.photos.append(facts | {"file": file, "empty": int(not boxes)})
        self.scores += [
            {"file": file, "line": line, "confidence": round(confidence, 6)}
            for line, (_, _, confidence) in enumerate(boxes, 1)
        ]

    def _put(self, original: Path, target: Path) -> None:
        """The original's bytes at the target, by a hard link where that is possible and safe."""
        there = target.exists() and target.stat().st_size == original.stat().st_size
        if there and not (self.copy and target.samefile(original)):  # a link is no copy
            return
        partial = target.with_name(target.name + PARTIAL)
        try:
            partial.unlink(missing_ok=True)
            if not self.copy and _safe_to_link(original):
                try:
                    os.link(original, partial)
                    self.linked += 1
                except OSError:  # another file system, or one without links
                    shutil.copyfile(original, partial)
                    self.copied += 1
            else:
                shutil.copyfile(original, partial)
                self.copied += 1
            partial.replace(target)
            partial.unlink(missing_ok=True)  # of two names of one file a rename leaves both
        except OSError as error:
            raise CareError(f"{original} could not be put at {target}: {error.strerror or error}.") from error

    def finish(self, names: Sequence[str], counts: dict) -> None:
        """Write the tables and the description; photos of an export before that are not in this one go."""
        self._clear()
        lines = [f"{part}: images/{part}" for part in PARTS]
        listed = "".join(f"\n  - {json.dumps(name, ensure_ascii=False)}" for name in names)
        write_whole(self.folder / DATA, "\n".join(lines) + f"\nnc: {len(names)}\nnames:{listed or ' []'}\n")
        by_file = sorted(self.photos, key=lambda row: row["file"])
        scores = sorted(self.scores, key=lambda row: (row["file"], row["line"]))
        missing = sorted(self.missing, key=lambda row: (row["part"], row["source"]))
        write_whole(self.folder / PHOTOS, _table(by_file, PHOTO_COLUMNS))
        write_whole(self.folder / SCORES, _table(scores, ("file", "line", "confidence")))
        write_whole(self.folder / MISSING, _table(missing, MISSING_COLUMNS))
        told = {"settings": self.settings, "classes": list(names), "missing": len(missing), **counts}
        write_whole(self.folder / RECIPE, _json(told))
        (self.folder / JOURNAL).unlink(missing_ok=True)


def _line(number: int, box: Box) -> str:
    x, y, w, h = box
    return f"{number} {x + w / 2:.6f} {y + h / 2:.6f} {w:.6f} {h:.6f}"


def _original(place: dict) -> Path | None:
    """The file at a place of `Catalog.places` if it still holds the photo's bytes."""
    path = Path(os.fsdecode(parse_path(place["location"]))) / os.fsdecode(place["path_bytes"])
    try:
        status = path.stat()
        if (status.st_size, status.st_mtime_ns) == (place["bytes"], place["mtime_ns"]):
            return path
        with path.open("rb") as file:
            same = hashlib.file_digest(file, "sha256").hexdigest() == place["sha256"]
    except (OSError, ValueError):
        return None
    return path if same else None


def _safe_to_link(original: Path) -> bool:
    """Would no training program write to it? Ultralytics saves a JPEG anew, in its place, that does not end as one."""
    with original.open("rb") as file:
        if file.read(2) != b"\xff\xd8":
            return True
        file.seek(-2, os.SEEK_END)
        return file.read() == END_OF_JPEG


def _table(rows: Iterable[dict], columns: Sequence[str]) -> str:
    stream = io.StringIO()
    writer = csv.DictWriter(stream, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return stream.getvalue()


def _json(value: dict) -> str:
    return json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False) + "\n"
