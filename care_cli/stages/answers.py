"""The answers of `identify` as others take them: as JSON, and as rows of a sheet."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from care_cli.scan import display_path
from care_cli.stages.identify import Identifier, Query, QueryPhoto

if TYPE_CHECKING:
    from care_cli.pages.sheet import QuerySheetRow


def contract(identifier: Identifier, photos: Sequence[QueryPhoto]) -> dict:
    """The JSON contract of `care identify`; a photo that could not be read has `failure` beside no crops."""
    return {"photos": [_photo(identifier, photo) for photo in photos]}


def _photo(identifier: Identifier, photo: QueryPhoto) -> dict:
    shown = {"path": photo.path, "crops": []}
    if photo.failure:
        return shown | {"failure": photo.failure}
    for query in photo.queries:
        candidates = [
            {
                "individual": one.individual,
                "similarity": round(one.similarity, 4),
                "probability": None,
                "crop": int(identifier.gallery.crops[one.index]),
            }
            for one in query.candidates
        ]
        box = [round(value, 1) for value in query.box]
        shown["crops"].append(
            {"box": box, "category": query.category, "species": query.species, "verdict": query.verdict,
             "reason": query.reason or None, "candidates": candidates}
        )  # fmt: skip
        if identifier.points:
            shown["crops"][-1]["keypoints"] = _points(query)
    return shown


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
                (one.individual, one.similarity, None, pixels.get(crop))
                for one, crop in zip(query.candidates, crops, strict=True)
            ]
            label = display_path(photo.found.relative).rpartition("/")[2]
            label += f" · {number}" if len(photo.queries) > 1 else ""
            rows.append(QuerySheetRow(label, query.jpeg, query.verdict, query.reason, candidates))
    return rows
