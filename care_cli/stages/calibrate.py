"""`care evaluate calibrate`: what a model's similarities mean, learned on animals that it was not taught."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from tqdm import tqdm

from care_cli import registry
from care_cli.errors import CareError
from care_cli.evaluation import calibration, open_set
from care_cli.evaluation.calibration import Pairs
from care_cli.matching import SCORES, Calibration, Thresholds, rank, shortlist
from care_cli.records import ModelSpec, Selection
from care_cli.splits import NOBODY
from care_cli.stages import gallery
from care_cli.stages.evaluation_data import header_of, training_of

if TYPE_CHECKING:
    from care_cli.catalog import Catalog

PARTS = ("train", "val")  # of a split that a calibration may learn from


@dataclass(frozen=True)
class CalibrateConfig:
    """What `care evaluate calibrate` was asked to do."""

    model: ModelSpec | None = None  # default: that of the newest finished index
    species: str | None = None  # only animals of this species; default: all together
    split: str | None = None  # only crops of a part of this split
    part: str = "val"
    fpr: float | None = None  # share of new animals that may be taken for known; default: balanced thresholds
    method: str = "isotonic"  # isotonic | logistic
    score: str = "best"  # best | mean | vote, see matching.rank
    m: int = 3  # matches that 'mean' averages
    k: int = 5  # neighbours that 'vote' asks


def settings_of(index_run: Mapping, score: str, m: int, k: int) -> dict:
    """What a calibration is for: how vectors were made, and how a candidate's similarity comes of them."""
    how = {"mean": {"m": m}, "vote": {"k": k}}.get(score, {})
    return json.loads(index_run["settings"]) | {"score": score} | how


def run(catalog: Catalog, cfg: CalibrateConfig) -> dict:
    """Fit the curve and the thresholds, keep them in place of earlier ones, and say how good they are.

    Raises CareError when there is no index, a setting is none, or too few pairs are left to learn from.
    """
    if cfg.score not in SCORES:
        raise CareError(f"--score is one of {', '.join(SCORES)}, but got {cfg.score!r}.")
    if cfg.method not in calibration.METHODS:
        raise CareError(f"--method is one of {', '.join(calibration.METHODS)}, but got {cfg.method!r}.")
    if cfg.part not in PARTS:
        raise CareError(
            f"--part is one of {', '.join(PARTS)}, but got {cfg.part!r}: nothing is learned from test animals."
        )
    made = gallery.index_run(catalog, cfg.model)
    spec = registry.recall(json.loads(made["spec"]))
    crops, left_out = eligible(catalog, spec, made["id"], cfg)
    pairs = asked(catalog, made["id"], crops, cfg)
    try:
        calibration.require(pairs)
    except CareError as error:
        raise CareError(f"{error} {_advice(left_out)}") from None
    found = fitted(pairs, cfg)
    facts = {name: found[name] for name in ("known", "new", "pairs", "individuals", "ece")}
    settings = settings_of(made, cfg.score, cfg.m, cfg.k)
    kept = ("similarity", "probability", "method", "fpr", "reliability", "share")
    curve = {name: found[name] for name in kept} | {"split": cfg.split, "part": cfg.part if cfg.split else None}
    catalog.put_calibration(made["model_id"], cfg.species, settings, curve, **facts)
    summary = {"model": spec.name, "species": cfg.species, "index": made["id"], "settings": settings}
    return summary | found | {"crops": len(crops), "left_out": left_out}


def fitted(pairs: Pairs, cfg: CalibrateConfig) -> dict:
    """Curve, thresholds and figures of pairs.

    `share` tells what the thresholds make of the pairs that they were chosen on: BAKS of known animals named right,
    BAUS of new ones called new.
    """
    curve = calibration.fit(pairs, cfg.method)
    unseen = calibration.cross_validated(pairs, cfg.method)
    spans = calibration.reliability(unseen, pairs.same, pairs.weights)
    faced = pairs.faced
    balanced = open_set.best_threshold([faced])
    known = balanced if cfg.fpr is None else calibration.false_positive_threshold(faced, cfg.fpr)
    new = min(known, balanced)
    return {
        "method": cfg.method,
        "fpr": cfg.fpr,
        "pairs": len(pairs),
        "known_queries": int(pairs.known.sum()),
        "individuals": len(np.unique(np.concatenate([pairs.individual, pairs.candidate]))),
        "prior": 0.5,  # known and new animals are asked about alike
        "known": known,
        "new": new,
        "probability_at": float(curve(known)),
        "share": {"BAKS": open_set.at(faced, known)["BAKS"], "BAUS": open_set.at(faced, new)["BAUS"]},
        "ece": calibration.expected_calibration_error(spans),
        "reliability": spans,
        "similarity": curve.similarity.tolist(),
        "probability": curve.probability.tolist(),
    }


# -- who may be asked


def eligible(catalog: Catalog, spec: ModelSpec, run_id: int, cfg: CalibrateConfig) -> tuple[list[dict], dict]:
    """Named crops, as `crop_rows` has them, of animals that the model was not taught and that test nothing.

    With `cfg.split` those of its part, whose animals are in no other part of it. Also how many crops were left out:
    `trained` on, or of an animal of which a crop was; in a `test`; in another part (`other_part`) or in none
    (`no_part`) of the split; without an embedding in the run (`not_indexed`); and unnamed.
    """
    rows = catalog.crop_rows(Selection(category="animal", species=cfg.species))
    named = [row for row in rows if row["individual"] is not None and row["individual"].casefold() not in NOBODY]
    who = {row["crop"]: row["individual"] for row in named}
    own = catalog.split_parts(catalog.find_split(cfg.split)["name"]) if cfg.split is not None else {}
    forbidden = {
        "trained": _taught(catalog, spec, list(who)),
        "test": {row["crop"] for row in catalog.crops_of_parts() if row["part"] == "test"},
        "other_part": {crop for crop, part in own.items() if part != cfg.part},
    }
    there = set(catalog.vectors(run_id, list(who)).ids.tolist())
    left_out = dict.fromkeys([*forbidden, "no_part", "not_indexed"], 0)
    animals = {reason: {who.get(crop) for crop in crops} for reason, crops in forbidden.items()}
    crops = []
    for row in named:
        reason = next((one for one, names in animals.items() if row["individual"] in names), None)
        if reason is None and cfg.split is not None and row["crop"] not in own:
            reason = "no_part"
        if reason is None and row["crop"] not in there:
            reason = "not_indexed"
        if reason is None:
            crops.append(row)
        else:
            left_out[reason] += 1
    return crops, left_out | {"unnamed": len(rows) - len(named)}


def _taught(catalog: Catalog, spec: ModelSpec, crop_ids: list[int]) -> set[int]:
    """Those of these crops that a model of ours learned from, by their pixels or by its split."""
    training = training_of(header_of(spec))
    taught = {one for one in training.get("crops") or () if isinstance(one, str)}
    digests = catalog.pixel_digests(crop_ids) if taught else {}
    learned = {crop for crop, digest in digests.items() if digest in taught}
    split = training.get("split") if isinstance(training.get("split"), dict) else {}
    parts = [row for row in catalog.crops_of_parts() if row["sha256"] == split.get("sha256")]
    return learned | {row["crop"] for row in parts if row["part"] == "train"}


def _advice(left_out: Mapping[str, int]) -> str:
    """What was left out, and what can be done about it."""
    words = {
        "trained": "of animals that the model was trained on", "test": "of test animals",
        "other_part": "of animals in another part of the split", "no_part": "in no part of the split",
        "not_indexed": "not in the index (`care index`)", "unnamed": "without a name",
    }  # fmt: skip
    reasons = [f"{count} {words[reason]}" for reason, count in left_out.items() if count]
    told = f"Left out were crops: {', '.join(reasons)}. " if reasons else ""
    return f"{told}Name more animals (`care individuals name`), or import a set of known ones (`care import`)."


# -- what they answer


def asked(catalog: Catalog, run_id: int, crops: list[dict], cfg: CalibrateConfig) -> Pairs:
    """Every crop asks all those of other events, as `identify` does: with its own animal among them, and without."""
    stored = catalog.vectors(run_id, [row["crop"] for row in crops])
    by_crop = {row["crop"]: row for row in crops}
    rows = [by_crop[crop] for crop in stored.ids.tolist()]
    names = sorted({row["individual"] for row in rows})
    number = {name: place for place, name in enumerate(names, 1)}
    who = np.array([number[row["individual"]] for row in rows], np.int64)
    events = [f"event {row['event']}" if row["event"] is not None else f"image {row['image']}" for row in rows]
    _, event = np.unique(np.array(events, object).astype(str), return_inverse=True)
    found = []
    for query in tqdm(range(len(rows)), "calibrate", unit="crop", disable=None):
        similarity = stored.vectors @ stored.vectors[query]
        others, same = event != event[query], who == who[query]
        for known, gallery_ in ((True, others), (False, others & ~same)):
            entries = np.flatnonzero(gallery_)
            if len(entries) and (not known or (same & others).any()):
                value, first = _first(similarity[entries], who[entries], cfg)
                found.append((value, first == who[query], known, who[query], first))
    columns = zip(*found, strict=True) if found else [()] * 5
    types = (np.float64, bool, bool, np.int64, np.int64)
    return Pairs(*(np.array(column, kind) for column, kind in zip(columns, types, strict=True)))


def _first(similarity: np.ndarray, who: np.ndarray, cfg: CalibrateConfig) -> tuple[float, int]:
    """Similarity and number of the individual that `matching.rank` puts first."""
    chosen = shortlist(similarity, who, 0.0, 1, cfg.score, cfg.m, cfg.k)
    best = rank(similarity[chosen], who[chosen].tolist(), cfg.score, cfg.m, cfg.k)[0]
    return best.similarity, best.individual


# -- what is kept


def kept(catalog: Catalog, model_id: int, settings: dict) -> dict[str | None, Calibration]:
    """The calibrations of a model for exactly these settings, by species; None: of all together."""
    return {
        row["species"]: Calibration(
            tuple(row["curve"]["similarity"]), tuple(row["curve"]["probability"]),
            Thresholds(row["known"], row["new"]), row["species"], row["pairs"], row["individuals"], row["ece"],
        )
        for row in catalog.calibrations(model_id, settings)
    }  # fmt: skip


def listing(catalog: Catalog) -> list[dict]:
    """A row for each calibration of the catalog."""
    return [
        {
            "model": row["model"], "species": row["species"], "precision": row["settings"].get("precision"),
            "score": row["settings"]["score"], "method": row["curve"]["method"], "pairs": row["pairs"],
            "individuals": row["individuals"], "ece": round(row["ece"], 4), "known": round(row["known"], 4),
            "new": round(row["new"], 4), "made_at": row["made_at"],
        }
        for row in catalog.calibrations()
    ]  # fmt: skip
