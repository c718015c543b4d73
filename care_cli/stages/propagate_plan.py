"""Which templates serve which crops when points are carried."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from care_cli.errors import CareError
from care_cli.records import Selection, Template

if TYPE_CHECKING:
    from care_cli.catalog import Catalog
    from care_cli.stages.propagate import PropagateConfig

PAGE = 4096  # crops asked for at once


@dataclass(frozen=True)
class Task:
    """Templates of the same points, and the crops that they serve."""

    templates: tuple[Template, ...]
    crop_ids: tuple[int, ...]


def plan(catalog: Catalog, cfg: PropagateConfig) -> tuple[list[Task], dict[str, int]]:
    """What is to be done, and how many crops of each species have no template ('unknown': species not said).

    Raises CareError when there is no animal crop, no template, or none or several to choose from.
    """
    wanted = cfg.selection.species
    by_species = _by_species(catalog, cfg.selection)
    if not by_species:
        which = f" of the species {wanted!r}" if wanted else ""
        raise CareError(f"There is no animal crop{which} to carry points to. `care crops` shows what there is.")
    if cfg.templates:
        return [_asked(cfg.templates, [catalog.template(name) for name in cfg.templates], by_species, wanted)], {}
    every = catalog.templates()
    if not every:
        raise CareError("There is no template in this catalog yet. Annotate one crop: `care templates add`.")
    tasks: dict[str | None, Task] = {}
    without: dict[str, int] = {}
    for species, crop_ids in by_species.items():
        served = species if any(one.species == species for one in every) else None
        own = tuple(one for one in every if one.species == served)
        if len(own) > 1:
            names = ", ".join(one.name for one in own)
            whose = f"the species {served!r}" if served else "any species"
            raise CareError(f"There are several templates for {whose}: {names}. Say which with --template.")
        if own:
            earlier = tasks[served].crop_ids if served in tasks else ()
            tasks[served] = Task(own, earlier + tuple(crop_ids))
        else:
            without[species or "unknown"] = len(crop_ids)
    if not tasks:
        known = ", ".join(sorted({str(one.species) for one in every}))
        raise CareError(
            f"There is no template for {', '.join(sorted(without))}: those in this catalog are for {known}. Annotate "
            "one (`care templates add`), say which with --template, or what the crops show: `care crops set`."
        )
    return list(tasks.values()), without


def _by_species(catalog: Catalog, selection: Selection) -> dict[str | None, list[int]]:
    """The selected crops by what species they show."""
    crop_ids = catalog.crop_ids(selection)
    found: dict[str | None, list[int]] = {}
    for start in range(0, len(crop_ids), PAGE):
        page = crop_ids[start : start + PAGE]
        frames = catalog.crop_frame(page)
        for crop_id in page:
            found.setdefault(frames[crop_id].species, []).append(crop_id)
    return found


def _asked(
    names: Sequence[str], templates: Sequence[Template], by_species: dict[str | None, list[int]], wanted: str | None
) -> Task:
    """The templates that were named, and their species' crops, or those of the one that was `wanted`."""
    of = sorted({template.species for template in templates}, key=str)
    if len(set(names)) < len(names):
        raise CareError(f"A template was named twice: {', '.join(names)}.")
    if len(of) > 1:
        raise CareError(
            f"The templates {', '.join(names)} are for {', '.join(str(species or 'any species') for species in of)}. "
            "Those of one species are used together; run the command once for each."
        )
    crops = by_species.get(of[0], []) if of[0] and not wanted else [one for ids in by_species.values() for one in ids]
    if not crops:
        raise CareError(
            f"There is no crop of the species {of[0]!r}, which the template is for. Say what the crops show with "
            "`care crops set`, or which crops are meant with --species."
        )
    return Task(tuple(templates), tuple(crops))
