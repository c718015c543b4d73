"""CARE, CLIP-ReID and CLIP-FT: losses, words and prototypes against plain NumPy, and what learns in each phase."""

from __future__ import annotations

import json
import math
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open

from care_cli import clip, encoders, registry
from care_cli.errors import CareError
from care_cli.stages import train_settings
from care_cli.stages.train_settings import TrainRequest
from care_cli.training import care, clip_reid, clip_towers, loop, methods, prompts
from care_cli.training.alignment import Aligned, Prototypes
from care_cli.training.config import TextConfig, TrainConfig
from care_cli.training.data import LabelledCrops
from care_cli.training.losses import batch_hard, contrast
from tests.gradients import moved
from tests.miniatures import SMALL_CLIP, small_clip

RNG = np.random.default_rng(5)
NAMES = ("Ash", "Zoë-Ⅳ 🐾", "Luna", "Kea", "Moss", "Tui")
KINDS = ("stoat", "stoat", "brushtail possum", "kea", "animal", "stoat")


def animals(each: int = 4, count: int = 6) -> LabelledCrops:
    """Photos of `count` animals, each a pattern of its own under noise."""
    rng = np.random.default_rng(2)
    patterns = rng.integers(0, 255, (count, 64, 32, 3))
    photos = np.clip(np.repeat(patterns, each, 0) + rng.normal(0, 20, (count * each, 64, 32, 3)), 0, 255)
    return LabelledCrops(photos.astype(np.uint8), np.repeat(np.arange(count), each), names=NAMES[:count],
                         animals=KINDS[:count])  # fmt: skip


def configured(method: str, text: dict | None = None, **changed: object) -> TrainConfig:
    small = {"backbone": "care_clip", "options": SMALL_CLIP, "input_size": (64, 32), "individuals": 3, "epochs": 2,
             "precision": "float32"}  # fmt: skip
    cfg = methods.configure(method, **{**small, **changed})
    return replace(cfg, text=replace(cfg.text, **{"epochs": 2, "batch": 8, **(text or {})}))


# -- losses, against NumPy


def softmax_rows(logits: np.ndarray) -> np.ndarray:
    shifted = np.exp(logits - logits.max(1, keepdims=True))
    return shifted / shifted.sum(1, keepdims=True)


def test_the_contrast_is_equation_5_term_by_term() -> None:
    photos, texts, labels = RNG.normal(size=(7, 5)), RNG.normal(size=(7, 5)), np.array([0, 1, 0, 2, 1, 0, 3])
    unit = [x / np.linalg.norm(x, axis=1, keepdims=True) for x in (photos, texts)]
    total = 0.0
    for i in range(7):
        likely = [math.exp(12 * unit[0][i] @ unit[1][a]) for a in range(7)]
        own = [p for p in range(7) if labels[p] == labels[i]]
        total -= sum(math.log(likely[p] / sum(likely)) for p in own) / len(own) / 7
    found = contrast(*map(torch.tensor, unit), torch.tensor(labels), scale=12.0)
    assert float(found) == pytest.approx(total, rel=1e-5)


def test_the_contrast_is_in_full_precision_whatever_the_training_computes_in() -> None:
    learner, text, _ = side(TextConfig())
    training = prompts.PromptTraining(learner, text)
    photos, labels = 10 * torch.randn(6, 32), torch.tensor([0, 0, 3, 2, 3, 0])
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        terms = training(photos, None, labels)
        said = text(*learner(photos, labels)).double()
    unit = [torch.nn.functional.normalize(x) for x in (photos.double(), said)]
    for (rows, columns), term in zip((unit, unit[::-1]), terms.values(), strict=True):
        likely = torch.log_softmax(text.scale * rows @ columns.T, 1)
        same = (labels[:, None] == labels[None]).double()
        assert float(term) == pytest.approx(float(-((same * likely).sum(1) / same.sum(1)).mean()), rel=1e-5)


def test_a_photo_alone_in_its_batch_teaches_nothing() -> None:
    """Why the batch of one that the authors' earlier code has is not offered."""
    one = torch.randn(1, 5)
    assert float(contrast(one, torch.randn(1, 5), torch.tensor([3]))) == 0.0
    with pytest.raises(CareError, match=r"text\.batch is at least 2"):
        TextConfig(batch=1)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 3), min_size=2, max_size=9), st.integers(0, 2**16), st.sampled_from([None, 0.0, 0.7]))
def test_batch_hard_mining_against_brute_force(labels: list[int], seed: int, margin: float | None) -> None:
    x = np.random.default_rng(seed).normal(size=(len(labels), 4))
    losses = []
    for a in range(len(labels)):
        positives = [np.linalg.norm(x[a] - x[p]) for p in range(len(labels)) if labels[p] == labels[a] and p != a]
        negatives = [np.linalg.norm(x[a] - x[n]) for n in range(len(labels)) if labels[n] != labels[a]]
        if positives and negatives:
            gap = max(positives) - min(negatives)
            losses.append(math.log1p(math.exp(gap)) if margin is None else max(0.0, gap + margin))
    found = batch_hard(torch.tensor(x, requires_grad=True), torch.tensor(labels), margin=margin)
    assert float(found.detach()) == pytest.approx(np.mean(losses) if losses else 0.0, abs=1e-4)
    found.backward()  # also where nothing can be mined, and where two photos are the same


def test_two_photos_that_are_the_same_have_a_gradient() -> None:
    x = torch.ones(4, 3, requires_grad=True)
    batch_hard(x, torch.tensor([0, 0, 1, 1])).backward()
    assert x.grad.isfinite().all()


def test_phase_2_is_the_weighted_sum_of_equations_8_to_10() -> None:
    """Each term from the features by hand: smoothed cross-entropy of two necks, three triplets, the prototypes."""
    torch.manual_seed(3)
    cfg = configured("care", class_weight=0.25, triplet_weight=2.0, prototype_weight=0.5, smoothing=0.1)
    bank = torch.randn(6, 32)
    learner = Aligned(cfg, 6, methods.plain(cfg), Prototypes(bank, 9.0, True)).train()
    images, labels = torch.randn(8, 3, 64, 32), torch.tensor([0, 0, 1, 1, 4, 4, 5, 5])
    with torch.no_grad():
        seen = [x.numpy().astype(np.float64) for x in vars(learner.embedder.features(images)).values()]
        terms = {name: float(value) for name, value in learner(images, None, labels).items()}
    y = labels.numpy()

    def smoothed(logits: np.ndarray, share: float = 0.1) -> float:
        target = np.full((8, 6), share / 6)
        target[np.arange(8), y] += 1 - share
        return float(-(target * np.log(softmax_rows(logits))).sum(1).mean())

    ids = 0.0
    for x, layer in zip(seen[1:], learner.heads.classifiers, strict=True):
        normed = (x - x.mean(0)) / np.sqrt(x.var(0) + 1e-5)
        ids += smoothed(normed @ layer.weight.detach().numpy().T)
    assert terms["class"] == pytest.approx(0.25 * ids, rel=1e-4)
    assert terms["triplet"] == pytest.approx(
        2.0 * sum(float(batch_hard(torch.tensor(x), labels, margin=0.7)) for x in seen), rel=1e-4
    )
    unit = seen[2] / np.linalg.norm(seen[2], axis=1, keepdims=True)
    rows = bank.numpy() / np.linalg.norm(bank.numpy(), axis=1, keepdims=True)
    assert terms["prototype"] == pytest.approx(0.5 * smoothed(9.0 * unit @ rows.T), rel=1e-4)
    learner.cfg = replace(cfg, prototype_smoothing=0.0)  # equation 10 as it is printed
    with torch.no_grad():
        terms = {name: float(value) for name, value in learner(images, None, labels).items()}
    assert terms["prototype"] == pytest.approx(0.5 * smoothed(9.0 * unit @ rows.T, 0.0), rel=1e-4)
    assert terms["class"] == pytest.approx(0.25 * ids, rel=1e-4)


def test_the_weights_have_the_three_presets() -> None:
    told = {name: methods.configure("care", presets=(name,)) for name in ("code", "literal", "toolkit")}
    weights = {name: (c.class_weight, c.triplet_weight, c.prototype_weight) for name, c in told.items()}
    usual = methods.configure("care")
    assert (usual.class_weight, usual.triplet_weight, usual.prototype_weight) == (0.25, 1.0, 1.0)
    assert weights == {"code": (0.25, 1.0, 1.0), "literal": (1.0, 1.0, 1.0), "toolkit": (0.3, 1.0, 0.7)}
    words = methods.configure("care", presets=("words-tiger", "tiger")).text
    assert (words.learning_rate, words.epochs, words.batch, words.tokens) == (4.5e-4, 10, 64, 4)
    assert methods.configure("clip-reid", text={"tokens": 8}).text == replace(clip_reid.TEXT, tokens=8)
    assert told["toolkit"].embedding == "proj" and usual.embedding == "both"
    assert told["literal"].prototype_smoothing == 0 and told["literal"].smoothing == 0.1


@pytest.mark.parametrize(
    "wrong",
    [{"weight_decay": -1.0}, {"warmup": -3.0}, {"least_rate": -1.0}, {"epochs": math.inf}, {"learning_rate": math.nan}],
)
def test_numbers_of_the_text_side_out_of_range_are_refused(wrong: dict) -> None:
    [name] = wrong
    with pytest.raises(CareError, match=rf"text\.{name} is (above|at least) 0, got "):
        TextConfig(**wrong)


@pytest.mark.parametrize(
    ("preset", "rate", "batch", "epochs"),
    [("tiger", 5e-6, 32, 55), ("cattle", 8e-6, 32, 60), ("lion", 8e-6, 32, 60), ("dog", 8e-6, 32, 30),
     ("panda", 8e-6, 64, 80), ("nyala", 8e-6, 64, 80), ("sea-star", 5e-6, 64, 65), ("stoat", 8e-6, 16, 50)],
)  # fmt: skip
def test_schedules_by_data_set(preset: str, rate: float, batch: int, epochs: float) -> None:
    cfg = methods.configure("care", presets=(preset, "square-224"))
    assert (cfg.learning_rate, cfg.individuals * cfg.photos, cfg.epochs) == (rate, batch, epochs)
    assert cfg.photos == 4 and cfg.milestones == (30.0, 50.0) and cfg.warmup == 10 and cfg.triplet_margin == 0.7
    assert cfg.input_size == 224 and cfg.mean[0] == pytest.approx(0.4815, abs=1e-4)
    portrait = methods.configure("care")
    assert portrait.input_size == (256, 128) and portrait.mean == (0.5, 0.5, 0.5)
    assert portrait.augmentation.flip == 0.5 and portrait.augmentation.pad == 10


def test_a_clip_of_ours_goes_on_seeing_what_it_saw_unless_another_input_is_said(tmp_path: Path) -> None:
    """Its header lies over the method's recipe, which has portraits of 256 x 128 px, and under what is asked for."""
    header = {"method": "care", "architecture": "care_clip", "options": SMALL_CLIP, "input_size": (64, 32),
              "mean": [0.4] * 3, "std": [0.3] * 3}  # fmt: skip
    encoders.save_embedder(small_clip(), tmp_path / "own.safetensors", header)
    spec = registry.find(tmp_path / "own.safetensors", task="embedder")
    cfg = train_settings.settings_of(TrainRequest("care"), spec)
    assert (cfg.input_size, cfg.mean, cfg.std) == ((64, 32), (0.4,) * 3, (0.3,) * 3)
    assert train_settings.settings_of(TrainRequest("care", settings={"input_size": 48}), spec).input_size == 48
    square = train_settings.settings_of(TrainRequest("care", ("square-224",)), spec)
    assert square.input_size == 224 and square.mean == clip_towers.CLIP_MEAN


# -- phase 1: words


def side(cfg: TextConfig, names: tuple[str, ...] = NAMES, kinds: tuple[str, ...] = KINDS):
    text = clip.TextTower(small_clip())
    torch.manual_seed(1)
    said: list[str] = []
    return prompts.PromptLearner(text, cfg, names, kinds, said.append), text, said


def test_a_prompt_reads_as_the_paper_says() -> None:
    encode = clip.tokenizer()
    words, ends = prompts.tokenized(TextConfig(), NAMES, KINDS, 77, print)
    assert encode.decode([token for token in words[2].tolist() if token]) == (
        "<start_of_text>a photo of a brushtail possum . <end_of_text>"
    )
    assert words[2, 5:9].tolist() == [0, 0, 0, 0] and words[2, 9] != 0  # room for v_1..v_4
    assert [int(words[i, end]) for i, end in enumerate(ends)] == [encode.eot_token_id] * 6
    named, _ = prompts.tokenized(TextConfig(identity="text"), NAMES, KINDS, 77, print)
    assert encode.decode([token for token in named[3].tolist() if token]).endswith("kea kea . <end_of_text>")


def test_without_a_meta_net_a_prompt_is_the_animals_own_and_with_one_the_photos() -> None:
    photos, labels = torch.randn(4, 32), torch.tensor([1, 1, 0, 2])
    plain, text, _ = side(TextConfig(meta_net=False))
    vectors, _ = plain(photos, labels)
    assert torch.equal(vectors[0], vectors[1]) and not torch.equal(vectors[0], vectors[2])
    assert torch.equal(vectors[0, 5:9], plain.tokens[1])
    shifted, _, _ = side(TextConfig())
    vectors, _ = shifted(photos, labels)
    first, second = (row[5:9] - shifted.tokens[1] for row in vectors[:2])
    assert torch.allclose(first, first[:1].expand(4, -1), atol=1e-6)  # the same shift of all w tokens
    w1, w2 = shifted.meta_net[0], shifted.meta_net[2]
    unit = photos[0].numpy() / np.linalg.norm(photos[0])
    hidden = np.maximum(w1.weight.detach().numpy() @ unit + w1.bias.detach().numpy(), 0)
    by_hand = w2.weight.detach().numpy() @ hidden + w2.bias.detach().numpy()
    assert first[0].detach().numpy() == pytest.approx(by_hand, abs=1e-6)
    assert not torch.allclose(first, second)
    assert torch.equal(vectors[0, :5], shifted.words[1, :5]) and text.width == 32


def test_the_three_readings_of_where_identity_enters() -> None:
    photos = torch.zeros(2, 32)
    for identity, owners, alike in (("context", 6, False), ("text", 1, False), ("both", 6, False)):
        one, _, _ = side(TextConfig(identity=identity, meta_net=False))
        assert one.tokens.shape == (owners, 4, 32)
        vectors, _ = one(photos, torch.tensor([0, 5]))  # two stoats
        assert torch.equal(vectors[0], vectors[1]) == alike
        assert torch.equal(vectors[0, 9:], vectors[1, 9:]) == (identity == "context")  # the words that stand
    with pytest.raises(CareError, match=r"text\.identity is context, text, both"):
        TextConfig(identity="name")


def test_names_that_clip_cannot_hold_are_cut_and_said() -> None:
    long = ("Ash", "ash", "", "\u0000\u200b", "a " * 200, "Ⅳ🐾" * 40)
    _, _, said = side(TextConfig(identity="both"), names=long)
    assert len(said) == 1 and "2 names are too long for CLIP's 77 tokens" in said[0]
    one, text, said = side(TextConfig(identity="text"), names=long)
    assert any("read like others" in line for line in said)
    features = text(*one(torch.zeros(6, 32), torch.arange(6)))
    assert features.isfinite().all()
    with pytest.raises(CareError, match=r"text\.tokens is from 1 to 64"):
        TextConfig(tokens=80)
    with pytest.raises(CareError, match="leave no room for words"):
        prompts.tokenized(TextConfig(tokens=60), NAMES, KINDS, 44, print)


def test_equations_5_and_6_are_clip_reids_losses_when_the_meta_net_is_zero() -> None:
    """CLIP-ReID: each identity has one text; a photo tells it from the texts of the batch, a text its photos."""
    cfg = TextConfig(similarity="dot")
    described, text, _ = side(cfg)
    with torch.no_grad():
        for parameter in described.meta_net.parameters():
            parameter.zero_()
    photos, labels = torch.randn(6, 32), torch.tensor([0, 0, 3, 2, 3, 0])
    with torch.no_grad():
        terms = prompts.PromptTraining(described, text)(photos, None, labels)
        one_text = text(*described(torch.zeros(6, 32), torch.arange(6))).numpy()  # of each identity, no photo asked
    logits = photos.numpy() @ one_text[labels.numpy()].T
    same = labels.numpy()[:, None] == labels.numpy()[None]
    by_hand = [-np.mean([np.log(p[own]).mean() for p, own in zip(softmax_rows(side_), same, strict=True)])
               for side_ in (logits, logits.T)]  # fmt: skip
    assert float(terms["image_to_text"]) == pytest.approx(by_hand[0], rel=1e-5)
    assert float(terms["text_to_image"]) == pytest.approx(by_hand[1], rel=1e-5)


@pytest.mark.parametrize("normalize_first", [False, True])
def test_prototypes_are_the_means_of_the_prompts_features(normalize_first: bool) -> None:
    described, text, _ = side(TextConfig(normalize_first=normalize_first))
    labels = np.array([2, 0, 5, 0, 2, 2, 1, 3, 4])
    photos = RNG.normal(size=(9, 32)).astype(np.float32)
    texts, bank = prompts.text_bank(described, text, photos, labels)
    for label in range(6):
        own = []
        for row in np.flatnonzero(labels == label):
            with torch.no_grad():
                one = text(*described(torch.tensor(photos[row : row + 1]), torch.tensor([label])))[0].numpy()
            own.append(one / np.linalg.norm(one) if normalize_first else one)
        assert bank[label] == pytest.approx(np.mean(own, 0), abs=1e-5)
    assert texts.shape == (9, 32)


# -- what learns


def test_phase_1_updates_tokens_and_meta_net_alone() -> None:
    described, text, _ = side(TextConfig())
    learner = prompts.PromptTraining(described, text)
    found = moved(learner, torch.randn(6, 32), None, torch.arange(6))
    assert found == {"embedder.tokens", *(f"embedder.meta_net.{n}.{w}" for n in (0, 2) for w in ("weight", "bias"))}
    assert found == {name for name, _ in learner.named_parameters()}  # all that an optimizer gets


def test_phase_2_updates_the_image_tower_necks_and_classifiers_and_no_prototype() -> None:
    cfg = configured("care")
    learner = Aligned(cfg, 6, methods.plain(cfg), Prototypes(torch.randn(6, 32), 9.0, True))
    found = moved(learner, torch.randn(6, 3, 64, 32), None, torch.tensor([0, 0, 1, 1, 2, 2]))
    trained = {name for name, parameter in learner.named_parameters() if parameter.requires_grad}
    assert found == trained
    assert {name for name, _ in learner.named_parameters()} - trained == {"heads.necks.0.bias", "heads.necks.1.bias"}
    assert not any(name.startswith("prototypes") for name in found)


# -- both phases


@pytest.mark.parametrize("method", ["care", "clip-reid"])
def test_words_are_learned_by_the_papers_schedule(method: str) -> None:
    """Up from nothing in 5 epochs, then half a cosine down to 1e-6, whatever phase 2 does."""
    cfg = care.phase_1(methods.configure(method))
    assert (cfg.optimizer, cfg.bias_rate, cfg.weight_decay, cfg.epochs) == ("adam", 1, 1e-4, 120)
    assert (cfg.sampler, cfg.individuals * cfg.photos * cfg.accumulate) == ("shuffle", 64)
    rates = [cfg.learning_rate * loop.rate_at(step, 1200, cfg) for step in (0, 49, 625, 1200)]  # 10 steps an epoch
    assert rates == pytest.approx([3.5e-4 / 50, 3.5e-4, (3.5e-4 + 1e-6) / 2, 1e-6])


def between_phases(data: LabelledCrops, cfg: TrainConfig, start: dict, monkeypatch: pytest.MonkeyPatch):
    """Of a training: the settings of phase 1, what that learned, and phase 2's learner as its first batch finds it."""
    train, ended = loop.train, []

    def phase(data: LabelledCrops, cfg: TrainConfig, *given: object, **how: object) -> loop.Trained:
        done = train(data, cfg, *given, **how)
        ended.extend([cfg, done.model])
        return done

    def begun(learner: Aligned, *batch: object) -> None:
        ended.append(learner)
        raise KeyboardInterrupt

    monkeypatch.setattr(loop, "train", phase)
    monkeypatch.setattr(Aligned, "forward", begun)
    with pytest.raises(KeyboardInterrupt):
        methods.train(data, cfg, start=start, device="cpu")
    return ended


@pytest.mark.parametrize(("method", "scale", "unit"), [("care", 31.0, True), ("clip-reid", 1.0, False)])
def test_phase_2_begins_from_clip_and_from_what_the_learned_words_say(
    method: str, scale: float, unit: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """CLIP's weights bit for bit, the means of learned prompts, and CLIP's temperature: at 1 cosines teach nothing."""
    data, cfg, start = animals(), configured(method, {"learning_rate": 0.1}), small_clip(seed=7)
    start.logit_scale.data.fill_(math.log(31))
    weights = start.state_dict()
    settings_1, learned, learner = between_phases(data, cfg, weights, monkeypatch)
    assert settings_1 == care.phase_1(cfg)

    tower = learner.embedder.state_dict()
    assert tower.keys() == {name for name in weights if not clip.is_text(name)}
    assert all(torch.equal(tensor, weights[name]) for name, tensor in tower.items())

    with torch.no_grad():
        photos = start(torch.from_numpy(data.photos).permute(0, 3, 1, 2) / 127.5 - 1)
    text = clip.TextTower(start)

    def bank(described: prompts.PromptLearner) -> np.ndarray:
        with torch.no_grad():
            texts = text(*described(photos, torch.from_numpy(data.labels))).numpy()
        means = np.stack([texts[data.labels == one].mean(0) for one in range(6)])
        return means / np.linalg.norm(means, axis=1, keepdims=True) if unit else means

    torch.manual_seed(cfg.seed)
    untrained = prompts.PromptLearner(text, cfg.text, data.names, data.animals)
    found = learner.prototypes
    assert found.bank.numpy() == pytest.approx(bank(learned), abs=1e-5)
    assert np.abs(bank(learned) - bank(untrained)).max() > 0.01
    assert (found.scale, found.unit) == (pytest.approx(scale), unit)


def test_care_learns_in_two_phases_and_goes_on_bit_by_bit(tmp_path: Path) -> None:
    data, cfg = animals(), configured("care", epochs=4)
    whole = methods.train(data, cfg, tmp_path / "whole", device="cpu")
    with pytest.raises(KeyboardInterrupt):
        methods.train(data, cfg, tmp_path / "parts", device="cpu", save_every=1, report=_stop(3))
    rest = methods.train(data, cfg, tmp_path / "parts", device="cpu")
    assert rest.resumed_from == 3
    for name, tensor in whole.model.state_dict().items():
        assert torch.equal(tensor, rest.model.state_dict()[name]), name
    told = {path.relative_to(tmp_path / "whole").as_posix() for path in (tmp_path / "whole").rglob("*.safetensors")}
    assert told == {"last.safetensors", "prototypes.safetensors", "descriptions/last.safetensors",
                    "descriptions/features.safetensors"}  # fmt: skip
    rows = (tmp_path / "whole/descriptions/history.jsonl").read_text().splitlines()
    first = [json.loads(row)["loss"] for row in rows]
    assert np.mean(first[-3:]) < np.mean(first[:3])


def test_trainings_that_differ_in_phase_2_alone_have_one_phase_1(tmp_path: Path) -> None:
    """As the rows of the paper's table of margins; what the second one takes over is what it would have learned."""
    data = animals()
    methods.train(data, configured("care", triplet_margin=0.7), tmp_path / "some/first", device="cpu")
    other = configured("care", triplet_margin=0.1, class_weight=1.0)
    beside = methods.train(data, other, tmp_path / "some/second", device="cpu")
    alone = methods.train(data, other, tmp_path / "other/second", device="cpu")
    for name, tensor in alone.model.state_dict().items():
        assert torch.equal(tensor, beside.model.state_dict()[name]), name

    longer = configured("care", {"epochs": 3})
    methods.train(data, longer, tmp_path / "some/third", device="cpu")
    told = [(tmp_path / place / "descriptions/history.jsonl").read_text("utf-8")  # with the speed of each step
            for place in ("some/first", "some/second", "other/second", "some/third")]  # fmt: skip
    assert told[0] == told[1] and len(set(told)) == 3


def test_the_furthest_phase_1_is_taken_over_without_what_is_being_written(tmp_path: Path) -> None:
    data, cfg = animals(), configured("care")
    methods.train(data, cfg, tmp_path / "z-whole", device="cpu")
    whole = tmp_path / "z-whole/descriptions"
    (tmp_path / "a-begun/descriptions").mkdir(parents=True)
    shutil.copy(whole / "features.safetensors", tmp_path / "a-begun/descriptions")
    (whole / "last.safetensors.part").symlink_to(tmp_path / "nowhere")  # gone by the time that it is looked for
    (tmp_path / "new/descriptions").mkdir(parents=True)  # killed before it had seen a photo
    methods.train(data, replace(cfg, triplet_margin=0.1), tmp_path / "new", device="cpu")
    assert (tmp_path / "new/descriptions/history.jsonl").read_bytes() == (whole / "history.jsonl").read_bytes()
    assert not list(tmp_path.glob("new/*.part")) and not list(tmp_path.glob("new/descriptions/*.part"))


def _stop(step: int):
    def report(row: dict) -> None:
        if row["step"] == step:
            raise KeyboardInterrupt

    return report


def test_the_image_encoder_sees_each_photo_once_in_phase_1(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data, cfg, counted = animals(), configured("clip-reid"), []
    forward = clip.Clip.forward
    monkeypatch.setattr(clip.Clip, "forward", lambda self, images: counted.append(len(images)) or forward(self, images))
    for _ in range(2):  # and not again when the training goes on
        care.learn_prototypes(data, cfg, clip_towers.whole(cfg, None, None), tmp_path, device="cpu")
        assert sum(counted) == len(data.labels)


def test_prototypes_are_written_with_whose_they_are(tmp_path: Path) -> None:
    data, cfg = animals(), configured("care")
    methods.train(data, cfg, tmp_path, device="cpu")
    with safe_open(tmp_path / "prototypes.safetensors", "pt") as stream:
        header = json.loads(stream.metadata()["care"])
        text, labels, bank = (stream.get_tensor(name).numpy() for name in ("text", "labels", "bank"))
    assert header["individuals"] == list(NAMES)
    assert bank == pytest.approx(np.stack([text[labels == one].mean(0) for one in range(6)]), abs=1e-5)


def test_what_has_no_text_tower_is_refused_with_what_to_do() -> None:
    without = {name: value for name, value in small_clip().state_dict().items() if name.startswith("visual.")}
    for method in ("care", "clip-reid"):
        with pytest.raises(CareError, match=r"w.pt has no text tower, .* --method clip-ft"):
            methods.train(animals(), configured(method), start=without, start_file=Path("w.pt"), device="cpu")
    other = small_clip().state_dict() | {"token_embedding.weight": torch.zeros(99, 32)}
    with pytest.raises(CareError, match=r"w.pt do not fit the model: they differ in shape in token_embedding"):
        methods.train(animals(), configured("care"), start=other, start_file=Path("w.pt"), device="cpu")
    done = methods.train(animals(), configured("clip-ft"), start=without, start_file=Path("w.pt"), device="cpu")
    assert done.history[-1]["triplet"] > 0
    with pytest.raises(CareError, match="is trained by care, clip-reid or clip-ft; vit takes"):
        methods.architecture(configured("vit"))
    with pytest.raises(CareError, match="no model 'vit_small_patch16_224'"):
        methods.train(animals(), configured("care", backbone="vit_small_patch16_224", options={}), device="cpu")


def test_identities_with_one_photo_and_batches_without_positives_are_learned_from() -> None:
    data = animals()
    single = LabelledCrops(data.photos[::4], np.arange(6), names=NAMES, animals=KINDS)
    said: list[str] = []
    done = methods.train(single, configured("care"), device="cpu", notice=said.append)
    assert all(math.isfinite(row["loss"]) for row in done.history)
    assert all(row["triplet"] > 0 for row in done.history)  # each is its own match
    assert not any("triplet loss has nothing to compare" in line for line in said)
    alone = configured("care", individuals=4, photos=1)  # no batch holds a pair, though the animals have four photos
    done = methods.train(data, alone, device="cpu", notice=said.append)
    assert all("triplet" not in row and math.isfinite(row["loss"]) for row in done.history)
    assert any("triplet loss has nothing to compare" in line for line in said)


def test_words_that_nothing_would_be_aligned_to_are_not_learned() -> None:
    with pytest.raises(CareError, match="--method clip-ft, which does without"):
        methods.train(animals(), configured("care", prototype_weight=0.0), device="cpu")


def test_what_animals_are_called_belongs_to_a_training_that_describes_them(tmp_path: Path) -> None:
    data, cfg = animals(), configured("care")
    methods.train(data, cfg, tmp_path, device="cpu")
    with pytest.raises(CareError, match="differs in data"):
        methods.train(replace(data, animals=("goat",) * 6), cfg, tmp_path, device="cpu")
    methods.train(data, configured("clip-ft"), tmp_path / "ft", device="cpu")
    again = methods.train(replace(data, animals=("goat",) * 6), configured("clip-ft"), tmp_path / "ft", device="cpu")
    assert again.resumed_from is not None
