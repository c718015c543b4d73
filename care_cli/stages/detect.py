"""`care detect`: scan folders, find animals, people and vehicles, write images and crops."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING

from tqdm import tqdm

from care_cli import registry
from care_cli.errors import CareError
from care_cli.records import ModelSpec
from care_cli.scan import display_path, scan
from care_cli.stages import gallery
from care_cli.stages.cropping import CropSettings
from care_cli.stages.crops import black_out, hide
from care_cli.stages.photos import Job, Tally, count, crops_of, look_up, pages
from care_cli.stages.pipeline import batches
from care_cli.stages.places import place_of
from care_cli.thresholds import ONE_BEING, PERSON, STORED

if TYPE_CHECKING:
    from care_cli.catalog import Catalog
    from care_cli.detectors import Detector

DECODE = ("reduced", "full")


@dataclass(frozen=True)
class DetectConfig:
    """What `care detect` was asked to do; None leaves a value to the model, the folder or the catalog."""

    paths: tuple[Path, ...]
    batch: int | None = None  # photos a forward pass and a transaction; None: what suits the engine
    decode: str = "reduced"  # full | reduced: no finer than the network and the stored crops need
    crop: CropSettings = field(default_factory=CropSettings)
    species: str | None = None  # of animals whose model knows no species
    deployment: str | None = None  # one name for all photos instead of one per folder
    site: str | None = None
    latitude: float | None = None  # degrees
    longitude: float | None = None  # degrees
    clock_shift_s: int | None = None  # seconds, added to the camera's clock on reading
    burst_gap_s: int | None = None  # seconds
    event_gap_s: int | None = None  # seconds


def load(
    model: ModelSpec | None,
    device: str,
    image_size: int | None = None,
    engine: str = "auto",
    precision: str = "auto",
    notice: Callable[[str], None] | None = None,
    least: float = STORED,
) -> Detector:
    """The detector ready for use, its `spec` with the digest that identifies it in runs; None: the default.

    It answers with boxes from confidence `least`; runs are made with the usual one.

    Raises CareError when the weights are absent, damaged, or no detector.
    """
    from care_cli.detectors import load_detector

    spec = model or registry.default(f"detect:{device[:4]}")
    weights = registry.fetch(spec)
    detector = load_detector(
        spec, weights, device, image_size=image_size, engine=engine, precision=precision, notice=notice, least=least
    )
    detector.spec = replace(detector.spec, sha256=registry.model_sha256(spec))
    return detector


def run(catalog: Catalog, cfg: DetectConfig, detector: Detector) -> dict:
    """Detect everything under `cfg.paths` that this run has not dealt with; returns the summary.

    Raises CareError when there is no such path.
    """
    started = time.monotonic()
    batch = cfg.batch or detector.batch
    settings = settings_of(detector, cfg.crop, cfg.decode)
    noted = {"device": detector.device, "engine": detector.engine, "batch": batch}
    run_id = catalog.begin_run("detect", settings, detector.spec, paths=[str(path) for path in cfg.paths], **noted)
    tally = Tally()
    catalog.begin_meeting()
    with progress(cfg.paths) as bar, swept_when_stopped(catalog):
        jobs = (job for page in pages(scan(cfg.paths), tally) for job in look_up(catalog, run_id, page, tally, bar))
        done = crops_of(
            catalog, run_id, jobs, detector, batch=batch, decode=cfg.decode, crop=cfg.crop, species=cfg.species
        )
        for group in batches(done, batch):
            write(catalog, run_id, group, cfg, tally)
            bar.update(len(group))
    close_sources(catalog, cfg, tally)
    if cfg.species:
        catalog.fill_species(run_id, cfg.species)
    arrange(catalog, cfg, tally)
    catalog.finish_run(run_id)
    gallery.forget(catalog)
    if tally.read:
        tell_of_others(catalog, run_id)
    return summary(catalog, run_id, tally, time.monotonic() - started)


def tell_of_others(catalog: Catalog, run_id: int) -> None:
    """Say which photos are not seen any more now that this run is the active one."""
    others, runs = catalog.only_in_other_runs(run_id)
    if others:
        catalog.notice(
            f"Run {run_id} is read from now on. {others} photos of the catalog were dealt with by other runs only "
            f"({', '.join(map(str, runs))}), with another model or other settings: see them with --run, or detect "
            "them again."
        )


@contextlib.contextmanager
def swept_when_stopped(catalog: Catalog) -> Iterator[None]:
    """Vectors of crops in which a person was made black leave the cache, even when the run is stopped inside."""
    try:
        yield
    except BaseException:
        gallery.sweep(catalog)
        raise


def progress(paths: Sequence[Path]) -> tqdm:
    """A bar that learns how many photos there are while the work goes on; nothing is counted where none is shown."""
    bar = tqdm(unit="photo", desc="detect", disable=None)

    def learn() -> None:
        with contextlib.suppress(CareError):  # a card that goes away meanwhile is the scan's to tell
            bar.total = count(paths)

    if not bar.disable:
        Thread(target=learn, daemon=True).start()
    return bar


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


def settings_of(detector: Detector, crop: CropSettings, decode: str) -> dict:
    """What identifies a detect run beside the weights."""
    return {**detector.settings, **crop.as_run_settings(), "precision": detector.precision, "decode": decode}


def write(catalog: Catalog, run_id: int, jobs: list[Job], cfg: DetectConfig, tally: Tally) -> None:
    """Write a batch in one transaction; what another process wrote meanwhile is not written twice."""
    tally.read += len(jobs)
    with catalog.transaction():
        for job in jobs:
            if job.failure:
                tally.unreadable.append(f"{display_path(os.fsencode(job.found.path))}: {job.failure}")
                note_file(catalog, job, failure=job.failure)
                continue
            standing = catalog.find_image(job.photo.sha256)
            unseen = catalog.unseen_image(job.image_id)
            placed = catalog.deployment_of(standing or unseen)
            image_id = catalog.add_image(job.photo, None if placed else deployment_of(catalog, job, cfg), unseen)
            tally.new += standing is None
            note_file(catalog, job, image_id=image_id)
            if job.wanted and catalog.undone_images(run_id, [image_id]):
                write_crops(catalog, run_id, job, image_id)


def write_crops(catalog: Catalog, run_id: int, job: Job, image_id: int) -> None:
    """Write a photo's crops. People are black in them, those too that others found meanwhile; and in older ones."""
    people = set(catalog.people([image_id], PERSON).get(image_id, [])) - set(job.people)
    decided = set(catalog.decided_people(image_id)) - set(job.decided)
    for crop, crop_id in zip(job.crops, catalog.add_crops(run_id, image_id, job.crops), strict=True):
        if crop.jpeg:
            hide(catalog, crop_id, list(people), ONE_BEING)
            hide(catalog, crop_id, list(decided))
        if crop.detection.category == "person" and crop.detection.confidence >= PERSON:
            black_out(catalog, crop_id, spare=ONE_BEING, run_id=run_id)


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
