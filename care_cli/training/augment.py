"""What chance does to a crop between two photos: framing, side, light, distance, cover.

Everything works on a whole batch of float images in 0..1, `(B, 3, H, W)`, and draws from one generator, which may
live on the images' device or on the CPU. Named points move with the picture: `(B, K, 3)`, x and y as shares 0..1 of
its width and height, and a weight, 0 for a point that is not there. Viewpoints `(B, V)` are mirrored with it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

TRIES = 10  # for a window that lies within the picture, as torchvision's RandomResizedCrop


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
    cover_least: float = 0.0  # lower bound of it
    cover_noise: bool = False  # its pixels are noise instead of one colour (random erasing, Zhong et al. 2020)
    pad: int = 0  # px, black, on every side before a window of the old size is cut out
    crop: float = 1.0  # a window of at least this share of the area fills the picture; 1: all of it, always
    ops: int = 0  # RandAugment's changes of colour and tone, one after the other
    magnitude: float = 20 / 30  # of each of them, 0..1


NOTHING = Augmentation(flip=0.0, rotation=0.0, zoom=0.0, shift=0.0, grey=0.0, light=0.0, noise=0.0, cover_area=0.0)
WILDLIFE = replace(NOTHING, crop=0.8, ops=2)  # of WildlifeDatasets' recipe what leaves shapes as they are
ERASING = {"cover": 0.5, "cover_least": 0.02, "cover_area": 1 / 3, "cover_noise": True}
PERSON_REID = replace(NOTHING, flip=0.5, pad=10, **ERASING)  # of TransReID


def augment(
    images: Tensor,
    how: Augmentation,
    generator: torch.Generator,
    beside: Tensor | None = None,
    swap: Tensor | None = None,
) -> Tensor | tuple[Tensor, Tensor]:
    """Randomly changed copies of `images` `(B, 3, H, W) float in 0..1`, same shape and range (noise that covers a part
    has a normal distribution).

    With something `beside` also this: points `(B, K, 3)`, moved with the picture, or viewpoints `(B, V)`. `swap (K,)
    int64` says where each category's counterpart stands on the animal's other side, `(V,)` where the mirrored view.
    """
    images, moved = reframe(images, how, generator, beside, swap)
    images, moved = pad_and_crop(images, how, generator, moved)
    images = change_tones(images, how, generator)
    images = lose_detail(images, how, generator)
    images = relight(images, how, generator)
    images = cover(images, how, generator)
    return images if beside is None else (images, moved)


def reframe(
    images: Tensor,
    how: Augmentation,
    generator: torch.Generator,
    points: Tensor | None = None,
    swap: Tensor | None = None,
) -> tuple[Tensor, Tensor | None]:
    """Mirror, turn, zoom and shift, all in one: what a slightly different box and pose do to a crop."""
    if not (how.flip or how.rotation or how.zoom or how.shift or how.crop < 1):
        return images, points
    to_source, mirrored = affine(len(images), how, generator)
    to_source, mirrored = to_source.to(images), mirrored.to(images.device)
    grid = F.affine_grid(to_source, list(images.shape), align_corners=False)
    changed = F.grid_sample(images, grid, mode="bilinear", padding_mode="border", align_corners=False)
    return changed, None if points is None else move(points, to_source, mirrored, swap)


def affine(count: int, how: Augmentation, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Where each place of a changed picture comes from: `(B, 2, 3) float32`, and whether it is mirrored `(B,) bool`.

    Coordinates are normalised: -1..1 is a picture's side (torch's affine_grid without aligned corners).
    """
    angle = _signed(count, generator) * math.radians(how.rotation)
    zoom_x, zoom_y = (torch.exp(_signed(count, generator) * how.zoom) for _ in range(2))
    mirrored = _uniform(count, generator) < how.flip
    mirror = torch.where(mirrored, -1.0, 1.0)
    cos, sin = torch.cos(angle), torch.sin(angle)
    shift_x, shift_y = (2 * how.shift * _signed(count, generator) for _ in range(2))
    if how.crop < 1:
        width, height, x, y = window(count, how.crop, generator)
        zoom_x, zoom_y, shift_x, shift_y = zoom_x * width, zoom_y * height, shift_x + x, shift_y + y
    rows = [
        torch.stack([mirror * zoom_x * cos, -zoom_y * sin, shift_x], 1),
        torch.stack([mirror * zoom_x * sin, zoom_y * cos, shift_y], 1),
    ]
    return torch.stack(rows, 1), mirrored


def window(count: int, least: float, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Windows of a square picture as torchvision's RandomResizedCrop draws them, each `(B,)`.

    Width and height as shares of the side, and the centre's place, -1..1. The area's share is uniform in least..1, the
    aspect's logarithm between 3:4 and 4:3; a window that does not fit is drawn again.
    """
    area = least + (1 - least) * _uniform((count, TRIES), generator)
    aspect = torch.exp(math.log(4 / 3) * _signed((count, TRIES), generator))
    width, height = (area * aspect).sqrt(), (area / aspect).sqrt()
    fits = (width <= 1) & (height <= 1)
    first = fits.int().argmax(1, keepdim=True)
    width, height = (torch.where(fits.any(1), side.gather(1, first)[:, 0], 1.0) for side in (width, height))
    return width, height, (1 - width) * _signed(count, generator), (1 - height) * _signed(count, generator)


def move(points: Tensor, to_source: Tensor, mirrored: Tensor, swap: Tensor | None = None) -> Tensor:
    """Points `(B, K, 3)` of pictures that `to_source (B, 2, 3)` changed; those that left the picture have weight 0.

    In a mirrored picture what was a left eye is a right one: categories change places by `swap (K,) int64`. Viewpoints
    `(B, V)` do so, too, and nothing else.
    """
    if points.ndim == 2:
        return points if swap is None else torch.where(mirrored[:, None], points[:, swap.to(points.device)], points)
    there = 2 * points[..., :2] - 1 - to_source[:, None, :, 2].to(points)  # (B, K, 2)
    xy = (there @ torch.linalg.inv(to_source[:, :, :2].to(points)).transpose(1, 2) + 1) / 2
    inside = ((xy >= 0) & (xy <= 1)).all(-1, keepdim=True)
    moved = torch.where(inside & (points[..., 2:] > 0), torch.cat([xy, points[..., 2:]], -1), 0.0)
    if swap is None:
        return moved
    return torch.where(mirrored[:, None, None], moved[:, swap.to(points.device)], moved)


def pad_and_crop(
    images: Tensor, how: Augmentation, generator: torch.Generator, points: Tensor | None = None
) -> tuple[Tensor, Tensor | None]:
    """Shift by whole pixels, black where nothing was: the padding and random crop of re-identification's recipes."""
    if not how.pad:
        return images, points
    height, width = images.shape[2:]
    padded = F.pad(images, (how.pad,) * 4)
    places = (_uniform((len(images), 2), generator) * (2 * how.pad + 1)).long().tolist()
    images = torch.stack([one[:, y : y + height, x : x + width] for one, (y, x) in zip(padded, places, strict=True)])
    if points is None or points.ndim == 2:
        return images, points
    shift = torch.tensor([[how.pad - x, how.pad - y] for y, x in places]).to(points)
    moved = torch.cat(
        [points[..., :2] + (shift / torch.tensor([width, height]).to(points))[:, None], points[..., 2:]], -1
    )
    inside = ((moved[..., :2] >= 0) & (moved[..., :2] <= 1)).all(-1, keepdim=True) & (points[..., 2:] > 0)
    return images, torch.where(inside, moved, 0.0)


def change_tones(images: Tensor, how: Augmentation, generator: torch.Generator) -> Tensor:
    """RandAugment (Cubuk et al. 2020) on colours and tones alone: its geometric operations would move the points.

    To each picture `how.ops` operations one after the other, drawn from torchvision's, of strength `how.magnitude`.
    """
    operations = tone_operations(how.magnitude) if how.ops else []
    for _ in range(how.ops):
        chosen = (_uniform(len(images), generator) * len(operations)).long().to(images.device)
        changed = images.clone()
        for number, operation in enumerate(operations):
            if operation is not None and (mine := chosen == number).any():
                changed[mine] = operation(images[mine])
        images = changed
    return images.clamp(0, 1) if how.ops else images


def tone_operations(magnitude: float) -> list[Callable[[Tensor], Tensor] | None]:
    """RandAugment's operations without geometry, `(B, 3, H, W)` in 0..1 to the same, None for the identity.

    Each of them is equally likely; those with a sign are there twice, and the others, for the same odds, too.
    """
    from torchvision.transforms.v2 import functional as tv

    factors = (1 + 0.9 * magnitude, 1 - 0.9 * magnitude)
    signed = [
        lambda x, change=change, factor=factor: change(x, factor)
        for change in (tv.adjust_brightness, tv.adjust_saturation, tv.adjust_contrast, tv.adjust_sharpness)
        for factor in factors
    ]
    bits, threshold = 8 - round(4 * magnitude), 1 - magnitude
    plain = [None, lambda x: tv.posterize(x, bits), lambda x: tv.solarize(x, threshold), tv.autocontrast, tv.equalize]
    return signed + 2 * plain


def lose_detail(images: Tensor, how: Augmentation, generator: torch.Generator) -> Tensor:
    """Shrink and enlarge a part of the batch, by one factor between a half and a third."""
    if not how.coarse:
        return images
    chosen = (_uniform(len(images), generator) < how.coarse).to(images.device)
    factor = 2 + float(_uniform((), generator))
    if chosen.any():
        small = F.interpolate(images[chosen], scale_factor=1 / factor, mode="bilinear", antialias=True)
        images = images.clone()
        images[chosen] = F.interpolate(small, images.shape[2:], mode="bilinear")
    return images


def relight(images: Tensor, how: Augmentation, generator: torch.Generator) -> Tensor:
    """Brightness, contrast, loss of colour and sensor noise."""
    count = len(images)

    def one_each(values: Tensor) -> Tensor:
        return values.to(images.device)[:, None, None, None]

    if how.grey or how.light:
        grey = images.mean(1, keepdim=True)
        without_colour = one_each(_uniform(count, generator) < how.grey)
        images = torch.where(without_colour, grey, images)
        contrast = one_each(1 + how.light * _signed(count, generator))
        brightness = one_each(1 + how.light * _signed(count, generator))
        middle = grey.mean((2, 3), keepdim=True)
        images = (((images - middle) * contrast + middle) * brightness).clamp(0, 1)
    if how.noise:
        sigma = one_each(how.noise * _uniform(count, generator))
        noise = torch.randn(images.shape, generator=generator, device=generator.device).to(images.device)
        images = (images + sigma * noise).clamp(0, 1)
    return images


def cover(images: Tensor, how: Augmentation, generator: torch.Generator) -> Tensor:
    """One rectangle of a plain colour, or of noise, over some images: grass, a trunk, another animal."""
    if not how.cover:
        return images
    images = images.clone()
    height, width = images.shape[2:]
    for image in images:
        chance, area, aspect, x, y = _uniform(5, generator).tolist()
        if chance >= how.cover:
            continue
        share, stretch = how.cover_least + area * (how.cover_area - how.cover_least), 3 ** (2 * aspect - 1)
        h = min(height, max(1, round((share * stretch) ** 0.5 * height)))
        w = min(width, max(1, round((share / stretch) ** 0.5 * width)))
        top, left = int(y * (height - h + 1)), int(x * (width - w + 1))
        image[:, top : top + h, left : left + w] = _filling(how, (3, h, w), generator).to(images.device)
    return images


def _filling(how: Augmentation, shape: tuple[int, int, int], generator: torch.Generator) -> Tensor:
    """What covers a rectangle of `shape` (3, h, w): one colour, or noise of unit deviation once 0..1 is -1..1."""
    if not how.cover_noise:
        return _uniform((3, 1, 1), generator)
    return 0.5 + 0.5 * torch.randn(shape, generator=generator, device=generator.device)


def _uniform(shape: int | tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Uniform in 0..1, on the generator's device."""
    return torch.rand(shape, generator=generator, device=generator.device)


def _signed(shape: int | tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Uniform in -1..1, on the generator's device."""
    return 2 * _uniform(shape, generator) - 1
