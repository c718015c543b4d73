"""Models that were trained in this catalog, by name."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from care_cli import registry
from care_cli.errors import CareError
from care_cli.records import ModelSpec

if TYPE_CHECKING:
    from care_cli.catalog import Catalog


def find(catalog: Catalog, name: str, weights: Path | None = None) -> ModelSpec:
    """The embedder that a user typed after `--model`: one trained in this catalog, else what the registry finds.

    Raises CareError when there is no such model, or its file is gone.
    """
    for row in catalog.trained_models():
        if row["name"] == name and weights is None:
            return registry.recall(json.loads(row["spec"]))
    try:
        return registry.find(name, task="embedder", weights=weights)
    except CareError as error:
        if names := sorted({row["name"] for row in catalog.trained_models()}):
            raise CareError(f"{error} (trained in this catalog: {', '.join(names)})") from error
        raise


def newest(catalog: Catalog, notice: Callable[[str], None] = lambda text: None) -> ModelSpec | None:
    """The model that was trained last in this catalog and whose file is here; None when there is none."""
    for row in catalog.trained_models():
        try:
            return registry.recall(json.loads(row["spec"]))
        except CareError:
            notice(f"The model {row['name']}, trained in this catalog, is passed over: its file {row['file']} is gone.")
    return None
