"""Ultralytics' trainer over our photos: no pickle, no network, and the same result wherever it is killed.

Imported inside functions only, after `yolo.prepare_ultralytics`. What differs from Ultralytics:

- Photos and labels are those that were checked. It would keep them as a pickle beside the labels, and take a `.npy`
  beside a photo for the photo.
- Photos are read as `care detect` reads them: upright, at the smallest DCT scale that the network makes use of.
- What a photo is changed by is drawn from the seed, the epoch and the photo's number, and mosaics from all photos.
- A step of the optimizer never reaches over the end of an epoch.
- Each epoch is kept in safetensors; trackers that happen to be installed are not called.
"""

from __future__ import annotations

import math
import random
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm
from ultralytics.data.dataset import YOLODataset
from ultralytics.models.yolo.detect import DetectionTrainer
from ultralytics.nn.tasks import DetectionModel
from ultralytics.utils.torch_utils import unwrap_model

from care_cli.errors import CareError
from care_cli.images import read_photo
from care_cli.training import state
from care_cli.training.batches import seed_of
from care_cli.training.detector import BEST, HISTORY, LAST, DetectorConfig
from care_cli.training.history import History
from care_cli.training.labelled_photos import LabelledFolder, LabelledPhoto

KEPT = 1 << 30  # bytes of photos that stay decoded, where one process reads them
MEASURES = {
    "metrics/precision(B)": "precision",
    "metrics/recall(B)": "recall",
    "metrics/mAP50(B)": "mAP50",
    "metrics/mAP50-95(B)": "mAP50_95",
}


@dataclass(eq=False)
class Plan:
    """A training: what it learns from, how, and where it stands.

    numbers  the precision, resolved
    best     epoch and metrics of the best one so far
    last     tensors and header of the last checkpoint
    """

    data: LabelledFolder
    cfg: DetectorConfig
    out: Path
    identity: dict[str, Any]
    numbers: str
    start: nn.Module | None
    best: dict[str, Any] | None
    last: tuple[dict[str, Tensor], dict[str, Any]] | None
    report: Callable[[int, dict[str, float]], None] | None

    def history(self) -> History:
        """Rows of finished epochs, as they stand on the disk."""
        found = state.read(self.out / LAST, self.identity)
        return History(self.out / HISTORY, found[1]["history"] if found else 0)


class Network(DetectionModel):
    """Ultralytics' graph, which may be trained in the CPU's bfloat16."""

    bf16 = False

    def predict(self, x: Tensor, *args: Any, **kwargs: Any) -> Any:
        """Forward; in training on the CPU's bfloat16, answered in float32."""
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=self.bf16 and self.training):
            return _in_float32(super().predict(x, *args, **kwargs))


def _in_float32(output: Any) -> Any:
    """Tensors of a nested output as float32."""
    if isinstance(output, dict):
        return {key: _in_float32(value) for key, value in output.items()}
    if isinstance(output, list | tuple):
        return type(output)(_in_float32(value) for value in output)
    return output.float()


class Photos(YOLODataset):
    """Checked photos for Ultralytics' augmentations and batches."""

    def __init__(self, photos: Sequence[LabelledPhoto], seed: int, kept: int, **settings: Any):
        self.photos, self.seed, self.kept, self.epoch = photos, seed, kept, 0
        self.sizes = {str(photo.file): (photo.height, photo.width) for photo in photos}
        super().__init__(img_path="", cache="ram", task="detect", **settings)  # ram: mosaics are drawn from all photos

    def get_img_files(self, img_path: str) -> list[str]:
        """Paths of the photos."""
        return list(self.sizes)

    def get_labels(self) -> list[dict[str, Any]]:
        """What is on each photo, as Ultralytics' own reading gives it."""
        return [
            {
                "im_file": str(photo.file),
                "shape": (photo.height, photo.width),
                "cls": photo.classes[:, None].astype(np.float32),
                "bboxes": photo.boxes.astype(np.float32),
                "segments": [],
                "keypoints": None,
                "normalized": True,
                "bbox_format": "xywh",
            }
            for photo in self.photos
        ]

    def check_cache_ram(self, safety_margin: float = 1.0) -> bool:
        """Nothing is decoded ahead; the first `kept` photos stay once they were read."""
        return False

    def load_image(
        self, i: int, rect_mode: bool = True, resize_short: bool = False
    ) -> tuple[np.ndarray, tuple[int, int], tuple[int, int]]:
        """A photo `(h,w,3) uint8 BGR`, its longer side that of the input; (height, width) px of it whole, and now."""
        whole, image = self.sizes[self.im_files[i]], self.ims[i]
        if image is None:
            image = self._read(Path(self.im_files[i]), whole)
            if i < self.kept:
                self.ims[i] = image
        return image, whole, image.shape[:2]

    def _read(self, file: Path, whole: tuple[int, int]) -> np.ndarray:
        try:
            pixels = read_photo(file, 2 * self.imgsz).pixels
        except OSError:
            pixels = None
        if pixels is None:
            raise CareError(
                f"{file} can no longer be read. Put it back and give the same command again: it goes on from the last "
                "epoch."
            )
        ratio = self.imgsz / max(whole)
        height, width = (min(math.ceil(side * ratio), self.imgsz) for side in whole)
        return np.ascontiguousarray(cv2.resize(pixels, (width, height), interpolation=cv2.INTER_LINEAR)[..., ::-1])

    def __getitem__(self, index: int) -> dict[str, Any]:
        """A photo, changed as the seed, the epoch and its number say."""
        if self.augment:
            seed = seed_of(self.seed, self.epoch, index)
            random.seed(seed)
            np.random.seed(seed % (1 << 32))
        return super().__getitem__(index)


class Training(DetectionTrainer):
    """Ultralytics' loop. It hangs trackers on classes with 'Trainer' in their name."""

    def __init__(self, plan: Plan, overrides: dict[str, object]):
        self.plan, self.built, self.pending, self.batches = plan, False, 0, 0
        self.bar = self.history = None
        super().__init__(overrides=overrides)
        self.callbacks = defaultdict(list)  # the validation gets none either

    def learn(self) -> None:
        """Train from where it stands to the end."""
        try:
            self.train()
        finally:
            for open_one in (self.bar, self.history):
                if open_one is not None:
                    open_one.close()

    # -- data and network

    def get_dataset(self) -> dict[str, Any]:
        """The classes; no description of a data set is read, for one may hold code."""
        names = dict(enumerate(self.plan.data.names))
        return {"train": "train", "val": "val", "names": names, "nc": len(names), "channels": 3}

    def build_dataset(self, img_path: str, mode: str = "train", batch: int | None = None) -> Photos:
        """The photos of a part."""
        learned = mode == "train"
        size = self.args.imgsz
        return Photos(
            self.plan.data.photos(img_path),
            self.args.seed,
            0 if self.args.workers else KEPT // (3 * size * size),
            imgsz=size,
            batch_size=batch,
            augment=learned,
            hyp=self.args,
            rect=not learned,
            stride=max(int(unwrap_model(self.model).stride.max()), 32),
            pad=0.0 if learned else 0.5,
            prefix=f"{mode}: ",
            data=self.data,
        )

    def get_model(self, cfg: Any = None, weights: Any = None, verbose: bool = True) -> Network:
        """The graph, with the weights to begin from; on the CPU laid out as its convolutions like it.

        Layers that grow with the number of classes begin anew where that differs: Ultralytics would widen them, and
        the graph would no longer be the one of its name.
        """
        model = Network(cfg, nc=self.data["nc"], ch=self.data["channels"], verbose=False)
        model.names = self.data["names"]
        model.bf16 = self.device.type == "cpu" and self.plan.numbers == "bfloat16"
        if self.plan.start is not None:
            ours, theirs = model.state_dict(), self.plan.start.state_dict()
            same = {name: theirs[name] for name in ours if name in theirs and theirs[name].shape == ours[name].shape}
            model.load_state_dict(same, strict=False)
        return model.to(memory_format=torch.channels_last) if self.device.type == "cpu" else model

    def _build_train_pipeline(self) -> None:
        """Once: where memory runs out, Ultralytics would go on with smaller batches, and with another result."""
        if self.built:
            raise CareError(
                f"Out of memory with {self.batch_size * 2} photos of {self.args.imgsz} px at a time: take a smaller "
                "--batch, --size or --backbone."
            )
        self.built = True
        super()._build_train_pipeline()

    # -- steps

    def build_optimizer(self, *args: Any, iterations: float = 1e5, **kwargs: Any) -> torch.optim.Optimizer:
        """Ultralytics' choice, by the number of steps that there will be."""
        return super().build_optimizer(*args, iterations=iterations / self._passes(), **kwargs)

    def optimizer_step(self) -> None:
        """After every pass; a step is taken when as many photos were seen as one takes, fewer while it warms up."""
        self.pending += 1
        rise = self._get_warmup_iterations(len(self.train_loader))
        wanted = self._passes()
        if self.batches < rise:
            wanted = max(1, round(np.interp(self.batches, [0, rise], [1, wanted])))
        if self.pending >= wanted:
            self._step()

    def _passes(self) -> int:
        """Forward passes of a step."""
        return max(1, round((self.plan.cfg.nominal_batch or 0) / self.plan.cfg.batch))

    def _step(self) -> None:
        super().optimizer_step()
        self.pending = 0

    def run_callbacks(self, event: str) -> None:
        """What we do at Ultralytics' events; whatever else is installed on this machine is left alone."""
        if found := getattr(self, f"_{event}", None):
            found()

    def _on_train_start(self) -> None:
        photos = len(self.train_loader.dataset)
        self.history = self.plan.history()
        total = photos * self.epochs
        self.bar = tqdm(
            total=total, initial=photos * self.start_epoch, unit="photo", desc="train", disable=None, mininterval=0.5
        )

    def _on_train_epoch_start(self) -> None:
        """All that is random from here on follows from the seed and the epoch."""
        loader, seed = self.train_loader, seed_of(self.args.seed, self.epoch)
        loader.reset()
        loader.dataset.epoch = self.epoch
        loader.generator.manual_seed(seed % (1 << 63))
        torch.manual_seed(seed)
        self.batches = self.epoch * len(loader) - 1
        self.began = time.monotonic()

    def _on_train_batch_start(self) -> None:
        self.batches += 1

    def _on_train_batch_end(self) -> None:
        photos, size = len(self.train_loader.dataset), self.train_loader.batch_size
        self.bar.update(min(size, photos - self.batches % len(self.train_loader) * size))
        losses = {key.removesuffix("_loss"): f"{float(value):.3g}" for key, value in self.tloss.items()}
        self.bar.set_postfix(epoch=f"{self.epoch + 1}/{self.epochs}", **losses, **self._best_said(), refresh=False)

    def _best_said(self) -> dict[str, str]:
        return {"best_mAP50": f"{self.plan.best['metrics']['mAP50']:.3f}"} if self.plan.best else {}

    def _on_train_epoch_end(self) -> None:
        if self.pending:
            self._step()
        self.seconds = time.monotonic() - self.began

    def _on_fit_epoch_end(self) -> None:
        if self.plan.report:
            self.plan.report(self.epoch + 1, _measures(self.metrics))

    # -- what is kept

    def save_metrics(self, metrics: dict[str, float]) -> None:
        """They are in the history."""

    def save_model(self) -> bool:
        """Keep the epoch: its row, the averaged weights when they are the best, and all that is needed to go on."""
        measures, done = _measures(self.metrics), self.epoch + 1
        losses = {key: float(value) for key, value in self.metrics.items() if key.startswith("val/")}
        losses |= self.label_loss_items(self.tloss)
        speed = len(self.train_loader.dataset) / self.seconds
        row = {"epoch": done, **losses, **measures, "fitness": float(self.fitness), "rate": max(self.lr.values())}
        self.history.add(row | {"photos_per_second": round(speed, 2)})
        if self.best_fitness == self.fitness:
            self.plan.best = {"epoch": done, "metrics": measures}
            about = {"identity": self.plan.identity, "best": self.plan.best}
            state.write(self.plan.out / BEST, self.ema.ema.state_dict(), about)
        tensors = state.collect(unwrap_model(self.model), self.optimizer, self.ema.ema)
        state.write(self.plan.out / LAST, tensors, self._standing(done))
        return True

    def _standing(self, done: int) -> dict[str, Any]:
        """What a checkpoint says beside its tensors."""
        groups = [
            {key: value for key, value in group.items() if isinstance(value, int | float | str)}
            for group in self.optimizer.param_groups
        ]
        return {
            "identity": self.plan.identity,
            "epoch": done,
            "finished": bool(self.stop),
            "history": self.history.sync(),
            "groups": groups,
            "updates": self.ema.updates,
            "best_fitness": float(self.best_fitness),
            "stopper": {"best_fitness": float(self.stopper.best_fitness), "best_epoch": self.stopper.best_epoch},
        }

    def resume_training(self, ckpt: Any) -> None:
        """Go on after the last epoch that was kept."""
        if self.plan.last is None:
            return
        self.resume = True
        super().resume_training({"epoch": self.plan.last[1]["epoch"] - 1})

    def _load_checkpoint_state(self, ckpt: Any) -> None:
        tensors, header = self.plan.last
        state.restore(tensors, unwrap_model(self.model), self.optimizer, self.ema.ema)
        for group, kept in zip(self.optimizer.param_groups, header["groups"], strict=True):
            group.update(kept)
        self.ema.updates = header["updates"]
        self.best_fitness = header["best_fitness"]
        vars(self.stopper).update(header["stopper"])
        self.plan.last = None, header  # the memory is wanted

    def _handle_nan_recovery(self, epoch: int) -> bool:
        """CareError when the loss is no number: to go on would only be chance."""
        if self.loss is None or self.loss.isfinite():
            return False
        raise CareError(
            f"The loss is no longer a number in epoch {epoch + 1}: lower the learning rate (--learning-rate with --set "
            "optimizer=AdamW), or train in float32 (--precision), under another name."
        )

    def final_eval(self) -> None:
        """The validations of the epochs stand."""


def _measures(metrics: dict[str, float]) -> dict[str, float]:
    """Ultralytics' figures under plain names."""
    return {plain: round(float(np.asarray(metrics[key])), 5) for key, plain in MEASURES.items()}
