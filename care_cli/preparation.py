"""How a picture becomes an embedder's input, with Pillow alone: as timm's and open_clip's own evaluation does it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from care_cli.errors import CareError
from care_cli.geometry import InputSize, sides

if TYPE_CHECKING:
    from PIL import Image

Size = tuple[int, int]  # width, height


@dataclass(frozen=True)
class Preparation:
    """From a picture of any size to `(height, width, 3) uint8`; the network itself subtracts means.

    size  px, of the square, or height and width, to which pictures can only be squashed

    mode  center: the shorter side is fitted, the middle is cut out
          border: the longer side is fitted, the rest is filled
          squash: both sides are fitted, whatever the proportions were
    crop_pct  share of the fitted sides that is cut out
    """

    size: InputSize
    mode: str = "center"
    interpolation: str = "bicubic"  # Pillow's names in lower case
    crop_pct: float = 1.0
    fill: tuple[int, ...] = (0, 0, 0)  # RGB, of the border

    def __post_init__(self) -> None:
        if self.height != self.width and (self.mode != "squash" or self.crop_pct != 1):
            raise CareError(f"Pictures are squashed to {self.height} x {self.width} px, but got mode {self.mode!r}.")

    @property
    def height(self) -> int:
        """Of the input, px."""
        return sides(self.size)[0]

    @property
    def width(self) -> int:
        """Of the input, px."""
        return sides(self.size)[1]

    def __call__(self, image: Image.Image) -> np.ndarray:
        """`(height, width, 3) uint8` RGB of a picture of any mode."""
        from PIL import Image

        image = image.convert("RGB")
        width, height = self._fitted(image.size)
        if (width, height) != image.size:
            image = image.resize((width, height), Image.Resampling[self.interpolation.upper()])
        fill = self.fill if self.mode == "border" else (0, 0, 0)
        wanted = (self.width, self.height)
        padded = (max(width, self.width), max(height, self.height))
        if padded != image.size:
            frame = Image.new("RGB", padded, tuple(fill))
            frame.paste(image, ((padded[0] - width) // 2, (padded[1] - height) // 2))
            image = frame
        left, top = (round((side - inner) / 2) for side, inner in zip(padded, wanted, strict=True))
        return np.array(image.crop((left, top, left + self.width, top + self.height)))

    def covered(self, size: Size) -> tuple[float, float, float, float]:
        """The rectangle `x, y, w, h` px of a picture of `size` that the input shows; beyond the picture: filled in."""
        fitted = self._fitted(size)
        scale = [before / after for before, after in zip(size, fitted, strict=True)]
        wanted = (self.width, self.height)
        padded = [max(side, inner) for side, inner in zip(fitted, wanted, strict=True)]
        start = [
            round((outer - inner) / 2) - (outer - side) // 2
            for outer, inner, side in zip(padded, wanted, fitted, strict=True)
        ]
        return start[0] * scale[0], start[1] * scale[1], self.width * scale[0], self.height * scale[1]

    def _fitted(self, size: Size) -> Size:
        """Width and height in px that a picture is resized to before anything is cut off or filled in."""
        target, other = (math.floor(side / self.crop_pct) for side in (self.width, self.height))
        width, height = size
        if self.mode == "squash":
            return target, other
        if self.mode == "border":
            ratio = max(width / target, height / target)
            return max(1, round(width / ratio)), max(1, round(height / ratio))
        if width <= height:
            return target, int(target * height / width)
        return int(target * width / height), target
