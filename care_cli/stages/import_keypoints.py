"""`care keypoints import`: points that others set, as COCO keypoints or as a table."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import compress, groupby
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from tqdm import tqdm

from care_cli import geometry
from care_cli.catalog.crops import SAME_ANIMAL
from care_cli.catalog.keypoints import point_faults
from care_cli.decisions import Decision
from care_cli.errors import CareError
from care_cli.exchange import coco_keypoints, point_table
from care_cli.exchange.coco_keypoints import UNKNOWN, Annotated, Annotation
from care_cli.exchange.dataset_table import Entry, find_file
from care_cli.images import Reading, decode, read_file
from care_cli.records import PROPAGATED, Crop, Detection, Keypoints, NamedPoint
from care_cli.scan import Found, display_path
from care_cli.stages import gallery
from care_cli.stages.cropping import SETTINGS
from care_cli.stages.crops import black_out
from care_cli.stages.import_dataset import cut
from care_cli.stages.photos import unchanged
from care_cli.stages.places import add_place
from care_cli.thresholds import ONE_BEING, PERSON

if TYPE_CHECKING:
    from care_cli.catalog import Catalog

BATCH = 64  # photos a transaction
COMMAND = "import-keypoints"
MOVED = 0.01  # px; a point that lies further from where a model found it was put right by somebody


@dataclass
class Progress:
    """What an import has met so far."""

    run_id: int
    root: Path | None  # the folder of photos
    source_id: int | None  # its row
    species: str | None  # of all animals, instead of their categories' names
    images: set[int] = field(default_factory=set)
    annotations: int = 0  # that could be used
    crops: int = 0  # new ones
    people: int = 0  # new boxes
    points: int = 0  # new ones
    left_out: int = 0  # points that a model found
    failures: list[str] = field(default_factory=list)  # with reasons


@dataclass(frozen=True)
class Job:
    """A photo with its annotations: the image it is known as, or its file and what was read of it, or why neither."""

    annotated: Annotated
    image_id: int | None = None
    found: Found | None = None
    reading: Reading | None = None
    data: bytes = b""
    failure: str | None = None


def check(file: Path, images: Path | None = None) -> None:
    """CareError when the file or the folder of photos cannot be used at all."""
    if images is not None and not images.is_dir():
        raise CareError(f"--images names the folder that the photos' paths begin at, but {images} is none.")
    point_table.read(file) if _is_table(file) else coco_keypoints.read(file)


def run(catalog: Catalog, file: Path, images: Path | None = None, species: str | None = None) -> dict:
    """Import what a file tells of; returns the summary.

    Of COCO keypoints every annotation is a crop: an animal of the same photo (the same bytes) whose box it meets
    with an IoU of at least 0.6 (it gets the species where it has none), else one that is cut now. `images` is the
    folder that the file's paths begin at; a photo that the catalog knows by its `sha256` needs no file, unless a crop
    is to be cut. A table of points speaks of crops by their numbers. What cannot be used is listed and left out, and
    what is there already is not added again. A point of which the file says that a model found it is left out and
    counted, unless it lies elsewhere than the models of this catalog found it: then it was put right. Raises CareError
    when the file or the folder cannot be used at all.
    """
    check(file, images)
    if _is_table(file):
        return _from_table(catalog, file)
    document = coco_keypoints.read(file)
    settings = {"file": document.digest, "species": species, **SETTINGS}
    run_id = catalog.begin_run(COMMAND, settings, path=str(file), images=str(images or ""))
    root = Path(os.path.abspath(images)) if images else None  # noqa: PTH100 - as `scan` names its roots
    source_id = add_place(catalog, root).source_id if root else None
    progress = Progress(run_id, root, source_id, species, failures=list(document.failures))
    catalog.begin_meeting()
    with tqdm(total=len(document.images), unit="photo", desc="import", disable=None) as bar:
        for start in range(0, len(document.images), BATCH):
            batch = document.images[start : start + BATCH]
            jobs = list(_read(catalog, progress, batch))
            with catalog.transaction():
                found = [one for job in jobs for one in _write(catalog, progress, job)]
                progress.points += catalog.add_keypoints(run_id, found)
            bar.update(len(batch))
    if source_id:
        catalog.finish_meeting(source_id, whole=False)
    catalog.finish_run(run_id)
    if progress.people:
        gallery.forget(catalog)
    return _summary(progress, document.without_points)


def _is_table(file: Path) -> bool:
    return file.suffix.lower() == ".csv"


def _summary(progress: Progress, without_points: int) -> dict:
    return {
        "run": progress.run_id,
        "images": len(progress.images),
        "annotations": progress.annotations,
        "new_crops": progress.crops,
        "new_points": progress.points,
        "left_out": progress.left_out,
        "people": progress.people,
        "without_points": without_points,
        "failed": len(progress.failures),
        "failures": progress.failures,
    }


# -- reading


def _read(catalog: Catalog, progress: Progress, batch: Sequence[Annotated]) -> Iterator[Job]:
    """The photos of a batch; read are those that the catalog does not know with all their animals."""
    for annotated in batch:
        found = find_file(progress.root, annotated.file_name) if progress.root else "no folder of photos is named"
        image_id = catalog.find_image(annotated.sha256) if annotated.sha256 else None
        if image_id is None and isinstance(found, Found):
            image_id = _unchanged_image(catalog, progress, found)
        if image_id and (isinstance(found, str) or _is_complete(catalog, image_id, annotated)):
            yield Job(annotated, image_id)
        elif isinstance(found, str):
            yield Job(annotated, failure=f"{found}; name the folder that its path begins at with --images")
        else:
            yield _read_file(annotated, found)


def _unchanged_image(catalog: Catalog, progress: Progress, found: Found) -> int | None:
    row = catalog.known_files(progress.source_id, [found.relative]).get(found.relative)
    if not unchanged(row, found):
        return None
    catalog.meet([row["id"]])
    return row["image_id"]


def _is_complete(catalog: Catalog, image_id: int, annotated: Annotated) -> bool:
    """Is there nothing to be cut?"""
    brief = catalog.image_brief(image_id)
    if brief["state"] == "unreadable":
        return True
    animals = [one for one in annotated.annotations if not one.person]
    boxes = [_clipped(one, (brief["width"], brief["height"])) for one in animals]
    return None not in matched(boxes, [_box(row) for row in catalog.animals_of(image_id)])


def _read_file(annotated: Annotated, found: Found) -> Job:
    try:
        file = read_file(found.path)
    except OSError as error:
        return Job(annotated, failure=error.strerror or type(error).__name__)
    return Job(annotated, found=found, reading=decode(file), data=file.data or b"")


# -- writing: one photo after the other, in the transaction of its batch


def _write(catalog: Catalog, progress: Progress, job: Job) -> list[Keypoints]:
    """The points of a photo's animals, whose crops are in the catalog then."""
    annotated = job.annotated
    reason = job.failure or _not_the_photo(job)
    image_id = None if reason else job.image_id or _add_image(catalog, progress, job)
    brief = catalog.image_brief(image_id) if image_id else {}
    size = brief.get("width"), brief.get("height")
    if brief.get("state") == "unreadable":
        reason = brief["failure"]
    elif not reason and annotated.size not in (None, size):
        there, said = "{} x {} px".format(*size), "{} x {} px".format(*annotated.size)
        reason = f"it is annotated as a photo of {said}, but upright it is one of {there}"
    if reason:
        progress.failures.append(f"{annotated.file_name}: {reason}")
        return []
    progress.images.add(image_id)
    _add_people(catalog, progress, job, image_id, size)
    usable = []
    for one in annotated.annotations:
        points = [NamedPoint(name, x, y) for name, (x, y) in zip(one.names, one.kp_image, strict=True)]
        if one.person:
            continue
        if faults := _faults(one, points, size):
            progress.failures.append(f"{one.place}: {faults[0]}")
        else:
            usable.append(one)
    return list(_on_crops(catalog, progress, job, image_id, usable, size))


def _not_the_photo(job: Job) -> str | None:
    """Why the bytes that were read are not those that were annotated."""
    if job.reading and job.annotated.sha256 not in (None, job.reading.photo.sha256):
        return "it is not the photo that was annotated: its bytes (SHA-256) are others"
    return None


def _faults(one: Annotation, points: Sequence[NamedPoint], size: tuple[int, int]) -> list[str]:
    if min(_clipped(one, size)[2:]) <= 0:
        return [f"its box {one.box} lies outside the photo of {size[0]} x {size[1]} px"]
    return point_faults(points, size)


def _add_image(catalog: Catalog, progress: Progress, job: Job) -> int:
    found = job.found
    image_id = catalog.add_image(job.reading.photo, None)
    seen = found.relative, display_path(found.relative), found.bytes, found.mtime_ns
    catalog.meet([catalog.add_file(progress.source_id, *seen, image_id=image_id)])
    return image_id


def _add_people(catalog: Catalog, progress: Progress, job: Job, image_id: int, size: tuple[int, int]) -> None:
    """Keep the boxes of the people of a photo that are new, and make them black in the crops that are there."""
    known = [_box(row) for row in catalog.imported_crops(image_id)]
    for one in job.annotated.annotations:
        box = _clipped(one, size)
        if not one.person or min(box[2:]) <= 0 or any(np.allclose(box, other) for other in known):
            continue
        crop = Crop(Detection(box, 1.0, one.species, "person"), geometry.crop_rectangle(box, size))
        [crop_id] = catalog.add_crops(progress.run_id, image_id, [crop], again=True)
        black_out(catalog, crop_id, spare=ONE_BEING)
        progress.people += 1


def _on_crops(
    catalog: Catalog, progress: Progress, job: Job, image_id: int, usable: list[Annotation], size: tuple[int, int]
) -> Iterator[Keypoints]:
    """The points of annotations on the crops they meet, or on crops that are cut now."""
    rows = catalog.animals_of(image_id)
    people = catalog.people([image_id], PERSON).get(image_id, [])
    places = matched([_clipped(one, size) for one in usable], [_box(row) for row in rows])
    for one, place in zip(usable, places, strict=True):
        species = progress.species or (None if one.species == UNKNOWN else one.species)
        crop_id = None if place is None else rows[place]["id"]
        meant = _meant(catalog, progress, crop_id, one.names, one.kp_image, one.sources)
        if not any(meant):
            continue
        if crop_id is not None:
            if species and rows[place]["species"] is None:
                catalog.decide(Decision("species", source="import", crop_id=crop_id, value=species))
        elif job.reading is None or job.reading.picture is None:
            progress.failures.append(f"{one.place}: no crop of the photo is of this animal, and the photo is not here")
            continue
        else:
            entry = Entry(job.annotated.file_name, box=one.box, species=species)
            crop = cut(job.reading, job.data, entry, people)
            [crop_id] = catalog.add_crops(progress.run_id, image_id, [crop], again=True)
            progress.crops += 1
        progress.annotations += 1
        yield _keypoints(crop_id, *(list(compress(of, meant)) for of in (one.names, one.kp_image, one.visible)))


def _meant(
    catalog: Catalog,
    progress: Progress,
    crop_id: int | None,
    names: Sequence[str],
    points: Sequence[tuple[float, float]],
    sources: Sequence[str | None],
) -> list[bool]:
    """Which points a person stands for: those that no model found, and those that were moved since one did.

    The others are counted as left out. `crop_id` is None where the catalog does not know the animal.
    """
    found = catalog.found_places([crop_id]).get(crop_id, {}) if crop_id and PROPAGATED in sources else {}
    meant = [
        source != PROPAGATED or (name in found and np.hypot(*(found[name] - point).T).min() > MOVED)
        for name, point, source in zip(names, points, sources, strict=True)
    ]
    progress.left_out += meant.count(False)
    return meant


def _keypoints(crop_id: int, names: Sequence[str], points: Sequence, visible: Sequence[bool]) -> Keypoints:
    return Keypoints(
        crop_id=crop_id,
        names=tuple(names),
        kp_image=np.array(points, float),
        confidence=np.ones(len(names), np.float32),
        visible=np.array(visible, bool),
        source="import",
    )


def matched(boxes: Sequence[geometry.Box], others: Sequence[geometry.Box]) -> list[int | None]:
    """For each of `boxes` the one of `others` that is of the same animal (IoU at least 0.6), no one twice.

    The pairs that overlap most come first. Boxes `(x, y, w, h)` px.
    """
    found: list[int | None] = [None] * len(boxes)
    overlaps = geometry.iou(boxes, others)
    for index in np.argsort(-overlaps, axis=None, kind="stable"):
        one, other = map(int, np.unravel_index(index, overlaps.shape))
        if overlaps[one, other] >= SAME_ANIMAL and found[one] is None and other not in found:
            found[one] = other
    return found


def _clipped(one: Annotation, size: tuple[int, int]) -> geometry.Box:
    return geometry.clip_box(one.box, size)


def _box(row: dict) -> geometry.Box:
    return row["x"], row["y"], row["w"], row["h"]


# -- tables


def _from_table(catalog: Catalog, file: Path) -> dict:
    """Points of crops of this catalog, one transaction."""
    rows, failures = point_table.read(file)
    run_id = catalog.begin_run(COMMAND, {"file": hashlib.sha256(file.read_bytes()).hexdigest()}, path=str(file))
    progress = Progress(run_id, None, None, None, failures=failures)
    found = []
    with catalog.transaction():
        for crop_id, group in groupby(sorted(rows, key=lambda row: row.crop), lambda row: row.crop):
            usable = [row for row in group if _usable(catalog, progress, row)]
            names, points = [row.name for row in usable], [(row.x, row.y) for row in usable]
            meant = _meant(catalog, progress, crop_id, names, points, [row.source for row in usable])
            if any(meant):
                columns = names, points, [row.visible for row in usable]
                found.append(_keypoints(crop_id, *(list(compress(of, meant)) for of in columns)))
        progress.points = catalog.add_keypoints(run_id, found)
        progress.annotations = len(found)
        progress.images = {catalog.crop(one.crop_id)["image_id"] for one in found}
        catalog.finish_run(run_id)
    return _summary(progress, 0)


def _usable(catalog: Catalog, progress: Progress, row: point_table.PointRow) -> bool:
    """Can the point be kept? If not, it is noted why."""
    try:
        frame = catalog.crop_to_annotate(row.crop)
        faults = point_faults([NamedPoint(row.name, row.x, row.y)], frame.image_size)
    except CareError as error:
        faults = [str(error)]
    progress.failures += [f"line {row.line}: {fault}" for fault in faults]
    return not faults
