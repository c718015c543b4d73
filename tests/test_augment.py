"""What augmentation does to pictures and, together with them, to points."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace
from itertools import islice

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch")

from care_cli.training.augment import (  # noqa: E402
    ERASING,
    NOTHING,
    WILDLIFE,
    Augmentation,
    augment,
    change_tones,
    move,
    reframe,
    tone_operations,
    window,
)
from care_cli.training.sampling import pk_batches  # noqa: E402

SIDE = 40  # px
SPREAD = 1.5  # px, of a drawn dot
SWAP = torch.tensor([1, 0, 2])


def generator(seed: int = 0):
    return torch.Generator().manual_seed(seed)


def dots(points: np.ndarray) -> torch.Tensor:
    """`(B, 3, S, S)`: in each colour a bright dot at its point, `(B, 3, 2)` shares of the side."""
    centres = (np.arange(SIDE) + 0.5) / SIDE
    near = np.exp(-((centres - points[..., None]) ** 2) * SIDE**2 / (2 * SPREAD**2))  # (B, 3, 2, S)
    return torch.tensor(near[:, :, 1, :, None] * near[:, :, 0, None, :], dtype=torch.float32)


def brightest(image: np.ndarray) -> tuple[float, float]:
    """Where the dot of one colour is: its centre of mass, shares of the side."""
    weight = image / image.sum()
    centres = (np.arange(SIDE) + 0.5) / SIDE
    return float((weight.sum(0) * centres).sum()), float((weight.sum(1) * centres).sum())


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**20),
    flip=st.sampled_from([0.0, 0.5, 1.0]),
    rotation=st.floats(0, 40),
    zoom=st.floats(0, 0.3),
    shift=st.floats(0, 0.15),
    crop=st.floats(0.5, 1),
)
def test_a_dot_is_found_where_its_point_says(seed, flip, rotation, zoom, shift, crop) -> None:
    rng = np.random.default_rng(seed)
    xy = rng.uniform(0.3, 0.7, (4, 3, 2))
    points = torch.tensor(np.concatenate([xy, np.full((4, 3, 1), 0.8)], 2), dtype=torch.float32)
    how = Augmentation(flip, rotation, zoom, shift, *[0.0] * 6, crop=crop)
    images, moved = augment(dots(xy), how, generator(seed), points)  # no swap: colour k stays with row k
    for image, row in zip(images.numpy(), moved.numpy(), strict=True):
        for colour, (x, y, weight) in zip(image, row, strict=True):
            inside = 0.15 < x < 0.85 and 0.15 < y < 0.85
            if weight and inside:  # nearer to the edge a part of the dot is cut off
                assert brightest(colour) == pytest.approx((x, y), abs=0.6 / SIDE)
            assert weight in (0, pytest.approx(0.8))


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**20))
def test_points_that_leave_the_picture_are_gone_and_those_that_were_not_there_stay_so(seed) -> None:
    rng = np.random.default_rng(seed)
    points = torch.tensor(rng.uniform(0, 1, (8, 3, 3)), dtype=torch.float32)
    points[:, 1] = 0
    how = Augmentation(0.5, 20.0, 0.2, 0.3, *[0.0] * 6)
    _, moved = reframe(torch.rand(8, 3, 8, 8), how, generator(seed), points)
    there = moved[..., 2] > 0
    assert not there[:, 1].any()
    assert ((moved[..., :2] >= 0) & (moved[..., :2] < 1)).all()
    assert (moved[~there] == 0).all() and not there.all()


def test_mirroring_swaps_the_sides_and_twice_is_nothing() -> None:
    points = torch.tensor([[[0.2, 0.3, 1.0], [0.4, 0.5, 0.5], [0.9, 0.1, 0.0]]])
    images = torch.rand(1, 3, 6, 6, generator=generator())
    mirror = Augmentation(1.0, *[0.0] * 9)
    once, moved = augment(images, mirror, generator(), points, SWAP)
    assert torch.allclose(once, images.flip(3), atol=1e-6)
    expected = torch.tensor([[[0.6, 0.5, 0.5], [0.8, 0.3, 1.0], [0.0, 0.0, 0.0]]])
    assert torch.allclose(moved, expected, atol=1e-6)
    twice, back = augment(once, mirror, generator(), moved, SWAP)
    assert torch.allclose(twice, images, atol=1e-5)
    assert torch.allclose(back, torch.where(points[..., 2:] > 0, points, 0.0), atol=1e-6)


def test_moved_points_are_the_inverse_of_the_matrix_worked_by_hand() -> None:
    to_source = torch.tensor([[[0.5, 0.0, -0.5], [0.0, 1.0, 0.0]]])  # the left half fills the picture
    points = torch.tensor([[[0.25, 0.4, 1.0], [0.6, 0.4, 1.0], [0.0, 0.99, 1.0]]])
    moved = move(points, to_source, torch.tensor([False]))
    assert torch.allclose(moved, torch.tensor([[[0.5, 0.4, 1.0], [0.0, 0.0, 0.0], [0.0, 0.99, 1.0]]]), atol=1e-6)


def test_windows_are_those_of_torchvision_s_random_resized_crop() -> None:
    from torchvision.transforms.v2 import RandomResizedCrop

    width, height, x, y = (side.numpy() for side in window(4000, 0.8, generator()))
    assert (width <= 1).all() and (height <= 1).all()
    assert (np.abs(x) <= 1 - width + 1e-6).all() and (np.abs(y) <= 1 - height + 1e-6).all()
    torch.manual_seed(0)
    theirs = RandomResizedCrop(32, scale=(0.8, 1.0))
    drawn = [theirs.make_params([torch.zeros(1, 1000, 1000)]) for _ in range(4000)]
    for mine, name in ((width, "width"), (height, "height")):
        other = np.array([one[name] for one in drawn]) / 1000
        assert np.quantile(mine, [0.1, 0.5, 0.9]) == pytest.approx(np.quantile(other, [0.1, 0.5, 0.9]), abs=0.012)
    left = (x - width + 1) / 2
    assert np.quantile(left, [0.5, 0.9]) == pytest.approx(
        np.quantile([one["left"] / 1000 for one in drawn], [0.5, 0.9]), abs=0.012
    )


def test_tones_change_each_picture_by_one_of_the_operations_and_never_its_shapes() -> None:
    from torchvision.transforms.v2 import functional as tv

    images = torch.rand(200, 3, 12, 12, generator=generator(1))
    how = Augmentation(*[0.0] * 10, ops=1, magnitude=20 / 30)
    changed = change_tones(images, how, generator(2))
    factors = (1.6, 0.4)  # 1 +- 0.9 * 20 / 30
    expected = [images, tv.posterize(images, 5), tv.solarize(images, 1 / 3)]
    expected += [tv.autocontrast(images), tv.equalize(images)]
    for change in (tv.adjust_brightness, tv.adjust_saturation, tv.adjust_contrast, tv.adjust_sharpness):
        expected += [change(images, factor) for factor in factors]
    expected = torch.stack(expected).clamp(0, 1)
    hits = (expected - changed).abs().amax((2, 3, 4)) < 1e-5  # (operations, pictures)
    assert hits.any(0).all() and hits.any(1).sum() == len(expected)
    assert len(tone_operations(0.5)) == 18


def test_the_same_seed_gives_the_same_and_nothing_gives_nothing() -> None:
    images = torch.rand(6, 3, 16, 16, generator=generator())
    points = torch.rand(6, 3, 3, generator=generator())
    one, other = (augment(images, WILDLIFE, generator(5), points, SWAP) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))
    assert not torch.equal(one[0], augment(images, WILDLIFE, generator(6)))
    same, where = augment(images, NOTHING, generator(), points, SWAP)
    assert torch.equal(same, images) and torch.equal(where, points)
    assert one[0].shape == images.shape and one[0].min() >= 0 and one[0].max() <= 1


# -- batches


@settings(max_examples=40, deadline=None)
@given(counts=st.lists(st.integers(1, 7), min_size=3, max_size=12), start=st.integers(0, 30), seed=st.integers(0, 99))
def test_batches_that_begin_later_are_those_that_would_have_come(counts, start, seed) -> None:
    labels = np.repeat(np.arange(len(counts)), counts)
    whole = list(islice(pk_batches(labels, 3, 2, seed), start + 4))
    later = list(islice(pk_batches(labels, 3, 2, seed, start), 4))
    assert [rows.tolist() for rows in later] == [rows.tolist() for rows in whole[start:]]
    assert Counter(labels[np.concatenate(whole)]).most_common()[-1][1] >= 2 * math.floor(3 * len(whole) / len(counts))


def test_points_on_the_edges_stay_when_the_picture_is_mirrored():
    points = torch.tensor([[[0.0, 0.0, 1.0], [1.0, 1.0, 1.0], [0.0, 1.0, 0.5]]])
    how = Augmentation(**{**vars(NOTHING), "flip": 1.0})
    _, moved = reframe(torch.zeros(1, 3, SIDE, SIDE), how, generator(), points)
    assert moved.tolist() == [[[1.0, 0.0, 1.0], [0.0, 1.0, 1.0], [1.0, 1.0, 0.5]]]


def test_random_erasing_is_that_of_person_reid():
    """Share of the photos, their areas and the noise as timm's RandomErasing(0.5, max_area=1/3, mode="pixel") has them,
    on a grey that no noise hits."""
    from timm.data.random_erasing import RandomErasing

    torch.manual_seed(0)
    grey = torch.full((400, 3, 40, 40), 7.0)
    only = replace(NOTHING, **ERASING)
    ours = 2 * augment(grey / 2 + 0.5, only, torch.Generator().manual_seed(0)) - 1  # as normalised afterwards
    theirs = RandomErasing(0.5, max_area=1 / 3, mode="pixel", device="cpu")(grey.clone())
    found = []
    for images in (ours, theirs):
        hit = (images - 7).abs().amax(1) > 1e-4
        areas, noise = hit.flatten(1).float().mean(1), images.permute(0, 2, 3, 1)[hit]
        found.append(((areas > 0).float().mean(), areas[areas > 0].min(), areas.max(), noise.mean(), noise.std()))
    mine, reference = np.array(found)
    assert np.abs(mine - reference).max() < 0.1
    assert 0.015 < mine[1] < 0.03 and mine[2] < 0.36 and abs(mine[4] - 1) < 0.02
