"""Points of a query photo's animals: by the templates and the extractor that the gallery got its own with."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from care_cli.errors import CareError
from care_cli.records import Crop, CropFrame, KeypointScheme
from care_cli.stages import propagate, shown_points

if TYPE_CHECKING:
    from care_cli.catalog import Catalog
    from care_cli.keypoints.propagator import Propagator
    from care_cli.stages.identify import Query, QueryPhoto


class QueryPoints:
    """Finds points as each species' newest finished propagation did; loads what that takes when first needed.

    `species` is what animals are taken for of which nothing is known; `scheme` is that of a model that looks at points.
    Raises CareError when no propagation finished whose templates are still there, unless they are for such a model
    alone: `needed` is False, and animals go without.
    """

    def __init__(
        self,
        catalog: Catalog,
        device: str,
        engine: str = "auto",
        precision: str = "auto",
        species: str | None = None,
        scheme: KeypointScheme | None = None,
        needed: bool = True,
    ):
        self.catalog, self.how, self.species = catalog, (device, engine, precision, catalog.notice), species
        self.needed, self.reasons = needed, []  # why animals went without, a line each
        self.runs = shown_points.point_runs(catalog, scheme.names if scheme else ())
        if needed and not self.runs:
            raise CareError("No points were carried in this catalog. Run `care propagate-keypoints` first.")
        self._loaded: dict[int, tuple[Propagator | None, bool]] = {}

    def find(self, photo: QueryPhoto) -> None:
        """Fill the points of a photo's animals: those that the catalog has, else new ones.

        New ones name the run that they may join, unless they are of another precision here. Animals of a species
        that nothing was carried for, and those whose pixels are damaged, get none.
        """
        known = self.catalog.keypoints(query.crop_id for query in photo.queries if query.crop_id)
        for query in photo.queries:
            if query.jpeg is None:
                continue
            query.keypoints, query.frame = known.get(query.crop_id), self._frame(photo, query)
            run = shown_points.run_for(self.runs, query.species or self.species)
            if query.keypoints is not None or run is None:
                continue
            propagator, as_made = self._load(run)
            if propagator is None:
                continue
            try:
                [found] = propagator.points([query.jpeg])
            except CareError:
                continue
            query.keypoints = propagator.keypoints(found, query.frame)
            query.points_run = run["id"] if as_made else None

    def _load(self, run: dict) -> tuple[Propagator | None, bool]:
        """What carries points as a run did, if it can be had here, and whether they are the same as the run's."""
        if run["id"] not in self._loaded:
            try:
                propagator, settings = propagate.of_run(self.catalog, run, *self.how)
            except CareError as error:
                if self.needed:
                    raise
                self.reasons.append(f"Points could not be carried as in run {run['id']}: {error}")
                propagator, settings = None, None
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
