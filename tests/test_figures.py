"""Figures of an examination: what goes into a t-SNE, what comes out, and that any name can be drawn."""

from __future__ import annotations

import io
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from test_hostile_pages import HOSTILE

from care_cli.errors import CareError
from care_cli.evaluation import ablation_figure, figures
from care_cli.evaluation.plots import COLOURS

NAMES = st.lists(st.sampled_from([f"{number:02}" for number in range(25)]), max_size=200)


def decoded(png: bytes) -> np.ndarray:
    assert png.startswith(b"\x89PNG")
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB"))


@settings(max_examples=60, deadline=None)
@given(NAMES)
def test_a_tsne_shows_the_animals_with_the_most_crops(names):
    rows = figures.for_tsne(names)
    shown = {names[row] for row in rows}
    count = {name: names.count(name) for name in set(names)}
    assert rows.tolist() == sorted(set(rows.tolist()))
    assert len(shown) == min(figures.INDIVIDUALS, len(count))
    assert all(count[out] <= count[name] for name in shown for out in set(names) - shown)
    for name in shown:
        assert sum(names[row] == name for row in rows) == min(count[name], figures.CROPS)


def test_a_tsne_keeps_apart_what_is_apart():
    """Ten tight groups on a sphere: each crop's nearest neighbour in the plane is of its own group, every time."""
    chance = np.random.default_rng(0)
    centres = np.repeat(chance.normal(size=(10, 64)), 6, 0)
    vectors = centres + 0.1 * chance.normal(size=centres.shape)
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    places = figures.embedded(vectors)
    apart = np.linalg.norm(places[:, None] - places, axis=2) + 1e9 * np.eye(60)
    assert places.shape == (60, 2) and (apart.argmin(1) // 6 == np.arange(60) // 6).all()
    np.testing.assert_array_equal(places, figures.embedded(vectors))


def test_a_tsne_of_few_or_equal_crops():
    assert [figures.perplexity(count) for count in (5, 91, 92, 1000)] == [4 / 3, 30, 30, 30]
    assert figures.embedded(np.eye(5, 8, dtype=np.float32)).shape == (5, 2)
    assert np.isfinite(figures.embedded(np.ones((6, 8), np.float32))).all()
    with pytest.raises(CareError, match="5 crops or more, but got 4"):
        figures.embedded(np.eye(4))


def test_prototypes_lie_among_their_own_photos():
    """Ten groups, and their centres ten times as long: each cross is nearest to photos of its own group."""
    chance = np.random.default_rng(1)
    centres = chance.normal(size=(10, 64))
    vectors = np.repeat(centres, 6, 0) + 0.1 * chance.normal(size=(60, 64))
    places, crosses = figures.embedded_together(vectors, 10 * centres)
    apart = np.linalg.norm(crosses[:, None] - places, axis=2)
    assert places.shape == (60, 2) and crosses.shape == (10, 2)
    assert (apart.argmin(1) // 6 == np.arange(10)).all()
    both = np.concatenate([vectors, centres])  # lengths do not count
    unit = both / np.linalg.norm(both, axis=1, keepdims=True)
    np.testing.assert_allclose(np.concatenate([places, crosses]), figures.embedded(unit), rtol=1e-3, atol=1e-3)
    with pytest.raises(CareError, match="64 and 3"):
        figures.embedded_together(vectors, np.ones((2, 3)))


def test_crosses_are_drawn_in_the_colour_of_their_animal():
    """A cross far off from all points leaves its animal's colour where nothing else is."""
    places = np.array([[0.0, 0.0], [0.1, 0.0], [0.0, 0.1], [1.0, 1.0], [1.1, 1.0]])
    names = ["a", "a", "a", "b", "b"]
    without = decoded(figures.tsne([("vit", places)], names))
    crossed = decoded(figures.tsne([("vit", places)], names, {"a": np.array([0.5, 0.5])}))
    rgb = np.array([0x00, 0x72, 0xB2])  # the first colour, of a
    middle = crossed[crossed.shape[0] // 4 : crossed.shape[0] // 2, crossed.shape[1] // 3 : 2 * crossed.shape[1] // 3]
    same = without[: crossed.shape[0]][crossed.shape[0] // 4 : crossed.shape[0] // 2,
                                       crossed.shape[1] // 3 : 2 * crossed.shape[1] // 3]  # fmt: skip
    assert (np.abs(middle.astype(int) - rgb).max(2) < 12).sum() > 50
    assert (np.abs(same.astype(int) - rgb).max(2) < 12).sum() < 10


def test_any_name_is_drawn_as_text():
    """Dollar signs are no formulas, leading underscores hide nothing, letters that the font lacks are no failure."""
    names = [*HOSTILE[:7], "_hidden", "$\\frac{1}{", "长颈鹿", "long " * 40]
    places = np.random.default_rng(0).normal(size=(len(names), 2))
    curves = {name: np.linspace(0, 1, 20) for name in names[:6]}
    tsne = decoded(figures.tsne([(name, places) for name in names[:4]], names))
    one = decoded(figures.tsne([("a", places)], names))
    assert tsne.shape[0] > 1.5 * one.shape[0] and tsne.shape[1] > 2 * one.shape[1]  # three panels, one below
    assert decoded(figures.cmc(curves, 0.1)).std() > 1
    pairs = {name: (np.array([0.5, 0.9]), np.array([0.1])) for name in names[:2]}
    assert decoded(figures.similarities(pairs)).std() > 1
    spans = [{"probability": 0.2, "same": 0.25, "pairs": 9}, {"probability": 0.9, "same": 1.0, "pairs": 3}]
    assert decoded(figures.reliability({names[0]: spans})).std() > 1


def test_the_same_figures_are_the_same_bytes():
    """A report made again changes nothing that a version control would notice."""
    curves = {"vit": np.linspace(0, 1, 20)}
    assert figures.cmc(curves) == figures.cmc(curves)


def test_similarities_where_a_kind_is_missing():
    assert decoded(figures.similarities({"vit": (np.zeros(0), np.array([0.1, 0.2]))})).std() > 1


@pytest.mark.parametrize(("variants", "joined"), [(["w = 2", "w = 16"], True), (["random x 1", "CARE x 1"], False)])
def test_lines_join_amounts_and_no_methods(variants, joined):
    metrics = {"top1": {"mean": 0.4, "half": 0.1}}
    rows = [{"size": "own", "variant": name, "metrics": metrics, "published": {"top1": 0.5}} for name in variants]
    svg = ablation_figure.drawn({"": rows}, ["top1"], "", "svg").decode()
    colour = COLOURS[0].lower()
    strokes = re.findall(rf'<path d="M ([0-9.]+)[^"]*L ([0-9.]+)[^"]*"[^>]*stroke: {colour}', svg)
    assert strokes  # of the intervals, if of nothing else
    assert any(abs(float(x) - float(left)) > 100 for left, x in strokes) == joined
