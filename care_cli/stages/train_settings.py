"""What `care train` was asked for, and the settings and weights that follow from it."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from care_cli import registry
from care_cli.checkpoints import read_header
from care_cli.errors import CareError
from care_cli.geometry import InputSize
from care_cli.records import ModelSpec
from care_cli.stages import trained
from care_cli.stages.splits import SplitRequest

if TYPE_CHECKING:
    from care_cli.catalog import Catalog
    from care_cli.training.config import TrainConfig

TABLES = ("augmentation", "text", "frequency")  # settings that are tables: 'augmentation.flip'
OWN = ("method", "backbone", "architecture", "seed", *TABLES)  # settings with options of their own, and the tables
NOTHING = "none"  # what weights are called that do not exist


@dataclass(frozen=True)
class TrainRequest:
    """What `care train` was asked to do."""

    method: str = "vit"  # a name of training.methods.METHODS
    presets: tuple[str, ...] = ()  # bundles of the method's settings, later ones over earlier
    name: str | None = None  # of the model; None: METHOD-RUN. With several seeds -SEED is added
    backbone: str | None = (
        None  # a size, or a name of timm's or open_clip's; None: the weights', the method's, by device
    )
    weights: str | None = (
        None  # to begin from: a model's name or a file; None: as the method does; NOTHING: from scratch
    )
    species: str | None = None  # only its crops
    split: SplitRequest = field(default_factory=SplitRequest)
    seeds: tuple[int, ...] = (0,)  # a model each
    folder: Path | None = None  # of the models; None: beside the catalog, CATALOG.models
    device: str = "cpu"
    settings: dict[str, Any] = field(default_factory=dict)  # of TrainConfig, 'augmentation.flip'
    points_run: int | None = None  # a run whose points are seen instead of the standing ones
    point_names: tuple[str, ...] = ()  # the categories that are seen; none: all


def settings_of(request: TrainRequest, spec: ModelSpec | None) -> TrainConfig:
    """The training's settings, the seed apart. CareError for names and values that no training can have."""
    import torch

    from care_cli import encoders
    from care_cli.training import methods, precision

    given = {key: value for key, value in request.settings.items() if "." not in key}
    by_device = "small" if request.device == "cpu" else "large"
    backbone = request.backbone or (spec and spec.architecture) or methods.usual(request.method)[0] or by_device
    size = backbone if backbone in methods.SIZES else None
    if size is None:
        given["backbone"] = backbone
    stated = _stated(spec, given.get("input_size")) if spec else None
    ours = spec is not None and spec.family == "care"  # a model that is gone on from goes on seeing what it saw
    told = {"own": stated} if ours else {"begun": stated}
    cfg = methods.configure(request.method, size, request.presets, **told, **given)
    for table in TABLES:
        changes = {
            key.removeprefix(f"{table}."): value
            for key, value in request.settings.items()
            if key.startswith(f"{table}.")
        }
        cfg = replace(cfg, **{table: replace(getattr(cfg, table), **changes)})
    if spec and spec.family == "open_clip" and backbone != spec.architecture:
        raise CareError(
            f"The weights of {spec.name} are of {spec.architecture}, and another backbone would read them wrongly: "
            "leave --backbone out."
        )
    name, options = methods.architecture(cfg)
    with torch.device("meta"):
        encoders.build_backbone(name, **options)  # refused before anything is begun
    return replace(cfg, precision=precision.resolve(cfg.precision, torch.device(request.device)))


def _stated(spec: ModelSpec, size: InputSize | None) -> dict[str, Any]:
    """What weights to begin from say of themselves: means, deviations, and of our own also size and options.

    A network that was built for its photos' size is built for the `size` that is asked for, None: for its own.
    """
    from care_cli.training import plain_vits

    stated: dict[str, Any] = {"mean": spec.mean, "std": spec.std}
    if spec.family == "care":
        header = read_header(registry.fetch(spec))
        stated |= {key: header.get(key) for key in ("input_size", "options", "mean", "std")}
        if spec.architecture in plain_vits.OURS:
            stated |= plain_vits.begun(stated["options"] or {})
        elif size is not None and "img_size" in (stated["options"] or {}):
            stated["options"] |= {"img_size": size}
    return {
        key: tuple(value) if isinstance(value, list) else value for key, value in stated.items() if value is not None
    }


def pretrained(catalog: Catalog, request: TrainRequest) -> ModelSpec | None:
    """The weights to begin from: of a model trained here, of the registry, or a file; None: from scratch.

    CareError when they are not here, or of a family that nothing here begins from.
    """
    from care_cli.training import methods

    backbone, usual = methods.usual(request.method)
    weights = request.weights or (usual if request.backbone in (None, backbone) else None)
    if weights is None and methods.describes(request.method):
        raise CareError(
            f"{request.method} learns from a CLIP that can read: name {request.backbone}'s weights with --weights, "
            f"or --weights {NOTHING}: it learns from scratch, and its words say nothing."
        )
    if weights in (None, NOTHING):
        return None
    path = Path(weights)
    if not path.is_file():
        spec = trained.find(catalog, weights)
        if spec.family not in ("timm", "care", "open_clip"):
            raise CareError(
                f"{spec.name} is no model of timm or open_clip, so a training cannot begin from its weights."
            )
        registry.fetch(spec)
        return spec
    if path.suffix == ".safetensors" and read_header(path).get("task") == "embedder":
        return registry.find(path, task="embedder")
    from care_cli.training.loop import BEST, HISTORY, LAST

    if path.name in (BEST, LAST) and path.with_name(HISTORY).exists():  # it does not say what it has learned from
        raise CareError(f"{path} is a training's own checkpoint and goes with its folder. Begin from a finished model.")
    return ModelSpec(name=path.name, task="embedder", family="timm", file=str(path.resolve()))


def overrides(texts: Iterable[str], usual: Any = None) -> dict[str, Any]:
    """Settings from `NAME=VALUE` texts, values in JSON or plain words; `usual` are the settings that they change.

    CareError for a name or a kind that is not theirs, of TrainConfig where none are given.
    """
    if usual is None:
        from care_cli.training.config import TrainConfig

        usual = TrainConfig()
    tables = [name for name in TABLES if hasattr(usual, name)]
    found: dict[str, Any] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        of, _, key = name.rpartition(".")
        table = getattr(usual, of) if of in tables else usual
        known = [one.name for one in fields(table) if one.name not in OWN]
        if not equals or of not in ("", *tables) or key not in known:
            beside = "".join(f", {one}.NAME" for one in tables)
            raise CareError(f"A setting is NAME=VALUE, but got {text!r}; names are {', '.join(known)}{beside}.")
        open_ended = any(one.name == key and "None" in str(one.type) for one in fields(table))
        found[name] = _read(name, value, getattr(table, key), open_ended)
    return found


def _read(name: str, text: str, usual: Any, open_ended: bool) -> Any:
    """A value of the kind that the usual one is of; a setting that is usually None is a number, and one that may be
    None is `open_ended`."""
    try:
        value = json.loads(text)
    except ValueError:
        value = text
    kind = float if usual is None else type(usual)
    if value is None and open_ended:
        return None
    if name == "input_size" and isinstance(value, list) and len(value) == 2 and all(_is(one, int) for one in value):
        return tuple(value)
    if kind is tuple and isinstance(value, list) and all(_is(one, float) for one in value):
        return tuple(map(float, value))
    if not _is(value, kind):
        raise CareError(f"{name} is {_words(kind)}, such as {json.dumps(usual)}, but got {text!r}.")
    return float(value) if kind is float else value


def _is(value: Any, kind: type) -> bool:
    if kind in (int, float):
        return isinstance(value, int | kind) and not isinstance(value, bool)
    return isinstance(value, kind) and kind is not tuple


def _words(kind: type) -> str:
    return {int: "a whole number", float: "a number", str: "a word", bool: "true or false", dict: "a JSON table",
            tuple: "a list of numbers"}[kind]  # fmt: skip
