"""Frames and boxes, against plain arithmetic and brute force."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from care_cli import geometry

sizes = st.tuples(st.integers(1, 6000), st.integers(1, 6000))
places = st.floats(-500, 6500, allow_nan=False)
lengths = st.floats(0.5, 6500, allow_nan=False)
boxes = st.tuples(places, places, lengths, lengths)
small = st.tuples(*[st.integers(0, 12)] * 2, *[st.integers(1, 8)] * 2)


@given(boxes, sizes)
def test_crop_rectangle_lies_in_the_image_and_holds_the_grown_box(box, size):
    x, y, w, h = geometry.crop_rectangle(box, size)
    assert all(isinstance(value, int) for value in (x, y, w, h))
    assert 0 <= x < x + w <= size[0] and 0 <= y < y + h <= size[1]
    left, top, width, height = geometry.clip_box(box, size)
    if width > 0 and height > 0:
        assert x <= left and y <= top and x + w >= left + width and y + h >= top + height
        low, high = max(0, math.floor(box[0] - 0.1 * box[2])), min(size[0], math.ceil(box[0] + 1.1 * box[2]))
        assert abs(x - low) <= 1 and abs(x + w - high) <= 1  # rounding of 1.1 w against w + 0.1 w


def test_crop_rectangle_by_hand():
    # 10 % of 30 is 3, of 20 is 2: 7..43 and 18..42, then outward to whole pixels
    assert geometry.crop_rectangle((10.0, 20.0, 30.0, 20.0), (100, 100)) == (7, 18, 36, 24)
    assert geometry.crop_rectangle((10.5, 20.5, 30.0, 20.0), (100, 100)) == (7, 18, 37, 25)
    assert geometry.crop_rectangle((-5.0, 90.0, 30.0, 20.0), (100, 100)) == (0, 88, 28, 12)
    assert geometry.crop_rectangle((300.0, 300.0, 10.0, 10.0), (100, 100)) == (99, 99, 1, 1)


@pytest.mark.parametrize(
    ("rect", "stored"),
    [
        ((0, 0, 640, 480), (640, 480)),  # never grown
        ((5, 9, 1600, 1200), (800, 600)),
        ((0, 0, 1200, 1600), (600, 800)),
        ((0, 0, 4000, 2), (800, 1)),
    ],
)
def test_stored_size(rect, stored):
    assert geometry.stored_size(rect) == stored


@given(boxes, sizes, st.lists(st.tuples(places, places), min_size=1, max_size=5))
def test_to_crop_and_back(box, size, points):
    rect = geometry.crop_rectangle(box, size)
    stored = geometry.stored_size(rect)
    kp_image = np.array(points)
    kp_crop = geometry.to_crop(kp_image, rect, stored)
    np.testing.assert_allclose(geometry.to_image(kp_crop, rect, stored), kp_image, atol=1e-6)
    x, y, w, h = rect
    corners = geometry.to_crop(np.array([[x, y], [x + w, y + h]]), rect, stored)
    np.testing.assert_allclose(corners, [[0, 0], stored], atol=1e-9)


def test_to_crop_by_hand():
    # 200 x 100 px at (50, 20), stored at half its size: the centre of pixel (150, 70) is (150.5, 70.5)
    kp_crop = geometry.to_crop(np.array([[150.5, 70.5]]), (50, 20, 200, 100), (100, 50))
    np.testing.assert_allclose(kp_crop, [[50.25, 25.25]])


@given(sizes, st.integers(1, 1024), st.lists(st.tuples(places, places), min_size=1, max_size=5))
def test_crop_to_input_and_back(size, side, points):
    there = geometry.crop_to_input(points, size, side)
    np.testing.assert_allclose(geometry.input_to_crop(there, size, side), points, atol=1e-6)


def test_crop_to_input_by_hand():
    # a crop of 200 x 50 px squashed to 100 x 100: x halves, y doubles
    assert geometry.crop_to_input([(30, 20), (200, 50)], (200, 50), 100).tolist() == [[15, 40], [100, 100]]


@given(st.lists(boxes, min_size=1, max_size=5), st.lists(boxes, min_size=1, max_size=5))
def test_iou_is_symmetric_and_a_share(first, second):
    overlaps = geometry.iou(np.array(first), np.array(second))
    assert overlaps.shape == (len(first), len(second))
    assert (overlaps >= 0).all() and (overlaps <= 1 + 1e-9).all()
    np.testing.assert_allclose(overlaps, geometry.iou(np.array(second), np.array(first)).T)
    np.testing.assert_allclose(np.diag(geometry.iou(np.array(first), np.array(first))), 1)


@given(small, small)
def test_iou_counts_pixels(one, other):
    def covered(box):
        x, y, w, h = box
        return set(itertools.product(range(x, x + w), range(y, y + h)))

    both = len(covered(one) & covered(other))
    expected = both / len(covered(one) | covered(other))
    assert geometry.iou(np.array([one]), np.array([other]))[0, 0] == pytest.approx(expected)


@settings(max_examples=60)
@given(st.lists(st.tuples(small, st.sampled_from([0.1, 0.5, 0.9])), max_size=7), st.sampled_from([0.3, 0.5, 0.7]))
def test_keep_best_is_the_one_set_that_suppression_allows(found, overlap):
    """Kept boxes do not overlap; every dropped one overlaps a kept one that is better. Only one set is so."""
    corners = np.array([box for box, _ in found], float).reshape(-1, 4)
    confidence = np.array([score for _, score in found])
    overlaps = geometry.iou(corners, corners) > overlap
    before = [[(-confidence[j], j) < (-confidence[i], i) for j in range(len(found))] for i in range(len(found))]

    def allowed(kept):
        apart = all(not overlaps[i, j] for i in kept for j in kept if i != j)
        dropped = set(range(len(found))) - set(kept)
        return apart and all(any(overlaps[i, j] and before[i][j] for j in kept) for i in dropped)

    subsets = itertools.chain.from_iterable(
        itertools.combinations(range(len(found)), size) for size in range(len(found) + 1)
    )
    assert [list(kept) for kept in subsets if allowed(kept)] == [geometry.keep_best(corners, confidence, overlap)]


@given(boxes, sizes)
def test_clip_box_stays_inside(box, size):
    x, y, w, h = geometry.clip_box(box, size)
    assert 0 <= x <= x + w <= size[0] + 1e-6 and 0 <= y <= y + h <= size[1] + 1e-6
    assert w <= box[2] + 1e-6 and h <= box[3] + 1e-6
