"""`care import labels`: boxes and labels that others gave photos, with the photos' files or before they are here."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from tqdm import tqdm

from care_cli import images
from care_cli.catalog.shelf import Shelf
from care_cli.errors import CareError
from care_cli.exchange.dataset_table import find_file
from care_cli.exchange.labels import Dropped, Source, Told, open_labels
from care_cli.geometry import crop_rectangle
from care_cli.records import Awaited, Crop
from care_cli.scan import Found, display_path
from care_cli.stages import detect, gallery
from care_cli.stages.cropping import CropSettings, cut_crops
from care_cli.stages.crops import cut_again
from care_cli.stages.photos import Job, read, unchanged
from care_cli.stages.pipeline import WORKERS, ahead, batches
from care_cli.stages.places import Place, add_place
from care_cli.stages.told_boxes import place as place_boxes
from care_cli.stages.told_paths import OUTSIDE, relative_path
from care_cli.thresholds import PERSON, SPECIES, STORED

if TYPE_CHECKING:
    from care_cli.catalog import Catalog

PAGE = 5000  # photos looked up at once; those without their files are one transaction
BATCH = 64  # photos with their files a transaction
LEAST = 1280  # px of the longer side that a photo is decoded with; crops that need more are cut from a finer picture
WHOLE = (0, 0, 1, 1)  # the rectangle of a crop whose photo's size nobody knows


@dataclass(frozen=True)
class LabelsConfig:
    """What `care import labels` was asked to do."""

    file: Path
    format: str | None = None  # a name of exchange.labels.FORMATS; None: recognised
    images: Path | None = None  # the folder that the photos' paths begin at; None: the file's own
    strip: str = ""  # beginning of the file's paths that is left out
    prefix: str = ""  # put before every location, so that those of two files stay apart
    crop: CropSettings = field(default_factory=CropSettings)


@dataclass(frozen=True)
class Photo:
    """A photo that the file tells of: what the catalog knows of its file, and the file where it is at hand."""

    told: Told
    relative: bytes  # below the root
    row: dict | None = None  # as `Catalog.told_files`
    found: Found | None = None
    job: Job | None = None  # with what was read of the file
    dropped: Dropped = field(default_factory=Dropped)  # of its boxes, while it is on its way

    @property
    def path(self) -> str:
        """The relative path, readable."""
        return display_path(self.relative)

    @property
    def image_id(self) -> int | None:
        """The image that the catalog knows the file as."""
        return self.row["image_id"] if self.row else None

    @property
    def done(self) -> bool:
        """Has the run dealt with it?"""
        return bool(self.row and self.row["done"])

    @property
    def seen(self) -> bool:
        """Does the catalog know the photo's bytes?"""
        return bool(self.row and self.row["state"] not in (None, "unseen"))

    @property
    def to_read(self) -> bool:
        """Must its file be read: for its facts, or for pixels that are missing?"""
        if self.found is None:
            return False
        if not unchanged(self.row, self.found):
            return True
        return self.row["state"] != "unreadable" and (self.row["bare"] or (not self.done and bool(self.told.boxes)))


@dataclass
class Import:
    """One execution: where it reads and writes, and what it has met so far."""

    catalog: Catalog
    source: Source
    cfg: LabelsConfig
    place: Place
    root: Path
    run_id: int
    earlier: list[int]  # sources at which files were awaited before
    dropped: Dropped = field(default_factory=Dropped)
    at_hand: int = 0
    new: int = 0
    deployments: dict[str | bytes, int] = field(default_factory=dict)  # by location or folder
    met: set[int] = field(default_factory=set)  # deployments of its photos
    sequences: dict[str, int] = field(default_factory=dict)  # of undated photos: the first image


def run(catalog: Catalog, cfg: LabelsConfig, source: Source | None = None) -> dict:
    """Take in what a file tells of and this run has not dealt with yet; returns the summary.

    A detector's results become a detect run, the one that is read from now on; what people gave becomes an import,
    whose boxes are always shown. A photo whose file is at hand is read and its animals are cut; another one is an image
    without a hash, to be found where its file is awaited. Raises CareError when the file or the folder of photos
    cannot be used.
    """
    source = source or open_labels(cfg.file, cfg.format)
    work = begin(catalog, cfg, source)
    catalog.begin_meeting()
    with Shelf() as shelf, tqdm(unit="photo", desc="import", disable=None) as bar, detect.swept_when_stopped(catalog):
        for page in batches(source.photos(work.dropped), PAGE):
            photos = look_up(work, list(usable(work, page, shelf)))
            recount(work, [one for one in photos if one.done])
            await_files(work, [one for one in photos if not one.to_read and not one.seen])
            label_seen(work, [one for one in photos if not one.to_read and one.seen])
            for group in batches(with_files(work, [one for one in photos if one.to_read]), BATCH):
                with catalog.transaction():
                    for photo in group:
                        write(work, photo)
            bar.update(len(page))
    catalog.finish_meeting(work.place.source_id, whole=False)
    for group in batches(sorted(work.met), BATCH):
        with catalog.transaction():
            for deployment_id in filter(catalog.ungrouped, group):
                catalog.regroup(deployment_id)
    catalog.finish_run(work.run_id)
    gallery.forget(catalog)
    if source.detections:
        detect.tell_of_others(catalog, work.run_id)
    return summary(work)


def begin(catalog: Catalog, cfg: LabelsConfig, source: Source) -> Import:
    """The run of a file's import, and the folder where its photos are looked for."""
    if cfg.images is not None and not cfg.images.is_dir():
        raise CareError(f"--images names the folder that the photos' paths begin at, but {cfg.images} is none.")
    root = Path(os.path.abspath(cfg.images or source.root))  # noqa: PTH100 - as `scan` names its roots
    place = add_place(catalog, root)
    settings = {"imported": source.format, "file": source.digest, **cfg.crop.as_run_settings()}
    if source.detections:
        settings |= {"stored": STORED, "shown": source.shown, "species": SPECIES}
    command = "detect" if source.detections else "import-labels"
    noted = {"path": str(source.path), "images": str(root), "source": place.source_id}
    run_id = catalog.begin_run(command, settings, **noted)
    earlier = [one for one in catalog.earlier_sources(run_id) if one != place.source_id]
    return Import(catalog, source, cfg, place, root, run_id, earlier)


def summary(work: Import) -> dict:
    """Photos that the file tells of and what became of them; the run's labels and boxes; what was dropped and why."""
    told = work.catalog.count_told(work.run_id)
    return {
        "run": work.run_id,
        "format": work.source.format,
        "images": told["images"],
        "new": work.new,
        "at_hand": work.at_hand,
        "unseen": told["unseen"],
        "labels": told["labels"],
        "boxes": sum(told["boxes"].values()),
        "by_category": told["boxes"],
        "failed": work.dropped.failed,
        "dropped": work.dropped.rows(),
    }


# -- which photos, and what is known of them


def usable(work: Import, page: Sequence[Told], shelf: Shelf) -> Iterator[Photo]:
    """The photos of a page that lie below the root, each path once."""
    found = [(told, relative_path(work.root, told.file, work.cfg.strip)) for told in page]
    for told, relative in found:
        if relative is None:
            work.dropped.add(OUTSIDE, told.file)
    inside = [(told, relative) for told, relative in found if relative is not None]
    new = shelf.meet([display_path(relative) for _, relative in inside])
    for (told, relative), first in zip(inside, new, strict=True):
        if first:
            yield Photo(told, relative)
        else:
            work.dropped.add("its file was told of before; the first one counts", told.file)


def look_up(work: Import, photos: list[Photo]) -> list[Photo]:
    """The photos with their files, where these are at hand, and what the catalog knows of them."""
    paths = [one.relative for one in photos]
    rows = work.catalog.told_files(work.place.source_id, work.run_id, paths)
    for source_id in work.earlier:
        if missing := [path for path in paths if path not in rows]:
            rows |= work.catalog.told_files(source_id, work.run_id, missing)
    done = []
    for one in photos:
        name = os.fsdecode(one.relative)
        found = find_file(work.root, name) if os.path.lexists(f"{work.root}/{name}") else None
        done.append(replace(one, row=rows.get(one.relative), found=found if isinstance(found, Found) else None))
    work.at_hand += sum(one.found is not None for one in done)
    work.catalog.meet([one.row["id"] for one in done if one.found and unchanged(one.row, one.found)])
    return done


def deployment(work: Import, photo: Photo, standing: int | None) -> int | None:
    """The deployment of a photo: the one where it is; else its location, or, of a detector's results with the file at
    hand, its folder's."""
    found = standing or _deployment_told(work, photo)
    work.met |= {found} - {None}
    return found


def _deployment_told(work: Import, photo: Photo) -> int | None:
    if photo.told.location:
        key: str | bytes = work.cfg.prefix + photo.told.location
        if key not in work.deployments:
            name = display_path(os.fsencode(key))
            work.deployments[key] = work.catalog.location(name, work.place.volume, work.place.relative)
    elif work.source.detections and photo.found:
        name, key = work.place.deployment(photo.relative)
        if key not in work.deployments:
            work.deployments[key] = work.catalog.add_deployment(name, work.place.volume, key)
    else:
        return None
    return work.deployments[key]


def recount(work: Import, photos: list[Photo]) -> None:
    """Note what was dropped of photos that earlier executions dealt with, so that the counts are of the whole file."""
    for one in photos:
        size = (one.row["width"], one.row["height"]) if one.row["width"] and one.row["height"] else None
        place_boxes(one.told, size, work.dropped, seen=one.seen)


# -- photos without their files


def await_files(work: Import, photos: list[Photo]) -> None:
    """Write what is told of photos that nobody has seen, in one transaction."""
    photos = [one for one in photos if not one.done]
    with work.catalog.transaction():
        awaited = [as_awaited(work, one) for one in photos]
        ids = work.catalog.add_awaited(work.run_id, work.place.source_id, awaited)
        work.new += sum(one.image_id is None for one in photos)
        work.catalog.join_sequences(in_sequences(work, photos, ids))


def as_awaited(work: Import, photo: Photo) -> Awaited:
    """The photo with its boxes in px of the size that is known, else in shares."""
    told, row = photo.told, photo.row
    size = told.size
    if row and row["image_id"]:
        size = (row["width"], row["height"]) if row["width"] and row["height"] else None
    placed = place_boxes(told, size, work.dropped)
    crops = tuple(
        Crop(one, crop_rectangle(one.box, size, work.cfg.crop.margin) if size else WHOLE) for one in placed.detections
    )
    stays = deployment(work, photo, row and row["deployment_id"])
    return Awaited(
        photo.relative, photo.path, photo.image_id, size, told.taken_at, stays, told.labels, crops, placed.complete
    )


def in_sequences(work: Import, photos: Sequence[Photo], ids: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Undated images with the first image of their sequence."""
    for photo, image_id in zip(photos, ids, strict=True):
        if photo.told.sequence and not photo.told.taken_at:
            standing = photo.row["burst_id"] if photo.row else None
            yield image_id, work.sequences.setdefault(photo.told.sequence, standing or image_id)


def label_seen(work: Import, photos: list[Photo]) -> None:
    """Write what is told of photos whose bytes the catalog knows; their pixels are not needed or not at hand."""
    catalog = work.catalog
    for group in batches((one for one in photos if not one.done), BATCH):
        with catalog.transaction():
            for photo in group:
                tell(work, photo, photo.image_id)
                row = photo.row
                if row["state"] == "unreadable":
                    continue
                people = catalog.decided_people(photo.image_id)
                size = row["width"], row["height"]
                placed = place_boxes(photo.told, size, work.dropped, people, seen=True)
                margin = work.cfg.crop.margin
                crops = tuple(Crop(one, crop_rectangle(one.box, size, margin)) for one in placed.detections)
                job = Job(photo.found, work.place, photo.image_id, crops=crops)
                detect.write_crops(catalog, work.run_id, job, photo.image_id)


def tell(work: Import, photo: Photo, image_id: int) -> None:
    """Write what is told of an image as a whole."""
    work.catalog.add_labels(work.run_id, [(image_id, photo.told.labels)])
    stays = deployment(work, photo, work.catalog.deployment_of(image_id))
    work.catalog.fill_image(image_id, photo.told.taken_at, stays)
    work.catalog.join_sequences(in_sequences(work, [photo], [image_id]))


# -- photos with their files


def with_files(work: Import, photos: list[Photo]) -> Iterator[Photo]:
    """The photos in their order, read, and with their crops where the run has not dealt with them."""
    depth = 2 * WORKERS + BATCH
    taken = (replace(one, job=Job(one.found, work.place, one.image_id)) for one in photos)
    taken = ahead(lambda one: replace(one, job=read(one.job)), taken, depth=depth, weigh=lambda one: one.found.bytes)
    taken = (sort_out(work, one) for one in taken)
    return ahead(
        partial(cut, work),
        taken,
        depth=depth,
        weigh=lambda one: images.decoded_bytes(one.job.file, LEAST) if one.job.wanted else 0,
    )


def sort_out(work: Import, photo: Photo) -> Photo:
    """The photo with what the catalog knows of its bytes; wanted where they are new, or to be cut."""
    if photo.job.failure:
        return photo
    catalog = work.catalog
    image_id = catalog.find_image(photo.job.file.sha256)
    if image_id is None:
        return replace(photo, job=replace(photo.job, wanted=True))
    if not catalog.undone_images(work.run_id, [image_id]):
        return replace(photo, job=replace(photo.job, file=replace(photo.job.file, data=None)))
    people = catalog.people([image_id], PERSON).get(image_id, [])
    decided = catalog.decided_people(image_id)
    return replace(photo, job=replace(photo.job, wanted=True, decided=decided, people=people))


def cut(work: Import, photo: Photo) -> Photo:
    """The photo with its facts and crops, and without its bytes."""
    job = photo.job
    if not job.wanted:
        return photo
    reading = images.decode(job.file, LEAST)
    done = replace(job, file=replace(job.file, data=None), reading=replace(reading, picture=None, file=None))
    if reading.picture is None:
        return replace(photo, job=done)
    size = reading.photo.width, reading.photo.height
    found = () if photo.done else place_boxes(photo.told, size, photo.dropped, job.decided, seen=True).detections
    try:
        return replace(photo, job=replace(done, crops=cut_crops(reading, found, None, work.cfg.crop, job.people)))
    except CareError as error:
        return replace(photo, job=replace(done, failure=str(error)))


def write(work: Import, photo: Photo) -> None:
    """Write a photo that was read: its file, its image, and what is told of it."""
    catalog, job = work.catalog, photo.job
    work.dropped.merge(photo.dropped)
    if job.failure:
        detect.note_file(catalog, job, failure=job.failure)
        work.dropped.add("its file cannot be read", f"{photo.path}: {job.failure}")
        return
    unseen = catalog.unseen_image(photo.image_id)
    work.new += unseen is None and catalog.find_image(job.photo.sha256) is None
    image_id = catalog.add_image(job.photo, None, unseen)
    detect.note_file(catalog, job, image_id=image_id)
    if unseen:
        catalog.forget_awaited(image_id)
    tell(work, photo, image_id)
    state = catalog.image_brief(image_id)
    if state["state"] == "unreadable":
        work.dropped.add("its file is no photo", f"{photo.path}: {state['failure']}")
    if catalog.undone_images(work.run_id, [image_id]):
        detect.write_crops(catalog, work.run_id, job, image_id)
    else:
        for crop_id in catalog.bare_crops(work.run_id, image_id):
            cut_again(catalog, crop_id)
