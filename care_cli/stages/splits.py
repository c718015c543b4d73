"""The catalog's named animals divided for training and examination; what was divided before stays so."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING

from care_cli.errors import CareError
from care_cli.records import Selection
from care_cli.splits import NOBODY, SplitRule, assign, check, counts, of_part

if TYPE_CHECKING:
    from care_cli.catalog import Catalog

ANIMALS = Selection(category="animal")


@dataclass(frozen=True)
class SplitRequest:
    """Which split is meant, and how it is made where there is none yet; None: as it stands, else SplitRule's."""

    name: str = "default"
    by: str | None = None
    test: float | None = None
    val: float | None = None
    seed: int | None = None


@dataclass(frozen=True)
class Division:
    """Named crops and their parts."""

    split: dict  # its row in the catalog
    rule: SplitRule
    rows: list[dict]  # N crops with pixels, as `crop_rows` lists them
    parts: list[str]  # (N,)
    dropped: dict[str, int]  # crops that are in no part: unnamed, called unknown, without pixels

    def ids(self, part: str) -> list[int]:
        """Ids of the crops of a part, ascending."""
        return sorted(of_part(self.parts, (row["crop"] for row in self.rows), part))

    def summary(self) -> dict:
        """The split in plain values: name, rule, hash, and how much each part has."""
        names = [row["individual"] for row in self.rows]
        return {
            "split": self.split["name"],
            "sha256": self.split["sha256"],
            **asdict(self.rule),
            "parts": counts(self.parts, names),
            "dropped": self.dropped,
        }


def divide(catalog: Catalog, request: SplitRequest, selection: Selection = ANIMALS) -> Division:
    """Divide the selected animals that have names; a split that stands takes the new ones in.

    Raises CareError when the split stands by another rule, a part would be empty, or nothing can be found in the
    test part.
    """
    before = catalog.split(request.name)
    rule = _rule(request, before)
    rows, dropped = named(catalog, selection)
    if not rows:
        of = f" of {selection.species}" if selection.species else ""
        raise CareError(f"No crop{of} shows a named animal yet. Name some: `care individuals name`.")
    standing = catalog.split_parts(request.name)
    parts = assign([_group(row, rule.by) for row in rows], rule, [standing.get(row["crop"]) for row in rows])
    check(parts, [row["individual"] for row in rows], rule)
    crops = {row["crop"]: part for row, part in zip(rows, parts, strict=True)}
    return Division(catalog.put_split(request.name, asdict(rule), crops), rule, rows, parts, dropped)


def named(catalog: Catalog, selection: Selection = ANIMALS) -> tuple[list[dict], dict[str, int]]:
    """Crops that show a known animal and have pixels, as `crop_rows` lists them, and how many others there are."""
    rows = catalog.crop_rows(selection)
    bare = set(catalog.without_pixels([row["crop"] for row in rows]))
    reasons = {row["crop"]: _unusable(row, bare) for row in rows}
    return [row for row in rows if not reasons[row["crop"]]], dict(Counter(filter(None, reasons.values())))


def _unusable(row: dict, bare: set[int]) -> str | None:
    if row["individual"] is None:
        return "unnamed"
    if row["individual"].strip().casefold() in NOBODY:
        return "unknown"
    return "without pixels" if row["crop"] in bare else None


def _rule(request: SplitRequest, before: dict | None) -> SplitRule:
    """The rule of the split that stands, which nothing may contradict; else what was asked for."""
    given = {key: getattr(request, key) for key in ("by", "test", "val", "seed")}
    given = {key: value for key, value in given.items() if value is not None}
    if before is None:
        return SplitRule(**given)
    rule = SplitRule(**before["settings"])
    if replace(rule, **given) != rule:
        said = ", ".join(f"{key} {value}" for key, value in before["settings"].items())
        raise CareError(
            f"The split {request.name!r} stands with {said}, so that no test animal is ever learned from. "
            "Leave these options away, or make another split: --split NAME."
        )
    return rule


def _group(row: dict, by: str) -> str:
    """What of a crop may not be divided."""
    if by == "individual":
        return row["individual"]
    if by == "event":
        return f"event {row['event']}" if row["event"] is not None else f"photo {row['image']}"
    if by == "site":
        return row["site"] or row["deployment"] or "no site"
    return f"crop {row['crop']}"
