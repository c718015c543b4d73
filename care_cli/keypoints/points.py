"""What named points must satisfy to be a template's, wherever they come from, and which of them mirror each other."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

from care_cli.decisions import checked_name
from care_cli.errors import CareError
from care_cli.geometry import Rectangle
from care_cli.records import NamedPoint

SIDES = {"left": "right", "Left": "Right", "LEFT": "RIGHT", "l": "r", "L": "R"}
SIDES |= {right: left for left, right in SIDES.items()}
SIDE = re.compile(
    r"(?<![A-Za-z])(?:left|Left|LEFT|right|Right|RIGHT|l|r|L|R)(?![A-Za-z])"  # left_eye, eye-l, L Eye, R1
    r"|(?<![A-Za-z])(?:left|Left|right|Right|l|r|L|R)(?=[A-Z][a-z])"  # leftEye, LEye
    r"|(?<=[a-z])(?:Left|Right|L|R)(?![A-Za-z])"  # eyeLeft, eyeL
)


def checked(
    points: Sequence[NamedPoint], size: tuple[int, int], rect: Rectangle | None = None
) -> tuple[NamedPoint, ...]:
    """The points, names as they are stored, once they are fit for a template.

    `size` is the photo's width and height in px; `rect`, where given, the rectangle of the image frame that the
    crop shows. Raises CareError, naming the point, when there is none, a name is empty, unprintable or there twice
    (whatever the case of letters), a coordinate is no finite number, a point lies outside the photo or the crop, or
    a mirror point does not exist, is the point itself or does not say the same in return.
    """
    if not points:
        raise CareError("A template needs at least one named point, but there is none.")
    named = [_with_checked_names(point, number) for number, point in enumerate(points, 1)]
    known: dict[str, NamedPoint] = {}
    for point in named:
        twin = known.setdefault(point.name.casefold(), point)
        if twin is not point:
            as_what = "" if twin.name == point.name else f", as {twin.name!r} too"
            raise CareError(f"Two points are called {point.name!r}{as_what}; give each a name of its own.")
    by_name = {point.name: point for point in named}
    for point in named:
        _check_place(point, size, rect)
        _check_mirror(point, by_name)
    return tuple(named)


def _with_checked_names(point: NamedPoint, number: int) -> NamedPoint:
    try:
        name = checked_name(point.name)
        mirror = None if point.mirror is None else checked_name(point.mirror)
    except CareError as error:
        raise CareError(f"Point {number}: {error}") from error
    return NamedPoint(name, point.x, point.y, mirror)


def _check_place(point: NamedPoint, size: tuple[int, int], rect: Rectangle | None) -> None:
    where = f"Point {point.name!r} at ({point.x:.6g}, {point.y:.6g})"
    if not (math.isfinite(point.x) and math.isfinite(point.y)):
        raise CareError(f"{where} has no place; give x and y in px.")
    if not (0 <= point.x <= size[0] and 0 <= point.y <= size[1]):
        raise CareError(
            f"{where} lies outside the photo of {size[0]} x {size[1]} px; give px of the upright photo, from its "
            "top-left corner."
        )
    if rect is not None:
        x, y, w, h = rect
        if not (x <= point.x <= x + w and y <= point.y <= y + h):
            raise CareError(
                f"{where} lies outside the animal's crop, which spans {x} to {x + w} and {y} to {y + h}; points are "
                "compared within the crop only. Correct it, leave it out, or choose the crop that shows it."
            )


def _check_mirror(point: NamedPoint, by_name: dict[str, NamedPoint]) -> None:
    if point.mirror is None:
        return
    if point.mirror == point.name:
        raise CareError(f"Point {point.name!r} is its own mirror point; leave that out for points on the middle line.")
    other = by_name.get(point.mirror)
    if other is None:
        raise CareError(
            f"The mirror point of {point.name!r} should be {point.mirror!r}, but there is no such point "
            f"(there are: {', '.join(by_name)})."
        )
    if other.mirror != point.name:
        says = f"says {other.mirror!r}" if other.mirror else "says none"
        raise CareError(
            f"{point.name!r} says its mirror point is {other.name!r}, but {other.name!r} {says}; mirror points name "
            "each other."
        )


def paired_by_name(points: Sequence[NamedPoint]) -> list[NamedPoint]:
    """The points with mirrors from the sides in their names: left_eye and right_eye, eye_l and eye_r, LEye and REye."""
    names = {point.name for point in points}
    mirrors = {name: other for name in names if (other := other_side(name)) in names}
    return [NamedPoint(point.name, point.x, point.y, mirrors.get(point.name)) for point in points]


def other_side(name: str) -> str | None:
    """The name of the point on the other side; None where the name does not say one side, once."""
    if len(SIDE.findall(name)) != 1:
        return None
    return SIDE.sub(lambda side: SIDES[side.group()], name)
