"""What a file may say about a model: names that are names, numbers that a network can have.

Headers of checkpoints and manifests come from anywhere. What passes here can be printed, stored and built.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Any

from care_cli.errors import CareError
from care_cli.records import CATEGORIES, VIEWS, KeypointScheme, Scheme, ViewpointScheme
from care_cli.words import meaning

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
LABEL = 200  # characters of a class's or species' name
MOST_CLASSES = 10_000
LARGEST_INPUT = 4096  # px
LARGEST_OPTION = 4096  # channels, px
DEEPEST = 200  # layers
MOST_WORDS = 1_000_000  # of a text tower's vocabulary
LARGEST_DIM = 100_000  # numbers of an embedding
LARGEST_FILE = 2**50  # bytes
KEYPOINT_MODES = ("ckpe", "kpe", "kpe-pooled")  # how a network is told of points, see keypoint_vit
MOST_KEYPOINTS = 200  # categories of points
MOST_VIEWPOINTS = 10_000  # pairs of a camera and a view
ROLE = re.compile(r"(detect|propagate):(cpu|cuda)|index")


def check_name(where: str, name: Any) -> None:
    """CareError unless a model's name is made of letters, digits, dots and hyphens, 100 at the most."""
    if not isinstance(name, str) or not NAME.fullmatch(name):
        raise CareError(f"{where}: a name is made of letters, digits, dots and hyphens, got {_shown(name)}")


def check_labels(where: str, names: Iterable[Any]) -> None:
    """CareError unless the names of classes are printable text of a bearable length and number."""
    names = list(names)
    if len(names) > MOST_CLASSES:
        raise CareError(f"{where}: {len(names):,} classes are more than the {MOST_CLASSES:,} of a detector")
    for name in names:
        if not _is_label(name):
            raise CareError(f"{where}: a class is called by up to {LABEL} printable characters, got {_shown(name)}")


def checked_classes(where: str, classes: Any) -> dict[str, dict]:
    """Class name to `{category, species?}`; a bare string is a category. CareError for anything else."""
    if not isinstance(classes, dict):
        raise CareError(f"{where}: classes must be a table or the name of one")
    check_labels(where, classes)
    full = {label: {"category": value} if isinstance(value, str) else value for label, value in classes.items()}
    for label, value in full.items():
        if not isinstance(value, dict) or value.get("category") not in CATEGORIES:
            raise CareError(f"{where}: class {label!r} must be one of {', '.join(CATEGORIES)}")
        if not (value.get("species") is None or _is_label(value["species"])):
            raise CareError(f"{where}: the species of class {label!r} must be its name, got {_shown(value['species'])}")
    return full


def meanings(names: Iterable[str]) -> dict[str, dict]:
    """Class name to `{category, species?}` by the names alone, see `words`; those that mean nothing are left out."""
    known = {name: meaning(name) for name in names}
    return {
        name: {"category": category} | ({"species": species} if species else {})
        for name, (category, species) in known.items()
        if category
    }


def check_values(where: str, values: dict[str, Any]) -> None:
    """CareError for a value of a header or a registry entry that no model can have; unknown keys pass."""
    for key, (is_right, expected) in RULES.items():
        if values.get(key) is not None and not is_right(values[key]):
            raise CareError(f"{where}: {key} must be {expected}, got {_shown(values[key])}")
    if isinstance(values.get("names"), list):
        check_labels(where, values["names"])


def scheme_of(values: Any) -> Scheme | None:
    """What a model is told beside pixels, by its header or its settings in a run: points, or from where a photo was
    taken; None where these name neither."""
    keypoints, viewpoints = (values.get(key) if isinstance(values, dict) else None for key in TOLD)
    if _are_keypoints(keypoints):
        return KeypointScheme(tuple(keypoints["names"]), dict(keypoints.get("mirrors", {})))
    if _are_viewpoints(viewpoints):
        return ViewpointScheme(tuple(viewpoints["cameras"]), tuple(viewpoints["views"]))
    return None


def is_camera(name: Any) -> bool:
    """Can a camera be called so in a header?"""
    return _is_text(name) and bool(name)


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:60]}..."


def _is_label(value: Any) -> bool:
    return isinstance(value, str) and value.isprintable() and 0 < len(value) <= LABEL


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and value.isprintable() and len(value) <= 2000


def _is_whole(least: int, most: int) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, int) and not isinstance(value, bool) and least <= value <= most


def _is_number(least: float, most: float) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, int | float) and not isinstance(value, bool) and least <= value <= most


def _is_list(of: Callable[[Any], bool], length: int | None = None) -> Callable[[Any], bool]:
    return lambda value: (
        isinstance(value, list | tuple) and length in (None, len(value)) and all(of(item) for item in value)
    )


def _is_size(value: Any) -> bool:
    side = _is_whole(8, LARGEST_INPUT)
    return side(value) or _is_list(side, 2)(value)


def _is_architecture(value: Any) -> bool:
    # timm takes 'hf-hub:OWNER/NAME' and 'local-dir:PATH' for names, and would fetch or open what they lead to
    return _is_text(value) and not re.search(r"[:/\\]", value)


def _is_one_of(*words: str) -> Callable[[Any], bool]:
    return lambda value: value in words


def _is_option(value: Any, most: float) -> bool:
    if isinstance(value, list):
        return len(value) <= 64 and all(_is_option(item, most) for item in value)
    return value is None or isinstance(value, bool) or _is_text(value) or _is_number(0, most)(value)


def _are_options(value: Any) -> bool:
    return isinstance(value, dict) and all(
        _is_option(item, DEEPEST if key.startswith("depth") or key.endswith("layers") else LARGEST_OPTION)
        if key != "text_vocab_size"
        else _is_whole(1, MOST_WORDS)(item)
        for key, item in value.items()
    )


def _are_thresholds(value: Any) -> bool:
    return isinstance(value, dict) and all(_is_number(-1, 1)(value.get(key, 0)) for key in ("known", "new"))


def _are_keypoints(value: Any) -> bool:
    if not isinstance(value, dict) or value.get("mode") not in KEYPOINT_MODES:
        return False
    names, mirrors = value.get("names"), value.get("mirrors", {})
    return (
        _is_list(_is_label)(names)
        and 1 <= len(names) <= MOST_KEYPOINTS
        and len(set(names)) == len(names)
        and isinstance(mirrors, dict)
        and all(_is_label(other) and mirrors.get(other) == name for name, other in mirrors.items())
        and isinstance(value.get("soft", False), bool)
        and _is_number(-1000, 1000)(value.get("scale", 1.0))
    )


def _are_viewpoints(value: Any) -> bool:
    if not isinstance(value, dict):
        return False
    cameras, views = value.get("cameras"), value.get("views")
    return (
        _is_list(is_camera)(cameras)
        and _is_list(_is_one_of(*VIEWS))(views)
        and all(len(set(names)) == len(names) for names in (cameras, views))
        and max(len(cameras), len(views)) >= 1
        and max(1, len(cameras)) * max(1, len(views)) <= MOST_VIEWPOINTS
        and _is_number(-1000, 1000)(value.get("weight"))
    )


TOLD = ("keypoints", "viewpoints")  # what a model may be told beside pixels; one of them
TEXT = _is_text, "printable text"
RULES: dict[str, tuple[Callable[[Any], bool], str]] = {
    "task": TEXT,
    "method": TEXT,
    "licence": TEXT,
    "source": TEXT,
    "url": TEXT,
    "file": TEXT,
    "interpolation": (_is_one_of("nearest", "box", "bilinear", "hamming", "bicubic", "lanczos"), "a filter of Pillow"),
    "crop_mode": (_is_one_of("center", "squash", "border"), "center, squash or border"),
    "crop_pct": (_is_number(0.1, 10), "a number from 0.1 to 10"),
    "architecture": (_is_architecture, "the name of an architecture"),
    "input_size": (_is_size, f"a side of 8 to {LARGEST_INPUT} px, or a height and a width"),
    "dim": (_is_whole(1, LARGEST_DIM), f"a number from 1 to {LARGEST_DIM:,}"),
    "bytes": (_is_whole(1, LARGEST_FILE), "the size of a file in bytes"),
    "shown": (_is_number(0, 1), "a confidence from 0 to 1"),
    "mean": (_is_list(_is_number(-1000, 1000), 3), "three numbers"),
    "std": (_is_list(_is_number(1e-6, 1000), 3), "three positive numbers"),
    "options": (_are_options, f"a table of plain values up to {LARGEST_OPTION}"),
    "keypoints": (
        _are_keypoints,
        f"a table: mode ({', '.join(KEYPOINT_MODES)}), up to {MOST_KEYPOINTS} different names, mirrors that name each "
        "other, soft, scale",
    ),
    "viewpoints": (
        _are_viewpoints,
        f"a table: different cameras and views ({', '.join(VIEWS)}), up to {MOST_VIEWPOINTS:,} pairs; weight",
    ),
    "thresholds": (_are_thresholds, "a table with the cosines 'known' and 'new'"),
    "files": (_is_list(_is_text), "a list of paths"),
    "default_for": (
        _is_list(lambda role: isinstance(role, str) and bool(ROLE.fullmatch(role))),
        "a list of detect:cpu, detect:cuda, index, propagate:cpu and propagate:cuda",
    ),
}
