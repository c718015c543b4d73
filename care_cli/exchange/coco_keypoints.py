"""Keypoints in COCO's format: AP-10K, Animal-Pose, CVAT, Label Studio and mmpose write and read it.

A point is `x, y, v`: px of the photo, and whether it is there: 2 seen, 1 labelled but hidden, 0 absent. Coordinates
are taken as they are: COCO does not say whether a pixel's centre is its number or half a pixel further, and points set
by hand do not tell the two apart. In ours pixel 0 spans 0..1, and v is 1 for a point that is hidden or uncertain.

Beside COCO's own fields ours have: `sha256` of an image's bytes; of an annotation `score` (mean confidence),
`individual`, and `sources` and `confidences` of its points in the order of the category's keypoints, null for absent
ones; and `swap_pairs` of a category: names of points that are each other's mirror.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from care_cli.errors import CareError
from care_cli.geometry import Box
from care_cli.outputs import write_whole
from care_cli.records import PROPAGATED, CropFrame, Keypoints, Template
from care_cli.words import meaning

UNKNOWN = "animal"  # the category of an animal whose species nobody said
SEEN, HIDDEN, ABSENT = 2, 1, 0  # v of a point


@dataclass(frozen=True)
class Annotation:
    """One animal (or person) of one photo, as a file tells of it."""

    place: str  # where in the file, for messages
    box: Box  # px of the photo
    species: str  # the category's name
    names: tuple[str, ...] = ()  # of the points that are there, K
    kp_image: tuple[tuple[float, float], ...] = ()  # K times x, y px, image frame
    visible: tuple[bool, ...] = ()  # K
    sources: tuple[str | None, ...] = ()  # K: propagated, human or import, where the file says so

    @property
    def person(self) -> bool:
        """Is it a person, of whom nothing but the box is taken?"""
        return meaning(self.species)[0] == "person"


@dataclass(frozen=True)
class Annotated:
    """A photo with its annotations."""

    file_name: str
    size: tuple[int, int] | None  # width, height px that the annotations are of; None: the file does not say
    sha256: str | None
    annotations: list[Annotation] = field(default_factory=list)


@dataclass(frozen=True)
class Document:
    """What a file holds: photos with annotations that can be used, and what cannot, with reasons."""

    digest: str  # SHA-256 of the file
    images: list[Annotated]
    failures: list[str]
    without_points: int  # annotations none of whose points is there


# -- writing


def write(
    path: Path,
    found: Iterable[Keypoints],
    frames: dict[int, CropFrame],
    facts: dict[int, dict],
    templates: Sequence[Template] = (),
) -> dict:
    """Write the points of crops; returns how many images, annotations and points.

    `facts` say of a crop's photo: image, path, sha256, individual; `templates` know pairs of mirror points. Of every
    species the names of points are those that any of its crops has, in the order they are met. Raises CareError when
    the file cannot be written.
    """
    found = sorted(found, key=lambda one: one.crop_id)
    names: dict[str, dict[str, None]] = {}
    for one in found:
        names.setdefault(frames[one.crop_id].species or UNKNOWN, {}).update(dict.fromkeys(one.names))
    numbers = {species: number for number, species in enumerate(sorted(names), 1)}
    images: dict[int, dict] = {}
    annotations = []
    for one in found:
        frame, fact = frames[one.crop_id], facts[one.crop_id]
        species = frame.species or UNKNOWN
        images[fact["image"]] = _image(frame, fact)
        annotation = _annotation(one, frame, list(names[species])) | {"category_id": numbers[species]}
        annotations.append(annotation | {"image_id": fact["image"], "individual": fact["individual"]})
    document = {
        "info": {"description": "Keypoints of CARE: px of the upright image, pixel 0 spans 0..1"},
        "images": [images[image] for image in sorted(images)],
        "annotations": annotations,
        "categories": [
            {
                "id": number,
                "name": species,
                "supercategory": "animal",
                "keypoints": list(names[species]),
                "skeleton": [],
                "swap_pairs": _pairs(names[species], templates),
            }
            for species, number in numbers.items()
        ],
    }
    write_whole(path, json.dumps(document, indent=1) + "\n")
    points = sum(annotation["num_keypoints"] for annotation in annotations)
    return {"images": len(images), "annotations": len(annotations), "points": points}


def _image(frame: CropFrame, fact: dict) -> dict:
    width, height = frame.image_size or (None, None)
    return {
        "id": fact["image"],
        "file_name": fact["path"],
        "width": width,
        "height": height,
        "sha256": fact["sha256"],
    }


def _annotation(one: Keypoints, frame: CropFrame, names: list[str]) -> dict:
    flat: list[float] = [0.0, 0.0, ABSENT] * len(names)
    sources: list[str | None] = [None] * len(names)
    confidences: list[float | None] = [None] * len(names)
    said = one.sources or (one.source,) * len(one.names)
    numbers = zip(one.kp_image.tolist(), one.confidence.tolist(), one.visible.tolist(), strict=True)
    for name, source, ((x, y), confidence, visible) in zip(one.names, said, numbers, strict=True):
        place = names.index(name)
        flat[3 * place : 3 * place + 3] = [x, y, SEEN if visible else HIDDEN]
        sources[place], confidences[place] = source, round(confidence, 6)
    return {
        "id": one.crop_id,
        "bbox": list(frame.box),
        "area": frame.box[2] * frame.box[3],
        "iscrowd": 0,
        "keypoints": flat,
        "num_keypoints": len(one.names),
        "score": round(float(one.confidence.mean()), 6),
        "sources": sources,
        "confidences": confidences,
    }


def _pairs(names: Iterable[str], templates: Sequence[Template]) -> list[list[str]]:
    """Pairs among `names` of which some template says that they are each other's mirror."""
    said = {point.name: point.mirror for template in templates for point in template.points if point.mirror}
    order = list(names)
    return [
        [name, said[name]] for name in order if said.get(name) in order and order.index(said[name]) > order.index(name)
    ]


# -- reading


def read(path: Path) -> Document:
    """The photos and annotations of a file; what cannot be used is told in `failures`.

    Raises CareError when the file cannot be read, is no JSON, or not COCO with keypoints in any category.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise CareError(f"The annotations {path} cannot be read: {error.strerror or error}.") from error
    try:
        document = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise CareError(f"The annotations {path} should be JSON, but are not: {error}.") from error
    parts = [
        document.get(part) if isinstance(document, dict) else None for part in ("images", "annotations", "categories")
    ]
    if not all(isinstance(part, list) for part in parts):
        raise CareError(
            f"{path} is not in COCO's format: it should hold the lists images, annotations and categories. "
            "Points for crops of this catalog may also come as CSV: crop,name,x,y,visible."
        )
    failures: list[str] = []
    images = dict(_unique("image", parts[0], _image_of, failures))
    categories = dict(_unique("category", parts[2], _category_of, failures))
    if not any(names for _, names in categories.values()):
        raise CareError(f"No category of {path} has keypoints; it may hold boxes only. Name a file of COCO keypoints.")
    empty = 0
    for _, (image_id, annotation) in _unique(
        "annotation", parts[1], lambda entry, place: _annotation_of(entry, place, images, categories), failures
    ):
        if annotation.names or annotation.person:
            images[image_id].annotations.append(annotation)
        else:
            empty += 1
    used = [image for image in images.values() if image.annotations]
    return Document(hashlib.sha256(data).hexdigest(), used, failures, empty)


class _Unusable(Exception):
    """Why an entry of the file cannot be used."""


def _unique(kind: str, entries: list, parse: Any, failures: list[str]) -> Iterator[tuple[int, Any]]:
    """Ids with what `parse` makes of their entries; the first of an id counts, and what fails is noted."""
    seen: set[int] = set()
    for position, entry in enumerate(entries):
        place = f"{kind} at place {position}"
        try:
            if not isinstance(entry, dict):
                raise _Unusable(f"it should be an object, but is {_short(entry)}")
            number = entry.get("id")
            if not isinstance(number, int) or isinstance(number, bool):
                raise _Unusable(f"its id should be a whole number, but is {_short(number)}")
            place = f"{kind} {number}"
            if number in seen:
                raise _Unusable("its id was given before; the first one counts")
            seen.add(number)
            made = parse(entry, place)
        except _Unusable as error:
            failures.append(f"{place}: {error}")
        else:
            yield number, made


def _image_of(entry: dict, place: str) -> Annotated:
    name, digest = entry.get("file_name"), entry.get("sha256")
    if not isinstance(name, str) or not name:
        raise _Unusable(f"its file_name should be a path, but is {_short(name)}")
    size = entry.get("width"), entry.get("height")
    known = all(isinstance(side, int) and side > 0 for side in size)
    return Annotated(name, size if known else None, digest if isinstance(digest, str) else None)


def _category_of(entry: dict, place: str) -> tuple[str, list[str]]:
    """Its name, and the names of its points; none where it has no keypoints."""
    name, points = entry.get("name"), entry.get("keypoints") or []
    if not isinstance(name, str) or not name.strip():
        raise _Unusable(f"its name should be a text, but is {_short(name)}")
    if not isinstance(points, list) or not all(isinstance(point, str) and point.strip() for point in points):
        raise _Unusable(f"its keypoints should be a list of names, but are {_short(points)}")
    points = [point.strip() for point in points]
    if twice := sorted({point for point in points if points.count(point) > 1}):
        raise _Unusable(f"its keypoints name {', '.join(twice)} twice")
    return name.strip(), points


def _annotation_of(
    entry: dict, place: str, images: dict[int, Annotated], categories: dict[int, tuple[str, list[str]]]
) -> tuple[int, Annotation]:
    for field_, known in (("image_id", images), ("category_id", categories)):
        if not isinstance(entry.get(field_), int) or entry[field_] not in known:
            raise _Unusable(f"its {field_} {_short(entry.get(field_))} leads to nothing that can be used")
    image, (species, names) = images[entry["image_id"]], categories[entry["category_id"]]
    place = f"{image.file_name}, {place}"
    if entry.get("iscrowd"):
        raise _Unusable("it is of a group (iscrowd), not of one animal")
    box = _numbers(entry.get("bbox"), 4, "bbox", "x, y, width, height")
    if not (box[2] > 0 and box[3] > 0):
        raise _Unusable(f"its bbox should be of a width and height above 0 px, but is {box}")
    if meaning(species)[0] == "person":
        return entry["image_id"], Annotation(place, tuple(box), species)
    if not names:
        raise _Unusable(f"its category {species!r} has no keypoints")
    flat = _numbers(entry.get("keypoints"), 3 * len(names), "keypoints", f"x, y, v of each of the {len(names)} names")
    sources = _sources_of(entry, len(names))
    points = [(name, tuple(flat[3 * i : 3 * i + 2]), flat[3 * i + 2], sources[i]) for i, name in enumerate(names)]
    if odd := [v for _, _, v, _ in points if v not in (ABSENT, HIDDEN, SEEN)]:
        raise _Unusable(f"v of a point is 0, 1 or 2, but here {odd[0]:g}")
    there = [point for point in points if point[2] != ABSENT]
    return entry["image_id"], Annotation(
        place=place,
        box=tuple(box),
        species=species,
        names=tuple(name for name, _, _, _ in there),
        kp_image=tuple(point for _, point, _, _ in there),
        visible=tuple(v == SEEN for _, _, v, _ in there),
        sources=tuple(source for _, _, _, source in there),
    )


def _sources_of(entry: dict, count: int) -> list[str | None]:
    """Where each point comes from; None where the file does not say, or means something else by `sources`."""
    sources = entry.get("sources")
    if not isinstance(sources, list) or PROPAGATED not in sources:
        return [None] * count
    if len(sources) != count:
        raise _Unusable(f"its sources should be {count}, one for each name, but there are {len(sources)}")
    return [source if isinstance(source, str) else None for source in sources]


def _numbers(value: object, count: int, what: str, form: str) -> list[float]:
    """`count` finite numbers, as they stand in the file."""
    if not isinstance(value, list) or len(value) != count:
        given = f"{len(value)} values" if isinstance(value, list) else _short(value)
        raise _Unusable(f"its {what} should be {count} numbers ({form}), but there are {given}")
    try:
        numbers = [float(one) for one in value if isinstance(one, int | float) and not isinstance(one, bool)]
    except OverflowError:
        numbers = []
    if len(numbers) < count or not all(map(math.isfinite, numbers)):
        raise _Unusable(f"its {what} should be finite numbers, but hold {_short(value)}")
    return numbers


def _short(value: object) -> str:
    text = json.dumps(value, default=str)
    return "missing" if value is None else text if len(text) <= 40 else text[:37] + "..."
