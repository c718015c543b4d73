"""What `identify` makes of similarities: probabilities and thresholds, of the model's calibrations where there are."""

from __future__ import annotations

from typing import TYPE_CHECKING

from care_cli import checkpoints, registry
from care_cli.errors import CareError
from care_cli.matching import Calibration, Thresholds, decide, with_probabilities
from care_cli.stages import calibrate

if TYPE_CHECKING:
    from care_cli.catalog import Catalog
    from care_cli.records import ModelSpec
    from care_cli.stages.identify import IdentifyConfig, Query


class Verdicts:
    """The calibrations of an index and the thresholds in force; what the user said comes first.

    Raises CareError for thresholds that are none.
    """

    def __init__(self, catalog: Catalog, index_run: dict, spec: ModelSpec, cfg: IdentifyConfig):
        self.spec, self.cfg = spec, cfg
        settings = calibrate.settings_of(index_run, cfg.score, cfg.m, cfg.k)
        self.calibrations = calibrate.kept(catalog, index_run["model_id"], settings)
        own = {species: one.thresholds for species, one in self.calibrations.items()}
        own.setdefault(None, self._models_own())
        self._thresholds = {species: self._in_force(one) for species, one in own.items()}

    def calibration(self, species: str | None) -> Calibration | None:
        """That of the species, else that of all together."""
        return self.calibrations.get(species) or self.calibrations.get(None)

    def thresholds(self, species: str | None = None) -> Thresholds | None:
        """What the user said, else the calibration's, else the model's own; None when nothing is known."""
        return self._thresholds.get(species) or self._thresholds[None]

    def judge(self, query: Query) -> None:
        """Give a query's candidates their probabilities, and the query its verdict."""
        species = query.species or self.cfg.candidates.species
        query.calibration = self.calibration(species)
        if query.calibration:
            query.candidates = with_probabilities(query.candidates, query.calibration)
        query.verdict, query.reason = decide(candidates=query.candidates, thresholds=self.thresholds(species))

    def _models_own(self) -> Thresholds | None:
        if self.spec.family != "care" or self.cfg.score != "best":  # what a header's were fixed for
            return None
        said = checkpoints.read_header(registry.fetch(self.spec)).get("thresholds", {})
        return Thresholds(said["known"], said["new"]) if said.keys() >= {"known", "new"} else None

    def _in_force(self, own: Thresholds | None) -> Thresholds | None:
        """`own`, with what the user said in its place."""
        known = own.known if own and self.cfg.known is None else self.cfg.known
        new = own.new if own and self.cfg.new_below is None else self.cfg.new_below
        if known is None and new is None:
            return None
        if known is None or new is None:
            raise CareError(
                f"{self.spec.name} has no thresholds of its own for --score {self.cfg.score}: give both --known and "
                "--new-below."
            )
        if new > known:
            raise CareError(
                f"--new-below must not be above --known, but {new} is above {known}. What you do not give is the "
                "model's own: give both."
            )
        return Thresholds(known, new)
