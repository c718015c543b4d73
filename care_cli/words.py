"""What the names of classes and labels mean, whoever gave them: people, vehicles, nothing, or an animal.

One table for imported files, models and recipes: who is a person to one of them is a person to all.
"""

from __future__ import annotations

import re

SEPARATORS = re.compile(r"[\s_-]+")
PEOPLE = frozenset(
    ("person", "persons", "people", "human", "humans", "man", "woman", "child", "homo sapiens", "homo species", "homo",
     "sapiens")
)  # fmt: skip
VEHICLES = frozenset(
    ("vehicle", "car", "truck", "bus", "motorcycle", "motorbike", "bicycle", "bike", "atv", "quad", "boat")
)
EMPTY = frozenset(("empty", "blank", "none", "nothing", "no animal", "background", "ignore"))
NAMELESS = frozenset(
    ("animal", "animals", "group", "unknown", "unidentified", "unclassified", "other", "no cv result")
)  # an animal, and nobody says which


def plain(name: str) -> str:
    """A name as it is compared: small letters, its words with one blank between, whether written - or _ before."""
    return SEPARATORS.sub(" ", name.casefold()).strip()


def meaning(name: str) -> tuple[str | None, str | None]:
    """Category and species that a name means: of 'empty' none, of 'animal' no species, of others the name itself."""
    word = plain(name)
    if word in EMPTY:
        return None, None
    if word in PEOPLE:
        return "person", None
    if word in VEHICLES:
        return "vehicle", None
    return "animal", None if word in NAMELESS else name
