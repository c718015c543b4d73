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
    mean_iou: float  # of the matched boxes
    largest_shift: float  # largest difference of confidence between matched boxes

    @property
    def lost(self) -> int:
        """Confident boxes of the peer without one of ours."""
        return self.boxes - self.matched


def compare(catalog: Path, labels: Path, kept: set[int]) -> Parity:
    """The newest detect run of a catalog beside a folder of Ultralytics' text files, photo by photo.

    `kept` are the class numbers that mean an animal, a person or a vehicle. Each box of the peer from
    confidence 0.25 meets the box of ours that overlaps it most: boxes that mean one thing were merged here.
    """
    boxes, overlaps, shifts = 0, [], []
    for name, (width, height), ours in stored(catalog):
        theirs = predicted(labels / f"{Path(name).stem}.txt", width, height, kept)
        boxes += len(theirs)
        if not len(theirs) or not len(ours):
            continue
        table = iou(theirs[:, :4], ours[:, :4])
        best = table.argmax(1)
        found = table.max(1) >= SAME
        overlaps += table.max(1)[found].tolist()
        shifts += np.abs(theirs[found, 4] - ours[best[found], 4]).tolist()
    mean = float(np.mean(overlaps)) if overlaps else float("nan")
    return Parity(boxes, len(overlaps), mean, max(shifts, default=0.0))


def stored(catalog: Path) -> list[tuple[str, tuple[int, int], np.ndarray]]:
    """Each photo of the newest detect run: path, size in px, and its boxes `(N,5)`: x, y, w, h px, confidence."""
    with contextlib.closing(sqlite3.connect(catalog)) as connection:
        run = connection.execute("SELECT max(id) FROM runs WHERE command = 'detect'").fetchone()[0]
        photos = connection.execute(
            "SELECT images.id, path, width, height FROM images JOIN image_files ON image_id = images.id "
            "WHERE width IS NOT NULL ORDER BY path"
        ).fetchall()
        crops = connection.execute(
            "SELECT image_id, x, y, w, h, confidence FROM crops WHERE run_id = ?", (run,)
        ).fetchall()
    boxes: dict[int, list[tuple]] = {}
    for image, *box in crops:
        boxes.setdefault(image, []).append(tuple(box))
    return [(path, (w, h), np.array(boxes.get(image, []), float).reshape(-1, 5)) for image, path, w, h in photos]


def predicted(file: Path, width: int, height: int, kept: set[int]) -> np.ndarray:
    """The boxes `(N,5)` of one of Ultralytics' text files: x, y, w, h px, confidence; no file: no boxes.

    A line is class, centre x and y, width, height as shares of the photo's sides, confidence.
    """
    if not file.exists():
        return np.zeros((0, 5))
    lines = [[float(part) for part in line.split()] for line in file.read_text("utf-8").splitlines()]
    rows = np.array([line[1:] for line in lines if int(line[0]) in kept and line[-1] >= CONFIDENT]).reshape(-1, 5)
    sides = np.array([width, height], float)
    size = rows[:, 2:4] * sides
    return np.hstack([rows[:, :2] * sides - size / 2, size, rows[:, 4:]])
