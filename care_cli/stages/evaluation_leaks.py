"""Crops without their animal, embedded: what a model makes of the places alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from tqdm import tqdm

from care_cli.evaluation.backgrounds import background
from care_cli.geometry import to_crop
from care_cli.images import decode_jpeg
from care_cli.records import CropFrame
from care_cli.stages import index

if TYPE_CHECKING:
    from care_cli.catalog import Catalog


def backgrounds(catalog: Catalog, cfg: index.IndexConfig, crop_ids: Sequence[int]) -> tuple[np.ndarray, int]:
    """Vectors `(N, D) float32` of crops whose animal is black, and of how many only a border was left.

    A model that looks at points is shown none. Nothing is kept in the catalog.
    """
    from PIL import Image

    embedder, _ = index.load(cfg.spec, cfg.device, cfg.engine, cfg.precision, catalog.notice)
    frames, batch = catalog.crop_frame(crop_ids), cfg.batch or embedder.batch
    vectors, bordered = [], 0
    with tqdm(total=len(crop_ids), unit="crop", desc="backgrounds", disable=None) as bar:
        for start in range(0, len(crop_ids), batch):
            ids = crop_ids[start : start + batch]
            stored = catalog.pixels(ids)
            inputs = []
            for crop_id in ids:
                pixels = np.asarray(decode_jpeg(stored[crop_id]))
                emptied, filled = background(pixels, _corners(frames[crop_id], pixels.shape))
                bordered += filled
                inputs.append(embedder.transform(Image.fromarray(emptied)))
            vectors.append(embedder.embed(np.stack(inputs)))
            bar.update(len(ids))
    return np.concatenate(vectors), bordered


def _corners(frame: CropFrame, shape: tuple[int, ...]) -> np.ndarray:
    """The animal's box in a crop of `shape` (height, width, ...): `(2, 2) float, xy px`, two corners."""
    x, y, w, h = frame.box
    return to_crop(np.array([(x, y), (x + w, y + h)]), frame.rect, (shape[1], shape[0]))
