"""`care detect`: scan folders, find animals, people and vehicles, write images and crops."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from tqdm import tqdm

from care_cli import registry
from care_cli.errors import CareError
from care_cli.images import Reading, read_photo
from care_cli.records import Detection, ModelSpec
from care_cli.scan import Found, Unreadable, deployment_folder, deployment_name, display_path, scan
from care_cli.stages.cropping import BLACKED_OUT, ONE_BEING, CropSettings, cut_crops
from care_cli.stages.crops import black_out
from care_cli.volumes import volume_of

if TYPE_CHECKING:
    from care_cli.catalog import Catalog
    from care_cli.detectors import Detector

PAGE = 256  # files looked up at once
READ_AHEAD = 4  # photos a batch that may wait decoded, times this


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
    sources: dict[Path, int] = field(default_factory=dict)  # root -> source id
    complete: bool = True  # every folder could be looked into
    replaced: list[bytes] = field(default_factory=list)  # earlier crops in which a person was found now


@dataclass(frozen=True)
class Job:
    """One file on its way through: where it was found, what is known of it, and its reading."""

    found: Found
    source_id: int
    image_id: int | None  # of the row that the file already has
    reading: Reading | None = None
    failure: str | None = None


def load(model: ModelSpec | None, device: str, image_size: int | None = None) -> Detector:
    """The detector ready for use, its `spec` with the digest that identifies it in runs; None: the default.

    Raises CareError when the weights are absent, damaged, or no detector.
    """
    from care_cli.detectors import load_detector

    spec = model or registry.default(f"detect:{device[:4]}")
    detector = load_detector(spec, registry.fetch(spec), device, image_size=image_size)
    detector.spec = replace(detector.spec, sha256=registry.model_sha256(spec))
    return detector


def run(catalog: Catalog, cfg: DetectConfig, detector: Detector) -> dict:
    """Detect everything under `cfg.paths` that this run has not dealt with; returns the summary.

    Raises CareError when there is no photo or no such path.
    """
    started = time.monotonic()
    files, size = count(cfg.paths)
    settings = settings_of(detector, cfg.crop)
    places = [str(path) for path in cfg.paths]
    run_id = catalog.begin_run(
        "detect", settings, detector.spec, paths=places, device=detector.device, batch=cfg.batch, species=cfg.species
    )
    tally = Tally()
    catalog.begin_meeting()
    with tqdm(total=files, unit="photo", desc="detect", disable=None) as bar:
        for page in pages(scan(cfg.paths), tally):
            jobs = look_up(catalog, run_id, page, tally, bar)
            for batch in batches(read_ahead(jobs, cfg.batch * READ_AHEAD), cfg.batch):
                write(catalog, run_id, batch, detector, cfg, tally)
                bar.update(len(batch))
    given = {Path(os.path.abspath(path)) for path in cfg.paths}  # noqa: PTH100 - as scan names its roots
    for root, source_id in tally.sources.items():
        catalog.finish_meeting(source_id, whole=tally.complete and root in given)
    if cfg.species:
        catalog.fill_species(run_id, cfg.species)
    arrange(catalog, cfg)
    catalog.finish_run(run_id)
    if tally.replaced:
        catalog.expunge(tally.replaced)
    return summary(catalog, run_id, tally, time.monotonic() - started) | {"bytes": size}


def settings_of(detector: Detector, crop: CropSettings) -> dict:
    """What identifies a detect run beside the weights."""
    return {**detector.settings, **crop.as_run_settings(), "precision": "float32", "decode": "full"}


def count(paths: Sequence[Path]) -> tuple[int, int]:
    """Photos under the paths and their bytes, by a walk without reading. CareError when there is none."""
    files = size = 0
    problems = []
    for found in scan(paths):
        if isinstance(found, Found):
            files, size = files + 1, size + found.bytes
        else:
            problems.append(f"{display_path(found.path)}: {found.reason}")
    if not files:
        places = ", ".join(str(path) for path in paths)
        reason = f" These could not be read: {'; '.join(problems[:5])}." if problems else ""
        raise CareError(f"No photo was found under {places} (looked for jpg, png, tif, bmp, webp).{reason}")
    return files, size


def preview(catalog: Catalog | None, cfg: DetectConfig) -> dict:
    """What a run would do: files by deployment, how many are known and how many would be read."""
    files, size = count(cfg.paths)
    tally, known, folders = Tally(), 0, {}
    for page in pages(scan(cfg.paths), tally):
        for root, found in by_root(page):
            for one in found:
                name = cfg.deployment or deployment_name(root, deployment_folder(one.relative))
                folders[name] = folders.get(name, 0) + 1
            if catalog:
                volume, relative = place_of(root)
                source_id = catalog.find_source(volume, relative) or 0
                rows = catalog.known_files(source_id, [one.relative for one in found])
                known += sum(unchanged(rows.get(one.relative), one) for one in found)
    return {
        "dry_run": True,
        "files": files,
        "bytes": size,
        "known": known,
        "to_read": files - known,
        "unreadable": tally.unreadable,
        "deployments": folders,
    }


# -- the pieces of the chain: scan -> look up -> read -> detect and cut -> write


def pages(found: Iterator[Found | Unreadable], tally: Tally) -> Iterator[list[Found]]:
    """The scan's photos, PAGE at a time; what could not be read goes to the tally."""
    page: list[Found] = []
    for one in found:
        if isinstance(one, Unreadable):
            tally.unreadable.append(f"{display_path(one.path)}: {one.reason}")
            tally.complete = False
            continue
        page.append(one)
        if len(page) == PAGE:
            yield page
            page = []
    if page:
        yield page


def by_root(page: list[Found]) -> Iterator[tuple[Path, list[Found]]]:
    """A page's photos, root by root."""
    for root in dict.fromkeys(one.root for one in page):
        yield root, [one for one in page if one.root == root]


def source_of(catalog: Catalog, root: Path, tally: Tally) -> int:
    """The source of a scanned folder: its volume, and its place on that volume."""
    if root not in tally.sources:
        volume, relative = place_of(root)
        location = display_path(os.fsencode(root.as_posix()))
        tally.sources[root] = catalog.add_source(volume, relative, display_path(relative), location)
    return tally.sources[root]


def place_of(root: Path) -> tuple[str, bytes]:
    """A folder's volume identifier, and its path below where that volume is mounted."""
    volume = volume_of(root)
    return volume.id, os.fsencode(root.resolve().relative_to(volume.mount).as_posix())


def unchanged(row: dict | None, found: Found) -> bool:
    """Is this file as it was when its bytes were last read?"""
    return bool(row and row["image_id"] and (row["bytes"], row["mtime_ns"]) == (found.bytes, found.mtime_ns))


def look_up(catalog: Catalog, run_id: int, page: list[Found], tally: Tally, bar: tqdm) -> list[Job]:
    """The photos of a page that must be read; the others are noted as met."""
    jobs: list[Job] = []
    for root, found in by_root(page):
        source_id = source_of(catalog, root, tally)
        rows = catalog.known_files(source_id, [one.relative for one in found])
        same = {one.relative: rows[one.relative] for one in found if unchanged(rows.get(one.relative), one)}
        undone = set(catalog.undone_images(run_id, [row["image_id"] for row in same.values()]))
        done = [row["id"] for row in same.values() if row["image_id"] not in undone]
        catalog.meet(done)
        bar.update(len(done))
        for one in found:
            row = same.get(one.relative)
            if row is None or row["image_id"] in undone:
                jobs.append(Job(one, source_id, rows.get(one.relative, {}).get("image_id")))
    return jobs


def read_ahead(jobs: Sequence[Job], depth: int) -> Iterator[Job]:
    """Jobs with their photos read, in order; at most `depth` are in flight."""
    with ThreadPoolExecutor(max_workers=min(4, os.cpu_count() or 1)) as pool:
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
        return Job(job.found, job.source_id, job.image_id, reading=read_photo(job.found.path))
    except OSError as error:
        return Job(job.found, job.source_id, job.image_id, failure=error.strerror or type(error).__name__)


def batches(jobs: Iterator[Job], size: int) -> Iterator[list[Job]]:
    """Jobs, `size` at a time."""
    batch: list[Job] = []
    for job in jobs:
        batch.append(job)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch


def write(catalog: Catalog, run_id: int, jobs: list[Job], detector: Detector, cfg: DetectConfig, tally: Tally) -> None:
    """Detect what is new to the run in a batch, and write all of the batch in one transaction."""
    fresh = {}
    for job in jobs:
        if job.reading and job.reading.pixels is not None:
            image_id = catalog.find_image(job.reading.photo.sha256)
            if image_id is None or catalog.undone_images(run_id, [image_id]):
                fresh[job.reading.photo.sha256] = (job.reading.pixels, image_id)
    found = detect(catalog, detector, fresh, cfg)
    with catalog.transaction():
        for job in jobs:
            if job.failure:
                tally.unreadable.append(f"{display_path(os.fsencode(job.found.path))}: {job.failure}")
                note_file(catalog, job, failure=job.failure)
                continue
            photo = job.reading.photo
            tally.new += catalog.find_image(photo.sha256) is None
            image_id = catalog.add_image(photo, deployment_of(catalog, job, cfg), catalog.unseen_image(job.image_id))
            note_file(catalog, job, image_id=image_id)
            if catalog.undone_images(run_id, [image_id]):
                crops = found.get(photo.sha256, [])
                for crop, crop_id in zip(crops, catalog.add_crops(run_id, image_id, crops), strict=True):
                    if crop.detection.category == "person" and crop.detection.confidence >= BLACKED_OUT:
                        tally.replaced += black_out(catalog, crop_id, spare=ONE_BEING)


def detect(catalog: Catalog, detector: Detector, fresh: dict, cfg: DetectConfig) -> dict:
    """Crops of `{sha256: (pixels, image id or None)}`, by sha256; who was called a person stays one."""
    from care_cli.detectors import settle

    crops = {}
    detections = detector.detect([pixels for pixels, _ in fresh.values()]) if fresh else []
    for (sha256, (pixels, image_id)), boxes in zip(fresh.items(), detections, strict=True):
        decided = catalog.decided_people(image_id) if image_id else []
        people = catalog.people([image_id], BLACKED_OUT).get(image_id, []) if image_id else []
        boxes = boxes + [Detection(box, 1.0, "person", "person") for box in decided]
        crops[sha256] = cut_crops(pixels, settle(boxes), cfg.species, cfg.crop, people)
    return crops


def note_file(catalog: Catalog, job: Job, **outcome) -> None:
    """Write where the photo was seen, and that the scan met it."""
    found = job.found
    path = display_path(found.relative)
    catalog.meet([catalog.add_file(job.source_id, found.relative, path, found.bytes, found.mtime_ns, **outcome)])


def deployment_of(catalog: Catalog, job: Job, cfg: DetectConfig) -> int | None:
    """The deployment of a photo that has none yet: the one that was named, else its folder's."""
    image_id = catalog.find_image(job.reading.photo.sha256) or job.image_id
    if image_id and catalog.deployments_of([image_id]):
        return None
    if cfg.deployment:
        return catalog.add_deployment(cfg.deployment)
    folder = deployment_folder(job.found.relative)
    return catalog.add_deployment(deployment_name(job.found.root, folder), job.source_id, folder)


def arrange(catalog: Catalog, cfg: DetectConfig) -> None:
    """Apply what was said of the deployments of the photos met, and group their bursts and events."""
    said = {
        "site": cfg.site,
        "latitude": cfg.latitude,
        "longitude": cfg.longitude,
        "clock_shift_s": cfg.clock_shift_s,
        "burst_gap_s": cfg.burst_gap_s,
        "event_gap_s": cfg.event_gap_s,
    }
    for deployment_id in catalog.deployments_met():
        catalog.set_deployment(deployment_id, **said)
        if any(value is not None for value in said.values()) or catalog.ungrouped(deployment_id):
            catalog.regroup(deployment_id)


def summary(catalog: Catalog, run_id: int, tally: Tally, seconds: float) -> dict:
    """The JSON contract of `care detect`."""
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
