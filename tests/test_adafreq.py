"""AdaFreq: the filter against NumPy, what is looked at again, both looks' losses, and the finished model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from test_transreid import as_stored, saved, tiny

from care_cli import embedders, registry
from care_cli.errors import CareError
from care_cli.training import adafreq, methods
from care_cli.training.config import FrequencyConfig
from care_cli.training.data import LabelledCrops
from care_cli.training.loop import train
from tests.gradients import moved

SIDE = 52  # px: 4 x 4 patches, 12 px apart


def learner(tokens: int = 5, **given) -> adafreq.AdaFreq:
    torch.manual_seed(3)
    how = FrequencyConfig(tokens=tokens, cutoff=4.0)
    return methods.build(tiny("adafreq", **{"input_size": SIDE, "frequency": how, **given}), 2, None)


# -- the filter


@pytest.mark.parametrize(("height", "width"), [(8, 6), (7, 9)])
def test_the_mixed_picture_is_that_of_the_formula_frequency_by_frequency(height: int, width: int) -> None:
    """(1 - exp(-r^2 / 2 D^2)) at each frequency, 1 within the rectangle; r from signed frequencies, u by u."""
    random = np.random.default_rng(1)
    grey, inside, cutoff = random.random((height, width)), np.zeros((height, width), bool), 1.5
    inside[1:4, 2:5] = True  # of the shifted spectrum: frequency u stands at u + H // 2
    picture = np.zeros((height, width), complex)
    y, x = np.mgrid[:height, :width]
    for row in range(height):
        for column in range(width):
            u, v = row - height // 2, column - width // 2
            wave = np.exp(2j * np.pi * (u * y / height + v * x / width))
            weight = 1.0 if inside[row, column] else 1 - np.exp(-(u**2 + v**2) / (2 * cutoff**2))
            picture += weight * (grey * wave.conj()).sum() * wave / (height * width)
    found = adafreq.mix(torch.from_numpy(grey)[None].float(), torch.from_numpy(inside)[None], cutoff)
    np.testing.assert_allclose(found[0].numpy(), picture.real, atol=1e-5)


def test_an_impulse_shows_the_filter_and_a_plain_picture_vanishes() -> None:
    """An impulse has every frequency alike: what is left of its spectrum is the filter itself."""
    nowhere, size, cutoff = torch.zeros(1, 16, 16, dtype=torch.bool), 16, 3.0
    impulse = torch.zeros(1, 16, 16)
    impulse[0, 0, 0] = 1
    spectrum = np.fft.fft2(adafreq.mix(impulse, nowhere, cutoff)[0].numpy())
    signed = np.fft.fftfreq(size, 1 / size)
    expected = 1 - np.exp(-(signed[:, None] ** 2 + signed**2) / (2 * cutoff**2))
    np.testing.assert_allclose(spectrum, expected, atol=1e-5)
    assert abs(spectrum[0, 0]) < 1e-6 and expected[8, 8] > 0.99
    assert adafreq.mix(torch.full((1, 16, 16), 0.7), nowhere, cutoff).abs().max() < 1e-6
    whole = torch.rand(1, 16, 16)
    torch.testing.assert_close(adafreq.mix(whole, ~nowhere, cutoff), whole)


def test_rectangles_are_cutmixs_and_come_from_torchs_seed() -> None:
    height, width, count = 21, 34, 60
    torch.manual_seed(4)
    found = adafreq.rectangles(count, height, width).numpy()
    torch.manual_seed(4)
    drawn = torch.rand(count, 3).double().numpy()
    for one, (lam, cy, cx) in zip(found, drawn, strict=True):
        side = np.sqrt(1 - 0.5 * lam)
        expected = np.zeros((height, width), bool)
        y, x, h, w = int(cy * height), int(cx * width), int(height * side) // 2, int(width * side) // 2
        expected[max(0, y - h) : y + h, max(0, x - w) : x + w] = True
        assert (one == expected).all()
    assert (
        found.any((1, 2)).all() and 0.3 < found.mean() < 0.6
    )  # much of it: half of a side's 0.85 or so on either hand


def test_the_detail_is_a_picture_like_any_other() -> None:
    """Grey, 0 to 1 before it is normalised as photos are, whatever the photo's light; flat ones stay finite."""
    model, cfg = learner(), tiny("adafreq")
    photo = torch.rand(1, 3, SIDE, SIDE).expand(2, -1, -1, -1) * torch.tensor([1.0, 0.3])[:, None, None, None]
    mean, std = (torch.tensor(values)[:, None, None] for values in (cfg.mean, cfg.std))
    shown = []
    for images in (photo, torch.zeros_like(photo)):
        torch.manual_seed(6)
        shown.append(model.detail((images - mean) / std) * std + mean)
    bright, flat = shown
    assert bright.amin((1, 2, 3)).tolist() == pytest.approx([0, 0], abs=1e-5)
    assert bright.amax((1, 2, 3)).tolist() == pytest.approx([1, 1], abs=1e-4)
    torch.testing.assert_close(bright[:, 0], bright[:, 2], rtol=0, atol=1e-5)
    assert flat.isfinite().all() and flat.abs().max() < 1


# -- the second look


def test_the_patches_are_those_that_the_class_token_attends_to() -> None:
    """By timm's own attention weights of the last block, and by the softmax written out head by head."""
    vit, photos = learner().embedder.eval(), torch.randn(3, 3, SIDE, SIDE)
    last, seen, given = vit.blocks[-1], [], []
    last.attn.qkv.weight.data.mul_(8)  # so that attention is not all alike
    last.attn.fused_attn = False  # timm's slow way shows its weights to a dropout
    last.attn.attn_drop.register_forward_hook(lambda module, args, answer: seen.append(answer))
    last.register_forward_pre_hook(lambda module, args: given.append(args[0]))
    with torch.no_grad():
        vit(photos)
        found = adafreq.most_attended(vit, given[0], 5).numpy()
    weights = seen[0][:, :, 0, 1:].mean(1).numpy()  # (B, N) of heads on average
    expected = np.sort(np.argsort(-weights, 1)[:, :5], 1)
    assert found.tolist() == expected.tolist() and len({tuple(row) for row in found.tolist()}) > 1

    x = last.norm1(given[0]).detach().double().numpy()
    qkv = x @ last.attn.qkv.weight.detach().double().numpy().T + last.attn.qkv.bias.detach().double().numpy()
    by_hand = np.zeros_like(weights, dtype=float)
    for head in range(2):  # of 32 numbers each
        q, k = qkv[:, 0, 32 * head : 32 * (head + 1)], qkv[:, :, 64 + 32 * head : 64 + 32 * (head + 1)]
        power = np.exp(np.einsum("bd,btd->bt", q, k) / np.sqrt(32))
        by_hand += (power / power.sum(1, keepdims=True))[:, 1:] / 2
    np.testing.assert_allclose(by_hand, weights, rtol=1e-4, atol=1e-7)


def test_more_patches_than_there_are_is_all_of_them() -> None:
    vit = learner().embedder
    found = adafreq.most_attended(vit, torch.randn(2, 17, 64), 220)
    assert found.tolist() == [list(range(16))] * 2


def test_the_second_look_begins_as_the_plain_transformer_over_a_subset() -> None:
    """No positions yet: the class token first, then the chosen patches, through the same blocks and norm."""
    model = learner().eval()
    vit, pictures = model.embedder, torch.randn(2, 3, SIDE, SIDE)
    chosen = torch.tensor([[0, 3, 7, 8, 15], [1, 2, 3, 4, 5]])
    with torch.no_grad():
        patches = vit.patch_embed(pictures)
        for number, rows in enumerate(chosen.tolist()):
            tokens = torch.cat([vit.cls_token[0], *(patches[number, row : row + 1] for row in rows)])[None]
            expected = vit.norm(vit.blocks(tokens))
            found = vit.norm(vit.blocks(model.entering_again(pictures, chosen)))[number : number + 1]
            torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)

        model.positions.data = torch.arange(17.0)[None, :, None].expand(1, 17, 64).clone()  # a place's is its number
        placed = model.entering_again(pictures, chosen)
        some = torch.stack([patches[number][rows] for number, rows in enumerate(chosen)])
        plain = torch.cat([vit.cls_token.expand(2, -1, -1), some], 1)
        places = torch.cat([torch.zeros(2, 1), chosen + 1.0], 1)
    torch.testing.assert_close(placed - plain, places[..., None].expand(-1, -1, 64), rtol=0, atol=1e-4)


def test_gradients_reach_everything_but_the_necks_biases_and_places_not_looked_at() -> None:
    model = learner(tokens=3, drop_path=0.0).train()
    found = moved(model, torch.randn(4, 3, SIDE, SIDE), None, torch.tensor([0, 0, 1, 1]))
    without = {name for name, _ in model.named_parameters()} - found
    assert without == {"heads.necks.0.bias", "heads.necks.1.bias"}
    reached = model.positions.grad[0].abs().sum(1) > 0
    assert reached[0] and 3 <= int(reached[1:].sum()) <= 12  # three of each of four photos


# -- what is learned


def test_the_losses_are_those_worked_in_numpy() -> None:
    weights = {"class_weight": 0.9, "triplet_weight": 0.7}
    model = learner(drop_path=0.0, **weights).train()
    photos, labels = torch.randn(5, 3, SIDE, SIDE), np.array([0, 0, 1, 1, 1])
    with torch.no_grad():
        for layer in model.heads.classifiers:
            layer.weight.normal_()
        torch.manual_seed(8)
        terms = model(photos, None, torch.from_numpy(labels))
        torch.manual_seed(8)
        vit = model.embedder
        tokens = vit.blocks[:-1](vit._pos_embed(vit.patch_embed(photos)))
        chosen = adafreq.most_attended(vit, tokens, 5)
        seen = vit.forward_features(photos).double().numpy()
        again = vit.norm(vit.blocks(model.entering_again(model.detail(photos), chosen))).double().numpy()
    there = np.stack([seen[number][1 + rows] for number, rows in enumerate(chosen.numpy())])
    expected = {"alike": 0.1 * _smooth(there - again[:, 1:])}
    for x, layer, end, of_class, of_triplet in (
        (seen[:, 0], model.heads.classifiers[0], "", 0.9, 0.7),
        (again[:, 0], model.heads.classifiers[1], "_detail", 0.1, 0.2),
    ):
        logits = (x - x.mean(0)) / np.sqrt(x.var(0) + 1e-5) @ layer.weight.detach().double().numpy().T
        entropy = np.mean([np.log(np.exp(row).sum()) - row[y] for row, y in zip(logits, labels, strict=True)])
        gaps = []
        for a in range(5):
            far = np.linalg.norm(x - x[a], axis=1)
            own = max(far[p] for p in range(5) if p != a and labels[p] == labels[a])
            gaps.append(np.log1p(np.exp(own - min(far[n] for n in range(5) if labels[n] != labels[a]))))
        expected |= {f"class{end}": of_class * entropy, f"triplet{end}": of_triplet * np.mean(gaps)}
    assert {name: float(value) for name, value in terms.items()} == pytest.approx(expected, rel=1e-4)


def _smooth(difference: np.ndarray) -> float:
    """Smooth L1 at 1, the mean over all."""
    far = np.abs(difference)
    return float(np.where(far < 1, far**2 / 2, far - 0.5).mean())


def test_what_is_drawn_is_the_steps_own() -> None:
    """The same seed gives the same loss, another one another: a training that goes on draws what it would have."""
    model = learner(drop_path=0.0).train()
    photos, found = torch.randn(4, 3, SIDE, SIDE), []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        found.append(model(photos, None, torch.tensor([0, 0, 1, 1]))["alike"].item())
    assert found[0] == found[1] != found[2]


@pytest.mark.parametrize("method", ["transreid", "adafreq"])
def test_a_stopped_training_goes_on_exactly(tmp_path: Path, method: str) -> None:
    """What is drawn for a step (mixed spectra, paths passed by) hangs on the step alone: weights are the same bits."""
    photos = np.random.default_rng(3).integers(0, 256, (8, 40, 40, 3), np.uint8)
    data, cfg = (
        LabelledCrops(photos, np.repeat(np.arange(4), 2)),
        tiny(method, epochs=1.5, precision="float32", options={"depth": 2}),
    )
    whole = train(data, cfg)

    def stop(row: dict) -> None:
        if row["step"] == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(data, cfg, tmp_path, report=stop, save_every=1)
    gone_on = train(data, cfg, tmp_path)
    assert (whole.resumed_from, gone_on.resumed_from, len(gone_on.history)) == (None, 2, 3)
    assert [row["loss"] for row in gone_on.history] == [row["loss"] for row in whole.history]
    ours, theirs = gone_on.model.state_dict(), whole.model.state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_a_setting_of_the_recipe_is_the_papers() -> None:
    cfg = methods.configure("adafreq")
    assert (cfg.optimizer, cfg.learning_rate, cfg.epochs, cfg.triplet_margin) == ("sgd", 0.01, 150, None)
    assert cfg.individuals * cfg.photos * cfg.accumulate == 32 and cfg.stride == 12 and cfg.input_size == 256
    assert (cfg.augmentation.flip, cfg.augmentation.cover) == (0, 0)
    how = cfg.frequency
    weights = (cfg.class_weight, how.class_weight, cfg.triplet_weight, how.triplet_weight, how.alike_weight)
    assert (how.tokens, how.cutoff, weights) == (220, 70, (0.9, 0.1, 0.7, 0.2, 0.1))
    for wrong in ({"tokens": 0}, {"cutoff": 0.0}, {"cutoff": float("nan")}, {"alike_weight": -1.0}):
        with pytest.raises(CareError, match=rf"frequency\.{next(iter(wrong))} is (at least|above) "):
            FrequencyConfig(**wrong)
    with pytest.raises(CareError, match="nothing to learn"):
        learner(class_weight=0.0, triplet_weight=0.0, frequency=FrequencyConfig(class_weight=0, triplet_weight=0))


# -- the finished model


@pytest.mark.parametrize("engine", ["torch", "openvino"])
def test_a_finished_model_answers_behind_its_batch_norm(tmp_path: Path, engine: str) -> None:
    model = learner(options={"depth": 2}).eval()
    neck = model.heads.necks[0]
    neck.running_mean.normal_()
    neck.running_var.uniform_(0.5, 2)
    neck.weight.data.uniform_(0.5, 2)
    photos, finished = torch.randn(2, 3, SIDE, SIDE), model.finished()
    with torch.no_grad():
        torch.testing.assert_close(finished(photos), neck(model.embedder(photos)), rtol=1e-4, atol=1e-5)
    path = tmp_path / "own.safetensors"
    saved(finished, model.cfg, path)
    crops = np.random.default_rng(2).integers(0, 256, (3, SIDE, SIDE, 3), np.uint8)
    embedder = embedders.load_embedder(registry.find(path, task="embedder"), path, engine=engine)
    assert embedder.engine == engine
    np.testing.assert_allclose(embedder.embed(crops), as_stored(finished, model.cfg, crops), atol=2e-5)


def test_a_norm_that_takes_no_neck_is_refused_before_anything_is_learned() -> None:
    with pytest.raises(CareError, match="neck could be folded"):
        learner(options={"norm_layer": "rmsnorm"})


@pytest.mark.parametrize(
    ("method", "deep"), [("transreid", "local.0.attn.qkv.weight"), ("adafreq", "blocks.2.attn.qkv.weight")]
)
def test_checkpointing_changes_nothing_but_memory(method: str, deep: str) -> None:
    photos, found = torch.randn(4, 3, SIDE, SIDE), []
    for twice in (False, True):
        torch.manual_seed(3)
        model = methods.build(tiny(method, input_size=SIDE, checkpointing=twice, drop_path=0.0), 2, None).train()
        torch.manual_seed(5)
        loss = sum(model(photos, None, torch.tensor([0, 0, 1, 1])).values())
        loss.backward()
        found.append((loss.detach(), model.embedder.get_parameter(deep).grad))
    for plain, again in zip(*found, strict=True):
        torch.testing.assert_close(again, plain, rtol=1e-4, atol=1e-6)


def test_class_tokens_are_told_from_patches_where_there_are_registers() -> None:
    """A transformer with register tokens: these stay in front, too."""
    model = learner(options={"reg_tokens": 2}).eval()
    chosen = torch.tensor([[0, 3]])
    with torch.no_grad():
        tokens = model.entering_again(torch.zeros(1, 3, SIDE, SIDE), chosen)
    vit = model.embedder
    assert tokens.shape == (1, 5, 64) and torch.equal(tokens[0, :3], torch.cat([vit.cls_token[0], vit.reg_token[0]]))
    assert F.cosine_similarity(tokens[0, 3], vit.patch_embed.proj.bias, dim=0) > 0.99
