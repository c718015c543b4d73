"""Training: losses against hand-worked values, batches, and a detector without network."""

from __future__ import annotations

import math
from collections import Counter
from itertools import islice, pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from care_cli.errors import CareError
from care_cli.training.sampling import pk_batches


def test_arcface_equals_the_formula_worked_by_hand() -> None:
    """One photo at 60 degrees from its own centre and 30 degrees from the other; s = 4, m = 0.5 rad."""
    import torch

    from care_cli.training.losses import arcface

    embedding = torch.tensor([[math.cos(math.pi / 3), math.sin(math.pi / 3)]]) * 7.0
    centres = torch.tensor([[2.0, 0.0], [0.0, 3.0]])
    own, other = 4 * math.cos(math.pi / 3 + 0.5), 4 * math.cos(math.pi / 6)
    by_hand = -math.log(math.exp(own) / (math.exp(own) + math.exp(other)))
    found = arcface(embedding, torch.tensor([0]), centres, scale=4.0, margin=0.5)
    assert float(found) == pytest.approx(by_hand, abs=1e-5)
    assert float(found) == pytest.approx(3.4035, abs=1e-4)


def test_arcface_equals_numpy_on_a_batch_and_without_margin_is_softmax() -> None:
    import torch

    from care_cli.training.losses import arcface

    rng = np.random.default_rng(0)
    x, w, y = rng.normal(size=(9, 5)), rng.normal(size=(4, 5)), rng.integers(0, 4, 9)
    cosine = (x / np.linalg.norm(x, axis=1, keepdims=True)) @ (w / np.linalg.norm(w, axis=1, keepdims=True)).T
    for margin in (0.0, 0.3):
        logits = cosine.copy()
        angle = np.arccos(cosine[np.arange(9), y])
        linear = cosine[np.arange(9), y] - margin * math.sin(margin)  # where angle + margin > pi
        logits[np.arange(9), y] = np.where(angle + margin < math.pi, np.cos(angle + margin), linear)
        logits *= 10.0
        expected = np.mean(np.log(np.exp(logits).sum(1)) - logits[np.arange(9), y])
        found = arcface(torch.tensor(x), torch.tensor(y), torch.tensor(w), scale=10.0, margin=margin)
        assert float(found) == pytest.approx(expected, abs=1e-4)


def test_arcface_grows_with_the_angle_up_to_the_opposite_direction() -> None:
    import torch

    from care_cli.training.losses import arcface

    angles = torch.linspace(0.01, math.pi - 0.01, 60)
    x = torch.stack([angles.cos(), angles.sin(), torch.zeros(60)], 1)
    centres = torch.tensor([[1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
    losses = [float(arcface(row[None], torch.tensor([0]), centres, scale=8.0, margin=0.5)) for row in x]
    assert all(a < b for a, b in pairwise(losses))


def test_triplet_picks_the_nearest_farther_negative() -> None:
    """Five directions on a circle, A at 0 and 60 degrees, B at 20, 75 and 180; squared chords by hand."""
    import torch

    from care_cli.training.losses import triplet

    degrees = {"a": [0, 60], "b": [20, 75, 180]}
    angle = np.radians(degrees["a"] + degrees["b"])
    points = np.stack([np.cos(angle), np.sin(angle)], 1)

    def chord(p: int, q: int) -> float:
        return 2 - 2 * math.cos(math.radians(p - q))

    expected = []
    for own, other in (("a", "b"), ("b", "a")):
        for anchor in degrees[own]:
            for partner in degrees[own]:
                if anchor == partner:
                    continue
                positive = chord(anchor, partner)
                negatives = [chord(anchor, n) for n in degrees[other]]
                farther = [n for n in negatives if n > positive]
                chosen = min(farther) if farther else max(negatives)
                expected.append(max(0.0, positive - chosen + 0.2))
    found = triplet(torch.tensor(points), torch.tensor([0, 0, 1, 1, 1]), margin=0.2)
    assert float(found) == pytest.approx(np.mean(expected), abs=1e-5)
    assert len(expected) == 8 and np.mean(expected) > 0


def test_triplet_without_a_pair_is_zero_and_has_a_gradient() -> None:
    import torch

    from care_cli.training.losses import triplet

    x = torch.eye(3, requires_grad=True)
    loss = triplet(x, torch.tensor([0, 1, 2]))
    loss.backward()
    assert loss.item() == 0.0 and float(x.grad.abs().sum()) == 0.0


@settings(max_examples=40, deadline=None)
@given(
    counts=st.lists(st.integers(1, 7), min_size=3, max_size=12),
    individuals=st.integers(2, 3),
    photos=st.integers(1, 5),
    seed=st.integers(0, 1000),
)
def test_batches_have_p_individuals_with_k_photos(counts, individuals, photos, seed) -> None:
    labels = np.repeat(np.arange(len(counts)) * 10, counts)
    rounds = math.ceil(3 * len(counts) / individuals)
    seen: Counter = Counter()
    for rows in islice(pk_batches(labels, individuals, photos, seed), rounds):
        of_each = Counter(labels[rows].tolist())
        assert len(of_each) == individuals and set(of_each.values()) == {photos}
        for name in of_each:
            chosen = rows[labels[rows] == name]
            assert len(set(chosen)) == photos or (labels == name).sum() < photos
        seen.update(of_each)
    assert max(seen.values()) - min(seen.values()) <= photos and len(seen) == len(counts)


def test_too_few_individuals_are_refused() -> None:
    with pytest.raises(CareError, match="needs 4 individuals, but there are only 3"):
        next(pk_batches(np.array([0, 0, 1, 1, 2]), 4, 2, 0))


def test_augmentation_that_is_switched_off_changes_nothing() -> None:
    import torch

    from care_cli.training.augment import Augmentation, augment

    images = torch.rand(4, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    nothing = Augmentation(*[0.0] * 10)
    assert torch.allclose(augment(images, nothing, torch.Generator()), images, atol=1e-5)
    mirrored = augment(images, Augmentation(1.0, *[0.0] * 9), torch.Generator())
    assert torch.allclose(mirrored, images.flip(3), atol=1e-5)


def test_the_neck_folds_into_the_last_norm() -> None:
    """What stood behind the ViT in training is inside it afterwards, to rounding."""
    import torch

    from care_cli.backbones import fold_neck, stem_vit

    torch.manual_seed(0)
    model = stem_vit(img_size=32, widths=(8, 16, 24), depth=1, num_heads=3).eval()
    neck = torch.nn.BatchNorm1d(24, affine=False).eval()
    neck.running_mean.normal_()
    neck.running_var.uniform_(0.5, 2.0)
    photos = torch.randn(3, 3, 32, 32)
    with torch.no_grad():
        behind = neck(model(photos))
        fold_neck(model, neck)
        assert torch.allclose(model(photos), behind, atol=1e-5)


def test_the_stem_sees_portraits_too_and_begins_from_a_square_one() -> None:
    """Rows before columns; positions are resampled as timm's are."""
    import torch
    from timm.layers import resample_abs_pos_embed

    from care_cli.backbones import STEM_VIT
    from care_cli.encoders import build_backbone
    from care_cli.training import methods

    options = {"widths": (8, 16, 24), "depth": 1, "num_heads": 3}
    square = build_backbone(STEM_VIT, img_size=32, **options)
    cfg = methods.configure("vit", backbone=STEM_VIT, input_size=(48, 32), options=options)
    model = methods.plain(cfg).eval()
    methods.load(model, square.state_dict(), Path("square.safetensors"))
    assert model.patch_embed.grid_size == (6, 4) and model(torch.zeros(2, 3, 48, 32)).shape == (2, 24)
    expected = resample_abs_pos_embed(square.pos_embed, [6, 4], num_prefix_tokens=1)
    torch.testing.assert_close(model.pos_embed, expected)


def test_the_stem_sees_neither_colour_nor_brightness_nor_contrast() -> None:
    """The same coat by day and in infrared: grey levels times a factor plus an offset give the same tokens."""
    import torch

    from care_cli.backbones import stem_vit

    torch.manual_seed(0)
    stem = stem_vit(img_size=32, widths=(8, 16), depth=1, num_heads=2).eval().patch_embed
    grey = torch.sin(torch.arange(32) / 2).expand(2, 1, 32, 32).contiguous()  # stripes
    tint = torch.tensor([0.2, -0.1, -0.1]).view(1, 3, 1, 1)  # of zero mean, so that the grey stays
    with torch.no_grad():
        day, night = stem(grey + tint), stem(grey.expand(-1, 3, -1, -1) * 0.8 + 0.1)
        other = stem(grey.transpose(2, 3).expand(-1, 3, -1, -1))
    assert (day - night).norm() < 0.05 * (day - other).norm()
