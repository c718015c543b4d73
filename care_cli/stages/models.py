"""What `care models` does: the registry's entries as rows, and their weights on this machine."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from care_cli import registry
from care_cli.errors import CareError
from care_cli.records import ModelSpec
from care_cli.stages import trained
from care_cli.stages.devices import choose
from care_cli.weights import Progress

if TYPE_CHECKING:
    from care_cli.catalog import Catalog

ROLES = ("detect:cpu", "detect:cuda", "index", "propagate:cpu")
CARD_ROLES = ("propagate:cuda",)  # gigabytes that only a machine with a CUDA card makes use of


def listing(task: str | None = None, catalog: Catalog | None = None) -> list[dict[str, Any]]:
    """One row for each model known by name or trained in the catalog, optionally of one task."""
    if task is not None and task not in registry.TASKS:
        raise CareError(f"there is no task {task!r}; known are {', '.join(registry.TASKS)}")
    known = [*registry.entries().values(), *trained.all_of(catalog)]
    return [_row(spec) for spec in known if task in (None, spec.task)]


def show(name: str, catalog: Catalog | None = None) -> dict[str, Any]:
    """Everything known about one model, its card included."""
    spec = next((spec for spec in trained.all_of(catalog) if spec.name == name), None) or registry.find(name)
    card = registry.location(spec).with_suffix(".md")
    if not (spec.file and card.is_file()):
        card = registry.models_folder() / "cards" / f"{spec.name}.md"
    return _row(spec) | {
        "family": spec.family,
        "architecture": spec.architecture,
        "input_size": spec.input_size,
        "dim": spec.dim,
        "mean": list(spec.mean) if spec.mean else None,
        "std": list(spec.std) if spec.std else None,
        "classes": spec.classes,
        "url": spec.url,
        "published_sha256": spec.sha256,
        "published_md5": spec.md5,
        "sha256": registry.model_sha256(spec) if registry.is_here(spec) else None,
        "path": str(registry.location(spec)),
        "card": card.read_text(encoding="utf-8") if card.is_file() else None,
    }


def pull(names: Sequence[str] = (), progress: Progress | None = None) -> list[dict[str, Any]]:
    """Bring models onto this machine; without names, all that a survey uses by default."""
    specs = [registry.find(name) for name in names] or _defaults()
    rows = []
    for spec in specs:
        path = registry.pull(spec, progress)
        rows.append({"name": spec.name, "path": str(path), "sha256": registry.model_sha256(spec)})
    return rows


def verify(names: Sequence[str] = ()) -> list[dict[str, Any]]:
    """Read models again and compare them with their digests; without names, all that are here."""
    specs = [registry.find(name) for name in names]
    specs = specs or [spec for spec in registry.entries().values() if registry.is_here(spec)]
    rows = []
    for spec in specs:
        try:
            rows.append({"name": spec.name, "state": "ok", "sha256": registry.verify(spec), "failure": None})
        except CareError as error:
            rows.append({"name": spec.name, "state": "failed", "sha256": None, "failure": str(error)})
    return rows


def add(path: Path) -> list[dict[str, Any]]:
    """Make the models of a manifest, or one checkpoint of ours, known by name."""
    return [_row(spec) for spec in registry.add(path)]


def _defaults() -> list[ModelSpec]:
    roles = ROLES if choose("auto") == "cpu" else ROLES + CARD_ROLES
    return list({spec.name: spec for spec in map(registry.default, roles)}.values())


def _row(spec: ModelSpec) -> dict[str, Any]:
    return {
        "name": spec.name,
        "task": spec.task,
        "here": registry.is_here(spec),
        "shown": spec.shown,
        "licence": spec.licence,
        "default_for": " ".join(spec.default_for),
        "source": spec.source,
    }
