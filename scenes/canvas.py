"""The canvas: a view with animals drawn into it behind the plants in front of them, then lit, blurred and
grained as a camera trap's photo."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from .coats import Individual, look_up
from .figures import Surface, trace
from .noise import enlarge
from .places import Location, View
from .staging import Light, Placement

OVERSAMPLING = 2
KERATIN = np.array((46, 40, 37), np.float32)
GREY = np.array((0.36, 0.42, 0.22), np.float32)  # infrared's share of red, green and blue

Keypoints = dict[str, tuple[float, float, bool]]


def _paint(surface: Surface, individual: Individual, light: Light, sun, ground, difficulty: float) -> np.ndarray:
    """`(H,W,4) float32` premultiplied: the lit coat and its cover."""
    inside = surface.inside
    picture = np.zeros((*inside.shape, 4), np.float32)
    rest, normal = surface.rest[inside], surface.normal[inside]
    coat = look_up(individual, rest)
    if individual.category == "animal":
        mean = coat.mean(0)
        likeness = np.float32(0.45 * difficulty)
        coat = mean + (coat - mean) * np.float32(1 - 0.6 * difficulty) + likeness * (ground - mean)
    keratin = np.clip(surface.keratin[inside], 0, 1)[:, None]
    coat = coat + (KERATIN - coat) * keratin
    if light.infrared:
        coat = np.repeat((coat @ GREY)[:, None] * 0.85 + 28, 3, 1)
        shade = 0.35 + 0.75 * np.clip(normal[:, 2], 0, 1)
    else:
        direct = np.clip(normal @ np.array(sun, np.float32), 0, 1)
        shade = 0.62 - 0.24 * normal[:, 1] + (0.25 + 0.5 * light.shade) * direct
    picture[inside, :3] = coat * shade[:, None]
    picture[inside, 3] = 1
    return picture


def _shrink(picture: np.ndarray, origin: tuple[float, float]) -> tuple[np.ndarray, int, int]:
    """The picture at photo size, its upper left at `origin` (px of the oversampled photo)."""
    n = OVERSAMPLING
    x, y = math.floor(origin[0] / n), math.floor(origin[1] / n)
    left, top = round(origin[0]) - x * n, round(origin[1]) - y * n
    height = math.ceil((picture.shape[0] + top) / n)
    width = math.ceil((picture.shape[1] + left) / n)
    padded = np.zeros((height * n, width * n, 4), np.float32)
    padded[top : top + picture.shape[0], left : left + picture.shape[1]] = picture
    return sum(padded[i::n, j::n] for i in range(n) for j in range(n)) / np.float32(n * n), x, y


def _smear(picture: np.ndarray, length: float) -> np.ndarray:
    """Motion blur along the rows over `length` px."""
    taps = int(length) + 1
    if taps < 2:
        return picture
    padded = np.pad(picture, ((0, 0), (taps, taps), (0, 0)))
    total = np.cumsum(padded, 1)
    smeared = (total[:, taps:] - total[:, :-taps]) / taps
    start = taps - taps // 2 - 1
    return smeared[:, start : start + picture.shape[1]]


@dataclass
class Canvas:
    """The part of a view that is being drawn: `pixels (h,w,3)` RGB 0..255, `reach (h,w)` of the flash 0..1,
    both float32, and the upper left corner in the view."""

    pixels: np.ndarray
    reach: np.ndarray
    x: int
    y: int


def open_canvas(scene: View, x0: int, y0: int, x1: int, y1: int) -> Canvas:
    """The rectangle of the view without animals; it starts inside the view and may reach beyond."""
    window = (slice(y0, y1), slice(x0, x1))
    reach = scene.reach[window].astype(np.float32) / 255
    return Canvas(scene.colours[window].astype(np.float32), reach, x0, y0)


def _window(canvas: Canvas, x: int, y: int, width: int, height: int):
    """Slices into the canvas and into a patch at view position `x, y`, or None where they do not meet."""
    rows, columns = canvas.pixels.shape[:2]
    x, y = x - canvas.x, y - canvas.y
    x0, y0, x1, y1 = max(x, 0), max(y, 0), min(x + width, columns), min(y + height, rows)
    if x1 <= x0 or y1 <= y0:
        return None
    return (slice(y0, y1), slice(x0, x1)), (slice(y0 - y, y1 - y), slice(x0 - x, x1 - x))


def _cast_shadow(canvas: Canvas, centre, radii, strength: float) -> None:
    x0, y0 = int(centre[0] - 1.5 * radii[0]), int(centre[1] - 1.5 * radii[1])
    width, height = int(3 * radii[0]) + 1, int(3 * radii[1]) + 1
    slices = _window(canvas, x0, y0, width, height)
    if slices is None:
        return
    y, x = np.ogrid[:height, :width]
    far = ((x + x0 - centre[0]) / radii[0]) ** 2 + ((y + y0 - centre[1]) / radii[1]) ** 2
    canvas.pixels[slices[0]] *= 1 - strength * np.exp(-1.5 * far)[slices[1]][..., None].astype(np.float32)


def _hidden(scene: View, foot: float, x: int, y: int, width: int, height: int) -> np.ndarray:
    """`(height,width) float32` 0..1: what plants in front of row `foot` cover in that rectangle."""
    mask = Image.new("L", (width, height))
    draw = ImageDraw.Draw(mask)
    for plant in reversed(scene.plants):
        if plant.foot <= foot:
            break
        left, top, right, bottom = plant.box
        if left < x + width and right > x and top < y + height and bottom > y:
            for polygon, _ in plant.shapes:
                draw.polygon([(px - x, py - y) for px, py in polygon], fill=255)
    return np.asarray(mask.filter(ImageFilter.GaussianBlur(0.5)), np.float32) / 255


@dataclass(frozen=True)
class Drawn:
    """An animal on the canvas: where it can be seen, and its points."""

    mask: np.ndarray  # (h,w) bool, seen
    whole: int  # pixels of its silhouette, seen or not
    x: int
    y: int
    keypoints: Keypoints


def draw(
    canvas: Canvas, scene: View, location: Location, size, item: Placement, light: Light, difficulty: float
) -> Drawn:
    width, height = size
    ground = height - scene.horizon
    trunk = item.trunk(location, ground)
    surface = trace(item.individual.body, item.pose, trunk * OVERSAMPLING)
    foot_x, foot_y = item.x * width, scene.horizon + item.foot * ground
    origin = (foot_x * OVERSAMPLING - surface.foot[0], foot_y * OVERSAMPLING - surface.foot[1])
    row = min(int(foot_y), height - 1)
    nearby = scene.colours[max(row - 20, 0) : row + 1, :: max(width // 64, 1)].mean((0, 1))
    picture = _paint(surface, item.individual, light, location.sun, nearby, difficulty)
    picture, x, y = _shrink(picture, origin)
    picture = _smear(picture, item.speed * width * (0.05 if light.infrared else 0.02) * (0.3 + difficulty))
    h, w = picture.shape[:2]
    reach = float(np.clip(0.30 + 0.85 * item.foot**0.75, 0, 1)) if light.infrared else 1.0
    _cast_shadow(canvas, (foot_x, foot_y), (0.65 * trunk, 0.16 * trunk), 0.3 if light.infrared else 0.5)
    seen = 1 - _hidden(scene, foot_y + 0.02 * ground, x, y, w, h)
    cover = picture[..., 3] * seen
    slices = _window(canvas, x, y, w, h)
    mask = np.zeros((h, w), bool)
    if slices is not None:
        to, of = slices
        pixels = canvas.pixels[to]
        pixels *= 1 - cover[of][..., None]
        pixels += picture[of][..., :3] * seen[of][..., None]
        canvas.reach[to] += (reach - canvas.reach[to]) * cover[of]
        mask[of] = cover[of] > 0.4
    whole = int((picture[..., 3] > 0.4).sum())
    return Drawn(mask, whole, x, y, _seen_points(surface, origin, mask, x, y, trunk))


def _seen_points(surface: Surface, origin, mask, x: int, y: int, trunk: float) -> Keypoints:
    """The named points on the photo; a point is visible where it lies on the seen surface."""
    points: Keypoints = {}
    for name, (px, py, depth) in surface.points.items():
        row = int(np.clip(py, 0, surface.depth.shape[0] - 1))
        column = int(np.clip(px, 0, surface.depth.shape[1] - 1))
        on_top = depth > surface.depth[row, column] - 0.10 * trunk * OVERSAMPLING
        at = ((origin[0] + px) / OVERSAMPLING, (origin[1] + py) / OVERSAMPLING)
        i, j = int(at[1] - y), int(at[0] - x)
        inside = 0 <= i < mask.shape[0] and 0 <= j < mask.shape[1]
        seen = inside and bool(mask[max(i - 1, 0) : i + 2, max(j - 1, 0) : j + 2].any())
        points[name] = (at[0], at[1], bool(on_top and seen))
    return points


def eyeshine(canvas: Canvas, drawn: Drawn, radius: float) -> None:
    for side in ("left", "right"):
        x, y, visible = drawn.keypoints.get(f"{side}_eye", (0, 0, False))
        if visible:
            reach = math.ceil(3 * radius) + 1
            slices = _window(canvas, int(x) - reach, int(y) - reach, 2 * reach + 1, 2 * reach + 1)
            if slices is None:
                continue
            rows, columns = np.ogrid[: 2 * reach + 1, : 2 * reach + 1]
            far = np.hypot(columns + int(x) - reach + 0.5 - x, rows + int(y) - reach + 0.5 - y) / radius
            glow = (255 * np.exp(-(far**2)))[slices[1]][..., None]
            canvas.pixels[slices[0]] = np.maximum(canvas.pixels[slices[0]], glow)


def develop(canvas: Canvas, light: Light, size, rng: np.random.Generator) -> Image.Image:
    """Light, vignette, lens and sensor: the canvas becomes an image."""
    width, height = size
    pixels = canvas.pixels
    rows, columns = pixels.shape[:2]
    x = (np.arange(columns, dtype=np.float32) + canvas.x) / width - 0.5
    y = (np.arange(rows, dtype=np.float32) + canvas.y) / height - 0.5
    far = x[None] ** 2 + y[:, None] ** 2
    if light.infrared:
        grey = pixels @ GREY
        grey *= canvas.reach * (1.4 * light.gain * np.exp(-2.6 * far))
        pixels = 255 * (1 - np.exp(-grey / 190))[..., None]
    else:
        flecks = np.random.default_rng(light.fleck_seed).standard_normal((10, 13)).astype(np.float32)
        grid = enlarge(flecks, (max(height // 8, 4), max(width // 8, 4)))
        cut = grid[canvas.y // 8 : (canvas.y + rows) // 8 + 2, canvas.x // 8 : (canvas.x + columns) // 8 + 2]
        near = np.clip(4 * canvas.reach - 0.4, 0, 1)
        shade = 1 - 0.7 * light.shade * near * np.clip(enlarge(np.ascontiguousarray(cut), (rows, columns)), 0, 1.3)
        shade *= light.gain * (1 - 0.7 * far)
        pixels = pixels * shade[..., None] * np.array(light.tint, np.float32)
    coarse = rng.standard_normal((rows // 2 + 1, columns // 2 + 1), np.float32)
    pixels = pixels + 0.56 * light.grain * enlarge(coarse, (rows, columns))[..., None]
    image = Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8).repeat(3 // pixels.shape[2], 2))
    return image.filter(ImageFilter.GaussianBlur(0.00095 * width))


def overlaid(behind: Drawn, front: Drawn) -> Drawn:
    """`behind` without what the nearer animal covers."""
    mask = behind.mask.copy()
    x, y = front.x - behind.x, front.y - behind.y
    h, w = front.mask.shape
    x0, y0, x1, y1 = max(x, 0), max(y, 0), min(x + w, mask.shape[1]), min(y + h, mask.shape[0])
    if x1 > x0 and y1 > y0:
        mask[y0:y1, x0:x1] &= ~front.mask[y0 - y : y1 - y, x0 - x : x1 - x]
    points = {}
    for name, (px, py, visible) in behind.keypoints.items():
        i, j = int(py) - front.y, int(px) - front.x
        under = 0 <= i < h and 0 <= j < w and bool(front.mask[i, j])
        points[name] = (px, py, visible and not under)
    return replace(behind, mask=mask, keypoints=points)
