"""From where the catalog's crops were taken, as a model is told it: by which camera, and which flank they show.

A camera is a deployment, by its name; a view is the crop's flank. What the model was not taught is unknown to it.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from care_cli.errors import CareError
from care_cli.headers import MOST_VIEWPOINTS, is_camera
from care_cli.records import ViewpointScheme

if TYPE_CHECKING:
    from care_cli.catalog import Catalog

KNOWN = 0.5  # share of the crops of which a camera, or a flank, has to be known for models to be told any
Viewpoint = tuple[str | None, str | None]  # camera and view; None: unknown


SIDES = {"camera": (True, False), "view": (False, True), "both": (True, True)}  # which of the two is told


def scheme_of(catalog: Catalog, crop_ids: Sequence[int], side: str = "both") -> ViewpointScheme | None:
    """The cameras of crops, and the views, both ascending, or the one of them that `side` says; None where neither are
    two of them.

    Cameras, or views, are left out where they are known of less than half of the crops: as both have to be known for
    anything to be told, the others would lose what is known of them. Raises CareError for too many.
    """
    found = list(catalog.viewpoints(crop_ids).values())
    cameras, views = (_known([one[kind] for one in found], len(crop_ids)) for kind in (0, 1))
    cameras = tuple(name for name in cameras if is_camera(name))
    asked = zip(SIDES[side], (cameras, views), strict=True)
    scheme = ViewpointScheme(*(names if wanted and len(names) > 1 else () for wanted, names in asked))
    if scheme.shape[0] > MOST_VIEWPOINTS:
        raise CareError(
            f"A model is told of up to {MOST_VIEWPOINTS:,} pairs of camera and flank, but there are "
            f"{scheme.shape[0]:,}: train with side_weight=0."
        )
    return scheme if scheme.cameras or scheme.views else None


def vector(scheme: ViewpointScheme, viewpoint: Viewpoint) -> np.ndarray:
    """What a network is told of a crop: `(V,) float32`, 1 at its viewpoint; zeros where that is unknown."""
    told = np.zeros(scheme.shape, np.float32)
    if (place := scheme.place(*viewpoint)) is not None:
        told[place] = 1
    return told


def viewpoint_hash(scheme: ViewpointScheme, viewpoint: Viewpoint) -> str:
    """SHA-256 of what a network is told of a crop."""
    place = scheme.place(*viewpoint)
    said = None if place is None else [viewpoint[0] if scheme.cameras else None, viewpoint[1] if scheme.views else None]
    return hashlib.sha256(json.dumps(said).encode()).hexdigest()


def summary(scheme: ViewpointScheme, known: Iterable[bool]) -> dict:
    """What a model is told, and of how many animals: `known`, of each one, whether anything is."""
    count = Counter(known)
    return {"cameras": len(scheme.cameras), "views": list(scheme.views), "with": count[True], "without": count[False]}


def in_words(told: dict) -> str:
    """One line on what a model was told, by `summary`."""
    what = [f"which of {told['cameras']} cameras took a photo"] * bool(told["cameras"])
    what += [f"which flank it shows ({', '.join(told['views'])})"] * bool(told["views"])
    total = told["with"] + told["without"]
    line = f"The model is told {' and '.join(what)}"
    if not told["without"]:
        return f"{line}, known of all {total} animals."
    return f"{line}; {told['without']} of {total} animals are of none that it knows and are compared by pixels alone."


def _known(values: Sequence[str | None], total: int) -> tuple[str, ...]:
    """The different values, ascending; none where too few are known."""
    known = [value for value in values if value is not None]
    return tuple(sorted(set(known))) if len(known) >= KNOWN * total else ()
