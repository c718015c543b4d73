"""MegaDetector batch results of any version from 1.0 on, as MegaDetector, SpeciesNet, AddaxAI and ours write them.

What differs between versions is taken as it comes: `max_detection_conf` (until 1.2), ids of categories as numbers,
results without their tables of categories (then MegaDetector's own), `detections` missing where a photo failed. Of
SpeciesNet's names of classes, `id;class;order;family;genus;species;common name`, the last part that is filled counts.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

from care_cli.errors import CareError
from care_cli.exchange.json_streams import JsonFile
from care_cli.exchange.labels import Dropped, Source, Told, ToldBox, fault_of, is_text, numbers_of, short
from care_cli.exchange.megadetector import VIDEOS
from care_cli.thresholds import SPECIES, STORED
from care_cli.words import meaning

NEWEST = 2.0  # the first version that is not known here
CATEGORIES = {"1": "animal", "2": "person", "3": "vehicle"}  # MegaDetector's own


def open_file(path: Path, name: str) -> Source:
    """The results of a file. CareError when it is damaged, of a later version, or without a list of images."""
    document = JsonFile(path)
    document.check()
    info = document.first("info")
    info = info if isinstance(info, dict) else {}
    version = info.get("format_version")
    try:
        readable = version is None or float(version) < NEWEST
    except (TypeError, ValueError):
        readable = False
    if not readable:
        raise CareError(f"{path} is of format version {version!r}; MegaDetector results are read from 1.0 to 1.6.")
    if not document.has("images"):
        raise CareError(f"{path} holds no results: they are a list `images` with an object for each photo.")
    about = info.get("detector_metadata")
    shown = about.get("typical_detection_threshold") if isinstance(about, dict) else None
    shown = shown if isinstance(shown, float) and 0 <= shown <= 1 else None
    root = path.absolute().parent
    return Source(path, name, document.digest, root, partial(read, document), detections=True, shown=shown)


def read(document: JsonFile, dropped: Dropped) -> Iterator[Told]:
    """The photos of a file that its detector could look at."""
    categories = _names(document, "detection_categories", dropped) or CATEGORIES
    species = _names(document, "classification_categories", dropped)
    for number, image in enumerate(document.items("images.item")):
        file = image.get("file") if isinstance(image, dict) else None
        if not is_text(file):
            dropped.add("an image should be an object with a file", f"images[{number}]: {short(image)}")
        elif file.lower().endswith(VIDEOS):
            dropped.add("it is a video", file, fault=False)
        elif image.get("failure") is not None:
            dropped.add("its detector could not read it", f"{file}: {short(image['failure'])}", fault=False)
        elif not isinstance(image.get("detections"), list):
            dropped.add("its detections should be a list", f"{file}: {short(image.get('detections'))}")
        else:
            size = image.get("width"), image.get("height")
            known = all(isinstance(side, int) and not isinstance(side, bool) and 0 < side < 1_000_000 for side in size)
            boxes = tuple(
                box for entry in image["detections"] if (box := _box(entry, file, categories, species, dropped))
            )
            yield Told(f"images[{number}]", file, boxes, size=size if known else None)


def _names(document: JsonFile, table: str, dropped: Dropped) -> dict[str, str]:
    """A table of categories: names by id."""
    listed = document.first(table)
    if listed is None:
        return {}
    if not isinstance(listed, dict):
        dropped.add("a table of categories should be an object", f"{table}: {short(listed)}")
        return {}
    names = {}
    for key, name in listed.items():
        if is_text(name):
            names[key] = next((part.strip() for part in reversed(name.split(";")) if part.strip()), name)
        else:
            dropped.add("a category's name should be text", f"{table} {key}: {short(name)}")
    return names


def _box(entry: object, file: str, categories: dict, species: dict, dropped: Dropped) -> ToldBox | None:
    if not isinstance(entry, dict):
        dropped.add("a detection should be an object", f"{file}: {short(entry)}")
        return None
    confidence, number = entry.get("conf"), entry.get("category")
    label = categories.get(str(number)) if isinstance(number, str | int) else None
    box = numbers_of(entry.get("bbox"))
    if isinstance(confidence, bool) or not isinstance(confidence, int | float) or not 0 <= confidence <= 1:
        dropped.add("its conf should be a number from 0 to 1", f"{file}: {short(confidence)}")
    elif confidence < STORED:
        dropped.add(f"it is less confident than {STORED:g}", file, fault=False)
    elif label is None:
        dropped.add("its category is in no table", f"{file}: {short(number)}")
    elif meaning(label)[0] is None:
        dropped.add("it is of nothing", f"{file}: {label}", fault=False)
    elif fault := fault_of(box):
        dropped.add(fault, f"{file}: {short(entry.get('bbox'))}")
    else:
        category, own = meaning(label)
        if category == "animal":
            category, said = _classified(entry, file, species, dropped)
            own = said or own
        return ToldBox(box, True, label, category, own, float(confidence))
    return None


def _classified(entry: dict, file: str, species: dict[str, str], dropped: Dropped) -> tuple[str, str | None]:
    """Category and species of an animal by its likeliest classification; 'animal' and 'blank' name no species.

    A person is one however unsure, and a species no species when too unsure; where a detector tells species apart,
    its confidence is the box's, and says how sure it is of both.
    """
    pairs = entry.get("classifications")
    found = [
        (-pair[1], species[str(pair[0])])
        for pair in (pairs if isinstance(pairs, list) else [])
        if isinstance(pair, list) and len(pair) == 2 and str(pair[0]) in species and isinstance(pair[1], int | float)
    ]
    if not found:
        return "animal", None
    score, name = min(found)
    category, own = meaning(name)
    if own and -score < SPECIES and -score != entry["conf"]:
        reason = f"its species is less sure than {SPECIES:g}; it is an animal of unknown species"
        dropped.add(reason, f"{file}: {own} {-score:g}", fault=False)
        own = None
    return category or "animal", own
