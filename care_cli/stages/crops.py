"""What crops show, said by hand; and what follows for the pixels when a person is among them."""

from __future__ import annotations

import contextlib
import io
import math
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from care_cli.catalog import Catalog
from care_cli.decisions import Decision, in_force
from care_cli.errors import CareError
from care_cli.geometry import Box, Rectangle, iou, stored_size, to_crop
from care_cli.images import cut_crop, decode_jpeg, read_photo
from care_cli.records import CATEGORIES, FLANKS
from care_cli.scan import parse_path
from care_cli.stages import gallery
from care_cli.stages.cropping import SETTINGS
from care_cli.thresholds import ONE_BEING, PERSON

BLEED = 3  # px, how far shrinking carries a pixel's colour


def set_crops(
    catalog: Catalog,
    crop_ids: Sequence[int],
    *,
    species: str | None = None,
    category: str | None = None,
    flank: str | None = None,
) -> dict:
    """Say species, category or flank of crops, each a decision, in one transaction.

    What was said before is not said again. A crop set to person loses its pixels, points and embeddings and
    is black in every other crop of its photo; one set to animal gets its pixels from the photo, where that is
    within reach. `templates` are those that were on crops which are no animals now: they are deleted, with `points`
    carried from them. Raises CareError for a crop that does not exist or a value that is none; then nothing is set.
    """
    said = _checked(species=species, category=category, flank=flank)
    crop_ids = list(dict.fromkeys(crop_ids))
    for crop_id in crop_ids:
        if catalog.crop(crop_id) is None:
            raise CareError(f"There is no crop {crop_id}; `care crops` shows their ids.")
    standing = {(entry.crop_id, entry.action) for entry in in_force(catalog.log())}
    decided = []
    with people_made_safe(catalog, crop_ids if category else ()) as without_pixels:
        templates, carried = catalog.templates(), catalog.points_carried()
        for crop_id in crop_ids:
            now = catalog.crop(crop_id)
            for attribute, value in said.items():
                if now[attribute] != value or (crop_id, attribute) not in standing:
                    decided.append(catalog.decide(Decision(attribute, crop_id=crop_id, value=value)))
        left = {template.id for template in catalog.templates()}
    changed = len({entry.crop_id for entry in decided})
    gone = [template for template in templates if template.id not in left]
    return {
        "crops": crop_ids,
        "changed": changed,
        "unchanged": len(crop_ids) - changed,
        "decisions": [entry.id for entry in decided],
        "without_pixels": without_pixels,
        "templates": [template.name for template in gone],
        "points": sum(carried.get(template.id, 0) for template in gone),
    }


def _checked(**values: str | None) -> dict[str, str]:
    """The attributes that are given; CareError when there is none or one is no such value."""
    said = {attribute: value.strip() for attribute, value in values.items() if value is not None}
    if not said:
        raise CareError("Say what to set: --species, --category or --flank.")
    for attribute, known in (("category", CATEGORIES), ("flank", FLANKS)):
        if attribute in said and said[attribute] not in known:
            raise CareError(f"--{attribute} is one of {', '.join(known)}, but got {said[attribute]!r}.")
    if not said.get("species", "some"):
        raise CareError("--species needs a name, but got nothing.")
    return said


@contextlib.contextmanager
def people_made_safe(catalog: Catalog, crop_ids: Sequence[int]) -> Iterator[list[int]]:
    """One transaction of decisions about these crops, with what they mean for pixels.

    Yields a list that holds, in the end, the animals whose pixels could not be had. After the commit nothing
    of a person's pixels is left in the catalog's file.
    """
    without_pixels: list[int] = []
    with catalog.transaction():
        before = {crop_id: catalog.category(crop_id) for crop_id in crop_ids}
        yield without_pixels
        changed = {crop_id: now for crop_id in crop_ids if (now := catalog.category(crop_id)) != before[crop_id]}
        for crop_id, now in changed.items():
            if now == "person":
                black_out(catalog, crop_id)
            elif before[crop_id] == "person":
                for neighbour in _overlapping(catalog, crop_id):
                    cut_again(catalog, neighbour["id"])
        animals = [crop_id for crop_id, now in changed.items() if now == "animal"]
        without_pixels += [crop_id for crop_id in animals if not cut_again(catalog, crop_id)]
    if crop_ids:
        gallery.forget(catalog)


def black_out(catalog: Catalog, crop_id: int, spare: float = np.inf, run_id: int | None = None) -> None:
    """Paint a person's box black in all other stored crops of its photo.

    Crops whose own box meets it with an IoU of at least `spare` are left: another run called that body an
    animal, and a model's word alone does not undo it. Crops of `run_id` were cut with the person black.
    """
    box = _box(catalog.crop(crop_id))
    for neighbour in _overlapping(catalog, crop_id):
        if catalog.crop(neighbour["id"])["run_id"] != run_id:
            hide(catalog, neighbour["id"], [box], spare)


def hide(catalog: Catalog, crop_id: int, people: Sequence[Box], spare: float = np.inf) -> None:
    """Paint boxes of people black in a stored crop, but for those that meet its own with an IoU of at least `spare`."""
    crop = catalog.crop(crop_id)
    rect, size = _rectangle(crop), (crop["crop_width"], crop["crop_height"])
    met = [box for box in people if iou([box], [rect])[0, 0] > 0 and iou([box], [_box(crop)])[0, 0] < spare]
    if not met:
        return
    picture = decode_jpeg(catalog.pixels([crop_id])[crop_id])
    for box in met:
        picture.paste((0, 0, 0), _part(box, rect, size))
    stream = io.BytesIO()
    picture.save(stream, "JPEG", quality=_settings(catalog, crop["run_id"])["crop_quality"])
    catalog.replace_pixels(crop_id, stream.getvalue())


def _part(box: Box, rect: Rectangle, size: tuple[int, int]) -> tuple[int, int, int, int]:
    """Where a box of the image frame lies in a stored crop: left, top, right, bottom in whole px, outward."""
    (left, top), (right, bottom) = to_crop(np.array([box[:2], np.add(box[:2], box[2:])]), rect, size)
    bleed = 0 if size == tuple(rect[2:]) else BLEED
    return (
        max(math.floor(left) - bleed, 0),
        max(math.floor(top) - bleed, 0),
        min(math.ceil(right) + bleed, size[0]),
        min(math.ceil(bottom) + bleed, size[1]),
    )


def _overlapping(catalog: Catalog, crop_id: int) -> list[dict]:
    """The other crops of the photo with pixels whose rectangle meets this crop's box."""
    box = np.array([_box(catalog.crop(crop_id))])
    return [one for one in catalog.neighbours(crop_id) if iou(box, np.array([_rectangle(one)], float))[0, 0] > 0]


def cut_again(catalog: Catalog, crop_id: int) -> bool:
    """Cut an animal's crop from its photo once more, people black; False when the photo is not within reach."""
    crop = catalog.crop(crop_id)
    picture = _photo(catalog, crop["image_id"])
    if picture is None:
        return False
    box, rect = _box(crop), _rectangle(crop)
    people = catalog.people([crop["image_id"]], PERSON).get(crop["image_id"], [])
    others = [person for person in people if iou(np.array([person]), np.array([box]))[0, 0] < ONE_BEING]
    settings = _settings(catalog, crop["run_id"])
    size = stored_size(rect, settings["crop_longest"])
    catalog.put_pixels(crop_id, cut_crop(picture, rect, size, others, settings["crop_quality"]), size)
    return True


def _settings(catalog: Catalog, run_id: int) -> dict:
    """How a run cuts its crops."""
    return SETTINGS | catalog.run_settings(run_id)


def _photo(catalog: Catalog, image_id: int) -> Image.Image | None:
    """The picture of a photo, from any place where its very bytes still are."""
    for place in catalog.places([image_id]).get(image_id, []):
        path = Path(os.fsdecode(parse_path(place["location"]))) / os.fsdecode(place["path_bytes"])
        with contextlib.suppress(OSError):
            reading = read_photo(path)
            if reading.photo.sha256 == place["sha256"]:
                return reading.picture
    return None


def _box(row: dict) -> Box:
    return row["x"], row["y"], row["w"], row["h"]


def _rectangle(row: dict) -> Rectangle:
    return row["rect_x"], row["rect_y"], row["rect_w"], row["rect_h"]
