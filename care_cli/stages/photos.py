"""A photo's way through `detect`: looked up, read, sorted out, decoded, detected, cut; each link a bounded one."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from tqdm import tqdm

from care_cli import images
from care_cli.detectors import Detector, Prepared, settle
from care_cli.errors import CareError
from care_cli.geometry import Box
from care_cli.images import File, Reading
from care_cli.records import Crop, Detection, Photo
from care_cli.scan import Found, Unreadable, display_path, scan
from care_cli.stages.cropping import CropSettings, cut_crops
from care_cli.stages.pipeline import IN_FLIGHT, WORKERS, ahead, batches
from care_cli.stages.places import Place, add_place
from care_cli.thresholds import PERSON

if TYPE_CHECKING:
    from care_cli.catalog import Catalog

PAGE = 256  # files looked up at once
TWICE = 2  # a reduced picture has at least so many times the pixels a side that the network sees


@dataclass
class Tally:
    """What a scan meets on its way."""

    unreadable: list[str] = field(default_factory=list)  # files and folders that could not be read, with reasons
    new: int = 0
    read: int = 0
    places: dict[Path, Place] = field(default_factory=dict)  # by root
    stays: set[tuple[str, bytes]] = field(default_factory=set)  # volume and folder of each camera's stay
    complete: bool = True  # every folder could be looked into


@dataclass(frozen=True)
class Job:
    """One file on its way: where it was found, and what is known of it so far."""

    found: Found
    place: Place
    image_id: int | None  # of the row that the file already has
    file: File | None = None  # its bytes, until the crops are cut
    failure: str | None = None  # why the bytes could not be read
    wanted: bool = False  # the run has not dealt with these bytes
    decided: Sequence[Box] = ()  # boxes that somebody called a person, px of the upright image
    people: Sequence[Box] = ()  # boxes that other runs call a person
    reading: Reading | None = None
    prepared: Prepared | None = None
    detections: Sequence[Detection] = ()
    crops: Sequence[Crop] = ()

    @property
    def photo(self) -> Photo:
        """The photo's facts; of bytes that are known already, their digest alone."""
        return self.reading.photo if self.reading else Photo(self.file.sha256)

    @property
    def weight(self) -> int:
        """Bytes that it holds."""
        return (self.file.size if self.file else 0) + (self.prepared.pixels.nbytes if self.prepared else 0)

    @property
    def weight_while_cut(self) -> int:
        """Bytes that it holds at most while its crops are cut."""
        animals = any(one.category == "animal" for one in self.detections)
        return self.weight + (images.PIXEL_BYTES * self.photo.width * self.photo.height if animals else 0)


def least_side(image_size: int, decode: str) -> int | None:
    """Px that the longer side of a decoded photo must have for a network that sees `image_size`; None: all."""
    return None if decode == "full" else TWICE * image_size


def crops_of(
    catalog: Catalog,
    run_id: int,
    jobs: Iterable[Job],
    detector: Detector,
    *,
    batch: int,
    decode: str,
    crop: CropSettings,
    species: str | None,
) -> Iterator[Job]:
    """The jobs in their order, those that the run wants with their crops.

    Reading, decoding, the network and cutting go on at the same time, ahead of the caller, who writes.
    """
    depth = 2 * batch + WORKERS
    least = least_side(detector.image_size, decode)
    jobs = ahead(read, jobs, depth=depth, weigh=lambda job: job.found.bytes)
    jobs = (sort_out(catalog, run_id, job) for job in jobs)
    jobs = ahead(
        partial(decoded, detector=detector, least=least),
        jobs,
        depth=depth,
        weigh=lambda job: images.decoded_bytes(job.file, least) if job.wanted else 0,
    )
    groups = ahead(
        partial(detected, detector=detector),
        batches(jobs, max(1, batch // detector.workers), weigh=lambda job: job.weight),
        workers=detector.workers,
        depth=3 * detector.workers,
        weigh=lambda group: sum(job.weight for job in group),
        bound=4 * IN_FLIGHT,  # so that several batches fit, each of at most the other links' bound
    )
    jobs = (job for group in groups for job in group)
    return ahead(
        partial(cut, crop=crop, species=species, whole=least is None),
        jobs,
        depth=depth,
        weigh=lambda job: job.weight_while_cut,
    )


def read(job: Job) -> Job:
    """The job with its file's bytes, or with the reason why they could not be read."""
    try:
        return replace(job, file=images.read_file(job.found.path))
    except OSError as error:
        return replace(job, failure=error.strerror or type(error).__name__)


def sort_out(catalog: Catalog, run_id: int, job: Job) -> Job:
    """The job with what the catalog knows of its bytes; those that the run has dealt with go no further."""
    if job.failure:
        return job
    image_id = catalog.find_image(job.file.sha256)
    if image_id is None:
        return replace(job, wanted=True)
    if not catalog.undone_images(run_id, [image_id]):
        return replace(job, file=replace(job.file, data=None))
    people = catalog.people([image_id], PERSON).get(image_id, [])
    return replace(job, wanted=True, decided=catalog.decided_people(image_id), people=people)


def decoded(job: Job, detector: Detector, least: int | None) -> Job:
    """The job with its photo's facts and letterboxed picture, if it is wanted."""
    if not job.wanted:
        return job
    reading = images.decode(job.file, least)
    prepared = None if reading.picture is None else detector.prepare(reading.pixels, reading.scale)
    return replace(job, reading=Reading(reading.photo, None, file=job.file), prepared=prepared)


def detected(jobs: list[Job], detector: Detector) -> list[Job]:
    """The jobs of a batch with what was found; who was called a person by somebody stays one."""
    found = iter(detector.detect_prepared([job.prepared for job in jobs if job.prepared]))
    done = []
    for job in jobs:
        if job.prepared:
            decided = [Detection(box, 1.0, "person", "person") for box in job.decided]
            job = replace(job, prepared=None, detections=settle([*next(found), *decided]))
        done.append(job)
    return done


def cut(job: Job, crop: CropSettings, species: str | None, whole: bool = False) -> Job:
    """The job with its crops, and without its bytes; with a failure when the photo cannot be decoded again.

    Crops are cut from a picture as fine as they need, or from the `whole` one.
    """
    if job.reading is None:
        return job
    done = replace(job, file=None, reading=Reading(job.reading.photo, None), detections=())
    reading = images.decode(job.file) if whole and job.detections else job.reading
    try:
        return replace(done, crops=cut_crops(reading, job.detections, species, crop, job.people))
    except CareError as error:
        return replace(done, failure=str(error))


def found_in(reading: Reading, detector: Detector) -> list[Detection]:
    """What is found in one photo, most confident first."""
    return settle(detector.detect_prepared([detector.prepare(reading.pixels, reading.scale)])[0])


# -- from the scan to jobs


def require_photos(paths: Sequence[Path]) -> None:
    """CareError when there is no photo under the paths; looks no further than the first."""
    problems = []
    for found in scan(paths):
        if isinstance(found, Found):
            return
        problems.append(f"{display_path(found.path)}: {found.reason}")
    places = ", ".join(str(path) for path in paths)
    reason = f" These could not be read: {'; '.join(problems[:5])}." if problems else ""
    raise CareError(f"No photo was found under {places} (looked for jpg, png, tif, bmp, webp).{reason}")


def count(paths: Sequence[Path]) -> int:
    """How many photos there are under the paths, by a walk without reading."""
    return sum(isinstance(found, Found) for found in scan(paths))


def pages(found: Iterable[Found | Unreadable], tally: Tally) -> Iterator[list[Found]]:
    """The scan's photos, PAGE at a time; what could not be read goes to the tally."""
    return batches(photos(found, tally), PAGE)


def photos(found: Iterable[Found | Unreadable], tally: Tally) -> Iterator[Found]:
    """What the scan found that can be read; the rest is noted in the tally."""
    for one in found:
        if isinstance(one, Found):
            yield one
        else:
            tally.unreadable.append(f"{display_path(one.path)}: {one.reason}")
            tally.complete = False


def by_root(page: list[Found]) -> Iterator[tuple[Path, list[Found]]]:
    """A page's photos, root by root."""
    for root in dict.fromkeys(one.root for one in page):
        yield root, [one for one in page if one.root == root]


def unchanged(row: dict | None, found: Found) -> bool:
    """Is this file as it was when its bytes were last read?"""
    return bool(row and row["failure"] is None and (row["bytes"], row["mtime_ns"]) == (found.bytes, found.mtime_ns))


def look_up(catalog: Catalog, run_id: int, page: list[Found], tally: Tally, bar: tqdm) -> list[Job]:
    """The photos of a page that must be read; the others are noted as met."""
    jobs: list[Job] = []
    for root, found in by_root(page):
        if root not in tally.places:
            tally.places[root] = add_place(catalog, root)
        place = tally.places[root]
        tally.stays |= {(place.volume, place.deployment(one.relative)[1]) for one in found}
        rows = catalog.known_files(place.source_id, [one.relative for one in found])
        fresh = [one.relative for one in found if one.relative not in rows]
        images_of = {path: row["image_id"] for path, row in rows.items()}
        images_of |= catalog.awaited_around(place.volume, place.relative, fresh) if fresh else {}
        same = {one.relative: rows[one.relative] for one in found if unchanged(rows.get(one.relative), one)}
        undone = set(catalog.undone_images(run_id, [row["image_id"] for row in same.values()]))
        done = [row["id"] for row in same.values() if row["image_id"] not in undone]
        catalog.meet(done)
        bar.update(len(done))
        for one in found:
            row = same.get(one.relative)
            if row is None or row["image_id"] in undone:
                jobs.append(Job(one, place, images_of.get(one.relative)))
    return jobs
