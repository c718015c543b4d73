"""Cells of the papers' tables over one catalog: points carried, models trained and examined, none of it twice."""

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
from care_cli.evaluation.ablations import OWN, SOURCES, Cell
from care_cli.evaluation.intervals import t_interval
from care_cli.features import FeatureConfig
from care_cli.records import ModelSpec, Selection, Template
from care_cli.stages import evaluate_reid, propagate, train, trained
from care_cli.stages.evaluation_rows import described
from care_cli.stages.extractors import find as find_extractor
from care_cli.stages.splits import divide
from care_cli.stages.train_settings import NOTHING, TrainRequest, pretrained, settings_of

if TYPE_CHECKING:
    from care_cli.catalog import Catalog
    from care_cli.training.config import TrainConfig

COMMAND = "ablation"
DIFFUSION = "diffusers"  # family of the extractors that add noise
TIMM = "timm:"  # before the name of a network whose weights are not in the registry
AS_IT_IS = 0  # stands for the seed of what is not trained


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How cells are done here, whatever it is that they vary."""

    seeds: tuple[int, ...] = (0, 1, 2)
    templates: Mapping[str, str] = field(default_factory=dict)  # by source; else the catalog's only one of the source
    extractor: str | None = None  # that carries points; None: the registry's for the device
    extractor_weights: Path | None = None
    features: FeatureConfig = field(default_factory=FeatureConfig)
    begin: Mapping[str, str] = field(default_factory=dict)  # weights to begin from, by method or size; see `_begins`
    as_paper: bool = False  # where `begin` says nothing, begin as the paper does; else from scratch
    request: TrainRequest = field(default_factory=TrainRequest)  # what all trainings have in common
    presets: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # by method, below the request's own
    examine: evaluate_reid.EvaluateConfig = field(
        default_factory=lambda: evaluate_reid.EvaluateConfig(open_share=0)
    )  # how models are examined, on the split's test part
    dataset: str | None = None  # whose published figures stand beside


@dataclass(frozen=True)
class Planned:
    """A cell with what it is made of here."""

    cell: Cell
    request: TrainRequest
    settings: TrainConfig | None = None  # of its trainings, the seed apart; None: nothing is trained, or cannot be
    weights: ModelSpec | None = None  # that trainings begin from, or that is examined as it is
    template: Template | None = None
    names: tuple[str, ...] = ()  # of the points that are seen
    extractor: ModelSpec | None = None
    features: FeatureConfig = field(default_factory=FeatureConfig)
    missing: tuple[str, ...] = ()  # what prevents it here

    def seeds(self, recipe: Recipe) -> tuple[int, ...]:
        """Of its models."""
        return recipe.seeds if self.cell.method else (AS_IT_IS,)


# -- the plan


def plan(catalog: Catalog, cells: Sequence[Cell], recipe: Recipe) -> list[Planned]:
    """The cells in their order, each with what is missing for it."""
    extractor, absent = _extractor(recipe) if any(cell.source for cell in cells) else (None, "")
    return [_planned(catalog, recipe, cell, extractor, absent) for cell in cells]


def _extractor(recipe: Recipe) -> tuple[ModelSpec | None, str]:
    """What carries points, or why nothing does."""
    try:
        spec = find_extractor(recipe.extractor, recipe.extractor_weights, recipe.request.device)
        registry.fetch(spec)
    except CareError as error:
        return None, str(error)
    return spec, ""


def _begins(recipe: Recipe, cell: Cell) -> str | None:
    """The weights that a cell's trainings begin from, or those that are examined as they are.

    Said for a method, else for a size; for what isn't trained by the cell's own name.
    """
    if cell.method is None:
        return recipe.begin.get(cell.variant) or cell.begins
    said = recipe.begin.get(cell.method) or recipe.begin.get(cell.size)
    return said or (cell.begins if recipe.as_paper or cell.size == OWN else None) or NOTHING


def _planned(catalog: Catalog, recipe: Recipe, cell: Cell, extractor: ModelSpec | None, absent: str) -> Planned:
    weights = _begins(recipe, cell)
    if cell.method is None:
        return _as_it_is(catalog, recipe, cell, weights)
    request = replace(
        recipe.request, method=cell.method, name=None, weights=weights, seeds=recipe.seeds, backbone=cell.backbone,
        presets=(*recipe.presets.get(cell.method, ()), *recipe.request.presets),
        settings={**recipe.request.settings, **cell.settings},
    )  # fmt: skip
    cfg, spec, missing = _training(catalog, request)
    if varied := sorted(set(cell.settings) & set(recipe.request.settings)):
        missing.append(f"{', '.join(varied)} as the table varies it: leave it out of --set")
    if cell.source is None:
        return Planned(cell, request, cfg, spec, missing=tuple(missing))
    template, reason = _template(catalog, recipe, cell.source)
    if reason:
        missing.append(reason)
    names = tuple(point.name for point in template.points[: cell.count]) if template else ()
    if template and cell.count is not None and len(names) < cell.count:
        missing.append(f"a template of at least {cell.count} points: {template.name!r} has {len(names)}")
    if extractor is None:
        missing.append(absent)
    elif cell.timestep is not None and extractor.family != DIFFUSION:
        missing.append(f"an extractor that adds noise, a diffusion model: {extractor.name} is none (--extractor sd)")
    features = recipe.features if cell.timestep is None else replace(recipe.features, timestep=cell.timestep)
    return Planned(cell, request, cfg, spec, template, names, extractor, features, tuple(missing))


def _training(catalog: Catalog, request: TrainRequest) -> tuple[TrainConfig | None, ModelSpec | None, list[str]]:
    """A training's settings, the weights that it begins from, and what prevents it: its method, a setting, weights."""
    from care_cli.training.methods import METHODS

    if request.method not in METHODS:
        return None, None, [f"the method {request.method}; this CARE has {', '.join(METHODS)}"]
    if (request.weights or "").startswith(TIMM):
        name = request.weights.removeprefix(TIMM)
        where = f"https://huggingface.co/timm, {name}"
        return None, None, [f"the weights of timm's {name} ({where}) as a file: --begin {request.backbone}=FILE"]
    try:
        spec = pretrained(catalog, request)
        cfg = settings_of(request, spec)
        if spec:
            registry.fetch(spec)
    except CareError as error:
        return None, None, [str(error)]
    return cfg, spec, []


def _as_it_is(catalog: Catalog, recipe: Recipe, cell: Cell, weights: str | None) -> Planned:
    """A cell of a model that is not trained."""
    try:
        spec = trained.find(catalog, weights or "")
        registry.fetch(spec)
    except CareError as error:
        return Planned(cell, recipe.request, missing=(str(error),))
    return Planned(cell, recipe.request, weights=spec)


def _template(catalog: Catalog, recipe: Recipe, source: str) -> tuple[Template | None, str]:
    """The template of a source, or what is missing to have it."""
    if source in recipe.templates:
        return catalog.template(recipe.templates[source]), ""
    found = [one for one in catalog.templates() if one.source == source]
    if recipe.request.species is not None:
        found = [one for one in found if one.species in (None, recipe.request.species)]
    if len(found) == 1:
        return found[0], ""
    if not found:
        return None, f"a template of the source {source}: {SOURCES[source]}"
    return None, f"which of the templates {', '.join(one.name for one in found)}: --template {source}=NAME"


# -- the work


def run(catalog: Catalog, planned: Sequence[Planned], recipe: Recipe, title: str = COMMAND) -> list[dict]:
    """Carry, train and examine what is not done yet, cell by cell; returns a row for each.

    A cell that lacks something or fails is told and passed over. What points count for the catalog's crops stays as it
    is throughout. Raises CareError as `divide` does.
    """
    divide(catalog, recipe.request.split, Selection(category="animal", species=recipe.request.species))
    rows = []
    with tqdm(planned, title, unit="cell", disable=None) as bar:
        for one in bar:
            bar.set_postfix_str(f"{one.cell.size}, {one.cell.variant}")
            done, failure = {}, None
            if not one.missing:
                try:
                    done = _measured(catalog, recipe, one)
                except CareError as error:
                    failure = str(error)
            rows.append(row(one, recipe, done, failure))
    return rows


def _measured(catalog: Catalog, recipe: Recipe, one: Planned) -> dict[int, dict]:
    """What the models of a cell reach, by seed; done is only what is not."""
    known = done_before(catalog, recipe, one)
    if len(known) == len(one.seeds(recipe)):
        return known
    if one.cell.method is None:
        return {AS_IT_IS: _examined(catalog, recipe, one, one.weights.name, one.weights, None)}
    request = one.request
    if one.template:
        request = replace(request, points_run=_carried(catalog, recipe, one), point_names=one.names)
    for model in train.run(catalog, request)["models"]:
        if model["seed"] not in known:
            spec = registry.find(model["file"], task="embedder")
            known[model["seed"]] = _examined(catalog, recipe, one, model["name"], spec, model["seed"], request)
    return known


def _examined(
    catalog: Catalog,
    recipe: Recipe,
    one: Planned,
    name: str,
    spec: ModelSpec,
    seed: int | None,
    request: TrainRequest | None = None,
) -> dict[str, Any]:
    """What a cell's model reaches, kept in the catalog."""
    common = recipe.request
    asked = {"split": common.split.name, "part": "test", "species": common.species, "device": common.device}
    examine = replace(recipe.examine, points_run=request.points_run if request else None, **asked)
    found = evaluate_reid.measure(catalog, spec, examine)
    kept = {"model": name, **{key: found[key] for key in ("queries", "metrics", "variants")}}
    with catalog.transaction():
        run_id = catalog.begin_run(COMMAND, _identity(catalog, recipe, one, seed), result=kept)
        catalog.finish_run(run_id)
    return kept


def _carried(catalog: Catalog, recipe: Recipe, one: Planned) -> int:
    """The run that has the points of a cell's template; those that are carried already are not carried again."""
    done = propagate.run(
        catalog,
        propagate.PropagateConfig(
            spec=one.extractor,
            templates=(one.template.name,),
            features=one.features,
            device=recipe.request.device,
            selection=Selection(category="animal", species=recipe.request.species),
            stands=False,
        ),
    )
    return done["runs"][0]


# -- what is done already


def done_before(catalog: Catalog, recipe: Recipe, one: Planned) -> dict[int, dict]:
    """What was measured of a cell before, by seed."""
    found = {}
    if one.missing or catalog.split(recipe.request.split.name) is None:
        return found
    for seed in one.seeds(recipe):
        run_id = catalog.find_run(COMMAND, _identity(catalog, recipe, one, seed if one.settings else None))
        if run_id is not None:
            found[seed] = json.loads(catalog.run(run_id, COMMAND)["executions"])[-1]["result"]
    return found


def _identity(catalog: Catalog, recipe: Recipe, one: Planned, seed: int | None) -> dict[str, Any]:
    """All that a cell's figures hang on, the table that it is asked for not: some have cells in common."""
    split = recipe.request.split.name
    parts = catalog.split_parts(split)
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
        "train": asdict(replace(one.settings, seed=seed)) if one.settings else None,
        "weights": registry.model_sha256(one.weights) if one.weights else None,
        "species": recipe.request.species,
        "split": catalog.split(split)["sha256"],
        "animals": hashlib.sha256(who.encode()).hexdigest(),
        "points": points,
        "protocol": described(recipe.examine.protocol),
    }


# -- rows


def carry(recipe: Recipe) -> dict[str, Any]:
    """What was said of how points are carried."""
    return {name: value for name, value in asdict(recipe.features).items() if value is not None}


def row(one: Planned, recipe: Recipe, done: Mapping[int, dict], failure: str | None = None) -> dict[str, Any]:
    """A cell in plain values; `metrics` are means over seeds with their 95 % t-intervals, shares, and so are those of
    the protocol's other `variants`, by name."""
    results = list(done.values())
    others = results[0]["variants"] if results else {}
    return {
        **asdict(one.cell),
        "template": one.template.name if one.template else None,
        "points": list(one.names),
        "extractor": one.extractor and {"name": one.extractor.name, "diffusion": one.extractor.family == DIFFUSION},
        "begun_from": _begun_from(one),
        "training": _training_told(one.settings),
        "seeds": sorted(done),
        "wanted": len(one.seeds(recipe)),
        "models": [result["model"] for result in results],
        "queries": results[0]["queries"] if results else None,
        "metrics": _over_seeds([result["metrics"] for result in results]),
        "variants": {name: _over_seeds([result["variants"][name] for result in results]) for name in others},
        "published": one.cell.published(recipe.dataset),
        "missing": list(one.missing),
        "failure": failure,
    }


def _begun_from(one: Planned) -> str | None:
    """What a cell's models began from, or what is examined as it is; None: from scratch."""
    if one.cell.method is None:
        return one.weights and one.weights.name
    return None if one.request.weights == NOTHING else one.request.weights


def _training_told(cfg: TrainConfig | None) -> dict[str, Any] | None:
    """What a cell's models see and how they are taught: settings in which methods differ; None without a training."""
    if cfg is None:
        return None
    side = cfg.side if cfg.side_weight else None
    told = {"input_size": cfg.input_size, "side": side, "side_weight": cfg.side_weight}
    told |= {"learning_rate": cfg.learning_rate, "batch": cfg.individuals * cfg.photos * cfg.accumulate}
    return told | {"epochs": cfg.epochs}


def _over_seeds(measured: Sequence[Mapping[str, float | None]]) -> dict[str, dict]:
    """Figures of several models by metric: those that all of them have."""
    values = {name: [one[name] for one in measured] for name in (measured[0] if measured else ())}
    return {name: t_interval(some) for name, some in values.items() if None not in some}
