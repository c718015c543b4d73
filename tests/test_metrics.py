"""Metrics against values worked by hand, and against their definitions written out one query at a time."""

from __future__ import annotations

import numpy as np
import pytest

from care_cli.errors import CareError
from care_cli.evaluation.metrics import Answers, answered, cmc, columns, figures, leave_one_out


def one_query(similarity: list[float], same: list[bool]) -> Answers:
    """A query against a gallery in which `same` says who is the animal."""
    gallery = np.arange(1, len(same) + 1)
    return answered(
        np.array([similarity]), np.array([same], bool), np.ones((1, len(same)), bool), np.array([0]), gallery
    )


def test_a_ranked_list_by_hand() -> None:
    # right ones at ranks 1, 3 and 4 of 5
    found = one_query([0.9, 0.1, 0.5, 0.8, 0.4], [True, False, True, False, True])
    assert (found.first[0], found.last[0], found.right[0], found.compared[0]) == (1, 4, 3, 5)
    assert found.precision[0] == pytest.approx((1 + 2 / 3 + 3 / 4) / 3)
    assert (found.answer[0], found.match[0], found.similarity[0]) == (1, 1, np.float32(0.9))
    values = columns(found)
    assert values["mINP"][0] == pytest.approx(3 / 4)
    assert values["random"][0] == pytest.approx(3 / 5)
    # top1 is 1, by chance it would be 3/5
    assert figures(values, np.array(["a"]))["NGR"][0] == pytest.approx(1)


def test_nobody_to_find_is_left_out() -> None:
    found = one_query([0.9, 0.1], [False, False])
    assert (found.first[0], found.match[0], found.answer[0]) == (0, -1, 1)
    assert all(np.isnan(value[0]) for value in columns(found).values())
    alone = one_query([], [])
    assert (alone.answer[0], alone.compared[0]) == (-1, 0)


def test_wrong_ones_come_first_among_equals() -> None:
    found = one_query([0.5, 0.5, 0.5], [True, False, True])
    assert found.first[0] == 2 and found.precision[0] == pytest.approx((1 / 2 + 2 / 3) / 2)


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
    assert found["mINP"] == pytest.approx((1 + 1 / 2 + 1 / 3 + 1) / 4)  # of one right one each
    assert found["random"] == pytest.approx(1 / 4)
    assert found["NGR"] == pytest.approx((2 / 4 - 1 / 4) / (1 - 1 / 4))
    assert found["cmc5"] == 1


def test_balanced_counts_animals_and_not_photos() -> None:
    # a: 3 queries, all right; b: 1 query, wrong -> top1 3/4, balanced (1 + 0) / 2
    values = dict.fromkeys(("top1", "cmc5", "cmc10", "mAP", "mINP", "random"), np.array([1.0, 1, 1, 0]))
    found = figures(values, np.array(["a", "a", "a", "b"]))
    assert found["top1"][0] == pytest.approx(3 / 4) and found["balanced"][0] == pytest.approx(1 / 2)
    # b drawn twice, a not at all; then a once and b once
    again = figures(values, np.array(["a", "a", "a", "b"]), np.array([[0.0, 2.0], [1.0, 1.0]]))
    assert again["top1"].tolist() == pytest.approx([0, 3 / 4]) and again["balanced"].tolist() == pytest.approx([0, 0.5])


def by_definition(vectors: np.ndarray, names: list[str]) -> dict[str, float]:
    """Leave-one-out as the definitions read, with Python lists."""
    rows: list[dict] = []
    for query, name in enumerate(names):
        others = [i for i in range(len(names)) if i != query]
        ranked = sorted(others, key=lambda i: (-float(vectors[query] @ vectors[i]), names[i] == name))
        hits = [rank for rank, i in enumerate(ranked, 1) if names[i] == name]
        if hits:
            average = sum(found / rank for found, rank in enumerate(hits, 1)) / len(hits)
            rows.append({"name": name, "hits": hits, "AP": average, "chance": len(hits) / len(others)})
    mean = lambda values: sum(values) / len(values)  # noqa: E731
    top1, random = mean([row["hits"][0] == 1 for row in rows]), mean([row["chance"] for row in rows])
    animals = sorted({row["name"] for row in rows})
    return {
        "queries": len(rows),
        "top1": top1,
        "cmc5": mean([row["hits"][0] <= 5 for row in rows]),
        "cmc10": mean([row["hits"][0] <= 10 for row in rows]),
        "mAP": mean([row["AP"] for row in rows]),
        "mINP": mean([len(row["hits"]) / row["hits"][-1] for row in rows]),
        "balanced": mean([mean([row["hits"][0] == 1 for row in rows if row["name"] == one]) for one in animals]),
        "random": random,
        "NGR": (top1 - random) / (1 - random),
    }


@pytest.mark.parametrize("seed", range(5))
def test_every_metric_by_its_definition(seed: int) -> None:
    chance = np.random.default_rng(seed)
    names = [f"animal {chance.integers(12)}" for _ in range(60)]
    vectors = chance.normal(size=(60, 4)).astype(np.float32)
    vectors[7] = vectors[3]  # the same picture twice
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    assert leave_one_out(vectors, names) == pytest.approx(by_definition(vectors, names), abs=1e-9)


def test_the_curve_rises_to_all() -> None:
    found = Answers.joined([one_query([0.9, 0.5, 0.1], [False, False, True]), one_query([0.9, 0.1], [True, False])])
    assert cmc(found, 4).tolist() == [0.5, 0.5, 1, 1]


def test_leave_one_out_needs_a_pair() -> None:
    with pytest.raises(CareError, match="two crops"):
        leave_one_out(np.eye(3, dtype=np.float32), ["a", "b", "c"])
