"""`care train --method detector`: a detector from a folder of labelled photos."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from care_cli import registry
from care_cli.checkpoints import read_header
from care_cli.errors import CareError
from care_cli.headers import check_name
from care_cli.outputs import lies_in
from care_cli.recipes import Recipe
from care_cli.records import ModelSpec
from care_cli.stages import export_yolo, train_settings, trained
from care_cli.stages.detector_card import card
from care_cli.stages.evaluate_detector import EvaluateConfig, Examination, examine, places_of
from care_cli.stages.evaluation_data import header_of, training_of
from care_cli.stages.train_settings import NOTHING
from care_cli.yolo import build_graph, load_model, save_detector

if TYPE_CHECKING:
    from torch import nn

    from care_cli.catalog import Catalog
    from care_cli.training.detector import DetectorConfig, TrainedDetector
    from care_cli.training.labelled_photos import LabelledFolder

LICENCE = "AGPL-3.0-or-later"  # of Ultralytics' trainer and graphs, and so of what comes of them
ARCHITECTURE, ON_A_CARD = "yolo11n", "yolo11m"
NAMED = 5  # in a sentence


@dataclass(frozen=True)
class DetectorRequest:
    """What `care train --method detector` was asked to do."""

    data: Path | None = None  # the training folder; None: `recipe` makes one of the catalog's photos
    recipe: Recipe | None = None
    name: str | None = None  # of the model; None: detector-RUN. With several seeds -SEED is added
    backbone: str | None = None  # yolo11n to yolo11x; None: that of the weights, else yolo11m on a card, yolo11n here
    weights: str | None = None  # to begin from: a detector's name or a file; None: the backbone's; "none": from scratch
    seeds: tuple[int, ...] = (0,)  # a model each
    folder: Path | None = None  # of the models; None: beside the catalog, CATALOG.models
    device: str = "cpu"
    workers: int = 8  # processes that make photos ready for a CUDA card
    known_places: bool = False  # the parts may share places
    settings: dict[str, Any] = field(default_factory=dict)  # of DetectorConfig


def run(catalog: Catalog, request: DetectorRequest) -> dict:
    """Train a detector for each seed and examine it; returns the summary.

    A training that was interrupted goes on, one that is finished stands. Raises CareError when there is nothing to
    learn from, a setting cannot be, the weights to begin from do not fit, or the parts share places.
    """
    from care_cli.training.labelled_photos import read_folder

    if request.name is not None:
        check_name("--name", request.name)
    settings_of(request, None, None)  # what cannot be is refused before weights are looked for
    spec = pretrained(catalog, request)
    start = load_model(registry.fetch(spec), header_of(spec) or None) if spec else None
    cfg = settings_of(request, spec, start)
    folder = trained.folder_of(catalog, request.folder)
    photos, missing = training_folder(catalog, request, folder)
    data = read_folder(photos, notes=trained.notes_of(trained.made(folder), photos))
    training = Training(catalog, request, data, cfg, spec, start, folder, missing)
    return {
        "method": "detector",
        "backbone": cfg.architecture,
        "begun_from": spec.name if spec else None,
        "data": str(data.folder),
        "classes": list(data.names),
        "parts": data.summary(),
        "without_examples": training.without_examples,
        "remarks": training.remarks,
        "left_out": list(data.faults),
        "missing": missing,
        "models": [training.model(seed) for seed in request.seeds],
    }


def pretrained(catalog: Catalog, request: DetectorRequest) -> ModelSpec | None:
    """The weights to begin from, by default those of the backbone; None: from scratch. CareError when they are not
    here, or not those of a detector."""
    if request.weights == NOTHING:
        return None
    spec = trained.find(catalog, request.weights or request.backbone or usual_backbone(request.device), task="detector")
    try:
        registry.fetch(spec)
    except CareError as error:
        raise CareError(f"{error} Or learn from scratch: --weights {NOTHING}.") from error
    return spec


def usual_backbone(device: str) -> str:
    """The YOLO11 that is taken unless another is named: the middle one on a card, else the smallest."""
    return ARCHITECTURE if device == "cpu" else ON_A_CARD


def training_folder(catalog: Catalog, request: DetectorRequest, models: Path) -> tuple[Path, int]:
    """The labelled photos that are learned from, and how many more the recipe takes whose originals are missing.

    A recipe's photos are written beside the models, anew where they differ. CareError when there are none, and when the
    models' folder lies among them.
    """
    if request.data is None and request.recipe is not None:
        folder = trained.made(models) / f"{request.recipe.name}.photos"
        done = export_yolo.run(catalog, export_yolo.YoloConfig(folder, request.recipe, overwrite=True))
        for reason in done["left_out"]:
            catalog.notice(f"Left out by the recipe: {reason['count']} photos, {reason['reason']}.")
        return folder, done["missing"]
    if request.data is None or request.recipe is not None:
        raise CareError(
            "A detector learns from a folder of labelled photos: name it with --data, or a recipe with --recipe."
        )
    if lies_in(models, request.data):
        raise CareError(f"{models} lies in {request.data}, to which nothing is written. Name another with --out.")
    return request.data, 0


def overrides(texts: Iterable[str]) -> dict[str, Any]:
    """Settings of a detector from `NAME=VALUE` texts, as `train_settings.overrides` reads them."""
    from care_cli.training.detector import DetectorConfig

    return train_settings.overrides(texts, DetectorConfig())


def settings_of(request: DetectorRequest, spec: ModelSpec | None, start: nn.Module | None) -> DetectorConfig:
    """The training's settings, the seed apart. CareError for values and an architecture that cannot be."""
    import torch

    from care_cli.training import precision
    from care_cli.training.detector import DetectorConfig, check_fits

    named = request.backbone or (_architecture(spec, start) if spec else usual_backbone(request.device))
    given = {"architecture": named, **request.settings}
    build_graph(given["architecture"], ["animal"])  # refused before anything is begun
    if start is not None:
        check_fits(start, given["architecture"])
    cfg = DetectorConfig(**given)
    return replace(cfg, precision=precision.resolve(cfg.precision, torch.device(request.device)))


def _architecture(spec: ModelSpec, start: nn.Module | None) -> str:
    """That of the weights to begin from, as their header or Ultralytics' own note says it."""
    noted = Path(str(getattr(start, "yaml", {}).get("yaml_file", ""))).stem.removesuffix("-seg")
    return spec.architecture or noted or ARCHITECTURE


class Training:
    """One training of one or several seeds: what they have in common is looked at once."""

    def __init__(
        self,
        catalog: Catalog,
        request: DetectorRequest,
        data: LabelledFolder,
        cfg: DetectorConfig,
        spec: ModelSpec | None,
        start: nn.Module | None,
        folder: Path,
        missing: int = 0,
    ):
        from care_cli.training.detector import check_learnable, without_examples

        self.catalog, self.request, self.data, self.cfg = catalog, request, data, cfg
        self.spec, self.start, self.folder, self.missing = spec, start, folder, missing
        check_learnable(data)
        before = training_of(header_of(spec)) if spec else {}
        self.places = data.locations("train") | places_of(before)
        self.without_examples = without_examples(data, "train")
        self.remarks = self._remarks()
        for remark in (self._plan(), *self.remarks):
            catalog.notice(remark)

    def _remarks(self) -> list[str]:
        """What a user should know of the data. CareError when examined places would be learned from."""
        data, remarks = self.data, []
        learned = {photo.sha256 for photo in data.photos("train")}
        for part in ("val", "test"):
            known = sorted(data.locations(part) & self.places)
            same = [photo.name for photo in data.photos(part) if photo.sha256 in learned]
            if known or same:
                what, some = ("places", known) if known else ("photos", same)
                remarks.append(
                    f"{len(some)} {what} of the part {part} are learned from too ({', '.join(some[:NAMED])}), so its "
                    "figures flatter."
                )
        if remarks and not self.request.known_places:
            raise CareError(
                f"{remarks[0]} Divide the photos by where they were taken, as `care export yolo` does, or say "
                "--known-places to train all the same."
            )
        if not data.located:
            remarks.append(
                f"There is no photos.csv in {data.folder}: it is not known where photos were taken, so not whether "
                "the parts share places."
            )
        if self.missing:
            remarks.append(
                f"The originals of {self.missing} more photos that the recipe takes are missing: missing.csv in "
                f"{data.folder} lists them."
            )
        if self.without_examples:
            remarks.append(f"Nothing to learn from for: {', '.join(self.without_examples)}.")
        if not data.photos("test"):
            remarks.append("There is no part test: the model is examined on val, by which its best epoch is chosen.")
        return remarks

    def _plan(self) -> str:
        """What is about to be done."""
        train, val, test = self.data.summary()
        begun = f"from the weights of {self.spec.name}" if self.spec else "from scratch"
        places = f" at {train['locations']} places" if self.data.located else ""
        return (
            f"{self.cfg.architecture} at {self.cfg.input_size} px learns {len(self.data.names)} classes {begun}: "
            f"{train['boxes']} boxes on {train['photos']} photos, {train['empty']} of them empty{places}; "
            f"{val['photos']} photos choose the best of {self.cfg.epochs} epochs, {test['photos']} examine it."
        )

    def model(self, seed: int) -> dict[str, Any]:
        """Train the model of a seed, or find that it is trained already."""
        cfg = replace(self.cfg, seed=seed)
        settings = {
            "method": "detector",
            "settings": asdict(cfg),
            "classes": list(self.data.names),
            "data": {part: self.data.digest(part) for part in ("train", "val", "test")},
            "weights": registry.model_sha256(self.spec) if self.spec else None,
        }
        if model := trained.standing(self.catalog, settings, seed):
            header = read_header(Path(model["file"]))
            return model | {"epoch": training_of(header).get("epoch"), "metrics": header.get("metrics", {})}
        run_id, path = trained.begin(
            self.catalog, self.request, settings, seed, self.folder, "detector", data=str(self.data.folder)
        )
        return self._train(cfg, path, run_id)

    def _train(self, cfg: DetectorConfig, path: Path, run_id: int) -> dict[str, Any]:
        from care_cli.training.detector import train_detector

        began = time.monotonic()
        done = train_detector(
            self.data, cfg, self.folder / path.stem, start=self.start, device=self.request.device,
            workers=self.request.workers,
        )  # fmt: skip
        header = self._header(cfg, path.stem, self.catalog.run(run_id, "train")["identity"], done)
        save_detector(done.model, path, header)
        examined = self._examined(path)
        header["metrics"]["examination"] = _kept(examined.result)
        save_detector(done.model, path, header)
        trained.finish(self.catalog, run_id, path, card(header), "detector")
        return trained.told(path, run_id, cfg.seed, new=True) | {
            "epoch": done.epoch,
            "epochs": len(done.history),
            "resumed_from": done.resumed_from,
            "metrics": header["metrics"],
            "seconds": round(time.monotonic() - began, 3),
        }

    def _examined(self, path: Path) -> Examination:
        """The figures of the file as it is used, by torch in float32, which is the same everywhere."""
        cfg = EvaluateConfig(
            str(path), known_places=True, device=self.request.device, engine="torch", precision="float32"
        )
        return examine(registry.find(path, task="detector"), self.data, cfg, self.catalog.notice)

    def _header(self, cfg: DetectorConfig, name: str, identity: str, done: TrainedDetector) -> dict[str, Any]:
        """All that a user of the weights needs, and how they came about."""
        data = self.data
        return {
            "name": name,
            "architecture": cfg.architecture,
            "names": list(data.names),
            "classes": registry.classes_for(data.names),
            "input_size": cfg.input_size,
            "shown": cfg.shown,
            "licence": LICENCE,
            "training": {
                "run": identity,
                "settings": asdict(cfg),
                "recipe": data.recipe,
                "data": {part: data.digest(part) for part in ("train", "val", "test")},
                "parts": data.summary(),
                "boxes": {
                    part: dict(zip(data.names, data.counts(part).tolist(), strict=True))
                    for part in ("train", "val", "test")
                },
                "locations": sorted(self.places),
                "left_out": len(data.faults),
                "remarks": self.remarks,
                "begun_from": self.spec.name if self.spec else None,
                "epoch": done.epoch,
                "epochs": len(done.history),
            },
            "metrics": {"validation": done.metrics},
        }


def _kept(result: dict[str, Any]) -> dict[str, Any]:
    """What a header keeps of an examination."""
    own = ("model", "sha256", "data", "digest", "left_out", "remarks")
    return {key: value for key, value in result.items() if key not in own}
