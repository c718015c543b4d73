"""From the catalog's named crops to what a training learns from."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from care_cli.geometry import InputSize
from care_cli.keypoints.points import other_side
from care_cli.records import KeypointScheme, Scheme, ViewpointScheme
from care_cli.stages import shown_points

if TYPE_CHECKING:
    from care_cli.catalog import Catalog
    from care_cli.records import Keypoints
    from care_cli.training.data import LabelledCrops

OPEN = "animal"  # what an animal of unknown species is called


@dataclass(frozen=True, eq=False)
class Material:
    """Labelled crops before a pixel is decoded; `(N,)` each, ascending by crop."""

    crop_ids: np.ndarray  # int64
    labels: np.ndarray  # int64, 0..C-1
    individuals: list[str]  # (C,) names
    animals: list[str]  # (C,) species, "animal" where none is known
    digests: list[str]  # SHA-256 of the stored pixels
    beside: np.ndarray | None  # (N, ...) float32, see LabelledCrops
    scheme: Scheme | None
    without_points: list[int]  # crops of which no point is known, where the scheme is of points

    def names(self) -> list[str]:
        """The individual of each crop."""
        return [self.individuals[label] for label in self.labels]

    def digest(self, words: bool = False) -> str:
        """SHA-256 of all that is learned from: pixels, who is whom, what is told beside them; with `words` also names
        and species."""
        said = repr((self.individuals, self.animals)).encode() if words else b""
        said += repr(self.scheme).encode() if isinstance(self.scheme, ViewpointScheme) else b""
        lines = [f"{pixels} {label}\n" for pixels, label in zip(self.digests, self.labels, strict=True)]
        beside = b"" if self.beside is None else self.beside.tobytes()
        return hashlib.sha256("".join(lines).encode() + beside + said).hexdigest()


def gather(catalog: Catalog, crop_ids: Iterable[int], scheme: Scheme | None = None, run: int | None = None) -> Material:
    """Named crops with pixels, and their points, or from where they were taken, as the scheme asks.

    Points are the standing ones, or those of a `run`. Individuals are numbered by their first crop.
    """
    wanted = sorted({int(crop) for crop in crop_ids})
    names, digests = catalog.names_of_crops(wanted), catalog.pixel_digests(wanted)
    ids = [crop for crop in wanted if crop in names and crop in digests]
    individuals = list(dict.fromkeys(names[crop] for crop in ids))
    number = {name: label for label, name in enumerate(individuals)}
    beside, without, frames = None, [], catalog.crop_frame(ids)
    species = {names[crop]: frames[crop].species for crop in reversed(ids) if frames[crop].species}
    if scheme is not None and ids:
        told = shown_points.of_crops(catalog, ids, scheme, run)
        beside = np.stack([told[crop].beside for crop in ids])
        if isinstance(scheme, KeypointScheme):
            without = [crop for crop in ids if not told[crop].beside.any()]
    return Material(
        crop_ids=np.array(ids, np.int64),
        labels=np.array([number[names[crop]] for crop in ids], np.int64),
        individuals=individuals,
        animals=[species.get(name, OPEN) for name in individuals],
        digests=[digests[crop] for crop in ids],
        beside=beside,
        scheme=scheme,
        without_points=without,
    )


def scheme_of(
    catalog: Catalog, crop_ids: Sequence[int], run: int | None = None, names: Sequence[str] = ()
) -> KeypointScheme | None:
    """The categories of the visible points of crops, ascending, or those of `names` alone; None when there are none.

    Which are each other's counterparts the templates say, and else the names (left_eye, right_eye).
    """
    found = {name for one in catalog.keypoints(crop_ids, run).values() for name in _visible(one)}
    kept = tuple(sorted(found & set(names) if names else found))
    told = {p.name: p.mirror for template in catalog.templates() for p in template.points if p.mirror}
    mirrors = {name: told.get(name) or other_side(name) for name in kept}
    return KeypointScheme(kept, {name: other for name, other in mirrors.items() if other in kept}) if kept else None


def _visible(one: Keypoints) -> list[str]:
    return [name for name, visible in zip(one.names, one.visible, strict=True) if visible]


def labelled(
    catalog: Catalog,
    material: Material,
    input_size: InputSize,
    *,
    bound: int | None = None,
    report: Callable[[int], object] = lambda done: None,
) -> tuple[LabelledCrops, list[int]]:
    """The material's crops squashed to `input_size`, and the ids of those left out, whose pixels are damaged.

    Everything is decoded once and stays in memory up to `bound` bytes. `report` takes numbers of crops done.
    """
    from care_cli.training.data import LabelledCrops, Photos

    photos = Photos(material.crop_ids, catalog.pixel_reader(), input_size, material.digests, bound)
    bad = photos.damaged(report)
    good = np.setdiff1d(np.arange(len(photos)), bad)
    kept, labels = np.unique(material.labels[good], return_inverse=True)
    beside = None if material.beside is None else material.beside[good]
    names, animals = (tuple(some[label] for label in kept) for some in (material.individuals, material.animals))
    crops = LabelledCrops(photos.of(good), labels, beside, material.scheme, names, animals)
    return crops, material.crop_ids[bad].tolist()
