"""An expert's file of named points on one photo: JSON, CSV or COCO keypoints.

JSON is `[{"name", "x", "y", "mirror"?}]` or `{"keypoints": [...], "species"?}`, `points` meaning `keypoints` and
`mirror_of` meaning `mirror`; CSV has the columns name, x, y and perhaps mirror; of a COCO file the annotation of the
photo is taken. Coordinates are px of the upright photo.
"""

from __future__ import annotations

import csv
import hashlib
import io
import itertools
import json
import math
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from care_cli.decisions import checked_name
from care_cli.errors import CareError
from care_cli.keypoints.points import paired_by_name
from care_cli.outputs import write_whole
from care_cli.records import NamedPoint
from care_cli.scan import display_path

DELIMITERS = ",;\t"
PAIRS = ("swap_pairs", "flip_pairs", "flip_indices", "flip_idx")  # how COCO files say which points mirror each other


@dataclass(frozen=True)
class Annotation:
    """What a file says of one animal; points in px of the image frame."""

    points: tuple[NamedPoint, ...]
    species: str | None = None
    size: tuple[int, int] | None = None  # width, height of the photo that was annotated, px, where the file says it
    about: dict = field(default_factory=dict)  # file, format, sha256, and the annotation's id where it has one


# -- reading and writing


def read(path: Path, photo: Iterable[str] = (), annotation: int | None = None) -> Annotation:
    """The points that a file has for one animal, not yet `checked` against its photo.

    `photo` are the paths that the photo is known by, with forward slashes; a COCO file's annotation of it is taken,
    or the one with the id `annotation`. Raises CareError when the file cannot be read, is none of the formats, or
    has no single annotation for the photo.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise CareError(f"The points in {path} cannot be read: {error.strerror or error}.") from error
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise CareError(f"{path} should be UTF-8 text, but byte {error.start} is not.") from error
    about = {"file": display_path(os.fsencode(path.name)), "sha256": hashlib.sha256(data).hexdigest()}
    if path.suffix.lower() != ".json" and not text.lstrip().startswith(("{", "[")):
        return _alone(annotation, path, Annotation(_from_csv(text, path), about=about | {"format": "csv"}))
    document = _json(text, path)
    if isinstance(document, dict) and {"images", "annotations", "categories"} <= set(document):
        found = _from_coco(document, path, list(photo), annotation)
        return Annotation(found.points, found.species, found.size, about | {"format": "coco"} | found.about)
    return _alone(annotation, path, _from_json(document, path, about | {"format": "json"}))


def _alone(annotation: int | None, path: Path, found: Annotation) -> Annotation:
    if annotation is not None:
        raise CareError(f"--annotation chooses one of a COCO file's annotations, but {path} is no such file.")
    return found


def write(path: Path, points: Sequence[NamedPoint], species: str | None = None) -> None:
    """Points (image frame) as an expert's JSON file, which `read` takes. CareError when it cannot be written."""
    listed = [
        {"name": point.name, "x": round(point.x, 2), "y": round(point.y, 2), "mirror": point.mirror}
        for point in points
    ]  # fmt: skip
    write_whole(path, json.dumps({"species": species, "keypoints": listed}, indent=2) + "\n")


def _json(text: str, path: Path) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise CareError(f"{path} cannot be read as JSON: {str(error)[:200]}.") from error


def _from_json(document: Any, path: Path, about: dict) -> Annotation:
    species = None
    entries = document
    if isinstance(document, dict):
        species, entries = document.get("species"), document.get("keypoints", document.get("points"))
    if not isinstance(entries, list):
        raise CareError(
            f"{path} should hold a list of points with name, x and y, alone or as 'keypoints' or 'points', or be a "
            "COCO file with images, annotations and categories."
        )
    if species is not None:
        if not isinstance(species, str):
            raise CareError(f"{path}: the species should be a name, but got {_shown(species)}.")
        species = checked_name(species)
    points = []
    for i, entry in enumerate(entries, 1):
        place = f"{path.name}, point {i}"
        if not isinstance(entry, dict):
            raise CareError(f"{place}: expected an object with name, x and y, but got {_shown(entry)}.")
        points.append(_point(entry, place))
    return Annotation(tuple(points), species, about=about)


def _from_csv(text: str, path: Path) -> tuple[NamedPoint, ...]:
    heading = text.partition("\n")[0]
    delimiter = max(DELIMITERS, key=heading.count)
    reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter)
    try:
        reader.fieldnames = [name.strip().casefold() for name in reader.fieldnames or []]
        rows = [(reader.line_num, row) for row in reader]
    except csv.Error as error:
        raise CareError(f"{path} cannot be read as CSV, behind line {reader.line_num}: {error}.") from error
    for column in ("name", "x", "y"):
        if reader.fieldnames.count(column) != 1:
            raise CareError(
                f"{path} should have the columns name, x and y, and perhaps mirror, each once; it has: "
                f"{_shown(', '.join(reader.fieldnames)) if reader.fieldnames else 'none'}."
            )
    points = []
    for line, row in rows:
        place = f"{path.name} line {line}"
        if None in row:
            raise CareError(f"{place} has more cells than the first line has columns; decimals are written with a dot.")
        if delimiter != ",":  # spreadsheets of many countries write 12,5
            row = {column: (cell or "").replace(",", ".") if column in "xy" else cell for column, cell in row.items()}
        points.append(_point({column: (cell or "").strip() or None for column, cell in row.items()}, place))
    return tuple(points)


def _point(entry: dict, place: str) -> NamedPoint:
    """A point of a file; CareError that names the place where something else stands."""
    name, mirror = entry.get("name"), entry.get("mirror")
    mirror = entry.get("mirror_of") if mirror is None else mirror
    if not isinstance(name, str):
        raise CareError(f"{place}: expected a name, but got {_shown(name)}.")
    if not isinstance(mirror, str | None):
        raise CareError(f"{place}: a mirror is the name of another point, but got {_shown(mirror)}.")
    return NamedPoint(
        name, number(entry.get("x"), f"{place}: x"), number(entry.get("y"), f"{place}: y"), mirror or None
    )


def number(value: Any, what: str) -> float:
    """A finite number out of JSON or a table's cell. CareError for anything else."""
    try:
        if isinstance(value, bool) or not isinstance(value, int | float | str) or "_" in str(value):
            raise ValueError
        found = float(value)
        if not math.isfinite(found):
            raise ValueError
    except (ValueError, OverflowError):
        raise CareError(f"{what} should be a finite number, but got {_shown(value)}.") from None
    return found


def _shown(value: Any) -> str:
    """A value in an error: short, one line."""
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # a number of thousands of digits, a nest of lists
        text = f"a {type(value).__name__} too large to show"
    return text if len(text) <= 60 else text[:57] + "..."


# -- COCO keypoints


def _from_coco(document: dict, path: Path, photo: list[str], wanted: int | None) -> Annotation:
    """The wanted annotation, else the only one of the photo."""
    images, annotations, categories = (_objects(document, key, path) for key in ("images", "annotations", "categories"))
    if wanted is not None:
        chosen = [entry for entry in annotations if _is(entry.get("id"), wanted)]
        missing = f"{path} has no annotation {wanted}."
    else:
        here = [image.get("id") for image in _images_of(images, photo)]
        chosen = [entry for entry in annotations if any(_is(entry.get("image_id"), image) for image in here)]
        missing = f"{path} has no annotation of {photo[0] if photo else 'the photo'}; choose one with --annotation ID."
    if not chosen:
        raise CareError(missing)
    if len(chosen) > 1:
        ids = ", ".join(_shown(entry.get("id")) for entry in chosen[:20])
        raise CareError(
            f"{path} has {len(chosen)} annotations that could be meant: {ids}. Choose one with --annotation."
        )
    [entry] = chosen
    category = next((one for one in categories if _is(one.get("id"), entry.get("category_id"))), None)
    image = next((one for one in images if _is(one.get("id"), entry.get("image_id"))), {})
    if category is None:
        raise CareError(
            f"{path}: annotation {_shown(entry.get('id'))} is of category {_shown(entry.get('category_id'))}, which "
            "the file does not describe."
        )
    size = image.get("width"), image.get("height")
    return Annotation(
        tuple(_coco_points(entry, category, path)),
        checked_name(category["name"]) if isinstance(category.get("name"), str) else None,
        size if all(type(side) is int for side in size) else None,
        {"annotation": _shown(entry.get("id"))},
    )


def _objects(document: dict, key: str, path: Path) -> list[dict]:
    entries = document[key]
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise CareError(f"{path}: '{key}' of a COCO file should be a list of objects.")
    return entries


def _is(value: Any, wanted: Any) -> bool:
    """Are two ids the same? True is not 1 here."""
    return type(value) is type(wanted) and value == wanted


def _images_of(images: list[dict], photo: list[str]) -> list[dict]:
    """The COCO images that mean the photo: of its file name, and of those the ones with most folders in common."""
    shared = [max((_common_end(image.get("file_name"), known) for known in photo), default=0) for image in images]
    most = max(shared, default=0)
    return [image for image, count in zip(images, shared, strict=True) if count == most > 0]


def _common_end(name: Any, known: str) -> int:
    """How many components two paths have in common at their ends."""
    if not isinstance(name, str):
        return 0
    ends = zip(reversed(name.replace("\\", "/").split("/")), reversed(known.split("/")), strict=False)
    return sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], ends))


def _coco_points(entry: dict, category: dict, path: Path) -> list[NamedPoint]:
    """The points with v > 0, mirrors as the category says them, else as the names do."""
    place = f"{path.name}, annotation {_shown(entry.get('id'))}"
    names, values = category.get("keypoints"), entry.get("keypoints")
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise CareError(f"{place}: its category should list the points' names as 'keypoints'.")
    if not isinstance(values, list) or len(values) != 3 * len(names):
        came = f"{len(values)} numbers" if isinstance(values, list) else _shown(values)
        raise CareError(f"{place}: {len(names)} points are {3 * len(names)} numbers (x, y, v each), but got {came}.")
    found = []
    for i, name in enumerate(names):
        x, y, v = values[3 * i : 3 * i + 3]
        if number(v, f"{place}: v of {_shown(name)}") > 0:
            found.append(NamedPoint(name, number(x, f"{place}: x of {_shown(name)}"),
                                    number(y, f"{place}: y of {_shown(name)}")))  # fmt: skip
    key = next((key for key in PAIRS if category.get(key) is not None), None)
    if key is None:
        return paired_by_name(found)
    mirrors = _pairs(category[key], key, names, place)
    present = {point.name for point in found}
    mirrored = ((point, mirrors.get(point.name)) for point in found)
    return [NamedPoint(point.name, point.x, point.y, name if name in present else None) for point, name in mirrored]


def _pairs(said: Any, key: str, names: list[str], place: str) -> dict[str, str]:
    """Mirror points by name: of a list of pairs, or of a permutation; by names or by numbers from 0."""
    wrong = CareError(
        f"{place}: '{key}' should pair points by their names or their numbers from 0, or list for each of the "
        f"{len(names)} points the number of its mirror point, but got {_shown(said)}."
    )  # fmt: skip
    if not isinstance(said, list):
        raise wrong
    if said and not any(isinstance(pair, list) for pair in said):
        if len(said) != len(names):
            raise wrong
        said = [[i, other] for i, other in enumerate(said) if other != i]
    mirrors: dict[str, str] = {}
    for pair in said:
        if not isinstance(pair, list) or len(pair) != 2:
            raise wrong
        numbers = [names.index(one) if isinstance(one, str) and one in names else one for one in pair]
        if not all(type(one) is int and 0 <= one < len(names) for one in numbers):
            raise wrong
        a, b = (names[one] for one in numbers)
        if a == b or mirrors.setdefault(a, b) != b or mirrors.setdefault(b, a) != a:
            raise wrong
    return mirrors
