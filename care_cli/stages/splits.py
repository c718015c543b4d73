"""The catalog's named animals divided for training and examination; what was divided before stays so."""

from __future__ import annotations

import csv
import hashlib
import io
from collections import Counter
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from care_cli.errors import CareError
from care_cli.records import Selection
from care_cli.splits import NOBODY, PARTS, SplitRule, assign, check, counts, of_part

if TYPE_CHECKING:
    from care_cli.catalog import Catalog

ANIMALS = Selection(category="animal")
SIDES = {"gallery": "test", "query": "test"}  # parts of a published list that are the two sides of its test part


@dataclass(frozen=True)
class SplitRequest:
    """Which split is meant, and how it is made where there is none yet; None: as it stands, else SplitRule's."""

    name: str = "default"
    by: str | None = None
    test: float | None = None
    val: float | None = None
    seed: int | None = None
    file: Path | None = None  # CSV that says the part of each individual


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
    manifest, sha256 = (None, None) if request.file is None else read_manifest(request.file)
    rule = _rule(request, before, manifest, sha256)
    rows, dropped = named(catalog, selection)
    if not rows:
        of = f" of {selection.species}" if selection.species else ""
        raise CareError(f"No crop{of} shows a named animal yet. Name some: `care individuals name`.")
    standing = catalog.split_parts(request.name)
    if rule.by == "file":
        known = manifest or {row["individual"]: standing[row["crop"]] for row in rows if row["crop"] in standing}
        if others := [row for row in rows if row["individual"] not in known]:
            dropped |= {"not in the split's file": len(others)}
        rows = [row for row in rows if row["individual"] in known]
        standing = {row["crop"]: known[row["individual"]] for row in rows} | standing
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


def read_manifest(path: Path) -> tuple[dict[str, str], str]:
    """The part of each individual that a CSV file with the columns `individual` and `part` says, and its SHA-256.

    Gallery and query are the test part. Raises CareError when it cannot be read, has other columns, names a part that
    does not exist, or two of one animal.
    """
    try:
        data = path.read_bytes()
        rows = list(csv.DictReader(io.StringIO(data.decode("utf-8-sig"))))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise CareError(f"The split in {path} cannot be read: {error}.") from error
    if not rows or not {"individual", "part"} <= set(rows[0]):
        raise CareError(f"A split's file has the columns individual and part, but {path} has not.")
    parts: dict[str, str] = {}
    for line, row in enumerate(rows, 2):
        name, part = (row["individual"] or "").strip(), (row["part"] or "").strip()
        part = SIDES.get(part, part)
        if part not in PARTS:
            raise CareError(f"{path}, line {line}: a part is {', '.join([*PARTS, *SIDES])}, but got {part!r}.")
        if parts.setdefault(name, part) != part:
            raise CareError(f"{path}, line {line}: {name!r} is in {parts[name]} already; an animal is in one part.")
    if absent := [part for part in ("train", "test") if part not in parts.values()]:
        raise CareError(f"{path} has no animal in the part {' nor in '.join(absent)}; both are needed.")
    return parts, hashlib.sha256(data).hexdigest()


def _rule(request: SplitRequest, before: dict | None, manifest: dict[str, str] | None, sha256: str | None) -> SplitRule:
    """The rule of the split that stands, which nothing may contradict; else what was asked for."""
    given = {key: getattr(request, key) for key in ("by", "test", "val", "seed")}
    given = {key: value for key, value in given.items() if value is not None}
    if manifest is not None:
        if given:
            raise CareError(f"The split's file says all: leave {', '.join(given)} away.")
        of = list(manifest.values())
        given = {"by": "file", "file": sha256} | {part: of.count(part) / len(of) for part in ("test", "val")}
    elif given.get("by") == "file":
        raise CareError("A split by file needs the file: --split-file FILE.csv.")
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
    if by in ("individual", "file"):
        return row["individual"]
    if by == "event":
        return f"event {row['event']}" if row["event"] is not None else f"photo {row['image']}"
    if by == "site":
        return row["site"] or row["deployment"] or "no site"
    return f"crop {row['crop']}"
