"""Batches as a network wants them, the next one made ready while the last one is learned from."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice

import numpy as np
import torch
from torch import Tensor

from care_cli.engines import images_of
from care_cli.training.augment import augment
from care_cli.training.config import TrainConfig
from care_cli.training.data import LabelledCrops
from care_cli.training.sampling import pk_batches, shuffled

AHEAD = 2  # batches


@dataclass(frozen=True, eq=False)
class Batch:
    """P individuals with K photos each, one after the other; or P*K photos as they came.

    images  (P*K, 3, H, W) float32, augmented and normalised; (P*K, D) float32 where a network made them before
    beside  (P*K, ...) float32, what is told beside them: points, moved with the images, or viewpoints; None: nothing
    labels  (P*K,) int64
    """

    images: Tensor
    beside: Tensor | None
    labels: Tensor

    def take(self, rows: np.ndarray) -> Batch:
        """Some of its photos."""
        chosen = torch.as_tensor(rows, device=self.labels.device)
        beside = None if self.beside is None else self.beside[chosen]
        return Batch(self.images[chosen], beside, self.labels[chosen])


def prepared(
    data: LabelledCrops, cfg: TrainConfig, first: int, last: int, device: torch.device, place: int = 0, places: int = 1
) -> Iterator[Batch]:
    """The batches of steps `first` to `last`, `cfg.accumulate` a step, as process `place` of `places` gets them.

    What a batch holds depends on the seed and on its number, and on nothing before it.
    """
    numbers = range(cfg.accumulate * first, cfg.accumulate * last)
    of_all = drawn(data.labels, cfg, places * numbers.start)
    waiting: deque = deque()
    with ThreadPoolExecutor(1) as worker:
        try:
            for number in numbers:
                rows = list(islice(of_all, places))[place]
                seed = seed_of(cfg.seed, places * number + place)
                waiting.append(worker.submit(prepare, data, cfg, rows, seed, device))
                if len(waiting) > AHEAD:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            worker.shutdown(cancel_futures=True)


def drawn(labels: np.ndarray, cfg: TrainConfig, start: int) -> Iterator[np.ndarray]:
    """Rows of the batches from number `start` on, `(P*K,) int64` each."""
    if cfg.sampler == "shuffle":
        return shuffled(len(labels), cfg.individuals * cfg.photos, cfg.seed, start)
    return pk_batches(labels, cfg.individuals, cfg.photos, cfg.seed, start)


def prepare(data: LabelledCrops, cfg: TrainConfig, rows: np.ndarray, seed: int, device: torch.device) -> Batch:
    """Photos read, augmented and normalised, their points moved with them, their flanks mirrored."""
    generator = torch.Generator(device).manual_seed(seed)
    labels = torch.from_numpy(np.asarray(data.labels)[rows]).long().to(device)
    photos = torch.from_numpy(np.ascontiguousarray(data.photos[rows])).to(device)
    if photos.is_floating_point():  # features of photos
        return Batch(photos, None, labels)
    images = images_of(photos)
    beside = None
    if data.beside is None:
        images = augment(images, cfg.augmentation, generator)
    else:
        beside = torch.from_numpy(data.beside[rows]).float().to(device)
        swap = torch.from_numpy(data.scheme.swap).to(device)
        images, beside = augment(images, cfg.augmentation, generator, beside, swap)
        chance = cfg.keypoint_dropout if beside.ndim == 3 else cfg.side_dropout
        beside[torch.rand(len(rows), generator=generator, device=device) < chance] = 0.0
    return Batch(normalised(images, cfg).contiguous(memory_format=torch.channels_last), beside, labels)


def normalised(images: Tensor, cfg: TrainConfig) -> Tensor:
    """Images `(B, 3, H, W)` in 0..1 as the network wants them."""
    mean, std = (torch.tensor(values, device=images.device).view(1, 3, 1, 1) for values in (cfg.mean, cfg.std))
    return (images - mean) / std


def bites(individuals: int, photos: int, halvings: int) -> list[np.ndarray]:
    """A batch in parts that memory holds: rows `(B,) int64` of the P*K, all of them once.

    Each halving divides the individuals of a part by two, and when two are left the photos of each, down to two: fewer
    give a triplet nothing to compare. The list is no longer than before once nothing can be halved any more.
    """
    parts = [np.arange(individuals * photos).reshape(individuals, photos)]
    for _ in range(halvings):
        if not all(len(part) >= 4 or part.shape[1] >= 4 for part in parts):
            break
        parts = [half for part in parts for half in np.array_split(part, 2, axis=0 if len(part) >= 4 else 1)]
    return [part.ravel() for part in parts]


def seed_of(*numbers: int) -> int:
    """A seed for torch's generators that no other numbers share."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0])
