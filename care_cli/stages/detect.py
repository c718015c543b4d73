"""`care detect`: scan folders, find animals, people and vehicles, write images and crops."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from tqdm import tqdm

from care_cli import registry
from care_cli.errors import CareError
from care_cli.images import Reading, read_photo
from care_cli.records import Detection, ModelSpec
from care_cli.scan import Found, Unreadable, display_path, scan
from care_cli.stages.cropping import CropSettings, cut_crops
from care_cli.stages.crops import black_out
from care_cli.stages.devices import enough_memory
from care_cli.stages.places import Place, add_place, place_of
from care_cli.thresholds import ONE_BEING, PERSON

if TYPE_CHECKING:
    from care_cli.catalog import Catalog
    from care_cli.detectors import Detector

PAGE = 256  # files looked up at once
Item = TypeVar("Item")
READERS = min(4, os.cpu_count() or 1)  # threads that read and decode


@dataclass(frozen=True)
class DetectConfig:
    """What `care detect` was asked to do; None leaves a value to the model, the folder or the catalog."""

    paths: tuple[Path, ...]
    batch: int = 8  # photos a forward pass and a transaction
    crop: CropSettings = field(default_factory=CropSettings)
    species: str | None = None  # of animals whose model knows no species
    deployment: str | None = None  # one name for all photos instead of one per folder
    site: str | None = None
    latitude: float | None = None  # degrees
    longitude: float | None = None  # degrees
    clock_shift_s: int | None = None  # seconds, added to the camera's clock on reading
    burst_gap_s: int | None = None  # seconds
    event_gap_s: int | None = None  # seconds


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
    """One file on its way through: where it was found, what is known of it, and its reading."""

    found: Found
    place: Place
    image_id: int | None  # of the row that the file already has
    reading: Reading | None = None
    failure: str | None = None


def load(
    model: ModelSpec | None,
    device: str,
    image_size: int | None = None,
    engine: str = "auto",
    precision: str = "auto",
) -> Detector:
    """The detector ready for use, its `spec` with the digest that identifies it in runs; None: the default.

    Raises CareError when the weights are absent, damaged, or no detector.
    """
    from care_cli.detectors import load_detector

    spec = model or registry.default(f"detect:{device[:4]}")
    weights = registry.fetch(spec)
    detector = load_detector(spec, weights, device, image_size=image_size, engine=engine, precision=precision)
    detector.spec = replace(detector.spec, sha256=registry.model_sha256(spec))
    return detector


def run(catalog: Catalog, cfg: DetectConfig, detector: Detector, total: int | None = None) -> dict:
    """Detect everything under `cfg.paths` that this run has not dealt with; returns the summary.

    `total` is the number of files, for the progress bar. Raises CareError when there is no such path.
    """
    started = time.monotonic()
    execution = {"paths": [str(path) for path in cfg.paths], "device": detector.device, "batch": cfg.batch}
    run_id = catalog.begin_run("detect", settings_of(detector, cfg.crop), detector.spec, **execution)
    tally = Tally()
    catalog.begin_meeting()
    with tqdm(total=total, unit="photo", desc="detect", disable=None) as bar:
        for page in pages(scan(cfg.paths), tally):
            jobs = look_up(catalog, run_id, page, tally, bar)
            for batch in batches(read_ahead(jobs, cfg.batch + READERS), cfg.batch):
                write(catalog, run_id, batch, detector, cfg, tally)
                bar.update(len(batch))
    close_sources(catalog, cfg, tally)
    if cfg.species:
        catalog.fill_species(run_id, cfg.species)
    arrange(catalog, cfg, tally)
    catalog.finish_run(run_id)
    catalog.expunge()
    others, runs = catalog.only_in_other_runs(run_id)
    if others and tally.read:
        catalog.notice(
            f"Run {run_id} is read from now on. {others} photos of the catalog were dealt with by other runs only "
            f"({', '.join(map(str, runs))}), with another model or other settings: see them with --run, or detect "
            "them again."
        )
    return summary(catalog, run_id, tally, time.monotonic() - started)


def close_sources(catalog: Catalog, cfg: DetectConfig, tally: Tally) -> None:
    """Note which files of the scanned folders are gone; a folder that is there and empty lost all of its own."""
    given = {Path(os.path.abspath(path)) for path in cfg.paths}  # noqa: PTH100 - as scan names its roots
    sources = {root: place.source_id for root, place in tally.places.items()}
    for folder in (root for root in given - set(sources) if root.is_dir()):
        place = place_of(folder)
        sources[folder] = catalog.find_source(place.volume, place.relative)
    for root, source_id in sources.items():
        if source_id:
            catalog.finish_meeting(source_id, whole=tally.complete and root in given)


def settings_of(detector: Detector, crop: CropSettings) -> dict:
    """What identifies a detect run beside the weights."""
    return {**detector.settings, **crop.as_run_settings(), "precision": "float32", "decode": "full"}


def count(paths: Sequence[Path]) -> int:
    """How many photos there are under the paths, by a walk without reading. CareError when there is none."""
    files = 0
    problems = []
    for found in scan(paths):
        if isinstance(found, Found):
            files += 1
        else:
            problems.append(f"{display_path(found.path)}: {found.reason}")
    if not files:
        places = ", ".join(str(path) for path in paths)
        reason = f" These could not be read: {'; '.join(problems[:5])}." if problems else ""
        raise CareError(f"No photo was found under {places} (looked for jpg, png, tif, bmp, webp).{reason}")
    return files


def preview(catalog: Catalog | None, cfg: DetectConfig, model: ModelSpec | None) -> dict:
    """What a run would do: files by deployment, how many were read before, how many would be read now.

    A file is read unless it is as it was and the latest run of `model` has dealt with its photo.
    """
    sha256 = registry.model_sha256(model) if model and registry.is_here(model) else None
    run_id = catalog.latest_run_of(sha256) if catalog and sha256 else None
    tally, known, done, files, size, folders = Tally(), 0, 0, 0, 0, {}
    for page in pages(scan(cfg.paths), tally):
        files, size = files + len(page), size + sum(one.bytes for one in page)
        for root, found in by_root(page):
            place = place_of(root)
            for one in found:
                name = cfg.deployment or place.deployment(one.relative)[0]
                folders[name] = folders.get(name, 0) + 1
            source_id = catalog.find_source(place.volume, place.relative) if catalog else None
            if source_id:
                rows = catalog.known_files(source_id, [one.relative for one in found])
                same = [rows[one.relative]["image_id"] for one in found if unchanged(rows.get(one.relative), one)]
                known += len(same)
                done += len(same) - len(catalog.undone_images(run_id, same)) if run_id else 0
    return {
        "dry_run": True,
        "files": files,
        "bytes": size,
        "known": known,
        "to_read": files - done,
        "unreadable": tally.unreadable,
        "deployments": folders,
    }


# -- the pieces of the chain: scan -> look up -> read -> detect and cut -> write


def pages(found: Iterator[Found | Unreadable], tally: Tally) -> Iterator[list[Found]]:
    """The scan's photos, PAGE at a time; what could not be read goes to the tally."""
    return batches(photos(found, tally), PAGE)


def photos(found: Iterator[Found | Unreadable], tally: Tally) -> Iterator[Found]:
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
        same = {one.relative: rows[one.relative] for one in found if unchanged(rows.get(one.relative), one)}
        undone = set(catalog.undone_images(run_id, [row["image_id"] for row in same.values()]))
        done = [row["id"] for row in same.values() if row["image_id"] not in undone]
        catalog.meet(done)
        bar.update(len(done))
        for one in found:
            row = same.get(one.relative)
            if row is None or row["image_id"] in undone:
                jobs.append(Job(one, place, rows.get(one.relative, {}).get("image_id")))
    return jobs


def read_ahead(jobs: Sequence[Job], depth: int) -> Iterator[Job]:
    """Jobs with their photos read, in order; at most `depth` are in flight."""
    with ThreadPoolExecutor(max_workers=READERS) as pool:
        waiting = []
        for job in jobs:
            waiting.append(pool.submit(read, job))
            if len(waiting) == depth:
                yield waiting.pop(0).result()
        while waiting:
            yield waiting.pop(0).result()


def read(job: Job) -> Job:
    """The job with its photo read, or with the reason why its bytes could not be."""
    try:
        return replace(job, reading=read_photo(job.found.path))
    except OSError as error:
        return replace(job, failure=error.strerror or type(error).__name__)


def batches(items: Iterator[Item], size: int) -> Iterator[list[Item]]:
    """Lists of `size` items, the last one shorter; never more than one in memory."""
    items = iter(items)
    while batch := list(islice(items, size)):
        yield batch


def write(catalog: Catalog, run_id: int, jobs: list[Job], detector: Detector, cfg: DetectConfig, tally: Tally) -> None:
    """Detect what is new to the run in a batch, and write all of the batch in one transaction."""
    tally.read += len(jobs)
    readings = {job.reading.photo.sha256: job.reading for job in jobs if job.reading}
    images = {sha256: catalog.find_image(sha256) for sha256 in readings}
    fresh = {
        sha256: (reading.pixels, images[sha256])
        for sha256, reading in readings.items()
        if reading.pixels is not None and (images[sha256] is None or catalog.undone_images(run_id, [images[sha256]]))
    }
    found = detect(catalog, detector, fresh, cfg)
    with catalog.transaction():
        for job in jobs:
            if job.failure:
                tally.unreadable.append(f"{display_path(os.fsencode(job.found.path))}: {job.failure}")
                note_file(catalog, job, failure=job.failure)
                continue
            photo = job.reading.photo
            known = images[photo.sha256] or catalog.unseen_image(job.image_id)
            deployment = None if catalog.has_deployment(known) else deployment_of(catalog, job, cfg)
            image_id = catalog.add_image(photo, deployment, catalog.unseen_image(job.image_id))
            tally.new += images[photo.sha256] is None
            images[photo.sha256] = image_id
            note_file(catalog, job, image_id=image_id)
            if catalog.undone_images(run_id, [image_id]):
                crops = found.get(photo.sha256, [])
                for crop, crop_id in zip(crops, catalog.add_crops(run_id, image_id, crops), strict=True):
                    if crop.detection.category == "person" and crop.detection.confidence >= PERSON:
                        black_out(catalog, crop_id, spare=ONE_BEING, run_id=run_id)


def detect(catalog: Catalog, detector: Detector, fresh: dict, cfg: DetectConfig) -> dict:
    """Crops of `{sha256: (pixels, image id or None)}`, by sha256; who was called a person stays one."""
    from care_cli.detectors import settle

    crops = {}
    with enough_memory("--batch"):
        detections = detector.detect([pixels for pixels, _ in fresh.values()]) if fresh else []
    for (sha256, (pixels, image_id)), boxes in zip(fresh.items(), detections, strict=True):
        decided = catalog.decided_people(image_id) if image_id else []
        people = catalog.people([image_id], PERSON).get(image_id, []) if image_id else []
        boxes = boxes + [Detection(box, 1.0, "person", "person") for box in decided]
        crops[sha256] = cut_crops(pixels, settle(boxes), cfg.species, cfg.crop, people)
    return crops


def note_file(catalog: Catalog, job: Job, **outcome) -> None:
    """Write where the photo was seen, and that the scan met it."""
    found = job.found
    path = display_path(found.relative)
    catalog.meet([catalog.add_file(job.place.source_id, found.relative, path, found.bytes, found.mtime_ns, **outcome)])


def deployment_of(catalog: Catalog, job: Job, cfg: DetectConfig) -> int:
    """The deployment of a photo that has none: the one that was named, else its folder's."""
    name, folder = job.place.deployment(job.found.relative)
    said = cfg.deployment is not None
    return catalog.add_deployment(cfg.deployment if said else name, job.place.volume, folder, said=said)


def arrange(catalog: Catalog, cfg: DetectConfig, tally: Tally) -> None:
    """Apply what was said of the deployments that this scan is about, and group their bursts and events.

    Those are the deployments whose folder was scanned and those whose photos were all met; a copy of a
    photo or two does not speak for the camera that took them.
    """
    met = catalog.deployments_met()
    own = [row for row in met if row["whole"] or (row["volume"], row["folder_bytes"]) in tally.stays]
    own_ids = [row["id"] for row in own]
    if cfg.deployment and own_ids:
        own_ids = [catalog.move_images_met(own_ids, cfg.deployment)]
    said = {
        "site": cfg.site,
        "latitude": cfg.latitude,
        "longitude": cfg.longitude,
        "clock_shift_s": cfg.clock_shift_s,
        "burst_gap_s": cfg.burst_gap_s,
        "event_gap_s": cfg.event_gap_s,
    }
    anything = cfg.deployment or any(value is not None for value in said.values())
    for deployment_id in own_ids:
        catalog.set_deployment(deployment_id, **said)
    for deployment_id in (*own_ids, *(row["id"] for row in met if row not in own)):
        if anything or catalog.ungrouped(deployment_id):
            catalog.regroup(deployment_id)
    if anything and len(own) < len(met):
        others = ", ".join(row["name"] for row in met if row not in own)
        catalog.notice(f"Copies of photos of {others} were met too; what was said was not applied to them.")


def summary(catalog: Catalog, run_id: int, tally: Tally, seconds: float) -> dict:
    """The JSON contract of `care detect`, and the problems that were met.

    `unreadable` counts photos whose bytes are no picture, and files and folders that could not be read at all.
    """
    met = catalog.count_met()
    categories = catalog.count_visible(run_id)
    return {
        "run": run_id,
        "images": met["images"],
        "new": tally.new,
        "known": met["images"] - tally.new,
        "unreadable": met["unreadable"] + len(tally.unreadable),
        "partial": met["partial"],
        "crops": sum(categories.values()),
        "by_category": categories,
        "seconds": round(seconds, 3),
        "images_per_second": round(met["images"] / seconds, 3) if seconds else None,
        "problems": tally.unreadable,
    }
