"""`care evaluate keypoints`: how well points are carried between annotated animals (PCK), setting by setting."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, replace
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from care_cli import registry
from care_cli.errors import CareError
from care_cli.evaluation import pairs, pck
from care_cli.evaluation.pck import HEADLINE, Carried
from care_cli.features import Extractor, load_extractor
from care_cli.features.untrained import untrained
from care_cli.records import ModelSpec
from care_cli.stages.carrying import Carrier, FeatureBank, Truth, truth
from care_cli.stages.extractors import prompt_for
from care_cli.stages.sweep import Setting, varied

if TYPE_CHECKING:
    from care_cli.catalog import Catalog

CHOOSING, REPORTED, ALL = "choosing", "reported", "all"


@dataclass(frozen=True)
class EvaluateConfig:
    """What `care evaluate keypoints` was asked to do."""

    spec: ModelSpec
    setting: Setting = field(default_factory=Setting)
    sweep: Mapping[str, tuple] = field(default_factory=dict)  # name -> values; all combinations are measured
    species: str | None = None
    prompt: str | None = None  # None: `extractors.PROMPT`, where the model has words
    pairs: int | None = None  # of each species, drawn with `seed`; None: all
    seed: int = 0  # of the pairs, the untrained weights and the bootstrap
    split: int | None = None  # seed of the half of the animals that chooses the setting
    choose_on: tuple[str, ...] = ()  # individuals that choose it instead
    untrained: str | None = None  # unet | all: what is drawn anew in the network that is compared with
    device: str = "cpu"
    engine: str = "auto"
    precision: str = "auto"


@dataclass(frozen=True)
class Plan:
    """What is measured: for each setting, and each part of the animals, what is carried to what."""

    settings: list[tuple[dict[str, Any], Setting]]  # what was varied, and the setting
    parts: dict[str, Truth]
    transfers: list[dict[str, list[pairs.Transfer]]]  # one a setting, by part

    def __len__(self) -> int:
        return sum(len(listed) for one in self.transfers for listed in one.values())


def run(catalog: Catalog, cfg: EvaluateConfig) -> dict:
    """Measure every setting; with a split, choose one on a half of the animals and report it on the other.

    Answers plain JSON: what was asked, and for each setting, network and part of the animals what `figures` says.
    Raises CareError when nothing can be measured, or when options contradict each other.
    """
    _check(cfg)
    cfg = replace(cfg, prompt=prompt_for(cfg.spec, cfg.prompt))
    known = truth(catalog, cfg.species)
    plan = _plan(known, cfg)
    registry.fetch(cfg.spec)
    used = replace(cfg.spec, sha256=registry.model_sha256(cfg.spec))
    networks = {"trained": used}
    rows: list[dict] = [{"setting": said, "networks": {}} for said, _ in plan.settings]
    everything: dict[tuple[int, str, str], Carried] = {}
    with ExitStack() as stack:
        if cfg.untrained:
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="care-untrained-"))
            networks["untrained"] = untrained(used, Path(folder), seed=cfg.seed, parts=cfg.untrained)
        bar = stack.enter_context(tqdm(total=len(networks) * len(plan), unit="pair", desc="evaluate", disable=None))
        for network, spec in networks.items():
            for number, bank, seconds in _banks(catalog, cfg, spec, plan, known):
                started = time.monotonic()
                setting, found = plan.settings[number][1], {}
                for part, listed in plan.transfers[number].items():
                    carrier = _carrier(bank, setting, plan.parts[part], bar.update)
                    found[part] = everything[number, network, part] = carrier.carry(listed)
                rows[number]["networks"][network] = {
                    "extractor": bank.extractor.settings,
                    "precision": bank.extractor.precision,
                    "matching": asdict(setting.match),
                    "references": setting.references,
                    "mirrored": setting.mirrored,
                    "seconds": round(seconds + time.monotonic() - started, 3),
                    "parts": {part: figures(carried, cfg.seed) for part, carried in found.items()},
                }
    for number, row in enumerate(rows):
        others = {"above_first": (0, "trained"), "above_untrained": (number, "untrained")}
        row |= {name: _above(everything, plan.parts, number, *other, cfg.seed) for name, other in others.items()}
    return _described(cfg, used, known, plan) | {"settings": rows, "chosen": _chosen(rows)}


def figures(carried: Carried, seed: int) -> dict:
    """`pck.measure` in all and by species, and the points of each species."""
    species = {name: carried.where(carried.species == name) for name in sorted(set(carried.species.tolist()))}
    return {
        "all": pck.measure(carried, seed=seed),
        "species": {name: pck.measure(rows, seed=seed) for name, rows in species.items()},
        "points": {name: pck.by_point(rows, seed=seed) for name, rows in species.items()},
    }


def _check(cfg: EvaluateConfig) -> None:
    splits = cfg.split is not None or bool(cfg.choose_on)
    if cfg.split is not None and cfg.choose_on:
        raise CareError("--split and --choose-on both say which animals choose the setting; give one of them.")
    if splits and not cfg.sweep:
        raise CareError("There is nothing to choose from: add --sweep NAME=VALUE,VALUE,... to --split or --choose-on.")
    if len(cfg.sweep) > 2:
        raise CareError(f"A sweep varies one or two things at a time, but got {', '.join(cfg.sweep)}.")
    numbers = {"--pairs": [cfg.pairs], "--references": [cfg.setting.references, *cfg.sweep.get("references", ())]}
    for option, values in numbers.items():
        if any(value is not None and value < 1 for value in values):
            raise CareError(f"{option} is at least 1, but got {min(v for v in values if v is not None)}.")


def _plan(known: Truth, cfg: EvaluateConfig) -> Plan:
    """CareError when a part of the animals has nothing to carry."""
    parts = {ALL: known}
    if cfg.split is not None or cfg.choose_on:
        first = pairs.named(known.crops, cfg.choose_on) if cfg.choose_on else pairs.halves(known.crops, cfg.split)
        parts = {
            part: replace(known, crops=tuple(one for one in known.crops if (one.cluster in first) == chooses))
            for part, chooses in ((CHOOSING, True), (REPORTED, False))
        }
    settings = varied(cfg.setting, cfg.sweep)
    transfers = [{part: _transfers(some, one, cfg) for part, some in parts.items()} for _, one in settings]
    for part in parts:
        if not all(one[part] for one in transfers):
            among = "" if part == ALL else f" among the {part} half of the animals"
            raise CareError(
                f"Nothing can be measured{among}: no two annotated crops of one species, of different photos and "
                "different individuals, share a visible point. Annotate more with `care keypoints`."
            )
    return Plan(settings, parts, transfers)


def _transfers(known: Truth, setting: Setting, cfg: EvaluateConfig) -> list[pairs.Transfer]:
    targets = list(targets_of(known, setting).values())
    return pairs.transfers(known.crops, targets, references=setting.references, count=cfg.pairs, seed=cfg.seed)


def targets_of(known: Truth, setting: Setting) -> dict[int, pairs.Animal]:
    """What points are carried to, by crop: the crops, or their mirror images."""
    flipped = ((one, one.flipped(known.mirrors[one.species])) for one in known.crops)
    return {one.crop: image if setting.mirrored else one for one, image in flipped}


def _banks(
    catalog: Catalog, cfg: EvaluateConfig, spec: ModelSpec, plan: Plan, known: Truth
) -> Iterator[tuple[int, FeatureBank, float]]:
    """Settings by number, each with the features it needs and how long the network took to load.

    Settings with the same features follow each other and share them.
    """
    features = [setting.features for _, setting in plan.settings]
    order = sorted(range(len(features)), key=lambda number: features.index(features[number]))
    for asked, group in groupby(order, key=lambda number: features[number]):
        started = time.monotonic()
        extractor: Extractor = load_extractor(
            spec, asked, cfg.device, engine=cfg.engine, precision=cfg.precision, notice=catalog.notice
        )
        bank = FeatureBank(catalog, extractor, cfg.prompt, known.crops)
        seconds = time.monotonic() - started
        for number in group:
            yield number, bank, seconds


def _carrier(bank: FeatureBank, setting: Setting, known: Truth, told: Callable[[int], object]) -> Carrier:
    sources = {one.crop: one for one in known.crops}
    return Carrier(bank, setting.match, sources, targets_of(known, setting), known.mirrors, told)


def _above(
    found: Mapping[tuple[int, str, str], Carried],
    parts: Iterable[str],
    number: int,
    other: int,
    network: str,
    seed: int,
) -> dict[str, dict] | None:
    """How much PCK@HEADLINE of a setting lies above another one's, by part; None where their points differ."""
    both = {part: (found[number, "trained", part], found.get((other, network, part))) for part in parts}
    if not all(there is not None and pck.comparable(here, there) for here, there in both.values()):
        return None
    return {part: pck.difference(here, there, seed=seed) for part, (here, there) in both.items()}


def _chosen(rows: Sequence[dict]) -> int | None:
    """Number of the setting that the choosing half likes best, by PCK@HEADLINE of its points; None without one."""
    trained = [row["networks"]["trained"]["parts"] for row in rows]
    if CHOOSING not in trained[0]:
        return None
    scores = [one[CHOOSING]["all"]["pck"][str(HEADLINE)]["per_point"]["value"] for one in trained]
    return scores.index(max(scores))


def _described(cfg: EvaluateConfig, used: ModelSpec, known: Truth, plan: Plan) -> dict:
    """What was asked, and of what, so that it can be asked again."""
    anew = {"parts": cfg.untrained if used.family == "diffusers" else "all", "seed": cfg.seed}
    return {
        "model": {"name": used.name, "family": used.family, "architecture": used.architecture, "sha256": used.sha256},
        "untrained": anew if cfg.untrained else None,
        "prompt": cfg.prompt,
        "sweep": {name: list(values) for name, values in cfg.sweep.items()},
        "pairs": cfg.pairs,
        "seed": cfg.seed,
        "split": cfg.split,
        "choose_on": list(cfg.choose_on),
        "intervals": f"95 %, percentile bootstrap of {pck.DRAWS} draws over individuals, photos where unnamed",
        "animals": {
            part: {
                "crops": len(some.crops),
                "photos": len({one.image for one in some.crops}),
                "clusters": len({one.cluster for one in some.crops}),
                "individuals": len({one.individual for one in some.crops} - {None}),
            }
            for part, some in plan.parts.items()
        },
        "mirrors": {name: dict(pairs_) for name, pairs_ in known.mirrors.items()},
        "left_out": {
            "without_pixels": list(known.without_pixels),
            "damaged": list(known.damaged),
            "points_outside_their_crop": known.outside,
        },
    }
