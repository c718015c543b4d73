"""`care export yolo`: a training folder of a detector, by a recipe, or of the survey's boxes as they are."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from tqdm import tqdm

from care_cli.errors import CareError
from care_cli.exchange.yolo_export import Exported, YoloFolder
from care_cli.outputs import refuse_scanned
from care_cli.recipes import Recipe
from care_cli.recipes.selection import EMPTY, KEPT, Candidate, KnownBox, KnownPhoto, judge, parts, thin
from care_cli.records import Selection
from care_cli.stages.pipeline import batches
from care_cli.thresholds import PERSON

if TYPE_CHECKING:
    from care_cli.catalog import Catalog

PAGE = 2000  # images judged at once
BATCH = 256  # photos written at once
PEOPLE = "a person may be on it; --people writes such photos too"


@dataclass(frozen=True)
class YoloConfig:
    """What `care export yolo` was asked to do."""

    folder: Path
    recipe: Recipe | None = None  # None: the boxes that the lists show, as they are
    run: int | None = None  # a detect run other than the active one
    confidence: float | None = None  # without a recipe: instead of the model's shown threshold
    preset: str | None = None  # without a recipe: 'toolkit'
    people: bool = False  # without a recipe: photos of people too
    copy: bool = False  # no links
    overwrite: bool = False


@dataclass
class Plan:
    """The photos to be written, the names of their classes, and what was left out and why."""

    photos: list[Exported]
    names: list[str]
    left_out: Counter[str] = field(default_factory=Counter)


def run(catalog: Catalog, cfg: YoloConfig) -> dict:
    """Write the folder; returns how many photos and boxes each part and class has, and why others are left out.

    Raises CareError when the folder cannot be used, nothing was imported or detected, or a part stays empty.
    """
    refuse_scanned(cfg.folder, catalog.photo_folders())
    detect_run = catalog.active_run(cfg.run)
    if cfg.recipe is None and not detect_run and not catalog.crop_ids(Selection()):
        raise CareError("There are no boxes in this catalog. Run `care detect` or `care import labels` first.")
    settings = settings_of(catalog, cfg, detect_run)
    run_id = catalog.begin_run("export", settings, folder=str(cfg.folder))
    plan = by_recipe(catalog, cfg.recipe, detect_run) if cfg.recipe else as_they_are(catalog, cfg, detect_run)
    target = YoloFolder(cfg.folder, settings, cfg.overwrite, cfg.copy)
    with tqdm(total=len(plan.photos), unit="photo", desc="export", disable=None) as bar:
        for group in batches(plan.photos, BATCH):
            places = catalog.places([one.image_id for one in group])
            for one in group:
                target.add(one, places.get(one.image_id, []) if one.sha256 else [])
            bar.update(len(group))
    written = {row["sha256"] for row in target.photos}
    counts = counted([one for one in plan.photos if one.sha256 in written], plan)
    target.finish(plan.names, counts)
    catalog.finish_run(run_id)
    done = {"missing": len(target.missing), "linked": target.linked, "copied": target.copied, "foreign": target.foreign}
    return {"folder": str(cfg.folder), "run": run_id, **counts, **done}


def settings_of(catalog: Catalog, cfg: YoloConfig, detect_run: int) -> dict:
    """All that decides what is written, the boxes by the run that found them."""
    boxes = catalog.run(detect_run, "detect")["identity"] if detect_run else None
    if cfg.recipe:
        return {"format": "yolo", "recipe": cfg.recipe.settings(), "boxes": boxes}
    shown = catalog.shown_confidence(detect_run) if cfg.confidence is None else cfg.confidence
    how = {"confidence": shown, "preset": cfg.preset, "people": cfg.people}
    return {"format": "yolo", "recipe": None, "boxes": boxes, **how}


def counted(photos: Sequence[Exported], plan: Plan) -> dict:
    """Photos and boxes of what was written, and why others were not."""
    shown = [(number, one.part) for one in photos for number in {number for number, *_ in one.boxes}]
    of_class, of_part = Counter(number for number, _ in shown), Counter(shown)
    boxes = Counter(number for one in photos for number, *_ in one.boxes)
    in_parts = dict(sorted(Counter(one.part for one in photos).items()))
    return {
        "photos": len(photos),
        "parts": in_parts,
        "empty": sum(not one.boxes for one in photos),
        "by_class": [
            {"class": name, "photos": of_class[i], "boxes": boxes[i]} | {part: of_part[i, part] for part in in_parts}
            for i, name in enumerate(plan.names)
        ],
        "left_out": [
            {"reason": reason, "count": count}
            for reason, count in sorted(plan.left_out.items(), key=lambda item: (-item[1], item[0]))
        ],
    }


# -- by a recipe


def by_recipe(catalog: Catalog, recipe: Recipe, detect_run: int) -> Plan:
    """The photos that a recipe takes of all that is told of this catalog's images.

    Boxes that people drew and labels are those of all imports; a detector's boxes are those of one run, and those that
    were imported with a confidence.
    """
    left_out: Counter[str] = Counter()
    ids: list[int] = []
    candidates: list[Candidate] = []
    same: dict = {}  # one object for what many candidates have in common
    for row, photo in known_photos(catalog, detect_run, recipe, every_image(catalog)):
        verdict = judge(photo, recipe)
        if not verdict.taken:
            left_out[verdict.reason] += 1
            continue
        ids.append(row["id"])
        common = frozenset(number for number, *_ in verdict.boxes), photo.location, photo.camera or photo.location
        classes, location, camera = (same.setdefault(one, one) for one in common)
        candidates.append(Candidate(photo.key, classes, location, camera, photo.taken_at, photo.burst))
    reasons = thin(candidates, recipe)
    left_out.update(reason for reason in reasons if reason not in (KEPT, EMPTY))
    kept = [i for i, reason in enumerate(reasons) if reason in (KEPT, EMPTY)]
    if not kept:
        why = ", ".join(f"{reason}: {count}" for reason, count in left_out.most_common(5)) or "the catalog is empty"
        raise CareError(f"Recipe {recipe.name} takes none of the photos ({why}). Import labels and boxes first.")
    divided = parts([candidates[i] for i in kept], recipe)
    part_of = {ids[i]: part for i, part in zip(kept, divided, strict=True)}
    del candidates, ids, reasons  # there may be millions
    photos = [
        exported(row, part_of[row["id"]], judge(photo, recipe).boxes)
        for row, photo in known_photos(catalog, detect_run, recipe, batches(part_of, PAGE))
    ]
    photos.sort(key=lambda one: (one.part, one.source, one.sha256 or ""))
    return Plan(photos, recipe.names, left_out)


def every_image(catalog: Catalog) -> Iterator[list[int]]:
    """Ids of all images, page by page."""
    after = 0
    while ids := catalog.image_ids(after, PAGE):
        after = ids[-1]
        yield ids


def known_photos(
    catalog: Catalog, detect_run: int, recipe: Recipe, pages: Iterable[list[int]]
) -> Iterator[tuple[dict, KnownPhoto]]:
    """Images with what is told of them, page by page of their ids.

    A person's box counts whichever run found it, as surely as the recipe says, and whoever said it.
    """
    for ids in pages:
        looked, persons = catalog.dealt_with(detect_run, ids), catalog.people(ids, recipe.people)
        labels: dict[int, list] = {}
        for told in catalog.image_labels(ids):
            labels.setdefault(told["image"], []).append((told["label"], bool(told["of_sequence"])))
        boxes: dict[int, list] = {}
        for told in catalog.boxes_of(ids, detect_run):
            boxes.setdefault(told["image"], []).append(told)
        for row in catalog.told_images(ids):
            size = (row["width"], row["height"]) if row["width"] and row["height"] else None
            known = [known_box(box, size) for box in boxes.get(row["id"], ())]
            found = any(not box.given for box in known)  # by whatever detector
            known += [KnownBox(box, "person", 1.0) for box in persons.get(row["id"], ())]
            photo = KnownPhoto(
                key=row["path"] or row["sha256"],
                labels=tuple(labels.get(row["id"], ())),
                boxes=tuple(known),
                looked=found or row["id"] in looked,
                size=size,
                location=row["location"],
                camera=row["camera"],
                taken_at=row["taken_at"],
                burst=row["burst_id"],
                damaged=row["state"] in ("partial", "unreadable"),
            )
            yield row, photo


def known_box(row: dict, size: tuple[int, int] | None) -> KnownBox:
    """A box as shares of its photo's sides; those of a photo of unknown size are so already."""
    return KnownBox(shares(row, size), row["category"], row["confidence"], row["species"], bool(row["given"]))


def shares(row: dict, size: tuple[int, int] | None) -> tuple[float, float, float, float]:
    """A crop's box as shares of its photo's sides."""
    width, height = size or (1, 1)
    return row["x"] / width, row["y"] / height, row["w"] / width, row["h"] / height


def exported(row: dict, part: str, boxes: tuple) -> Exported:
    """An image's row with its boxes, to be written."""
    facts = {key: row[key] for key in ("location", "lighting", "taken_at", "sha256")}
    return Exported(row["id"], part, row["path"] or "", boxes=boxes, **facts)


# -- as they are


def as_they_are(catalog: Catalog, cfg: YoloConfig, detect_run: int) -> Plan:
    """The boxes that the lists show, all in the part 'train': classes are species, else categories.

    Photos that a detector has looked at and on which nothing is shown are empty ones.
    """
    selection = Selection(run=cfg.run, confidence=cfg.confidence, preset=cfg.preset)
    boxes: dict[int, list[dict]] = {}
    for row in catalog.crop_rows(selection):
        boxes.setdefault(row["image"], []).append(row)
    names = sorted({row["species"] or row["category"] for its in boxes.values() for row in its})
    left_out: Counter[str] = Counter()
    photos = []
    for ids in every_image(catalog):
        looked, persons = catalog.dealt_with(detect_run, ids), catalog.people(ids, PERSON)
        for row in catalog.told_images(ids):
            its = boxes.get(row["id"], [])
            if row["state"] == "unreadable":
                left_out["it cannot be read"] += 1
            elif not its and row["id"] not in looked:
                left_out["no detector has looked at it"] += 1
            elif not cfg.people and row["id"] in persons:
                left_out[PEOPLE] += 1
            else:
                size = (row["width"], row["height"]) if row["width"] else None
                told = tuple(
                    (names.index(one["species"] or one["category"]), shares(one, size), one["confidence"])
                    for one in its
                )
                photos.append(exported(row, "train", told))
    photos.sort(key=lambda one: (one.source, one.sha256 or ""))
    return Plan(photos, names, left_out)
