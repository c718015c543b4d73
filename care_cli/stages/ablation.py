"""`care evaluate ablation`: the CKPE paper's ablations, cell by cell: points carried, models trained and examined."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from care_cli import registry
from care_cli.errors import CareError
from care_cli.evaluation import ablation_figure
from care_cli.evaluation.ablations import ABLATIONS, DATASET, SOURCES, Cell
from care_cli.evaluation.intervals import t_interval
from care_cli.features import FeatureConfig
from care_cli.records import ModelSpec, Selection, Template
from care_cli.stages import evaluate_reid, propagate, train
from care_cli.stages.evaluation_rows import described
from care_cli.stages.evaluation_tables import TWO_SEEDS
from care_cli.stages.extractors import find as find_extractor
from care_cli.stages.splits import divide
from care_cli.stages.train_settings import TrainRequest, pretrained, settings_of

if TYPE_CHECKING:
    from care_cli.catalog import Catalog

COMMAND = "ablation"
DIFFUSION = "diffusers"  # family of the extractors that add noise
SHOWN = ("top1", "mAP")


@dataclass(frozen=True)
class AblationConfig:
    """What `care evaluate ablation` was asked to do."""

    name: str  # of evaluation.ablations.ABLATIONS
    sizes: tuple[str, ...] = ()  # of the backbone; none: the paper's
    seeds: tuple[int, ...] = (0, 1, 2)
    templates: Mapping[str, str] = field(default_factory=dict)  # by source; else the catalog's only one of the source
    extractor: str | None = None  # that carries points; None: the registry's for the device
    extractor_weights: Path | None = None
    features: FeatureConfig = field(default_factory=FeatureConfig)
    begin: Mapping[str, str] = field(default_factory=dict)  # weights to begin from, by size; none: from scratch
    request: TrainRequest = field(default_factory=TrainRequest)  # what all trainings have in common
    examine: evaluate_reid.EvaluateConfig = field(
        default_factory=lambda: evaluate_reid.EvaluateConfig(open_share=0)
    )  # how models are examined, on the split's test part


@dataclass(frozen=True)
class Planned:
    """A cell with what it is made of here."""

    cell: Cell
    request: TrainRequest
    template: Template | None = None
    names: tuple[str, ...] = ()  # of the points that are seen
    extractor: ModelSpec | None = None
    features: FeatureConfig = field(default_factory=FeatureConfig)
    missing: tuple[str, ...] = ()  # what prevents it here


# -- the plan


def plan(catalog: Catalog, cfg: AblationConfig) -> list[Planned]:
    """The cells in their order, each with what is missing for it. CareError for a name or a size that is none."""
    if cfg.name not in ABLATIONS:
        raise CareError(f"There is no ablation {cfg.name!r}; there are {', '.join(ABLATIONS)}.")
    ablation = ABLATIONS[cfg.name]
    if unknown := sorted(set(cfg.templates) - set(SOURCES)):
        raise CareError(f"--template is SOURCE=NAME with a source of {', '.join(SOURCES)}, but got {unknown[0]!r}.")
    sizes = cfg.sizes or ablation.sizes
    if strange := sorted(set(cfg.begin) - set(sizes)):
        raise CareError(f"--begin names weights of the size {strange[0]!r}, but the sizes are {', '.join(sizes)}.")
    extractor, absent = _extractor(cfg)
    return [_planned(catalog, cfg, cell, extractor, absent) for size in sizes for cell in ablation.cells(size)]


def _extractor(cfg: AblationConfig) -> tuple[ModelSpec | None, str]:
    """What carries points, or why nothing does."""
    try:
        spec = find_extractor(cfg.extractor, cfg.extractor_weights, cfg.request.device)
        registry.fetch(spec)
    except CareError as error:
        return None, str(error)
    return spec, ""


def _planned(catalog: Catalog, cfg: AblationConfig, cell: Cell, extractor: ModelSpec | None, absent: str) -> Planned:
    weights = cfg.begin.get(cell.size)
    request = replace(cfg.request, method=cell.method, name=None, backbone=cell.size, weights=weights, seeds=cfg.seeds)
    missing = []
    try:
        spec = pretrained(catalog, request)
        settings_of(request, spec)
        if spec:
            registry.fetch(spec)
    except CareError as error:
        missing.append(str(error))
    if cell.source is None:
        return Planned(cell, request, missing=tuple(missing))
    template, reason = _template(catalog, cfg, cell.source)
    if reason:
        missing.append(reason)
    names = tuple(point.name for point in template.points[: cell.count]) if template else ()
    if template and cell.count is not None and len(names) < cell.count:
        missing.append(f"a template of at least {cell.count} points: {template.name!r} has {len(names)}")
    if extractor is None:
        missing.append(absent)
    elif cell.timestep is not None and extractor.family != DIFFUSION:
        missing.append(f"an extractor that adds noise, a diffusion model: {extractor.name} is none (--extractor sd)")
    features = cfg.features if cell.timestep is None else replace(cfg.features, timestep=cell.timestep)
    return Planned(cell, request, template, names, extractor, features, tuple(missing))


def _template(catalog: Catalog, cfg: AblationConfig, source: str) -> tuple[Template | None, str]:
    """The template of a source, or what is missing to have it."""
    if source in cfg.templates:
        return catalog.template(cfg.templates[source]), ""
    found = [one for one in catalog.templates() if one.source == source]
    if cfg.request.species is not None:
        found = [one for one in found if one.species in (None, cfg.request.species)]
    if len(found) == 1:
        return found[0], ""
    if not found:
        return None, f"a template of the source {source}: {SOURCES[source]}"
    return None, f"which of the templates {', '.join(one.name for one in found)}: --template {source}=NAME"


def listing(catalog: Catalog, cfg: AblationConfig) -> dict:
    """The plan in plain values, with what is done already; nothing is written."""
    planned = plan(catalog, cfg)
    return _summary(cfg, [_row(one, _known(catalog, cfg, one)) for one in planned])


# -- the work


def run(catalog: Catalog, cfg: AblationConfig) -> dict:
    """Carry, train and examine what is not done yet, cell by cell; returns the table.

    A cell that lacks something or fails is told and passed over. What points count for the catalog's crops stays as it
    is throughout. Raises CareError when no cell can be done, and as `divide` does.
    """
    planned = plan(catalog, cfg)
    if all(one.missing for one in planned):
        lacks = dict.fromkeys(reason for one in planned for reason in one.missing)
        raise CareError(f"No cell of the ablation {cfg.name} can be done here. Missing: {'; '.join(lacks)}.")
    divide(catalog, cfg.request.split, Selection(category="animal", species=cfg.request.species))
    rows = []
    with tqdm(planned, COMMAND, unit="cell", disable=None) as bar:
        for one in bar:
            bar.set_postfix_str(f"{one.cell.size}, {one.cell.variant}")
            done, failure = {}, None
            if not one.missing:
                try:
                    done = _measured(catalog, cfg, one)
                except CareError as error:
                    failure = str(error)
            rows.append(_row(one, done, failure))
    return _summary(cfg, rows)


def _measured(catalog: Catalog, cfg: AblationConfig, one: Planned) -> dict[int, dict]:
    """What the models of a cell reach, by seed; done is only what is not."""
    known = _known(catalog, cfg, one)
    if len(known) == len(cfg.seeds):
        return known
    request = one.request
    if one.template:
        request = replace(request, points_run=_carried(catalog, cfg, one), point_names=one.names)
    for model in train.run(catalog, request)["models"]:
        if model["seed"] in known:
            continue
        spec = registry.find(model["file"], task="embedder")
        asked = {"split": request.split.name, "part": "test", "species": request.species, "device": request.device}
        examine = replace(cfg.examine, points_run=request.points_run, **asked)
        found = evaluate_reid.measure(catalog, spec, examine)
        kept = {"model": model["name"], **{name: found[name] for name in ("queries", "metrics", "variants")}}
        with catalog.transaction():
            run_id = catalog.begin_run(COMMAND, _identity(catalog, cfg, one, model["seed"]), result=kept)
            catalog.finish_run(run_id)
        known[model["seed"]] = kept
    return known


def _carried(catalog: Catalog, cfg: AblationConfig, one: Planned) -> int:
    """The run that has the points of a cell's template; those that are carried already are not carried again."""
    done = propagate.run(
        catalog,
        propagate.PropagateConfig(
            spec=one.extractor,
            templates=(one.template.name,),
            features=one.features,
            device=cfg.request.device,
            selection=Selection(category="animal", species=cfg.request.species),
            stands=False,
        ),
    )
    return done["runs"][0]


# -- what is done already


def _known(catalog: Catalog, cfg: AblationConfig, one: Planned) -> dict[int, dict]:
    """What was measured of a cell before, by seed."""
    found = {}
    if one.missing or catalog.split(cfg.request.split.name) is None:
        return found
    for seed in cfg.seeds:
        run_id = catalog.find_run(COMMAND, _identity(catalog, cfg, one, seed))
        if run_id is not None:
            found[seed] = json.loads(catalog.run(run_id, COMMAND)["executions"])[-1]["result"]
    return found


def _identity(catalog: Catalog, cfg: AblationConfig, one: Planned, seed: int) -> dict[str, Any]:
    """All that a cell's figures hang on, the ablation that it is asked for not: some have cells in common."""
    split = cfg.request.split.name
    parts, spec = catalog.split_parts(split), pretrained(catalog, one.request)
    names = catalog.names_of_crops(parts)
    who = "".join(f"{crop} {part} {names.get(crop)}\n" for crop, part in parts.items())
    points = None
    if one.template:
        annotated = propagate.annotated(catalog, [one.template])
        points = {
            "template": [crop.digest for crop in annotated.values()], "names": one.names,
            "extractor": registry.model_sha256(one.extractor), "features": asdict(one.features),
        }  # fmt: skip
    return {
        "train": asdict(replace(settings_of(one.request, spec), seed=seed)),
        "weights": registry.model_sha256(spec) if spec else None,
        "species": cfg.request.species,
        "split": catalog.split(split)["sha256"],
        "animals": hashlib.sha256(who.encode()).hexdigest(),
        "points": points,
        "protocol": described(cfg.examine.protocol),
    }


# -- the table


def _row(one: Planned, done: Mapping[int, dict], failure: str | None = None) -> dict[str, Any]:
    """A cell in plain values; `metrics` are means over seeds with their 95 % t-intervals, shares."""
    results = list(done.values())
    names = results[0]["metrics"] if results else {}
    values = {name: [result["metrics"][name] for result in results] for name in names}
    return {
        **asdict(one.cell),
        "template": one.template.name if one.template else None,
        "points": list(one.names),
        "begun_from": one.request.weights,
        "seeds": sorted(done),
        "models": [result["model"] for result in results],
        "queries": results[0]["queries"] if results else None,
        "metrics": {name: t_interval(value) for name, value in values.items() if None not in value},
        "published": one.cell.published,
        "missing": list(one.missing),
        "failure": failure,
    }


def _summary(cfg: AblationConfig, rows: Sequence[dict]) -> dict:
    return {
        "ablation": cfg.name,
        "about": ABLATIONS[cfg.name].about,
        "seeds": list(cfg.seeds),
        "split": cfg.request.split.name,
        "published": {"paper": "ckpe", "dataset": DATASET},
        "rows": list(rows),
    }


def table_rows(found: Mapping[str, Any]) -> list[dict]:
    """The table with a line for each cell; per cent, `_half` half the width of the 95 % interval."""
    lines = []
    for row in found["rows"]:
        line = {name: row[name] for name in ("size", "variant", "method", "template")}
        line |= {"points": len(row["points"]) or None, "seeds": f"{len(row['seeds'])} of {len(found['seeds'])}"}
        for name in SHOWN:
            figure = row["metrics"].get(name, {})
            for end in ("mean", "half"):
                value = figure.get(end)
                line[name if end == "mean" else f"{name}_half"] = None if value is None else round(100 * value, 2)
        line["paper_top1"] = None if row["published"] is None else round(100 * row["published"], 1)
        line["paper_table"] = row["paper"][0] if row["paper"] else None
        lines.append(line | {"missing": "; ".join(row["missing"]) or row["failure"]})
    return lines


def lacks(found: Mapping[str, Any]) -> list[str]:
    """What cannot be done here and what failed, a line for each reason with the cells that it is of."""
    reasons: dict[tuple[str, str], list[str]] = {}
    for row in found["rows"]:
        for word, some in (("Cannot be done here", row["missing"]), ("Failed", filter(None, [row["failure"]]))):
            for reason in some:
                reasons.setdefault((word, reason), []).append(f"{row['size']}, {row['variant']}")
    return [
        f"{word} ({'all cells' if len(cells) == len(found['rows']) else '; '.join(cells)}): {reason}"
        for (word, reason), cells in reasons.items()
    ]


def remarks(found: Mapping[str, Any]) -> list[str]:
    """What a reader of the table should know, a line each."""
    lines = [f"{found['about'][0].upper()}{found['about'][1:]}. Per cent, ± half of a 95 % t-interval over seeds."]
    if any(row["published"] is not None for row in found["rows"]):
        lines.append(
            f"The paper's figures are of {found['published']['dataset']}, with pretrained weights and other animals in "
            "its test: differences between cells may be compared, not the figures."
        )
    if len(found["seeds"]) == 2:
        lines.append(TWO_SEEDS)
    if any(not row["begun_from"] for row in found["rows"]):
        lines.append("Without --begin SIZE=WEIGHTS models learn from scratch; the paper's begin from ImageNet.")
    return lines


def draw(found: Mapping[str, Any], path: Path | None) -> None:
    """The figure, if one is wanted."""
    if path is not None:
        ablation_figure.plot(found, path)
