"""Catalogs of one textured animal in many places and sizes, with the truth of where its points are."""

from __future__ import annotations

import hashlib
from pathlib import Path

import catalogs
import numpy as np
import pytest
from PIL import Image

from care_cli.catalog import Catalog
from care_cli.records import ModelSpec, NamedPoint, Photo

WIDTH, HEIGHT = 320, 240  # px, of every photo
COAT = 96  # px, side of the animal as it is drawn
POINTS = {"left_eye": (20.5, 24.0), "right_eye": (70.0, 30.5), "nose": (48.0, 75.0)}  # px of the coat
MIRRORS = {"left_eye": "right_eye", "right_eye": "left_eye"}


def coat() -> np.ndarray:
    """The animal's pixels `(96, 96, 3) uint8`: spots of all sizes, each of a colour of its own."""
    rng = np.random.default_rng(7)
    layers = [Image.fromarray(rng.integers(0, 256, (n, n, 3), np.uint8)).resize((COAT, COAT), 3) for n in (4, 9, 20)]
    return np.mean([np.asarray(layer, float) for layer in layers], 0).astype(np.uint8)


def photo(number: int, mirrored: bool = False) -> tuple[np.ndarray, tuple, dict[str, tuple[float, float]]]:
    """Pixels `(H,W,3) uint8`, the animal's box, and its points in px of the photo; no two numbers alike."""
    rng = np.random.default_rng(number)
    width, height = (int(COAT * rng.uniform(0.85, 1.2)) for _ in range(2))
    x, y = int(rng.integers(20, WIDTH - width - 20)), int(rng.integers(20, HEIGHT - height - 20))
    pixels = rng.integers(90, 130, (HEIGHT, WIDTH, 3), np.uint8)
    drawn = np.asarray(Image.fromarray(coat()).resize((width, height), Image.Resampling.BICUBIC))
    pixels[y : y + height, x : x + width] = drawn[:, ::-1] if mirrored else drawn
    points = {name: (x + u * width / COAT, y + v * height / COAT) for name, (u, v) in POINTS.items()}
    if mirrored:
        points = {MIRRORS.get(name, name): (2 * x + width - u, v) for name, (u, v) in points.items()}
    return pixels, (float(x), float(y), float(width), float(height)), points


def add(catalog: Catalog, run: int, number: int, species: str | None = "Lynx", **how) -> tuple[int, dict]:
    """A photo's crop in the catalog: its id, and the truth."""
    pixels, box, points = photo(number, **how)
    digest = hashlib.sha256(pixels.tobytes()).hexdigest()
    image = catalog.add_image(Photo(digest, pixels.size, width=WIDTH, height=HEIGHT), None)
    [crop] = catalog.add_crops(run, image, [catalogs.crop_of(pixels, catalogs.found(box, species=species))])
    return crop, points


def survey(catalog: Catalog, photos: int = 6, species: str | None = "Lynx") -> dict[int, dict]:
    """The truth by crop id, of as many photos."""
    run = catalogs.detect_run(catalog)
    return dict(add(catalog, run, number, species) for number in range(photos))


def named(points: dict[str, tuple[float, float]]) -> list[NamedPoint]:
    """Points as a template has them."""
    return [NamedPoint(name, x, y, MIRRORS.get(name)) for name, (x, y) in points.items()]


def extractor(folder: Path) -> ModelSpec:
    """A small untrained network, always the same one: its first stages know textures well enough."""
    torch, timm = pytest.importorskip("torch"), pytest.importorskip("timm")
    from safetensors.torch import save_file

    from care_cli import registry

    weights = folder / "test_resnet.safetensors"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        save_file(timm.create_model("test_resnet", num_classes=0).state_dict(), weights)
    return registry.find_extractor("timm:test_resnet", weights)
