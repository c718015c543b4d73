"""`care evaluate detector`: how well a detector finds and names what is on photos of a part of a training folder.

Recall, precision, false alarms and confusions are of what `care detect` shows: boxes from the model's shown threshold,
after suppression and the merging of boxes within a category. mAP is of all boxes of the network, as others count it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from tqdm import tqdm

from care_cli import registry
from care_cli.errors import CareError
from care_cli.evaluation import detection
from care_cli.evaluation.detection import Boxes, Looked
from care_cli.images import read_photo
from care_cli.records import Detection, ModelSpec
from care_cli.splits import PARTS
from care_cli.stages import detect, trained
from care_cli.stages.evaluation_data import header_of, training_of
from care_cli.stages.photos import least_side
from care_cli.stages.pipeline import ahead, batches
from care_cli.thresholds import STORED

if TYPE_CHECKING:
    from care_cli.catalog import Catalog
    from care_cli.detectors import Detector
    from care_cli.training.labelled_photos import LabelledFolder, LabelledPhoto

LEAST = 0.001  # confidence of boxes that average precision looks at, as Ultralytics has it
NAMED = 5  # in a sentence
ON_ITS_WAY = 4  # batches of photos that are read ahead


@dataclass(frozen=True)
class EvaluateConfig:
    """What `care evaluate detector` was asked to do."""

    model: str  # a name or a file
    data: Path | None = None  # a training folder; None: that which the model was trained with here
    part: str | None = None  # train, val or test; None: test where there is one, else val
    known_places: bool = False  # places that the model has learned from may be among those that are examined
    image_size: int | None = None  # px
    device: str = "cpu"
    engine: str = "auto"
    precision: str = "auto"


@dataclass(frozen=True, eq=False)
class Examination:
    """The figures, and what they were made of: the photos of the part, and what the detector said about each."""

    result: dict[str, Any]
    photos: Sequence[LabelledPhoto]
    looked: Sequence[Looked]
    names: Sequence[str]
    people: frozenset[int]  # numbers of classes that are persons


def run(catalog: Catalog | None, cfg: EvaluateConfig, notice: Callable[[str], None]) -> Examination:
    """Examine a model on a part of a training folder.

    Raises CareError when there is no such model or folder, when they share no class, and when the model has learned
    from places of the part, unless `known_places` says so.
    """
    from care_cli.training.labelled_photos import read_folder

    if cfg.part is not None and cfg.part not in PARTS:
        raise CareError(f"--part is one of {', '.join(PARTS)}, but got {cfg.part!r}.")
    spec = trained.find(catalog, cfg.model, task="detector")
    folder = cfg.data or _folder_of(catalog, spec)
    notes = trained.notes_of(registry.fetch(spec).parent, folder)  # beside a model that was trained with the folder
    kept = notes if notes.is_file() else None
    data = read_folder(folder, parts=[cfg.part or "test"], notes=kept)
    if cfg.part is None and not data.photos("test"):
        data = read_folder(folder, parts=["val"], notes=kept)
    return examine(spec, data, cfg, notice)


def _folder_of(catalog: Catalog | None, spec: ModelSpec) -> Path:
    """The folder that a model was trained with, where this catalog knows it and it is still there."""
    digest = registry.model_sha256(spec)
    for row in catalog.trained_models() if catalog else ():
        if row["sha256"] == digest:
            folders = [one["data"] for one in json.loads(row["executions"]) if "data" in one]
            if folders and Path(folders[-1]).is_dir():
                return Path(folders[-1])
    raise CareError(f"It is not known here what {spec.name} was trained with: name a folder with --data.")


def examine(spec: ModelSpec, data: LabelledFolder, cfg: EvaluateConfig, notice: Callable[[str], None]) -> Examination:
    """Examine a model on a folder that was read; `cfg.part` as for `run`."""
    part = cfg.part or ("test" if data.photos("test") else "val")
    photos = data.photos(part)
    if not photos:
        raise CareError(f"The part {part} of {data.folder} holds no photo that can be used.")
    remarks = _honest(spec, data, part, cfg.known_places)
    detector = detect.load(spec, cfg.device, cfg.image_size, cfg.engine, cfg.precision, notice, LEAST)
    known = list(detector.names.values())
    if not set(known) & set(data.names):
        raise CareError(
            f"{spec.name} knows none of the classes of {data.folder} ({', '.join(data.names[:NAMED])}); it knows "
            f"{', '.join(known[:NAMED])}."
        )
    names = [*data.names, *(name for name in known if name not in data.names)]
    with tqdm(total=len(photos), unit="photo", desc=f"examine {part}", disable=None) as bar:
        looked = look(detector, photos, names, bar.update)
    classes = detector.spec.classes
    result = {
        "model": spec.name,
        "sha256": detector.spec.sha256,
        "shown_from": detector.spec.shown,
        "input_size": detector.image_size,
        "engine": detector.engine,
        "precision_of_numbers": detector.precision,
        "data": str(data.folder),
        "part": part,
        "digest": data.digest(part),
        "locations": len(data.locations(part)) if data.located else None,
        "remarks": remarks,
        "left_out": [fault for fault in data.faults if fault["file"].startswith((f"{part}/", f"labels/{part}/"))],
        **detection.measured(looked, names),
    }
    people = frozenset(i for i, name in enumerate(names) if classes.get(name, {}).get("category") == "person")
    return Examination(result, photos, looked, names, people)


def _honest(spec: ModelSpec, data: LabelledFolder, part: str, known_places: bool) -> list[str]:
    """What could flatter the figures. CareError when the model has learned from places that would be examined."""
    training = training_of(header_of(spec))
    learned, remarks = places_of(training), []
    digests = training.get("data") if isinstance(training.get("data"), dict) else {}
    if known := sorted(data.locations(part) & learned):
        remarks.append(
            f"{spec.name} has learned from {len(known)} of these {len(data.locations(part))} places "
            f"({', '.join(known[:NAMED])}): the figures flatter it."
        )
    elif data.digest(part) == digests.get("train"):
        remarks.append(f"{spec.name} has learned from these very photos: the figures flatter it.")
    if remarks and not known_places:
        raise CareError(f"{remarks[0]} Name another part or folder, or say --known-places to examine it all the same.")
    if data.digest(part) == digests.get("val"):
        remarks.append("The best epoch was chosen on these very photos: the figures flatter it a little.")
    if not data.located:
        remarks.append("It is not known where these photos were taken, so not whether the model knows these places.")
    elif not learned:
        remarks.append(f"{spec.name} does not say where it has learned, so not whether it knows these places.")
    return remarks


def places_of(training: dict[str, Any]) -> set[str]:
    """Where the photos were taken that a model has learned from, by what its header says of the training."""
    places = training.get("locations")
    return {place for place in places if isinstance(place, str)} if isinstance(places, list) else set()


def look(
    detector: Detector,
    photos: Sequence[LabelledPhoto],
    names: Sequence[str],
    report: Callable[[int], Any] = lambda photos: None,
) -> list[Looked]:
    """What a detector, loaded with confidence LEAST, finds in each photo, and what of it is shown."""
    from care_cli.detectors import settle

    numbers = {name: number for number, name in enumerate(names)}
    least = least_side(detector.image_size, "reduced")

    def prepared(photo: LabelledPhoto) -> Any:
        try:
            reading = read_photo(photo.file, least)
        except OSError as error:
            raise CareError(f"{photo.file} can no longer be read: {error.strerror or error}.") from error
        if reading.picture is None:
            raise CareError(f"{photo.file} has changed and can no longer be read: {reading.photo.failure}.")
        return detector.prepare(reading.pixels, reading.scale)

    found: list[list[Detection]] = []
    for group in batches(ahead(prepared, photos, depth=ON_ITS_WAY * detector.batch), detector.batch):
        found += detector.detect_prepared(group)
        report(len(group))
    shown = (settle([one for one in boxes if one.confidence > STORED]) for boxes in found)
    shown = ([one for one in boxes if one.confidence >= detector.spec.shown] for boxes in shown)
    return [
        Looked(
            photo.lighting,
            Boxes(photo.corners, photo.classes, np.ones(len(photo.classes))),
            _boxes(all_of_them, numbers),
            _boxes(seen, numbers),
        )
        for photo, all_of_them, seen in zip(photos, found, shown, strict=True)
    ]


def _boxes(detections: Sequence[Detection], numbers: dict[str, int]) -> Boxes:
    return Boxes(
        np.array([one.box for one in detections], float).reshape(-1, 4),
        np.array([numbers[one.label] for one in detections], np.int64),
        np.array([one.confidence for one in detections], float),
    )
