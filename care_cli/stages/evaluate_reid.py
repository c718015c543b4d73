"""`care evaluate`: how well models tell individuals apart, under protocols that do not flatter them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from care_cli.errors import CareError
from care_cli.evaluation import intervals, metrics, open_set
from care_cli.evaluation.metrics import Answers
from care_cli.evaluation.protocols import Crops, Protocol, answers, sides
from care_cli.records import ModelSpec, Selection
from care_cli.stages import evaluation_rows as rows
from care_cli.stages import index
from care_cli.stages.evaluation_data import Asked, asked, header_of
from care_cli.stages.evaluation_leaks import backgrounds
from care_cli.stages.evaluation_rows import EVENT, PLAIN, Examined

if TYPE_CHECKING:
    from care_cli.catalog import Catalog


@dataclass(frozen=True)
class EvaluateConfig:
    """What `care evaluate` was asked to do."""

    models: tuple[ModelSpec, ...] = ()
    protocol: Protocol = field(default_factory=Protocol)
    split: str | None = None  # None: the one that the models were trained with, else all named crops
    part: str | None = None  # train | val | test | all; None: test, where there is a split
    species: str | None = None
    closed_set: bool = False  # animals that a model knows may be examined, with crops that it has not seen
    open_share: float = open_set.SHARE  # of the individuals, unknown in turn; 0: no open set
    leaks: bool = False  # measure crops without their animal too
    baseline: str | None = None  # row that others are compared with; None: the first
    seed: int = 0  # of who is unknown, and of the bootstrap
    device: str = "cpu"
    engine: str = "auto"
    precision: str = "auto"
    batch: int | None = None
    points_run: int | None = None  # a run whose points are shown to models that look at some; None: the standing ones


def run(catalog: Catalog, cfg: EvaluateConfig) -> dict:
    """Examine every model with the same queries; returns plain JSON.

    `rows`: models that differ only in their seed are one, with `metrics` (`intervals.summary`), the same of the other
    `variants` of the protocol, `open_set` and `leaks`; `differences` to the baseline's row; what was asked of whom in
    `protocol`, `data` and `split`. Raises CareError when nothing can be measured.
    """
    if not cfg.models:
        raise CareError("Name a model to examine with --model.")
    if not 0 <= cfg.open_share < 1:
        raise CareError(f"The share of unknown animals lies between 0 and 1, but got {cfg.open_share:g}.")
    whom, models = _examined(catalog, cfg.models, cfg)
    groups, individuals = rows.grouped(models), whom.crops.individual
    found = [rows.row(group, individuals, cfg.seed) for group in groups]
    names = [one["name"] for one in found]
    return {
        "protocol": rows.described(cfg.protocol),
        "data": _described(whom, models),
        "split": whom.split,
        "closed_set": whom.closed,
        "intervals": {
            "seeds": "mean ± half: 95 %, Student's t over models trained with different seeds",
            "animals": f"low to high: 95 %, bootstrap of {intervals.DRAWS} draws over individuals",
        },
        "rows": found,
        "differences": rows.differences(groups, names, individuals, _baseline(names, cfg.baseline), cfg.seed),
        "crops": {"asked": whom.crops.id[whom.may_ask].tolist(), "all": whom.crops.id.tolist()},
    }


def _baseline(names: Sequence[str], asked: str | None) -> int:
    """The number of the row that others are compared with. CareError when there is none of that name."""
    if asked is None:
        return 0
    if asked not in names:
        raise CareError(f"No row is called {asked!r}; there are {', '.join(names)}. Name one with --baseline.")
    return names.index(asked)


def _described(whom: Asked, models: Sequence[Examined]) -> dict[str, Any]:
    """Of whom an examination was."""
    crops, head = whom.crops, next(iter(models[0].answers.values()))
    species, counts = np.unique(crops.species, return_counts=True)
    return {
        "crops": len(crops),
        "individuals": len(np.unique(crops.individual)),
        "species": {name or "unknown": int(count) for name, count in zip(species, counts, strict=True)},
        "events": len(np.unique(crops.event[crops.event >= 0])),
        "without_event": int((crops.event < 0).sum()),
        "queries": len(head),
        "without_match": int((head.right == 0).sum()),
        "gallery": int(head.compared.max()),
        "left_out": len(whom.without),
        "validation_crops": len(whom.validation),
    }


def measure(catalog: Catalog, spec: ModelSpec, cfg: EvaluateConfig) -> dict:
    """One model's figures, asked as `run` asks: `metrics` by name, the other `variants`', `open_set`, `queries`."""
    whom, (model,) = _examined(catalog, (spec,), cfg)
    head, *others = model.answers
    return {
        "model": model.model,
        "queries": int((model.answers[head].right > 0).sum()),
        "metrics": _values(model.answers[head], whom.crops),
        "variants": {name: _values(model.answers[name], whom.crops) for name in others},
        "open_set": model.open_set,
    }


def protocol_of(kind: str, filters: Sequence[str], query_share: float | None, seed: int) -> Protocol:
    """The protocol that was asked for. CareError when its options contradict each other."""
    if query_share is not None and kind != "qg":
        raise CareError("--query-share says how many crops ask; it needs --protocol qg.")
    share = Protocol.query_share if query_share is None else query_share
    return Protocol(kind, tuple(dict.fromkeys(filters)), share, seed)


def variants(protocol: Protocol, crops: Crops) -> dict[str, Protocol]:
    """The protocol that was asked for, and those that are always told beside it, by name.

    Without any filter (PLAIN), and without the query's own event wherever an event is known.
    """
    beside = [(), (EVENT,)] if (crops.event >= 0).any() else [()]
    names = dict.fromkeys([tuple(protocol.filters), *beside])
    return {"+".join(filters) or PLAIN: replace(protocol, filters=filters) for filters in names}


def _examined(catalog: Catalog, specs: Sequence[ModelSpec], cfg: EvaluateConfig) -> tuple[Asked, list[Examined]]:
    """What is asked of whom, and each model's answers to it. CareError when there is nothing to find."""
    headers = [header_of(spec) for spec in specs]
    whom = asked(catalog, headers, split=cfg.split, part=cfg.part, species=cfg.species, closed=cfg.closed_set)
    rows.check(whom.crops, whom.may_ask)
    embedded = [_embedded(catalog, spec, whom, cfg) for spec in specs]
    for ids, _, _ in embedded:
        whom = whom.seen(ids.tolist())
    rows.check(whom.crops, whom.may_ask)
    models = []
    for spec, header, (ids, vectors, done) in zip(specs, headers, embedded, strict=True):
        own = vectors[np.searchsorted(ids, whom.crops.id)]
        of_validation = vectors[np.searchsorted(ids, whom.validation.id)]
        models.append(
            Examined(
                rows.about(spec, header, done),
                _asked(whom, own, cfg.protocol),
                _open(whom, own, of_validation, cfg),
                *_background(catalog, spec, whom, cfg),
            )
        )
    if not (next(iter(models[0].answers.values())).right > 0).any():
        raise CareError(
            "No query has anything to find: what the protocol leaves out is all that shows the same animals. Leave out "
            "less, or name more crops."
        )
    return whom, models


def _embedded(
    catalog: Catalog, spec: ModelSpec, whom: Asked, cfg: EvaluateConfig
) -> tuple[np.ndarray, np.ndarray, dict]:
    """Crop ids `(M,)` ascending, their vectors `(M, D) float32`, and what the index says; standing ones are reused."""
    wanted = np.union1d(whom.crops.id, whom.validation.id).tolist()
    done = index.run(
        catalog, replace(index_config(spec, cfg), selection=Selection(category="animal", ids=tuple(wanted)))
    )
    stored = catalog.vectors(done["run"], wanted)
    return stored.ids, stored.vectors, done


def index_config(spec: ModelSpec, cfg: EvaluateConfig) -> index.IndexConfig:
    """How the models of an examination are run; crops that it needs do not make an index."""
    return index.IndexConfig(
        spec, cfg.device, cfg.engine, cfg.precision, cfg.batch, whole=False, points_run=cfg.points_run
    )


def _asked(whom: Asked, vectors: np.ndarray, protocol: Protocol) -> dict[str, Answers]:
    return {
        name: answers(whom.crops, vectors, one, *sides(whom.crops, one, whom.may_ask))
        for name, one in variants(protocol, whom.crops).items()
    }


def _background(
    catalog: Catalog, spec: ModelSpec, whom: Asked, cfg: EvaluateConfig
) -> tuple[dict[str, Answers] | None, int]:
    if not cfg.leaks:
        return None, 0
    vectors, bordered = backgrounds(catalog, index_config(spec, cfg), whom.crops.id.tolist())
    return _asked(whom, vectors, cfg.protocol), bordered


def _open(whom: Asked, vectors: np.ndarray, of_validation: np.ndarray, cfg: EvaluateConfig) -> dict[str, Any] | None:
    """The open set's figures, means over draws of who is unknown; None where there are too few animals."""
    if not cfg.open_share or len(np.unique(whom.crops.individual)) < open_set.LEAST_INDIVIDUALS:
        return None
    validation = replace(whom, crops=whom.validation, may_ask=np.ones(len(whom.validation), bool))
    chosen = open_set.best_threshold(_faced(validation, of_validation, cfg))
    parts = [one for one in _faced(whom, vectors, cfg) if one.known.any() and not one.known.all()]
    if not parts:
        return None
    told = [open_set.separation(one) | (open_set.at(one, chosen) if np.isfinite(chosen) else {}) for one in parts]
    names = dict.fromkeys(name for one in told for name in one)
    return {
        "share": cfg.open_share,
        "draws": len(parts),
        "threshold": rows.number(chosen),
        "threshold_from": "the validation part" if np.isfinite(chosen) else None,
        "no_threshold": None if np.isfinite(chosen) else _no_threshold(whom),
        **{name: rows.number(np.mean([one[name] for one in told])) for name in names},
    }


def _no_threshold(whom: Asked) -> str:
    """Why there is no threshold, so that BAKS and BAUS stay open."""
    if whom.split is None:
        return "no threshold: no split is named whose validation part could choose one (--split)"
    if whom.closed or whom.split["part"] != "test":
        return "no threshold: a validation part chooses one for the test part of animals that no model knows"
    count = len(np.unique(whom.validation.individual))
    if count < open_set.LEAST_INDIVIDUALS:
        return (
            f"no threshold: the validation part has {count} animal{'s' * (count != 1)}, and to choose one needs "
            f"{open_set.LEAST_INDIVIDUALS} (a split with a larger --val)"
        )
    return f"no threshold: no crop of the validation part's {count} animals has another one to be found by"


def _faced(whom: Asked, vectors: np.ndarray, cfg: EvaluateConfig) -> list[open_set.Faced]:
    if len(np.unique(whom.crops.individual)) < open_set.LEAST_INDIVIDUALS:
        return []
    draws = [
        open_set.unknown(whom.crops.individual, cfg.open_share, cfg.seed + number) for number in range(open_set.DRAWS)
    ]
    return [open_set.face(whom.crops, vectors, cfg.protocol, new, whom.may_ask) for new in draws]


def _values(found: Answers, crops: Crops) -> dict[str, float | None]:
    values = metrics.figures(metrics.columns(found), crops.individual[found.query])
    return {name: rows.number(value[0]) for name, value in values.items()}
