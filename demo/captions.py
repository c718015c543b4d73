"""What a caption found beside a photo would say of a rendered chip: what can be seen at a glance, from the renderer's
own truth. It says nothing of the marks by which one animal is told from another."""

from __future__ import annotations

import numpy as np

from scenes.coats import Individual, Look

COLOURS = {  # RGB, the words that a naturalist would take
    "white": (240, 234, 224),
    "cream": (226, 200, 166),
    "tan": (208, 172, 130),
    "ginger": (214, 156, 96),
    "grey": (186, 180, 172),
    "black": (38, 36, 34),
    "slate": (68, 69, 72),
    "brown": (78, 55, 40),
    "chestnut": (118, 68, 36),
}
PATTERNS = {"stripes": "striped", "spots": "spotted", "patches": "patched", "belt": "belted", "saddle": "saddled"}


def caption(
    individual: Individual, look: Look, side: str, infrared: bool, told: np.random.Generator | None = None
) -> str:
    """A sentence of an animal seen from a `side`, which looks like that, by day or in infrared, which knows no colours.

    `told` draws which of the details are left out, one in four; None: all are told.
    """
    details = {
        "pattern": PATTERNS[look.style],
        "colour": None if infrared else colour(look.base),
        "antlers": "antlers" if individual.antlers else None,
        "side": f"from the {side}",
        "light": "at night" if infrared else "by day",
    }
    said = {what: words for what, words in details.items() if words and (told is None or told.random() < 0.75)}
    animal = " ".join([*(said.pop(what) for what in ("pattern", "colour") if what in said), individual.species.lower()])
    return ", ".join([f"A photo of a {animal}", *said.values()]) + "."


def colour(tone: tuple[float, ...]) -> str:
    """The word for a tone, RGB 0..255: that of the nearest colour."""
    return min(COLOURS, key=lambda name: np.linalg.norm(np.subtract(COLOURS[name], tone)))
