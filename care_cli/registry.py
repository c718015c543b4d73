"""From a model's name to its description, and from there to a verified file. No torch.

Names come from `models/registry.toml`, from manifests of the same form that the user added, and from
paths. Weights live in the cache folder, arrive through a temporary file, and are checked by SHA-256 on
arrival and again whenever their size or modification time has changed.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import re
import tomllib
import urllib.parse
from collections.abc import Iterable
from dataclasses import asdict, fields, replace
from functools import cache
from pathlib import Path, PurePosixPath
from typing import Any

from care_cli import checkpoints
from care_cli.errors import CareError
from care_cli.headers import check_name, check_values, checked_classes, meanings
from care_cli.outputs import write_whole
from care_cli.pipelines import describe_pipeline, hub_folder
from care_cli.records import ModelSpec
from care_cli.weights import Progress, cache_folder, check_url, digest, download

TASKS = ("detector", "embedder", "diffusion")
FAMILIES = ("ultralytics", "timm", "open_clip", "miewid", "care", "diffusers", "cleandift")
WEIGHT_SUFFIXES = (".pt", ".pth", ".bin", ".safetensors")


# Descriptions ---------------------------------------------------------------------------------------


def models_folder() -> Path:
    """The folder of registry.toml, the cards and the shipped weights: installed, or in a checkout."""
    here = Path(__file__).resolve().parent
    for folder in (here / "models", here.parent / "models"):
        if (folder / "registry.toml").is_file():
            return folder
    raise CareError("models/registry.toml was not found beside CARE; reinstall the package")


def entries() -> dict[str, ModelSpec]:
    """Every model known by name: those that CARE ships with, then those that the user added."""
    known = dict(shipped())
    added = cache_folder() / "registry.d"
    if added.is_dir():
        for path in sorted(added.glob("*.toml")):
            known.update(read_manifest(path))
    return known


@cache
def shipped() -> dict[str, ModelSpec]:
    """The models that CARE itself describes, by name."""
    folder = models_folder()
    return _parse(folder / "registry.toml", folder, {})


def read_manifest(path: Path) -> dict[str, ModelSpec]:
    """The models described by a `.toml` file of the registry's form; its `file` may lie anywhere."""
    path = Path(path).resolve()
    shared = _read_toml(models_folder() / "registry.toml").get("classes", {})
    return _parse(path, None, shared)


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise CareError(f"{path} can't be read: {error.strerror or error}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise CareError(f"{path} is not a model manifest: {error}") from error


def _parse(path: Path, root: Path | None, shared: dict[str, Any]) -> dict[str, ModelSpec]:
    """Entries of one file. Weights below `root` where it is given; else resolved beside the manifest."""
    document = _read_toml(path)
    tables = document.get("models")
    if not isinstance(tables, dict) or not tables:
        raise CareError(f"{path} describes no model: expected a table [models.NAME]")
    if not isinstance(document.get("classes", {}), dict):
        raise CareError(f"{path}: [classes] must be a table of tables")
    named_classes = shared | document.get("classes", {})
    specs = {}
    for name, table in tables.items():
        spec = _spec(path, name, table, named_classes)
        if spec.file and root is not None:
            _inside(path, name, spec.file)
        elif spec.file:
            spec = replace(spec, file=str((path.parent / spec.file).resolve()))
        specs[name] = spec
    return specs


def _spec(path: Path, name: str, table: Any, named_classes: dict[str, Any]) -> ModelSpec:
    where = f"{path}, model {name!r}"
    check_name(where, name)
    if not isinstance(table, dict):
        raise CareError(f"{where}: expected a table, got {type(table).__name__}")
    known = {field.name for field in fields(ModelSpec)} - {"name"}
    if unknown := sorted(set(table) - known):
        raise CareError(f"{where}: unknown keys {', '.join(unknown)}; known are {', '.join(sorted(known))}")
    values = dict(table)
    for key, allowed in (("task", TASKS), ("family", FAMILIES)):
        if values.get(key) not in allowed:
            raise CareError(f"{where}: {key} must be one of {', '.join(allowed)}, got {values.get(key)!r}")
    if isinstance(values.get("classes"), str):
        if values["classes"] not in named_classes:
            raise CareError(f"{where}: there is no table [classes.{values['classes']}]")
        values["classes"] = named_classes[values["classes"]]
    values["classes"] = checked_classes(where, values.get("classes", {}))
    check_values(where, values)
    for key in ("mean", "std", "default_for", "files"):
        if key in values:
            values[key] = tuple(values[key])
    for key, length in (("sha256", 64), ("md5", 32)):
        if key in values and not re.fullmatch(f"[0-9a-f]{{{length}}}", str(values[key])):
            raise CareError(f"{where}: {key} must be {length} lower-case hexadecimal digits")
    for file in values.get("files", ()):
        _inside(path, name, file)
    if url := values.get("url"):
        check_url(url)
        if not values.get("files"):
            _inside(path, name, _file_of(url))
    return ModelSpec(name=name, **values)


def _file_of(url: str) -> str:
    """What the file behind an address is called."""
    return PurePosixPath(urllib.parse.urlparse(url).path).name


def _inside(path: Path, name: str, file: str) -> None:
    """Refuse a path that leaves the model's own folder, on any platform."""
    parts = PurePosixPath(file).parts
    if "\\" in file or ":" in file or not parts or PurePosixPath(file).is_absolute() or ".." in parts:
        raise CareError(f"{path}, model {name!r}: {file!r} leads out of the models folder")


def classes_for(names: Iterable[str]) -> dict[str, dict]:
    """What the classes of a bare weights file mean, by their names.

    COCO's and MegaDetector's are known; others are taken by name, see `headers.meanings`.
    """
    names = list(names)
    for known in named_classes().values():
        if set(known) <= set(names) and (len(names) == 80 or set(known) == set(names)):
            return known
    return meanings(names)


@cache
def named_classes() -> dict[str, dict[str, dict]]:
    """The class tables of registry.toml by name: `coco`, `megadetector`."""
    path = models_folder() / "registry.toml"
    return {name: checked_classes(str(path), table) for name, table in _read_toml(path)["classes"].items()}


# Finding --------------------------------------------------------------------------------------------


def find(name: str | Path, *, task: str | None = None, weights: Path | None = None) -> ModelSpec:
    """The description behind what a user typed after `--model`.

    A registry name, a weights file, a `.toml` manifest, or `timm:NAME` (any timm model). `weights` is a
    local file used instead of the one in the cache. Raises CareError for an unknown name, a missing file,
    or a model of another task than `task`.
    """
    text = str(name)
    if text.startswith("timm:"):
        spec = ModelSpec(name=text, task="embedder", family="timm", architecture=text[5:])
        if weights is None:
            raise CareError(f"{text} needs its weights: add --weights FILE (.safetensors or a state dict)")
    elif text in (known := entries()):
        spec = known[text]
    elif Path(text).suffix.lower() == ".toml":
        spec = _only_model(Path(text))
    elif Path(text).suffix.lower() in WEIGHT_SUFFIXES:
        spec = _describe_file(Path(text))
    else:
        close = difflib.get_close_matches(text, known, n=3, cutoff=0.4)
        hint = f"did you mean {' or '.join(close)}?" if close else "`care models list` shows the known names"
        raise CareError(f"there is no model {text!r}; {hint}")
    if weights is not None:
        if not Path(weights).is_file():
            raise CareError(f"there is no weights file {weights}")
        spec = replace(spec, file=str(Path(weights).resolve()), url=None, files=(), sha256=None, md5=None, bytes=None)
    if task is not None and spec.task != task:
        raise CareError(f"{text} is of the task '{spec.task}'; this command needs a model of '{task}'")
    return spec


def find_extractor(text: str, weights: Path | None = None) -> ModelSpec:
    """The model behind what a user typed after `--extractor`.

    `sd` (the default diffusion model), `sd:NAME` of the registry, `sd:FOLDER` in diffusers' form, `sd:ORG/REPO` when
    Hugging Face's cache on this machine holds it, or whatever `find` takes: `timm:NAME` with its `weights`, a name.
    """
    kind, _, rest = str(text).partition(":")
    if kind != "sd":
        return find(text, weights=weights)
    if weights is not None:
        raise CareError(f"--weights is for timm:NAME; a diffusion model is a folder: --extractor sd:{weights}")
    if not rest or rest in entries():
        return find(rest or default("propagate:cuda").name, task="diffusion")
    if Path(rest).is_dir():
        return describe_pipeline(Path(rest), Path(rest).resolve().name)
    if re.fullmatch(r"[\w.-]+/[\w.-]+", rest):
        return describe_pipeline(hub_folder(rest), rest)
    raise CareError(f"there is no folder {rest} and no such model; `care models list --task diffusion` shows the known")


def default(role: str) -> ModelSpec:
    """The model that a bare command uses for a role (detect:cpu, index, propagate:cuda ...); the user's own first."""
    for spec in reversed(entries().values()):
        if role in spec.default_for:
            return spec
    raise CareError(f"the registry names no default for {role}; say which model with --model")


def _only_model(manifest: Path) -> ModelSpec:
    specs = list(read_manifest(manifest).values())
    if len(specs) > 1:
        names = ", ".join(spec.name for spec in specs)
        raise CareError(f"{manifest} describes {names}; add it with `care models add` and name one of them")
    return specs[0]


def _describe_file(path: Path) -> ModelSpec:
    if not path.is_file():
        hint = f"; the registry knows {path.stem}" if path.stem in entries() else ""
        raise CareError(f"there is no weights file {path}{hint}")
    path = path.resolve()
    if path.suffix.lower() != ".safetensors":
        return ModelSpec(name=path.stem, task="detector", family="ultralytics", file=str(path))
    header = checkpoints.read_header(path)
    if header.get("task") not in TASKS:
        raise CareError(
            f"{path} was not written by CARE and does not say what it is; for a timm model give its name: "
            f"--model timm:NAME --weights {path.name}"
        )
    if "name" in header:
        check_name(str(path), header["name"])
    return ModelSpec(
        name=header.get("name", path.stem),
        task=header["task"],
        family="care",
        architecture=header.get("architecture") or "",
        input_size=header.get("input_size"),
        dim=header.get("dim"),
        shown=header.get("shown"),
        classes=checked_classes(str(path), header.get("classes", {})),
        licence=header.get("licence") or "unknown",
        file=str(path),
    )


# Files ----------------------------------------------------------------------------------------------


def location(spec: ModelSpec) -> Path:
    """Where the weights are or would be: a file, or the folder of a model of several files."""
    if spec.file:
        file = Path(spec.file)
        return file if file.is_absolute() else models_folder() / file
    folder = cache_folder() / spec.name
    if spec.files or not spec.url:
        return folder
    return folder / _file_of(spec.url)


def is_here(spec: ModelSpec) -> bool:
    """Are all the model's files on this machine? (Their content is not checked.)"""
    return all(path.is_file() for path in _paths(spec))


def _paths(spec: ModelSpec) -> list[Path]:
    place = location(spec)
    return [place.joinpath(*PurePosixPath(file).parts) for file in spec.files] if spec.files else [place]


def fetch(spec: ModelSpec) -> Path:
    """The verified local weights: a file, or the folder of a model of several files.

    Never touches the network. Raises CareError, naming the `care models pull` to run, when they are not
    on this machine, and when their bytes are not those that were published or first pulled.
    """
    for path in _paths(spec):
        if not path.is_file():
            raise CareError(_absent(spec, path))
        digest(path, expected=None if spec.files else spec.sha256, md5=None if spec.files else spec.md5)
    return location(spec)


def _absent(spec: ModelSpec, path: Path) -> str:
    if spec.file:
        return f"the weights of {spec.name} are missing: there is no file {path}"
    if not spec.url:
        return (
            f"{spec.name} can't be pulled: its licence is {spec.licence!r}. Get the weights from "
            f"{spec.source} and use them with --weights FILE"
        )
    return f"the weights of {spec.name} are not on this machine; while online, run: care models pull {spec.name}"


def model_sha256(spec: ModelSpec) -> str:
    """What identifies the model's weights in a run: the file's SHA-256, or that of its files' digests."""
    paths = _paths(spec)
    if not spec.files:
        return digest(paths[0], expected=spec.sha256, md5=spec.md5)
    listing = "".join(f"{digest(path)}  {file}\n" for path, file in zip(paths, spec.files, strict=True))
    return hashlib.sha256(listing.encode()).hexdigest()


def pull(spec: ModelSpec, progress: Progress | None = None) -> Path:
    """Bring the weights onto this machine and check them; files that are there already are kept.

    `progress(file name, bytes so far, bytes in all)` is called as they arrive. Raises CareError when there
    is nothing to pull from, the network fails, or the bytes are not the published ones.
    """
    if not spec.url and not is_here(spec):
        raise CareError(_absent(spec, location(spec)))
    for path, file in zip(_paths(spec), spec.files or ("",), strict=True):
        if spec.file or path.is_file():
            continue
        if file:
            download(urllib.parse.urljoin(spec.url, urllib.parse.quote(file)), path, progress=progress)
        else:
            download(spec.url, path, sha256=spec.sha256, md5=spec.md5, progress=progress)
    return fetch(spec)


def verify(spec: ModelSpec) -> str:
    """Read every file of a model again, whatever was noted before, and return the model's SHA-256.

    Raises CareError when one is missing, changed, or not what was published.
    """
    for path in _paths(spec):
        if not path.is_file():
            raise CareError(_absent(spec, path))
        digest(path, expected=None if spec.files else spec.sha256, md5=None if spec.files else spec.md5, again=True)
    return model_sha256(spec)


def add(path: Path) -> list[ModelSpec]:
    """Make the models of a manifest, or one checkpoint of ours, known by name from now on.

    Their descriptions are written to the cache folder's `registry.d`; weights stay where they are. Raises
    CareError for a name that CARE ships with.
    """
    path = Path(path)
    if not path.is_file():
        raise CareError(f"there is no file {path}")
    specs = list(read_manifest(path).values()) if path.suffix.lower() == ".toml" else [find(path)]
    for spec in specs:
        check_name(str(path), spec.name)
        if spec.name in shipped():
            raise CareError(f"the name {spec.name} belongs to a model that CARE ships with; choose another")
    folder = cache_folder() / "registry.d"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CareError(f"{folder} cannot be made: {error.strerror or error}. Or set CARE_MODELS.") from error
    for spec in specs:
        write_whole(folder / f"{spec.name}.toml", _manifest(spec))
    return specs


def _manifest(spec: ModelSpec) -> str:
    """A description in the registry's form; JSON strings, numbers and arrays are TOML too."""
    lines = [f"[models.{json.dumps(spec.name)}]"]
    for key, value in asdict(spec).items():
        if key not in ("name", "classes") and value not in (None, ()):
            lines.append(f"{key} = {json.dumps(value, ensure_ascii=False)}")
    for label, meaning in spec.classes.items():
        lines.append(f"\n[models.{json.dumps(spec.name)}.classes.{json.dumps(label, ensure_ascii=False)}]")
        lines += [f"{key} = {json.dumps(value, ensure_ascii=False)}" for key, value in meaning.items()]
    return "\n".join(lines) + "\n"


def recall(described: dict[str, Any]) -> ModelSpec:
    """The model that a run was made with, from the description that the catalog kept of it.

    The registry's entry of that name when its weights are the same, else the file that was used. Raises
    CareError when neither is on this machine.
    """
    kept = {name: tuple(value) if isinstance(value, list) else value for name, value in described.items()}
    stored = ModelSpec(**{field.name: kept[field.name] for field in fields(ModelSpec) if field.name in kept})
    for spec in (entries().get(stored.name), stored):
        if spec and is_here(spec) and model_sha256(spec) == stored.sha256:
            return replace(spec, sha256=stored.sha256)
    raise CareError(
        f"the weights of {stored.name} (SHA-256 {str(stored.sha256)[:12]}…), which this catalog was made with, are "
        f"not on this machine; run `care models pull {stored.name}` or put them back at {location(stored)}"
    )
