"""`care propagate-keypoints`: carry named points from annotated crops to all others."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from tqdm import tqdm

from care_cli import registry
from care_cli.errors import CareError
from care_cli.features import Extractor, FeatureConfig, load_extractor, prepare
from care_cli.images import decode_jpeg
from care_cli.keypoints.matching import Match, MatchConfig
from care_cli.keypoints.propagator import Propagator, same_names
from care_cli.keypoints.references import Annotated, Cache
from care_cli.records import CropFrame, Keypoints, ModelSpec, Selection, Template
from care_cli.stages import gallery, keypoints
from care_cli.stages.devices import precision_like
from care_cli.stages.extractors import prompt_for, worded
from care_cli.stages.pipeline import WORKERS, ahead, batches
from care_cli.stages.propagate_plan import plan

if TYPE_CHECKING:
    from care_cli.catalog import Catalog

COMMAND = "propagate-keypoints"
SMALLEST = 8  # px, shorter side of a crop: a block of JPEG, in which no part of an animal can be told from another
NOISE = ("timestep", "ensemble")  # settings of features that are only taken where noise is added


@dataclass(frozen=True)
class PropagateConfig:
    """What `care propagate-keypoints` was asked to do."""

    spec: ModelSpec  # the extractor
    templates: tuple[str, ...] = ()  # names; several are references of the same points. None: each species' only one
    features: FeatureConfig = field(default_factory=FeatureConfig)
    match: MatchConfig = field(default_factory=MatchConfig)
    prompt: str | None = None  # what crops show, for extractors with words; None: `extractors.PROMPT`
    device: str = "cpu"
    engine: str = "auto"  # auto | torch | openvino
    precision: str = "auto"  # auto | float32 | bfloat16 | float16
    batch: int | None = None  # crops a forward pass and a transaction; None: what suits the extractor
    selection: Selection = field(default_factory=lambda: Selection(category="animal"))
    stands: bool = True  # False: points are wanted apart; the run isn't finished by it, and what counts stays as it was


# -- runs


def load(cfg: PropagateConfig, notice: Callable[[str], None] | None = None) -> tuple[Extractor, ModelSpec]:
    """The extractor ready for use, and its description with the digest that identifies it in runs."""
    extractor = load_extractor(
        cfg.spec, cfg.features, cfg.device, engine=cfg.engine, precision=cfg.precision, notice=notice
    )
    return extractor, replace(cfg.spec, sha256=registry.model_sha256(cfg.spec))


def settings_of(extractor: Extractor, annotated: Iterable[Annotated], match: MatchConfig, prompt: str) -> dict:
    """What identifies a propagation beside the weights."""
    return {
        "templates": sorted(one.digest for one in annotated),
        "features": extractor.settings,
        "precision": extractor.precision,
        "prompt": prompt,
        "match": asdict(match),
    }


def annotated(catalog: Catalog, templates: Sequence[Template]) -> dict[int, Annotated]:
    """Templates with their crops' pixels, by id, in the order of their contents; those without pixels are left out."""
    crop_ids = [template.crop_id for template in templates]
    frames, pixels = catalog.crop_frame(crop_ids), catalog.pixels(crop_ids)
    found = {
        template.id: Annotated(pixels[template.crop_id], frames[template.crop_id], template.points)
        for template in templates
        if template.crop_id in pixels
    }
    return dict(sorted(found.items(), key=lambda item: item[1].digest))


def made_of(
    catalog: Catalog, templates: Sequence[Template], extractor: Extractor, model: str, match: MatchConfig, prompt: str
) -> tuple[Propagator, dict]:
    """What carries the points of some templates, and what identifies the run of it.

    `model` is the SHA-256 of the extractor's weights; `prompt` may hold {species}.
    """
    crops, names = annotated(catalog, templates), {template.id: template.name for template in templates}
    if lost := [name for one, name in names.items() if one not in crops]:
        raise CareError(f"The crop of template {lost[0]!r} has no pixels. Connect its card and run `care doctor`.")
    said = worded(prompt, templates[0].species)
    propagator = Propagator.of(
        {f"template {names[one]!r}": crop for one, crop in crops.items()},
        extractor,
        match,
        said,
        templates=tuple(crops),
        cache=Cache(gallery.references_folder(catalog), model),
    )
    return propagator, settings_of(extractor, crops.values(), match, said)


def of_run(
    catalog: Catalog,
    run: dict,
    device: str = "cpu",
    engine: str = "auto",
    precision: str = "auto",
    notice: Callable[[str], None] | None = None,
) -> tuple[Propagator, dict]:
    """What carries points as a run of `propagate_runs` did, and the settings that it has here.

    They are those of the run, but for the precision where the device lacks the run's own. Raises CareError when its
    templates are no longer what they were, or its model is not on this machine.
    """
    made = json.loads(run["settings"])
    said = ("size", "block", *(NOISE if made["features"].get("extractor") == "diffusion" else ()))
    cfg = PropagateConfig(
        spec=registry.recall(json.loads(run["spec"])),
        features=FeatureConfig(**{name: made["features"][name] for name in said}),
        match=MatchConfig(**made["match"]),
        device=device,
        engine=engine,
        precision=precision_like(made, precision, device),
    )
    extractor, used = load(cfg, notice)
    if json.loads(json.dumps(extractor.settings)) != made["features"]:
        raise CareError("These points were made with other settings of their model. Propagate them again.")
    return made_of(catalog, templates_of(catalog, made), extractor, used.sha256, cfg.match, made["prompt"])


def templates_of(catalog: Catalog, settings: dict) -> list[Template]:
    """The templates of a run's settings; CareError when one is gone or was changed."""
    every = {template.id: template for template in catalog.templates()}
    by_content = {crop.digest: every[one] for one, crop in annotated(catalog, list(every.values())).items()}
    if not by_content.keys() >= set(settings["templates"]):
        raise CareError(
            "A template of these points is gone, or its crop was changed. Run `care propagate-keypoints` again."
        )
    return [by_content[digest] for digest in settings["templates"]]


# -- the work


def run(catalog: Catalog, cfg: PropagateConfig) -> dict:
    """Carry points to every selected animal crop that has none of this run yet; returns the summary.

    Its `crops` are those that have points now. Crops without pixels, those that are too small, and those whose pixels
    are damaged are listed and left out. Raises CareError as `plan`, `load` and `prompt_for` do, and when templates
    that are used together differ in their points.
    """
    started = time.monotonic()
    prompt = prompt_for(cfg.spec, cfg.prompt)
    tasks, without_template = plan(catalog, cfg)
    for task in tasks:
        same_names({template.name: template.points for template in task.templates})
    shown, wanted = tasks[0].templates[0].species, cfg.selection.species
    if cfg.templates and shown and wanted not in (None, shown):
        catalog.notice(f"The template shows the species {shown}, the crops {wanted}: look at the points (--sheet).")
    extractor, used = load(cfg, catalog.notice)
    batch = cfg.batch or extractor.batch
    noted = {"device": extractor.device, "engine": extractor.engine, "batch": batch}
    summary = {"runs": [], "model": used.name, "crops": 0, "known": 0} | _nothing_yet()
    summary |= {"without_template": without_template, "without_pixels": []}
    for task in tasks:
        propagator, settings = made_of(catalog, task.templates, extractor, used.sha256, cfg.match, prompt)
        names = [template.name for template in task.templates]
        settings |= _apart(catalog, cfg, settings, used, task.crop_ids)
        run_id = catalog.begin_run(COMMAND, settings, used, templates=names, stands=cfg.stands, **noted)
        before = catalog.superseded(run_id)
        todo = catalog.without_keypoints(run_id, task.crop_ids)
        without_pixels = catalog.without_pixels(task.crop_ids)
        _carry(catalog, run_id, todo, propagator, batch, summary, ", ".join(names))
        if cfg.stands:
            catalog.finish_run(run_id)
        if displaced := sorted(set(catalog.superseded(run_id)) - set(before)):
            whose = f"run{'s' * (len(displaced) > 1)} {', '.join(map(str, displaced))}"
            catalog.notice(
                f"These points now count for their crops instead of those of {whose}; "
                f"`care keypoints remove --run {run_id}` brings those back."
            )
        summary["runs"].append(run_id)
        summary["known"] += len(task.crop_ids) - len(todo) - len(without_pixels)
        summary["without_pixels"] += without_pixels
    seconds = time.monotonic() - started
    summary["crops"] = summary["known"] + summary["new"]
    points = summary.pop("points")
    summary["uncertain"] = round(summary["uncertain"] / points, 4) if points else None  # share of the new points
    return summary | {"seconds": round(seconds, 3), "crops_per_second": round(summary["new"] / seconds, 3)}


def _apart(
    catalog: Catalog, cfg: PropagateConfig, settings: dict, used: ModelSpec, crop_ids: Sequence[int]
) -> dict[str, bool]:
    """What parts a run that must not stand from a finished one of these settings that lacks some of the points."""
    run_id = None if cfg.stands else catalog.find_run(COMMAND, settings, used)
    stands = run_id is not None and run_id in {run["id"] for run in catalog.propagate_runs()}
    return {"stands": False} if stands and catalog.without_keypoints(run_id, crop_ids) else {}


def grow(
    catalog: Catalog, run: dict, crop_ids: Sequence[int], device: str, engine: str = "auto", precision: str = "auto"
) -> int:
    """Carry points to more crops as a run of `propagate_runs` did; returns how many have points now that had none.

    They join that run, or one beside it where the device lacks its precision. Raises CareError as `of_run` does.
    """
    propagator, settings = of_run(catalog, run, device, engine, precision, catalog.notice)
    extractor, summary = propagator.extractor, _nothing_yet()
    spec = replace(registry.recall(json.loads(run["spec"])), sha256=run["sha256"])
    noted = {"device": extractor.device, "engine": extractor.engine, "batch": extractor.batch}
    run_id = catalog.begin_run(COMMAND, settings, spec, **noted)
    todo = catalog.without_keypoints(run_id, crop_ids)
    _carry(catalog, run_id, todo, propagator, extractor.batch, summary, f"points of run {run_id}")
    if run_id != run["id"]:  # that one is finished, and whose points count for other crops stays as it was
        catalog.finish_run(run_id)
    return summary["new"]


def sheet(catalog: Catalog, cfg: PropagateConfig, runs: Sequence[int], path: Path) -> dict:
    """Draw the crops that `run` was asked for with the points of the `runs` it made; see `keypoints.draw`."""
    found: dict[int, Keypoints] = {}
    for task, run_id in zip(plan(catalog, cfg)[0], runs, strict=True):
        found |= catalog.keypoints(task.crop_ids, run_id)
    crops = {row["crop"]: row for row in catalog.crop_rows(cfg.selection) if row["crop"] in found}
    return keypoints.draw(catalog, path, {crop_id: found[crop_id] for crop_id in crops}, crops)


def _nothing_yet() -> dict:
    """The part of a summary that `_write` counts up."""
    return {"new": 0, "points": 0, "uncertain": 0, "too_small": [], "damaged": []}


def _carry(
    catalog: Catalog,
    run_id: int,
    crop_ids: Sequence[int],
    propagator: Propagator,
    batch: int,
    summary: dict,
    what: str,
) -> None:
    """Carry points to crops, a transaction a batch."""
    with tqdm(total=len(crop_ids), unit="crop", desc=what, disable=None) as bar:
        for group in carried(catalog, crop_ids, propagator, batch):
            _write(catalog, run_id, group, summary)
            bar.update(len(group))


def _write(catalog: Catalog, run_id: int, group: Sequence[Carried], summary: dict) -> None:
    """Write a batch in one transaction, and count what came of it."""
    good = [one for one in group if one.found is not None]
    if good:
        catalog.add_keypoints(run_id, [one.found for one in good], [one.digest for one in good])
    summary["new"] += len(good)
    summary["points"] += sum(one.found.visible.size for one in good)
    summary["uncertain"] += sum(int((~one.found.visible).sum()) for one in good)
    for reason in ("too_small", "damaged"):
        summary[reason] += [one.frame.crop_id for one in group if one.failure == reason]


@dataclass(frozen=True, eq=False)
class Carried:
    """A stored crop on its way: its input `(3,S,S) uint8`, then its points, or what prevents them."""

    frame: CropFrame
    digest: bytes  # SHA-256 of the stored pixels
    pixels: np.ndarray | None = None
    found: Keypoints | None = None
    failure: str | None = None  # too_small | damaged


def carried(catalog: Catalog, crop_ids: Sequence[int], propagator: Propagator, batch: int) -> Iterator[list[Carried]]:
    """Crops with their points, batch by batch; decoding and the network go on ahead of the caller, who writes."""
    side = propagator.extractor.size

    def prepared(crop: tuple[CropFrame, bytes]) -> Carried:
        frame, jpeg = crop
        one = Carried(frame, hashlib.sha256(jpeg).digest())
        if min(frame.size) < SMALLEST:
            return replace(one, failure="too_small")
        try:
            return replace(one, pixels=prepare(decode_jpeg(jpeg), side))
        except CareError:
            return replace(one, failure="damaged")

    def matched(group: list[Carried]) -> list[Carried]:
        whole = [one for one in group if one.pixels is not None]
        images = np.stack([one.pixels for one in whole]) if whole else ()
        found = iter(propagator.carry(images, [one.digest for one in whole]) if whole else ())
        return [one if one.pixels is None else _settled(one, next(found), propagator) for one in group]

    ready = ahead(
        prepared,
        _stored(catalog, crop_ids, batch),
        depth=2 * batch + WORKERS,
        weigh=lambda crop: len(crop[1]) + 3 * side**2,
    )
    return ahead(matched, batches(ready, batch), workers=1, depth=2)


def _settled(one: Carried, found: Match, propagator: Propagator) -> Carried:
    """The crop with its points; without them when the network gave no numbers (pixels without any contrast)."""
    if not sound(found):
        return replace(one, pixels=None, failure="damaged")
    return replace(one, pixels=None, found=propagator.keypoints(found, one.frame))


def sound(found: Match) -> bool:
    """Did the network give numbers?"""
    return bool(np.isfinite(found.kp_input).all() and np.isfinite(found.confidence).all())


def _stored(catalog: Catalog, crop_ids: Sequence[int], page: int) -> Iterator[tuple[CropFrame, bytes]]:
    """Where crops lie and their stored pixels, read a page at a time; those that lost them meanwhile are left out."""
    for start in range(0, len(crop_ids), page):
        ids = crop_ids[start : start + page]
        frames, pixels = catalog.crop_frame(ids), catalog.pixels(ids)
        yield from ((frames[crop_id], pixels[crop_id]) for crop_id in ids if crop_id in pixels)
