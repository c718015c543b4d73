"""Points of a query photo's animals: by the templates and the extractor that the gallery got its own with."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from care_cli.errors import CareError
from care_cli.records import Crop, CropFrame
from care_cli.stages import propagate

if TYPE_CHECKING:
    from care_cli.catalog import Catalog
    from care_cli.keypoints.propagator import Propagator
    from care_cli.stages.identify import Query, QueryPhoto


class QueryPoints:
    """Finds points as each species' newest finished propagation did; loads what that takes when first needed.

    `species` is what animals are taken for of which nothing is known. Raises CareError when no propagation finished
    whose templates are still there.
    """

    def __init__(
        self, catalog: Catalog, device: str, engine: str = "auto", precision: str = "auto", species: str | None = None
    ):
        self.catalog, self.how, self.species = catalog, (device, engine, precision, catalog.notice), species
        self.runs: dict[str | None, dict] = {}  # by the templates' species
        for run in catalog.propagate_runs():
            try:
                [of] = {template.species for template in propagate.templates_of(catalog, json.loads(run["settings"]))}
            except CareError:
                continue
            self.runs.setdefault(of, run)
        if not self.runs:
            raise CareError("No points were carried in this catalog. Run `care propagate-keypoints` first.")
        self._loaded: dict[int, tuple[Propagator, bool]] = {}

    def find(self, photo: QueryPhoto) -> None:
        """Fill the points of a photo's animals: those that the catalog has, else new ones.

        New ones name the run that they may join, unless they are of another precision here. Animals of a species
        that nothing was carried for, and those whose pixels are damaged, get none.
        """
        known = self.catalog.keypoints(query.crop_id for query in photo.queries if query.crop_id)
        for query in photo.queries:
            query.keypoints = known.get(query.crop_id)
            run = self._run(query.species or self.species)
            if query.keypoints is not None or query.jpeg is None or run is None:
                continue
            propagator, as_made = self._load(run)
            try:
                [found] = propagator.points([query.jpeg])
            except CareError:
                continue
            query.keypoints = propagator.keypoints(found, self._frame(photo, query))
            query.points_run = run["id"] if as_made else None

    def _run(self, species: str | None) -> dict | None:
        if species is None and len(self.runs) == 1:
            return next(iter(self.runs.values()))
        return self.runs.get(species) or self.runs.get(None)

    def _load(self, run: dict) -> tuple[Propagator, bool]:
        if run["id"] not in self._loaded:
            propagator, settings = propagate.of_run(self.catalog, run, *self.how)
            self._loaded[run["id"]] = propagator, settings == json.loads(run["settings"])
        return self._loaded[run["id"]]

    def _frame(self, photo: QueryPhoto, query: Query) -> CropFrame:
        if query.crop_id:
            return self.catalog.crop_frame([query.crop_id])[query.crop_id]
        facts = photo.reading.photo
        [crop] = [one for one in photo.detected if one.detection.box == query.box][:1]
        return frame_of(crop, (facts.width, facts.height))


def frame_of(crop: Crop, image_size: tuple[int, int]) -> CropFrame:
    """Where a crop lies that the catalog does not know: its id is 0."""
    found = crop.detection
    return CropFrame(0, found.category, found.species, found.box, crop.rect, crop.size, image_size)
