"""`care keypoints`: the points that crops have, listed, set by hand, exported and drawn."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from care_cli.errors import CareError
from care_cli.exchange import coco_keypoints
from care_cli.geometry import to_crop
from care_cli.outputs import refuse_scanned
from care_cli.records import Keypoints, Selection

if TYPE_CHECKING:
    from care_cli.catalog import Catalog

SOURCES = ("propagated", "human", "import")  # carried from a template, set by hand, from a file


@dataclass(frozen=True)
class PointSelection:
    """Which points are meant; None leaves a filter out."""

    species: str | None = None
    crops: tuple[int, ...] = ()  # only of these
    run: int | None = None  # a propagation or an import; None: the points that count
    template: str | None = None  # carried from this one
    source: str | None = None  # propagated | human | import
    name: str | None = None
    uncertain: bool = False  # only those that are hidden or not sure
    sure: bool = False  # only the others


def select(catalog: Catalog, wanted: PointSelection) -> tuple[dict[int, Keypoints], dict[int, dict]]:
    """The points that are meant, and the rows of their crops as `Catalog.crop_rows` gives them, both by crop id.

    In the order of the photos' times. Raises CareError for a crop, species, run, template, source or name that there
    is not, and for a crop that shows no animal.
    """
    if wanted.source not in (None, *SOURCES):
        raise CareError(f"--source is one of {', '.join(SOURCES)}, but got {wanted.source!r}.")
    for crop_id in wanted.crops:
        crop = catalog.crop(crop_id)
        if crop is None:
            raise CareError(f"There is no crop {crop_id}; `care crops` shows their ids.")
        if crop["category"] != "animal":
            raise CareError(f"Crop {crop_id} shows a {crop['category']}; points are kept of animals only.")
    if wanted.run is not None:
        catalog.run_of_points(wanted.run)
    template = catalog.template(wanted.template).id if wanted.template else None
    rows = {row["crop"]: row for row in catalog.crop_rows(Selection(category="animal", ids=wanted.crops))}
    if wanted.species is not None:
        _check_species(catalog, wanted.species)
        rows = {crop_id: row for crop_id, row in rows.items() if row["species"] == wanted.species}
    points = catalog.keypoints(rows, wanted.run)
    names = {name for one in points.values() for name in one.names}
    if wanted.name is not None and names and wanted.name not in names:
        raise CareError(f"No crop here has a point {wanted.name!r}; there are: {', '.join(sorted(names))}.")
    found = {}
    for crop_id in rows:
        if crop_id in points and (kept := _kept(points[crop_id], wanted, template)).names:
            found[crop_id] = kept
    return found, {crop_id: rows[crop_id] for crop_id in found}


def _check_species(catalog: Catalog, species: str) -> None:
    """CareError that lists the known species, where no animal is of this one."""
    known = sorted({row["species"] for row in catalog.crop_rows(Selection(category="animal")) if row["species"]})
    if species not in known:
        there = f"there {'is' if len(known) == 1 else 'are'}: {', '.join(known)}" if known else "no species is said yet"
        raise CareError(f"No animal is of species {species!r}; {there}. `care crops set CROP --species` says it.")


def _kept(one: Keypoints, wanted: PointSelection, template: int | None) -> Keypoints:
    keep = np.ones(len(one.names), bool)
    if wanted.uncertain:
        keep &= ~one.visible
    if wanted.sure:
        keep &= one.visible
    if wanted.source:
        keep &= np.array([source == wanted.source for source in one.sources])
    if wanted.name is not None:
        keep &= np.array([name == wanted.name for name in one.names])
    if template is not None:
        keep &= np.array([carried == template for carried in one.templates])
    places = np.flatnonzero(keep).tolist()
    return replace(
        one,
        names=tuple(one.names[place] for place in places),
        kp_image=one.kp_image[keep],
        confidence=one.confidence[keep],
        visible=one.visible[keep],
        margin=None if one.margin is None else one.margin[keep],
        cycle=None if one.cycle is None else one.cycle[keep],
        templates=tuple(one.templates[place] for place in places),
        sources=tuple(one.sources[place] for place in places),
        runs=tuple(one.runs[place] for place in places),
    )


def rows(catalog: Catalog, wanted: PointSelection) -> list[dict]:
    """One row a point.

    crop and name; x and y in px of the upright photo; confidence, the peak cosine, or 1 of points that a person set;
    margin, by how much the best peak elsewhere is lower; cycle, how far off the way there and back ends, as a share of
    the reference box's longer side; visible, 0 where the point is hidden or not sure; source, SOURCES; template, the
    name of the one it was carried from; run, which found it or took it in; and the crop's species, individual and
    path. None where nothing is known.
    """
    found, crops = select(catalog, wanted)
    names = {template.id: template.name for template in catalog.templates()}
    return [row for crop_id, one in found.items() for row in _rows(one, crops[crop_id], names)]


def _rows(one: Keypoints, crop: dict, template_names: dict[int, str]) -> list[dict]:
    nothing = np.full(len(one.names), np.nan, np.float32)
    numbers = zip(
        one.kp_image.tolist(),
        one.confidence.tolist(),
        (nothing if one.margin is None else one.margin).tolist(),
        (nothing if one.cycle is None else one.cycle).tolist(),
        one.visible.tolist(),
        strict=True,
    )
    return [
        {
            "crop": one.crop_id,
            "name": name,
            "x": round(x, 3),
            "y": round(y, 3),
            "confidence": round(confidence, 4),
            "margin": None if np.isnan(margin) else round(margin, 4),
            "cycle": None if np.isnan(cycle) else round(cycle, 4),
            "visible": int(visible),
            "source": source,
            "template": template_names.get(template),
            "run": run,
            "species": crop["species"],
            "individual": crop["individual"],
            "path": crop["path"],
        }
        for name, source, template, run, ((x, y), confidence, margin, cycle, visible) in zip(
            one.names, one.sources, one.templates, one.runs, numbers, strict=True
        )
    ]


def set_point(
    catalog: Catalog, crop_id: int, name: str, x: float, y: float, visible: bool = True, new: bool = False
) -> dict:
    """Say where a crop's point is, px of the upright photo; returns what stood before and what stands now.

    Raises CareError when the crop is no animal with pixels, the point lies outside the photo, or neither the crop
    nor, where it has none, a template has a point of this name, unless it is to be a `new` one.
    """
    frame = catalog.crop_to_annotate(crop_id)
    standing = catalog.keypoints([crop_id]).get(crop_id)
    templates = catalog.templates(frame.species) if frame.species else catalog.templates()
    known = standing.names if standing else tuple(dict.fromkeys(p.name for one in templates for p in one.points))
    if not new and name not in known:
        there = f"it has: {', '.join(known)}" if standing else f"templates have: {', '.join(known) or 'none'}"
        raise CareError(f"Crop {crop_id} has no point {name!r}; {there}. Add --new if it is to get one.")
    catalog.correct_keypoint(crop_id, name, x, y, visible)
    before = None
    if standing and name in standing.names:
        place = standing.names.index(name)
        before = {"x": standing.kp_image[place, 0], "y": standing.kp_image[place, 1],
                  "visible": bool(standing.visible[place]), "source": standing.sources[place]}  # fmt: skip
    return {"crop": crop_id, "name": name, "x": x, "y": y, "visible": visible, "before": before}


def remove(catalog: Catalog, run: int | None = None, crop: int | None = None, name: str | None = None) -> dict:
    """Delete the points of a `run`, or those that were set by hand or imported on a `crop` (of this `name`).

    Raises CareError when not just one of both is said, or nothing fits.
    """
    if (run is None) == (crop is None):
        raise CareError("Say which points: --run N, all that a run found or took in, or --crop C, what was said of it.")
    if run is not None and name is not None:
        raise CareError("--name goes with --crop; the points of a run are removed as a whole.")
    if run is not None:
        return {"run": run, "points": catalog.remove_points_of_run(run)}
    if catalog.crop(crop) is None:
        raise CareError(f"There is no crop {crop}; `care crops` shows their ids.")
    return {"crop": crop, "name": name, "points": catalog.remove_points_said(crop, name)}


def export(catalog: Catalog, path: Path, wanted: PointSelection, overwrite: bool = False) -> dict:
    """Write the points that are meant as COCO keypoints; returns the summary.

    Raises CareError when `path` is no .json, there is no point, `path` lies among photos, or exists and is not to be
    replaced.
    """
    if path.suffix.lower() != ".json":
        raise CareError(
            f"Points are written as COCO keypoints, to FILE.json, but got {path}. "
            "`care keypoints --csv > FILE.csv` gives a table."
        )
    found, crops = select(catalog, wanted)
    if not found:
        raise CareError("No point fits; nothing was written. Run `care propagate-keypoints`, or widen the selection.")
    refuse_scanned(path, catalog.scanned_folders())
    if path.exists() and not overwrite:
        raise CareError(f"{path} exists already. Name another file, or add --overwrite.")
    digests = catalog.digests_of({row["image"] for row in crops.values()})
    facts = {crop_id: row | {"sha256": digests.get(row["image"])} for crop_id, row in crops.items()}
    done = coco_keypoints.write(path, found.values(), catalog.crop_frame(found), facts, catalog.templates())
    return {"file": str(path), **done}


def sheet(catalog: Catalog, path: Path, wanted: PointSelection, most: int = 60) -> dict:
    """Draw crops with the points that are meant, at most `most` of them, drawn evenly; returns the summary.

    Raises CareError when there is none or the sheet cannot be written.
    """
    from care_cli.pages.keypoint_sheet import check

    check(path, catalog.scanned_folders())
    return draw(catalog, path, *select(catalog, wanted), most)


def draw(catalog: Catalog, path: Path, found: dict[int, Keypoints], crops: dict[int, dict], most: int = 60) -> dict:
    """As `sheet`, with points and rows of their crops as `select` gives them."""
    from care_cli.pages import keypoint_sheet

    pixels = catalog.without_pixels(list(found))
    ids = [crop_id for crop_id in found if crop_id not in set(pixels)]
    if not ids:
        raise CareError("No point fits; nothing was drawn. Run `care propagate-keypoints`, or widen the selection.")
    shown = evenly(ids, most)
    frames, jpegs = catalog.crop_frame(shown), catalog.pixels(shown)
    cells = [
        keypoint_sheet.Cell(
            jpegs[crop_id],
            caption(crops[crop_id]),
            found[crop_id].names,
            to_crop(found[crop_id].kp_image, frames[crop_id].rect, frames[crop_id].size),
            found[crop_id].confidence,
            found[crop_id].visible,
            frames[crop_id].size,
        )
        for crop_id in shown
    ]
    files = keypoint_sheet.keypoint_sheet(cells, path, of=len(ids))
    return {"files": [str(file) for file in files], "shown": len(shown), "crops": len(ids)}


def caption(crop: dict) -> str:
    """A crop in a line: its number, and who or what it is."""
    who = crop["individual"] or crop["species"]
    return f"crop {crop['crop']}" + (f" · {who}" if who else "")


def evenly(things: list, most: int) -> list:
    """At most `most` of `things`, in their order, the first and the last among them."""
    if len(things) <= most:
        return things
    return [things[round(place * (len(things) - 1) / max(most - 1, 1))] for place in range(most)]
