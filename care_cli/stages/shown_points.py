"""What a model is told of the catalog's crops beside their pixels: their points, and where those come from that are not
there yet, or from where they were taken."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from care_cli.errors import CareError
from care_cli.headers import scheme_of
from care_cli.keypoints.inputs import points_hash, shares
from care_cli.records import CropFrame, Keypoints, KeypointScheme, Scheme, ViewpointScheme
from care_cli.stages import propagate, viewpoints
from care_cli.stages.viewpoints import Viewpoint

if TYPE_CHECKING:
    from care_cli.catalog import Catalog

PAGE = 4096  # crops whose points are read at once
FEW = 4  # names that a line has room for


@dataclass(frozen=True, eq=False)
class Shown:
    """What a model is told beside a crop's pixels."""

    beside: np.ndarray  # float32 of the scheme's shape, see keypoints.inputs.shares, viewpoints.vector; zeros: nothing
    hash: str  # of it, as embeddings keep it


def shown(scheme: KeypointScheme, keypoints: Keypoints | None, frame: CropFrame) -> Shown:
    """What a model of this scheme is shown of a crop's points."""
    return Shown(shares(scheme, keypoints, frame), points_hash(scheme, keypoints))


def seen_from(scheme: ViewpointScheme, viewpoint: Viewpoint = (None, None)) -> Shown:
    """What a model of this scheme is told of a crop's camera and view."""
    return Shown(viewpoints.vector(scheme, viewpoint), viewpoints.viewpoint_hash(scheme, viewpoint))


def of_crops(catalog: Catalog, crop_ids: Sequence[int], scheme: Scheme, run: int | None = None) -> dict[int, Shown]:
    """What a model is told of a page of crops: of where they were taken; of their standing points, or those of a
    `run`."""
    if isinstance(scheme, ViewpointScheme):
        return {crop_id: seen_from(scheme, one) for crop_id, one in catalog.viewpoints(crop_ids).items()}
    found, frames = catalog.keypoints(crop_ids, run), catalog.crop_frame(crop_ids)
    return {crop_id: shown(scheme, found.get(crop_id), frame) for crop_id, frame in frames.items()}


def hashes(catalog: Catalog, crop_ids: Sequence[int], scheme: Scheme, run: int | None = None) -> dict[int, str]:
    """The hash of what a model is told, by crop id; of any number of crops."""
    if isinstance(scheme, ViewpointScheme):
        found = catalog.viewpoints(crop_ids)
        return {crop_id: viewpoints.viewpoint_hash(scheme, one) for crop_id, one in found.items()}
    return {
        crop_id: points_hash(scheme, found.get(crop_id))
        for page, found in _pages(catalog, crop_ids, run)
        for crop_id in page
    }


def stale(catalog: Catalog, run: dict) -> list[int]:
    """Crops with pixels of which something else was told when they were embedded in a finished index than is known
    today: points, camera or flank."""
    settings = json.loads(run["settings"])
    if (scheme := scheme_of(settings)) is None:
        return []
    made = catalog.embedding_hashes(run["id"])
    crop_ids = sorted(set(made) - set(catalog.without_pixels(list(made))))
    today = hashes(catalog, crop_ids, scheme, settings.get("keypoints_run"))
    return [crop_id for crop_id in crop_ids if made[crop_id] != today[crop_id]]


def _pages(
    catalog: Catalog, crop_ids: Sequence[int], run: int | None = None
) -> Iterator[tuple[Sequence[int], dict[int, Keypoints]]]:
    for start in range(0, len(crop_ids), PAGE):
        page = crop_ids[start : start + PAGE]
        yield page, catalog.keypoints(page, run)


# -- points that are carried first


def point_runs(catalog: Catalog, names: Sequence[str] = ()) -> dict[str | None, dict]:
    """Each species' newest finished propagation whose templates are still there, by species; those that know one of
    the `names`, where such are given. None is the key of templates that are for any species."""
    runs: dict[str | None, dict] = {}
    for run in catalog.propagate_runs():
        try:
            templates = propagate.templates_of(catalog, json.loads(run["settings"]))
        except CareError:
            continue
        [of] = {template.species for template in templates}
        if not names or {point.name for point in templates[0].points} & set(names):
            runs.setdefault(of, run)
    return runs


def run_for(runs: dict[str | None, dict], species: str | None) -> dict | None:
    """Which of `point_runs` serves an animal; one of which nothing is known is taken for the only species there is."""
    if species is None and len(runs) == 1:
        return next(iter(runs.values()))
    return runs.get(species) or runs.get(None)


def carry(
    catalog: Catalog, crop_ids: Sequence[int], scheme: KeypointScheme, device: str, engine: str
) -> tuple[int, list[str]]:
    """Carry points to those crops that have none of the scheme's, as the others of their species got theirs.

    Returns how many got some, and why others could not, a line each. Crops of a species that no points were carried
    for are passed over.
    """
    runs, wanted = point_runs(catalog, scheme.names), {}
    for page, found in _pages(catalog, crop_ids):
        frames = catalog.crop_frame(page)
        for crop_id in page:
            known, frame = found.get(crop_id), frames[crop_id]
            run = run_for(runs, frame.species)
            there = known is not None and not set(known.names).isdisjoint(scheme.names)
            if run is not None and not there and frame.size and min(frame.size) >= propagate.SMALLEST:
                wanted.setdefault(run["id"], (run, []))[1].append(crop_id)
    carried, reasons = 0, []
    for run, missing in wanted.values():
        if not catalog.without_keypoints(run["id"], missing):
            continue
        try:
            carried += propagate.grow(catalog, run, missing, device, engine)
        except CareError as error:
            reasons.append(f"Points could not be carried as in run {run['id']}: {error}")
    return carried, reasons


# -- in words


def count(made: dict[int, str], scheme: KeypointScheme) -> tuple[int, int]:
    """How many of `hashes` are of points, and how many of none."""
    none = points_hash(scheme, None)
    without = sum(one == none for one in made.values())
    return len(made) - without, without


def advice(catalog: Catalog, scheme: KeypointScheme, again: str) -> str:
    """What to do about animals without points; `again` is the command that profits."""
    if not point_runs(catalog, scheme.names):
        return (
            f"Point out {_listed(scheme.names)} on one crop of each species (`care templates add`), run "
            f"`care propagate-keypoints`, then {again} again."
        )
    return (
        "`care propagate-keypoints` carries points where a species has a template; `care keypoints set` says where "
        f"they are. Then {again} again."
    )


def in_words(told: dict) -> str:
    """One line on the points that a model was shown, by its `points` in a summary."""
    names, total = _listed(told["names"]), told["with"] + told["without"]
    if not told["without"]:
        return f"The model looks at {names}, which all {total} animals have in part at least."
    return (
        f"The model looks at {names}; {told['without']} of {total} animals have none of them and are compared by their "
        f"pixels alone. {told['advice']}"
    )


def _listed(names: Sequence[str]) -> str:
    """The names of points, the first ones of many."""
    more = f" and {len(names) - FEW} more" if len(names) > FEW else ""
    return ", ".join(names[:FEW]) + more
