"""Annotated crops as an extractor sees them: what points are carried from. Their features are kept in files.

A file's name begins with the digest of the crop's pixels and goes on with that of all else that its features depend
on, so what it holds never changes. It may be deleted at any time, and several processes may write it.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import io
import json
import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from care_cli import __version__, geometry
from care_cli.features import Extractor, prepare, seed_of
from care_cli.images import decode_jpeg
from care_cli.keypoints.matching import Reference, mirror_indices
from care_cli.records import CropFrame, NamedPoint

if TYPE_CHECKING:
    import torch

LIBRARIES = ("torch", "timm", "diffusers", "transformers", "openvino", "pillow", "numpy")
SUFFIX = ".features"
DIGEST = 32  # hexadecimal digits of a digest in a file's name


@dataclass(frozen=True)
class Annotated:
    """A crop and the named points on it."""

    jpeg: bytes  # its stored pixels
    frame: CropFrame
    points: tuple[NamedPoint, ...]  # image frame

    @cached_property
    def pixels_sha256(self) -> bytes:
        """SHA-256 of the stored pixels."""
        return hashlib.sha256(self.jpeg).digest()

    @cached_property
    def digest(self) -> str:
        """SHA-256 of all that it says: pixels and points, in whatever order."""
        points = sorted([point.name, point.x, point.y, point.mirror] for point in self.points)
        return hashlib.sha256(json.dumps([self.pixels_sha256.hex(), points]).encode()).hexdigest()


def make_reference(
    annotated: Annotated, extractor: Extractor, prompt: str = "", *, mirrored: bool = False, cache: Cache | None = None
) -> Reference:
    """The crop with its features, those of its mirror image too where `mirrored` says so.

    Raises CareError when the pixels are damaged.
    """
    frame, side = annotated.frame, extractor.size
    pixels = prepare(decode_jpeg(annotated.jpeg), side)
    seed = seed_of(annotated.pixels_sha256)

    def features(turned: bool) -> torch.Tensor:
        def compute() -> torch.Tensor:
            return extractor((pixels[:, :, ::-1] if turned else pixels)[None].copy(), [seed], prompt)[0]

        return cache.features(annotated, extractor, prompt, turned, compute) if cache else compute()

    kp_image = np.array([(point.x, point.y) for point in annotated.points], float)
    kp_crop = geometry.to_crop(kp_image, frame.rect, frame.size)
    return Reference(
        features=features(False),
        kp_input=geometry.crop_to_input(kp_crop, frame.size, side),
        names=tuple(point.name for point in annotated.points),
        swap=mirror_indices(annotated.points),
        scale=(frame.rect[2] / side, frame.rect[3] / side),
        longest=max(frame.box[2:]),
        mirrored=features(True) if mirrored else None,
    )


@dataclass(frozen=True)
class Cache:
    """Features of annotated crops in files of a folder; one that cannot be written costs time, no more."""

    folder: Path
    model: str  # SHA-256 of the extractor's weights

    def features(
        self, annotated: Annotated, extractor: Extractor, prompt: str, mirrored: bool, compute
    ) -> torch.Tensor:
        """Features `(C,h,w) float32` on the extractor's device, from the file or else as `compute` gives them."""
        import torch

        path = self.folder / self._name(annotated, extractor, prompt, mirrored)
        if (kept := _read(path)) is None:
            kept = compute()
            _write(path, kept.cpu().numpy())
            return kept
        return torch.from_numpy(kept).to(extractor.device)

    def _name(self, annotated: Annotated, extractor: Extractor, prompt: str, mirrored: bool) -> str:
        depends = {
            "model": self.model,
            "settings": extractor.settings,
            "prompt": prompt,
            "mirrored": mirrored,
            "engine": [extractor.engine, extractor.device.partition(":")[0], extractor.precision],
            "versions": [__version__, *(_version(name) for name in LIBRARIES)],
        }
        key = hashlib.sha256(json.dumps(depends, sort_keys=True).encode()).hexdigest()
        return f"{annotated.pixels_sha256.hex()[:DIGEST]}-{key[:DIGEST]}{SUFFIX}"


def sweep(folder: Path, pixels: Sequence[bytes]) -> None:
    """Delete the files of a folder that are of none of the crops with these `pixels` (SHA-256)."""
    kept = {digest.hex()[:DIGEST] for digest in pixels}
    with suppress(OSError):  # no folder: nothing was kept
        for path in list(folder.iterdir()):
            if path.name.partition("-")[0] not in kept:
                with suppress(OSError):  # on Windows, while another process has it open
                    path.unlink()


def _version(library: str) -> str | None:
    with suppress(importlib.metadata.PackageNotFoundError):
        return importlib.metadata.version(library)
    return None


def _read(path: Path) -> np.ndarray | None:
    """What was written, or None when there is no such file or it is not whole."""
    with suppress(OSError, ValueError):
        data = path.read_bytes()
        if hashlib.sha256(data[32:]).digest() == data[:32]:
            return np.load(io.BytesIO(data[32:]), allow_pickle=False)
    return None


def _write(path: Path, features: np.ndarray) -> None:
    """The SHA-256 of an .npy file and that file, through a temporary one and a rename."""
    stream = io.BytesIO()
    np.save(stream, features, allow_pickle=False)
    unfinished = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished.write_bytes(hashlib.sha256(stream.getvalue()).digest() + stream.getvalue())
        unfinished.replace(path)
    except OSError:
        with suppress(OSError):
            unfinished.unlink(missing_ok=True)
