"""Which annotated animals are carried to which, and which of them choose a setting while the others report it."""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby

from care_cli.errors import CareError
from care_cli.geometry import Box, Rectangle


@dataclass(frozen=True, eq=False)
class Animal:
    """A stored crop whose points were said by hand or imported."""

    crop: int
    image: int
    species: str  # '' where nobody said
    individual: str | None
    box: Box  # x, y, w, h, px, image frame
    rect: Rectangle  # the crop's, px, image frame
    size: tuple[int, int]  # width, height of the stored crop, px
    points: Mapping[str, tuple[float, float]]  # the visible ones, xy px, image frame
    mirrored: bool = False  # everything said here is of the crop's mirror image

    @property
    def cluster(self) -> str:
        """What varies as one when animals are drawn: the individual, else the photo."""
        return f"individual {self.individual}" if self.individual is not None else f"photo {self.image}"

    def flipped(self, mirrors: Mapping[str, str]) -> Animal:
        """The mirror image of the crop, in its own rectangle, where an animal's left eye is a right one."""
        x, _, w, _ = self.rect
        across = 2 * x + w
        box = (across - self.box[0] - self.box[2], *self.box[1:])
        points = {mirrors.get(name, name): (across - px, py) for name, (px, py) in self.points.items()}
        return replace(self, box=box, points=points, mirrored=not self.mirrored)


@dataclass(frozen=True)
class Transfer:
    """Points to be carried to a target: those that it shares with the first reference; the others are more views."""

    target: int  # crop
    references: tuple[int, ...]  # crops
    names: tuple[str, ...]  # points


def transfers(
    sources: Sequence[Animal],
    targets: Sequence[Animal],
    *,
    references: int | None = None,
    count: int | None = None,
    seed: int = 0,
) -> list[Transfer]:
    """What is carried to what, within each species, never within a photo or an individual.

    Without `references` every pair of a source and a target; with it, for each target in turn so many sources drawn
    at random: those drawn for a smaller number are the first of those drawn for a larger one, so that the points
    asked are the same. `count` limits the transfers of a species: pairs are drawn at random; with `references` it may
    exceed the number of targets, which then get other references each time.
    """
    chosen: list[Transfer] = []
    for species in sorted({one.species for one in targets}):
        from_ = [one for one in sources if one.species == species]
        to = [one for one in targets if one.species == species]
        chance = random.Random(f"{seed} {species}")
        if references is None:
            pairs = [(target, [source]) for source in from_ for target in to if _apart(source, target)]
            if count is not None and count < len(pairs):
                pairs = [pairs[i] for i in sorted(chance.sample(range(len(pairs)), count))]
        else:
            order = chance.sample(to, len(to))
            pairs = []
            for turn in range(len(to) if count is None else count):
                target = order[turn % len(order)]
                apart = [one for one in from_ if _apart(one, target)]
                pairs.append((target, chance.sample(apart, len(apart))[:references]))
        for target, drawn in pairs:
            names = tuple(name for name in target.points if drawn and name in drawn[0].points)
            if names:
                chosen.append(Transfer(target.crop, tuple(one.crop for one in drawn), names))
    return chosen


def _apart(one: Animal, other: Animal) -> bool:
    """Are the two of different photos, and not one animal?"""
    return one.image != other.image and (one.individual is None or one.individual != other.individual)


def halves(crops: Iterable[Animal], seed: int) -> set[str]:
    """Clusters of one half: of each species half of the individuals (photos where unnamed), drawn at random.

    A cluster is on one side only, whatever species its crops are called.
    """
    side: dict[str, bool] = {}
    by_species = sorted(crops, key=lambda one: one.species)
    for species, group in groupby(by_species, key=lambda one: one.species):
        fresh = sorted({one.cluster for one in group} - set(side))
        first = set(random.Random(f"{seed} {species}").sample(fresh, (len(fresh) + 1) // 2))
        side |= {cluster: cluster in first for cluster in fresh}
    return {cluster for cluster, chosen in side.items() if chosen}


def named(crops: Iterable[Animal], individuals: Sequence[str]) -> set[str]:
    """Clusters of the individuals that were named. CareError for one that no annotated crop shows."""
    known = {one.individual for one in crops if one.individual is not None}
    if unknown := [name for name in individuals if name not in known]:
        raise CareError(
            f"No annotated crop shows {', '.join(unknown[:5])}. Individuals with annotated crops: "
            f"{', '.join(sorted(known)[:20]) or 'none'}. Name them with `care individuals name`, or use --split."
        )
    return {f"individual {name}" for name in individuals}
