"""`care import dataset`: an existing re-identification data set into the catalog, each photo one crop."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image
from tqdm import tqdm

from care_cli import geometry
from care_cli.decisions import Decision
from care_cli.errors import CareError
from care_cli.exchange.dataset_table import Dataset, Entry, entries
from care_cli.images import Reading, cut_crop, decode, read_file
from care_cli.records import Crop, Detection, Photo
from care_cli.scan import Found, display_path
from care_cli.stages.cropping import SETTINGS
from care_cli.stages.photos import unchanged
from care_cli.stages.places import add_place
from care_cli.thresholds import PERSON

if TYPE_CHECKING:
    from care_cli.catalog import Catalog

BATCH = 64  # files a transaction
SAME = 0.01  # px; boxes this close are one
NAMED_IN_ERRORS = 5


@dataclass
class Progress:
    """What an import has met so far."""

    source_id: int
    run_id: int
    images: set[int] = field(default_factory=set)
    new: set[int] = field(default_factory=set)  # images that this execution imported
    failures: list[str] = field(default_factory=list)  # with reasons
    conflicts: list[str] = field(default_factory=list)  # a crop that has another name already
    events: dict[str, int] = field(default_factory=dict)  # label -> id of the event's first image


@dataclass(frozen=True)
class Job:
    """One file with what the table says of it, and its reading: None when it needs none, or could not be read."""

    found: Found
    entries: list[Entry]
    image_id: int | None = None  # of an unchanged file that the run has dealt with
    reading: Reading | None = None
    data: bytes = b""
    failure: str | None = None


def run(catalog: Catalog, dataset: Dataset) -> dict:
    """Import what this run has not dealt with yet; returns the summary.

    Every photo becomes one crop for each box that the table gives, the whole photo where it gives none; names
    are decisions of source 'import', committed with their crops. A crop that was imported before is not made
    again, and keeps the name it has. Raises CareError when the folder or table cannot be used, or when names
    stand for other animals already.
    """
    groups, failures = entries(dataset)
    _check_names(catalog, dataset, groups)
    settings = {**dataset.settings(), **SETTINGS}
    run_id = catalog.begin_run("import", settings, path=str(dataset.path), csv=str(dataset.csv or ""))
    root = Path(os.path.abspath(dataset.path))  # noqa: PTH100 - as `scan` names its roots
    progress = Progress(add_place(catalog, root).source_id, run_id, failures=failures)
    catalog.begin_meeting()
    with tqdm(total=len(groups), unit="photo", desc="import", disable=None) as bar:
        for start in range(0, len(groups), BATCH):
            batch = groups[start : start + BATCH]
            jobs = list(_read(catalog, progress, batch))
            with catalog.transaction():
                for job in jobs:
                    _write(catalog, dataset, progress, job)
            bar.update(len(batch))
    whole = dataset.csv is None and dataset.layout is None and not failures  # else other photos may lie there
    catalog.finish_meeting(progress.source_id, whole=whole)
    catalog.finish_run(run_id)
    return {
        "run": run_id,
        "images": len(progress.images),
        "new": len(progress.new),
        "known": len(progress.images - progress.new),
        "failed": len(progress.failures),
        **catalog.count_imported(progress.images),
        "conflicts": progress.conflicts,
        "failures": progress.failures,
    }


def _check_names(catalog: Catalog, dataset: Dataset, groups: Sequence[tuple[Found, list[Entry]]]) -> None:
    """CareError when a name of the data set is that of an animal that came from elsewhere."""
    if dataset.join:
        return
    names = {entry.name for _, group in groups for entry in group if entry.name}
    taken = sorted(name for name in names - catalog.names_imported(dataset.name) if catalog.active(name) is not None)
    if taken:
        some = ", ".join(taken[:NAMED_IN_ERRORS]) + (", ..." if len(taken) > NAMED_IN_ERRORS else "")
        raise CareError(
            f"{len(taken)} names of this data set are in the catalog already ({some}). If they are the same "
            "animals, add --join; if not, add --prefix TEXT to keep them apart. Nothing was imported."
        )


# -- reading


def _read(catalog: Catalog, progress: Progress, batch: Sequence[tuple[Found, list[Entry]]]) -> Iterator[Job]:
    """The files of a batch, read where the run has not dealt with them as they are."""
    rows = catalog.known_files(progress.source_id, [found.relative for found, _ in batch])
    known = [row["image_id"] for row in rows.values() if row["image_id"]]
    undone = set(catalog.undone_images(progress.run_id, known))
    for found, group in batch:
        row = rows.get(found.relative)
        if unchanged(row, found) and row["image_id"] not in undone:
            catalog.meet([row["id"]])
            yield Job(found, group, image_id=row["image_id"])
        else:
            yield _read_file(found, group)


def _read_file(found: Found, group: list[Entry]) -> Job:
    try:
        file = read_file(found.path)
    except OSError as error:
        return Job(found, group, failure=error.strerror or type(error).__name__)
    return Job(found, group, reading=decode(file), data=file.data or b"")


# -- writing: one job after the other, in the transaction of its batch


def _write(catalog: Catalog, dataset: Dataset, progress: Progress, job: Job) -> None:
    found, path = job.found, display_path(job.found.relative)
    if job.failure:
        catalog.add_file(progress.source_id, found.relative, path, found.bytes, found.mtime_ns, failure=job.failure)
        progress.failures.append(f"{path}: {job.failure}")
        return
    image_id = job.image_id or _add_image(catalog, dataset, progress, job, path)
    state = catalog.image_brief(image_id)
    progress.images.add(image_id)
    if state["state"] == "unreadable":
        progress.failures.append(f"{path}: {state['failure']}")
    elif job.reading and job.reading.picture is not None:
        _add_crops(catalog, dataset, progress, job, image_id)
    if job.reading and catalog.undone_images(progress.run_id, [image_id]):
        catalog.add_crops(progress.run_id, image_id, [])
    _join_event(catalog, progress, job.entries, image_id, state)


def _add_image(catalog: Catalog, dataset: Dataset, progress: Progress, job: Job, path: str) -> int:
    """The image of a file that was read; an undated one takes the date, and all the camera, that the data set gives."""
    photo = job.reading.photo
    date = next((entry.date for entry in job.entries if entry.date), None)
    camera = next((entry.camera for entry in job.entries if entry.camera), None)
    deployment = catalog.add_deployment(f"{dataset.name} camera {camera}") if camera else None
    known = catalog.find_image(photo.sha256)
    image_id = catalog.add_image(replace(photo, captured_at=photo.captured_at or date), deployment)
    if known is None or not catalog.imported_crops(known):
        progress.new.add(image_id)
    found = job.found
    seen = found.relative, path, found.bytes, found.mtime_ns
    catalog.meet([catalog.add_file(progress.source_id, *seen, image_id=image_id)])
    return image_id


def _add_crops(catalog: Catalog, dataset: Dataset, progress: Progress, job: Job, image_id: int) -> None:
    """The crops of a photo that no import made before, and the names that are new."""
    people = catalog.people([image_id], PERSON).get(image_id, [])
    for entry in job.entries:
        crop = cut(job.reading, job.data, entry, people)
        if crop is None:
            progress.failures.append(f"{display_path(job.found.relative)}: the box {entry.box} lies outside the photo")
            continue
        before = [row for row in catalog.imported_crops(image_id) if _same(row, crop.detection.box)]
        if before:
            crop_id, decided = before[0]["id"], before[0]["decided"]
        else:
            [crop_id] = catalog.add_crops(progress.run_id, image_id, [crop], again=True)
            decided = False
        if entry.name and not decided:
            _name(catalog, dataset, crop_id, entry)
        elif entry.name:
            _compare(catalog, progress, crop_id, entry)


def cut(reading: Reading, data: bytes, entry: Entry, people: Sequence[geometry.Box] = ()) -> Crop | None:
    """The crop of one entry: its box with the margin of every crop, or the whole photo; None when outside.

    `data` are the photo's bytes: a whole, upright JPEG or PNG that needs neither shrinking nor blacking out is
    kept as it is. `people` are boxes to black out, px of the upright image.
    """
    size = reading.photo.width, reading.photo.height
    box = geometry.clip_box(entry.box or (0.0, 0.0, *map(float, size)), size)
    if min(box[2:]) <= 0:
        return None
    rect = geometry.crop_rectangle(box, size) if entry.box else (0, 0, *size)
    stored = geometry.stored_size(rect)
    whole = rect == (0, 0, *size) and stored == size
    people = [person for person in people if min(geometry.clip_box(_inside(person, rect), rect[2:])[2:]) > 0]
    if whole and not people and reading.photo.state == "ok" and _is_kept(data, reading.photo):
        jpeg = data
    else:
        jpeg = cut_crop(reading.picture, rect, stored, people)
    found = Detection(box, 1.0, "imported", "animal", entry.species)
    return Crop(found, rect, jpeg, stored, entry.flank)


def _inside(box: geometry.Box, rect: geometry.Rectangle) -> geometry.Box:
    return box[0] - rect[0], box[1] - rect[1], box[2], box[3]


def _is_kept(data: bytes, photo: Photo) -> bool:
    if photo.orientation != 1:
        return False
    with Image.open(io.BytesIO(data)) as image:
        return image.format in ("JPEG", "PNG") and image.mode in ("RGB", "L")


def _same(row: dict, box: geometry.Box) -> bool:
    return all(abs(row[name] - value) < SAME for name, value in zip("xywh", box, strict=True))


def _name(catalog: Catalog, dataset: Dataset, crop_id: int, entry: Entry) -> None:
    individual = catalog.active(entry.name)
    evidence = {"dataset": dataset.name, "row": entry.evidence}
    if individual is None:
        decision = Decision("create", source="import", crop_id=crop_id, value=entry.name, evidence=evidence)
    else:
        decision = Decision("name", source="import", crop_id=crop_id, individual_id=individual, evidence=evidence)
    catalog.decide(decision)


def _compare(catalog: Catalog, progress: Progress, crop_id: int, entry: Entry) -> None:
    """Note when a crop that has a name is called otherwise here: what was decided before stands."""
    name = catalog.names_of_crops([crop_id]).get(crop_id)
    if name != entry.name:
        progress.conflicts.append(f"{entry.path}: {entry.name} here, crop {crop_id} is {name or 'without a name'}")


def _join_event(catalog: Catalog, progress: Progress, group: list[Entry], image_id: int, state: dict) -> None:
    """Put the image into the event of its label; the event is called by its first image."""
    label = next((entry.event for entry in group if entry.event), None)
    if label is None or state["deployment_id"] is not None:
        return
    event_id = progress.events.setdefault(label, state["event_id"] or image_id)
    if state["event_id"] != event_id:
        catalog.set_event(image_id, event_id)
