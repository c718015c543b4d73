"""`care evaluate ablation`: the papers' ablations over the catalog at hand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from care_cli.errors import CareError
from care_cli.evaluation import ablation_figure, published
from care_cli.evaluation.ablations import ABLATIONS, SOURCES, Ablation, Cell
from care_cli.evaluation.paper_tables import schedules
from care_cli.stages import cell_words, cells
from care_cli.stages.cells import Planned, Recipe
from care_cli.stages.evaluation_data import crops_of
from care_cli.stages.evaluation_tables import TWO_SEEDS

if TYPE_CHECKING:
    from care_cli.catalog import Catalog

SHOWN = ("top1", "mAP")


@dataclass(frozen=True)
class AblationConfig(Recipe):
    """What `care evaluate ablation` was asked to do."""

    name: str  # of evaluation.ablations.ABLATIONS
    sizes: tuple[str, ...] = ()  # of the backbone; none: the paper's


def plan(catalog: Catalog, cfg: AblationConfig) -> list[Planned]:
    """The cells in their order, each with what is missing for it. CareError for a name or a size that is none."""
    return cells.plan(catalog, _cells(cfg), cfg)


def _cells(cfg: AblationConfig) -> list[Cell]:
    ablation = _ablation(cfg)
    sizes = cfg.sizes or ablation.sizes
    every = [cell for size in sizes for cell in ablation.cells(size)]
    check(cfg, every)
    return every


def _ablation(cfg: AblationConfig) -> Ablation:
    if cfg.name not in ABLATIONS:
        raise CareError(f"There is no ablation {cfg.name!r}; there are {', '.join(ABLATIONS)}.")
    return ABLATIONS[cfg.name]


def check(recipe: Recipe, every: Sequence[Cell]) -> None:
    """CareError for a source of templates that is none, and for weights of what no cell has."""
    if unknown := sorted(set(recipe.templates) - set(SOURCES)):
        raise CareError(f"--template is SOURCE=NAME with a source of {', '.join(SOURCES)}, but got {unknown[0]!r}.")
    sizes = dict.fromkeys(cell.size for cell in every)
    others = dict.fromkeys(cell.method or cell.variant for cell in every)
    if strange := sorted(set(recipe.begin) - set(sizes) - set(others)):
        raise CareError(
            f"--begin names weights of the size {strange[0]!r}, but the sizes are {', '.join(sizes)}, and the methods "
            f"{', '.join(others)}."
        )


def listing(catalog: Catalog, cfg: AblationConfig) -> dict:
    """The plan in plain values, with what is done already; nothing is written."""
    recipe = _with_dataset(catalog, cfg)
    planned = plan(catalog, recipe)
    return _summary(recipe, [cells.row(one, recipe, cells.done_before(catalog, recipe, one)) for one in planned])


def run(catalog: Catalog, cfg: AblationConfig) -> dict:
    """Carry, train and examine what is not done yet, cell by cell; returns the table.

    A cell that lacks something or fails is told and passed over. Raises CareError when no cell can be done.
    """
    recipe = _with_dataset(catalog, cfg)
    planned = plan(catalog, recipe)
    if all(one.missing for one in planned):
        lacking = dict.fromkeys(reason for one in planned for reason in one.missing)
        raise CareError(f"No cell of the ablation {cfg.name} can be done here. Missing: {'; '.join(lacking)}.")
    return _summary(recipe, cells.run(catalog, planned, recipe))


def _with_dataset(catalog: Catalog, cfg: AblationConfig) -> AblationConfig:
    """With the published data set whose figures stand beside: the ablation's, else the one that is at hand; and with
    the schedule that its paper has for it."""
    if (dataset := _ablation(cfg).dataset) is None:
        whole = crops_of(catalog)
        folders = catalog.datasets_imported(whole.id.tolist())
        dataset = published.recognise(folders, len(set(whole.individual.tolist())), len(set(whole.image.tolist())))
    return replace(cfg, dataset=dataset, presets=schedules(dataset) if dataset else {})


def _summary(cfg: AblationConfig, rows: Sequence[dict]) -> dict:
    return {
        "ablation": cfg.name,
        "about": ABLATIONS[cfg.name].about,
        "seeds": list(cfg.seeds),
        "settings": dict(cfg.request.settings),
        "carry": cells.carry(cfg),
        "begin": dict(cfg.begin),
        "split": cfg.request.split.name,
        "published": {"paper": next((row["paper"][0] for row in rows if row["paper"]), None), "dataset": cfg.dataset},
        "rows": list(rows),
    }


def table_rows(found: Mapping[str, Any]) -> list[dict]:
    """The table with a line for each cell."""
    return [cell_words.line(one, SHOWN) for one in found["rows"]]


def remarks(found: Mapping[str, Any]) -> list[str]:
    """What a reader of the table should know, a line each."""
    lines = [f"{found['about'][0].upper()}{found['about'][1:]}. Per cent; {cell_words.spread(len(found['seeds']))}."]
    if any(row["published"] is not None for row in found["rows"]):
        paper, dataset = published.published()["papers"][found["published"]["paper"]], found["published"]["dataset"]
        lines.append(
            f"The paper's figures are of {dataset} ({paper['protocol']}), with pretrained weights and mostly other "
            f"animals in its test; here every photo of the test part of the split {found['split']!r} asks all others: "
            "differences between cells may be compared, not the figures."
        )
        lines += cell_words.departures(found, found["rows"])
    elif any(not row["begun_from"] for row in found["rows"]):
        lines.append("Without --begin SIZE=WEIGHTS models learn from scratch; the paper's begin from pretrained ones.")
    if len(found["seeds"]) == 2:
        lines.append(TWO_SEEDS)
    return lines


def draw(found: Mapping[str, Any], path: Path | None) -> None:
    """The figure, if one is wanted."""
    if path is not None:
        title = f"{found['ablation']}: {found['about']}"
        panels = {found["published"]["dataset"] or "": found["rows"]}
        ablation_figure.plot(panels, ("top1",), title, path)
