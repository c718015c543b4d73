"""`care train`: a re-identification model from the catalog's named animals."""

from __future__ import annotations

import functools
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from tqdm import tqdm

from care_cli import registry
from care_cli.checkpoints import load_state, read_header
from care_cli.engines import images_of
from care_cli.errors import CareError
from care_cli.headers import check_name
from care_cli.records import KeypointScheme, ModelSpec, Scheme, Selection, ViewpointScheme
from care_cli.stages import trained, viewpoints
from care_cli.stages.evaluation_data import header_of, training_of
from care_cli.stages.reid_card import card
from care_cli.stages.splits import Division, divide
from care_cli.stages.train_settings import TrainRequest, pretrained, settings_of
from care_cli.stages.training_data import Material, gather, labelled, scheme_of

if TYPE_CHECKING:
    import torch

    from care_cli.catalog import Catalog
    from care_cli.training.config import TrainConfig
    from care_cli.training.data import LabelledCrops

PAGE = 64  # crops embedded at once for a validation


def run(catalog: Catalog, request: TrainRequest) -> dict:
    """Train a model for each seed, from the crops of the split's training part; returns the summary.

    A training that was interrupted goes on, one that is finished stands. Raises CareError when there is nothing to
    learn from, a setting cannot be, or the weights to begin from do not fit.
    """
    spec = pretrained(catalog, request)
    cfg = settings_of(request, spec)
    if request.name is not None:
        check_name("--name", request.name)
    division = divide(catalog, request.split, Selection(category="animal", species=request.species))
    training = Training(catalog, request, division, cfg, spec)
    models = [training.model(seed) for seed in request.seeds]
    return {
        "method": cfg.method,
        "backbone": cfg.backbone,
        "begun_from": spec.name if spec else None,
        "species": request.species,
        "split": division.summary(),
        "crops": len(training.train.crop_ids),
        "individuals": len(training.train.individuals),
        "points": list(training.scheme.names) if isinstance(training.scheme, KeypointScheme) else [],
        "viewpoints": asdict(training.scheme) if isinstance(training.scheme, ViewpointScheme) else None,
        "without_points": training.train.without_points,
        "damaged": training.damaged,
        "models": models,
    }


class Training:
    """One training of one or several seeds: what they have in common is read once."""

    def __init__(
        self, catalog: Catalog, request: TrainRequest, division: Division, cfg: TrainConfig, spec: ModelSpec | None
    ):
        from care_cli.training import methods

        self.catalog, self.request, self.division, self.cfg, self.spec = catalog, request, division, cfg, spec
        ids = division.ids("train")
        self.scheme: Scheme | None = (
            viewpoints.scheme_of(catalog, ids, cfg.side) if methods.told_viewpoints(cfg) else None
        )
        if methods.sees_points(cfg.method):
            self.scheme = scheme_of(catalog, ids, request.points_run, request.point_names)
            if self.scheme is None:
                raise CareError(
                    f"The method {cfg.method} learns from keypoints, but none of the {len(ids)} crops has one. Run "
                    "`care propagate-keypoints` first, or train with --method vit."
                )
        self.train, self.val = (
            gather(catalog, division.ids(part), self.scheme, request.points_run) for part in ("train", "val")
        )
        self.learned_before = self._learned_before()
        if len(self.train.individuals) < 2:
            raise CareError(
                f"Telling animals apart is learned from at least two, but the training part has "
                f"{len(self.train.individuals)}. Name more animals: `care individuals name`."
            )
        self.folder = trained.folder_of(catalog, request.folder)
        self.damaged: list[int] = []

    def _learned_before(self) -> set[str]:
        """Digests of the crops that the weights to begin from have learned from.

        CareError when they show animals of the test part: whatever follows, the model would know them.
        """
        crops = training_of(header_of(self.spec)).get("crops") if self.spec else None
        learned = set(crops or ())
        tested = self.catalog.pixel_digests(self.division.ids("test")).values() if learned else ()
        if known := len(learned.intersection(tested)):
            raise CareError(
                f"{self.spec.name} has learned from {known} crops of the test part of the split "
                f"{self.division.split['name']!r}, so no model that begins from it could be examined. Begin from other "
                "weights, or train with the split that it was trained with (--split)."
            )
        return learned

    def model(self, seed: int) -> dict[str, Any]:
        """Train the model of a seed, or find that it is trained already."""
        from care_cli.training import methods

        cfg = replace(self.cfg, seed=seed)
        settings = {
            "settings": asdict(cfg),
            "split": self.division.split["sha256"],
            "data": self.train.digest(words=methods.describes(cfg.method)),
            "validation": self.val.digest(),
            "weights": registry.model_sha256(self.spec) if self.spec else None,
        }
        if model := trained.standing(self.catalog, settings, seed):
            return model | {"metrics": read_header(Path(model["file"])).get("metrics", {})}
        run_id, path = trained.begin(self.catalog, self.request, settings, seed, self.folder, cfg.method)
        return self._train(cfg, path, run_id)

    def _train(self, cfg: TrainConfig, path: Path, run_id: int) -> dict[str, Any]:
        from care_cli.encoders import save_embedder
        from care_cli.training import methods

        began = time.monotonic()
        done = methods.train(
            self.crops,
            cfg,
            trained.made(self.folder) / path.stem,
            validate=self.validate,
            validation=self.val.digest(),
            start=self.start,
            start_file=registry.fetch(self.spec) if self.spec else None,
            device=self.request.device,
            notice=self.catalog.notice,
        )
        metrics = {"validation": done.best["metrics"]} if done.best["metrics"] else {}
        if int(os.environ.get("RANK", "0")) == 0:  # of several processes the first one writes
            identity = self.catalog.run(run_id, "train")["identity"]
            save_embedder(done.model, path, self._header(cfg, path.stem, identity, done.best["step"], metrics))
            told = card(read_header(path), methods.about(cfg.method), len(self.crops.labels))
            trained.finish(self.catalog, run_id, path, told, "embedder")
        return trained.told(path, run_id, cfg.seed, new=True) | {
            "metrics": metrics,
            "step": done.best["step"],
            "resumed_from": done.resumed_from,
            "seconds": round(time.monotonic() - began, 3),
        }

    def _header(self, cfg: TrainConfig, name: str, identity: str, step: int, metrics: dict) -> dict[str, Any]:
        """All that a user of the weights needs, and how they came about."""
        from care_cli.training import methods

        learned = set(self.train.crop_ids.tolist()) - set(self.damaged)
        digests = [
            digest for crop, digest in zip(self.train.crop_ids, self.train.digests, strict=True) if crop in learned
        ]
        split = self.division.split
        architecture, options = methods.architecture(cfg)
        return {
            "name": name,
            "method": cfg.method,
            "architecture": architecture,
            "options": options,
            "input_size": cfg.input_size,
            "mean": cfg.mean,
            "std": cfg.std,
            "interpolation": "bicubic",
            "crop_pct": 1.0,
            "crop_mode": "squash",
            "training": {
                "run": identity,
                "settings": asdict(cfg),
                "split": {"name": split["name"], "sha256": split["sha256"], **split["settings"]},
                "species": self.request.species,
                "individuals": len(self.train.individuals),
                "crops": sorted({*digests, *self.learned_before}),
                "begun_from": self.spec.name if self.spec else None,
                "step": step,
            },
            "metrics": metrics,
        } | ({"licence": self.spec.licence} if self.spec else {})

    @functools.cached_property
    def crops(self) -> LabelledCrops:
        """What is learned from, decoded; crops whose pixels are damaged are noted and left out."""
        return self._decoded(self.train, "decode")

    @functools.cached_property
    def start(self) -> Mapping[str, torch.Tensor] | None:
        """The weights to begin from."""
        if self.spec is None:
            self.catalog.notice("No weights to begin from (--weights): the model learns from scratch.")
            return None
        file = registry.fetch(self.spec)
        if self.spec.family != "care":
            return load_state(file)
        import torch

        from care_cli import encoders
        from care_cli.training import methods

        name, options = methods.architecture(self.cfg)
        with torch.device("meta"):
            new, old = encoders.build_backbone(name, **options), encoders.untrained(file)
        return encoders.on_grid_of(new, old, load_state(file))

    @functools.cached_property
    def validate(self) -> Callable[[torch.nn.Module], dict[str, float]] | None:
        """Leave-one-out on the validation part; None, and a notice, where nothing can be told from it."""
        if not len(self.val.crop_ids):
            self.catalog.notice("The split has no validation part, so the last model is taken and none is chosen.")
            return None
        crops = self._decoded(self.val, "decode validation")
        counts = np.bincount(crops.labels)
        if not ((counts > 1).any() and len(counts) > 1):
            self.catalog.notice(
                "The validation part needs two animals, one of them with two crops, to tell a better model from a "
                "worse: the last one is taken for the best."
            )
            return None
        names = [str(label) for label in crops.labels]
        return functools.partial(examined, crops=crops, names=names, cfg=self.cfg)

    def _decoded(self, material: Material, what: str) -> LabelledCrops:
        with tqdm(total=len(material.crop_ids), unit="crop", desc=what, disable=None) as bar:
            crops, damaged = labelled(self.catalog, material, self.cfg.input_size, report=bar.update)
        self.damaged += damaged
        return crops


def examined(model: torch.nn.Module, crops: LabelledCrops, names: list[str], cfg: TrainConfig) -> dict[str, float]:
    """mAP and top-1 of an embedder in eval mode, every crop asking all others; mAP, the finer one, first."""
    import torch

    from care_cli.evaluation.metrics import leave_one_out
    from care_cli.training.batches import normalised

    device = next(model.parameters()).device
    vectors = []
    with torch.inference_mode():
        for start in range(0, len(names), PAGE):
            rows = np.arange(start, min(start + PAGE, len(names)))
            seen = [normalised(images_of(torch.from_numpy(crops.photos[rows]).to(device)), cfg)]
            if crops.beside is not None:
                seen.append(torch.from_numpy(crops.beside[rows]).to(device))
            vectors.append(torch.nn.functional.normalize(model(*seen).float()).cpu().numpy())
    found = leave_one_out(np.concatenate(vectors), names)
    return {"mAP": found["mAP"], "top1": found["top1"]}
