"""The answers of `identify` as others take them: as JSON, and as rows of a sheet."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from care_cli.geometry import to_crop
from care_cli.records import KeypointScheme, ViewpointScheme
from care_cli.scan import display_path
from care_cli.stages import shown_points, viewpoints
from care_cli.stages.identify import Identifier, Query, QueryPhoto

if TYPE_CHECKING:
    from care_cli.pages.keypoint_sheet import Cell
    from care_cli.pages.sheet import QuerySheetRow

MANY = 2  # times the animals of a calibration, beyond which it no longer tells the truth


def contract(identifier: Identifier, photos: Sequence[QueryPhoto]) -> dict:
    """The JSON contract of `care identify`; a photo that could not be read has `failure` beside no crops.

    `points` says on how many animals a model that looks at points found some, `viewpoints` of how many a model that is
    told of cameras and flanks knew them; None for any other model.
    """
    told = {"points": points(identifier, photos), "viewpoints": seen_from(identifier, photos)}
    return {"photos": [_photo(identifier, photo) for photo in photos], **told}


def points(identifier: Identifier, photos: Sequence[QueryPhoto]) -> dict | None:
    """How many animals the model was shown points of, how many it took as they are, and what to do about these."""
    if not isinstance(identifier.scheme, KeypointScheme):
        return None
    asked = _told(photos)
    without = sum(not known for known in asked)
    advice = [*identifier.points.reasons, shown_points.advice(identifier.catalog, identifier.scheme, "`care identify`")]
    return {"names": list(identifier.scheme.names), "with": len(asked) - without, "without": without,
            "advice": " ".join(advice) if without else None}  # fmt: skip


def seen_from(identifier: Identifier, photos: Sequence[QueryPhoto]) -> dict | None:
    """Of how many animals the model knew camera and flank."""
    scheme = identifier.scheme
    return viewpoints.summary(scheme, _told(photos)) if isinstance(scheme, ViewpointScheme) else None


def _told(photos: Sequence[QueryPhoto]) -> list[bool]:
    """Of each animal, whether the model was told anything of it beside its pixels."""
    return [bool(query.shown.beside.any()) for photo in photos for query in photo.queries if query.shown]


def _photo(identifier: Identifier, photo: QueryPhoto) -> dict:
    shown = {"path": photo.path, "crops": []}
    if photo.failure:
        return shown | {"failure": photo.failure}
    for query in photo.queries:
        candidates = [
            {
                "individual": one.individual,
                "similarity": round(one.similarity, 4),
                "probability": None if one.probability is None else round(one.probability, 4),
                "crop": int(identifier.gallery.crops[one.index]),
            }
            for one in query.candidates
        ]
        box = [round(value, 1) for value in query.box]
        shown["crops"].append(
            {"box": box, "category": query.category, "species": query.species, "verdict": query.verdict,
             "reason": query.reason or None, "candidates": candidates, "calibration": _calibration(query)}
        )  # fmt: skip
        if identifier.cfg.keypoints:
            shown["crops"][-1]["keypoints"] = _points(query)
    return shown


def _calibration(query: Query) -> dict | None:
    """What the probabilities of a query's candidates rest on."""
    one = query.calibration
    return one and {
        "species": one.species,
        "pairs": one.pairs,
        "individuals": one.individuals,
        "ece": round(one.ece, 4),
    }


def remarks(identifier: Identifier, photos: Sequence[QueryPhoto]) -> list[str]:
    """Lines on what the model looked at, what the probabilities rest on, and what may be wrong with them."""
    answered = [query for photo in photos for query in photo.queries if query.candidates]
    told = points(identifier, photos)
    lines = [shown_points.in_words(told)] if told and told["with"] + told["without"] else []
    if (told := seen_from(identifier, photos)) and told["with"] + told["without"]:
        lines.append(viewpoints.in_words(told))
    if any(query.calibration is None for query in answered):
        lines.append(
            f"{identifier.spec.name} is not calibrated for all of these, so there are similarities but no "
            "probabilities: `care evaluate calibrate`."
        )
    animals = len(set(identifier.gallery.individuals.tolist()) - {0})
    for one in {id(query.calibration): query.calibration for query in answered if query.calibration}.values():
        lines.append(
            f"Probabilities{f' for {one.species}' if one.species else ''} rest on {one.pairs} pairs of "
            f"{one.individuals} animals; on animals apart from these they were off by {100 * one.ece:.0f} % on average."
        )
        if animals > MANY * one.individuals:
            lines.append(
                f"They are too high here: a new animal finds its like more easily among {animals} animals than among "
                f"{one.individuals}. Calibrate on more (`care evaluate calibrate`)."
            )
    return lines


def _points(query: Query) -> list[dict]:
    """A query's points, px of the image frame; none when they could not be found."""
    one = query.keypoints
    return [] if one is None else [
        {"name": name, "x": round(x, 2), "y": round(y, 2), "confidence": round(confidence, 4), "visible": visible}
        for name, (x, y), confidence, visible in zip(
            one.names, one.kp_image.tolist(), one.confidence.tolist(), one.visible.tolist(), strict=True
        )
    ]  # fmt: skip


def sheet_rows(identifier: Identifier, photos: Sequence[QueryPhoto]) -> list[QuerySheetRow]:
    """The answers as `pages.sheet.identify_sheet` draws them: one row for each animal."""
    from care_cli.pages.sheet import QuerySheetRow

    rows = []
    for photo in photos:
        for number, query in enumerate(photo.queries, 1):
            if query.jpeg is None:
                continue
            crops = [int(identifier.gallery.crops[one.index]) for one in query.candidates]
            pixels = identifier.catalog.pixels(crops)
            candidates = [
                (one.individual, one.similarity, one.probability, pixels.get(crop))
                for one, crop in zip(query.candidates, crops, strict=True)
            ]
            label = display_path(photo.found.relative).rpartition("/")[2]
            label += f" · {number}" if len(photo.queries) > 1 else ""
            points = _cell(query, label) if query.keypoints else None
            rows.append(QuerySheetRow(label, query.jpeg, query.verdict, query.reason, candidates, points))
    return rows


def _cell(query: Query, label: str) -> Cell:
    from care_cli.pages.keypoint_sheet import Cell

    one, frame = query.keypoints, query.frame
    kp_crop = to_crop(one.kp_image, frame.rect, frame.size)
    return Cell(query.jpeg, label, one.names, kp_crop, one.confidence, one.visible, frame.size)
