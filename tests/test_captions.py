"""Captions of rendered chips say what the picture shows."""

from __future__ import annotations

import numpy as np
import pytest

from demo.captions import COLOURS, caption, tones
from scenes import SPECIES, make_individual
from scenes.coats import Look, coat_of, look_of
from scenes.seeds import TEST

TABBY = Look((214, 160, 96), (40, 36, 34), "stripes", None, ("hind",), "rings", "hood")
DAM = Look((112, 70, 40), (244, 232, 206), "patches", "belt", ("front", "hind"), "end", "plain")


@pytest.mark.parametrize(
    ("species", "seed", "look", "side", "infrared", "said"),
    [
        ("Cat", 1, TABBY, "left", False,
         "A photo of a ginger cat with black stripes, a hood, hind socks, a ringed tail, from the left, by day."),
        ("Cat", 1, TABBY, "right", True,
         "A photo of a pale cat with dark stripes, a hood, hind socks, a ringed tail, from the right, at night."),
        ("Deer", 3, DAM, "left", True,
         "A photo of a dark deer with pale patches, a belt over it, front and hind socks, a tail tip, antlers, "
         "from the left, at night."),
        ("Deer", 4, DAM, "left", False,
         "A photo of a chestnut deer with white patches, a belt over it, front and hind socks, a tail tip, "
         "from the left, by day."),
    ],
)  # fmt: skip
def test_a_caption_says_what_is_true(species, seed, look, side, infrared, said):
    assert caption(make_individual(species, seed), look, side, infrared) == said


def test_details_are_left_out_and_the_beginning_stays():
    rng = np.random.default_rng(0)
    who = make_individual("Cat", TEST[0])
    look = look_of(who)
    whole = caption(who, look, "left", False).removesuffix(".").split(", ")
    seen = [caption(who, look, "left", False, rng).removesuffix(".").split(", ") for _ in range(200)]
    assert all(one[0] == whole[0] and set(one) <= set(whole) for one in seen)
    assert all(0.6 < np.mean([detail in one for one in seen]) < 0.9 for detail in whole[1:])


def test_what_is_said_of_a_coat_is_painted_on_it():
    """Read off the picture alone: where which of the two tones lies."""
    hoods, socks = [], []
    for seed in TEST[:48]:
        who = make_individual(list(SPECIES)[seed % 4], seed)
        look, coat, body = look_of(who), coat_of(who)[0].astype(float), who.body
        x0, z0, _, _ = body.canvas
        base, mark = np.array(look.base), np.array(look.mark)

        def marked(u: float, z: float, coat=coat, base=base, mark=mark, x0=x0, z0=z0) -> bool:
            """Is the coat round a place of the rest pose nearer to the tone of the marks?"""
            row, column = round((z - z0) * 180), round((u - x0) * 180)
            tone = coat[max(row - 2, 0) : row + 3, max(column - 2, 0) : column + 3].mean((0, 1))
            return np.linalg.norm(tone - mark) < np.linalg.norm(tone - base)

        if look.over is None:  # which turns tones around
            x, _, z = body.points["nose"][1]
            hoods.append((look.face == "hood", marked(x - 0.02, z)))
            for leg in ("front", "hind"):
                x, _, z = body.points[f"right_{leg}_paw"][1]
                socks.append((leg in look.socks, marked(x, z)))
    told, seen = np.array(socks).T
    assert (told == seen).mean() > 0.9 and 0 < told.mean() < 1
    told, seen = np.array(hoods).T
    assert told.any() and seen[told].all()


def test_tones_are_named_by_the_nearest_colour_and_in_infrared_by_lightness():
    assert all(tones(rgb, COLOURS["black"], False)[0] == name for name, rgb in COLOURS.items())
    assert tones((235, 230, 220), (120, 70, 35), False) == ("white", "chestnut")
    assert tones((235, 230, 220), (120, 70, 35), True) == ("pale", "dark")
    assert tones((120, 70, 35), (235, 230, 220), True) == ("dark", "pale")
