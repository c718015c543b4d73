"""Ultralytics detection models behind one call: upright RGB photos in, boxes in pixels of each photo out.

Preprocessing, suppression and the way back to the photo's pixels are Ultralytics' own functions, so the
boxes equal `YOLO(weights).predict` on the same pixels. Loading is ours: no pickle is executed.
"""

from __future__ import annotations

import math
import os
import re
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from care_cli import checkpoints, geometry, registry
from care_cli.errors import CareError
from care_cli.records import CATEGORIES, Detection, ModelSpec
from care_cli.thresholds import ONE_BEING, SHOWN, STORED

if TYPE_CHECKING:
    import torch

SUPPRESSION = 0.7  # IoU of Ultralytics' own non-maximum suppression, within a class
MOST = 300  # boxes a photo
SAME_CATEGORY = 0.7  # IoU above which boxes of one category are one
IMAGE_SIZE = 640  # px, where neither the model nor the user says


@dataclass(frozen=True)
class Prepared:
    """A photo made ready for the network: `pixels (h,w,3) uint8 RGB`, and its own `(height, width)`."""

    pixels: np.ndarray
    shape: tuple[int, int]


class Detector:
    """A detection model ready for use; made by `load_detector`.

    `spec` has the classes and the shown threshold that were found for it; `settings` are those that
    change results.
    """

    def __init__(self, spec: ModelSpec, model: torch.nn.Module, device: str, image_size: int):
        self.stride = max(int(model.stride.max()), 32)
        self.names: dict[int, str] = {int(i): str(name) for i, name in dict(model.names).items()}
        self.end2end = bool(getattr(model, "end2end", False))
        self.image_size = math.ceil(image_size / self.stride) * self.stride
        self.device = device
        self.spec = spec
        self.settings = {
            "image_size": self.image_size,
            "confidence": STORED,
            "suppression": SUPPRESSION,
            "most": MOST,
            "classes": spec.classes,
        }
        self._model = model

    def prepare(self, image: np.ndarray) -> Prepared:
        """Letterbox one photo `(H,W,3) uint8 RGB`: all that must happen before the network."""
        from ultralytics.data.augment import LetterBox

        if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
            raise CareError(f"expected pixels (H,W,3) uint8, got {image.shape} {image.dtype}")
        box = LetterBox((self.image_size, self.image_size), auto=True, stride=self.stride)
        return Prepared(np.ascontiguousarray(box(image=image)), image.shape[:2])

    def detect(self, images: Sequence[np.ndarray]) -> list[list[Detection]]:
        """Boxes of each photo `(H,W,3) uint8 RGB`, in its own pixels, most confident first.

        From confidence 0.05, before any merging; classes that mean nothing here have no category.
        """
        return self.detect_prepared([self.prepare(image) for image in images])

    def detect_prepared(self, photos: Sequence[Prepared]) -> list[list[Detection]]:
        """As `detect`, for photos that are letterboxed already; equal shapes share a batch."""
        found: list[list[Detection]] = [[] for _ in photos]
        shapes: dict[tuple[int, ...], list[int]] = {}
        for i, photo in enumerate(photos):
            shapes.setdefault(photo.pixels.shape, []).append(i)
        for members in shapes.values():
            for i, rows in zip(members, self._boxes([photos[i] for i in members]), strict=True):
                found[i] = [self._detection(row) for row in rows]
        return found

    def _boxes(self, photos: list[Prepared]) -> list[np.ndarray]:
        """`(N,6)` for each photo: x1, y1, x2, y2 in the photo's pixels, confidence, class."""
        import torch
        import torchvision  # noqa: F401 - Ultralytics suppresses with it once it is there
        from ultralytics.utils.nms import non_max_suppression
        from ultralytics.utils.ops import scale_boxes

        with torch.inference_mode():
            batch = torch.from_numpy(np.stack([photo.pixels for photo in photos])).to(self.device)
            batch = batch.permute(0, 3, 1, 2).contiguous().float().div_(255)
            output = self._model(batch)
            while isinstance(output, (tuple, list)):
                output = output[0]
            kept = non_max_suppression(
                output,
                STORED,
                SUPPRESSION,
                max_det=MOST,
                nc=len(self.names),
                end2end=self.end2end,
                max_time_img=math.inf,  # a slow machine must not lose boxes
            )
            rows = []
            for boxes, photo in zip(kept, photos, strict=True):
                boxes[:, :4] = scale_boxes(batch.shape[2:], boxes[:, :4], photo.shape)
                rows.append(boxes[:, :6].cpu().numpy().astype(float))
        return rows

    def _detection(self, row: np.ndarray) -> Detection:
        x1, y1, x2, y2, confidence, label = row.tolist()
        name = self.names[int(label)]
        meaning = self.spec.classes.get(name, {})
        return Detection(
            box=(x1, y1, x2 - x1, y2 - y1),
            confidence=confidence,
            label=name,
            category=meaning.get("category"),
            species=meaning.get("species"),
        )


def settle(detections: Sequence[Detection]) -> list[Detection]:
    """What is kept of a photo's detections, most confident first.

    1. Classes without a category are dropped.
    2. Within a category, boxes with IoU > 0.7 become one: the most confident.
    3. An animal and a person with IoU ≥ 0.5 are one person, as confident as the surer of the two: a
       person must never end as an animal, nor vanish below the shown threshold.
    """
    kept: list[Detection] = []
    for category in CATEGORIES:
        same = [d for d in detections if d.category == category]
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
) -> Detector:
    """The detection model of `weights`: an Ultralytics `.pt` or a `.safetensors` of ours.

    `device` is torch's name; `image_size` in px, else the model's own, else 640. Raises CareError for
    weights that are no detector and for files that hold anything but Ultralytics' own classes.
    """
    weights = Path(weights)
    if not weights.is_file():
        raise CareError(f"there is no weights file {weights}")
    if weights.suffix.lower() == ".safetensors":
        model, spec = _load_ours(spec, weights)
    else:
        prepare_ultralytics()
        model = checkpoints.load_ultralytics(weights)
    task = getattr(model, "task", None) or _task(model)
    if task not in ("detect", "segment"):
        raise CareError(
            f"{weights.name} is a model for '{task}', not a detector; expected detection or segmentation weights"
        )
    names = [str(name) for name in dict(model.names).values()]
    classes = spec.classes or registry.classes_for(names)
    if not set(classes) & set(names):
        raise CareError(f"{weights.name} knows none of the classes that {spec.name} is described with")
    if spec.shown is None:
        known = next((s.shown for s in registry.entries().values() if s.classes == classes and s.shown), None)
        spec = replace(spec, shown=known or SHOWN)
    spec = replace(spec, classes=classes)
    return Detector(spec, _ready(model, device), device, image_size or spec.input_size or IMAGE_SIZE)


def prepare_ultralytics() -> None:
    """Set Ultralytics up to keep off the network and out of the home folder; call before importing it."""
    if "YOLO_CONFIG_DIR" not in os.environ:
        os.environ["YOLO_CONFIG_DIR"] = str(_settings_folder())
    os.environ.setdefault("YOLO_VERBOSE", "false")  # it would speak on stdout
    os.environ["YOLO_OFFLINE"] = "1"
    os.environ["YOLO_AUTOINSTALL"] = "false"
    os.environ["ULTRALYTICS_SAFE_LOAD"] = "1"
    checkpoints.prepare_torch()
    import torch  # noqa: F401 - Ultralytics imported first would leave torch with one thread
    from PIL import Image

    opener = Image.open
    import ultralytics  # noqa: F401

    Image.open = opener  # Ultralytics puts its own there, which wants a plug-in at every file that is no photo


def _settings_folder() -> Path:
    folder = registry.cache_folder() / "ultralytics"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        folder = Path(tempfile.gettempdir()) / "care-ultralytics"
        folder.mkdir(exist_ok=True)
    return folder


def build_graph(architecture: str, class_names: Sequence[str]) -> torch.nn.Module:
    """An untrained Ultralytics detection model, e.g. of `yolo11n`, for these classes.

    Raises CareError for a name that Ultralytics has no detection graph for.
    """
    if not re.fullmatch(r"yolo(v8|v9|v10|11|12|26)[a-z]", architecture):
        raise CareError(f"there is no detection architecture {architecture!r}; e.g. yolo11n")
    prepare_ultralytics()
    from ultralytics.nn.tasks import DetectionModel

    try:
        model = DetectionModel(f"{architecture}.yaml", nc=len(class_names), verbose=False)
    except (OSError, KeyError, ValueError) as error:
        raise CareError(f"Ultralytics has no detection architecture {architecture!r}") from error
    model.names = dict(enumerate(class_names))
    model.task = "detect"
    return model


def save_detector(model: torch.nn.Module, path: Path, header: dict[str, Any]) -> None:
    """Write an Ultralytics detection model as our checkpoint, without a pickle.

    `header` needs `architecture`, `names` (class names in order) and `input_size`; `classes` (name to
    category and species), `shown`, `licence` and anything else that a reader should know are kept.
    """
    if missing := {"architecture", "names", "input_size"} - set(header):
        raise CareError(f"a detector's header needs {', '.join(sorted(missing))}")
    checkpoints.save(path, model.state_dict(), {"task": "detector", **header})


def _load_ours(spec: ModelSpec, weights: Path) -> tuple[torch.nn.Module, ModelSpec]:
    header = checkpoints.read_header(weights)
    names = header.get("names")
    if header.get("task") != "detector" or not isinstance(names, list) or not names:
        raise CareError(f"{weights.name} is not a detector; its header says {header.get('task', 'nothing')}")
    model = build_graph(str(header.get("architecture")), [str(name) for name in names])
    try:
        model.load_state_dict(checkpoints.load_state(weights), strict=True)
    except RuntimeError as error:
        raise CareError(f"{weights.name} does not fit its own architecture {header['architecture']}") from error
    given = {key: header[key] for key in ("input_size", "shown") if header.get(key) is not None}
    unset = {key: value for key, value in given.items() if getattr(spec, key) is None}
    if not spec.classes and isinstance(header.get("classes"), dict):
        unset["classes"] = header["classes"]
    return model, replace(spec, **unset)


def _task(model: torch.nn.Module) -> str:
    tasks = {"Detect": "detect", "Segment": "segment", "Classify": "classify", "Pose": "pose", "OBB": "obb"}
    head = type(list(getattr(model, "model", [None]))[-1]).__name__
    return next((task for name, task in tasks.items() if head.startswith(name)), head)


def _ready(model: torch.nn.Module, device: str) -> torch.nn.Module:
    """Fused, in float32, in the memory layout that Ultralytics' predict uses on this device."""
    import torch

    model = model.float().eval().fuse(verbose=False).requires_grad_(False).to(device)
    if torch.device(device).type == "cpu" and torch.backends.mkldnn.is_available():
        model = model.to(memory_format=torch.channels_last)
    return model
