"""Converted networks, kept beside the weights: `cache_folder()/compiled/KEY/`, whole or not at all.

KEY is the digest of everything that the conversion depends on, so nothing kept is ever out of date. A folder holds
`model.xml` and `model.bin` (OpenVINO's format, float32), `about.json` (what the builder found out, and the
digests of the other two), and `blobs/`, where OpenVINO keeps what it made of them for this processor. All of
it may be deleted at any time.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import json
import os
import shutil
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from care_cli import __version__
from care_cli.errors import CareError
from care_cli.weights import cache_folder, digest, file_sha256

# what makes graphs: packages, and modules of our own
BUILDERS = ("torch", "timm", "ultralytics", "open_clip_torch")
SOURCES = ("openvino_engine", "yolo", "encoders", "backbones", "keypoint_vit", "checkpoints", "features/backbone")
DAY = 86400  # seconds
UNUSED_DAYS = 60  # after which a folder goes


@dataclass(frozen=True)
class Entry:
    """What is kept of one network; `model` is None where it was found that OpenVINO can't run it."""

    about: dict[str, Any]
    model: Path | None
    reason: str = ""  # why there is no model


def key(identity: dict[str, Any], **machine: Any) -> str:
    """The name of a network's folder: a digest of what it is, of the machine, and of every version at work."""
    everything = {"network": identity, "machine": machine, "versions": _versions()}
    return hashlib.sha256(json.dumps(everything, sort_keys=True).encode()).hexdigest()[:40]


def read(name: str) -> Entry | None:
    """What is kept under `name`; None when there is nothing, or it is damaged."""
    folder = _folder() / name
    try:
        note = json.loads((folder / "about.json").read_text(encoding="utf-8"))
        for file, expected in note["sha256"].items():
            digest(folder / file, expected)
        model = folder / "model.xml" if note["sha256"] else None
        _mark_used(folder / "about.json")
        return Entry(dict(note["about"]), model, str(note["reason"]))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, CareError):
        return None


def write(name: str, about: dict[str, Any], save: Callable[[Path], None] | None, reason: str = "") -> Path | None:
    """Keep a network; `save(path)` writes model.xml and model.bin. Returns model.xml's place, None when not kept.

    What was there is replaced. When another process was faster its folder stays and ours is dropped.
    """
    place = _folder() / name
    unfinished = place.with_name(f"{name}.{uuid.uuid4().hex}.part")
    try:
        unfinished.mkdir(parents=True)
        _sweep(place.parent)
        if save:
            save(unfinished / "model.xml")
        digests = {path.name: file_sha256(path) for path in sorted(unfinished.iterdir())}
        note = {"about": about, "sha256": digests, "reason": reason}
        (unfinished / "about.json").write_text(json.dumps(note, indent=1), encoding="utf-8")
        _move(unfinished, place)
    except (OSError, RuntimeError):  # a cache that can't be written costs a conversion each time, no more
        return None
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return place / "model.xml" if save else None


def drop(name: str) -> None:
    """Forget what is kept under `name`."""
    shutil.rmtree(_folder() / name, ignore_errors=True)


def _move(unfinished: Path, place: Path) -> None:
    """Rename, unless what another process made is there already; what is damaged makes room."""
    try:
        unfinished.rename(place)
    except OSError:
        if read(place.name) is None:
            shutil.rmtree(place, ignore_errors=True)
            unfinished.rename(place)


def _folder() -> Path:
    return cache_folder() / "compiled"


def _versions() -> dict[str, str]:
    """Of the packages that build graphs, and of our own modules that do."""
    versions = {"care": __version__}
    for package in BUILDERS:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = "absent"
    for module in SOURCES:
        versions[module] = file_sha256(Path(__file__).parent / f"{module}.py")
    return versions


def _mark_used(note: Path) -> None:
    if time.time() - note.stat().st_mtime > DAY:
        with contextlib.suppress(OSError):  # of another user's cache
            os.utime(note)


def _sweep(folder: Path) -> None:
    """Remove what nobody has used for long: networks as older versions converted them, and what was left half-way."""
    for old in folder.iterdir():
        note = old / "about.json"
        used = (note if note.is_file() else old).stat().st_mtime
        if time.time() - used > UNUSED_DAYS * DAY:
            shutil.rmtree(old, ignore_errors=True)
