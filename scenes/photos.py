"""Photos: animals put into a location's view, lit, blurred, grained and stamped as a camera trap does it.

Boxes are `(x, y, w, h)` and points `(x, y)`, px of the upright photo; pixel 0 spans 0..1.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from .bars import BAR_SHARE, draw_bar
from .coats import Individual, look_up
from .figures import Surface, extent, trace
from .noise import enlarge
from .places import Location, View, make_location, view
from .poses import Pose, random_pose
from .seeds import TRAIN

OVERSAMPLING = 2
KERATIN = np.array((46, 40, 37), np.float32)
CHIP_PLACES = TRAIN[:16]  # seeds of the locations behind chips
MIRROR_PAIRS = tuple(
    (f"left_{part}", f"right_{part}")
    for part in ("eye", "ear", "shoulder", "elbow", "front_paw", "hip", "hock", "hind_paw")
)

Keypoints = dict[str, tuple[float, float, bool]]


@dataclass(frozen=True)
class Light:
    """How a photo is lit and taken. `gain` multiplies all; `shade` and `sharp` are the depth of sun flecks and
    shadows; `grain` is the sensor's noise in grey levels; `fleck_seed` places the flecks."""

    infrared: bool
    gain: float
    tint: tuple[float, float, float]
    shade: float
    grain: float
    fleck_seed: int


@dataclass(frozen=True)
class Placement:
    """An individual standing in a view: `x`, `foot` are the ground below its middle as shares of the photo's
    width and of the way from the horizon to the lower edge."""

    individual: Individual
    pose: Pose
    x: float
    foot: float
    speed: float = 0.0  # photo widths per second
    size: float = 1.0  # of this animal against its species

    def moved(self, seconds: float, rng: np.random.Generator) -> Placement:
        """The same animal some seconds later."""
        way = math.cos(self.pose.heading)
        pose = self.pose.moved(seconds * 0.9, rng)
        return replace(self, pose=pose, x=self.x + way * self.speed * seconds)


@dataclass(frozen=True)
class Chip:
    """An animal's crop as a detector's box would give it; `keypoints` in px of the chip."""

    image: Image.Image
    keypoints: Keypoints
    species: str
    side: str
    box: tuple[float, float, float, float]


@dataclass(frozen=True)
class Scene:
    """A photo and its truth: per object `category`, `species`, `individual`, `box`, `keypoints`, `side`."""

    image: Image.Image
    objects: list[dict[str, Any]]
    placements: list[Placement]


def light_at(location: Location, when: datetime, infrared: bool) -> Light:
    """The light of a moment: the same for the photos of a burst, different from day to day."""
    rng = np.random.default_rng([location.seed, when.toordinal(), when.hour, int(infrared)])
    low_sun = abs(when.hour + when.minute / 60 - 12.5) / 7.5
    warm = np.array((1 + 0.10 * low_sun, 1.0, 1 - 0.12 * low_sun)) * location.tint
    gain = rng.uniform(0.85, 1.12) * (1 if infrared else 1.08 - 0.25 * low_sun)
    grain = rng.uniform(5, 9) if infrared else rng.uniform(2, 5)
    tint = tuple(float(v) for v in warm)
    return Light(infrared, gain, tint, rng.uniform(0.05, 0.40), grain, int(rng.integers(1 << 30)))


def place(
    location: Location,
    individual: Individual,
    rng: np.random.Generator,
    *,
    size: tuple[int, int] = (1280, 960),
    difficulty: float = 0.3,
    side: str | None = None,
    share: float | None = None,
) -> Placement:
    """A random pose and place; the animal's longer side is about `share` of the photo's width, where the
    ground there allows it."""
    pose = random_pose(individual.species, rng, difficulty, side)
    share = share or rng.uniform(0.22 - 0.08 * difficulty, 0.52 - 0.12 * difficulty)
    low, high = extent(individual.body, pose)
    length = float(max(high - low))
    ground = size[1] * (1 - location.horizon)
    trunk = share * size[0] / length
    foot = trunk / individual.body.metres * location.lens_height / ground
    foot = float(np.clip(foot, 0.05, 0.94 - 0.1 * rng.random()))
    half = min(0.45, 0.5 * share)
    return Placement(
        individual,
        pose,
        float(rng.uniform(half, 1 - half)),
        foot,
        float(rng.uniform(0.02, 0.12)),
        rng.uniform(0.95, 1.05),
    )


def _metre(location: Location, ground: float, foot: float) -> float:
    return foot * ground / location.lens_height


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
        coat = np.repeat(coat @ np.array((0.36, 0.42, 0.22), np.float32)[:, None] * 0.9 + 18, 3, 1)
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
    return padded.reshape(height, n, width, n, 4).mean((1, 3)), x, y


def _smear(picture: np.ndarray, length: float) -> np.ndarray:
    """Motion blur along the rows over `length` px."""
    taps = int(length) + 1
    if taps < 2:
        return picture
    padded = np.pad(picture, ((0, 0), (taps, taps), (0, 0)))
    total = np.cumsum(padded, 1)
    smeared = (total[:, taps:] - total[:, :-taps]) / taps
    start = taps - taps // 2 - 1 + (taps // 2)
    return smeared[:, start - taps // 2 : start - taps // 2 + picture.shape[1]]


@dataclass
class Canvas:
    """The part of a view that is being drawn: `pixels (h,w,3)` and its upper left corner in the view."""

    pixels: np.ndarray
    reach: np.ndarray
    x: int
    y: int


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


def _draw(
    canvas: Canvas, scene: View, location: Location, size, item: Placement, light: Light, difficulty: float
) -> Drawn:
    width, height = size
    ground = height - scene.horizon
    trunk = _metre(location, ground, item.foot) * item.individual.body.metres * item.size
    surface = trace(item.individual.body, item.pose, trunk * OVERSAMPLING)
    foot_x, foot_y = item.x * width, scene.horizon + item.foot * ground
    origin = (foot_x * OVERSAMPLING - surface.foot[0], foot_y * OVERSAMPLING - surface.foot[1])
    nearby = scene.colours[min(int(foot_y), height - 1), int(np.clip(foot_x, 0, width - 1))]
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


def _eyeshine(canvas: Canvas, drawn: Drawn, radius: float) -> None:
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


def _develop(canvas: Canvas, light: Light, size, rng: np.random.Generator) -> Image.Image:
    """Light, vignette, lens and sensor: the canvas becomes an image."""
    width, height = size
    pixels = canvas.pixels
    rows, columns = pixels.shape[:2]
    x = (np.arange(columns, dtype=np.float32) + canvas.x) / width - 0.5
    y = (np.arange(rows, dtype=np.float32) + canvas.y) / height - 0.5
    far = x[None] ** 2 + y[:, None] ** 2
    if light.infrared:
        grey = pixels @ np.array((0.36, 0.42, 0.22), np.float32)
        grey *= canvas.reach * (1.35 * light.gain * np.exp(-2.6 * far))
        pixels = 255 * (1 - np.exp(-grey / 150))[..., None]
    else:
        flecks = np.random.default_rng(light.fleck_seed).standard_normal((10, 13)).astype(np.float32)
        grid = enlarge(flecks, (max(height // 8, 4), max(width // 8, 4)))
        cut = grid[canvas.y // 8 : (canvas.y + rows) // 8 + 2, canvas.x // 8 : (canvas.x + columns) // 8 + 2]
        shade = 1 - light.shade * np.clip(enlarge(np.ascontiguousarray(cut), (rows, columns)), 0, 1.3) * 0.7
        shade *= light.gain * (1 - 0.7 * far)
        pixels = pixels * shade[..., None] * np.array(light.tint, np.float32)
    pixels = pixels + light.grain * rng.standard_normal((rows, columns, 1), np.float32)
    image = Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8).repeat(3 // pixels.shape[2], 2))
    return image.filter(ImageFilter.GaussianBlur(0.45 if light.infrared else 0.35))


def _truth(item: Placement, drawn: Drawn, rectangle) -> dict[str, Any] | None:
    """The object's box around what can be seen inside `rectangle`, or None where that is next to nothing."""
    x0, y0, x1, y1 = rectangle
    rows, columns = np.nonzero(drawn.mask)
    rows, columns = rows + drawn.y, columns + drawn.x
    kept = (columns >= x0) & (columns < x1) & (rows >= y0) & (rows < y1)
    if kept.sum() < max(60, 0.12 * drawn.whole):
        return None
    rows, columns = rows[kept], columns[kept]
    left, top = int(columns.min()) - x0, int(rows.min()) - y0
    box = (left, top, int(columns.max()) + 1 - x0 - left, int(rows.max()) + 1 - y0 - top)
    points = {}
    for name, (x, y, visible) in drawn.keypoints.items():
        x, y = x - x0, y - y0
        within = left <= x <= left + box[2] and top <= y <= top + box[3]
        points[name] = (round(x, 2), round(y, 2), bool(visible and within))
    who = item.individual
    animal = who.category == "animal"
    return {
        "category": who.category,
        "species": who.species if animal else None,
        "individual": who.name or f"{who.species}-{who.seed}" if animal else None,
        "box": tuple(float(v) for v in box),
        "keypoints": points if animal else {},
        "side": item.pose.side if animal else None,
        "visible": round(float(kept.sum()) / max(drawn.whole, 1), 3),
    }


def render_scene(
    location: Location,
    animals: list[Individual | Placement],
    rng: np.random.Generator,
    *,
    size: tuple[int, int] = (1280, 960),
    infrared: bool = False,
    when: datetime = datetime(2024, 3, 14, 12, 0, 0),
    difficulty: float = 0.3,
    temperature: int = 12,
    bar: bool = True,
) -> Scene:
    """A photo of `size` px with `animals` (placed at random where no placement is given) and its truth."""
    scene = view(location, size)
    light = light_at(location, when, infrared)
    canvas = Canvas(scene.colours.copy(), scene.reach.copy(), 0, 0)
    items = [
        a if isinstance(a, Placement) else place(location, a, rng, size=size, difficulty=difficulty) for a in animals
    ]
    strip = round(BAR_SHARE * size[1]) if bar else 0
    top = strip if location.bar == "above" else 0
    bottom = size[1] - (strip if location.bar == "below" else 0)
    drawn = {}
    for i in sorted(range(len(items)), key=lambda i: items[i].foot):
        drawn[i] = _draw(canvas, scene, location, size, items[i], light, difficulty)
        for behind in drawn:
            if behind != i:
                drawn[behind] = _overlaid(drawn[behind], drawn[i])
        if infrared:
            _eyeshine(canvas, drawn[i], max(1.2, 0.004 * size[0]))
    image = _develop(canvas, light, size, rng)
    objects = []
    for i, item in enumerate(items):
        found = _truth(item, drawn[i], (0, top, size[0], bottom))
        if found:
            x, y, w, h = found["box"]
            found["box"] = (x, y + top, w, h)
            found["keypoints"] = {n: (px, py + top, v) for n, (px, py, v) in found["keypoints"].items()}
            objects.append(found)
    if bar:
        draw_bar(image, location, when, temperature)
    return Scene(image, objects, items)


def _overlaid(behind: Drawn, front: Drawn) -> Drawn:
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


def render_chip(
    individual: Individual,
    rng: np.random.Generator,
    *,
    difficulty: float = 0.3,
    longest: int = 200,
    infrared: bool | None = None,
) -> Chip:
    """The individual on a piece of a random location, cropped to its box grown by 10 % a side, with a few px of
    jitter as a detector's box has; the longer side is at most `longest` px."""
    infrared = bool(rng.random() < 0.5) if infrared is None else infrared
    location = make_location(int(rng.choice(CHIP_PLACES)))
    size = (4 * longest, 3 * longest)
    when = datetime(2024, 1 + int(rng.integers(12)), 1 + int(rng.integers(28)), int(rng.integers(7, 18)))
    light = light_at(location, when, infrared)
    scene = view(location, size)
    while True:
        item = place(location, individual, rng, size=size, difficulty=difficulty, share=longest / 1.26 / size[0])
        canvas, corner = _around(scene, location, size, item)
        drawn = _draw(canvas, scene, location, size, item, light, difficulty)
        found = _truth(item, drawn, (0, 0, *size))
        if found and found["visible"] > 0.45:
            break
    if infrared:
        _eyeshine(canvas, drawn, max(1.0, 0.016 * longest / 1.6))
    image = _develop(canvas, light, size, rng)
    return _cut(image, corner, found, item, rng, size, longest)


def _around(scene: View, location: Location, size, item: Placement) -> tuple[Canvas, tuple[int, int]]:
    """The part of the view that an animal's crop can need."""
    trunk = _metre(location, size[1] - scene.horizon, item.foot) * item.individual.body.metres * item.size
    low, high = extent(item.individual.body, item.pose)
    x, y = item.x * size[0], scene.horizon + item.foot * (size[1] - scene.horizon)
    margin = 0.16 * max(high - low) * trunk + 6
    x0, y0 = (max(int(v), 0) for v in (x + low[0] * trunk - margin, y + low[1] * trunk - margin))
    x1, y1 = int(x + high[0] * trunk + margin), int(y + high[1] * trunk + margin)
    window = (slice(y0, y1), slice(x0, x1))
    return Canvas(scene.colours[window].copy(), scene.reach[window].copy(), x0, y0), (x0, y0)


def _cut(image: Image.Image, corner, found, item: Placement, rng, size, longest: int) -> Chip:
    x, y, w, h = found["box"]
    jitter = rng.normal(0, 0.015, 4) * (w, h, w, h)
    left = max(math.floor(x - 0.1 * w + jitter[0]), corner[0])
    top = max(math.floor(y - 0.1 * h + jitter[1]), corner[1])
    right = min(math.ceil(x + 1.1 * w + jitter[2]), corner[0] + image.width)
    bottom = min(math.ceil(y + 1.1 * h + jitter[3]), corner[1] + image.height)
    chip = image.crop((left - corner[0], top - corner[1], right - corner[0], bottom - corner[1]))
    scale = min(1.0, longest / max(chip.size))
    if scale < 1:
        chip = chip.resize([max(1, round(v * scale)) for v in chip.size], Image.Resampling.BICUBIC)
    sx, sy = chip.width / (right - left), chip.height / (bottom - top)
    points = {n: ((px - left) * sx, (py - top) * sy, v) for n, (px, py, v) in found["keypoints"].items()}
    box = ((x - left) * sx, (y - top) * sy, w * sx, h * sy)
    return Chip(chip, points, item.individual.species, item.pose.side, box)
