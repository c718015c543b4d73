"""Labels and boxes that others gave photos, whatever the format: one stream of photos for one writer.

A format is a module beside this one with `read(source, dropped)`, which yields `Told`; FORMATS names them.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

from care_cli.errors import CareError
from care_cli.exchange.json_streams import JsonFile
from care_cli.geometry import Box

# name -> what it is, and where its files are read
FORMATS = {
    "coco": ("COCO Camera Traps JSON or COCO boxes", "care_cli.exchange.camera_traps:open_file"),
    "megadetector": (
        "MegaDetector batch results (SpeciesNet's predictions by its script speciesnet_to_md)",
        "care_cli.exchange.megadetector_results:open_file",
    ),
    "yolo": ("a YOLO folder", "care_cli.exchange.yolo_folder:open_folder"),
}
EXAMPLES = 5  # kept of each reason
LOOKED_AT = 100_000  # JSON events from which a format is recognised


@dataclass(frozen=True, slots=True)
class ToldBox:
    """One box of a photo. `share`: as shares of the photo's sides, else in px of the size that the photo is told of."""

    box: Box  # x, y, w, h
    share: bool
    label: str  # in the file's own words
    category: str  # animal | person | vehicle
    species: str | None = None
    confidence: float = 1.0


@dataclass(frozen=True, slots=True)
class Told:
    """One photo, as a file tells of it."""

    place: str  # where in the file, for messages
    file: str  # path, as it is written there
    boxes: tuple[ToldBox, ...] = ()
    labels: tuple[tuple[str, bool], ...] = ()  # of the photo as a whole: the word, and whether it is its sequence's
    size: tuple[int, int] | None = None  # width, height px that boxes in px are of
    location: str | None = None
    taken_at: str | None = None  # 'YYYY-MM-DD HH:MM:SS[.fff]'
    sequence: str | None = None


@dataclass
class Dropped:
    """What was not taken in: how often for each reason, and a few examples.

    `faults` are reasons that tell of a file that is not as it should be; other reasons are the format's or ours.
    """

    counts: Counter[str] = field(default_factory=Counter)
    examples: dict[str, list[str]] = field(default_factory=dict)
    faults: set[str] = field(default_factory=set)

    def add(self, reason: str, example: str, count: int = 1, fault: bool = True) -> None:
        """Note that something was left out, and why."""
        self.counts[reason] += count
        if fault:
            self.faults.add(reason)
        kept = self.examples.setdefault(reason, [])
        if len(kept) < EXAMPLES:
            kept.append(example)

    def merge(self, other: Dropped) -> None:
        """Take over what another one noted."""
        for reason, count in other.counts.items():
            first, *more = other.examples[reason]
            self.add(reason, first, count, reason in other.faults)
            self.examples[reason] = [*self.examples[reason], *more][:EXAMPLES]

    @property
    def failed(self) -> int:
        """How often something was left out because the file is not as it should be."""
        return sum(self.counts[reason] for reason in self.faults)

    def rows(self) -> list[dict]:
        """Reasons with their counts and examples, the most frequent first."""
        return [
            {"reason": reason, "count": count, "examples": self.examples[reason]}
            for reason, count in sorted(self.counts.items(), key=lambda item: (-item[1], item[0]))
        ]


@dataclass(frozen=True)
class Source:
    """A file or folder of labels, checked: it is whole and of its format."""

    path: Path
    format: str  # a name of FORMATS
    digest: str  # SHA-256 of all that decides what is read
    root: Path  # the folder that its paths begin at, where nobody says another
    read: Any  # (dropped: Dropped) -> Iterator[Told]; once more from the start at every call
    detections: bool = False  # a detector's results: a photo without boxes was looked at, and nothing was found
    shown: float | None = None  # confidence from which its detector's boxes are shown

    def photos(self, dropped: Dropped) -> Iterator[Told]:
        """What the file tells of, photo by photo; what cannot be used goes to `dropped`."""
        return self.read(dropped)


def open_labels(path: Path, name: str | None = None) -> Source:
    """The labels of a file or folder, of the format that is named or recognised.

    Raises CareError when there is no such format, the file cannot be read, is damaged, or of no format known here.
    """
    if name is not None and name not in FORMATS:
        raise CareError(f"--format is one of {', '.join(FORMATS)}, but got {name!r}.")
    if not path.exists():
        raise CareError(f"There is no {path}. Labels come as {', '.join(what for what, _ in FORMATS.values())}.")
    name = name or recognised(path)
    return resolve_name(FORMATS[name][1])(path, name)


def recognised(path: Path) -> str:
    """The format of a file or folder, by what it holds. CareError when it is none of FORMATS."""
    if path.is_dir() or path.suffix.lower() in (".yaml", ".yml"):
        return "yolo"
    seen: set[str] = set()
    for number, (place, kind, value) in enumerate(JsonFile(path).events()):
        if kind != "map_key":
            pass
        elif place == "":
            seen.add(value)
        elif place == "images.item":
            seen.add(f"images.{value}")
        if seen & {"detection_categories", "images.file", "images.detections"}:
            return "megadetector"
        if seen & {"annotations", "images.file_name"}:
            return "coco"
        if number > LOOKED_AT:
            break
    raise CareError(
        f"{path} is of no format known here: its parts are {', '.join(sorted(seen)[:5]) or 'none'}. Labels come as "
        f"{', '.join(what for what, _ in FORMATS.values())}; force one with --format {'|'.join(FORMATS)}."
    )


# -- what the formats have in common


def numbers_of(value: object) -> Box | None:
    """Four finite numbers, or None."""
    if not isinstance(value, list) or len(value) != 4:
        return None
    if not all(isinstance(one, int | float) and not isinstance(one, bool) and math.isfinite(one) for one in value):
        return None
    return tuple(map(float, value))


def fault_of(box: Box | None) -> str | None:
    """Why a box cannot be used, whatever the photo; None when it can."""
    if box is None:
        return "its box should be four finite numbers"
    if not (box[2] > 0 and box[3] > 0):
        return "its box should be of a width and height above 0"
    if max(map(abs, box)) > 1e9:
        return "its box is larger than any photo"
    return None


def is_text(value: object) -> bool:
    """Is it a text that can be kept: not empty, and without halves of letters?"""
    if not isinstance(value, str) or not value.strip():
        return False
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def short(value: object) -> str:
    """A value as a message shows it."""
    text = json.dumps(value, default=str)
    return "missing" if value is None else text if len(text) <= 40 else text[:37] + "..."
