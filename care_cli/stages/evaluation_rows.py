"""What models answered, as the rows of `care evaluate`: seeds together, intervals, differences to a baseline."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from care_cli import registry
from care_cli.errors import CareError
from care_cli.evaluation import intervals
from care_cli.evaluation.metrics import Answers, columns
from care_cli.evaluation.protocols import Crops, Protocol
from care_cli.records import ModelSpec
from care_cli.stages.evaluation_data import training_of

PLAIN = "plain"  # the variant of a protocol that leaves nothing out but the query itself
EVENT = "event"
# of a header, that a row has in common
BUILD = ("method", "architecture", "options", "keypoints", "viewpoints", "input_size")


@dataclass(frozen=True, eq=False)
class Examined:
    """One model's answers to the same queries as all others of an examination."""

    model: dict[str, Any]  # name, digest, method, seed, index run
    answers: dict[str, Answers]  # by variant of the protocol, the one asked for first
    open_set: dict[str, Any] | None
    background: dict[str, Answers] | None  # by variant, of crops without their animal
    bordered: int = 0  # crops of which only a border is background


def check(crops: Crops, may_ask: np.ndarray) -> None:
    """CareError where nothing can be measured, whatever the model."""
    names, counts = np.unique(crops.individual, return_counts=True)
    if len(names) < 2:
        raise CareError(
            f"An examination needs at least two individuals to tell apart, but got {len(names)}. Name more animals, "
            "or widen the selection."
        )
    if not may_ask.any():
        raise CareError(
            "No crop is left to ask with: the models have learned from all of them. Add photos that they have not seen."
        )
    if counts.max() < 2:
        raise CareError(
            f"Nothing can be found: none of the {len(names)} individuals has two crops. Name more crops of the animals."
        )


def about(spec: ModelSpec, header: dict, indexed: dict) -> dict[str, Any]:
    """What a model is, from its description, its header and the index of its vectors; `row`: what seeds share."""
    training = training_of(header)
    setting = training.get("settings") if isinstance(training.get("settings"), dict) else {}
    same = {name: value for name, value in training.items() if name not in ("run", "step")}
    same["settings"] = {name: value for name, value in setting.items() if name != "seed"}
    build = [same, *(header.get(name) for name in BUILD)]
    return {
        "name": spec.name,
        "sha256": registry.model_sha256(spec),
        "method": header.get("method"),
        "architecture": spec.architecture,
        "seed": setting.get("seed"),
        "row": json.dumps(build, sort_keys=True, default=str) if "seed" in setting else None,
        **{key: indexed[key] for key in ("run", "damaged", "without_pixels", "points", "viewpoints") if key in indexed},
    }


def grouped(models: Sequence[Examined]) -> list[list[Examined]]:
    """Models that differ in their seed alone, together; in the order in which they were named."""
    groups: dict[str, list[Examined]] = {}
    for number, one in enumerate(models):
        groups.setdefault(one.model["row"] or str(number), []).append(one)
    return list(groups.values())


def row(group: Sequence[Examined], individuals: np.ndarray, seed: int) -> dict[str, Any]:
    """A row of the table: one model, or several seeds of one; `individuals (N,)` of the crops."""
    head, *others = group[0].answers
    measured = {name: _summary([one.answers[name] for one in group], individuals, seed) for name in group[0].answers}
    return {
        "name": _name(group),
        "method": group[0].model["method"],
        "seeds": [one.model["seed"] for one in group],
        "models": [{key: value for key, value in one.model.items() if key != "row"} for one in group],
        "variant": head,
        **measured[head],
        "variants": {name: measured[name] for name in others},
        "open_set": _open(group),
        "leaks": _leaks(group, measured, individuals, seed),
    }


def differences(
    groups: Sequence[Sequence[Examined]], names: Sequence[str], individuals: np.ndarray, base: int, seed: int
) -> list[dict[str, Any]]:
    """Of each row but the baseline's (of number `base`): by how much each metric lies above it."""
    found = []
    for number, group in enumerate(groups):
        if number == base:
            continue
        ours, theirs = _paired(group, groups[base])
        seeds = len(ours) if ours else 0
        one, other = (list(group), list(groups[base])) if seeds < 2 else (ours, theirs)
        found.append(
            {
                "row": names[number],
                "baseline": names[base],
                "seeds": seeds if seeds > 1 else None,
                "metrics": _difference(one, other, individuals, seeds, seed),
            }
        )
    return found


def described(protocol: Protocol) -> dict[str, Any]:
    """The protocol as plain values."""
    own = {"qg": ("query_share", "seed"), "list": ("queries", "gallery")}.get(protocol.kind, ())
    told = {name: getattr(protocol, name) for name in own}
    told = {name: list(value) if isinstance(value, tuple) else value for name, value in told.items()}
    return {"kind": protocol.kind, "filters": list(protocol.filters)} | told


def number(value: float) -> float | None:
    """A figure as JSON has it: None where there is none."""
    return float(value) if np.isfinite(value) else None


def plain(figures: dict[str, dict]) -> dict[str, dict]:
    """Figures without NaN."""
    return {
        name: {
            key: [number(x) for x in value] if isinstance(value, list) else None if value is None else number(value)
            for key, value in figure.items()
        }
        for name, figure in figures.items()
    }


def _summary(answers: Sequence[Answers], individuals: np.ndarray, seed: int) -> dict[str, Any]:
    whose = individuals[answers[0].query]
    asked = answers[0].right > 0
    return {
        "queries": int(asked.sum()),
        "without_match": int((~asked).sum()),
        "metrics": plain(intervals.summary([columns(one) for one in answers], whose, seed=seed))
        if asked.any()
        else None,
    }


def _difference(
    one: Sequence[Examined], other: Sequence[Examined], individuals: np.ndarray, seeds: int, seed: int
) -> dict[str, dict]:
    head = next(iter(one[0].answers))
    whose = individuals[one[0].answers[head].query]
    ours, theirs = ([columns(each.answers[head]) for each in models] for models in (one, other))
    return plain(intervals.difference(ours, theirs, whose, seeds=seeds, seed=seed))


def _paired(group: Sequence[Examined], base: Sequence[Examined]) -> tuple[list[Examined], list[Examined]]:
    """The models of both whose seeds both have, seed by seed."""
    ours, theirs = ({one.model["seed"]: one for one in models} for models in (group, base))
    seeds = [seed for seed in ours if seed is not None and seed in theirs]
    return [ours[seed] for seed in seeds], [theirs[seed] for seed in seeds]


def _name(group: Sequence[Examined]) -> str:
    """A row is called as its model; of several seeds without the number behind the name."""
    names = [one.model["name"] for one in group]
    common = {re.sub(r"-\d+$", "", name) for name in names}
    return names[0] if len(names) == 1 or len(common) > 1 else common.pop()


def _open(group: Sequence[Examined]) -> dict[str, Any] | None:
    """The open set's figures over seeds."""
    if group[0].open_set is None:
        return None
    figures = {name for one in group for name in one.open_set if name.isupper() or name in ("root", "TPR5")}
    told = {
        name: intervals.t_interval([one.open_set[name] for one in group])
        for name in ("AUROC", "EER", "TPR5", "BAKS", "BAUS", "root")
        if name in figures and all(one.open_set.get(name) is not None for one in group)
    }
    kept = {name: group[0].open_set[name] for name in ("share", "draws", "threshold_from", "no_threshold")}
    return kept | {"thresholds": [one.open_set["threshold"] for one in group], "metrics": told}


def _leaks(group: Sequence[Examined], measured: dict, individuals: np.ndarray, seed: int) -> dict[str, Any] | None:
    """What the backgrounds alone say, beside chance; and what the query's own event gives away."""
    if group[0].background is None:
        return None
    behind = {
        name: _summary([one.background[name] for one in group], individuals, seed) for name in group[0].background
    }
    return {"background": behind, "bordered": group[0].bordered, "own_event": _own_event(group, individuals, seed)}


def _own_event(group: Sequence[Examined], individuals: np.ndarray, seed: int) -> dict[str, Any] | None:
    """Top-1 with the photos of a query's own event in the gallery (as a random split has them) and without.

    Over the queries that have something to find either way; None where no event is known.
    """
    if not {PLAIN, EVENT} <= set(group[0].answers):
        return None
    kept = (group[0].answers[PLAIN].right > 0) & (group[0].answers[EVENT].right > 0)
    if not kept.any():
        return None
    whose = individuals[group[0].answers[PLAIN].query][kept]
    with_, without = ([columns(one.answers[name].where(kept)) for one in group] for name in (PLAIN, EVENT))
    gain = intervals.difference(with_, without, whose, seed=seed)
    summary = {key: intervals.summary(some, whose, seed=seed) for key, some in (("with", with_), ("without", without))}
    return {
        "queries": int(kept.sum()),
        **{key: plain({"top1": each["top1"]})["top1"] for key, each in summary.items()},
        "gain": plain({"top1": gain["top1"]})["top1"],
    }
