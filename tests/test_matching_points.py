"""Matching of named points: against brute force in NumPy, and against what was planted."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from care_cli.errors import CareError
from care_cli.keypoints.matching import (
    MatchConfig,
    Reference,
    cosine,
    match,
    mirror_indices,
    pose_distance,
    sample,
    upsampled_cosine,
    upsampled_norms,
)
from care_cli.records import NamedPoint

torch = pytest.importorskip("torch")


def interpolated(features: np.ndarray, x: float, y: float, width: float, height: float) -> np.ndarray:
    """The features `(C,h,w)` at a point of an input of `width` x `height` px, by the four cells round it."""
    _, h, w = features.shape
    column = min(max(x * w / width - 0.5, 0), w - 1)
    row = min(max(y * h / height - 0.5, 0), h - 1)
    left, top = int(column), int(row)
    right, bottom = min(left + 1, w - 1), min(top + 1, h - 1)
    a, b = column - left, row - top
    upper = (1 - a) * features[:, top, left] + a * features[:, top, right]
    lower = (1 - a) * features[:, bottom, left] + a * features[:, bottom, right]
    return (1 - b) * upper + b * lower


def upsampled(features: np.ndarray, size: int) -> np.ndarray:
    """All of `(C,size,size)`, pixel by pixel."""
    columns = [[interpolated(features, x + 0.5, y + 0.5, size, size) for x in range(size)] for y in range(size)]
    return np.moveaxis(np.array(columns), -1, 0)


def cosines(queries: np.ndarray, features: np.ndarray) -> np.ndarray:
    """`(K,h,w)` of descriptors `(K,C)` with features `(C,h,w)`."""
    products = np.einsum("kc,chw->khw", queries, features)
    return products / np.linalg.norm(queries, axis=1)[:, None, None] / np.linalg.norm(features, axis=0)


def random(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 12), st.integers(1, 12), st.integers(1, 40), st.integers(4, 24), st.integers(0, 10_000))
def test_low_memory_cosine_equals_upsampling_first(h: int, w: int, size: int, channels: int, seed: int) -> None:
    features, queries = random(seed, channels, h, w), random(seed + 1, 3, channels)
    whole = upsampled(features.astype(float), size)
    norms = upsampled_norms(torch.tensor(features), size).numpy()
    np.testing.assert_allclose(norms, np.linalg.norm(whole, axis=0), rtol=1e-5)
    found = upsampled_cosine(torch.tensor(queries), torch.tensor(features), size).numpy()
    np.testing.assert_allclose(found, cosines(queries.astype(float), whole), atol=1e-5)


@pytest.mark.parametrize("shape", [(12, 12), (17, 31), (1, 9)])
def test_low_memory_cosine_equals_torch(shape: tuple[int, int]) -> None:
    features, queries = torch.tensor(random(1, 16, *shape)), torch.tensor(random(2, 2, 16))
    whole = torch.nn.functional.interpolate(features[None], (192, 192), mode="bilinear", align_corners=False)
    expected = torch.nn.functional.cosine_similarity(queries[:, :, None, None], whole, dim=1)
    torch.testing.assert_close(upsampled_cosine(queries, features, 192), expected, atol=1e-5, rtol=0)


def test_cells_of_zeros_are_like_nothing() -> None:
    assert torch.equal(upsampled_cosine(torch.ones(1, 4), torch.zeros(4, 3, 3), 9), torch.zeros(1, 9, 9))
    assert torch.equal(cosine(torch.ones(1, 1, 4), torch.zeros(1, 4, 3, 3)), torch.zeros(1, 1, 3, 3))


@settings(deadline=None, max_examples=40)
@given(
    st.integers(1, 9),
    st.integers(1, 9),
    st.lists(st.tuples(st.floats(0, 100), st.floats(0, 100)), min_size=1, max_size=4),
    st.integers(0, 10_000),
)
def test_descriptors_lie_between_cells_centres(h: int, w: int, points: list[tuple[float, float]], seed: int) -> None:
    features = random(seed, 6, h, w)
    found = sample(torch.tensor(features)[None], torch.tensor([points], dtype=torch.float32), 100)[0].numpy()
    expected = [interpolated(features.astype(float), x, y, 100, 100) for x, y in points]
    np.testing.assert_allclose(found, expected, atol=1e-4)


# -- matching, by hand


def reference_of(features: np.ndarray, points: list[tuple[float, float]], **facts) -> Reference:
    names = tuple(f"p{number}" for number in range(len(points)))
    facts = {"swap": np.arange(len(points)), "scale": (1.0, 1.0), "longest": 100.0} | facts
    mirrored = facts.pop("mirrored", None)
    mirrored = None if mirrored is None else torch.tensor(mirrored)
    return Reference(torch.tensor(features), np.array(points), names, mirrored=mirrored, **facts)


def by_hand(reference: Reference, target: np.ndarray, size: int, cfg: MatchConfig) -> list[tuple]:
    """Point, cosine, margin and error there and back, one point at a time."""
    ours = reference.features.numpy().astype(float)

    def best(query: np.ndarray, features: np.ndarray) -> tuple[np.ndarray, float, float]:
        features = upsampled(features, size) if cfg.refine == "argmax" else features
        [scores] = cosines(query[None], features)
        h, w = scores.shape
        centres = {(i, j): np.array([(j + 0.5) * size / w, (i + 0.5) * size / h]) for i in range(h) for j in range(w)}
        peak = max(centres, key=lambda cell: scores[cell])
        apart = cfg.elsewhere * size * np.sqrt(2)
        others = [scores[cell] for cell in centres if np.linalg.norm(centres[cell] - centres[peak]) >= apart]
        place = centres[peak]
        if cfg.refine == "soft":
            near = [c for c in centres if max(abs(c[0] - peak[0]), abs(c[1] - peak[1])) <= cfg.window]
            weights = np.array([np.exp((scores[c] - scores[peak]) / cfg.beta) for c in near])
            place = (weights[:, None] * [centres[c] for c in near]).sum(0) / weights.sum()
        return place, scores[peak], scores[peak] - max(others, default=-1)

    answers = []
    for kp in reference.kp_input:
        there, score, margin = best(interpolated(ours, *kp, size, size), target)
        back, _, _ = best(interpolated(target, *there, size, size), ours)
        answers.append((there, score, margin, np.linalg.norm((back - kp) * reference.scale) / reference.longest))
    return answers


@pytest.mark.parametrize("refine", ["soft", "argmax"])
def test_matches_equal_those_worked_by_hand(refine: str) -> None:
    size, cfg = 40, MatchConfig(refine=refine, beta=0.1, window=2, cycle=0.2)
    reference = reference_of(random(3, 5, 6, 8), [(3.0, 7.5), (39.0, 0.2), (20.0, 20.0)], scale=(2.0, 0.5))
    targets = random(4, 3, 5, 7, 9)
    found = match([reference], torch.tensor(targets), cfg, size)
    for one, target in zip(found, targets.astype(float), strict=True):
        points, scores, margins, cycles = (
            np.array(v) for v in zip(*by_hand(reference, target, size, cfg), strict=True)
        )
        np.testing.assert_allclose(one.kp_input, points, atol=1e-3)
        np.testing.assert_allclose(one.confidence, scores, atol=1e-5)
        np.testing.assert_allclose(one.margin, margins, atol=1e-5)
        np.testing.assert_allclose(one.cycle, cycles, atol=1e-4)
        assert one.visible.tolist() == (cycles <= 0.2).tolist()
        assert not one.mirrored and one.reference.tolist() == [0, 0, 0]


def test_chunks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    reference = reference_of(random(3, 5, 6, 8), [(3.0, 7.5), (39.0, 0.2), (20.0, 20.0)])
    targets, cfg = torch.tensor(random(4, 2, 5, 7, 9)), MatchConfig(refine="argmax")
    whole = match([reference], targets, cfg, 40)
    monkeypatch.setattr("care_cli.keypoints.matching.AT_ONCE", 2000)  # one map at a time
    for one, other in zip(whole, match([reference], targets, cfg, 40), strict=True):
        assert np.array_equal(one.kp_input, other.kp_input) and np.array_equal(one.cycle, other.cycle)


@pytest.mark.parametrize("refine", ["soft", "argmax"])
def test_a_shifted_crop_gets_shifted_points(refine: str) -> None:
    """Cells moved by two columns and a row: points move by as much, wherever they lie between centres."""
    wide = random(5, 32, 20, 20)
    reference = reference_of(wide[:, 2:18, 2:18].copy(), [(61.0, 80.0), (90.5, 50.0)])
    target = torch.tensor(wide[:, 1:17, :16].copy())[None]
    [found] = match([reference], target, MatchConfig(refine=refine, window=1), 160)
    off = found.kp_input - reference.kp_input - [20, 10]
    assert np.abs(off).max() < (6 if refine == "soft" else 1.1)  # px; a cell is 10 px wide
    assert found.visible.all() and found.cycle.max() < 0.1
    assert refine == "soft" or found.confidence.min() > 0.95


def test_the_better_of_two_references_gives_each_point() -> None:
    target = random(6, 16, 8, 8)
    half, other = target.copy(), target.copy()
    half[:, :, 4:] = random(7, 16, 8, 4)
    other[:, :, :4] = random(8, 16, 8, 4)
    points = [(10.0, 30.0), (70.0, 30.0)]  # the first is in the half that is the same in the first reference
    [found] = match(
        [reference_of(half, points), reference_of(other, points)], torch.tensor(target)[None], MatchConfig(), 80
    )
    assert found.reference.tolist() == [0, 1]
    for point in (0, 1):
        [alone] = match([reference_of((half, other)[point], points)], torch.tensor(target)[None], MatchConfig(), 80)
        assert found.kp_input[point].tolist() == alone.kp_input[point].tolist()
        assert found.cycle[point] == alone.cycle[point]


@pytest.mark.parametrize("pose", ["mutual", "all", "points"])
def test_a_mirrored_crop_swaps_left_and_right(pose: str) -> None:
    """The mirrored animal's left eye is where the picture of its right one is."""
    seen = random(9, 24, 10, 10)
    mirrored = seen[:, :, ::-1] + 0.5 * random(10, 24, 10, 10)  # networks see a little of which way things face
    points = [(25.0, 35.0), (65.0, 45.0), (50.0, 85.0)]  # left eye, right eye, nose
    reference = reference_of(seen, points, swap=np.array([1, 0, 2]), mirrored=mirrored)
    crops = torch.tensor(np.stack([mirrored, seen]) + 0.1 * random(11, 2, 24, 10, 10))
    turned, same = match([reference], crops, MatchConfig(refine="argmax", align=True, pose=pose), 100)
    assert turned.mirrored and not same.mirrored
    np.testing.assert_allclose(turned.kp_input, [(35.0, 45.0), (75.0, 35.0), (50.0, 85.0)], atol=3)
    np.testing.assert_allclose(same.kp_input, points, atol=3)
    assert turned.cycle.max() < 0.05
    confused = match([reference], crops, MatchConfig(refine="argmax"), 100)[0]
    assert not confused.mirrored
    np.testing.assert_allclose(confused.kp_input[:2], [(75.0, 35.0), (35.0, 45.0)], atol=5)


@pytest.mark.parametrize("mutual", [True, False])
def test_pose_distance_by_hand(mutual: bool) -> None:
    reference, crops = random(10, 4, 3, 4), random(11, 2, 4, 5, 2)
    unit = lambda f: (f / np.linalg.norm(f, axis=0)).reshape(4, -1).T.astype(float)  # noqa: E731
    expected = []
    for crop in crops:
        apart = np.linalg.norm(unit(reference)[:, None] - unit(crop)[None], axis=2)
        pairs = [(n, int(apart[n].argmin())) for n in range(12)]
        kept = [apart[n, m] for n, m in pairs if not mutual or apart[:, m].argmin() == n]
        expected.append(np.mean(kept))
    found = pose_distance(torch.tensor(reference), torch.tensor(crops), mutual)
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_doubt_marks_points_and_hides_none() -> None:
    reference = reference_of(random(12, 8, 6, 6), [(10.0, 10.0), (50.0, 20.0), (30.0, 55.0)])
    crop = torch.tensor(random(13, 1, 8, 6, 6))
    [free] = match([reference], crop, MatchConfig(cycle=None), 60)
    assert free.visible.all()
    [strict] = match([reference], crop, MatchConfig(cycle=None, least=float(np.sort(free.confidence)[1])), 60)
    assert strict.visible.sum() == 2 and np.array_equal(strict.kp_input, free.kp_input)


def test_one_cell_has_no_elsewhere() -> None:
    [found] = match(
        [reference_of(random(1, 4, 1, 1), [(3.0, 3.0)])],
        torch.tensor(random(2, 1, 4, 1, 1)),
        MatchConfig(refine="soft"),
        8,
    )
    assert found.kp_input.tolist() == [[4.0, 4.0]]
    assert found.margin[0] == pytest.approx(found.confidence[0] + 1)


def test_mirror_indices() -> None:
    points = [NamedPoint("left", 0, 0, "right"), NamedPoint("nose", 0, 0), NamedPoint("right", 0, 0, "left")]
    assert mirror_indices(points).tolist() == [2, 1, 0]


@pytest.mark.parametrize(
    "wrong",
    [{"refine": "best"}, {"pose": "x"}, {"beta": 0}, {"window": -1}, {"cycle": -0.1}, {"least": 2}, {"elsewhere": 2}],
)
def test_settings_that_mean_nothing_are_refused(wrong: dict) -> None:
    with pytest.raises(CareError):
        MatchConfig(**wrong)


def test_references_must_agree_in_their_points() -> None:
    one, other = reference_of(random(1, 4, 3, 3), [(1.0, 1.0)]), reference_of(random(1, 4, 3, 3), [(1.0, 1.0)] * 2)
    with pytest.raises(CareError, match="same points"):
        match([one, other], torch.tensor(random(2, 1, 4, 3, 3)), MatchConfig(), 9)
