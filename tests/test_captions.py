"""Captions of rendered chips say what the picture shows."""

from __future__ import annotations

import numpy as np
import pytest

from demo.captions import COLOURS, PATTERNS, caption, colour
from scenes import SPECIES, make_individual
from scenes.coats import LAYOUTS, Look, coat_of, look_of
from scenes.seeds import TEST

TABBY, DAM = Look((214, 160, 96), "stripes"), Look((112, 70, 40), "patches")


@pytest.mark.parametrize(
    ("species", "seed", "look", "side", "infrared", "said"),
    [
        ("Cat", 1, TABBY, "left", False, "A photo of a striped ginger cat, from the left, by day."),
        ("Cat", 1, TABBY, "right", True, "A photo of a striped cat, from the right, at night."),
        ("Deer", 3, DAM, "left", True, "A photo of a patched deer, antlers, from the left, at night."),
        ("Deer", 4, DAM, "left", False, "A photo of a patched chestnut deer, from the left, by day."),
    ],
)
def test_a_caption_says_what_is_true(species, seed, look, side, infrared, said):
    assert caption(make_individual(species, seed), look, side, infrared) == said


def test_details_are_left_out_and_the_species_stays():
    rng, who = np.random.default_rng(0), make_individual("Cat", 1)
    seen = [caption(who, TABBY, "left", False, rng) for _ in range(4000)]
    assert all(one.startswith("A photo of a ") and "cat" in one and one.endswith(".") for one in seen)
    for word in ("striped", "ginger", "from the left", "by day"):
        assert 0.72 < np.mean([word in one for one in seen]) < 0.78
    assert len(set(seen)) == 16


def test_what_is_said_of_a_coat_is_painted_on_it():
    """Read off the picture alone: the tone that is named covers a part of every coat."""
    for seed in TEST[:24]:
        who = make_individual(list(SPECIES)[seed % 4], seed)
        look, coat = look_of(who), coat_of(who)[0].reshape(-1, 3).astype(float)
        assert (np.abs(coat - look.base).max(1) < 25).mean() > 0.1
    assert set(PATTERNS) == set(LAYOUTS)


def test_tones_are_named_by_the_nearest_colour():
    assert all(colour(rgb) == name for name, rgb in COLOURS.items())
    assert (colour((235, 230, 220)), colour((120, 70, 35))) == ("white", "chestnut")
