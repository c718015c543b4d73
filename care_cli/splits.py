"""Which crops a model may learn from, on which it is chosen, and on which it is examined."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from care_cli.errors import CareError

PARTS = ("train", "val", "test")
RULES = {
    "individual": "animals of the test part are never learned from: for animals that nobody has seen before",
    "event": "all crops of one visit are in one part: for known animals on another visit",
    "site": "all crops of one site are in one part: for known animals elsewhere",
    "random": "crop by crop: leaky, since pictures of one moment come into both parts",
    "file": "animals are in the parts that a file says, as of a published split; others are in none",
}
NOBODY = {"unknown", "unidentified", "unnamed", "none", "?"}  # names that name no animal


@dataclass(frozen=True)
class SplitRule:
    """How crops are divided. Shares are of groups: of individuals, events, sites or, by `random`, crops; by `file`
    they are what came of it, and `file` is its SHA-256."""

    by: str = "individual"  # a name of RULES
    test: float = 0.2
    val: float = 0.1
    seed: int = 666
    file: str | None = None

    def __post_init__(self) -> None:
        if self.by not in RULES:
            raise CareError(f"A split is by {', '.join(RULES)}, but got {self.by!r}.")
        if not (0 < self.test < 1 and 0 <= self.val < 1 and self.test + self.val < 1):
            raise CareError(
                f"The shares of test and validation lie between 0 and 1 and leave something to learn from, but got "
                f"{self.test:g} and {self.val:g}."
            )


def assign(groups: Sequence[str], rule: SplitRule, standing: Sequence[str | None] | None = None) -> list[str]:
    """The part of each crop: `(N,)` names of PARTS.

    groups    (N,) what may not be divided: the individual, event or site of each crop
    standing  (N,) parts from before, None for new crops

    A group that has a part keeps it; one with crops of several (its animals were merged) is of the strictest, test
    before validation before training. Of the groups round(share * number) come into test, and of the others so many
    into validation, at least one where the share is not zero, the new ones drawn by the seed.
    """
    standing = standing or [None] * len(groups)
    parts: dict[str, str] = {}
    for group, part in zip(groups, standing, strict=True):
        if part is not None and PARTS.index(part) >= PARTS.index(parts.get(group, "train")):
            parts[group] = part
    everyone = sorted(set(groups))
    new = [group for group in everyone if group not in parts]
    waiting = [new[i] for i in np.random.default_rng(rule.seed).permutation(len(new))]
    for part, share in (("test", rule.test), ("val", rule.val)):
        wanted = max(1, round(share * len(everyone))) if share else 0
        for _ in range(min(len(waiting), wanted - list(parts.values()).count(part))):
            parts[waiting.pop()] = part
    return [parts.get(group, "train") for group in groups]


def check(parts: Sequence[str], individuals: Sequence[str], rule: SplitRule) -> None:
    """CareError when a part is empty, or nothing can be found in the test part: no animal has two crops there."""
    wanted = [part for part in PARTS if part != "val" or rule.val]
    for part in wanted:
        if part not in parts:
            raise CareError(
                f"The split by {rule.by} leaves the part {part!r} empty. Animals: {len(set(individuals))}, crops of "
                f"them: {len(parts)}. Name more, or set other shares (--test, --val)."
            )
    if not any(number > 1 for number in Counter(of_part(parts, individuals, "test")).values()):
        raise CareError(
            f"The split by {rule.by} leaves nothing to be found: no animal has two crops in the test part. "
            "Name more crops, or set another share or seed (--test, --split-seed), or split by another rule."
        )


def of_part(parts: Sequence[str], values: Iterable, part: str) -> list:
    """Those of `values` whose crops are in a part."""
    return [value for value, its in zip(values, parts, strict=True) if its == part]


def counts(parts: Sequence[str], individuals: Sequence[str]) -> list[dict]:
    """How many crops and individuals each part has, and how many of the individuals are in no other part."""
    rows = []
    for part in PARTS:
        mine = set(of_part(parts, individuals, part))
        others = {name for name, its in zip(individuals, parts, strict=True) if its != part}
        rows.append(
            {"part": part, "crops": list(parts).count(part), "individuals": len(mine), "alone": len(mine - others)}
        )
    return rows
