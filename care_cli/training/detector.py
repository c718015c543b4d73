"""Detectors: Ultralytics' own trainer, driven without network and without a pickle.

The training itself is in `detector_trainer`; here is what it is asked and what it gives. Killed anywhere, it goes on
from the last epoch: weights, averages and the optimizer's memory lie in safetensors, and all that is random is drawn
from the seed, the epoch and the photo.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from care_cli.errors import CareError
from care_cli.training import precision
from care_cli.training.config import check_ranges
from care_cli.training.labelled_photos import LabelledFolder
from care_cli.yolo import build_graph, prepare_ultralytics

if TYPE_CHECKING:
    from torch import nn

LAST, BEST, HISTORY = "last.safetensors", "best.safetensors", "history.jsonl"
RATES = {"auto": None, "AdamW": 1e-3, "SGD": 1e-2, "MuSGD": 1e-2}  # optimizers, and what they begin with
STRIDE = 32  # px
NAMED = 5  # in a sentence
RANGES = {
    "epochs batch nominal_batch": ("at least 1", lambda value: value >= 1),
    "seed patience warmup_epochs warmup_bias_rate close_mosaic weight_decay": ("at least 0", lambda value: value >= 0),
    "learning_rate": ("above 0", lambda value: value > 0),
    "least_rate momentum mosaic mixup hue saturation brightness translate scale flip shown": (
        "from 0 to 1",
        lambda value: 0 <= value <= 1,
    ),
    "degrees": ("from 0 to 180", lambda value: 0 <= value <= 180),
    "input_size": ("a multiple of 32 from 64 to 4096", lambda value: 64 <= value <= 4096 and value % STRIDE == 0),
}  # of settings by name: in words, and as a test


@dataclass(frozen=True)
class DetectorConfig:
    """Everything that changes the result, the data apart. Defaults are Ultralytics', and 50 epochs with patience 15.

    Raises CareError for a value out of its range.
    """

    architecture: str = "yolo11n"  # a model file of Ultralytics, without its ending
    input_size: int = 640  # px, a multiple of 32
    epochs: int = 50
    patience: int = 15  # epochs without a better one, after which it ends; 0: never
    batch: int = 16  # photos in a forward pass
    seed: int = 0

    # steps
    nominal_batch: int | None = 64  # photos a step of the optimizer, from several passes; None: a step a pass
    optimizer: str = "auto"  # auto: AdamW, or MuSGD above 10,000 steps | AdamW | SGD | MuSGD
    learning_rate: float | None = None  # at its highest; None: the optimizer's usual one. auto has its own
    least_rate: float = 0.01  # at the end, as a share of the highest
    cosine: bool = False  # falls along a cosine instead of a line
    momentum: float = 0.937
    weight_decay: float = 5e-4
    warmup_epochs: float = 3.0
    warmup_bias_rate: float = 0.0  # that of biases in the beginning

    # what photos are changed by
    mosaic: float = 1.0  # chance of four photos in one
    close_mosaic: int = 10  # last epochs on whole photos
    mixup: float = 0.0  # chance of two photos on each other
    hue: float = 0.015
    saturation: float = 0.7
    brightness: float = 0.4
    degrees: float = 0.0
    translate: float = 0.1  # share of a side
    scale: float = 0.5
    flip: float = 0.5  # chance of mirroring

    precision: str = "auto"  # auto: bfloat16 where the processor or card has it | bfloat16 | float32
    shown: float = 0.25  # confidence from which the model's boxes are shown

    def __post_init__(self) -> None:
        check_ranges(self, RANGES)
        if self.precision not in ("auto", "float32", "bfloat16"):
            raise CareError(f"The precision of a detector is auto, float32 or bfloat16, got {self.precision!r}.")
        if self.optimizer not in RATES:
            raise CareError(f"The optimizer is {', '.join(RATES)}, got {self.optimizer!r}.")
        if self.optimizer == "auto" and self.learning_rate is not None:
            raise CareError(
                "The optimizer 'auto' sets its own learning rate: name one with it, as in --set optimizer=AdamW."
            )


@dataclass(frozen=True, eq=False)
class TrainedDetector:
    """What a training gives.

    model         averaged weights of the best epoch on the validation photos; float32, eval mode, on the CPU
    metrics       precision, recall (where their F1 is largest), mAP50, mAP50_95 of that epoch, by Ultralytics
    epoch         which one it is, from 1
    history       rows of history.jsonl, an epoch each
    resumed_from  the epoch after which it went on, None when it began
    """

    model: nn.Module
    metrics: dict[str, float]
    epoch: int
    history: list[dict[str, Any]]
    resumed_from: int | None


def train_detector(
    data: LabelledFolder,
    cfg: DetectorConfig,
    out: Path,
    *,
    start: nn.Module | None = None,
    device: str = "cpu",
    workers: int = 8,
    report: Callable[[int, dict[str, float]], None] | None = None,
) -> TrainedDetector:
    """Train a detector on the part `train` of `data`; the part `val` chooses the best epoch.

    out      gets history.jsonl, last.safetensors (all that is needed to go on) and best.safetensors. A training that
             stands there is gone on with
    start    weights to begin from; None: from scratch
    device   cpu | cuda | cuda:N
    workers  processes that make photos ready for a CUDA card; the result does not depend on them
    report   gets the number of finished epochs and the metrics of the last

    Raises CareError for data that cannot be learned from, for weights that do not fit, when memory or the disk is full,
    when the loss stops being a number, and when `out` holds another training.
    """
    check_learnable(data)
    prepare_ultralytics()
    _place_fonts()
    import torch

    from care_cli.training import detector_trainer as ultralytics
    from care_cli.training import state

    if start is not None:
        check_fits(start, cfg.architecture)
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    numbers = precision.resolve(cfg.precision, torch.device(device))
    identity = _identity(cfg, data, start, numbers)
    best, last = (state.read(out / name, identity) for name in (BEST, LAST))
    plan = ultralytics.Plan(data, cfg, out, identity, numbers, start, best and best[1]["best"], last, report)
    if last is None or not last[1]["finished"]:
        threads = torch.get_num_threads()
        with tempfile.TemporaryDirectory(prefix="care-") as leavings:
            trainer = ultralytics.Training(plan, _overrides(plan, device, workers, Path(leavings)))
            torch.set_num_threads(threads)  # Ultralytics leaves a core free
            trainer.learn()
        best = state.read(out / BEST, identity)
    model = build_graph(cfg.architecture, data.names).float().eval()
    model.load_state_dict(best[0])
    about, history = best[1]["best"], plan.history()
    history.close()
    return TrainedDetector(model, about["metrics"], about["epoch"], history.rows, last and last[1]["epoch"])


def check_learnable(data: LabelledFolder) -> None:
    """CareError when there is nothing to learn from or to choose the best epoch by."""
    for part in ("train", "val"):
        left_out = sum(fault["file"].startswith((f"{part}/", f"labels/{part}/")) for fault in data.faults)
        if not data.photos(part):
            why = f"; {left_out} were left out, such as {_first(data, part)}" if left_out else ""
            raise CareError(f"Training needs photos in {data.folder / 'images' / part}, but found none there{why}.")
        if not data.counts(part).any():
            raise CareError(f"No photo in {data.folder / 'images' / part} has a labelled animal: nothing can be told.")


def _first(data: LabelledFolder, part: str) -> str:
    fault = next(fault for fault in data.faults if fault["file"].startswith((f"{part}/", f"labels/{part}/")))
    return f"{fault['file']}: {fault['why']}"


def without_examples(data: LabelledFolder, part: str) -> list[str]:
    """Classes of which a part shows nothing."""
    return [name for name, count in zip(data.names, data.counts(part), strict=True) if not count]


def check_fits(start: nn.Module, architecture: str) -> None:
    """CareError when a network, the classes of its last layer apart, is not of this architecture."""
    ours = build_graph(architecture, ["animal"])
    head = f"model.{len(ours.model) - 1}."
    theirs = start.state_dict()
    for name, tensor in ours.state_dict().items():
        if not name.startswith(head) and (name not in theirs or theirs[name].shape != tensor.shape):
            raise CareError(
                f"The weights to begin from are not those of {architecture}: {name} differs. Name their own "
                "architecture with --backbone."
            )


def _identity(cfg: DetectorConfig, data: LabelledFolder, start: nn.Module | None, numbers: str) -> dict[str, Any]:
    """What has to be the same for a training to go on."""
    from care_cli.training.state import digest

    weights = None
    if start is not None:
        tensors = start.state_dict()
        weights = digest(tensors[name].float().numpy() for name in sorted(tensors))
    return {
        "settings": asdict(cfg) | {"precision": numbers},
        "classes": list(data.names),
        "data": data.digest("train"),
        "validation": data.digest("val"),
        "weights": weights,
    }


def _place_fonts() -> None:
    """Ultralytics wants two fonts, by name, and would fetch them; Pillow's own stands in."""
    import ultralytics.utils
    from PIL import ImageFont

    for name in ("Arial.ttf", "Arial.Unicode.ttf"):
        target = Path(ultralytics.utils.USER_CONFIG_DIR) / name
        if not target.exists():
            target.write_bytes(ImageFont.load_default(16).path.getvalue())


def _overrides(plan: Any, device: str, workers: int, leavings: Path) -> dict[str, object]:
    """Ultralytics' settings for a run that fetches nothing and draws nothing."""
    cfg: DetectorConfig = plan.cfg
    return {
        "model": f"{cfg.architecture}.yaml",
        "save_dir": str(leavings),
        "exist_ok": True,
        "pretrained": False,
        "device": device,
        "workers": workers,
        "epochs": cfg.epochs,
        "patience": cfg.patience,
        "imgsz": cfg.input_size,
        "batch": cfg.batch,
        "nbs": cfg.batch,  # steps of several passes are counted by us, so that they end with the epoch
        "optimizer": cfg.optimizer,
        "lr0": cfg.learning_rate or RATES[cfg.optimizer] or 0.01,
        "lrf": cfg.least_rate,
        "cos_lr": cfg.cosine,
        "momentum": cfg.momentum,
        "weight_decay": cfg.weight_decay,
        "warmup_epochs": cfg.warmup_epochs,
        "warmup_bias_lr": cfg.warmup_bias_rate,
        "mosaic": cfg.mosaic,
        "close_mosaic": cfg.close_mosaic,
        "mixup": cfg.mixup,
        "hsv_h": cfg.hue,
        "hsv_s": cfg.saturation,
        "hsv_v": cfg.brightness,
        "degrees": cfg.degrees,
        "translate": cfg.translate,
        "scale": cfg.scale,
        "fliplr": cfg.flip,
        "seed": cfg.seed,
        "deterministic": True,
        # its float16 checks itself against a fetched model; on the CPU our network does it
        "amp": "bf16" if plan.numbers == "bfloat16" and device != "cpu" else False,
        "plots": False,
        "verbose": False,
    }
