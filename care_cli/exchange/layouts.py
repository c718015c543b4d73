"""Known data sets by their published folders: which animal is on which photo. `layouts.toml` describes each."""

from __future__ import annotations

import hashlib
import json
import os
import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property
from pathlib import Path
from typing import Any

from care_cli.errors import CareError
from care_cli.scan import Found, scan

FILE = Path(__file__).with_name("layouts.toml")
ARRANGED = {
    "named": True,
    "sources": [
        {"photos": r"(?:^|/)(?P<part>train|gallery|query)/(?P<identity>\d+)_(?P<camera>-?[0-9A-Za-z-]+)_\d+[^/]*$"}
    ],
}  # by the CARE paper's authors, whatever the data set
ENOUGH = 0.9  # of a folder's photos fit a layout that it has
NO_CAMERA = "-1"


@dataclass(frozen=True)
class Sighting:
    """One animal on one photo, in the data set's own words."""

    found: Found
    identity: str
    part: str | None = None  # train, val, test, gallery or query, where the data set says one
    flank: str | None = None
    camera: str | None = None
    event: str | None = None
    date: str | None = None  # YYYY-MM-DD
    box: tuple[float, float, float, float] | None = None  # x, y, w, h px


@cache
def known() -> dict[str, Any]:
    """The data sets of `layouts.toml`, by name."""
    sets = tomllib.loads(FILE.read_text(encoding="utf-8"))
    for about in sets.values():
        about["layouts"] = about.get("layouts", []) + ([ARRANGED] if about.get("arranged") else [])
    return sets


def digest(name: str) -> str:
    """SHA-256 of how a data set is read: what was imported by another reading is another import."""
    return hashlib.sha256(json.dumps(known()[name], sort_keys=True).encode()).hexdigest()


def recognise(root: Path) -> str | None:
    """The data set that a folder is a copy of, or a part of it; None: none that is known."""
    folder = _Folder(root)
    for name, about in known().items():
        elsewhere = any(one.startswith(tuple(about.get("never", ()))) for one in folder.place)
        if not elsewhere and any(folder.fits(layout, about["called"]) for layout in about["layouts"]):
            return name
    return None


def read(root: Path, name: str) -> tuple[list[Sighting], list[str]]:
    """Every animal on every photo of a copy of the data set `name`, and what its tables name but is not there.

    CareError when the folder is not laid out as it is published.
    """
    if name not in known():
        raise CareError(f"There is no known data set {name!r}; there are {', '.join(known())}.")
    about, folder = known()[name], _Folder(root)
    for layout in about["layouts"]:
        if folder.fits(layout, None):
            found, lost = [], []
            for source in layout["sources"]:
                for one in folder.sightings(source):
                    (lost if isinstance(one, str) else found).append(one)
            renamed = about.get("rename", {})
            found = [replace(one, identity=renamed.get(one.identity, one.identity)) for one in found]
            return _apart(found), lost
    raise CareError(f"{root} is not laid out as {name} is published. Get it from {about['where']}, or name a table.")


def _apart(found: list[Sighting]) -> list[Sighting]:
    """Where numbers are counted anew in each part of an identity-disjoint arrangement, the part belongs to the name."""
    sides = [one.part and ("train" if one.part == "train" else "test") for one in found]
    of: dict[str, set[str | None]] = {}
    for one, side in zip(found, sides, strict=True):
        of.setdefault(one.identity, set()).add(side)
    if not any(len(some) > 1 for some in of.values()):
        return found
    return [
        replace(one, identity=f"{side}-{one.identity}") if side else one for one, side in zip(found, sides, strict=True)
    ]


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())


class _Folder:
    """A folder that may hold a data set: its photos, and its tables by name; looked through once."""

    def __init__(self, root: Path):
        self.root = Path(os.path.abspath(root))  # noqa: PTH100 - as `scan` names its roots

    @cached_property
    def photos(self) -> dict[str, Found]:
        """Photos by their readable paths below the root; ones whose paths are no text are of no known data set."""
        found = [one for one in scan([self.root]) if isinstance(one, Found)]
        return {os.fsdecode(one.relative): one for one in found}

    @cached_property
    def tables(self) -> dict[str, Path]:
        """The first file of each name that a layout knows."""
        wanted = {
            source["table"]
            for about in known().values()
            for layout in about["layouts"]
            for source in layout["sources"]
            if "table" in source
        }
        found: dict[str, Path] = {}
        for folder, inner, names in os.walk(self.root):
            inner.sort()
            for name in wanted.intersection(names):
                found.setdefault(name, Path(folder, name))
        return found

    @cached_property
    def place(self) -> tuple[str, str]:
        """What the folder around it and the folder itself are called: small letters and digits."""
        root = self.root.resolve()
        return _plain(root.parent.name), _plain(root.name)

    def _is_called(self, called: Sequence[str]) -> bool:
        """Is the folder, or one right in it, called so?"""
        if "/".join(self.place) in called:
            return True
        within = {_plain(path.partition("/")[0]) for path in self.photos if "/" in path}
        return any(one.startswith(tuple(called)) for one in (self.place[1], *within))

    def fits(self, layout: Mapping[str, Any], called: Sequence[str] | None) -> bool:
        """Is the folder laid out so? `called`: and called so, where the layout alone could be anybody's."""
        if called is not None and layout.get("named") and not self._is_called(called):
            return False
        first = layout["sources"][0]
        if "table" in first:
            return first["table"] in self.tables and any(isinstance(one, Sighting) for one in self.sightings(first))
        fitting = sum(1 for _ in self._by_path(first))
        return fitting > 0 and fitting >= ENOUGH * len(self.photos)

    def sightings(self, source: Mapping[str, Any]) -> Iterator[Sighting | str]:
        """What a source tells; a photo that its table names but that is not there as a line that says so."""
        if "table" not in source:
            yield from self._by_path(source)
            return
        table = self.tables.get(source["table"])
        if table is None:
            yield f"{source['table']}: no such file, so what it names is left out"
            return
        for said in _records(table, source):
            found = self._photo(table, source, said)
            yield f"{source['table']}: no photo {said}" if found is None else _sighting(found, source, said)

    def _by_path(self, source: Mapping[str, Any]) -> Iterator[Sighting]:
        pattern = re.compile(source["photos"])
        for path, found in self.photos.items():
            if match := pattern.search(path):
                yield _sighting(found, source, match.groupdict())

    def _photo(self, table: Path, source: Mapping[str, Any], said: Mapping[str, Any]) -> Found | None:
        if "number" in source:
            return self._numbered(source["number"]).get(str(said["number"]))
        end = source["photo"].format(**said)
        if end.startswith("./"):
            beside = (table.parent / end).relative_to(self.root).as_posix()
            return self.photos.get(beside)
        return self._ending.get(end.count("/"), {}).get(end)

    @cached_property
    def _ending(self) -> dict[int, dict[str, Found]]:
        """Photos by the ends of their paths, by how many folders those have."""
        ends: dict[int, dict[str, Found]] = {}
        for path, found in self.photos.items():
            parts = path.split("/")
            for depth in range(len(parts)):
                ends.setdefault(depth, {}).setdefault("/".join(parts[-depth - 1 :]), found)
        return ends

    def _numbered(self, folder: str) -> dict[str, Found]:
        """Photos right in a folder by the number that they are called, '17' for 000017.jpg."""
        return self._numbers.get(folder, {})

    @cached_property
    def _numbers(self) -> dict[str, dict[str, Found]]:
        found: dict[str, dict[str, Found]] = {}
        for path, one in self.photos.items():
            parts, stem = path.split("/"), Path(path).stem
            if stem.isdecimal():
                found.setdefault("/".join(parts[-3:-1]), {}).setdefault(str(int(stem)), one)
        return found


def _records(table: Path, source: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """What a table says, a record a match or object. CareError when it cannot be read."""
    try:
        text = table.read_text("utf-8-sig", errors="replace")
        if "line" in source:
            for match in re.finditer(source["line"], text, re.MULTILINE):
                yield match.groupdict()
            return
        for key, one in _objects(json.loads(text)):
            yield {name: key if field == "@key" else one[field] for name, field in source["fields"].items()}
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise CareError(f"The table {table} cannot be read as it is published: {error!r}.") from error


def _objects(read: Any) -> Iterable[tuple[str | None, Mapping[str, Any]]]:
    """Objects of a list, or of lists by key."""
    if isinstance(read, list):
        return [(None, one) for one in read]
    return [(key, one) for key, some in read.items() for one in some]


def _sighting(found: Found, source: Mapping[str, Any], said: Mapping[str, Any]) -> Sighting:
    def told(name: str) -> str | None:
        """A group of the pattern, or a template of groups that all have something."""
        if name in source and isinstance(source[name], str):
            parts = re.findall(r"{(\w+)}", source[name])
            return source[name].format(**said) if all(said.get(part) for part in parts) else None
        value = said.get(name)
        return None if value is None else str(value)

    box = None
    if "box_xyxy" in said:
        left, top, right, bottom = map(float, said["box_xyxy"])
        box = (left, top, right - left, bottom - top)
    camera = told("camera")
    return Sighting(
        found, str(said["identity"]), told("part"), told("flank"), None if camera == NO_CAMERA else camera,
        told("event"), told("date"), box,
    )  # fmt: skip
