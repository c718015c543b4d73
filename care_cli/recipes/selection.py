"""Which photos a recipe takes, and why not the others: pure functions from what is told of photos to decisions.

1. `judge` looks at one photo: what it shows, and which boxes are written.
2. `thin` looks at all that are left: bursts, cameras, classes, empties.
3. `parts` divides them by location.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import groupby

from care_cli.errors import CareError
from care_cli.geometry import Box, clip_box, keep_best
from care_cli.recipes import Recipe
from care_cli.splits import PARTS, SplitRule, assign
from care_cli.thresholds import SAME_CATEGORY
from care_cli.words import plain

KEPT, EMPTY = "kept", "kept as empty"
DAMAGED = "the photo is damaged"
NO_LOCATION = "its location is not known"
PEOPLE = "a person or vehicle may be on it"
NO_LABEL = "nothing says what it shows"
SEQUENCE = "it is only said what its sequence shows"
SEVERAL = "it shows two species"
UNBOXED = "a species is said to be on it that has no box"
LEFT_OUT = "the recipe leaves its species out"
UNKNOWN = "the recipe does not know its species"
NAMELESS = "nobody said what animal a box is of"
CONTRADICTION = "it is said to be empty, and has a box"
NOT_LOOKED = "no detector has looked at it"
DOUBTFUL = "a box may be an animal or not"
NO_BOX = "no box is sure to be an animal"
SMALL = "its boxes are too small"
BURST = "its burst has enough photos"
CAMERA = "its camera has enough photos of the class"
CLASS = "its class has enough photos"
EMPTIES = "there are enough empty photos"


@dataclass(frozen=True, slots=True)
class KnownBox:
    """A box of a photo, as shares of its sides."""

    box: Box  # x, y, w, h
    category: str  # animal | person | vehicle
    confidence: float
    label: str | None = None  # the species, where somebody said it
    given: bool = False  # drawn by people, not found by a detector


@dataclass(frozen=True, slots=True)
class KnownPhoto:
    """What is told of one photo."""

    key: str  # its path: decides, with the seed, which of several is taken
    labels: tuple[tuple[str, bool], ...] = ()  # of the photo as a whole: the word, and whether it is its sequence's
    boxes: tuple[KnownBox, ...] = ()
    looked: bool = False  # a detector looked at it
    size: tuple[int, int] | None = None  # width, height px
    location: str | None = None
    camera: str | None = None
    taken_at: str | None = None
    burst: int | None = None  # of an undated photo, where its sequence is known
    damaged: bool = False


@dataclass(frozen=True, slots=True)
class Verdict:
    """What `judge` says of a photo: KEPT or EMPTY, or why it is left out; and the boxes to be written."""

    reason: str
    boxes: tuple[tuple[int, Box, float], ...] = ()  # number of the class, box as shares, confidence

    @property
    def taken(self) -> bool:
        """Does it come into question?"""
        return self.reason in (KEPT, EMPTY)


@dataclass(frozen=True, slots=True)
class Candidate:
    """A photo that comes into question."""

    key: str
    classes: frozenset[int]  # none: it shows nothing
    location: str
    camera: str
    taken_at: str | None = None
    burst: int | None = None


def judge(photo: KnownPhoto, recipe: Recipe) -> Verdict:
    """What one photo is good for.

    1. Damaged photos, those of no known location, and those on which a person or vehicle may be are left out; people
       are learned only as people drew them, by a recipe with a class for them.
    2. Boxes that people drew count instead of a detector's; each is of its own species, and all must be known.
    3. Else the photo's label is that of all sure boxes: one species, no doubtful box, at least one sure one. A label of
       people names no detector's boxes: animals beside a person are not people.
    4. A photo that is said to be empty is taken as such when no box contradicts.
    """
    if photo.damaged:
        return Verdict(DAMAGED)
    if photo.location is None:
        return Verdict(NO_LOCATION)
    given = [box for box in photo.boxes if box.given]
    if any(_bars(box, recipe, bool(given)) for box in photo.boxes):
        return Verdict(PEOPLE)
    said = {plain(label) for label, of_sequence in photo.labels if not of_sequence}
    sequence = {plain(label) for label, of_sequence in photo.labels if of_sequence}
    if recipe.sequence_labels or sequence <= recipe.nothing:  # each photo of an empty sequence is empty
        said |= sequence
    if given:
        return _drawn(given, said, photo, recipe)
    if not said:
        return Verdict(SEQUENCE if photo.labels else NO_LABEL)
    if said <= recipe.nothing:
        contradicted = any(box.confidence >= recipe.doubtful for box in photo.boxes)
        return Verdict(CONTRADICTION if contradicted else EMPTY)
    if len(said) > 1:
        return Verdict(SEVERAL)
    return _found(said.pop(), photo, recipe)


def _bars(box: KnownBox, recipe: Recipe, drawn: bool) -> bool:
    """Is its photo left out, as one of a person or vehicle? `drawn`: people drew boxes on the photo."""
    if box.category == "animal" or (drawn and box.category in recipe.numbers):
        return False
    return box.given or box.confidence >= recipe.people


def _drawn(given: list[KnownBox], said: set[str], photo: KnownPhoto, recipe: Recipe) -> Verdict:
    """Boxes that people drew, each of its own species; one of a person or vehicle is of that category."""
    named = [box.label if box.category == "animal" else box.category for box in given]
    if any(label is None for label in named):
        return Verdict(NAMELESS)
    words = list(map(plain, named))
    if said & recipe.nothing:
        return Verdict(CONTRADICTION)
    for word in words:
        if (reason := _unusable(word, recipe)) is not None:
            return Verdict(reason)
    if said - set(words):
        return Verdict(UNBOXED)
    return _written([recipe.numbers[word] for word in words], given, photo, recipe)


def _found(word: str, photo: KnownPhoto, recipe: Recipe) -> Verdict:
    """A detector's animals, all of the species that the photo is said to show."""
    if (reason := _unusable(word, recipe)) is not None:
        return Verdict(reason)
    number = recipe.numbers[word]
    if number in recipe.of_people:
        return Verdict(PEOPLE)
    if not photo.looked:
        return Verdict(NOT_LOOKED)
    animals = [box for box in photo.boxes if box.category == "animal" and box.confidence >= recipe.doubtful]
    if not animals:
        return Verdict(NO_BOX)
    if any(box.confidence < recipe.positive for box in animals):
        return Verdict(DOUBTFUL)
    if len(animals) > 1:  # two detectors may have found one animal
        best = keep_best([box.box for box in animals], [box.confidence for box in animals], SAME_CATEGORY)
        animals = [animals[i] for i in best]
    return _written([number] * len(animals), animals, photo, recipe)


def _unusable(word: str, recipe: Recipe) -> str | None:
    if word in recipe.left_out:
        return LEFT_OUT
    return None if word in recipe.numbers else UNKNOWN


def _written(numbers: Sequence[int], boxes: Sequence[KnownBox], photo: KnownPhoto, recipe: Recipe) -> Verdict:
    """The boxes inside the photo that are large enough; of a photo of unknown size none is too small."""
    width, height = photo.size or (float("inf"), float("inf"))
    clipped = [(number, clip_box(box.box, (1, 1)), box.confidence) for number, box in zip(numbers, boxes, strict=True)]
    kept = tuple(
        (number, box, confidence)
        for number, box, confidence in clipped
        if min(box[2:]) > 0 and min(box[2] * width, box[3] * height) >= recipe.smallest
    )
    return Verdict(KEPT, kept) if kept else Verdict(SMALL)


# -- all that are left


def thin(candidates: Sequence[Candidate], recipe: Recipe) -> list[str]:
    """For each candidate KEPT, EMPTY or why it is left out, in the order given.

    Of a burst at most `per_burst` are kept, then of a class at a camera `per_camera`, then of a class `per_class`, then
    of empty photos so many that they are at most the share `empties` of all. Which ones depends on their keys and the
    seed, and not on the order in which they come; empty ones never take an animal's place.
    """
    reasons = [KEPT if one.classes else EMPTY for one in candidates]
    order = sorted(
        range(len(candidates)), key=lambda i: (not candidates[i].classes, _lot(candidates[i].key, recipe.seed), i)
    )
    bursts = bursts_of(candidates, recipe.burst_gap)
    used: Counter[object] = Counter()
    for limit, reason, groups_of in (
        (recipe.per_burst, BURST, lambda i: [("burst", bursts[i])]),
        (recipe.per_camera, CAMERA, lambda i: [("camera", candidates[i].camera, c) for c in _classes(candidates[i])]),
        (recipe.per_class, CLASS, lambda i: [("class", c) for c in candidates[i].classes]),
    ):
        for i in order:
            if reasons[i] not in (KEPT, EMPTY):
                continue
            groups = groups_of(i)
            if any(used[group] >= limit for group in groups):
                reasons[i] = reason
            else:
                used.update(groups)
    allowed = round(reasons.count(KEPT) * recipe.empties / (1 - recipe.empties))
    for i in [i for i in order if reasons[i] == EMPTY][allowed:]:
        reasons[i] = EMPTIES
    return reasons


def _classes(candidate: Candidate) -> frozenset[int]:
    """The classes that a camera's photos are counted by: to show nothing is one."""
    return candidate.classes or frozenset((-1,))


def _lot(key: str, seed: int) -> bytes:
    """What decides between photos: drawn from the key by the seed."""
    return hashlib.blake2b(f"{seed}\n{key}".encode("utf-8", "surrogateescape"), digest_size=8).digest()


def bursts_of(candidates: Sequence[Candidate], gap: float) -> list[int]:
    """A number for each candidate, the same for those of one burst: at one location, each at most `gap` seconds after
    the one before. Undated ones go by their sequence, or are alone."""
    numbers = [0] * len(candidates)
    dated = [i for i, one in enumerate(candidates) if one.taken_at is not None]
    dated.sort(key=lambda i: (candidates[i].location, candidates[i].taken_at))
    number = 0
    for _, group in groupby(dated, key=lambda i: candidates[i].location):
        before = None
        for i in group:
            taken = datetime.fromisoformat(candidates[i].taken_at)
            if before is None or (taken - before).total_seconds() > gap:
                number += 1
            before, numbers[i] = taken, number
    sequences: dict[object, int] = {}
    for i, one in enumerate(candidates):
        if one.taken_at is None:
            key = (one.location, one.burst) if one.burst is not None else i
            numbers[i] = sequences.setdefault(key, number + len(sequences) + 1)
    return numbers


def parts(candidates: Sequence[Candidate], recipe: Recipe) -> list[str]:
    """The part of each: all of a location are in one. CareError when a part stays empty."""
    rule = SplitRule("site", recipe.test, recipe.val, recipe.seed)
    found = assign([one.location for one in candidates], rule)
    wanted = [part for part in PARTS if part != "val" or recipe.val]
    if missing := [part for part in wanted if part not in found]:
        raise CareError(
            f"Recipe {recipe.name} leaves the part {missing[0]!r} empty: {len(candidates)} photos of "
            f"{len({one.location for one in candidates})} locations are left, and all of a location are in one part. "
            "Import more labels and boxes, or set other shares (--set val=..., --set test=...)."
        )
    return found
