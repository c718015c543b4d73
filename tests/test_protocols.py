"""Who is compared with whom, how sure a figure is, whether new animals are seen: by hand and by brute force."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from care_cli.errors import CareError
from care_cli.evaluation import intervals, open_set, protocols
from care_cli.evaluation.backgrounds import RING, background
from care_cli.evaluation.metrics import METRICS, columns, figures
from care_cli.evaluation.open_set import Faced
from care_cli.evaluation.protocols import FILTERS, Crops, Protocol, allowed, answers, nearest, sides


def drawn(count: int, seed: int, animals: int = 6) -> tuple[Crops, np.ndarray]:
    """Crops of a few animals, two a photo, some without a time or a flank, and unit vectors."""
    chance = np.random.default_rng(seed)
    images = np.arange(count) // 2
    event = np.where(chance.random(count // 2 + 1) < 0.2, -1, chance.integers(0, 4, count // 2 + 1))[images]
    day = np.where(event < 0, "", np.array([f"2024-05-0{1 + one % 2}" for one in event]))
    vectors = chance.normal(size=(count, 5)).astype(np.float32)
    crops = Crops(
        id=np.arange(count) + 100,
        individual=np.array([f"animal {one}" for one in chance.integers(0, animals, count)]),
        image=images,
        event=event,
        day=day,
        flank=chance.choice(["left", "right", ""], count),
        camera=chance.choice(["north", "south", ""], count),
        species=np.full(count, "Deer"),
    )
    return crops, vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def compared(crops: Crops, filters: tuple[str, ...], query: int, other: int) -> bool:
    """As the module's words say it, for one pair."""
    if query == other:
        return False
    one, two = ({name: getattr(crops, name)[row] for name in ("image", "event", "day", "flank", "camera", "individual")}
                for row in (query, other))  # fmt: skip
    if "event" in filters and (one["image"] == two["image"] or (one["event"] == two["event"] and one["event"] != -1)):
        return False
    if "day" in filters and one["day"] and one["day"] == two["day"]:
        return False
    if "flank" in filters and (not one["flank"] or one["flank"] != two["flank"]):
        return False
    same_place = one["camera"] and one["camera"] == two["camera"]
    return not ("camera" in filters and same_place and one["individual"] == two["individual"])


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 24), st.integers(0, 10**6), st.sets(st.sampled_from(FILTERS)))
def test_filters_say_who_is_compared(count: int, seed: int, filters: set[str]) -> None:
    crops, _ = drawn(count, seed)
    rows, chosen = np.arange(count), tuple(filters)
    expected = [[compared(crops, chosen, query, other) for other in rows] for query in rows]
    assert allowed(crops, chosen, rows, rows).tolist() == expected


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 40), st.integers(0, 10**6), st.floats(0.05, 0.95))
def test_queries_and_gallery_share_out_each_animal(count: int, seed: int, share: float) -> None:
    crops, _ = drawn(count, seed)
    queries, gallery = sides(crops, Protocol("qg", query_share=share, seed=seed))
    assert sorted([*queries, *gallery]) == list(range(count))
    for name in np.unique(crops.individual):
        own = np.flatnonzero(crops.individual == name)
        asking = np.isin(own, queries).sum()
        if len(own) == 1:
            assert asking == 0  # it can only be in the way
        else:
            assert 1 <= asking <= len(own) - 1
            assert abs(asking - share * len(own)) <= 1
    again = sides(crops, Protocol("qg", query_share=share, seed=seed))
    assert np.array_equal(queries, again[0])


def test_only_some_may_ask() -> None:
    crops, _ = drawn(20, 0)
    may_ask = np.arange(20) % 3 == 0
    for kind in ("loo", "qg"):
        queries, gallery = sides(crops, Protocol(kind), may_ask)
        assert len(queries) and may_ask[queries].all()
        assert kind == "qg" or len(gallery) == 20


@settings(max_examples=25, deadline=None)
@given(st.integers(2, 30), st.integers(0, 10**6), st.sets(st.sampled_from(FILTERS)), st.integers(1, 60))
def test_answers_by_the_definition_in_blocks_of_any_size(count: int, seed: int, filters: set[str], block: int) -> None:
    crops, vectors = drawn(count, seed)
    protocol = Protocol("loo", tuple(filters))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(protocols, "BLOCK", block)
        found = answers(crops, vectors, protocol, *sides(crops, protocol))
        own, other = nearest(crops, vectors, protocol, *sides(crops, protocol))
    for query in range(count):
        there = [row for row in range(count) if compared(crops, protocol.filters, query, row)]
        ranked = sorted(there, key=lambda row: -float(vectors[query] @ vectors[row]))
        hits = [rank for rank, row in enumerate(ranked, 1) if crops.individual[row] == crops.individual[query]]
        assert found.compared[query] == len(there) and found.right[query] == len(hits)
        assert found.first[query] == (hits[0] if hits else 0) and found.last[query] == (hits[-1] if hits else 0)
        assert found.answer[query] == (ranked[0] if ranked else -1)
        assert found.match[query] == (ranked[hits[0] - 1] if hits else -1)
        if hits:
            assert found.precision[query] == pytest.approx(np.mean([n / rank for n, rank in enumerate(hits, 1)]))
            assert own[query] == pytest.approx(found.match_similarity[query], abs=1e-6)
        if there:
            assert max(own[query], other[query]) == pytest.approx(found.similarity[query], abs=1e-6)


@pytest.mark.parametrize("wrong", [{"kind": "all"}, {"filters": ("burst",)}, {"query_share": 1.0}])
def test_protocols_that_are_none(wrong: dict) -> None:
    with pytest.raises(CareError):
        Protocol(**wrong)


# -- intervals


def test_the_t_interval_of_ten_seeds_and_of_three() -> None:
    values = [0.90, 0.92, 0.91, 0.95, 0.89, 0.93, 0.92, 0.90, 0.94, 0.91]
    found = intervals.t_interval(values)
    assert found["half"] == pytest.approx(2.262157 * np.std(values, ddof=1) / np.sqrt(10), rel=1e-6)
    # 1, 2, 3: mean 2, s = 1, t_{0.975, 2} = 4.302653
    assert intervals.t_interval([1, 2, 3]) == {"mean": 2, "half": pytest.approx(4.302653 / 3**0.5), "values": [1, 2, 3]}
    assert intervals.t_interval([0.5])["half"] is None


def told(top1: np.ndarray) -> dict[str, np.ndarray]:
    return dict.fromkeys(("top1", "cmc5", "cmc10", "mAP", "mINP"), top1) | {"random": np.full(len(top1), 0.1)}


def test_animals_are_drawn_and_not_photos() -> None:
    # 60 animals of 5 photos each that are all right or all wrong: the sd of the mean is that of 60 coins
    chance = np.random.default_rng(0)
    right = np.repeat(chance.random(60) < 0.5, 5).astype(float)
    whose = np.repeat([f"a{i}" for i in range(60)], 5)
    found = intervals.summary([told(right)], whose)["top1"]
    half = 1.96 * right.std() / np.sqrt(60)
    assert found["mean"] == right.mean() and found["half"] is None
    assert (found["high"] - found["low"]) / 2 == pytest.approx(half, rel=0.12)


def test_two_animals_have_no_interval() -> None:
    found = intervals.summary([told(np.array([1.0, 0.0]))], np.array(["a", "b"]))["top1"]
    assert (found["low"], found["high"]) == (None, None)


def test_seeds_and_their_paired_difference_by_hand() -> None:
    whose = np.array(["a", "a", "b", "b"])
    ours = [told(np.array(x, float)) for x in ([1, 1, 1, 0], [1, 1, 1, 1], [1, 1, 0, 0])]  # .75, 1, .5
    theirs = [told(np.array(x, float)) for x in ([1, 1, 0, 0], [1, 1, 1, 0], [1, 0, 0, 0])]  # .5, .75, .25
    found = intervals.summary(ours, whose)
    assert found["top1"]["values"] == [0.75, 1, 0.5]
    assert found["top1"]["half"] == pytest.approx(4.302653 * 0.25 / 3**0.5)
    gain = intervals.difference(ours, theirs, whose, seeds=3)["top1"]
    # by 0.25 with every seed, though seeds vary; two animals have no interval
    assert gain == {"mean": 0.25, "half": 0.0, "values": [0.25] * 3, "low": None, "high": None}
    assert intervals.difference(ours, theirs, whose, seeds=3)["NGR"]["mean"] == pytest.approx(0.25 / 0.9)


def test_a_paired_difference_over_animals_is_narrower_than_the_figures() -> None:
    chance = np.random.default_rng(1)
    one = (np.repeat(chance.random(40), 4) > chance.random(160)).astype(float)
    other = one.copy()
    other[::40] = 0  # wrong on four queries that may have been right
    whose = np.repeat([f"a{i}" for i in range(40)], 4)
    gain = intervals.difference([told(one)], [told(other)], whose)["top1"]
    alone = intervals.summary([told(one)], whose)["top1"]
    assert gain["mean"] == pytest.approx(one.mean() - other.mean())
    assert gain["high"] - gain["low"] < (alone["high"] - alone["low"]) / 3
    same = intervals.difference([told(one)], [told(one)], whose)
    assert all((same[name]["mean"], same[name]["low"], same[name]["high"]) == (0, 0, 0) for name in METRICS)


def test_seeds_that_agree_do_not_hide_that_animals_differ() -> None:
    # of 20 animals every second is right with ours and none with theirs, with every seed alike
    whose = np.array([f"a{i}" for i in range(20)])
    ours, theirs = ([told(hits)] * 3 for hits in (np.arange(20) % 2.0, np.zeros(20)))
    gain = intervals.difference(ours, theirs, whose, seeds=3)["top1"]
    assert (gain["mean"], gain["half"]) == (0.5, 0.0)
    assert gain["low"] < 0.35 and gain["high"] > 0.65


# -- open set


def faced(known: list[tuple[str, float, bool]], new: list[tuple[str, float]]) -> Faced:
    return Faced(
        known=np.array([True] * len(known) + [False] * len(new)),
        score=np.array([score for _, score, *_ in [*known, *new]], np.float32),
        right=np.array([right for *_, right in known] + [False] * len(new)),
        individual=np.array([name for name, *_ in [*known, *new]]),
    )


def test_baks_and_baus_by_hand() -> None:
    # at 0.5: a: right and above, right and below -> 1/2; b: above but wrong -> 0.   c: above -> 0; d: 3 below, 1 above
    one = faced(
        [("a", 0.9, True), ("a", 0.4, True), ("b", 0.8, False)],
        [("c", 0.6), ("d", 0.1), ("d", 0.2), ("d", 0.3), ("d", 0.7)],
    )
    found = open_set.at(one, 0.5)
    assert found == {"BAKS": pytest.approx(1 / 4), "BAUS": pytest.approx(3 / 8), "root": pytest.approx((3 / 32) ** 0.5)}


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6))
def test_the_best_threshold_by_trying_all(seed: int) -> None:
    chance = np.random.default_rng(seed)

    def score(centre: float) -> float:
        return round(float(chance.normal(centre, 0.3)), 1)

    draws = [
        faced(
            [(f"k{chance.integers(4)}", score(0.5), chance.random() < 0.8) for _ in range(15)],
            [(f"n{chance.integers(3)}", score(0.2)) for _ in range(12)],
        )
        for _ in range(2)
    ]
    chosen = open_set.best_threshold(draws)

    def worth(cut: float) -> float:
        return float(np.mean([open_set.at(one, cut)["root"] for one in draws]))

    assert worth(chosen) == pytest.approx(max(worth(cut) for cut in np.arange(-2.05, 2.1, 0.05)), abs=1e-9)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 3))
def test_auroc_and_eer_as_scikit_learn_has_them(seed: int, digits: int) -> None:
    from sklearn.metrics import roc_auc_score, roc_curve

    chance = np.random.default_rng(seed)
    scores = [round(float(x), digits) for x in (*chance.normal(0.6, 0.2, 25), *chance.normal(0.4, 0.2, 18))]
    one = faced([("a", x, True) for x in scores[:25]], [("b", x) for x in scores[25:]])
    found = open_set.separation(one)
    labels = [1] * 25 + [0] * 18
    assert found["AUROC"] == pytest.approx(roc_auc_score(labels, one.score))
    fpr, tpr, _ = roc_curve(labels, one.score, drop_intermediate=False)
    fine = np.linspace(0, 1, 200_001)  # of the way along each line of the curve
    shares = np.interp(fine, np.linspace(0, 1, len(fpr)), fpr), np.interp(fine, np.linspace(0, 1, len(tpr)), tpr)
    nearest_point = np.argmin(np.abs(shares[0] - (1 - shares[1])))
    assert found["EER"] == pytest.approx(shares[0][nearest_point], abs=1e-3)
    assert found["TPR5"] == pytest.approx(tpr[fpr <= 0.05].max())


def test_unknown_animals_never_answer() -> None:
    crops, vectors = drawn(40, 3)
    new = open_set.unknown(crops.individual, 0.3, seed=0)
    assert len(new) == 2 and set(new) <= set(crops.individual)
    assert not np.array_equal(new, open_set.unknown(crops.individual, 0.3, seed=1))
    for protocol in (Protocol(), Protocol("qg"), Protocol(filters=("event",))):
        found = open_set.face(crops, vectors, protocol, new)
        is_new = np.isin(crops.individual, new)
        assert (~found.known).sum() == is_new.sum()  # all of them ask
        assert set(found.individual[~found.known]) == set(new)
        _, gallery = sides(crops, protocol)
        expected = []
        for query in np.flatnonzero(is_new):
            there = [row for row in gallery if not is_new[row] and compared(crops, protocol.filters, query, row)]
            expected.append(max(float(vectors[query] @ vectors[row]) for row in there))
        assert sorted(found.score[~found.known]) == pytest.approx(sorted(expected), abs=1e-5)


# -- backgrounds


def test_the_animal_is_black_and_the_rest_is_as_it_was() -> None:
    pixels = np.full((20, 40, 3), 200, np.uint8)
    emptied, filled = background(pixels, np.array([[10.2, 5.0], [29.5, 14.1]]))
    assert not filled and (pixels == 200).all()
    assert (emptied[5:15, 10:30] == 0).all()
    assert (emptied == 200).all(2).sum() == 20 * 40 - 10 * 20


def test_of_a_crop_that_is_all_animal_a_border_is_left() -> None:
    pixels = np.full((100, 200, 3), 9, np.uint8)
    emptied, filled = background(pixels, np.array([[-3.0, 0.0], [200.0, 99.9]]))
    kept = (emptied == 9).all(2)
    assert filled and kept[:8].all() and kept[:, :16].all() and not kept[8:92, 16:184].any()
    assert kept.mean() == pytest.approx(1 - (1 - 2 * RING) ** 2)


def test_figures_of_nothing_are_no_numbers() -> None:
    crops, vectors = drawn(4, 0, animals=1)
    found = answers(crops.where([0, 1]), vectors[:2], Protocol(filters=("event",)), np.array([0, 1]), np.array([0, 1]))
    assert not found.right.any()
    assert all(np.isnan(value).all() for value in figures(columns(found), crops.individual[[0, 1]]).values())
