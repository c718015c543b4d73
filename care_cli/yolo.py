"""Ultralytics' detection graphs: built, read without a pickle, written as our own checkpoints, made ready to run."""

from __future__ import annotations

import functools
import os
import re
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from care_cli import checkpoints
from care_cli.engines import Network, images_of
from care_cli.errors import CareError
from care_cli.weights import cache_folder

if TYPE_CHECKING:
    import torch

MOST = 300  # boxes a photo
THREADS = ("OMP_NUM_THREADS", "NUMEXPR_MAX_THREADS")  # variables that say how many a library may use

# a converted network says the same as torch's
SAME_CONFIDENCE = 0.01  # by how much less a confidence differs
SURE = 0.05  # confidence from which each row counts
SUREST = 100  # anchors whose classes are compared
MOSTLY = 0.95  # the share that must be the same: of two that are alike, either may come first


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

    opener, threads = Image.open, {name: os.environ.get(name) for name in THREADS}
    import ultralytics  # noqa: F401

    Image.open = opener  # Ultralytics puts its own there, which wants a plug-in at every file that is no photo
    for name, value in threads.items():  # and one thread, for whatever is loaded or started from here
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value


def _settings_folder() -> Path:
    folder = cache_folder() / "ultralytics"
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


def load_network(weights: Path, header: dict[str, Any] | None) -> Network:
    """The graph of a weights file: photos in, boxes before any suppression out.

    `header` is that of a checkpoint of ours, None for an Ultralytics `.pt`. The module answers `(B,N,6) float32`:
    x1, y1, x2, y2 px of its input, confidence and number of the likeliest class. `about` has `names`, `stride` (px)
    and `end2end` (there is nothing to suppress).

    Raises CareError for weights that are no detector and for files that hold anything but Ultralytics' own classes.
    """
    model = _running(load_model(weights, header), weights)
    about = {
        "names": {str(int(i)): str(name) for i, name in dict(model.names).items()},
        "stride": max(int(model.stride.max()), 32),
        "end2end": bool(getattr(model, "end2end", False)),
    }
    return Network(
        _boxes(model, about["end2end"]),
        about,
        ((256, 320), (320, 192)),
        functools.partial(_agree, end2end=about["end2end"]),
    )


def load_model(weights: Path, header: dict[str, Any] | None) -> torch.nn.Module:
    """The network of a weights file as it was trained, float32 on the CPU; `header` as `load_network` takes it.

    Raises CareError as that does.
    """
    if header is None:
        prepare_ultralytics()
        model = checkpoints.load_ultralytics(weights)
    else:
        model = _load_ours(weights, header)
    task = getattr(model, "task", None) or _task(model)
    if task not in ("detect", "segment"):
        raise CareError(
            f"{weights.name} is a model for '{task}', not a detector; expected detection or segmentation weights"
        )
    return model


def _running(model: torch.nn.Module, weights: Path) -> torch.nn.Module:
    """The network fused, after it answered for one small picture. CareError when its layers do not fit together."""
    import torch

    try:
        model = model.float().eval().fuse(verbose=False).requires_grad_(False)
        with torch.no_grad():
            model(torch.zeros(1, 3, 64, 64))
    except Exception as error:  # layers raise whatever does not fit leads them to
        raise CareError(f"{weights.name} holds a network that does not run: {error}") from error
    if getattr(model.model[-1], "reg_max", 0) < 1:
        raise CareError(f"{weights.name} holds a network whose last layer finds no boxes")
    return model


def _load_ours(weights: Path, header: dict[str, Any]) -> torch.nn.Module:
    model = build_graph(str(header.get("architecture")), [str(name) for name in header["names"]])
    try:
        model.load_state_dict(checkpoints.load_state(weights), strict=True)
    except RuntimeError as error:
        raise CareError(f"{weights.name} does not fit its own architecture {header['architecture']}") from error
    return model


def _task(model: torch.nn.Module) -> str:
    tasks = {"Detect": "detect", "Segment": "segment", "Classify": "classify", "Pose": "pose", "OBB": "obb"}
    head = type(list(getattr(model, "model", [None]))[-1]).__name__
    return next((task for name, task in tasks.items() if head.startswith(name)), head)


def _boxes(model: torch.nn.Module, end2end: bool) -> torch.nn.Module:
    """The model from `(B,H,W,3) uint8` to `(B,N,6)`, at any size, with coordinates in float32 at any precision."""
    import torch

    head = model.model[-1]
    head.dynamic, head.export, head.format = True, True, "openvino"  # a graph that depends on no earlier input
    head._inference = functools.partial(_decode, head)
    head.postprocess = functools.partial(_pick, head)
    if head.reg_max > 1:
        head.dfl = _expected_distance(head.reg_max)

    class Boxes(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, pixels: torch.Tensor) -> torch.Tensor:
            output = self.model(images_of(pixels))
            while isinstance(output, tuple | list):
                output = output[0]
            if end2end:
                return output[..., :6]
            centre, half = output[:, :2], output[:, 2:4] / 2
            confidence, label = output[:, 4 : 4 + head.nc].max(1, keepdim=True)
            return torch.cat((centre - half, centre + half, confidence, label.float()), 1).permute(0, 2, 1)

    return Boxes()


def _expected_distance(bins: int) -> torch.nn.Module:
    """What Ultralytics' DFL computes, without its convolution, which engines would run in half precision."""
    import torch

    class ExpectedDistance(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("bins", torch.arange(bins, dtype=torch.float32)[None, None, :, None])

        def forward(self, logits: torch.Tensor) -> torch.Tensor:
            """`(B, 4 * bins, N)` to distances `(B, 4, N)` in cells of the grid."""
            return (logits.view(logits.shape[0], 4, bins, -1).softmax(2) * self.bins).sum(2)

    return ExpectedDistance()


def _decode(head: torch.nn.Module, raw: dict[str, Any]) -> torch.Tensor:
    """The head's own decoding, in float32: half precision knows a coordinate of 600 px to half a pixel only."""
    import torch

    with torch.autocast(raw["boxes"].device.type, enabled=False):
        exact = {k: [f.float() for f in v] if isinstance(v, list) else v.float() for k, v in raw.items()}
        return type(head)._inference(head, exact)


def _pick(head: torch.nn.Module, found: torch.Tensor) -> torch.Tensor:
    """The head's own choice of the best boxes, from as many more of confidence 0 as make it the same at any size."""
    import torch

    nothing = torch.zeros_like(found[:, :1]).expand(-1, MOST, -1)
    return type(head).postprocess(head, torch.cat((found, nothing), 1))


def _agree(expected: np.ndarray, answer: np.ndarray, end2end: bool) -> bool:
    """Same confidences, boxes and classes `(B,N,6)`, anchor by anchor.

    End-to-end models sort theirs, and which of two that are alike comes first means nothing: there each sure row
    must be among the answer's.
    """
    if end2end:
        difference = np.abs(expected[:, :, None] - answer[:, None])
        alike = (difference[..., 4] < SAME_CONFIDENCE) & (difference[..., 5] == 0) & (difference[..., :4].max(-1) < 1)
        return bool(alike.any(2)[expected[..., 4] > SURE].all() and alike.any(2).mean() > MOSTLY)
    difference = np.abs(expected - answer)
    surest = np.argsort(-expected[..., 4], 1)[:, :SUREST]
    return bool(
        difference[..., 4].max() < SAME_CONFIDENCE
        and np.quantile(difference[..., :4], 0.99) < 0.5
        and (np.take_along_axis(difference[..., 5], surest, 1) == 0).mean() > MOSTLY
    )
