"""Are the boxes the same? Those in a catalog beside those that `yolo predict` wrote as text."""

from __future__ import annotations

import contextlib
import sqlite3
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from care_cli.geometry import iou

CONFIDENT = 0.25  # from which Ultralytics shows boxes
SAME = 0.5  # IoU from which two boxes are of one thing


@dataclass(frozen=True)
class Parity:
    """How well boxes agree."""

    boxes: int  # the peer's confident boxes of classes that are kept
    matched: int
    extra: int  # confident boxes of ours without one of the peer's
    mean_iou: float  # of the matched boxes
    largest_shift: float  # largest difference of confidence between matched boxes

    @property
    def lost(self) -> int:
        """Confident boxes of the peer without one of ours."""
        return self.boxes - self.matched


@dataclass(frozen=True)
class Boxes:
    """`rows (N,5)`: x, y, w, h px, confidence; `categories (N,)`: animal, person or vehicle."""

    rows: np.ndarray
    categories: np.ndarray


def compare(catalog: Path, labels: Path, kept: dict[int, str]) -> Parity:
    """The newest detect run of a catalog beside a folder of Ultralytics' text files, photo by photo.

    `kept` are the categories of the class numbers that have one. Each box of the peer from confidence 0.25 meets the
    box of ours of its category that overlaps it most, or a person's, for an animal that is a person too is one here.
    Boxes of two classes of one category were merged here, so that two of the peer's may meet one of ours.
    """
    boxes, extra, overlaps, shifts = 0, 0, [], []
    for name, (width, height), ours in stored(catalog):
        theirs = predicted(labels / f"{Path(name).stem}.txt", width, height, kept)
        alike = (theirs.categories[:, None] == ours.categories) | (ours.categories == "person")
        table = np.where(alike, iou(theirs.rows[:, :4], ours.rows[:, :4]), 0)
        boxes += len(theirs.rows)
        extra += int(((table.max(0, initial=0) < SAME) & (ours.rows[:, 4] >= CONFIDENT)).sum())
        if not table.size:
            continue
        best, found = table.argmax(1), table.max(1) >= SAME
        overlaps += table.max(1)[found].tolist()
        shifts += np.abs(theirs.rows[found, 4] - ours.rows[best[found], 4]).tolist()
    mean = float(np.mean(overlaps)) if overlaps else float("nan")
    return Parity(boxes, len(overlaps), extra, mean, max(shifts, default=0.0))


def stored(catalog: Path) -> list[tuple[str, tuple[int, int], Boxes]]:
    """Each photo of the newest detect run: path, size in px, and its boxes."""
    with contextlib.closing(sqlite3.connect(catalog)) as connection:
        run = connection.execute("SELECT max(id) FROM runs WHERE command = 'detect'").fetchone()[0]
        photos = connection.execute(
            "SELECT images.id, path, width, height FROM images JOIN image_files ON image_id = images.id "
            "WHERE width IS NOT NULL ORDER BY path"
        ).fetchall()
        crops = connection.execute(
            "SELECT image_id, category, x, y, w, h, confidence FROM crops WHERE run_id = ?", (run,)
        ).fetchall()
    of_image: dict[int, list[tuple]] = {}
    for image, *box in crops:
        of_image.setdefault(image, []).append(tuple(box))
    return [(path, (w, h), as_boxes(of_image.get(image, []))) for image, path, w, h in photos]


def as_boxes(found: list[tuple]) -> Boxes:
    """Of rows category, x, y, w, h, confidence."""
    return Boxes(np.array([row[1:] for row in found], float).reshape(-1, 5), np.array([row[0] for row in found], str))


def predicted(file: Path, width: int, height: int, kept: dict[int, str]) -> Boxes:
    """The confident boxes of one of Ultralytics' text files; no file: no boxes.

    A line is class, centre x and y, width, height as shares of the photo's sides, confidence.
    """
    lines = file.read_text("utf-8").splitlines() if file.exists() else []
    found = []
    for label, x, y, w, h, confidence in ([float(part) for part in line.split()] for line in lines):
        if int(label) in kept and confidence >= CONFIDENT:
            corner = (x - w / 2) * width, (y - h / 2) * height
            found.append((kept[int(label)], *corner, w * width, h * height, confidence))
    return as_boxes(found)
