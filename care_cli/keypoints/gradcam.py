"""Points that a network looks at when it tells an animal: peaks of Grad-CAM (`explain`) on a crop."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from care_cli import explain
from care_cli.errors import CareError
from care_cli.records import ModelSpec, NamedPoint

if TYPE_CHECKING:
    from PIL import Image

RADIUS = 0.1  # of the map's side: peaks nearer to each other are one


def peaks(
    spec: ModelSpec,
    weights: Path,
    image: Image.Image,
    k: int,
    prototype_images: Sequence[Image.Image] = (),
    *,
    logit: int | None = None,
) -> tuple[list[NamedPoint], str]:
    """The `k` strongest peaks of Grad-CAM on a crop, and their source: `gradcam-resnet` (any CNN) or `gradcam-vit`.

    Points `peak_1` (the strongest) to `peak_k` are in px of `image`, the crop frame. y is the cosine between the crop's
    features and the mean of those of `prototype_images` (other crops of the same animal, or species), or `logit`, a
    class of the network's own classifier. Raises CareError when there is neither, when the network is none of timm's,
    when the weights do not fit, and when the map has fewer peaks than asked for.
    """
    if k < 1:
        raise CareError(f"The number of peaks is at least 1, but got {k}.")
    if logit is None and not prototype_images:
        raise CareError("Grad-CAM compares with other crops of the animal, and there is none: name some crops first.")
    network = explain.load(spec, Path(weights), classifier=logit is not None, squash=True)
    if logit is None:
        score = explain.cosine_to(network.features(prototype_images).mean(0))
    else:
        score = explain.logit(spec, network, logit)
    heat = network.heat(image, score)
    cells = strongest(heat, k)
    if len(cells) < k:
        raise CareError(
            f"Grad-CAM of {spec.name} on this crop has {len(cells)} peaks, and {k} were asked for: ask for fewer, "
            "take another crop, or another network."
        )
    kp_crop = (cells[:, ::-1] + 0.5) * [image.width / heat.shape[1], image.height / heat.shape[0]]
    points = [NamedPoint(f"peak_{i}", float(x), float(y)) for i, (x, y) in enumerate(kp_crop, 1)]
    return points, "gradcam-vit" if network.is_vit else "gradcam-resnet"


def strongest(heat: np.ndarray, k: int, radius: float = RADIUS) -> np.ndarray:
    """Cells `(n,2) int`, row and column, of the up to `k` highest peaks of a map `(h,w)`, highest first.

    Greedy: the highest cell is taken, cells within `radius` of it (a share of each side) are out, and so on; cells
    that are not positive are no peaks.
    """
    height, width = heat.shape
    rows, columns = np.mgrid[:height, :width]
    left, cells = np.where(heat > 0, heat, -np.inf), []
    while len(cells) < k and np.isfinite(left.max()):
        row, column = np.unravel_index(left.argmax(), heat.shape)
        cells.append((row, column))
        left[np.hypot((rows - row) / height, (columns - column) / width) <= radius] = -np.inf
    return np.array(cells, int).reshape(-1, 2)
