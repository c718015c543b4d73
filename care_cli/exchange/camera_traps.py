"""COCO Camera Traps (version 1.0) and plain COCO boxes: labels of photos, with boxes or without.

An annotation with a `bbox` (px) or `bbox_relative` (shares) is a box; one without is a label of its photo; one with
`sequence_level_annotation` is a label of the photo's sequence, whose box says nothing of the photo and is left out.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import partial
from itertools import islice
from pathlib import Path

from care_cli.catalog.shelf import Shelf
from care_cli.errors import CareError
from care_cli.exchange.dataset_table import wall_clock
from care_cli.exchange.json_streams import JsonFile
from care_cli.exchange.labels import Dropped, Source, Told, ToldBox, fault_of, is_text, numbers_of, short
from care_cli.words import meaning

PAGE = 2000  # records at a time


def open_file(path: Path, name: str) -> Source:
    """The labels of a file. CareError when it is damaged, or lacks images or categories."""
    document = JsonFile(path)
    document.check()
    if not any(True for _ in document.items("images.item")):
        raise CareError(f"{path} tells of no photo: COCO has a list `images` with an object for each.")
    return Source(path, name, document.digest, path.absolute().parent, partial(read, document))


def read(document: JsonFile, dropped: Dropped) -> Iterator[Told]:
    """The photos of a file, each with its annotations, wherever these stand."""
    with Shelf() as shelf:
        categories = dict(_categories(document, dropped))
        _shelve(document, shelf, categories, dropped)
        for page in _pages(document.items("images.item")):
            images = list(_images(page, shelf, dropped))
            found = shelf.take([key for key, _ in images])
            for key, image in images:
                if (told := _told(key, image, found.get(key, []), dropped)) is not None:
                    yield told
        if lost := shelf.put_count - shelf.taken_count:
            for key in shelf.never_met(1):
                dropped.add("its image_id leads to no image", f"annotations of image {key}", lost)


def _pages(items: Iterable) -> Iterator[list]:
    items = iter(items)
    while page := list(islice(items, PAGE)):
        yield page


def _categories(document: JsonFile, dropped: Dropped) -> Iterator[tuple[str, str]]:
    """Names by id."""
    listed = document.first("categories")
    for entry in listed if isinstance(listed, list) else []:
        number, name = (entry.get("id"), entry.get("name")) if isinstance(entry, dict) else (None, None)
        if _is_id(number) and is_text(name):
            yield str(number), name.strip()
        else:
            dropped.add("a category should have an id and a name", short(entry))


def _is_id(value: object) -> bool:
    return is_text(value) or (isinstance(value, int) and not isinstance(value, bool))


# -- annotations, shelved under their photos


def _shelve(document: JsonFile, shelf: Shelf, categories: dict[str, str], dropped: Dropped) -> None:
    for page in _pages(document.items("annotations.item")):
        shelf.put(pair for entry in page if (pair := _annotation(entry, categories, dropped)))


def _annotation(entry: object, categories: dict[str, str], dropped: Dropped) -> tuple[str, list] | None:
    """The photo's id, and label, whether it is of the sequence, box and whether that is in shares."""
    if not isinstance(entry, dict):
        dropped.add("an annotation should be an object", short(entry))
        return None
    place = f"annotation {short(entry.get('id'))}"
    if not _is_id(entry.get("image_id")):
        dropped.add("its image_id should be a number or text", f"{place}: {short(entry.get('image_id'))}")
        return None
    number = entry.get("category_id")
    label = categories.get(str(number)) if _is_id(number) else None
    if label is None:
        dropped.add("its category_id leads to no category", f"{place}: {short(number)}")
        return None
    of_sequence = entry.get("sequence_level_annotation") is True
    box, share = _box(entry, place, label, of_sequence, dropped)
    return str(entry["image_id"]), [label, of_sequence, box, share]


def _box(entry: dict, place: str, label: str, of_sequence: bool, dropped: Dropped) -> tuple[list | None, bool]:
    """The box, None where the annotation is a label alone, and whether it is in shares."""
    share = entry.get("bbox_relative") is not None
    value = entry["bbox_relative"] if share else entry.get("bbox")
    if value is None or value == []:
        return None, share
    box = numbers_of(value)
    if of_sequence:
        dropped.add("the box of a sequence says nothing of one photo; its label is kept", place, fault=False)
    elif meaning(label)[0] is None:
        dropped.add("a box is of nothing; its label is kept", f"{place}: {label}")
    elif entry.get("iscrowd"):
        dropped.add("its box is of a group (iscrowd); its label is kept", place, fault=False)
    elif fault := fault_of(box):
        dropped.add(f"{fault}; its label is kept", f"{place}: {short(value)}")
    else:
        return list(box), share
    return None, share


# -- images


def _images(page: list, shelf: Shelf, dropped: Dropped) -> Iterator[tuple[str, dict]]:
    """Those with an id of their own, by it."""
    usable = []
    for image in page:
        number = image.get("id") if isinstance(image, dict) else None
        if _is_id(number):
            usable.append((str(number), image))
        else:
            dropped.add("an image should be an object with an id", short(image))
    for (key, image), new in zip(usable, shelf.meet([key for key, _ in usable]), strict=True):
        if new:
            yield key, image
        else:
            dropped.add("its id was given before; the first one counts", f"image {key}")


def _told(key: str, image: dict, found: list[list], dropped: Dropped) -> Told | None:
    file = image.get("file_name")
    if not is_text(file):
        dropped.add("its file_name should be a path", f"image {key}: {short(file)}", 1 + len(found))
        return None
    boxes = []
    labels: dict[str, bool] = {}
    for label, of_sequence, box, share in found:
        if box is None:
            labels[label] = labels.get(label, True) and of_sequence
        else:
            boxes.append(ToldBox(tuple(box), share, label, *meaning(label)))
    if not found and is_text(image.get("species")):  # as in nz-trailcams
        labels[image["species"].strip()] = False
    size = image.get("width"), image.get("height")
    known = all(isinstance(side, int) and not isinstance(side, bool) and 0 < side < 1_000_000 for side in size)
    return Told(
        place=f"image {key}",
        file=file,
        boxes=tuple(boxes),
        labels=tuple(labels.items()),
        size=size if known else None,
        location=_word(image.get("location")),
        taken_at=_time(image.get("datetime"), key, dropped),
        sequence=_word(image.get("seq_id")),
    )


def _word(value: object) -> str | None:
    return str(value).strip() if _is_id(value) else None


def _time(value: object, key: str, dropped: Dropped) -> str | None:
    if value is None or value == "":
        return None
    try:
        return wall_clock(value)
    except (ValueError, TypeError):
        dropped.add("its datetime is no date; the photo is undated", f"image {key}: {short(value)}")
        return None
