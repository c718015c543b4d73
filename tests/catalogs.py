"""Small catalogs for tests: real SQLite files, made through the catalog's own methods."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from care_cli import geometry
from care_cli.catalog import Catalog
from care_cli.geometry import Box
from care_cli.images import cut_crop
from care_cli.records import Crop, Detection, ModelSpec, Photo

WIDTH, HEIGHT = 320, 240  # px, of every photo
DETECTOR = ModelSpec("test-detector", "detector", "ultralytics", sha256="d" * 64, shown=0.3)
EMBEDDER = ModelSpec("test-embedder", "embedder", "timm", sha256="e" * 64)


def new(path: Path) -> Catalog:
    """An empty catalog."""
    return Catalog(path, create=True)


def noise(seed: int) -> np.ndarray:
    """A photo's pixels `(H, W, 3) uint8`: bright noise that no two seeds share, and nowhere black."""
    return np.random.default_rng(seed).integers(60, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)


def found(box: Box, category: str = "animal", confidence: float = 0.9, species: str | None = None) -> Detection:
    """A detection."""
    return Detection(box, confidence, species or category, category, species)


def crop_of(pixels: np.ndarray, detection: Detection, longest: int = geometry.CROP_LONGEST) -> Crop:
    """A detection's crop as a detect run stores it."""
    rect = geometry.crop_rectangle(detection.box, (pixels.shape[1], pixels.shape[0]))
    if detection.category != "animal":
        return Crop(detection, rect)
    size = geometry.stored_size(rect, longest)
    return Crop(detection, rect, cut_crop(Image.fromarray(pixels), rect, size), size)


def detect_run(catalog: Catalog, **settings) -> int:
    """A finished detect run of the test detector."""
    run = catalog.begin_run("detect", settings, DETECTOR)
    catalog.finish_run(run)
    return run


def add_photo(
    catalog: Catalog,
    name: str,
    captured_at: str | None = "2024-05-01 12:00:00",
    deployment: str | None = "north",
    folder: Path | None = None,
    **facts,
) -> int:
    """An image of its own, seen as `name`; with `folder`, a true PNG file there whose bytes it is."""
    pixels = noise(int(hashlib.sha256(name.encode()).hexdigest()[:8], 16))
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG", compress_level=1)
    data = stream.getvalue()
    if folder is not None:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    photo = Photo(
        hashlib.sha256(data).hexdigest(), len(data), width=WIDTH, height=HEIGHT, captured_at=captured_at, **facts
    )
    with catalog.transaction():
        source = catalog.add_source("volume", b"card", "card", folder.as_posix() if folder else "/media/card")
        place = catalog.add_deployment(deployment) if deployment else None
        image = catalog.add_image(photo, place)
        catalog.add_file(source, name.encode(), name, len(data), 1, image_id=image)
    return image


def pixels_of(name: str) -> np.ndarray:
    """The pixels of the photo that `add_photo` made for a name."""
    return noise(int(hashlib.sha256(name.encode()).hexdigest()[:8], 16))


def add_crops(catalog: Catalog, run: int, image: int, name: str, detections: Sequence[Detection], **cut) -> list[int]:
    """Crops of a photo, cut from its pixels."""
    return catalog.add_crops(run, image, [crop_of(pixels_of(name), one, **cut) for one in detections])


def survey(catalog: Catalog, photos: int = 4, box: Box = (40.0, 30.0, 80.0, 60.0)) -> list[int]:
    """`photos` photos an hour apart, each with one animal; the crops' ids."""
    run = detect_run(catalog)
    ids: list[int] = []
    for number in range(photos):
        name = f"DCIM/100CARE_/IMG_{number:04}.PNG"
        image = add_photo(catalog, name, f"2024-05-01 {number % 24:02}:00:00")
        ids += add_crops(catalog, run, image, name, [found(box)])
    return ids
