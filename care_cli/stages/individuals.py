"""Names: what a person says about who is who, each saying one entry of the decision log."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from care_cli.catalog import Catalog
from care_cli.decisions import Decision, checked_name, in_force
from care_cli.errors import CareError
from care_cli.geometry import iou
from care_cli.records import Selection
from care_cli.scan import display_path
from care_cli.stages.crops import people_made_safe

SAME_BOX = 0.5  # IoU from which a table's box means a crop


def animal(catalog: Catalog, crop_id: int) -> dict:
    """A crop's row; CareError when there is none or when it shows no animal."""
    row = catalog.crop(crop_id)
    if row is None:
        raise CareError(f"There is no crop {crop_id}; `care crops` shows their ids.")
    if row["category"] != "animal":
        raise CareError(
            f"Crop {crop_id} is a {row['category']}, and names are given to animals only. If it is an animal after "
            f"all: `care crops set {crop_id} --category animal`."
        )
    return row


# -- saying


def name(catalog: Catalog, crop_ids: Sequence[int], individual: str, **facts) -> dict:
    """Say that crops show one animal; a new individual is made when the name is new.

    A name that was merged means the survivor. `facts` are further fields of the decisions (who, source,
    score, probability, evidence). One transaction; crops that bear the name already are left alone.
    """
    individual = checked_name(individual)
    crop_ids = list(dict.fromkeys(crop_ids))
    decided, moved = [], {}
    with catalog.transaction():
        before = catalog.names_of_crops(crop_ids)
        target = known_as(catalog, individual)
        new = target is None
        for crop_id in crop_ids:
            animal(catalog, crop_id)
            if target is None:
                entry = catalog.decide(Decision("create", crop_id=crop_id, value=individual, **facts))
                target = entry.individual_id
            elif catalog.identity(crop_id) == target:
                continue
            else:
                said = Decision("name", crop_id=crop_id, individual_id=target, value=individual, **facts)
                entry = catalog.decide(said)
            decided.append(entry.id)
            if crop_id in before:
                moved[crop_id] = before[crop_id]
        called = catalog.individual(target).name
    return {"individual": called, "new": new, "crops": crop_ids, "decisions": decided, "moved": moved}


def known_as(catalog: Catalog, individual: str) -> int | None:
    """The individual that goes by a name, or that one of this name was merged into; None when it is new."""
    return catalog.active(individual) or catalog.survivor(individual)


def unname(catalog: Catalog, crop_ids: Sequence[int]) -> dict:
    """Take the name off crops, in one transaction."""
    decided = []
    with catalog.transaction():
        for crop_id in dict.fromkeys(crop_ids):
            animal(catalog, crop_id)
            said = Decision("unname", crop_id=crop_id, individual_id=catalog.identity(crop_id))
            decided.append(catalog.decide(said).id)
    return {"crops": list(dict.fromkeys(crop_ids)), "decisions": decided}


def rename(catalog: Catalog, old: str, new: str) -> dict:
    """Call an individual by another name."""
    said = Decision("rename", individual_id=catalog.find_individual(old), value=checked_name(new))
    return {"individual": said.value, "before": old, "decision": catalog.decide(said).id}


def merge(catalog: Catalog, one: str, into: str) -> dict:
    """Two names, one animal. Contradictions that this makes are in the answer; it is done all the same."""
    with catalog.transaction():
        goes, stays = catalog.find_individual(one), catalog.find_individual(into)
        crop_ids = catalog.members(goes)
        entry = catalog.decide(Decision("merge", individual_id=goes, other_id=stays))
    answer = {"individual": into, "merged": one, "crops": len(crop_ids), "decision": entry.id}
    return {**answer, "contradictions": _contradictions_with(catalog, entry)}


def split(catalog: Catalog, whole: str, crop_ids: Sequence[int], new: str) -> dict:
    """One name, two animals: some of an individual's crops become a new individual."""
    crop_ids = tuple(dict.fromkeys(crop_ids))
    said = Decision("split", individual_id=catalog.find_individual(whole), value=checked_name(new), crops=crop_ids)
    entry = catalog.decide(said)
    return {"individual": said.value, "from": whole, "crops": list(crop_ids), "decision": entry.id}


def different(catalog: Catalog, one: str, other: str) -> dict:
    """Note that two individuals are two animals, so that merging them is called a contradiction."""
    said = Decision("different", individual_id=catalog.find_individual(one), other_id=catalog.find_individual(other))
    entry = catalog.decide(said)
    answer = {"individuals": [one, other], "decision": entry.id}
    return {**answer, "contradictions": _contradictions_with(catalog, entry)}


def undo(catalog: Catalog, decision: int) -> dict:
    """Take one decision back. `conflicts` are the later entries that no longer apply because of it."""
    before = {conflict["decision"] for conflict in _conflicts(catalog)}
    categories = [said.crop_id for said in catalog.log() if said.action == "category"]
    with people_made_safe(catalog, categories) as without_pixels:
        entry = catalog.decide(Decision("undo", undoes=decision))
    action = next(said.action for said in catalog.log() if said.id == decision)
    new = [conflict for conflict in _conflicts(catalog) if conflict["decision"] not in before]
    answer = {"decision": entry.id, "undone": decision, "action": action, "conflicts": new}
    return {**answer, "without_pixels": without_pixels}


# -- naming from a table


def name_from(catalog: Catalog, file: Path) -> dict:
    """Name crops as a CSV table says: columns `crop,individual`, or `path,x,y,w,h,individual` (px, upright image).

    A path is matched by its end, a box by IoU >= 0.5. A row whose crop bears the name, or was given it by a
    table before, is left alone, so that a table read twice says nothing new. Rows that fit no crop, or more
    than one, are counted in `unmatched` with their reason. One transaction.
    """
    rows = _read_table(file)
    told = {(said.crop_id, said.value) for said in in_force(catalog.log()) if said.source == "import"}
    visible = None if "crop" in rows[0] else _Visible(catalog)
    named, already, new, unmatched, taken = 0, 0, set(), [], {}
    with catalog.transaction():
        for number, row in enumerate(rows, start=2):
            try:
                individual = checked_name(row["individual"] or "")
                crop_id = visible.crop(row) if visible else _number(row["crop"], "crop id", int)
                animal(catalog, crop_id)
                if taken.setdefault(crop_id, individual) != individual:
                    raise CareError(f"crop {crop_id} is {taken[crop_id]!r} by an earlier row")
            except CareError as error:
                unmatched.append({"row": number, "reason": str(error)})
                continue
            if (crop_id, individual) in told:
                already += 1
                continue
            done = name(catalog, [crop_id], individual, source="import", evidence={"file": file.name, "row": number})
            named += len(done["decisions"])
            already += not done["decisions"]
            new |= {individual} if done["new"] else set()
    return {"named": named, "new": len(new), "already": already, "unmatched": unmatched}


def _read_table(file: Path) -> list[dict]:
    try:
        with file.open(newline="", encoding="utf-8-sig") as stream:
            reader = csv.DictReader(stream, restval="")
            rows, columns = list(reader), set(reader.fieldnames or ())
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise CareError(f"{file} cannot be read as a CSV table in UTF-8: {error}") from error
    if "individual" not in columns or not ({"crop"} <= columns or {"path", "x", "y", "w", "h"} <= columns):
        raise CareError(
            f"{file} should have the columns crop,individual or path,x,y,w,h,individual, "
            f"but has {', '.join(sorted(columns)) or 'none'}."
        )
    if not rows:
        raise CareError(f"{file} has a heading but no rows.")
    return rows


def _number(text: str, what: str, kind: type = float):
    try:
        return kind(text)
    except (TypeError, ValueError):
        raise CareError(f"{text!r} is no {what}") from None


class _Visible:
    """The catalog's visible animal crops by the places where their photos were seen."""

    def __init__(self, catalog: Catalog):
        self.crops: dict[int, list[dict]] = {}
        for row in catalog.crop_rows(Selection(category="animal")):
            self.crops.setdefault(row["image"], []).append(row)
        self.places: dict[str, list[tuple[str, int]]] = {}
        for image_id, places in catalog.places(self.crops).items():
            for place in places:
                path = f"/{place['location']}/{display_path(place['path_bytes'])}"
                self.places.setdefault(path.rpartition("/")[2], []).append((path, image_id))

    def crop(self, row: dict) -> int:
        """The one crop that a table's row means; CareError when there is none or more than one."""
        box = [_number(row[key], f"number in column {key}") for key in ("x", "y", "w", "h")]
        found = self._photos(row["path"])
        if not found:
            raise CareError(f"no photo with a visible animal is called {row['path']!r}")
        near = []
        for image_id in found:
            boxes = np.array([[crop[key] for key in "xywh"] for crop in self.crops[image_id]])
            best = int(np.argmax(overlaps := iou(np.array([box]), boxes)[0]))
            if overlaps[best] >= SAME_BOX:
                near.append(self.crops[image_id][best]["crop"])
        if not near:
            raise CareError(f"no visible animal in {row['path']!r} overlaps the box by half")
        if len(near) > 1:
            raise CareError(f"{row['path']!r} is the end of several photos' paths; give more of it")
        return near[0]

    def _photos(self, path: str) -> set[int]:
        """Images seen at a path, or at one that ends in it: as it stands, else with Windows' backslashes turned."""
        for spelling in (path, path.replace("\\", "/")):
            wanted = "/" + spelling.removeprefix("./").lstrip("/")
            places = self.places.get(wanted.rpartition("/")[2], [])
            if found := {image_id for place, image_id in places if place.endswith(wanted)}:
                return found
        return set()


# -- showing


def crop_numbers(text: str) -> list[int]:
    """Crop ids from '3,5,8'."""
    return [_number(part.strip(), "crop id; give them as 3,5,8", int) for part in text.split(",") if part.strip()]


def show(catalog: Catalog, individual: str) -> dict:
    """One individual: the row of the listing, its sightings in the order of time, its sites, its decisions."""
    individual_id = catalog.find_individual(individual)
    row = next(row for row in catalog.individual_rows() if row["id"] == individual_id)
    sightings = catalog.crop_rows(Selection(individual=row["individual"]))
    places: dict[str | None, list[dict]] = {}
    for seen in sightings:
        places.setdefault(seen["site"] or seen["deployment"], []).append(seen)
    sites = [{"site": place, **_summary(seen)} for place, seen in places.items()]
    return {**row, "sites": sites, "sightings": sightings, "decisions": log(catalog, individual)}


def _summary(sightings: list[dict]) -> dict:
    times = sorted(seen["taken_at"] for seen in sightings if seen["taken_at"])
    return {
        "crops": len(sightings),
        "events": len({seen["event"] for seen in sightings} - {None}),
        "first_seen": times[0] if times else None,
        "last_seen": times[-1] if times else None,
    }


def write_sheet(catalog: Catalog, shown: dict, path: Path) -> None:
    """The photos of an individual as `show` found it, on one JPEG; CareError when there is none."""
    from care_cli.pages.sheet import individual_sheet

    pixels = catalog.pixels(seen["crop"] for seen in shown["sightings"])
    pictures = [
        (pixels[seen["crop"]], " · ".join(str(seen[key]) for key in ("crop", "taken_at", "site", "flank") if seen[key]))
        for seen in shown["sightings"]
        if seen["crop"] in pixels
    ]
    if not pictures:
        raise CareError(f"No photo of {shown['individual']} has pixels in this catalog, so there is no sheet.")
    individual_sheet(shown["individual"], pictures, path)


def log(catalog: Catalog, individual: str | None = None) -> list[dict]:
    """The decisions, all or about one individual, oldest first; `note` says what was undone by what."""
    rows = catalog.history(catalog.find_individual(individual) if individual else None)
    undoing = {row["undoes"]: row["decision"] for row in rows if row["undoes"] and row["in_force"]}
    for row in rows:
        row["note"] = "" if row["in_force"] else f"undone by {undoing[row['decision']]}"
    return rows


def conflicts(catalog: Catalog) -> dict:
    """Entries that no longer apply, and entries that contradict each other."""
    return {"conflicts": _conflicts(catalog), "contradictions": _contradictions(catalog)}


def _conflicts(catalog: Catalog) -> list[dict]:
    return [{"decision": entry.id, "action": entry.action, "reason": reason} for entry, reason in catalog.replayed()[1]]


def _contradictions(catalog: Catalog) -> list[dict]:
    """Pairs that are said to differ and to be one, in words and numbers."""
    found = []
    for apart, merges in catalog.contradictions():
        one, other = (catalog.individual(id_).name for id_ in (apart.individual_id, apart.other_id))
        chain = ", ".join(str(entry.id) for entry in merges)
        text = (
            f"{one} and {other} are two animals by decision {apart.id} ({apart.action}), but one by {chain} (merge). "
            "Undo what is wrong: `care individuals undo NUMBER`."
        )
        found.append({"apart": apart.id, "merges": [entry.id for entry in merges], "text": text})
    return found


def _contradictions_with(catalog: Catalog, entry: Decision) -> list[dict]:
    return [one for one in _contradictions(catalog) if entry.id == one["apart"] or entry.id in one["merges"]]
