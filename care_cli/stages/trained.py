"""Models that were trained in this catalog, by name."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from care_cli import registry
from care_cli.checkpoints import read_header
from care_cli.errors import CareError
from care_cli.outputs import refuse_scanned, write_whole
from care_cli.records import ModelSpec
from care_cli.weights import file_sha256

if TYPE_CHECKING:
    from care_cli.catalog import Catalog
    from care_cli.stages.train_detector import DetectorRequest
    from care_cli.stages.train_settings import TrainRequest


def find(catalog: Catalog | None, name: str, weights: Path | None = None, task: str = "embedder") -> ModelSpec:
    """The model that a user typed after `--model`: one trained in this catalog, else what the registry finds.

    Raises CareError when there is no such model of the task, or its file is gone.
    """
    rows = [row for row in catalog.trained_models() if row["task"] == task] if catalog else []
    for row in rows:
        if row["name"] == name and weights is None:
            return registry.recall(json.loads(row["spec"]))
    try:
        return registry.find(name, task=task, weights=weights)
    except CareError as error:
        if names := sorted({row["name"] for row in rows}):
            raise CareError(f"{error} (trained in this catalog: {', '.join(names)})") from error
        raise


def newest(catalog: Catalog, notice: Callable[[str], None] = lambda text: None) -> ModelSpec | None:
    """The embedder that was trained last in this catalog and whose file is here; None when there is none."""
    for row in catalog.trained_models():
        if row["task"] != "embedder":
            continue
        try:
            return registry.recall(json.loads(row["spec"]))
        except CareError:
            notice(f"The model {row['name']}, trained in this catalog, is passed over: its file {row['file']} is gone.")
    return None


def all_of(catalog: Catalog | None) -> list[ModelSpec]:
    """The models that were trained in this catalog, the oldest first, wherever their files are now."""
    rows = reversed(catalog.trained_models()) if catalog else ()
    known = {field.name for field in fields(ModelSpec)}
    specs = [{key: value for key, value in json.loads(row["spec"]).items() if key in known} for row in rows]
    return list({spec["name"]: ModelSpec(**spec) for spec in specs}.values())


# -- while training


def folder_of(catalog: Catalog, asked: Path | None) -> Path:
    """Where the models of a catalog lie: the folder that was asked for, else CATALOG.models beside it.

    CareError when it lies among scanned photos.
    """
    folder = asked or catalog.path.parent / f"{catalog.path.stem}.models"
    refuse_scanned(folder, catalog.scanned_folders())
    return folder


def made(folder: Path) -> Path:
    """The folder, made where it is not there. CareError when it cannot be."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CareError(f"{folder} cannot be made: {error.strerror}. Name another with --out.") from error
    return folder


def notes_of(models: Path, photos: Path) -> Path:
    """Where it is kept, beside the models, what was found of the photos of a training folder."""
    return models / f"checked-{hashlib.sha256(str(photos.resolve()).encode()).hexdigest()[:12]}.json"


def card_of(file: Path) -> Path:
    """Where the card of a model lies: beside its weights."""
    return file.with_suffix(".md")


def told(file: Path, run_id: int, seed: int, new: bool) -> dict[str, Any]:
    """What is said of every model, whatever was trained."""
    card = str(card_of(file))
    return {"name": file.stem, "file": str(file), "card": card, "run": run_id, "seed": seed, "new": new}


def standing(catalog: Catalog, settings: dict[str, Any], seed: int) -> dict[str, Any] | None:
    """The model that a training with these settings has made, as it is `told`; None where its file is not here any
    more as it was."""
    run_id = catalog.find_run("train", settings)
    for row in catalog.trained_models() if run_id else ():
        path = Path(row["file"])
        if row["run"] == run_id and path.is_file() and file_sha256(path) == row["sha256"]:
            return told(path, run_id, seed, new=False)
    return None


def begin(
    catalog: Catalog,
    request: TrainRequest | DetectorRequest,
    settings: dict[str, Any],
    seed: int,
    folder: Path,
    usual: str,
    **noted: Any,
) -> tuple[int, Path]:
    """The run of a training with these settings, and the file in `folder` that its model will be.

    Its name is the one that was asked for, with its seed where there are several, else `usual`-RUN. CareError when
    another model has it.
    """
    name = request.name
    if name is not None:
        name = name if len(request.seeds) == 1 else f"{name}-{seed}"
        _check_free(catalog, name, _file(folder, name), catalog.find_run("train", settings))
    run_id = catalog.begin_run("train", settings, device=request.device, folder=str(folder), **noted)
    return run_id, _file(folder, name or f"{usual}-{run_id}")


def finish(catalog: Catalog, run_id: int, file: Path, card: str, task: str) -> None:
    """Write the card of a model whose weights are written, and have the catalog know it."""
    write_whole(card_of(file), card)
    spec = registry.find(file, task=task)
    catalog.finish_training(run_id, replace(spec, sha256=registry.model_sha256(spec)))


def _file(folder: Path, name: str) -> Path:
    return folder / f"{name}.safetensors"


def _check_free(catalog: Catalog, name: str, path: Path, run_id: int | None) -> None:
    """CareError when a name is another model's than that of the run that stands; `path` would be its file."""
    others = [row["name"] for row in catalog.trained_models() if row["run"] != run_id]
    taken = name in registry.entries() or name in others
    if path.exists() and not taken:
        own = catalog.run(run_id, "train")["identity"] if run_id else None
        taken = (read_header(path).get("training") or {}).get("run") != own
    if taken:
        raise CareError(f"There is a model {name!r} already, of another training. Name this one with --name.")
