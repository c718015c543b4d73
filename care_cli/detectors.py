"""Detection models behind one call: upright RGB photos in, boxes in pixels of each photo out.

Preprocessing, suppression and the way back to the photo's pixels give what Ultralytics' own functions give, so
the boxes equal `YOLO(weights).predict` on the same pixels; they are plain NumPy, and import no torch.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, replace
from operator import attrgetter
from pathlib import Path
from typing import Any

import numpy as np

from care_cli import checkpoints, engines, geometry, registry
from care_cli.errors import CareError
from care_cli.records import CATEGORIES, Detection, ModelSpec
from care_cli.thresholds import ONE_BEING, SAME_CATEGORY, SHOWN, STORED
from care_cli.weights import digest
from care_cli.yolo import MOST, load_network

SUPPRESSION = 0.7  # IoU from which boxes of a class are one, as Ultralytics' predict has it
IMAGE_SIZE = 640  # px, where neither the model nor the user says
GREY = (114, 114, 114)  # around photos that do not fill the network's input
APART = np.float32(7680)  # px between the classes, so that boxes of two never overlap


@dataclass(frozen=True)
class Prepared:
    """A photo made ready for the network: `pixels (h,w,3) uint8 RGB`, and what leads back from there.

    shape  (height, width) px that were letterboxed
    scale  the photo's own pixels to one of those
    """

    pixels: np.ndarray
    shape: tuple[int, int]
    scale: int = 1


class Detector:
    """A detection model ready for use, from any thread; made by `load_detector`.

    `spec` has the classes and the shown threshold that were found for it; `settings` are those that
    change results; `workers` is how many calls it likes at a time, and `batch` how many photos in each.
    Boxes come from confidence `least` upward.
    """

    def __init__(
        self, spec: ModelSpec, engine: engines.Engine, about: dict[str, Any], image_size: int, least: float = STORED
    ):
        self.stride: int = about["stride"]
        self.names: dict[int, str] = {int(i): name for i, name in about["names"].items()}
        self.end2end: bool = about["end2end"]
        self.image_size = math.ceil(image_size / self.stride) * self.stride
        self.spec = spec
        self.settings = {
            "image_size": self.image_size,
            "confidence": least,
            "suppression": SUPPRESSION,
            "most": MOST,
            "classes": spec.classes,
        }
        import cv2

        cv2.setNumThreads(1)  # photos are letterboxed by many threads at a time
        engine.plan(self.image_size, self.image_size)
        self.engine, self.device, self.precision = engine.name, engine.device, engine.precision
        self.workers, self.batch = engine.workers, engine.batch
        self._engine, self._least = engine, least

    def prepare(self, pixels: np.ndarray, scale: int = 1) -> Prepared:
        """Letterbox one photo `(h,w,3) uint8 RGB`: all that must happen before the network.

        A photo may have been decoded at 1/`scale` of its size; its boxes come back in its own pixels.
        """
        if pixels.ndim != 3 or pixels.shape[2] != 3 or pixels.dtype != np.uint8:
            raise CareError(f"expected pixels (H,W,3) uint8, got {pixels.shape} {pixels.dtype}")
        return Prepared(letterbox(pixels, self.image_size, self.stride), pixels.shape[:2], scale)

    def detect(self, images: Sequence[np.ndarray]) -> list[list[Detection]]:
        """Boxes of each photo `(H,W,3) uint8 RGB`, in its own pixels, most confident first.

        Before any merging; classes that mean nothing here have no category.
        """
        return self.detect_prepared([self.prepare(image) for image in images])

    def detect_prepared(self, photos: Sequence[Prepared]) -> list[list[Detection]]:
        """As `detect`, for photos that are letterboxed already; equal shapes share a batch."""
        found: list[list[Detection]] = [[] for _ in photos]
        shapes: dict[tuple[int, ...], list[int]] = {}
        for i, photo in enumerate(photos):
            shapes.setdefault(photo.pixels.shape, []).append(i)
        for members in shapes.values():
            answers = self._engine(np.stack([photos[i].pixels for i in members]))
            for i, rows in zip(members, answers, strict=True):
                rows = rows[rows[:, 4] > self._least]
                kept = rows[:MOST] if self.end2end else suppress(rows)
                found[i] = [self._detection(row) for row in to_photo(kept, photos[i]).tolist()]
        return found

    def _detection(self, row: list[float]) -> Detection:
        x1, y1, x2, y2, confidence, label = row
        name = self.names[int(label)]
        meaning = self.spec.classes.get(name, {})
        return Detection(
            box=(x1, y1, x2 - x1, y2 - y1),
            confidence=confidence,
            label=name,
            category=meaning.get("category"),
            species=meaning.get("species"),
        )


def letterbox(pixels: np.ndarray, size: int, stride: int) -> np.ndarray:
    """A photo `(h,w,3) uint8` resized so that it fits `size` px a side, with grey up to multiples of `stride`."""
    import cv2

    height, width = pixels.shape[:2]
    new = _resized(pixels.shape[:2], (size, size))[::-1]
    if (width, height) != new:
        pixels = cv2.resize(pixels, new, interpolation=cv2.INTER_LINEAR)
    right, bottom = ((size - side) % stride / 2 for side in new)
    edges = (round(bottom - 0.1), round(bottom + 0.1), round(right - 0.1), round(right + 0.1))
    return cv2.copyMakeBorder(pixels, *edges, cv2.BORDER_CONSTANT, value=GREY)


def _resized(shape: tuple[int, int], into: tuple[int, int]) -> tuple[int, int]:
    """(height, width) px of a photo that was fitted into a frame, its proportions kept."""
    ratio = min(into[0] / shape[0], into[1] / shape[1])
    return max(round(shape[0] * ratio), 1), max(round(shape[1] * ratio), 1)


def suppress(rows: np.ndarray) -> np.ndarray:
    """What remains of boxes `(N,6) float32` (x1, y1, x2, y2, confidence, class), most confident first, 300 at most.

    Greedy within each class: a box goes when its IoU with a better one that stays is above 0.7.
    """
    rows = rows[np.argsort(-rows[:, 4], kind="stable")]
    corners = rows[:, :4] + rows[:, 5:] * APART
    low, high = corners[:, :2], corners[:, 2:]
    areas = (high - low).prod(1)
    left, kept = np.arange(len(rows)), []
    while len(left) and len(kept) < MOST:
        best, left = left[0], left[1:]
        kept.append(best)
        inside = np.minimum(high[left], high[best]) - np.maximum(low[left], low[best])
        shared = inside.clip(0).prod(1)
        with np.errstate(invalid="ignore", divide="ignore"):  # boxes without area overlap nothing
            overlap = shared / (areas[left] + areas[best] - shared)
        left = left[~(overlap.astype(float) > SUPPRESSION)]
    return rows[kept]


def to_photo(rows: np.ndarray, photo: Prepared) -> np.ndarray:
    """Boxes `(N,6) float32` from the network's input to the photo's own pixels, clipped to it: `(N,6) float64`."""
    frame = photo.pixels.shape[:2]
    new = _resized(photo.shape, frame)
    offset = [round((frame[i] - new[i]) / 2 - 0.1) for i in (1, 0)]
    gain = [new[i] / photo.shape[i] for i in (1, 0)]
    rows = rows.copy()
    rows[:, :4] = (rows[:, :4] - np.float32(offset * 2)) / np.float32(gain * 2)
    rows[:, :4] = rows[:, :4].clip(0, np.float32([*photo.shape[::-1], *photo.shape[::-1]]))
    rows = rows.astype(float)
    rows[:, :4] *= photo.scale
    return rows


def settle(
    detections: Sequence[Detection], kind: Callable[[Detection], Hashable] = attrgetter("category")
) -> list[Detection]:
    """What is kept of a photo's detections, most confident first.

    1. Classes without a category are dropped.
    2. Of one `kind` (else category), boxes with IoU > 0.7 become one: the most confident.
    3. An animal and a person with IoU ≥ 0.5 are one person, as confident as the surer of the two: a
       person must never end as an animal, nor vanish below the shown threshold.
    """
    kept: list[Detection] = []
    known = [d for d in detections if d.category in CATEGORIES]
    for one in dict.fromkeys(map(kind, known)):
        same = [d for d in known if kind(d) == one]
        best = geometry.keep_best([d.box for d in same], [d.confidence for d in same], SAME_CATEGORY)
        kept += [same[i] for i in best]
    animals = [d for d in kept if d.category == "animal"]
    people = [d for d in kept if d.category == "person"]
    overlaps = geometry.iou([d.box for d in animals], [d.box for d in people]) >= ONE_BEING
    sure = [
        replace(person, confidence=max([person.confidence, *(animals[i].confidence for i in same)]))
        for person, same in zip(people, (np.flatnonzero(column) for column in overlaps.T), strict=True)
    ]
    alone = [animal for animal, row in zip(animals, overlaps, strict=True) if not row.any()]
    others = [d for d in kept if d.category == "vehicle"]
    return sorted(alone + sure + others, key=lambda d: -d.confidence)


def load_detector(
    spec: ModelSpec,
    weights: Path,
    device: str = "cpu",
    *,
    image_size: int | None = None,
    engine: str = "auto",
    precision: str = "auto",
    notice: engines.Notice | None = None,
    least: float = STORED,
) -> Detector:
    """The detection model of `weights`: an Ultralytics `.pt` or a `.safetensors` of ours.

    `device` is torch's name; `image_size` in px, else the model's own, else 640; `engine` and `precision` as
    `engines.choose` takes them; `notice` is told what takes long or is not as asked; `least` is the confidence from
    which boxes are answered. Raises CareError for weights that are no detector and for files that hold anything but
    Ultralytics' own classes.
    """
    weights = Path(weights)
    if not weights.is_file():
        raise CareError(f"there is no weights file {weights}")
    header = None
    if weights.suffix.lower() == ".safetensors":
        header = _header(weights)
        spec = _described(spec, header)
    running, about = engines.load(
        {"task": "detector", "weights": digest(weights), "ours": header is not None},
        lambda: load_network(weights, header),
        device,
        name=spec.name,
        engine=engine,
        precision=precision,
        notice=notice,
    )
    names = about["names"].values()
    classes = spec.classes or registry.classes_for(names)
    if not set(classes) & set(names):
        raise CareError(f"{weights.name} knows none of the classes that {spec.name} is described with")
    if spec.shown is None:
        known = next((s.shown for s in registry.entries().values() if s.classes == classes and s.shown), None)
        spec = replace(spec, shown=known or SHOWN)
    size = image_size or spec.input_size or IMAGE_SIZE
    return Detector(replace(spec, classes=classes), running, about, size, least)


def _header(weights: Path) -> dict[str, Any]:
    header = checkpoints.read_header(weights)
    names = header.get("names")
    if header.get("task") != "detector" or not isinstance(names, list) or not names:
        raise CareError(f"{weights.name} is not a detector; its header says {header.get('task', 'nothing')}")
    return header


def _described(spec: ModelSpec, header: dict[str, Any]) -> ModelSpec:
    """The description, with what a checkpoint of ours says where nothing else does."""
    given = {key: header[key] for key in ("input_size", "shown") if header.get(key) is not None}
    unset = {key: value for key, value in given.items() if getattr(spec, key) is None}
    if not spec.classes and isinstance(header.get("classes"), dict):
        unset["classes"] = header["classes"]
    return replace(spec, **unset)
