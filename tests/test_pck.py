"""PCK, confusions and their intervals: against figures worked by hand, and against plain loops."""

from __future__ import annotations

import math
import random
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from care_cli.errors import CareError
from care_cli.evaluation import pck
from care_cli.evaluation.pck import Carried
from care_cli.stages.keypoint_figures import worst

NAN = math.nan
COLUMNS = ("pair", "target", "source", "target_cluster", "source_cluster", "species", "name", "error", "mirror_error",
           "kept")  # fmt: skip


def carried(rows: list[tuple]) -> Carried:
    return Carried(*(np.array(column) for column in zip(*rows, strict=True)))


BY_HAND = carried(
    [  # pair, target, source, clusters of both, species, name, error, mirror_error, kept
        (0, 2, 1, "b", "a", "cat", "left_eye", 0.04, 0.30, True),
        (0, 2, 1, "b", "a", "cat", "right_eye", 0.30, 0.08, True),  # on the left eye
        (0, 2, 1, "b", "a", "cat", "nose", 0.10, NAN, False),
        (0, 2, 1, "b", "a", "cat", "tail", 0.50, NAN, False),
        (1, 3, 1, "c", "a", "cat", "left_eye", 0.15, 0.16, True),  # nearer to its own
        (2, 2, 3, "b", "c", "cat", "left_eye", 0.01, NAN, True),
        (2, 2, 3, "b", "c", "cat", "nose", 0.02, NAN, True),
    ]
)


def test_shares_worked_by_hand() -> None:
    found = pck.measure(BY_HAND)
    value = {alpha: {kind: one["value"] for kind, one in kinds.items()} for alpha, kinds in found["pck"].items()}
    assert (found["points"], found["pairs"], found["images"], found["clusters"]) == (7, 3, 2, 3)
    # within 0.05: three of seven; crop 2 has 3 of 6 and crop 3 none; pairs 1/4, 0 and 1
    assert value["0.05"] == pytest.approx({"per_point": 3 / 7, "per_image": 3 / 12, "per_pair": (1 / 4 + 0 + 1) / 3})
    # an error of exactly 0.1 counts
    assert value["0.1"] == pytest.approx({"per_point": 4 / 7, "per_image": 4 / 12, "per_pair": (2 / 4 + 0 + 1) / 3})
    assert value["0.2"] == pytest.approx({"per_point": 5 / 7, "per_image": (4 / 6 + 1) / 2, "per_pair": 2.5 / 3})
    # three points whose mirror point is visible; one lies on it, within 0.1
    assert found["confused"]["points"] == 3
    assert [found["confused"][alpha]["value"] for alpha in ("0.05", "0.1", "0.2")] == pytest.approx([0, 1 / 3, 1 / 3])
    assert found["kept"]["share"]["value"] == pytest.approx(5 / 7)
    assert found["kept"]["pck"]["0.1"]["value"] == pytest.approx(3 / 5)
    assert found["kept"]["above_all"]["0.1"]["value"] == pytest.approx(3 / 5 - 4 / 7)


def test_the_table_of_points_is_that_of_their_rows() -> None:
    names = pck.by_point(BY_HAND)
    assert {name: one["points"] for name, one in names.items()} == {"left_eye": 3, "nose": 2, "right_eye": 1, "tail": 1}
    assert names["left_eye"]["pck"]["0.1"]["value"] == pytest.approx(2 / 3)
    assert names["right_eye"]["confused"]["value"] == 1 and names["left_eye"]["confused"]["value"] == 0
    assert names["nose"]["confused"] == {"value": None, "low": None, "high": None}  # it has no mirror point
    assert names["nose"]["kept"]["value"] == 0.5


def test_a_point_of_few_crops_has_no_interval_and_is_not_called_worst() -> None:
    """Six targets for one point, four of them for the other, which is never found."""
    rows = [(crop, crop, crop + 1, f"a{crop}", f"a{crop + 1}", "cat", "nose", 0.05 * (crop % 2) + 0.08, NAN, True)
            for crop in range(6)]  # fmt: skip
    rows += [(*row[:6], "tail", 0.5, NAN, True) for row in rows[:4]]
    names = pck.by_point(carried(rows))
    assert {name: one["images"] for name, one in names.items()} == {"nose": 6, "tail": 4}
    assert names["tail"]["pck"]["0.1"] == {"value": 0, "low": None, "high": None}
    assert names["nose"]["pck"]["0.1"]["low"] is not None
    shown = [
        {"species": "cat", "point": name, "images": one["images"], "PCK@0.1": one["pck"]["0.1"]["value"]}
        for name, one in names.items()
    ]
    assert worst(shown, 5) == ["Worst points of cat: nose 0.500"]


def some(seed: int, clusters: int = 7, pairs: int = 30) -> Carried:
    """Random points of random pairs; the error grows with the target's cluster."""
    chance = random.Random(seed)
    rows = []
    for pair in range(pairs):
        source, target = chance.sample(range(clusters), 2)
        for point in range(chance.randint(1, 5)):
            mirror = chance.choice([NAN, chance.uniform(0, 0.3)])
            error = chance.uniform(0, 0.1 + 0.03 * target)
            rows.append((pair, 10 * target + chance.randint(0, 1), 10 * source, f"animal {target}", f"animal {source}",
                         "cat", f"point {point}", error, mirror, chance.random() < 0.7))  # fmt: skip
    # a pair has one target
    first = {}
    return carried([(row[0], first.setdefault(row[0], row[1]), *row[2:]) for row in rows])


def plain(rows: list[dict], weight: dict[str, float], hit) -> dict[str, float]:
    """The three shares as their definitions read, pairs counted as often as both ends were drawn."""
    times = [weight[row["source_cluster"]] * weight[row["target_cluster"]] for row in rows]
    per_point = sum(t * hit(row) for t, row in zip(times, rows, strict=True)) / sum(times)
    over_pairs = over_images = pairs = images = 0.0
    for pair in {row["pair"] for row in rows}:
        own = [row for row in rows if row["pair"] == pair]
        both = weight[own[0]["source_cluster"]] * weight[own[0]["target_cluster"]]
        over_pairs += both * sum(map(hit, own)) / len(own)
        pairs += both
    for target in {row["target"] for row in rows}:
        own = [row for row in rows if row["target"] == target]
        from_ = [weight[row["source_cluster"]] for row in own]
        if sum(from_):
            share = sum(w * hit(row) for w, row in zip(from_, own, strict=True)) / sum(from_)
            over_images += weight[own[0]["target_cluster"]] * share
            images += weight[own[0]["target_cluster"]]
    return {"per_point": per_point, "per_image": over_images / images, "per_pair": over_pairs / pairs}


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32), alpha=st.sampled_from(pck.ALPHAS))
def test_shares_and_intervals_equal_plain_loops(seed: int, alpha: float) -> None:
    points = some(seed)
    found = pck.measure(points, [alpha], draws=40, seed=3)["pck"][str(alpha)]
    rows = [{name: getattr(points, name)[i] for name in COLUMNS} for i in range(len(points))]
    labels = sorted({row[end] for row in rows for end in ("source_cluster", "target_cluster")})
    hit = lambda row: float(row["error"] <= alpha)  # noqa: E731
    once = plain(rows, dict.fromkeys(labels, 1.0), hit)
    drawn = np.random.default_rng(3).multinomial(len(labels), [1 / len(labels)] * len(labels), size=40)
    again = []
    for counts in drawn:
        try:
            again.append(plain(rows, dict(zip(labels, counts.tolist(), strict=True)), hit))
        except ZeroDivisionError:  # no pair has both ends among the drawn
            continue
    for kind in ("per_point", "per_image", "per_pair"):
        low, high = np.percentile([one[kind] for one in again], [2.5, 97.5])
        assert found[kind] == pytest.approx({"value": once[kind], "low": low, "high": high}, abs=1e-12)


def test_an_interval_widens_when_points_hang_together() -> None:
    """The same points with a hundred animals behind them, or with ten: the fewer animals, the less is known."""
    chance = np.random.default_rng(0)
    widths = []
    for clusters in (100, 10):
        pairs = [(s, (s + step) % clusters) for s in range(clusters) for step in range(1, 1 + 900 // clusters)]
        good = chance.random(clusters) < 0.5  # whether an animal is easy
        rows = [(i, t, s, f"a{t}", f"a{s}", "cat", "nose", 0.01 if good[t] else 0.9, NAN, True)
                for i, (s, t) in enumerate(pairs)]  # fmt: skip
        figure = pck.measure(carried(rows), [0.1])["pck"]["0.1"]["per_point"]
        widths.append(figure["high"] - figure["low"])
    assert widths[1] > 2 * widths[0] > 0


def test_a_difference_is_measured_over_the_same_draws() -> None:
    """Where one setting is better by the same share everywhere, its own figure varies and the difference does not."""
    rows = [(10 * s + t, t, s, f"a{t}", f"a{s}", "cat", f"p{p}", 0.01 if p < t else 0.9, NAN, True)
            for s in range(9) for t in range(9) if s != t for p in range(10)]  # fmt: skip
    worse = carried(rows)
    better = replace(worse, error=np.array([0.01 if int(row[6][1:]) <= row[1] else 0.9 for row in rows]))
    own = pck.measure(worse, [0.1])["pck"]["0.1"]["per_point"]
    gain = pck.difference(better, worse)
    assert own["high"] - own["low"] > 0.1
    assert gain == pytest.approx({"value": 0.1, "low": 0.1, "high": 0.1})
    with pytest.raises(CareError, match="same points"):
        pck.difference(better, worse.where(np.arange(5)))


def test_two_clusters_have_no_interval_and_no_points_no_figure() -> None:
    two = BY_HAND.where(BY_HAND.pair == 0)
    assert pck.measure(two)["pck"]["0.1"]["per_point"] == {"value": 0.5, "low": None, "high": None}
    with pytest.raises(CareError, match="no point to measure"):
        pck.measure(two.where(np.zeros(4, bool)))
    assert len(Carried.joined([BY_HAND, two])) == 11
