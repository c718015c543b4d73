"""How a picture becomes an embedder's input, with Pillow alone: as timm's and open_clip's own evaluation does it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from PIL import Image

Size = tuple[int, int]


@dataclass(frozen=True)
class Preparation:
    """From a picture of any size to `(size, size, 3) uint8`; the network itself subtracts means.

    mode  center: the shorter side is fitted, the middle is cut out
          border: the longer side is fitted, the rest is filled
          squash: both sides are fitted, whatever the proportions were
    crop_pct  share of the fitted sides that is cut out
    """

    size: int  # px
    mode: str = "center"
    interpolation: str = "bicubic"  # Pillow's names in lower case
    crop_pct: float = 1.0
    fill: tuple[int, ...] = (0, 0, 0)  # RGB, of the border

    def __call__(self, image: Image.Image) -> np.ndarray:
        """`(size, size, 3) uint8` RGB of a picture of any mode."""
        from PIL import Image

        image = image.convert("RGB")
        width, height = self._fitted(image.size)
        if (width, height) != image.size:
            image = image.resize((width, height), Image.Resampling[self.interpolation.upper()])
        fill = self.fill if self.mode == "border" else (0, 0, 0)
        padded = (max(width, self.size), max(height, self.size))
        if padded != image.size:
            frame = Image.new("RGB", padded, tuple(fill))
            frame.paste(image, ((padded[0] - width) // 2, (padded[1] - height) // 2))
            image = frame
        left, top = (round((side - self.size) / 2) for side in padded)
        return np.array(image.crop((left, top, left + self.size, top + self.size)))

    def covered(self, size: Size) -> tuple[float, float, float, float]:
        """The rectangle `x, y, w, h` px of a picture of `size` that the input shows; beyond the picture: filled in."""
        fitted = self._fitted(size)
        scale = [before / after for before, after in zip(size, fitted, strict=True)]
        padded = [max(side, self.size) for side in fitted]
        start = [
            round((outer - self.size) / 2) - (outer - side) // 2 for outer, side in zip(padded, fitted, strict=True)
        ]
        return start[0] * scale[0], start[1] * scale[1], self.size * scale[0], self.size * scale[1]

    def _fitted(self, size: Size) -> Size:
        """Width and height in px that a picture is resized to before anything is cut off or filled in."""
        target = math.floor(self.size / self.crop_pct)
        width, height = size
        if self.mode == "squash":
            return target, target
        if self.mode == "border":
            ratio = max(width / target, height / target)
            return max(1, round(width / ratio)), max(1, round(height / ratio))
        if width <= height:
            return target, int(target * height / width)
        return int(target * width / height), target
