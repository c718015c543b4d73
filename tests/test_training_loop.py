"""The training loop: methods, repeatability, going on after a stop, and what bad input gets."""

from __future__ import annotations

import json
import math
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import settings as settings_of
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import load_file

from care_cli.encoders import build_backbone
from care_cli.errors import CareError
from care_cli.records import KeypointScheme
from care_cli.training import methods, precision
from care_cli.training.augment import NOTHING, Augmentation
from care_cli.training.batches import bites, prepared
from care_cli.training.config import TrainConfig
from care_cli.training.data import LabelledCrops
from care_cli.training.loop import Trained, _optimizer, rate_at, train
from care_cli.training.sampling import shuffled

SIDE = 32  # px
SCHEME = KeypointScheme(("left_eye", "tail", "right_eye"), {"left_eye": "right_eye", "right_eye": "left_eye"})


def colours(individuals: int = 6, photos: int = 4, points: bool = False) -> LabelledCrops:
    """Crops of individuals that differ in colour, with points that differ from photo to photo."""
    rng = np.random.default_rng(3)
    base = rng.integers(40, 215, (individuals, 1, 1, 1, 3))
    noise = rng.integers(-20, 20, (individuals, photos, SIDE, SIDE, 3))
    crops = (base + noise).clip(0, 255).astype(np.uint8).reshape(-1, SIDE, SIDE, 3)
    labels = np.repeat(np.arange(individuals), photos)
    if not points:
        return LabelledCrops(crops, labels)
    places = np.concatenate([rng.random((len(crops), 3, 2)), np.ones((len(crops), 3, 1))], 2)
    return LabelledCrops(crops, labels, places.astype(np.float32), SCHEME)


def settings(method: str = "vit", **given) -> TrainConfig:
    """A tiny backbone, and steps of two batches of four individuals with two photos."""
    small = {"backbone": "test_vit", "input_size": SIDE, "individuals": 4, "photos": 2, "accumulate": 2, "epochs": 4}
    return methods.configure(method, **{**small, "augmentation": Augmentation(), **given})


def weights(trained: Trained) -> dict[str, torch.Tensor]:
    return trained.model.state_dict()


def same(one: Trained, other: Trained) -> bool:
    """Bit by bit."""
    a, b = weights(one), weights(other)
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def losses(trained: Trained) -> list[float]:
    return [row["loss"] for row in trained.history if "loss" in row]


# -- what is learned


@pytest.mark.parametrize("method", ["vit", "kpe", "ckpe", "wildlife"])
def test_the_same_seed_gives_the_same_weights(method: str) -> None:
    data = colours(points=True)
    one, again, other = (train(data, settings(method, seed=seed)) for seed in (1, 1, 2))
    assert losses(one) == losses(again) and same(one, again)
    assert not same(one, other)


def test_training_lowers_the_loss() -> None:
    cfg = settings(epochs=30, augmentation=NOTHING, arc_scale=16.0, arc_margin=0.0, optimizer="adamw")
    found = losses(train(colours(), cfg))
    assert np.mean(found[-5:]) < 0.7 * np.mean(found[:5])


def test_a_step_is_that_of_the_formula() -> None:
    """One step of SGD without momentum: weights less rate times the gradient of the mean loss of both batches."""
    data, cfg = colours(), settings(epochs=16 / 24, augmentation=NOTHING, momentum=0.0, precision="float32", neck=False)
    trained = train(data, cfg)
    torch.manual_seed(cfg.seed)
    learner = methods.build(cfg, 6, None)
    first, second = prepared(data, cfg, 0, 1, torch.device("cpu"))
    learner.train()
    loss = sum(sum(learner(batch.images, None, batch.labels).values()) for batch in (first, second)) / 2
    loss.backward()
    expected = {n: p - cfg.learning_rate * p.grad for n, p in learner.embedder.named_parameters()}
    assert len(losses(trained)) == 1 and losses(trained)[0] == pytest.approx(loss.item(), rel=1e-5)
    for name, value in weights(trained).items():
        assert torch.allclose(value, expected[name], atol=1e-6), name


def test_the_loss_is_the_sum_of_its_terms_worked_in_numpy() -> None:
    cfg = settings(arc_weight=0.7, triplet_weight=0.5, class_weight=0.2, arc_scale=8.0, arc_margin=0.3, neck=False)
    torch.manual_seed(0)
    learner = methods.build(cfg, 3, None)
    labels = torch.tensor([0, 0, 1, 2])
    z = torch.randn(4, learner.centres.shape[1])
    with torch.no_grad():
        terms = learner.terms(z, labels)
    x, y = z.double().numpy(), labels.numpy()
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    centres = learner.centres.detach().double().numpy()
    cosine = unit @ (centres / np.linalg.norm(centres, axis=1, keepdims=True)).T
    own = np.arange(4), y
    logits = cosine.copy()
    logits[own] = np.cos(np.arccos(cosine[own]) + 0.3)
    arc = -np.log(np.exp(8 * logits)[own] / np.exp(8 * logits).sum(1)).mean()
    linear = x @ learner.classifier.weight.detach().double().numpy().T + learner.classifier.bias.detach().numpy()
    entropy = -np.log(np.exp(linear)[own] / np.exp(linear).sum(1)).mean()
    distance = ((unit[:, None] - unit[None]) ** 2).sum(2)
    pulled = []
    for anchor, positive in ((0, 1), (1, 0)):
        negatives = distance[anchor, 2:]
        farther = negatives[negatives > distance[anchor, positive]]
        negative = farther.min() if len(farther) else negatives.max()
        pulled.append(max(0, distance[anchor, positive] - negative + 0.2))
    expected = {"arcface": 0.7 * arc, "triplet": 0.5 * np.mean(pulled), "class": 0.2 * entropy}
    assert {name: float(value) for name, value in terms.items()} == pytest.approx(expected, abs=1e-5)


def test_wildlife_learns_from_arcface_alone_on_any_backbone() -> None:
    trained = train(colours(), settings("wildlife", backbone="test_efficientnet", epochs=0.5))
    assert set(trained.history[0]) == {"step", "epoch", "loss", "arcface", "rate", "images_per_second"}
    assert trained.history[0]["loss"] == trained.history[0]["arcface"]
    asked = train(colours(), settings("wildlife", backbone="test_efficientnet", epochs=0.5, triplet_weight=0.5))
    assert {"arcface", "triplet"} < set(asked.history[0]) and "class" not in asked.history[0]


def test_points_are_learned_from() -> None:
    """Their embeddings change, without decay; hidden in every photo they stay as they were drawn."""
    data = colours(points=True)
    how = {"weight_decay": 0.5, "optimizer": "adamw"}
    seen, hidden = (train(data, settings("ckpe", keypoint_dropout=chance, **how)) for chance in (0.0, 1.0))
    torch.manual_seed(0)
    drawn = methods.build(settings("ckpe"), 6, SCHEME).embedder.embeddings.detach()
    assert torch.equal(hidden.model.embeddings, drawn)
    assert not torch.allclose(seen.model.embeddings, drawn, atol=1e-4)


@pytest.mark.parametrize(("method", "backbone"), [("vit", "test_vit"), ("ckpe", "test_vit"), ("vit", "test_vit3")])
def test_positions_and_tokens_do_not_decay(method: str, backbone: str) -> None:
    """With all gradients zero, weight decay alone moves weights."""
    learner = methods.build(settings(method, backbone=backbone), 6, SCHEME)
    before = {name: value.detach().clone() for name, value in learner.named_parameters()}
    optimizer = _optimizer(settings(weight_decay=0.5, learning_rate=0.1), learner)
    for parameter in learner.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    kept = {name for name, value in learner.named_parameters() if torch.equal(value, before[name])}
    special = {name for name in before if name.endswith(("pos_embed", "cls_token", "reg_token", ".embeddings"))}
    assert special and special <= kept
    assert not any(name.endswith("qkv.weight") for name in kept) and "centres" not in kept


def test_the_average_of_weights_is_the_result() -> None:
    """With a share of 0 it is the last weights; with 1 - tiny it stays at those after the first step."""
    plain, last, first = (train(colours(), settings(ema=ema)) for ema in (None, 1e-12, 1 - 1e-12))
    one = train(colours(), settings(epochs=4, ema=None), validate=lambda model: {"early": 0.0})
    assert all(torch.allclose(weights(plain)[n], weights(last)[n], atol=1e-6) for n in weights(plain))
    assert not same(plain, first) and same(plain, train(colours(), settings())) and one.best["step"] <= 6


def test_the_neck_is_folded_into_the_model_and_refused_where_it_cannot_be() -> None:
    with pytest.raises(CareError, match="does not end in a norm"):
        train(colours(), settings("wildlife", backbone="test_efficientnet", neck=True))
    cfg = settings("vit", neck=True)
    torch.manual_seed(0)
    learner = methods.build(cfg, 6, None)
    learner.neck.running_mean.normal_()
    learner.neck.running_var.uniform_(0.5, 2.0)
    photos = torch.randn(3, 3, SIDE, SIDE)
    with torch.no_grad():
        learner.eval()
        assert torch.allclose(learner.finished()(photos), learner.neck(learner.embedder(photos)), atol=1e-5)


def test_pretrained_weights_are_begun_from() -> None:
    torch.manual_seed(9)
    backbone = build_backbone("test_vit", img_size=SIDE)
    start = {**backbone.state_dict(), "head.weight": torch.zeros(7, 64), "head.bias": torch.zeros(7)}
    slow = settings("ckpe", learning_rate=1e-12, least_rate=0.0, epochs=0.5)
    trained = train(colours(points=True), slow, start=start)
    again = train(colours(points=True), slow, start=trained.model.state_dict())
    for name, value in backbone.state_dict().items():
        assert torch.allclose(weights(trained)[f"vit.{name}"], value, atol=1e-6), name
    assert torch.allclose(again.model.embeddings, trained.model.embeddings, atol=1e-6)
    with pytest.raises(CareError, match="lack pos_embed"):
        train(colours(), settings(), start={n: t for n, t in start.items() if n != "pos_embed"})


def test_checkpointing_changes_nothing_but_memory() -> None:
    plain, twice = (train(colours(), settings(precision="float32", checkpointing=on)) for on in (False, True))
    assert all(torch.allclose(weights(plain)[n], weights(twice)[n], atol=1e-5) for n in weights(plain))


def test_half_precision_learns() -> None:
    for half in ("bfloat16", "float16"):
        trained = train(colours(), settings(precision=half))
        assert all(math.isfinite(loss) for loss in losses(trained))
        assert all(value.dtype == torch.float32 for value in weights(trained).values())
    with pytest.raises(CareError, match="precision is auto"):
        settings(precision="f8")


def test_the_rate_rises_then_falls_along_a_cosine() -> None:
    cfg = settings(epochs=10, warmup=1, learning_rate=1.0, least_rate=0.0)
    values = [rate_at(step, 100, cfg) for step in range(100)]
    assert values[0] == pytest.approx(0.1) and values[9] == 1.0 and values[10] == 1.0
    assert values[55] == pytest.approx(0.5)
    assert values[99] == pytest.approx(0.5 * (1 + math.cos(math.pi * 89 / 90)))
    cold = replace(cfg, warmup=0.0, learning_rate=0.5, least_rate=0.1)
    assert rate_at(0, 10, cold) == 1.0 and rate_at(5, 10, cold) == pytest.approx(0.6)


def test_the_rate_rises_from_a_share_and_falls_at_milestones() -> None:
    """CLIP-ReID's: 10 of 60 epochs from a tenth; a tenth from epoch 30, a hundredth from 50; 10 steps an epoch."""
    cfg = settings(epochs=60, warmup=10, warmup_from=0.1, milestones=(30.0, 50.0), decay=0.1)
    at = {epoch: rate_at(10 * epoch, 600, cfg) for epoch in (0, 5, 10, 29, 30, 49, 50, 59)}
    assert at[0] == pytest.approx(0.1 + 0.9 / 100) and at[5] == pytest.approx(0.1 + 0.9 * 51 / 100)
    assert [at[epoch] for epoch in (10, 29, 30, 49, 50, 59)] == pytest.approx([1, 1, 0.1, 0.1, 0.01, 0.01])


# -- which model is kept


def test_the_best_model_validated_is_the_result(tmp_path: Path) -> None:
    seen: list[dict[str, torch.Tensor]] = []
    figures = [0.2, 0.9, 0.9, 0.1]

    def validate(model: torch.nn.Module) -> dict[str, float]:
        assert not model.training
        seen.append({name: tensor.clone() for name, tensor in model.state_dict().items()})
        return {"top1": figures[len(seen) - 1], "mAP": 0.5}

    trained = train(colours(), settings(validate_every=1, epochs=4), tmp_path, validate=validate)
    assert len(seen) == 4 and trained.best == {"step": trained.history[4]["step"], "metrics": {"top1": 0.9, "mAP": 0.5}}
    assert all(torch.equal(seen[1][name], value) for name, value in weights(trained).items())
    rows = [json.loads(line) for line in (tmp_path / "history.jsonl").read_text().splitlines()]
    assert rows == trained.history and [row["validation"]["top1"] for row in rows if "validation" in row] == figures
    with Image.open(tmp_path / "curves.png") as picture:
        assert picture.width > picture.height > 300


# -- going on


class Stopped(Exception):
    """The process ends here."""


@pytest.mark.parametrize(
    "how",
    [
        {"method": "vit"},
        {"method": "vit", "precision": "float32", "neck": True, "ema": 0.5, "options": {"drop_path_rate": 0.2}},
        {"method": "ckpe", "optimizer": "adamw", "keypoint_dropout": 0.3},
        {"method": "wildlife", "backbone": "test_efficientnet", "precision": "float16"},
    ],
)
def test_a_stopped_training_goes_on_exactly(tmp_path: Path, how: dict) -> None:
    """At every step once: the same weights, the same history, the same best model."""
    data, cfg = colours(points=True), settings(epochs=4, validate_every=1, **how)

    def validate(model: torch.nn.Module) -> dict[str, float]:
        images = torch.from_numpy(data.photos).permute(0, 3, 1, 2).float() / 255
        with torch.no_grad():
            return {"spread": float(model(images).std())}

    whole = train(data, cfg, tmp_path / "whole", validate=validate)
    steps = whole.history[-1]["step"]
    assert whole.resumed_from is None and steps == 6

    for stop in range(1, steps + 1):

        def stopping(row: dict, stop: int = stop) -> None:
            if row["step"] == stop:
                raise Stopped

        folder = tmp_path / "broken"
        with pytest.raises(Stopped):
            train(data, cfg, folder, validate=validate, report=stopping, save_every=2)
        (folder / "history.jsonl").open("ab").write(b'{"step": 99, "lo')  # half a line, as a kill leaves it
    trained = train(data, cfg, folder, validate=validate)
    assert trained.resumed_from == steps and same(trained, whole) and trained.best == whole.best

    def timeless(rows: list[dict]) -> list[dict]:
        return [{name: value for name, value in row.items() if name != "images_per_second"} for row in rows]

    assert timeless(trained.history) == timeless(whole.history)
    names = {path.name for path in folder.iterdir()}
    assert names == {"history.jsonl", "curves.png", "last.safetensors", "best.safetensors"}


def test_a_training_goes_on_in_its_own_precision_with_its_own_validation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`auto` is what this processor has; on another one it would be something else."""
    monkeypatch.setattr(precision, "has_bf16", lambda: False)
    train(colours(), settings(epochs=0.5), tmp_path, validation="some")
    with pytest.raises(CareError, match=r"validation \(some there, others here\)"):
        train(colours(), settings(epochs=0.5), tmp_path, validation="others")
    monkeypatch.setattr(precision, "has_bf16", lambda: True)
    with pytest.raises(CareError, match=r"settings.precision \(float32 there, bfloat16 here\)"):
        train(colours(), settings(epochs=0.5), tmp_path, validation="some")


def test_another_training_in_the_folder_is_refused(tmp_path: Path) -> None:
    data = colours(points=True)
    train(data, settings(epochs=0.5), tmp_path)
    before = (tmp_path / "last.safetensors").read_bytes()
    others = {
        r"method \(vit there, kpe here\)": (data, settings("kpe", epochs=0.5)),
        r"seed \(0 there, 3 here\)": (data, settings(seed=3, epochs=0.5)),
        "data": (replace(data, photos=255 - data.photos), settings(epochs=0.5)),
    }
    for word, (other, cfg) in others.items():
        with pytest.raises(CareError, match=f"another training, which differs in .*{word}"):
            train(other, cfg, tmp_path)
    assert (tmp_path / "last.safetensors").read_bytes() == before
    (tmp_path / "last.safetensors").write_bytes(before[: len(before) // 2])
    with pytest.raises(CareError, match="no checkpoint of a training"):
        train(data, settings(epochs=0.5), tmp_path)


# -- bad input


def test_what_cannot_be_learned_from_is_refused() -> None:
    data = colours()
    unseen = colours(points=True)
    unseen.beside[..., 2] = 0
    refusals = {
        "at least 2 individuals, got 1": (replace(data, labels=np.zeros(24, np.int64)), settings()),
        "32 x 32 x 3 bytes, got": (replace(data, photos=data.photos[:, ::2, ::2]), settings()),
        "no crop has one": (data, settings("ckpe")),
        "keypoints, but no crop has one": (unseen, settings("kpe")),
        "nothing to learn": (data, settings(arc_weight=0, triplet_weight=0, class_weight=0)),
        "no gradient checkpointing": (data, settings("wildlife", backbone="dla46x_c", checkpointing=True)),
        "no patch tokens": (colours(points=True), settings("ckpe", backbone="test_efficientnet")),
    }
    for word, (crops, cfg) in refusals.items():
        with pytest.raises(CareError, match=word):
            train(crops, cfg)
    with pytest.raises(CareError, match="There is no method 'vlt'"):
        methods.configure("vlt")
    with pytest.raises(CareError, match="no size 'giant'"):
        methods.configure("vit", "giant")
    with pytest.raises(CareError, match="no setting epoch"):
        methods.configure("vit", epoch=3)


@pytest.mark.parametrize(
    ("name", "value", "range"),
    [
        ("optimizer", "lion", "sgd, adam, adamw"),
        ("sampler", "random", "pk, shuffle"),
        ("keypoint_mode", "both", "tokens, pooled"),
        ("epochs", 0.0, "above 0"),
        ("epochs", -1.0, "above 0"),
        ("epochs", math.nan, "above 0"),
        ("learning_rate", -0.1, "above 0"),
        ("least_rate", -0.1, "at least 0"),
        ("individuals", 0, "at least 1"),
        ("photos", 0, "at least 1"),
        ("accumulate", 0, "at least 1"),
        ("validate_every", 0.0, "above 0"),
        ("ema", 2.0, "between 0 and 1"),
        ("warmup", -1.0, "at least 0"),
        ("warmup_from", 1.5, "from 0 to 1"),
        ("smoothing", 1.0, "below 1"),
        ("momentum", 1.0, "below 1"),
        ("clip", 0.0, "above 0"),
    ],
)
def test_settings_out_of_range_are_refused(name: str, value: float | str, range: str) -> None:
    with pytest.raises(CareError, match=f"{name} is .*{range}, got"):
        settings(**{name: value})


def test_small_data_are_learned_from_and_said() -> None:
    said: list[str] = []
    some = colours(3, 1, points=True)
    some.beside[0, :, 2] = 0
    trained = train(some, settings("ckpe", photos=1), notice=said.append)
    assert "triplet" not in trained.history[0] and {"arcface", "class"} < set(trained.history[0])
    expected = ["1 of 3 photos have no visible keypoint", "only 3 individuals", "triplet loss has nothing to compare"]
    assert all(word in text for word, text in zip(expected, said, strict=True))
    assert "triplet" in train(colours(3, 1), settings(photos=2)).history[0]  # a photo is repeated, and its own match


def test_a_rate_that_is_not_reached_is_said() -> None:
    said: list[str] = []
    train(colours(), settings(epochs=1.0, warmup=4.0, warmup_from=0.2), notice=said.append)
    assert len(said) == 1 and "it ends at 40% of" in said[0]
    train(colours(), settings(epochs=1.0, warmup=0.5), notice=said.append)
    assert len(said) == 1


def test_a_loss_that_is_no_number_ends_it_and_the_last_good_checkpoint_stays(tmp_path: Path) -> None:
    cfg = settings(learning_rate=1e25, precision="float32", epochs=20, warmup=10)
    with pytest.raises(CareError, match=r"no longer a number at step \d+: lower the learning rate .*last good"):
        train(colours(), cfg, tmp_path, save_every=1)
    kept = load_file(tmp_path / "last.safetensors")
    assert all(tensor.isfinite().all() for name, tensor in kept.items() if name.startswith("learner."))


class Narrow(torch.nn.Module):
    """A backbone on a card that holds few photos at a time."""

    def __init__(self, holds: int):
        super().__init__()
        self.inner, self.holds, self.passes = build_backbone("test_vit", img_size=SIDE), holds, []

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        if len(images) > self.holds:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        if self.training:
            self.passes.append(len(images))
        return self.inner(images)


def learner(cfg: TrainConfig, classes: int, scheme: KeypointScheme | None) -> methods.Learner:
    """A method whose backbone holds few photos; found here by `methods.METHODS`."""
    return methods.Learner(cfg, classes, Narrow(cfg.options["holds"]))


def test_a_batch_that_memory_does_not_hold_is_halved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(methods.METHODS, "narrow", __name__)
    monkeypatch.setitem(sys.modules, __name__, sys.modules[__name__])
    said: list[str] = []
    wide = settings("narrow", options={"holds": 99}, epochs=2, triplet_weight=0.0, precision="float32")
    narrow = replace(wide, options={"holds": 4})
    whole = train(colours(), wide)
    trained = train(colours(), narrow, tmp_path, notice=said.append)
    assert len(said) == 1 and "at most 4 photos" in said[0] and "4 passes a step instead of 2" in said[0]
    assert set(trained.model.passes) == {4} and set(whole.model.passes) == {8}
    for name, value in weights(whole).items():  # no triplets, no dropout: parts of a batch sum up to the batch
        assert torch.allclose(weights(trained)[name], value, atol=1e-5), name
    said.clear()
    shutil.copytree(tmp_path, tmp_path / "again")
    assert same(train(colours(), narrow, tmp_path / "again", notice=said.append), trained) and not said
    with pytest.raises(CareError, match="Out of memory with 4 photos of 32 px at a time"):
        train(colours(), replace(wide, options={"holds": 1}), notice=said.append)


@pytest.mark.parametrize(("individuals", "photos"), [(16, 4), (15, 4), (4, 1), (2, 9), (3, 2)])
def test_bites_hold_the_batch_and_leave_something_to_compare(individuals: int, photos: int) -> None:
    whose = np.repeat(np.arange(individuals), photos)
    before = 0
    for halvings in range(8):
        parts = bites(individuals, photos, halvings)
        assert sorted(np.concatenate(parts)) == list(range(individuals * photos))
        assert len(parts) >= before
        for part in parts:
            each = np.unique(whose[part], return_counts=True)[1]
            assert len(each) >= 2 and each.min() >= min(2, photos)
        before = len(parts)
    largest = max(map(len, parts))
    assert largest <= 9 and len(bites(16, 4, 1)) == 2


def test_batches_hold_the_same_wherever_they_begin_and_are_dealt_out() -> None:
    data, cfg, cpu = colours(points=True), settings("ckpe", keypoint_dropout=0.5), torch.device("cpu")
    whole = list(prepared(data, cfg, 0, 3, cpu))
    late = list(prepared(data, cfg, 2, 3, cpu))
    halves = [list(prepared(data, replace(cfg, accumulate=1), 0, 3, cpu, place, 2)) for place in (0, 1)]
    assert len(whole) == 6 and len(late) == 2 and len(halves[0]) == 3
    for one, other in [*zip(whole[4:], late, strict=True), *zip(whole[::2], halves[0], strict=True),
                       *zip(whole[1::2], halves[1], strict=True)]:  # fmt: skip
        for name in ("images", "beside", "labels"):
            assert torch.equal(getattr(one, name), getattr(other, name))
    assert not torch.equal(whole[0].images, whole[1].images)
    hidden = torch.cat([batch.beside[..., 2].amax(1) == 0 for batch in whole]).float().mean()
    assert 0.2 < hidden < 0.8


@settings_of(deadline=None, max_examples=30)
@given(count=st.integers(1, 40), batch=st.integers(1, 50), seed=st.integers(0, 9), start=st.integers(0, 7))
def test_shuffled_batches_go_through_all_photos(count: int, batch: int, seed: int, start: int) -> None:
    total = -(-3 * count // batch) + start
    batches = list(islice(shuffled(count, batch, seed), total))
    stream = np.concatenate(batches)
    for first in range(0, len(stream) - count + 1, count):
        assert sorted(stream[first : first + count]) == list(range(count))
    for one, other in zip(batches[start:], shuffled(count, batch, seed, start), strict=False):
        assert np.array_equal(one, other)


WORKER = """
import sys
from pathlib import Path
from safetensors.torch import save_file
sys.path[:0] = [{tests!r}]
from test_training_loop import colours, settings
from care_cli.training.loop import train
import os
trained = train(colours(), settings(accumulate=1, precision="float32", epochs=2), Path({folder!r}), device="cpu")
save_file(trained.model.state_dict(), Path({folder!r}) / f"model-{{os.environ['RANK']}}.safetensors")
"""


@pytest.mark.slow
def test_two_processes_learn_what_one_learns_from_twice_the_batches(tmp_path: Path) -> None:
    """As launchers of several processes do it, over gloo: gradients are averaged, only the first process writes."""
    script = tmp_path / "worker.py"
    script.write_text(WORKER.format(tests=str(Path(__file__).parent), folder=str(tmp_path / "run")), encoding="utf-8")
    (tmp_path / "run").mkdir()
    command = "torch.distributed.run", "--standalone", "--nproc_per_node", "2", script
    path = os.pathsep.join([str(Path(__file__).parent.parent), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
    environment = os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, "-m", *map(str, command)], check=True, env=environment, timeout=300)
    first, second = (load_file(tmp_path / "run" / f"model-{rank}.safetensors") for rank in (0, 1))
    alone = weights(train(colours(), settings(accumulate=2, precision="float32", epochs=2)))
    for name, value in alone.items():
        assert torch.equal(first[name], second[name]) and torch.allclose(first[name], value, atol=1e-5), name
    rows = (tmp_path / "run" / "history.jsonl").read_text().splitlines()
    assert len(rows) == 3


# -- presets


@pytest.mark.parametrize("preset", ["tiny", "small", "base", "large", "huge"])
def test_presets_have_the_papers_batches(preset: str) -> None:
    small, large = methods.configure("ckpe", preset), methods.configure("ckpe", preset, input_size=384)
    for cfg in (small, large):
        assert cfg.individuals * cfg.photos * cfg.accumulate == 128 and cfg.method == "ckpe"
    assert large.individuals * large.photos == 16
    with torch.device("meta"):  # sizes without memory
        model = build_backbone(small.backbone, **methods.architecture(large)[1])
    assert model.patch_embed.img_size == (384, 384) and small.checkpointing == (preset == "huge")
