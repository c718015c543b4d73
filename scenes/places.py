"""Locations: what a camera that never moves sees, painted back to front, and which plants hide what stands
behind them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from .noise import enlarge, fractal_noise, smooth_noise

Polygon = tuple[tuple[float, float], ...]

KINDS = {  # sky, far foliage, ground, soil, blades: RGB
    "bush": ((186, 196, 192), (58, 72, 48), (86, 84, 58), (80, 68, 52), (84, 100, 58)),
    "pasture": ((196, 208, 220), (72, 88, 58), (118, 122, 76), (112, 102, 74), (122, 130, 78)),
    "tussock": ((204, 210, 214), (104, 106, 82), (146, 132, 96), (126, 112, 86), (162, 146, 102)),
    "beech": ((178, 188, 180), (54, 64, 46), (104, 86, 62), (90, 72, 54), (92, 96, 62)),
    "riverbed": ((200, 210, 220), (84, 94, 72), (142, 140, 132), (124, 120, 112), (122, 124, 86)),
}

MAKERS = (  # make, model, serial's form: invented, so that no real camera is named
    ("KEADON", "KD-40", "K{:06d}"),
    ("TRAILMARK", "TM Pro 3", "TM{:07d}"),
    ("OWLEYE", "OE-12i", "{:08d}"),
)


@dataclass(frozen=True)
class Location:
    """A camera's place. Lengths on the photo are shares of its width, so every size shows the same view."""

    seed: int
    name: str
    kind: str
    horizon: float  # share of the photo's height
    lens_height: float  # of the camera above the ground, m
    sun: tuple[float, float, float]  # towards the sun: right, down, to the viewer
    trunks: int
    cover: float  # how much grows in front, 0..1
    tint: tuple[float, float, float]
    bar: str  # "below", "above" or "over"
    make: str
    model: str
    serial: str
    latitude: float
    longitude: float


WORDS = ("Ridge", "Creek", "Saddle", "Gully", "Terrace", "Fern", "Kanuka", "Beech", "Slip", "Swamp", "Track", "Spur")


@lru_cache(maxsize=4096)
def make_location(seed: int) -> Location:
    """The location with this seed."""
    rng = np.random.default_rng([seed, 17])
    sun = np.array([rng.uniform(-0.8, 0.8), -rng.uniform(0.5, 1.0), rng.uniform(0.2, 0.8)])
    kind = str(rng.choice(list(KINDS)))
    make, model, serial = MAKERS[rng.integers(len(MAKERS))]
    return Location(
        seed=seed,
        name=f"{rng.choice(WORDS).upper()}{seed % 1000:03d}",
        kind=kind,
        horizon=float(rng.uniform(0.28, 0.44)),
        lens_height=float(rng.uniform(0.38, 0.62)),
        sun=tuple(float(v) for v in sun / np.linalg.norm(sun)),
        trunks=int(rng.integers(7, 16)) if kind in ("bush", "beech") else int(rng.integers(0, 4)),
        cover=float(rng.uniform(0.25, 1.0)),
        tint=tuple(float(v) for v in rng.normal(1, 0.02, 3)),
        bar=str(rng.choice(["below", "below", "above", "over"])),
        make=make,
        model=model,
        serial=serial.format(int(rng.integers(10**5, 10**6))),
        latitude=float(-rng.uniform(41.0, 45.5)),
        longitude=float(rng.uniform(168.0, 173.5)),
    )


@dataclass(frozen=True)
class Plant:
    """Something that stands on the ground at row `foot` and hides what stands behind; polygons in px."""

    foot: float
    box: tuple[float, float, float, float]  # x0, y0, x1, y1
    shapes: tuple[tuple[Polygon, tuple[int, int, int]], ...]


@dataclass(frozen=True)
class View:
    """A location at one size: `colours (H,W,3) uint8` RGB in even light; `reach (H,W) uint8`, how strongly the
    infrared flash lights each pixel; `plants` from back to front; `horizon` in px."""

    colours: np.ndarray
    reach: np.ndarray
    plants: tuple[Plant, ...]
    horizon: float


@lru_cache(maxsize=40)
def view(location: Location, size: tuple[int, int]) -> View:
    """What the camera of `location` sees on a photo of `size` (width, height) px without animals."""
    width, height = size
    rng = np.random.default_rng([location.seed, 23])
    horizon = location.horizon * height
    colours = _ground(location, rng, size, horizon)
    image = Image.fromarray(np.clip(colours, 0, 255).astype(np.uint8))
    _backdrop(location, rng, image, horizon)
    plants = _plants(location, rng, size, horizon)
    nearness = np.clip(np.arange(height) - horizon, 0, None) / (height - horizon)
    nearness = np.repeat((255 * nearness).astype(np.uint8)[:, None], width, 1)
    distance = Image.fromarray(nearness)
    draw, draw_distance = ImageDraw.Draw(image), ImageDraw.Draw(distance)
    for plant in plants:
        level = int(np.clip(255 * (plant.foot - horizon) / (height - horizon), 0, 255))
        for polygon, colour in plant.shapes:
            draw.polygon(polygon, fill=colour)
            draw_distance.polygon(polygon, fill=level)
    image = image.filter(ImageFilter.GaussianBlur(width / 1600))
    near = np.asarray(distance, np.float32) / 255
    bark = 1 + 0.045 * fractal_noise(rng, (height, width), (height // 12, width // 12), 2, 0.8) * (near > 0.02)
    colours = np.clip(np.asarray(image, np.float32) * bark[..., None], 0, 255).astype(np.uint8)
    reach = np.clip(255 * (0.10 + 1.25 * near**0.75), 0, 255).astype(np.uint8)
    return View(colours, reach, tuple(plants), horizon)


def _ground(location: Location, rng, size, horizon: float) -> np.ndarray:
    """Sky down to the horizon, then ground whose texture grows finer with distance."""
    width, height = size
    sky, _, grass, soil, _ = (np.array(tone, np.float32) for tone in KINDS[location.kind])
    colours = np.empty((height, width, 3), np.float32)
    rows = np.arange(height, dtype=np.float32)[:, None, None]
    colours[:] = sky * (0.85 + 0.3 * rows / horizon)
    texture = 512
    patch = fractal_noise(rng, (texture, texture), (5, 5), 6, 0.75)
    fine = fractal_noise(rng, (texture, texture), (60, 60), 3, 0.9)
    below = np.arange(int(horizon), height)
    distance = 1 / np.maximum((below - horizon) / (height - horizon), 0.03)
    across = (np.arange(width) / width - 0.5)[None] * distance[:, None]
    column, row = (across * 150).astype(int) % texture, (distance * 90).astype(int)[:, None] % texture
    mix = np.clip(0.5 + 0.35 * patch[row, column], 0, 1)[..., None]
    shade = 1 + 0.08 * fine[row * 2 % texture, column * 2 % texture][..., None]
    colours[below] = (soil + (grass - soil) * mix) * shade
    return colours


def _backdrop(location: Location, rng, image: Image.Image, horizon: float) -> None:
    """Layers of foliage behind the ground, dabbed leaf by leaf, each nearer layer lower and darker."""
    width = image.width
    _, leaf, grass, _, _ = KINDS[location.kind]
    closed = location.kind in ("bush", "beech")
    draw = ImageDraw.Draw(image)
    for layer in range(3):
        tall = horizon * ((1.25, 1.0, 0.5) if closed else (0.35, 0.25, 0.12))[layer]
        wave = enlarge(rng.standard_normal((1, 9)).astype(np.float32), (1, width))[0]
        top = np.clip(horizon - tall * (0.85 + 0.22 * wave), -20, horizon)
        haze = (0.45, 0.2, 0.0)[layer]
        tone = np.array(leaf) * (1.15 - 0.2 * layer) * (1 - haze) + haze * np.array((150, 162, 160))
        outline = [(0, horizon + 3), *((x, float(top[x])) for x in range(0, width, 6)), (width, horizon + 3)]
        draw.polygon(outline, fill=tuple(int(v) for v in tone * 0.8))
        clump = smooth_noise(rng, (image.height, width), (14, 22))
        count = int(1800 * (1.4 if closed else 0.7))
        xs, depth = rng.integers(0, width, count), rng.random(count)
        for x, share, bright, r in zip(xs, depth, rng.normal(1, 0.09, count), rng.random(count), strict=True):
            y = top[x] + (horizon + 4 - top[x]) * share - 2
            light = bright * (1 + 0.17 * clump[int(np.clip(y, 0, image.height - 1)), x])
            size = width / 1280 * (1.5 + 4 * r) * (0.8 + 0.4 * layer)
            colour = tuple(int(np.clip(v * light, 0, 255)) for v in tone)
            draw.ellipse((x - size, y - 0.7 * size, x + size, y + 0.7 * size), fill=colour)
    draw.line((0, horizon + 2, width, horizon + 2), fill=tuple(int(v * 0.7) for v in grass), width=3)


def _plants(location: Location, rng, size, horizon: float) -> list[Plant]:
    """Trunks, grass, ferns and stones, back to front; few near the middle, where animals pass."""
    width, height = size
    plants = []
    for _ in range(location.trunks):
        trunk, x = _trunk(location, rng, size, horizon)
        plants.append(trunk)
        for _ in range(5):
            plants.append(_clump(location, rng, size, horizon, x + rng.normal(0, 0.012) * width, trunk.foot + 1))
    clumps = int(90 + 90 * location.cover)
    for share in rng.random(clumps) ** 1.3:
        foot = horizon + (height - horizon) * (0.02 + 1.05 * share)
        x = rng.uniform(-0.03, 1.03) * width
        kind = rng.random()
        if kind < 0.08 and location.kind in ("bush", "beech"):
            plants.append(_fern(location, rng, size, horizon, x, foot))
        elif kind < (0.5 if location.kind == "riverbed" else 0.12):
            plants.append(_stone(location, rng, size, horizon, x, foot))
        else:
            plants.append(_clump(location, rng, size, horizon, x, foot))
    return sorted(plants, key=lambda plant: plant.foot)


def _plant(foot: float, shapes) -> Plant:
    xs = [x for polygon, _ in shapes for x, _ in polygon]
    ys = [y for polygon, _ in shapes for _, y in polygon]
    return Plant(foot, (min(xs), min(ys), max(xs), max(ys)), tuple(shapes))


def _metre(location: Location, horizon: float, foot: float) -> float:
    """Pixels to a metre for what stands on row `foot`."""
    return max(foot - horizon, 1.0) / location.lens_height


def _tone(colour, light: float, rng) -> tuple[int, int, int]:
    shift = rng.normal(0, 4)
    return tuple(int(np.clip(v * light + shift, 0, 255)) for v in colour)


def _clump(location, rng, size, horizon, x, foot) -> Plant:
    metre = _metre(location, horizon, foot)
    tall = rng.uniform(0.03, 0.12) * (1.5 if location.kind == "tussock" else 1.0) * (0.5 + 0.7 * location.cover)
    blade = KINDS[location.kind][4]
    shapes = []
    spread = rng.uniform(0.04, 0.16)
    dry = rng.uniform(0.75, 1.2)
    for _ in range(int(rng.integers(10, 30))):
        base = x + rng.normal(0, spread) * metre
        length, lean = tall * metre * rng.uniform(0.5, 1.2), rng.normal(0, 0.45)
        wide = max(0.0035 * metre * rng.uniform(0.6, 1.4), 0.6)
        tip = (base + lean * length, foot - length)
        mid = (base + 0.3 * lean * length, foot - 0.55 * length)
        outline = ((base - wide, foot), (mid[0] - wide, mid[1]), tip, (mid[0] + wide, mid[1]), (base + wide, foot))
        shapes.append((outline, _tone(blade, dry * rng.uniform(0.55, 1.25), rng)))
    return _plant(foot, shapes)


def _fern(location, rng, size, horizon, x, foot) -> Plant:
    metre = _metre(location, horizon, foot)
    green = np.array(KINDS[location.kind][4]) * (0.8, 1.0, 0.75)
    shapes = []
    for angle in np.linspace(-1.2, 1.2, int(rng.integers(5, 9))) + rng.normal(0, 0.1):
        length = rng.uniform(0.18, 0.38) * metre
        way = np.array([np.sin(angle), -np.cos(angle)])
        light = rng.uniform(0.6, 1.15)
        for share in np.linspace(0.15, 1, 11):
            droop = np.array([0, 0.35 * length * share**2])
            at = np.array([x, foot]) + way * length * share + droop
            leaf = 0.3 * length * (1.1 - share)
            side = np.array([-way[1], way[0]])
            for sign in (-1, 1):
                tip = at + side * sign * leaf + way * 0.35 * leaf
                outline = tuple(
                    (float(p[0]), float(p[1])) for p in (at - way * 0.1 * leaf, tip, at + way * 0.25 * leaf)
                )
                shapes.append((outline, _tone(green, light * rng.uniform(0.8, 1.1), rng)))
    return _plant(foot, shapes)


def _stone(location, rng, size, horizon, x, foot) -> Plant:
    metre = _metre(location, horizon, foot)
    radius = rng.uniform(0.02, 0.075) * metre
    angles = np.linspace(0, 2 * np.pi, 11)[:-1]
    rough = rng.uniform(0.8, 1.1, 10)
    tone = np.array(KINDS[location.kind][3]) * 0.5 + np.array((64, 64, 62)) * rng.uniform(0.7, 1.1)
    shapes = []
    for step in range(6):
        shrink, lift = 1 - 0.15 * step, 0.5 + 0.05 * step
        outline = []
        for angle, rim in zip(angles, rough, strict=True):
            across, up = 1.3 * shrink * rim * np.cos(angle), lift - 0.7 * shrink * rim * np.sin(angle)
            outline.append((float(x + radius * across), float(foot - radius * up)))
        shapes.append((tuple(outline), _tone(tone, 0.62 + 0.11 * step, rng)))
    return _plant(foot, shapes)


def _trunk(location, rng, size, horizon) -> tuple[Plant, float]:
    width, height = size
    foot = horizon + (height - horizon) * rng.uniform(0.01, 1.0) ** 2.2 * 0.8
    x = rng.uniform(0, width)
    if foot > horizon + 0.25 * (height - horizon):
        x = width * (rng.uniform(-0.02, 0.12) if rng.random() < 0.5 else rng.uniform(0.88, 1.02))
    radius = rng.uniform(0.05, 0.16) * _metre(location, horizon, foot)
    lean = rng.normal(0, 0.06) * height
    bark = np.array((92, 82, 70)) * rng.uniform(0.6, 1.2)
    shapes = []
    strips = 9
    for i in range(strips):
        left, right = (2 * (i + j) / strips - 1 for j in (0, 1))
        centre = (left + right) / 2 - 0.25
        outline = []
        for y in np.linspace(foot, -5, 12):
            flare = 1 + 0.5 * np.exp((y - foot) / (0.8 * radius + 1))
            sway = lean * (foot - y) / height + rng.normal(0, 0.01) * radius
            outline.append((x + sway + radius * flare, y, x + sway))
        edges = [(c + left * (e - c), y) for e, y, c in outline] + [
            (c + right * (e - c) + 1, y) for e, y, c in outline[::-1]
        ]
        light = max(0.25, 1.1 - 0.75 * centre**2) * rng.uniform(0.8, 1.15)
        shapes.append((tuple((float(a), float(b)) for a, b in edges), _tone(bark, light, rng)))
    return _plant(foot, shapes), x
