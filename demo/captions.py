"""What can be said in words of a rendered chip, from the renderer's own truth."""

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
MARKS = {
    "stripes": "{} stripes",
    "spots": "{} spots",
    "patches": "{} patches",
    "belt": "a {} belt",
    "saddle": "a {} saddle",
}
OVER = {"patches": "patches over it", "belt": "a belt over it", "saddle": "a saddle over it"}
FACES = {"hood": "a hood", "muzzle": "a muzzle", "cap": "a cap", "collar": "a collar"}
TAILS = {"rings": "a ringed tail", "end": "a tail tip"}


def caption(
    individual: Individual, look: Look, side: str, infrared: bool, told: np.random.Generator | None = None
) -> str:
    """A sentence of an animal seen from a `side`, which looks like that, by day or in infrared, which knows no colours
    but light and dark.

    `told` draws which of the details are left out, one in four; None: all are told.
    """
    base, mark = tones(look.base, look.mark, infrared)
    details = [
        OVER.get(look.over),
        FACES.get(look.face),
        " and ".join(look.socks) + " socks" if look.socks else None,
        TAILS.get(look.tail),
        "antlers" if individual.antlers else None,
        f"from the {side}",
        "at night" if infrared else "by day",
    ]
    said = [detail for detail in details if detail and (told is None or told.random() < 0.75)]
    start = f"A photo of a {base} {individual.species.lower()} with {MARKS[look.style].format(mark)}"
    return ", ".join([start, *said]) + "."


def tones(base: tuple[float, ...], mark: tuple[float, ...], infrared: bool) -> tuple[str, str]:
    """The two tones in words: the nearest colours, or in infrared which is the lighter one."""
    if infrared:
        return ("pale", "dark") if sum(base) > sum(mark) else ("dark", "pale")
    return tuple(min(COLOURS, key=lambda name: np.linalg.norm(np.subtract(COLOURS[name], tone)))
                 for tone in (base, mark))  # fmt: skip
