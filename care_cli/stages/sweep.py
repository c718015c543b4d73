"""What an evaluation of points can vary, and the combinations that a sweep asks for."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from itertools import product
from typing import Any

from care_cli.errors import CareError
from care_cli.features import FeatureConfig
from care_cli.keypoints.matching import POSES, REFINEMENTS, MatchConfig


@dataclass(frozen=True)
class Setting:
    """One way to carry points."""

    features: FeatureConfig = field(default_factory=FeatureConfig)
    match: MatchConfig = field(default_factory=MatchConfig)
    references: int | None = None  # drawn for each target; None: every pair of crops
    mirrored: bool = False  # points are carried to the mirror images of the targets


def setting_of(said: Mapping[str, Any], no_cycle: bool = False) -> Setting:
    """The setting in which what is None is as it comes. CareError for values that mean nothing."""
    if no_cycle and said.get("cycle") is not None:
        raise CareError("--cycle and --no-cycle contradict each other; give one of them.")
    given = {name: value for name, value in said.items() if value is not None}
    return _with(Setting(), given | ({"cycle": None} if no_cycle else {}))


def sweep_of(texts: Sequence[str]) -> dict[str, tuple]:
    """What `--sweep` said, each time that it was given."""
    sweep: dict[str, tuple] = {}
    for text in texts:
        name, values = parse(text)
        if name in sweep:
            raise CareError(f"--sweep {name} is given twice; list all its values in one.")
        sweep[name] = values
    return sweep


def parse(text: str) -> tuple[str, tuple]:
    """`timestep=0,50,100` as a name of `SWEEPS` and its values. CareError for what means nothing."""
    name, _, listed = text.partition("=")
    name = name.strip()
    if name not in SWEEPS:
        raise CareError(f"--sweep takes NAME=VALUE,VALUE,... with one of {', '.join(SWEEPS)}, but got {text!r}.")
    read, kind = SWEEPS[name]
    values: list = []
    for word in map(str.strip, listed.split(",")):
        try:
            value = read(word)
        except (ValueError, KeyError):
            raise CareError(f"--sweep {name} takes {kind}, separated by commas, but got {word!r}.") from None
        if value in values:
            raise CareError(f"--sweep {name} holds {word} twice.")
        values.append(value)
    return name, tuple(values)


def _number(word: str) -> int:
    if not (word.isascii() and word.removeprefix("-").isdigit()):
        raise ValueError(word)
    return int(word)


SWITCH = {"on": True, "off": False}.__getitem__
SWEEPS: dict[str, tuple[Callable[[str], Any], str]] = {  # name -> how a value is read, and what it is in words
    "timestep": (_number, "whole numbers"),
    "ensemble": (_number, "whole numbers"),
    "block": (_number, "whole numbers"),
    "size": (_number, "whole numbers"),
    "references": (_number, "whole numbers"),
    "refine": ({name: name for name in REFINEMENTS}.__getitem__, " or ".join(REFINEMENTS)),
    "align": (SWITCH, "on or off"),
    "pose": ({name: name for name in POSES}.__getitem__, " or ".join(POSES)),
    "cycle": (lambda word: None if word == "none" else float(word), "shares or none"),
    "mirrored": (SWITCH, "on or off"),
}


def varied(setting: Setting, sweep: Mapping[str, tuple]) -> list[tuple[dict[str, Any], Setting]]:
    """Every combination of a sweep's values, the first name's slowest: what was varied, and the setting it makes."""
    found = []
    for values in product(*sweep.values()):
        said = dict(zip(sweep, values, strict=True))
        found.append((said, _with(setting, said)))
    return found


def _with(setting: Setting, said: Mapping[str, Any]) -> Setting:
    def own(part: Any) -> dict[str, Any]:
        return {each.name: said[each.name] for each in fields(part) if each.name in said}

    parts = {"features": replace(setting.features, **own(setting.features)),
             "match": replace(setting.match, **own(setting.match))}  # fmt: skip
    return replace(setting, **own(setting), **parts)
