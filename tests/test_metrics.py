"""Metrics against values worked by hand, and against the definition written out."""

from __future__ import annotations

import numpy as np
import pytest

from care_cli.errors import CareError
from care_cli.evaluation.metrics import average_precision, leave_one_out


def test_average_precision_by_hand() -> None:
    # hits at ranks 1, 3 and 4: (1/1 + 2/3 + 3/4) / 3
    assert average_precision(np.array([True, False, True, True])) == pytest.approx((1 + 2 / 3 + 3 / 4) / 3)
    assert np.isnan(average_precision(np.array([False, False])))


def test_leave_one_out_by_hand() -> None:
    # On the unit circle: a at 0 and 10 degrees, b at 12 and 50 degrees, c alone at 180.
    angles = np.radians([0, 10, 12, 50, 180])
    vectors = np.stack([np.cos(angles), np.sin(angles)], 1).astype(np.float32)
    found = leave_one_out(vectors, ["a", "a", "b", "b", "c"])
    # a0: a10, b12, b50, c -> first right, AP 1.   a10: b12, a0, ... -> wrong, AP 1/2
    # b12: a10, a0, b50, c -> wrong, AP 1/3.       b50: b12, ...      -> right, AP 1
    assert found["queries"] == 4  # c has nobody to find
    assert found["top1"] == pytest.approx(2 / 4)
    assert found["mAP"] == pytest.approx((1 + 1 / 2 + 1 / 3 + 1) / 4)


def test_leave_one_out_needs_a_pair() -> None:
    with pytest.raises(CareError, match="two crops"):
        leave_one_out(np.eye(3, dtype=np.float32), ["a", "b", "c"])
