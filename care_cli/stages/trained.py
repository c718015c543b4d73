"""Models that were trained in this catalog, by name."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING

from care_cli import registry
from care_cli.checkpoints import read_header
from care_cli.errors import CareError
from care_cli.outputs import refuse_scanned
from care_cli.records import ModelSpec
from care_cli.weights import file_sha256

if TYPE_CHECKING:
    from care_cli.catalog import Catalog


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


def name_of(asked: str | None, usual: str, seed: int, seeds: Sequence[int]) -> str:
    """A model's name: the one that was asked for, with its seed where there are several, else the usual one."""
    if asked is None:
        return usual
    return asked if len(seeds) == 1 else f"{asked}-{seed}"


def notes_of(models: Path, photos: Path) -> Path:
    """Where it is kept, beside the models, what was found of the photos of a training folder."""
    return models / f"checked-{hashlib.sha256(str(photos.resolve()).encode()).hexdigest()[:12]}.json"


def card_of(file: Path) -> Path:
    """Where the card of a model lies: beside its weights."""
    return file.with_suffix(".md")


def standing(catalog: Catalog, run_id: int) -> dict | None:
    """The model that a training has made, where its file is still here as it was."""
    for row in catalog.trained_models():
        path = Path(row["file"])
        if row["run"] == run_id and path.is_file() and file_sha256(path) == row["sha256"]:
            return row
    return None


def check_free(catalog: Catalog, name: str, path: Path, run_id: int | None) -> None:
    """CareError when a name is another model's than that of the run that stands; `path` would be its file."""
    others = [row["name"] for row in catalog.trained_models() if row["run"] != run_id]
    taken = name in registry.entries() or name in others
    if path.exists() and not taken:
        own = catalog.run(run_id, "train")["identity"] if run_id else None
        taken = (read_header(path).get("training") or {}).get("run") != own
    if taken:
        raise CareError(f"There is a model {name!r} already, of another training. Name this one with --name.")
