"""What `care detect --dry-run` says: what a run would do."""

from __future__ import annotations

from typing import TYPE_CHECKING

from care_cli import registry
from care_cli.records import ModelSpec
from care_cli.scan import scan
from care_cli.stages.photos import Tally, by_root, pages, unchanged
from care_cli.stages.places import place_of

if TYPE_CHECKING:
    from care_cli.catalog import Catalog
    from care_cli.stages.detect import DetectConfig


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
