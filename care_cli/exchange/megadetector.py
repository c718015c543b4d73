"""MegaDetector batch results, format 1.6: what Timelapse and its kin read.

One file holds one scanned folder, for the format's paths are relative to where it lies: put it into that folder
and Timelapse finds the photos. A photo that was copied to two folders appears in both files.
"""

from __future__ import annotations

import json
import math
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from care_cli.errors import CareError
from care_cli.outputs import refuse_scanned, write_whole
from care_cli.records import CATEGORIES, Selection
from care_cli.thresholds import STORED

if TYPE_CHECKING:
    from care_cli.catalog import Catalog

FORMAT_VERSION = "1.6"
OLDEST_VERSION = 1.3  # which fields stand since
CATEGORY_IDS = {name: str(number) for number, name in enumerate(CATEGORIES, start=1)}  # "0" means empty
VIDEOS = (".mp4", ".avi", ".mov", ".mpg", ".mpeg", ".mkv", ".m4v", ".wmv", ".asf", ".flv")
ROUNDING = 0.0011  # a box of rounded numbers may reach this much beyond the photo


def write(
    catalog: Catalog,
    path: Path,
    *,
    source: int | None = None,
    run: int | None = None,
    preset: str | None = None,
    overwrite: bool = False,
) -> dict:
    """Write a detect run (the active one when None) as one file for each source, or for `source` only.

    With one source the file is `path`, with several each gets the source's number behind its name. Holds all
    stored detections, not only the shown ones; crops with a decision stand for those that they cover. Photos
    that the run has not dealt with are left out. Returns a summary. Raises CareError when there is no detect
    run, no such source, or a file that `overwrite` does not allow to replace.
    """
    run_id = catalog.active_run(run)
    if not run_id:
        raise CareError("Nothing was detected in this catalog yet. Run `care detect FOLDER` first.")
    sources = catalog.sources_of_run(run_id)
    if source is not None:
        chosen = [row for row in sources if row["id"] == source]
        if not chosen:
            known = ", ".join(f"{row['id']} ({row['location']})" for row in sources)
            raise CareError(f"Detect run {run_id} has no source {source}; it has: {known or 'none'}.")
        sources = chosen
    refuse_scanned(path, catalog.scanned_folders())
    targets = {row["id"]: _target(path, row["id"], len(sources)) for row in sources}
    for target in targets.values():
        if target.exists() and not overwrite:
            raise CareError(f"{target} exists already. Name another file, or add --overwrite.")
    boxes: dict[int, list[dict]] = {}
    for row in catalog.crop_rows(Selection(run=run_id, confidence=0.0, preset=preset)):
        boxes.setdefault(row["image"], []).append(row)
    info, classes = _info(catalog, run_id)
    written = []
    for row in sources:
        document = build(info, classes, catalog.files_of_run(row["id"], run_id), boxes)
        write_whole(targets[row["id"]], json.dumps(document, indent=1, ensure_ascii=True) + "\n")
        failed = sum("failure" in image for image in document["images"])
        written.append(
            {"file": str(targets[row["id"]]), "source": row["location"], "images": len(document["images"]),
             "failed": failed}
        )  # fmt: skip
    return {"run": run_id, "files": written}


def build(info: dict, classes: dict[str, dict], files: list[dict], boxes: dict[int, list[dict]]) -> dict:
    """One document of the format. `files` as `Catalog.files_of_run`, `boxes` as `Catalog.crop_rows`, by image.

    `classes` are the detector's classes: the species that one of them names has the detection's own
    confidence, a species that a person gave has 1.
    """
    here = [box for file in files for box in boxes.get(file["image"], []) if file["failure"] is None]
    names = sorted({box["species"] for box in here if box["species"] and box["category"] == "animal"})
    species_ids = {name: str(number) for number, name in enumerate(names, start=1)}
    document: dict[str, Any] = {
        "info": info,
        "detection_categories": {number: name for name, number in CATEGORY_IDS.items()},
    }
    if species_ids:
        document["classification_categories"] = {number: name for name, number in species_ids.items()}
    document["images"] = [
        {"file": file["path"], "failure": file["failure"], "detections": None}
        if file["failure"] is not None
        else {"file": file["path"], "detections": _detections(file, boxes.get(file["image"], []), classes, species_ids)}
        for file in files
    ]
    return document


def _detections(file: dict, boxes: list[dict], classes: dict, species_ids: dict[str, str]) -> list[dict]:
    """Detections of one photo, the most confident first."""
    found = []
    for box in sorted(boxes, key=lambda box: -box["confidence"]):
        confidence = round(float(box["confidence"]), 3)
        left, width = _span(box["x"], box["w"], file["width"] or 1)
        top, height = _span(box["y"], box["h"], file["height"] or 1)
        detection = {"category": CATEGORY_IDS[box["category"]], "conf": confidence, "bbox": [left, top, width, height]}
        if box["category"] == "animal" and box["species"]:
            by_model = classes.get(box["label"], {}).get("species") == box["species"]
            detection["classifications"] = [[species_ids[box["species"]], confidence if by_model else 1.0]]
        found.append(detection)
    return found


def _span(start: float, length: float, size: int) -> tuple[float, float]:
    """Start and length as shares of `size`, four decimals, inside 0 to 1."""
    low = round(min(max(start / size, 0.0), 0.9999), 4)
    high = round(min((start + length) / size, 1.0), 4)
    return low, round(max(high - low, 0.0001), 4)


def _info(catalog: Catalog, run_id: int) -> tuple[dict, dict[str, dict]]:
    """The document's heading, and the classes of the run's detector."""
    run = catalog.run(run_id, "detect")
    spec = json.loads(run["spec"] or "{}")
    weights = PurePosixPath((spec.get("url") or spec.get("file") or "").replace("\\", "/")).name
    info: dict[str, Any] = {"format_version": FORMAT_VERSION, "detector": weights or run["model"] or "unknown"}
    if run["finished_at"]:
        info["detection_completion_time"] = run["finished_at"][:19].replace("T", " ")
    info["detector_metadata"] = {
        "typical_detection_threshold": catalog.shown_confidence(run_id),
        "conservative_detection_threshold": STORED,
    }
    return info, spec.get("classes") or {}


def _target(path: Path, source_id: int, sources: int) -> Path:
    return path if sources == 1 else path.with_name(f"{path.stem}-{source_id}{path.suffix}")


# -- reading what others wrote


def validate(document: object) -> list[str]:
    """Where a document breaks the format, in words; empty when it keeps all its rules (1.3 to 1.6)."""
    if not isinstance(document, dict):
        return [f"the document should be an object, but is a {type(document).__name__}"]
    problems = _info_problems(document.get("info"))
    detection_ids = _category_problems(document.get("detection_categories"), "detection_categories", problems)
    if detection_ids and document["detection_categories"].get("0", "empty") != "empty":
        problems.append("detection_categories: '0' is kept for empty photos, but names something else")
    species_ids: set[str] = set()
    if "classification_categories" in document:
        species_ids = _category_problems(
            document["classification_categories"], "classification_categories", problems
        )  # fmt: skip
    described = document.get("classification_category_descriptions")
    if described is not None and (not isinstance(described, dict) or set(described) != species_ids):
        problems.append("classification_category_descriptions should have the ids of classification_categories")
    images = document.get("images")
    if not isinstance(images, list):
        return [*problems, "images should be a list"]
    for number, image in enumerate(images):
        problems += _image_problems(image, f"images[{number}]", detection_ids, species_ids)
    return problems


def _info_problems(info: object) -> list[str]:
    if not isinstance(info, dict):
        return ["info should be an object"]
    version = info.get("format_version")
    try:
        readable = isinstance(version, str) and float(version) >= OLDEST_VERSION
    except ValueError:
        readable = False
    if readable:
        return []
    return [f"info.format_version should be a number of at least {OLDEST_VERSION} in quotes, but is {version!r}"]


def _category_problems(categories: object, name: str, problems: list[str]) -> set[str]:
    """The ids of a table of categories; what is wrong with it goes to `problems`."""
    if not isinstance(categories, dict):
        problems.append(f"{name} should be an object")
        return set()
    for key, value in categories.items():
        if not _is_id(key):
            problems.append(f"{name}: the id {key!r} should be a whole number in quotes, not negative")
        if not isinstance(value, str) or not value.strip():
            problems.append(f"{name}: the name of {key!r} should be text, but is {value!r}")
    return set(categories)


def _image_problems(image: object, place: str, detection_ids: set[str], species_ids: set[str]) -> list[str]:
    if not isinstance(image, dict) or not isinstance(image.get("file"), str) or not image["file"]:
        return [f"{place} should be an object with a file"]
    place = f"{place} {image['file']}"
    problems = [f"{place}: max_detection_conf is gone since 1.3"] if "max_detection_conf" in image else []
    failure, detections = image.get("failure"), image.get("detections")
    if failure is not None:
        if not isinstance(failure, str):
            problems.append(f"{place}: failure should be text, but is {failure!r}")
        if detections is not None:
            problems.append(f"{place}: a photo that failed has detections null, but they are {detections!r}")
        return problems
    if not isinstance(detections, list):
        return [*problems, f"{place}: detections should be a list (empty when nothing was found), is {detections!r}"]
    video = image["file"].lower().endswith(VIDEOS)
    if video:
        problems += _video_problems(image, place)
    for number, detection in enumerate(detections):
        spot = f"{place} detections[{number}]"
        if not isinstance(detection, dict):
            problems.append(f"{spot} should be an object")
            continue
        problems += _detection_problems(detection, spot, detection_ids, species_ids)
        if video and (not _is_whole(detection.get("frame_number")) or detection["frame_number"] < 0):
            problems.append(f"{spot}: frame_number should be a whole number")
    return problems


def _video_problems(image: dict, place: str) -> list[str]:
    problems = []
    if not _is_number(image.get("frame_rate")) or image["frame_rate"] <= 0:
        problems.append(f"{place}: a video has a frame_rate above 0")
    frames = image.get("frames_processed")
    if not isinstance(frames, list) or not all(map(_is_whole, frames)):
        problems.append(f"{place}: a video has frames_processed, a list of whole numbers")
    return problems


def _detection_problems(detection: dict, place: str, detection_ids: set[str], species_ids: set[str]) -> list[str]:
    problems = []
    category = detection.get("category")
    if not isinstance(category, str) or category not in detection_ids:
        problems.append(f"{place}: category should be an id of detection_categories, but is {category!r}")
    confidence = detection.get("conf")
    if not isinstance(confidence, float) or not 0 <= confidence <= 1:
        problems.append(f"{place}: conf should be a decimal number from 0 to 1, but is {confidence!r}")
    box = detection.get("bbox")
    if not isinstance(box, list) or len(box) != 4 or not all(map(_is_number, box)):
        problems.append(f"{place}: bbox should be [x_min, y_min, width, height], but is {box!r}")
    elif min(box) < 0 or max(box[0] + box[2], box[1] + box[3]) > 1 + ROUNDING:
        problems.append(f"{place}: bbox should be shares of the photo, inside 0 to 1, but is {box!r}")
    if detection.get("classifications") is not None:
        problems += _classification_problems(detection["classifications"], place, species_ids)
    return problems


def _classification_problems(classifications: object, place: str, species_ids: set[str]) -> list[str]:
    if not isinstance(classifications, list):
        return [f"{place}: classifications should be a list"]
    scores = []
    for pair in classifications:
        if not isinstance(pair, list) or len(pair) != 2 or pair[0] not in species_ids or not _is_number(pair[1]):
            return [f"{place}: a classification is [id of classification_categories, confidence], but is {pair!r}"]
        scores.append(pair[1])
    return [] if scores == sorted(scores, reverse=True) else [f"{place}: classifications should fall in confidence"]


def _is_id(value: object) -> bool:
    return isinstance(value, str) and value.isascii() and value.isdigit()


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
