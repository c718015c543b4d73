"""What carries named points to crops: an extractor, and references as it sees them."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from care_cli import geometry
from care_cli.errors import CareError
from care_cli.features import Extractor, prepare, seed_of
from care_cli.images import decode_jpeg
from care_cli.keypoints.matching import Match, MatchConfig, Reference, match
from care_cli.keypoints.references import Annotated, Cache, make_reference
from care_cli.records import CropFrame, Keypoints, NamedPoint


@dataclass(frozen=True, eq=False)
class Propagator:
    """Carries the points of some references, of the same names in the same order, to crops."""

    extractor: Extractor
    references: tuple[Reference, ...]
    match: MatchConfig
    prompt: str
    templates: tuple[int | None, ...] = ()  # (R,) ids in the catalog

    @classmethod
    def of(
        cls,
        annotated: dict[str, Annotated],
        extractor: Extractor,
        match: MatchConfig = MatchConfig(),
        prompt: str = "",
        *,
        templates: tuple[int | None, ...] = (),
        cache: Cache | None = None,
    ) -> Propagator:
        """From annotated crops, by what they are called. CareError when their points differ or pixels are damaged."""
        names = same_names({name: one.points for name, one in annotated.items()})
        references = []
        for called, one in annotated.items():
            ordered = replace(one, points=tuple(sorted(one.points, key=lambda point: names.index(point.name))))
            try:
                references.append(make_reference(ordered, extractor, prompt, mirrored=match.align, cache=cache))
            except CareError as error:
                raise CareError(f"{called} cannot be a reference: {error}") from error
        return cls(extractor, tuple(references), match, prompt, templates or (None,) * len(references))

    @property
    def names(self) -> tuple[str, ...]:
        """What the K points are called."""
        return self.references[0].names

    def points(self, jpegs: Sequence[bytes]) -> list[Match]:
        """The points in stored crops, in their order. CareError when pixels are damaged."""
        found: list[Match] = []
        for start in range(0, len(jpegs), self.extractor.batch):
            group = jpegs[start : start + self.extractor.batch]
            images = np.stack([prepare(decode_jpeg(jpeg), self.extractor.size) for jpeg in group])
            found += self.carry(images, [hashlib.sha256(jpeg).digest() for jpeg in group])
        return found

    def carry(self, images: np.ndarray, digests: Sequence[bytes]) -> list[Match]:
        """The points in prepared crops `(B,3,S,S) uint8`, whose stored pixels have these SHA-256."""
        features = self.extractor(images, [seed_of(digest) for digest in digests], self.prompt)
        return match(self.references, features, self.match, self.extractor.size)

    def keypoints(self, found: Match, frame: CropFrame) -> Keypoints:
        """The points of a crop as the catalog keeps them, in px of the image frame."""
        kp_crop = geometry.input_to_crop(found.kp_input, frame.size, self.extractor.size)
        return Keypoints(
            crop_id=frame.crop_id,
            names=self.names,
            kp_image=geometry.to_image(kp_crop, frame.rect, frame.size),
            confidence=found.confidence,
            visible=found.visible,
            margin=found.margin,
            cycle=found.cycle,
            templates=tuple(self.templates[one] for one in found.reference),
        )


def same_names(named: dict[str, Sequence[NamedPoint]]) -> list[str]:
    """The names of the points that crops (by what they are called) have in common, in the first one's order.

    Raises CareError when one has a point that another lacks.
    """
    (first, points), *others = named.items()
    names = [point.name for point in points]
    for other, its in others:
        if odd := sorted(set(names) ^ {point.name for point in its}):
            raise CareError(
                f"Templates that are used together have the same points, but {first} and {other} differ in "
                f"{', '.join(odd)}. Use one of them, or annotate the same points."
            )
    return names
