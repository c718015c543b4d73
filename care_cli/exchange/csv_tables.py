"""The survey as CSV tables for spreadsheets and R, with every column explained beside them."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from care_cli import __version__
from care_cli.errors import CareError
from care_cli.outputs import refuse_scanned, write_whole
from care_cli.records import Selection

if TYPE_CHECKING:
    from care_cli.catalog import Catalog

TITLE = "CARE survey tables"
README = "README.txt"

# file -> what a row is, and its columns with their meaning; the order is that of the files
TABLES: dict[str, tuple[str, dict[str, str]]] = {
    "images.csv": (
        "One photo, whatever it is called and however often it was copied.",
        {
            "image": "number of the photo in the catalog",
            "path": "file, relative to its source, with forward slashes",
            "source": "folder that was scanned, where it lay when last seen",
            "files": "how many files with these very bytes were seen",
            "sha256": "SHA-256 of the file's bytes",
            "bytes": "size of the file, bytes",
            "taken_at": "time of the photo with the deployment's clock shift applied, local, no zone; empty: undated",
            "captured_at": "time as the camera wrote it, local, no zone; empty: undated",
            "deployment": "a camera's stay at a site",
            "site": "name of the place",
            "burst": "number of the burst's first photo; empty: undated",
            "event": "number of the event's first photo; empty: undated",
            "state": "ok, partial (decoded as far as it goes), unreadable, or unseen (known from imports alone)",
            "failure": "why it is partial or unreadable",
            "animals": "animals shown in the photo, count",
            "persons": "people shown in the photo, count",
            "vehicles": "vehicles shown in the photo, count",
            "species": "species in the photo, separated by commas",
            "individuals": "names of the animals in the photo, separated by commas",
            "lighting": "day or infrared",
            "temperature_c": "temperature that the camera wrote, degrees Celsius",
            "width": "width of the upright photo, px",
            "height": "height of the upright photo, px",
            "orientation": "EXIF orientation of the file, 1 to 8; already applied to width, height and boxes",
            "make": "maker of the camera",
            "model": "model of the camera",
            "serial": "serial number of the camera",
            "latitude": "from the photo's EXIF, degrees, WGS 84, north positive",
            "longitude": "from the photo's EXIF, degrees, WGS 84, east positive",
        },
    ),
    "crops.csv": (
        "One animal, person or vehicle in one photo, as listings show them.",
        {
            "crop": "number of the crop in the catalog",
            "image": "number of its photo in images.csv",
            "path": "the photo's file, relative to its source",
            "taken_at": "time of the photo, as in images.csv",
            "deployment": "a camera's stay at a site",
            "site": "name of the place",
            "event": "number of the event's first photo",
            "category": "animal, person or vehicle, after decisions",
            "species": "species, after decisions; empty: not known",
            "individual": "name of the animal; empty: none yet",
            "flank": "left, right, front, back or unknown; empty: not said",
            "confidence": "of the detector, 0 to 1; 1 for imported boxes",
            "label": "class in the detector's own words",
            "run": "number of the run that found it",
            "x": "left edge of the box, px of the upright photo; a share of its width where that is not known yet",
            "y": "upper edge of the box, px of the upright photo",
            "w": "width of the box, px",
            "h": "height of the box, px",
            "rel_x": "left edge, as a share of the photo's width, 0 to 1",
            "rel_y": "upper edge, as a share of the photo's height, 0 to 1",
            "rel_w": "width, as a share of the photo's width, 0 to 1",
            "rel_h": "height, as a share of the photo's height, 0 to 1",
        },
    ),
    "individuals.csv": (
        "One named animal.",
        {
            "id": "number of the individual in the catalog",
            "individual": "name",
            "species": "species of its crops, separated by commas",
            "crops": "crops with this name, count",
            "events": "events in which it was seen, count",
            "sites": "sites (deployments where no site was given) at which it was seen, count",
            "first_seen": "earliest photo, local time, no zone",
            "last_seen": "latest photo, local time, no zone",
            "flanks": "flanks that were seen, separated by commas",
        },
    ),
    "decisions.csv": (
        "One entry of the log that all names, and everything set by hand, follow from. Nothing is ever removed.",
        {
            "decision": "number of the entry, in order of time",
            "at": "when it was decided, UTC",
            "who": "login of the person, or name of the model",
            "source": "human, model or import",
            "action": "create, name, unname, rename, merge, split, different, category, species, flank or undo",
            "crop": "crop that it is about",
            "individual": "individual that it is about, by today's name",
            "other": "merge: the survivor; split: the new individual; different: the other one",
            "value": "name, category, species or flank that was given",
            "crops": "split: numbers of the crops that leave, as a JSON list",
            "undoes": "undo: number of the entry that it takes back",
            "score": "similarity that it rested on, -1 to 1",
            "probability": "calibrated probability, 0 to 1; empty: none",
            "evidence": "what it rested on, as JSON",
            "in_force": "1, or 0 when a later undo takes it back",
        },
    ),
    "deployments.csv": (
        "One camera's stay at a site.",
        {
            "deployment": "name",
            "site": "name of the place",
            "latitude": "degrees, WGS 84, north positive",
            "longitude": "degrees, WGS 84, east positive",
            "clock_shift_s": "added to the camera's clock, seconds",
            "burst_gap_s": "a longer pause begins a new burst, seconds",
            "event_gap_s": "a longer pause begins a new event, seconds",
            "images": "photos, count, the undated ones included",
            "undated": "photos without a time, count; they are in no burst, event or day",
            "events": "events, count",
            "first_photo": "earliest photo, local time, no zone",
            "last_photo": "latest photo, local time, no zone",
            "days": "days from the first to the last photo, both included: the least that the camera was at work",
        },
    ),
}


def write(
    catalog: Catalog, folder: Path, *, run: int | None = None, preset: str | None = None, overwrite: bool = False
) -> dict:
    """Write the tables and their description into `folder`; returns how many rows each got.

    Boxes are those of detect run `run` (the active one when None) from its shown confidence upward, and all
    with a decision. Raises CareError when the folder holds files of others and `overwrite` is not asked for.
    """
    refuse_scanned(folder, catalog.scanned_folders())
    _check_folder(folder, overwrite)
    selection = Selection(run=run, preset=preset)
    images = _images(catalog, selection)
    rows = {
        "images.csv": images,
        "crops.csv": _crops(catalog, selection, images),
        "individuals.csv": catalog.individual_rows(),
        "decisions.csv": [{**row, "in_force": int(row["in_force"])} for row in catalog.history()],
        "deployments.csv": catalog.deployment_rows(),
    }
    counts = {name: len(found) for name, found in rows.items()}
    undated = sum(row["taken_at"] is None for row in images)
    for name, (_, columns) in TABLES.items():
        write_whole(folder / name, _text(rows[name], list(columns)))
    write_whole(folder / README, describe(counts, undated))
    return {"folder": str(folder), **{Path(name).stem: n for name, n in counts.items()}, "undated": undated}


def describe(counts: dict[str, int], undated: int) -> str:
    """The text of README.txt: every table, every column, its unit."""
    lines = [
        TITLE,
        "=" * len(TITLE),
        "",
        f"Written by CARE {__version__}. UTF-8, comma-separated, first row names the columns, empty is 'not known'.",
        "Boxes are in pixels of the upright photo: EXIF orientation applied, x to the right, y down, and the first",
        "pixel spans 0 to 1. Times of photos are the camera's own wall clock. Of people only the box is kept.",
        "Names stand as they were given, so that tables can be joined by them; a spreadsheet may take one that begins",
        "with =, +, - or @ for a formula: let it import these columns as text.",
        f"{undated} of {counts['images.csv']} photos are undated; they are listed, and left out of all that has dates.",
        "",
    ]
    for name, (meaning, columns) in TABLES.items():
        width = max(map(len, columns))
        lines += [f"{name} ({counts[name]} rows)", f"  {meaning}", ""]
        lines += [f"  {column.ljust(width)}  {text}" for column, text in columns.items()] + [""]
    return "\n".join(lines)


def _check_folder(folder: Path, overwrite: bool) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        present = {path.name for path in folder.iterdir()}
    except OSError as error:
        raise CareError(f"{folder} cannot be used as a folder for tables: {error.strerror or error}.") from error
    ours = {*TABLES, README}
    foreign = sorted(present - ours - {f"{name}.part" for name in ours})
    readme = folder / README
    if README in present and not readme.read_text("utf-8", "replace").startswith(TITLE):
        foreign.insert(0, README)
    if foreign and not overwrite:
        raise CareError(
            f"{folder} holds files that this export did not write ({', '.join(foreign[:3])}"
            f"{', ...' if len(foreign) > 3 else ''}). Name an empty folder, or add --overwrite."
        )


def _images(catalog: Catalog, selection: Selection) -> list[dict]:
    facts = catalog.image_facts()
    return [{**row, **facts[row["image"]]} for row in catalog.image_rows(selection)]


def _crops(catalog: Catalog, selection: Selection, images: Sequence[dict]) -> list[dict]:
    sizes = {row["image"]: (row["width"] or 1, row["height"] or 1) for row in images}  # of unknown size: shares
    rows = []
    for row in catalog.crop_rows(selection):
        width, height = sizes[row["image"]]
        relative = {"rel_x": row["x"] / width, "rel_y": row["y"] / height,
                    "rel_w": row["w"] / width, "rel_h": row["h"] / height}  # fmt: skip
        pixels = {name: round(row[name], 2) for name in "xywh"}
        rows.append({**row, **pixels, **{name: round(value, 6) for name, value in relative.items()}})
    return rows


def _text(rows: Sequence[dict], columns: list[str]) -> str:
    stream = io.StringIO()
    writer = csv.DictWriter(stream, columns, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return stream.getvalue()
