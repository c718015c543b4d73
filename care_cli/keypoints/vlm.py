"""Named points that a vision-language model proposes on one crop.

It is asked several times; the first answer settles the points' names, and each point is the median of all answers.
"""

from __future__ import annotations

import datetime
import functools
import json
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import median

from care_cli.decisions import checked_name
from care_cli.errors import CareError
from care_cli.geometry import Box
from care_cli.keypoints.chat import Endpoint, Unfit, address, ask, beginning
from care_cli.records import NamedPoint


@dataclass(frozen=True)
class Sampling:
    """How often is asked, and what is made of the answers."""

    samples: int = 5
    retries: int = 2  # of each sample
    spread: float = 0.05  # largest distance of an answer from the median, as a share of the crop's sides


def question(species: str | None, count: int, names: Sequence[str] = ()) -> str:
    """What a model is asked about a crop."""
    if names:
        which = f"Find these {count} anatomical points, under exactly these names: {', '.join(names)}."
    else:
        which = (
            f"Name {count} anatomical points that are visible, distinctive for telling individuals apart, and "
            "locatable on most images of this species. Use short names such as left_eye, for the animal's own left "
            "and right."
        )
    return (
        f"The picture shows one animal{f' of the species {species}' if species else ''}. {which} Give x and y as "
        "fractions of the picture's width and height, from 0 to 1, measured from the top-left corner. For a point "
        "that has a counterpart of the same kind on the animal's other side among your points, give the "
        "counterpart's name as mirror_of, otherwise null. Answer with one JSON object: {\"keypoints\": [{\"name\", "
        "\"x\", \"y\", \"confidence\", \"mirror_of\"}]}."
    )  # fmt: skip


def schema(count: int, names: Sequence[str] = ()) -> dict:
    """JSON schema of an answer of `count` points."""
    fraction = {"type": "number", "minimum": 0, "maximum": 1}
    point = {
        "name": {"type": "string", **({"enum": list(names)} if names else {})},
        "x": fraction,
        "y": fraction,
        "confidence": fraction,
        "mirror_of": {"type": ["string", "null"]},
    }
    one = {"type": "object", "properties": point, "required": list(point), "additionalProperties": False}
    several = {"type": "array", "items": one, "minItems": count, "maxItems": count}
    return {
        "type": "object",
        "properties": {"keypoints": several},
        "required": ["keypoints"],
        "additionalProperties": False,
    }


def propose(
    endpoint: Endpoint,
    jpeg: bytes,
    *,
    size: tuple[int, int],
    box: Box,
    species: str | None = None,
    count: int = 3,
    names: Sequence[str] = (),
    sampling: Sampling = Sampling(),
) -> tuple[list[NamedPoint], dict]:
    """Points that the model names on a crop, in px of the crop frame, and how they came about.

    `jpeg` is the stored crop of `size` (width, height) px, `box` the animal's box in it. The first answer settles
    the names, unless `names` do; each point is the median of all answers. `about` holds model, host, date, question,
    raw replies, and each point's spread as a share of the crop's sides. Raises CareError when the endpoint is not
    to be had, refuses, keeps answering what is no proposal, means another range than 0 to 1, or disagrees with
    itself by more than `sampling.spread`.
    """
    from tqdm import tqdm

    count = len(names) or count
    if count < 1:
        raise CareError(f"A template needs at least one point, but {count} were asked for.")
    deadline = time.monotonic() + endpoint.total
    replies: list[str] = []
    answers: list[dict[str, NamedPoint]] = []
    settled = _settled(names)
    first = question(species, count, settled)
    for _ in tqdm(range(sampling.samples), desc="Asking", unit="answer", disable=None):
        words, form = question(species, count, settled), schema(count, settled)
        fit = functools.partial(read_answer, count=count, names=settled, size=size, box=box)
        reply, points = ask(endpoint, jpeg, words, form, fit, sampling.retries, deadline)
        replies.append(reply)
        answers.append(points)
        settled = settled or list(points)
    points, spread = _agreed(answers, sampling.spread)
    about = {
        "model": endpoint.model,
        "host": address(endpoint)[0],
        "at": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "question": first,
        "replies": replies,
        "spread": {name: round(value, 4) for name, value in spread.items()},
    }
    return [NamedPoint(p.name, p.x * size[0], p.y * size[1], p.mirror) for p in points], about


def _settled(names: Sequence[str]) -> list[str]:
    """Names that are asked for, checked."""
    found = [checked_name(name) for name in names]
    if len({name.casefold() for name in found}) < len(found):
        raise CareError(f"Each point needs a name of its own, but got {', '.join(found)}.")
    return found


def read_answer(text: str, count: int, names: Sequence[str], size: tuple[int, int], box: Box) -> dict[str, NamedPoint]:
    """Points by name out of a model's words, x and y as fractions of the crop of `size` px.

    Raises Unfit for prose, a partial list, repeated or other names than `names` (where given), and points outside
    `box` (crop frame, px); CareError for coordinates above 1, which mean another convention than was asked for.
    """
    entries = _only_object(text).get("keypoints")
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise Unfit(f"no list of points came, but {beginning(text)}.")
    values = [entry.get(axis) for entry in entries for axis in "xy"]
    finite = [value for value in values if type(value) in (int, float) and abs(value) < math.inf]
    if any(value > 1 for value in finite):
        raise CareError(
            f"The model was asked for fractions from 0 to 1, but gave coordinates up to {min(max(finite), 1e12):.6g}: "
            f"it seems to answer in {'thousandths or ' if max(finite) <= 1000 else ''}pixels. That is not guessed at; "
            "nothing was stored. Try another model, or give the points in a file (--points)."
        )
    if len(finite) < len(values) or min(finite, default=0) < 0:
        raise Unfit(f"coordinates came that are no fractions from 0 to 1: {beginning(text)}.")
    if len(entries) != count:
        raise Unfit(f"{count} points were asked for, but {len(entries)} came.")
    points = _named(entries, {name.casefold(): name for name in names})
    if names and set(points) != set(names):
        raise Unfit(f"the points {', '.join(names)} were asked for, but {', '.join(points)} came.")
    for point in points.values():
        _check_inside(point, size, box)
    return points


def _check_inside(point: NamedPoint, size: tuple[int, int], box: Box) -> None:
    x, y = point.x * size[0] - box[0], point.y * size[1] - box[1]
    if not (0 <= x <= box[2] and 0 <= y <= box[3]):
        raise Unfit(f"{point.name!r} at ({point.x:.3g}, {point.y:.3g}) of the picture lies outside the animal's box.")


def _only_object(text: str) -> dict:
    """The one JSON object in a model's words: bare, in a code fence or among prose. Unfit when it is not just one."""
    found, at = [], 0
    decoder = json.JSONDecoder()
    while (at := text.find("{", at)) >= 0:
        try:
            value, at = decoder.raw_decode(text, at)
            found.append(value)
        except RecursionError:
            raise Unfit("its answer is nested too deeply.") from None
        except ValueError:
            at += 1
    if len(found) != 1:
        raise Unfit(f"{'no JSON object' if not found else f'{len(found)} JSON objects'} came: {beginning(text)}.")
    return found[0]


def _named(entries: list[dict], known: dict[str, str]) -> dict[str, NamedPoint]:
    """Points by name, which are `known` in whatever case; mirrors where the answer does not contradict itself."""
    points: dict[str, NamedPoint] = {}
    said: dict[str, str | None] = {}
    for entry in entries:
        name = _name(entry.get("name"), known)
        if any(name.casefold() == other.casefold() for other in points):
            raise Unfit(f"two points are called {name!r}.")
        points[name] = NamedPoint(name, float(entry["x"]), float(entry["y"]))
        said[name] = _name(entry["mirror_of"], known) if entry.get("mirror_of") else None
    mirrors: dict[str, str] = {}
    for name, other in said.items():  # a pair may be told at one of its points only
        if other in points and other != name and said[other] in (None, name) and not {name, other} & set(mirrors):
            mirrors |= {name: other, other: name}
    return {name: replace(point, mirror=mirrors.get(name)) for name, point in points.items()}


def _name(value: object, known: dict[str, str]) -> str:
    try:
        name = checked_name(value if isinstance(value, str) else "")
    except CareError as error:
        raise Unfit(str(error)) from error
    return known.get(name.casefold(), name)


def _agreed(answers: list[dict[str, NamedPoint]], allowed: float) -> tuple[list[NamedPoint], dict[str, float]]:
    """Medians of the answers by name (fractions of the crop), mirrors as the first says them, and each one's spread.

    The spread is the largest distance of an answer from the median. CareError when one exceeds what is allowed.
    """
    points, spread = [], {}
    for name, first in answers[0].items():
        x = median(answer[name].x for answer in answers)
        y = median(answer[name].y for answer in answers)
        spread[name] = max(math.dist((x, y), (answer[name].x, answer[name].y)) for answer in answers)
        if spread[name] > allowed:
            raise CareError(
                f"The model's {len(answers)} answers differ by {spread[name]:.2f} of the picture's side on {name!r}, "
                f"more than {allowed}; nothing was stored. Try another model, fewer points, or a clearer photo."
            )
        points.append(NamedPoint(name, x, y, first.mirror))
    return points, spread
