"""Detectors: Ultralytics' own trainer, driven without network and without a pickle."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from care_cli.errors import CareError
from care_cli.training.precision import has_bf16
from care_cli.yolo import prepare_ultralytics

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class DetectorConfig:
    """Everything that changes the result, the data apart."""

    architecture: str = "yolo11n"  # a model file of Ultralytics, without its ending
    input_size: int = 320  # px, a multiple of 32
    epochs: int = 30
    batch: int = 16
    learning_rate: float = 2e-3  # AdamW, at its highest
    warmup_epochs: float = 2.0
    close_mosaic: int = 8  # last epochs on whole photos
    precision: str = "auto"  # auto: bfloat16 where the processor has it | bfloat16 | float32
    seed: int = 0


@dataclass(frozen=True)
class TrainedDetector:
    """`model`: averaged weights, float32, eval mode, CPU; `metrics`: on the validation photos."""

    model: nn.Module
    metrics: dict[str, float]


def train_detector(
    folder: Path,
    names: list[str],
    cfg: DetectorConfig,
    report: Callable[[int, dict[str, float]], None] | None = None,
) -> TrainedDetector:
    """Train a detector from scratch on `folder/images/{train,val}` and `folder/labels/{train,val}`.

    Labels are Ultralytics' text files: class, centre x, centre y, width, height, in 0..1 of the photo.
    What the trainer writes goes to `folder/run`. `report` gets the number of finished epochs and the metrics.

    Raises CareError when photos are missing.
    """
    folder = Path(folder).resolve()
    for part in ("train", "val"):
        if not any((folder / "images" / part).glob("*")):
            raise CareError(f"Training needs photos in {folder / 'images' / part}, but found none there.")
    prepare_ultralytics()
    _place_fonts()
    import torch

    data = folder / "data.yaml"
    lines = [f"path: {folder.as_posix()}", "train: images/train", "val: images/val", "names:"]
    lines += [f"  {i}: {name}" for i, name in enumerate(names)]
    data.write_text("\n".join(lines) + "\n", encoding="utf-8")

    bf16 = cfg.precision == "bfloat16" or (cfg.precision == "auto" and has_bf16())
    threads = torch.get_num_threads()
    trainer = _trainer_class(bf16)(overrides=_overrides(cfg, data, folder / "run"))
    torch.set_num_threads(threads)  # Ultralytics leaves a core free
    if report:
        trainer.add_callback("on_fit_epoch_end", lambda t: report(t.epoch + 1, _metrics(t.metrics)))
    trainer.train()
    return TrainedDetector(trainer.ema.ema.float().cpu().eval(), _metrics(trainer.metrics))


def _place_fonts() -> None:
    """Ultralytics' data check wants two fonts, by name, and would fetch them; Pillow's own stands in."""
    import ultralytics.utils
    from PIL import ImageFont

    for name in ("Arial.ttf", "Arial.Unicode.ttf"):
        target = Path(ultralytics.utils.USER_CONFIG_DIR) / name
        if not target.exists():
            target.write_bytes(ImageFont.load_default(16).path.getvalue())


def _overrides(cfg: DetectorConfig, data: Path, run: Path) -> dict[str, object]:
    """Ultralytics' settings for a run that fetches nothing and draws nothing."""
    return {
        "model": f"{cfg.architecture}.yaml",
        "data": str(data),
        "project": str(run.parent),
        "name": run.name,
        "exist_ok": True,
        "pretrained": False,
        "device": "cpu",
        "epochs": cfg.epochs,
        "imgsz": cfg.input_size,
        "batch": cfg.batch,
        "nbs": cfg.batch,  # one optimizer step a batch
        "optimizer": "AdamW",
        "lr0": cfg.learning_rate,
        "lrf": 0.01,
        "cos_lr": True,
        "warmup_epochs": cfg.warmup_epochs,
        "warmup_bias_lr": 0.0,
        "close_mosaic": cfg.close_mosaic,
        "seed": cfg.seed,
        "deterministic": True,
        "amp": False,  # its mixed precision is for CUDA, and checks itself against a fetched model
        "cache": "ram",
        "plots": False,
        "verbose": False,
        "save": False,
        "patience": 0,
    }


def _metrics(metrics: dict[str, float]) -> dict[str, float]:
    """Precision, recall, mAP50 and mAP50-95 under plain names."""
    names = {
        "precision(B)": "precision",
        "recall(B)": "recall",
        "mAP50(B)": "mAP50",
        "mAP50-95(B)": "mAP50_95",
    }
    found = {names.get(key.removeprefix("metrics/")): value for key, value in metrics.items()}
    return {key: round(float(np.asarray(value)), 4) for key, value in found.items() if key}


def _trainer_class(bf16: bool) -> type:
    """Ultralytics' detection trainer, which hands over its averaged model instead of a checkpoint file."""
    import torch
    from ultralytics.models.yolo.detect import DetectionTrainer
    from ultralytics.nn.tasks import DetectionModel

    class Model(DetectionModel):
        def predict(self, x, *args, **kwargs):
            """Forward; in training on the CPU's bfloat16, answered in float32."""
            with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16 and self.training):
                return _in_float32(super().predict(x, *args, **kwargs))

    class Trainer(DetectionTrainer):
        def get_model(self, cfg=None, weights=None, verbose=True) -> Model:
            """The graph with fresh weights, laid out as the CPU's convolutions like it."""
            model = Model(cfg, nc=self.data["nc"], ch=self.data["channels"], verbose=False)
            return model.to(memory_format=torch.channels_last)

        def save_model(self) -> bool:
            """Write no checkpoint: it would be a pickle."""
            return False

        def final_eval(self) -> None:
            """The last epoch's validation, of the averaged model, stands."""

    return Trainer


def _in_float32(output):
    """Tensors of a nested output as float32."""
    if isinstance(output, dict):
        return {key: _in_float32(value) for key, value in output.items()}
    if isinstance(output, list | tuple):
        return type(output)(_in_float32(value) for value in output)
    return output.float()
