"""Recipes: how labelled photos of a region become training photos of a detector; one TOML file each.

The files beside this one go by their names; `nz-trailcams-15.toml` says what every setting means.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from care_cli.errors import CareError
from care_cli.words import meaning, plain

HERE = Path(__file__).resolve().parent


@dataclass(frozen=True)
class Recipe:
    """Which photos are learned from, and as what. Raises CareError for settings that no recipe can have."""

    name: str
    classes: dict[str, tuple[str, ...]]  # class, in the order of their numbers -> its labels; its own name is one too
    dropped: tuple[str, ...] = ()  # labels whose photos are left out
    empty: tuple[str, ...] = ("empty", "blank", "none", "nothing")  # labels of photos that show nothing
    about: str = ""
    positive: float = 0.5  # confidence from which a detector's box is an animal
    doubtful: float = 0.1  # confidence from which it may be one; a photo with a box between the two is left out
    people: float = 0.1  # confidence from which a box is of a person or vehicle; the photo is left out
    smallest: float = 4.0  # px; smaller boxes are not written
    sequence_labels: bool = False  # take what is said of a sequence for what each of its photos shows
    burst_gap: float = 60.0  # seconds; a longer pause at a location begins a new burst
    per_burst: int = 3  # photos at most
    per_camera: int = 250  # photos of a class at most
    per_class: int = 25_000  # photos at most
    empties: float = 0.08  # share of all photos that show nothing, at most
    val: float = 0.1  # share of locations
    test: float = 0.1  # share of locations
    seed: int = 666
    numbers: dict[str, int] = field(init=False, repr=False, compare=False)  # label -> number of its class

    def __post_init__(self) -> None:
        for name, low, high in (
            ("positive", 0, 1), ("doubtful", 0, 1), ("people", 0, 1), ("empties", 0, 0.99), ("val", 0, 0.9),
            ("test", 0.001, 0.9), ("smallest", 0, 1e4), ("burst_gap", 0, 1e9), ("per_burst", 1, 1e9),
            ("per_camera", 1, 1e9), ("per_class", 1, 1e9), ("seed", 0, 2**63),
        ):  # fmt: skip
            if not low <= getattr(self, name) <= high:
                self._refuse(f"{name} lies from {low:g} to {high:g}, but is {getattr(self, name):g}")
        if self.doubtful > self.positive:
            self._refuse(f"doubtful is at most positive ({self.positive:g}), but is {self.doubtful:g}")
        if self.val + self.test >= 1:
            self._refuse(f"val and test leave nothing to learn from: {self.val:g} and {self.test:g}")
        if not self.classes:
            self._refuse("it has no classes")
        numbers: dict[str, int] = {}
        for number, (name, labels) in enumerate(self.classes.items()):
            for label in dict.fromkeys((plain(name), *map(plain, labels))):
                if label in numbers or label in self.left_out:
                    self._refuse(f"the label {label!r} stands in it twice")
                numbers[label] = number
        object.__setattr__(self, "numbers", numbers)

    def _refuse(self, reason: str) -> None:
        raise CareError(f"Recipe {self.name}: {reason}.")

    @cached_property
    def left_out(self) -> frozenset[str]:
        """Labels whose photos are left out."""
        return frozenset(map(plain, self.dropped))

    @cached_property
    def nothing(self) -> frozenset[str]:
        """Labels of photos that show nothing."""
        return frozenset(map(plain, self.empty))

    @cached_property
    def of_people(self) -> frozenset[int]:
        """Numbers of the classes of people or vehicles: one of their labels means such."""
        return frozenset(number for label, number in self.numbers.items() if meaning(label)[0] in ("person", "vehicle"))

    @property
    def names(self) -> list[str]:
        """Names of the classes, in the order of their numbers."""
        return list(self.classes)

    def settings(self) -> dict[str, Any]:
        """All that decides which photos are taken, as JSON holds it."""
        return {name: value for name, value in asdict(self).items() if name != "numbers"}

    def changed(self, given: Mapping[str, str]) -> Recipe:
        """The recipe with other settings, as texts. CareError for names and values that it cannot have."""
        changes = {}
        for name, text in given.items():
            if name not in SETTINGS:
                raise CareError(f"A recipe's settings are {', '.join(SETTINGS)}, but got {name!r}.")
            changes[name] = _value(name, text)
        return replace(self, **changes)

    def lines(self) -> list[str]:
        """The recipe for people to read."""
        settings = [f"{name} {getattr(self, name):g}" for name in SETTINGS]
        classes = [f"{name}: {', '.join(labels)}" for name, labels in self.classes.items()]
        return [
            f"Recipe {self.name}: {self.about}".rstrip(": ").strip(),
            *(f"  {number:2} {told}" for number, told in enumerate(classes)),
            f"  left out: {', '.join(self.dropped) or 'none'}; empty: {', '.join(self.empty) or 'none'}",
            f"  {', '.join(settings)}",
        ]


SETTINGS = {
    one.name: one.type for one in fields(Recipe) if one.type in ("float", "int", "bool")
}  # the ones that the command line can change


def known() -> list[str]:
    """Names of the recipes that CARE ships with."""
    return sorted(path.stem for path in HERE.glob("*.toml"))


def load(name: str) -> Recipe:
    """A recipe by its name, or of a file. CareError when there is none, or it is not as it should be."""
    path = HERE / f"{name}.toml" if name in known() else Path(name)
    try:
        document = tomllib.loads(path.read_text("utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise CareError(f"The recipe {path} should be TOML, but is not: {error}.") from error
    except OSError as error:
        raise CareError(
            f"There is no recipe {name!r}: it is one of {', '.join(known())}, or a TOML file that can be read."
        ) from error
    return _recipe(path, document)


def _recipe(path: Path, document: dict) -> Recipe:
    allowed = {one.name for one in fields(Recipe) if one.init}
    if unknown := sorted(set(document) - allowed):
        raise CareError(f"{path}: unknown settings {', '.join(unknown)}; known are {', '.join(sorted(allowed))}.")
    values: dict[str, Any] = {"name": path.stem} | document
    classes = values.get("classes")
    if not isinstance(classes, dict):
        raise CareError(f"{path} needs a table [classes] of names, each with its list of labels.")
    for place, labels in [*classes.items(), *((key, values.get(key, [])) for key in ("dropped", "empty"))]:
        if not isinstance(labels, list) or not all(isinstance(label, str) for label in labels):
            raise CareError(f"{path}: {place} should be a list of labels, but is {labels!r}.")
    values["classes"] = {name: tuple(labels) for name, labels in classes.items()}
    for key in {"dropped", "empty"} & set(values):
        values[key] = tuple(values[key])
    for key in set(SETTINGS) & set(values):
        values[key] = _value(key, values[key])
    for key in ("name", "about"):
        if not isinstance(values.get(key, ""), str):
            raise CareError(f"{path}: {key} should be text, but is {values[key]!r}.")
    return Recipe(**values)


def _value(name: str, given: object) -> float | int | bool:
    """A setting's value of a text or a TOML value."""
    kind = SETTINGS[name]
    text = str(given).casefold()
    try:
        if kind == "bool":
            return {"true": True, "false": False, "1": True, "0": False}[text]
        return int(text) if kind == "int" else float(text)
    except (KeyError, ValueError):
        words = {"bool": "true or false", "int": "a whole number", "float": "a number"}[kind]
        raise CareError(f"A recipe's {name} is {words}, but got {given!r}.") from None
