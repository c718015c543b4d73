"""Training of a re-identification model: one loop, top to bottom.

Every step draws P individuals with K photos each, as often as gradients are accumulated; the learner answers with the
terms of its loss; the optimizer takes a step, at a rate that rises and then falls along a cosine or in steps. All that
is random is drawn from generators seeded by the step, so a training that was killed goes on as if it had not been.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from tqdm import tqdm

from care_cli.errors import CareError
from care_cli.evaluation import curves
from care_cli.geometry import sides
from care_cli.records import KeypointScheme, ViewpointScheme
from care_cli.training import methods, precision, state
from care_cli.training.batches import Batch, bites, prepared, seed_of
from care_cli.training.config import TrainConfig
from care_cli.training.data import LabelledCrops
from care_cli.training.history import History

LAST, BEST, HISTORY, CURVES = "last.safetensors", "best.safetensors", "history.jsonl", "curves.png"
Validate = Callable[[nn.Module], dict[str, float]]


@dataclass(frozen=True)
class Trained:
    """What a training gives.

    model         the embedder: the best one validated, else the last; float32, eval mode, on the CPU
    history       rows of history.jsonl
    best          {"step": n, "metrics": {...}} of the model; no metrics without validation
    resumed_from  the step after which it went on, None when it began
    """

    model: nn.Module
    history: list[dict[str, Any]]
    best: dict[str, Any]
    resumed_from: int | None


def train(
    data: LabelledCrops,
    cfg: TrainConfig,
    folder: Path | None = None,
    *,
    build: Callable[[TrainConfig], nn.Module] | None = None,
    validate: Validate | None = None,
    validation: str | None = None,
    start: Mapping[str, Tensor] | None = None,
    start_file: Path | None = None,
    device: str = "auto",
    report: Callable[[dict[str, Any]], None] | None = None,
    notice: Callable[[str], None] | None = None,
    save_every: int | None = None,
    save_seconds: float = 300.0,
    title: str = "train",
) -> Trained:
    """Train a model to tell the individuals of `data` apart.

    folder        gets history.jsonl, curves.png, last.safetensors (all that is needed to go on exactly) and
                  best.safetensors. A training that stands there is gone on with.
    build         makes the learner, as `methods.Learner` is one; None: that of the method
    validate      measures an embedder (eval mode, on the training's device); every `cfg.validate_every` epochs and at
                  the end. Its first figure decides which model is the best: the larger, the better.
    validation    digest of what `validate` measures on: a training goes on with the same
    start         pretrained weights of the backbone, or of the whole embedder, by name
    start_file    the file that they are of, for messages
    device        auto | cpu | cuda | cuda:N; under `accelerate launch` every process takes a card of its own
    report        gets every row of the history
    notice        gets a sentence where something is not as asked
    title         of the progress bar
    save_every    steps between two checkpoints, beside those that `save_seconds` asks for; one is also saved at each
                  validation and at the end

    Raises CareError for data or settings that cannot be learned from, when the loss stops being a number, when not even
    the smallest part of a batch fits into memory, when the disk is full, and when `folder` holds another training.
    """
    accelerator, place = accelerated(device)
    several, main = accelerator.num_processes > 1, accelerator.is_main_process
    say = notice if notice and main else lambda text: None
    data, cfg = _fitting(data, cfg, say)
    cfg = replace(cfg, precision=precision.resolve(cfg.precision, place))  # a training never mixes precisions
    steps = max(1, round(cfg.epochs * len(data.labels) / _photos_a_step(cfg, accelerator.num_processes)))

    # the learner, drawn from the seed; its optimizer; the average of its weights
    torch.manual_seed(cfg.seed)
    learner = build(cfg) if build else methods.build(cfg, int(data.labels.max()) + 1, data.scheme)
    if start is not None:
        methods.load(learner.embedder, start, start_file or Path("to begin from"))
    learner = learner.to(place, memory_format=torch.channels_last)
    optimizer = _optimizer(cfg, learner)
    average = AveragedModel(learner, multi_avg_fn=get_ema_multi_avg_fn(cfg.ema), use_buffers=True) if cfg.ema else None
    dtype = precision.dtype(cfg.precision)
    scaler = torch.amp.GradScaler(place.type, enabled=dtype == torch.float16)

    # where an earlier run of this training stopped
    identity = state.identity_of(cfg, data, start, accelerator.num_processes, validation)
    done, resumed, halvings, size, best, best_weights = 0, None, 0, 0, {}, None
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        if found := state.read(folder / BEST, identity):
            best_weights, best = found[0], found[1]["best"]
        if found := state.read(folder / LAST, identity):
            tensors, header = found
            state.restore(tensors, learner, optimizer, average)
            scaler.load_state_dict(header["scaler"])
            done = resumed = header["step"]
            halvings, size = header["halvings"], header["history"]
    history = History(folder / HISTORY if folder is not None and main else None, size)
    accelerator.wait_for_everyone()  # all have read what is there before one writes

    def save() -> None:
        """Everything that is needed to go on from here, unless it is spoilt."""
        if not all(tensor.isfinite().all() for tensor in learner.state_dict().values()):
            raise CareError(_no_number(done, cfg, folder))
        if folder is not None and main:
            header = {"identity": identity, "step": done, "halvings": halvings, "scaler": scaler.state_dict()}
            header["history"] = history.sync()
            state.write(folder / LAST, state.collect(learner, optimizer, average), header)

    def finished() -> nn.Module:
        """The embedder as it stands."""
        return (average.module if average else learner).finished()

    model = accelerator.prepare_model(learner, device_placement=False)  # gradients of all processes are averaged
    batches = prepared(data, cfg, done, steps, place, accelerator.process_index, accelerator.num_processes)
    bar = tqdm(total=steps, initial=done, unit="step", desc=title, disable=None if main else True)
    validations = set(_validations(cfg, steps)) if validate else set()
    saved = time.monotonic()
    learner.train()
    while done < steps:
        began = time.monotonic()
        rate = cfg.learning_rate * rate_at(done, steps, cfg)
        for group in optimizer.param_groups:
            group["lr"] = rate * group["factor"]
        step_batches = [next(batches) for _ in range(cfg.accumulate)]
        while True:
            torch.manual_seed(seed_of(cfg.seed, done, accelerator.process_index))  # dropout, drop path
            terms = _gradients(model, step_batches, cfg, halvings, dtype, scaler, accelerator)
            if terms is not None:
                break
            halvings = _halved(cfg, halvings, several, say)
        terms = {name: value.item() for name, value in accelerator.reduce(terms, "mean").items()}
        if not math.isfinite(loss := sum(terms.values())):
            history.close()
            raise CareError(_no_number(done, cfg, folder))
        if cfg.clip is not None:
            scaler.unscale_(optimizer)
            nn.utils.clip_grad_norm_(learner.embedder.parameters(), cfg.clip)
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad(set_to_none=True)
        if average:
            average.update_parameters(learner)
        done += 1

        speed = _photos_a_step(cfg, accelerator.num_processes) / (time.monotonic() - began)
        row = {"step": done, "epoch": cfg.epochs * done / steps, "loss": loss, **terms, "rate": rate}
        history.add(row | {"images_per_second": speed})
        bar.update()
        bar.set_postfix(loss=f"{loss:.3f}", rate=f"{rate:.2g}", photos=f"{speed:.1f}/s", refresh=False)
        if done in validations:
            embedder = finished()
            metrics = validate(embedder)
            history.add({"step": done, "epoch": cfg.epochs * done / steps, "validation": metrics})
            if not best or _first(metrics) > _first(best["metrics"]):
                best, best_weights = {"step": done, "metrics": metrics}, embedder.state_dict()
                if folder is not None and main:
                    state.write(folder / BEST, best_weights, {"identity": identity, "best": best})
        due = save_every is not None and done % save_every == 0
        if done in validations or due or time.monotonic() - saved > save_seconds or done == steps:
            save()
            saved = time.monotonic()
        if folder is not None and main and (done in validations or done == steps):
            curves.draw(history.rows, folder / CURVES)
        if report and main:
            report(history.rows[-1])
    bar.close()
    history.close()

    model = finished().cpu().to(memory_format=torch.contiguous_format)
    if best:
        model.load_state_dict(best_weights)
    return Trained(model, history.rows, best or {"step": done, "metrics": {}}, resumed)


def _gradients(
    model: nn.Module,
    batches: list[Batch],
    cfg: TrainConfig,
    halvings: int,
    dtype: torch.dtype,
    scaler: torch.amp.GradScaler,
    accelerator: Accelerator,
) -> dict[str, Tensor] | None:
    """Gradients of the mean loss of a step's batches, and its terms, each () float32.

    Each batch goes through the network in the parts that memory holds. None, and no gradients, when it ran out.
    """
    parts = bites(cfg.individuals, cfg.photos, halvings)
    terms: dict[str, Tensor] = {}
    try:
        for number, (batch, rows) in enumerate((batch, rows) for batch in batches for rows in parts):
            share = len(rows) / len(batch.labels) / len(batches)
            part = batch if len(parts) == 1 else batch.take(rows)
            whole = number == len(batches) * len(parts) - 1  # only then do processes exchange their gradients
            with nullcontext() if whole else accelerator.no_sync(model):
                with torch.autocast(part.images.device.type, dtype, enabled=dtype != torch.float32):
                    found = model(part.images, part.beside, part.labels)
                scaler.scale(share * sum(found.values())).backward()
            for name, value in found.items():
                terms[name] = terms.get(name, 0) + share * value.detach()
        return terms
    except (RuntimeError, MemoryError) as error:
        if not _out_of_memory(error):
            raise
    model.zero_grad(set_to_none=True)
    if batches[0].images.is_cuda:
        torch.cuda.empty_cache()
    return None


def _out_of_memory(error: BaseException) -> bool:
    """Was it memory that was missing, on the card or on the CPU?"""
    said = "can't allocate memory" in str(error) or "bad_alloc" in str(error)
    return said or isinstance(error, torch.OutOfMemoryError | MemoryError)


def _halved(cfg: TrainConfig, halvings: int, several: bool, say: Callable[[str], None]) -> int:
    """One more halving of what goes through the network at a time. CareError when there is nothing to halve."""
    before, after = (len(bites(cfg.individuals, cfg.photos, number)) for number in (halvings, halvings + 1))
    if several or after == before:
        raise CareError(
            f"Out of memory with {cfg.individuals * cfg.photos // before} photos of {cfg.input_size} px at a time: "
            "take smaller batches with more accumulation, gradient checkpointing, or a smaller backbone."
        )
    photos = math.ceil(cfg.individuals * cfg.photos / after)
    say(
        f"Out of memory: from now on at most {photos} photos go through the network at a time, in "
        f"{cfg.accumulate * after} passes a step instead of {cfg.accumulate * before}."
    )
    return halvings + 1


def _fitting(data: LabelledCrops, cfg: TrainConfig, say: Callable[[str], None]) -> tuple[LabelledCrops, TrainConfig]:
    """Data and settings as they can be learned from; what is not as asked is said.

    Raises CareError when they cannot.
    """
    counts = np.bincount(np.asarray(data.labels, np.int64))
    individuals = int((counts > 0).sum())
    if individuals < 2:
        raise CareError(f"Training needs photos of at least 2 individuals, got {individuals}: name more animals.")
    photo = data.photos[np.zeros(1, np.int64)]
    height, width = sides(cfg.input_size)
    if photo.ndim == 4 and (photo.shape != (1, height, width, 3) or photo.dtype != np.uint8):
        raise CareError(
            f"Training expects photos of {height} x {width} x 3 bytes, got {photo.shape[1:]} of {photo.dtype}: give "
            "the size of the crops as input_size."
        )
    told = methods.told_viewpoints(cfg) and isinstance(data.scheme, ViewpointScheme)
    if methods.sees_points(cfg.method):
        _check_points(data, cfg.method, say)
    elif told:
        if without := int((data.beside.max(1) <= 0).sum()):
            say(f"{without} of {len(data.labels)} photos are of no known camera or flank: pixels alone are seen.")
    else:
        if cfg.side_weight:
            say("No two cameras or flanks of the photos are known, so side information (side_weight) rests.")
        data, cfg = replace(data, beside=None, scheme=None), replace(cfg, side_weight=0.0)
    if not methods.describes(cfg.method):
        data = replace(data, names=(), animals=())
    if individuals < cfg.individuals and cfg.sampler == "pk":
        say(
            f"There are only {individuals} individuals: a batch has {individuals} of them instead of {cfg.individuals}."
        )
        cfg = replace(cfg, individuals=individuals)
    if cfg.triplet_weight and (counts.max() == 1 if cfg.sampler == "shuffle" else cfg.photos == 1):
        say("No batch holds two photos of an individual, so the triplet loss has nothing to compare and rests.")
        cfg = replace(cfg, triplet_weight=0.0)
    if cfg.warmup >= cfg.epochs:
        reached = cfg.warmup_from + (1 - cfg.warmup_from) * cfg.epochs / cfg.warmup
        say(
            f"The learning rate rises for {cfg.warmup:g} epochs, but {cfg.epochs:g} are trained: it ends at "
            f"{reached:.0%} of {cfg.learning_rate:g}. Train longer, or set a shorter warmup (of words text.warmup)."
        )
    return data, cfg


def _check_points(data: LabelledCrops, method: str, say: Callable[[str], None]) -> None:
    """Are there points to learn from? CareError when there are none."""
    if data.beside is None or not isinstance(data.scheme, KeypointScheme) or not (data.beside[..., 2] > 0).any():
        raise CareError(
            f"{method} learns from keypoints, but no crop has one: run `care propagate-keypoints` first, or train "
            "with --method vit."
        )
    without = int((data.beside[..., 2] <= 0).all(1).sum())
    if without:
        say(f"{without} of {len(data.labels)} photos have no visible keypoint: they are seen as pixels alone.")


def _photos_a_step(cfg: TrainConfig, processes: int) -> int:
    return cfg.individuals * cfg.photos * cfg.accumulate * processes


def _optimizer(cfg: TrainConfig, learner: nn.Module) -> torch.optim.Optimizer:
    """Over what is learned, in groups with a `factor` of the rate.

    Weight decay is for matrices unless all of it is asked for: vectors, positions, tokens and keypoint embeddings
    have none.
    """
    exempt = getattr(learner.embedder, "no_weight_decay", set)
    free = {f"embedder.{name}" for name in exempt()}
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in learner.named_parameters():
        if parameter.requires_grad:
            decays = cfg.decay_vectors or (parameter.ndim > 1 and name not in free)
            factor = cfg.bias_rate if name.endswith("bias") else 1.0
            groups.setdefault((cfg.weight_decay if decays else 0.0, factor), []).append(parameter)
    said = [{"params": some, "weight_decay": decay, "factor": factor} for (decay, factor), some in groups.items()]
    if cfg.optimizer == "adam":
        return torch.optim.Adam(said, lr=cfg.learning_rate)
    if cfg.optimizer == "adamw":
        return torch.optim.AdamW(said, lr=cfg.learning_rate)
    return torch.optim.SGD(said, lr=cfg.learning_rate, momentum=cfg.momentum)


def _validations(cfg: TrainConfig, steps: int) -> list[int]:
    """After which steps the model is measured: every `validate_every` epochs, and at the end."""
    apart = max(1.0, cfg.validate_every * steps / cfg.epochs)
    return [round(number * apart) for number in range(1, int(steps / apart) + 1)] + [steps]


def _first(metrics: Mapping[str, float]) -> float:
    """What decides which model is the best."""
    return next(iter(metrics.values()))


def _no_number(step: int, cfg: TrainConfig, folder: Path | None) -> str:
    kept = f" The last good checkpoint is {folder / LAST}." if folder and (folder / LAST).exists() else ""
    return (
        f"The loss is no longer a number at step {step}: lower the learning rate (now {cfg.learning_rate:g}) or train "
        f"in float32 (now {cfg.precision}), in another folder.{kept}"
    )


def rate_at(step: int, steps: int, cfg: TrainConfig) -> float:
    """Share of the highest learning rate at a step of `steps`, which last `cfg.epochs`.

    A linear rise from `warmup_from`; then half a cosine down to `least_rate`, or a fall by `decay` at each milestone.
    """
    rise = round(cfg.warmup * steps / cfg.epochs)
    fallen = cfg.decay ** sum(step * cfg.epochs >= milestone * steps for milestone in cfg.milestones)
    if step < rise:
        return fallen * (cfg.warmup_from + (1 - cfg.warmup_from) * (step + 1) / rise)
    if cfg.milestones:
        return fallen
    least = cfg.least_rate / cfg.learning_rate
    return least + (1 - least) * 0.5 * (1 + math.cos(math.pi * (step - rise) / max(1, steps - rise)))


def accelerated(device: str) -> tuple[Accelerator, torch.device]:
    """What keeps the processes of a training together, and the device of this one."""
    several = int(os.environ.get("WORLD_SIZE", "1")) > 1
    accelerator = Accelerator(mixed_precision="no", cpu=not several or device == "cpu")
    return accelerator, accelerator.device if several else device_of(device)


def device_of(name: str) -> torch.device:
    """The device of a training in one process."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise CareError(f"--device {name} is refused: torch sees no CUDA card. Take --device cpu.")
    return torch.device(name)
