"""CARE: descriptions of every photo, fused to a prototype of every animal, to which the image tower is aligned.

Algorithms 1 to 3 of the CARE paper (WACV 2026), in their order. Equations 5 to 10 are reconstructed from its supplement
and its authors' earlier code; ALGORITHMS, section 5, says which reading is which setting.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor
from tqdm import tqdm

from care_cli import clip
from care_cli.clip import TextTower
from care_cli.engines import images_of
from care_cli.errors import CareError
from care_cli.training import clip_towers, loop, methods, precision, state
from care_cli.training.alignment import Aligned, Prototypes
from care_cli.training.batches import normalised
from care_cli.training.clip_towers import BACKBONE, WEIGHTS, architecture
from care_cli.training.config import TrainConfig
from care_cli.training.data import LabelledCrops
from care_cli.training.prompts import PromptLearner, PromptTraining, how_similar, text_bank

__all__ = ["BACKBONE", "DESCRIBES", "PRESETS", "RECIPE", "VIEWPOINTS", "WEIGHTS", "architecture", "train"]

DESCRIBES = True  # animals, in words
VIEWPOINTS = True
RECIPE = clip_towers.RECIPE | {"learning_rate": 8e-6, "triplet_margin": 0.7, "prototype_weight": 1.0}
CODE = {"class_weight": 0.25, "triplet_weight": 1.0, "prototype_weight": 1.0}
LITERAL = {"class_weight": 1.0, "triplet_weight": 1.0, "prototype_weight": 1.0, "prototype_smoothing": 0.0}
TOOLKIT = {"class_weight": 0.3, "triplet_weight": 1.0, "prototype_weight": 0.7, "embedding": "proj"}


def _schedule(learning_rate: float, batch: int, epochs: float) -> dict[str, Any]:
    return {"learning_rate": learning_rate, "individuals": batch // 4, "photos": 4, "epochs": epochs}


def _words(learning_rate: float, epochs: float) -> dict[str, Any]:
    return {"text": {"learning_rate": learning_rate, "epochs": epochs}}


PRESETS = clip_towers.PRESETS | {
    "code": CODE,  # as the authors' earlier code weighs the losses: the default
    "literal": LITERAL,  # the plain sum that the supplement prints, equation 10 without smoothing as there
    "toolkit": TOOLKIT,  # as the authors' toolkit has it
    "tiger": _schedule(5e-6, 32, 55),  # the authors' schedules by data set
    "cattle": _schedule(8e-6, 32, 60),
    "lion": _schedule(8e-6, 32, 60),
    "dog": _schedule(8e-6, 32, 30) | {"side": "camera", "side_weight": 1.0},
    "panda": _schedule(8e-6, 64, 80),
    "nyala": _schedule(8e-6, 64, 80),
    "sea-star": _schedule(5e-6, 64, 65),
    "stoat": _schedule(8e-6, 16, 50),
    "words": _words(5.5e-4, 40),  # and, of that code, how long words are learned; its batch of one photo apart
    "words-tiger": _words(4.5e-4, 10),
    "words-sea-star": _words(5e-5, 25),
}

PAGE = 64  # photos seen at once
PHASE_1, FEATURES, PROTOTYPES = "descriptions", "features.safetensors", "prototypes.safetensors"


def train(
    data: LabelledCrops,
    cfg: TrainConfig,
    folder: Path | None = None,
    *,
    start: Mapping[str, Tensor] | None = None,
    start_file: Path | None = None,
    device: str = "auto",
    notice: Callable[[str], None] | None = None,
    **how: Any,
) -> loop.Trained:
    """Both phases, as `loop.train` takes and gives them; the folder also gets phase 1 and prototypes.safetensors.

    Raises CareError where nothing would be learned from the prototypes.
    """
    if not cfg.prototype_weight:
        raise CareError(
            f"{cfg.method} learns words for the sake of prototypes, but prototype_weight is 0: set it above 0, or take "
            "--method clip-ft, which does without them."
        )
    whole = clip_towers.whole(cfg, start, start_file)
    image_tower = {name: tensor for name, tensor in whole.state_dict().items() if not clip.is_text(name)}
    saving = {name: how[name] for name in ("save_every", "save_seconds") if name in how}
    prototypes = learn_prototypes(data, cfg, whole, folder, device=device, notice=notice, **saving)
    del whole

    # Algorithm 3: the image tower learns to keep each animal by its prototype; the text side is gone
    return loop.train(
        data,
        cfg,
        folder,
        build=lambda cfg: Aligned(cfg, len(prototypes.bank), methods.plain(cfg, data.scheme), prototypes),
        start=image_tower,
        start_file=start_file,
        device=device,
        notice=notice,
        **how,
    )


def learn_prototypes(
    data: LabelledCrops,
    cfg: TrainConfig,
    whole: clip.Clip,
    folder: Path | None,
    *,
    device: str = "auto",
    notice: Callable[[str], None] | None = None,
    **saving: Any,
) -> Prototypes:
    """What a whole CLIP, which is used up, says in words of each individual of `data`."""
    accelerator, place = loop.accelerated(device)
    say = notice if notice and accelerator.is_main_process else lambda said: None

    # Algorithm 1: tokens and meta-net learn to describe photos to a frozen CLIP, which sees each of them once
    photos = image_features(data, cfg, whole, folder and folder / PHASE_1, accelerator, place)
    text = TextTower(whole).to(place)
    learned = loop.train(
        replace(data, photos=photos),
        phase_1(cfg),
        folder and folder / PHASE_1,
        build=lambda cfg: PromptTraining(PromptLearner(text, cfg.text, data.names, data.animals, say), text),
        device=device,
        notice=notice,
        title="describe",
        **saving,
    )

    # Algorithm 2: an animal's descriptions, fused to its prototype
    texts, bank = text_bank(learned.model, text, photos, data.labels)
    if folder is not None and accelerator.is_main_process:
        write_prototypes(folder / PROTOTYPES, data, texts, bank)
    return Prototypes(torch.from_numpy(bank), *how_similar(cfg.text, text))


def phase_1(cfg: TrainConfig) -> TrainConfig:
    """The settings of the descriptions' training: photos shuffled, Adam, a cosine behind a warm-up.

    Of phase 2 they hold nothing, so that trainings which differ there alone have one phase 1.
    """
    text = cfg.text
    what = ("method", "backbone", "options", "input_size", "mean", "std", "seed", "precision", "text")
    return TrainConfig(
        **{name: getattr(cfg, name) for name in what},
        sampler="shuffle",
        individuals=text.batch,
        photos=1,
        accumulate=1,
        epochs=text.epochs,
        optimizer="adam",
        learning_rate=text.learning_rate,
        least_rate=text.least_rate,
        warmup=text.warmup,
        weight_decay=text.weight_decay,
        decay_vectors=True,
        triplet_weight=0.0,
    )


def image_features(
    data: LabelledCrops,
    cfg: TrainConfig,
    whole: clip.Clip,
    folder: Path | None,
    accelerator: Accelerator,
    place: torch.device,
) -> np.ndarray:
    """Projected features `(N, D) float32` of all photos as CLIP sees them; of several processes the first one looks.

    They are kept in `folder`: a training that goes on does not look again. Nor does one beside which the same phase 1
    stands, done or not: it is taken over, features and words.
    """
    if folder is None:
        return _seen(data, cfg, whole, place).numpy()
    settings = replace(phase_1(cfg), precision=precision.resolve(cfg.precision, place))
    data_1 = replace(data, beside=None, scheme=None)
    identity = state.identity_of(settings, data_1, whole.state_dict(), accelerator.num_processes, None)
    if accelerator.is_main_process:
        if not (folder / FEATURES).exists():
            _take_over(folder, identity)
        folder.mkdir(parents=True, exist_ok=True)
        if state.read(folder / FEATURES, identity) is None:
            state.write(folder / FEATURES, {"photos": _seen(data, cfg, whole, place)}, {"identity": identity})
    accelerator.wait_for_everyone()
    return state.read(folder / FEATURES, identity)[0]["photos"].numpy()


def _take_over(folder: Path, identity: Mapping[str, Any]) -> None:
    """Copy the same phase 1 of another training, the furthest, if there is one in the folders beside this one's.

    That one may be at work: its history, copied last, is then longer than its checkpoint says, which does no harm.
    """
    beside = sorted(folder.parent.parent.glob(f"*/{PHASE_1}/{FEATURES}"))
    same = [features.parent for features in beside if state.is_of(features, identity)]
    partial = folder.with_name(f"{folder.name}.part")
    try:
        furthest = max(same, key=_length, default=None)
        if furthest is not None:
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir(parents=True)
            for name in (FEATURES, loop.LAST, loop.HISTORY, loop.CURVES):
                if (furthest / name).exists():
                    shutil.copyfile(furthest / name, partial / name)
            if folder.exists():
                folder.rmdir()  # of a training that was killed before it had seen a photo
            partial.rename(folder)
    except OSError:  # no room, the other one is gone, or something stands here: words are learned here
        shutil.rmtree(partial, ignore_errors=True)


def _length(folder: Path) -> int:
    """Bytes of the history of the training in a folder."""
    history = folder / loop.HISTORY
    return history.stat().st_size if history.exists() else 0


def _seen(data: LabelledCrops, cfg: TrainConfig, whole: clip.Clip, place: torch.device) -> Tensor:
    tower = whole.eval().to(place, memory_format=torch.channels_last)
    kind = precision.dtype(precision.resolve(cfg.precision, place))
    pages = np.array_split(np.arange(len(data.labels)), -(-len(data.labels) // PAGE))
    found = []
    with torch.inference_mode(), torch.autocast(place.type, kind, enabled=kind != torch.float32):
        for rows in tqdm(pages, desc="see", unit="page", disable=None):
            photos = torch.from_numpy(np.ascontiguousarray(data.photos[rows])).to(place)
            found.append(tower(normalised(images_of(photos), cfg)).float().cpu())
    return torch.cat(found)


def write_prototypes(path: Path, data: LabelledCrops, texts: np.ndarray, bank: np.ndarray) -> None:
    """What the text side said, for pictures of it: `text (N, D)`, `labels (N,)`, `bank (C, D)`, and whose they are."""
    tensors = {"text": torch.from_numpy(texts), "labels": torch.from_numpy(data.labels), "bank": torch.from_numpy(bank)}
    crops = getattr(data.photos, "digests", None)
    state.write(path, tensors, {"individuals": list(data.names), "crops": crops}, key="care")
