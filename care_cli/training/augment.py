"""What chance does to a crop between two photos: framing, side, light, distance, cover.

Everything works on a whole batch of float images in 0..1, `(B, 3, H, W)`, and draws from one generator.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from torch import Tensor


@dataclass(frozen=True)
class Augmentation:
    """Strengths; zero switches a step off."""

    flip: float = 0.5  # chance of mirroring; only where both flanks carry the same pattern
    rotation: float = 3.0  # degrees, either way
    zoom: float = 0.06  # each axis on its own, so the crop's aspect changes too
    shift: float = 0.05  # of the image side
    coarse: float = 0.0  # chance of lost resolution, as of a distant animal
    grey: float = 0.1  # chance of losing all colour, as at night
    light: float = 0.15  # brightness and contrast factors 1 +- light
    noise: float = 0.01  # upper bound of the standard deviation
    cover: float = 0.0  # chance of one covered rectangle
    cover_area: float = 0.2  # upper bound of its share of the image


def augment(images: Tensor, how: Augmentation, generator: torch.Generator) -> Tensor:
    """Randomly changed copies of `images` `(B, 3, H, W) float in 0..1`, same shape and range."""
    images = reframe(images, how, generator)
    images = lose_detail(images, how, generator)
    images = relight(images, how, generator)
    return cover(images, how, generator)


def reframe(images: Tensor, how: Augmentation, generator: torch.Generator) -> Tensor:
    """Mirror, turn, zoom and shift: what a slightly different box and pose do to a crop."""
    import math

    import torch
    import torch.nn.functional as F

    count = len(images)
    angle = _signed(count, generator) * math.radians(how.rotation)
    zoom_x, zoom_y = (torch.exp(_signed(count, generator) * how.zoom) for _ in range(2))
    mirror = torch.where(torch.rand(count, generator=generator) < how.flip, -1.0, 1.0)
    cos, sin = torch.cos(angle), torch.sin(angle)
    shift = [2 * how.shift * _signed(count, generator) for _ in range(2)]  # normalised coordinates
    rows = [
        torch.stack([mirror * zoom_x * cos, -zoom_y * sin, shift[0]], 1),
        torch.stack([mirror * zoom_x * sin, zoom_y * cos, shift[1]], 1),
    ]
    grid = F.affine_grid(torch.stack(rows, 1), list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, mode="bilinear", padding_mode="border", align_corners=False)


def lose_detail(images: Tensor, how: Augmentation, generator: torch.Generator) -> Tensor:
    """Shrink and enlarge a part of the batch, by one factor between a half and a third."""
    import torch
    import torch.nn.functional as F

    chosen = torch.rand(len(images), generator=generator) < how.coarse
    factor = 2 + float(torch.rand((), generator=generator))
    if chosen.any():
        small = F.interpolate(images[chosen], scale_factor=1 / factor, mode="bilinear", antialias=True)
        images = images.clone()
        images[chosen] = F.interpolate(small, images.shape[2:], mode="bilinear")
    return images


def relight(images: Tensor, how: Augmentation, generator: torch.Generator) -> Tensor:
    """Brightness, contrast, loss of colour and sensor noise."""
    import torch

    count = len(images)

    def one_each(values: Tensor) -> Tensor:
        return values[:, None, None, None]

    grey = images.mean(1, keepdim=True)
    without_colour = one_each(torch.rand(count, generator=generator) < how.grey)
    images = torch.where(without_colour, grey, images)
    contrast = one_each(1 + how.light * _signed(count, generator))
    brightness = one_each(1 + how.light * _signed(count, generator))
    middle = grey.mean((2, 3), keepdim=True)
    images = ((images - middle) * contrast + middle) * brightness
    sigma = one_each(how.noise * torch.rand(count, generator=generator))
    return (images + sigma * torch.randn(images.shape, generator=generator)).clamp(0, 1)


def cover(images: Tensor, how: Augmentation, generator: torch.Generator) -> Tensor:
    """One rectangle of a plain colour over some images: grass, a trunk, another animal."""
    import torch

    images = images.clone()
    height, width = images.shape[2:]
    for image in images:
        chance, area, aspect, x, y = torch.rand(5, generator=generator).tolist()
        if chance >= how.cover:
            continue
        stretch = 3 ** (2 * aspect - 1)
        h = min(height, max(1, round((area * how.cover_area * stretch) ** 0.5 * height)))
        w = min(width, max(1, round((area * how.cover_area / stretch) ** 0.5 * width)))
        top, left = int(y * (height - h + 1)), int(x * (width - w + 1))
        image[:, top : top + h, left : left + w] = torch.rand(3, 1, 1, generator=generator)
    return images


def _signed(count: int, generator: torch.Generator) -> Tensor:
    """`(count,)` uniform in -1..1."""
    import torch

    return 2 * torch.rand(count, generator=generator) - 1
