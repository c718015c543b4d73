"""Individuals and their coats: a picture over the resting body, seen from the side, so that a pattern stays
where it is on the animal however the animal stands.

Each individual has a base tone and a few large structures (stripes, spots, patches, belts, socks, a mask, a
tail end) whose number, place and size are its own.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from .birds import BIRDS, bird
from .bodies import Body, person, quadruped
from .furs import natural_coat
from .noise import fractal_noise, smooth_noise, smoothstep

RESOLUTION = 180  # coat pixels for a trunk length

SPECIES: dict[str, str] = {
    "Cat": "short head, pricked ears, long tail; tabby stripes or large patches",
    "Deer": "long legs and neck, some with antlers; light spots, bands or patches",
    "Goat": "horns and a beard; belts and large patches",
    "Pig": "barrel on short legs, long snout; blotches and belts",
}

FAUNA: dict[str, tuple[str, ...]] = {  # the species detector's classes, with the kinds drawn of each by public label
    "Bird": ("blackbird", "kea", "magpie", "pukeko", "robin", "thrush"),
    "Cat": ("cat",),
    "Deer": ("deer",),
    "Dog": ("dog",),
    "Ferret": ("ferret",),
    "Goat": ("goat",),
    "Hedgehog": ("hedgehog",),
    "Kiwi": ("kiwi",),
    "Lagomorph": ("rabbit", "hare"),
    "Livestock": ("cow", "sheep", "horse"),
    "Pig": ("pig",),
    "Possum": ("possum",),
    "Rodent": ("mouse", "rat"),
    "Stoat": ("stoat",),
    "Wallaby": ("wallaby",),
}

CONTRAST = 105.0  # grey levels at least between an individual's two tones, so that infrared tells them too

TONES = {  # light tones and dark tones, RGB; a coat takes one of each
    "Cat": (
        ((238, 232, 222), (214, 160, 96), (186, 180, 172), (222, 198, 158)),
        ((40, 36, 34), (72, 58, 46), (112, 62, 26), (62, 64, 68)),
    ),
    "Deer": (
        ((244, 232, 206), (226, 196, 150), (212, 176, 130)),
        ((112, 70, 40), (72, 50, 34), (132, 80, 44), (48, 40, 34)),
    ),
    "Goat": (
        ((240, 236, 226), (218, 204, 180), (206, 172, 130)),
        ((34, 32, 32), (84, 56, 38), (122, 76, 44), (76, 74, 76)),
    ),
    "Pig": (
        ((232, 200, 186), (226, 212, 196), (208, 156, 104)),
        ((38, 36, 38), (82, 56, 44), (108, 62, 36)),
    ),
}

STYLES = {
    "Cat": ("stripes", "stripes", "patches", "saddle"),
    "Deer": ("spots", "spots", "stripes", "patches"),
    "Goat": ("belt", "patches", "patches", "saddle"),
    "Pig": ("patches", "spots", "belt", "saddle"),
}


@dataclass(frozen=True)
class Individual:
    """One animal (or person); everything about its looks follows from species and seed."""

    species: str
    seed: int
    symmetric: bool = True  # the same pattern on both flanks
    name: str = ""

    @property
    def category(self) -> str:
        """`animal` or `person`."""
        return "person" if self.species == "Person" else "animal"

    @property
    def kind(self) -> str:
        """What public labels call it; of a species with several kinds the seed says which."""
        if self.category == "person":
            return "human"
        kinds = FAUNA[self.species]
        return kinds[self.seed % len(kinds)]

    @property
    def antlers(self) -> bool:
        """Does it bear antlers?"""
        return self.species == "Deer" and self.seed % 3 == 0

    @property
    def body(self) -> Body:
        """The resting body."""
        if self.category == "person":
            return person()
        if self.kind in BIRDS:
            return bird(self.kind)
        return quadruped(self.kind, antlers=self.antlers)


@dataclass(frozen=True)
class Look:
    """What one flank is made of."""

    base: tuple[float, float, float]  # RGB 0..255
    style: str  # of the marks: a key of LAYOUTS


def make_individual(species: str, seed: int, *, symmetric: bool = True, name: str = "") -> Individual:
    """The individual of `species` (a key of `FAUNA`) with this seed."""
    if species not in FAUNA:
        raise KeyError(f"no such species: {species}; there are {', '.join(FAUNA)}")
    return Individual(species, seed, symmetric, name)


def make_person(seed: int) -> Individual:
    """A person in clothes of their own."""
    return Individual("Person", seed)


def _blob(u, z, centre, radii, angle, edge=0.12) -> np.ndarray:
    c, s = np.cos(angle), np.sin(angle)
    du, dz = u - centre[0], z - centre[1]
    distance = np.hypot((c * du + s * dz) / radii[0], (c * dz - s * du) / radii[1])
    return smoothstep(distance, 1 + edge, 1 - edge)


def _band(x, centre, width, edge=0.018) -> np.ndarray:
    return smoothstep(np.abs(x - centre), width / 2 + edge, width / 2 - edge)


def _stripes(rng, u, z, marks) -> np.ndarray:
    count = int(rng.integers(3, 9))
    lean = rng.uniform(-0.45, 0.45)
    spots = np.sort(rng.uniform(-0.5, 0.6, count))
    spots = 0.5 * spots + 0.5 * np.linspace(-0.48, 0.55, count)
    mask = np.zeros_like(u)
    for x in spots:
        reach = smoothstep(z, marks["leg"] + rng.uniform(-0.1, 0.22), marks["leg"] + rng.uniform(0.24, 0.3))
        x_here = u - (lean + rng.uniform(-0.15, 0.15)) * (z - marks["back"])
        mask = np.maximum(mask, _band(x_here, x, rng.uniform(0.45, 1.1) * 0.62 / count) * reach)
    return mask


def _spots(rng, u, z, marks) -> np.ndarray:
    mask = np.zeros_like(u)
    count = int(rng.integers(5, 14))
    size = np.sqrt(0.11 / count)
    placed: list[np.ndarray] = []
    for _ in range(200):
        spot = np.array([rng.uniform(-0.48, 0.5), marks["back"] + marks["girth"] * rng.uniform(-0.7, 0.8)])
        if all(np.hypot(*(spot - other)) > 2.3 * size for other in placed):
            placed.append(spot)
            radii = size * rng.uniform(0.7, 1.2, 2)
            mask = np.maximum(mask, _blob(u, z, spot, radii, rng.uniform(0, 3)))
        if len(placed) == count:
            break
    return mask


def _patches(rng, u, z, marks) -> np.ndarray:
    mask = np.zeros_like(u)
    for x in rng.permutation(np.linspace(-0.4, 0.5, 5))[: rng.integers(2, 5)]:
        spot = (x + rng.uniform(-0.1, 0.1), marks["back"] + marks["girth"] * rng.uniform(-0.8, 0.9))
        radii = (rng.uniform(0.09, 0.22), rng.uniform(0.10, 0.26))
        mask = np.maximum(mask, _blob(u, z, spot, radii, rng.uniform(0, 3)))
    return mask


def _belt(rng, u, z, marks) -> np.ndarray:
    lean = rng.uniform(-0.3, 0.3)
    x = u - lean * (z - marks["back"])
    if rng.random() < 0.4:
        return smoothstep(x, *(np.array([-0.02, 0.02]) * rng.choice([-1, 1]) + rng.uniform(-0.25, 0.35)))
    return _band(x, rng.uniform(-0.25, 0.4), rng.uniform(0.16, 0.45))


def _saddle(rng, u, z, marks) -> np.ndarray:
    low = marks["back"] + marks["girth"] * rng.uniform(-0.5, 0.45)
    start, end = rng.uniform(-0.7, -0.2), rng.uniform(0.1, 0.6)
    wave = rng.uniform(0, 0.25) * marks["girth"] * np.sin(u * rng.uniform(8, 22) + rng.uniform(0, 6))
    return (
        smoothstep(z + wave, low - 0.02, low + 0.02)
        * smoothstep(u, start - 0.02, start + 0.02)
        * smoothstep(u, end + 0.02, end - 0.02)
    )


LAYOUTS = {"stripes": _stripes, "spots": _spots, "patches": _patches, "belt": _belt, "saddle": _saddle}


def _extremities(rng, u, z, marks) -> np.ndarray:
    """Socks, tail, ears and face that take the other tone, each or none: `(H,W)` 0..1."""
    mask = np.zeros_like(u)
    leg, neck = marks["leg"], marks["neck_x"]
    for front in (True, False):
        if rng.random() < 0.6:
            height = leg * rng.uniform(0.3, 0.95)
            here = smoothstep(u, -0.02, 0.02) if front else smoothstep(u, 0.02, -0.02)
            mask = np.maximum(mask, smoothstep(z, height + 0.02, height - 0.02) * here)
    tail = smoothstep(u, marks["tail_x"], marks["tail_x"] - 0.03)
    length = marks["tail_x"] - marks["tail_end"]
    if length > 0.5 and rng.random() < 0.6:
        rings = rng.integers(2, 6)
        mask = np.maximum(mask, tail * smoothstep(np.sin(u / length * 2 * np.pi * rings), -0.1, 0.1))
    elif rng.random() < 0.6:
        end = marks["tail_x"] - length * rng.uniform(0.1, 0.7)
        mask = np.maximum(mask, smoothstep(u, end + 0.02, end - 0.02) * tail)
    head = smoothstep(u, neck + 0.5 * (marks["skull_x"] - neck), neck + 0.5 * (marks["skull_x"] - neck) + 0.05)
    face = rng.choice(["plain", "hood", "muzzle", "cap", "collar"])
    if face == "hood":
        mask = np.maximum(mask, head)
    elif face == "muzzle":
        mask = np.maximum(mask, smoothstep(u, marks["eye_x"] - 0.02, marks["eye_x"] + 0.04))
    elif face == "cap":
        mask = np.maximum(mask, head * smoothstep(z, marks["eye_z"] - 0.02, marks["eye_z"] + 0.02))
    elif face == "collar":
        mask = np.maximum(mask, _band(u, neck + rng.uniform(0.02, 0.1), rng.uniform(0.06, 0.14)))
    return mask


def _flank(rng, individual: Individual, u: np.ndarray, z: np.ndarray) -> tuple[np.ndarray, Look]:
    """The coat `(H,W,3) float32`, RGB 0..255, and what it is made of."""
    marks = individual.body.marks
    shape = u.shape
    light, dark = (np.array(tones[rng.integers(len(tones))], np.float32) for tones in TONES[individual.species])
    light, dark = (np.clip(tone * rng.uniform(0.9, 1.08) + rng.normal(0, 3, 3), 8, 250) for tone in (light, dark))
    dark = dark * min(1.0, (light.mean() - CONTRAST) / dark.mean())
    base, mark = (light, dark) if rng.random() < (0.2 if individual.species == "Deer" else 0.6) else (dark, light)
    cells = (int(shape[0] / RESOLUTION * 4) + 2, int(shape[1] / RESOLUTION * 4) + 2)
    warp_u = u + 0.035 * smooth_noise(rng, shape, cells)
    warp_z = z + 0.035 * smooth_noise(rng, shape, cells)
    style = str(rng.choice(STYLES[individual.species]))
    mask = LAYOUTS[style](rng, warp_u, warp_z, marks)
    ends = _extremities(rng, warp_u, warp_z, marks)
    mask = np.where(ends > 0.5, np.maximum(mask, ends), mask)
    if rng.random() < 0.35:
        over = LAYOUTS[rng.choice(["belt", "patches", "saddle"])]
        mask = np.abs(mask - over(rng, warp_u, warp_z, marks))
    coat = base + (mark - base) * mask[..., None]
    pale = smoothstep(warp_z, marks["leg"] + 0.12, marks["leg"] - 0.02) * rng.uniform(0, 0.25)
    coat = coat + (light - coat) * pale[..., None]
    streaks = fractal_noise(rng, shape, (shape[0] // 3, shape[1] // 9), 2)
    look = Look(tuple(map(float, base)), style)
    return np.clip(coat * (1 + 0.10 * streaks[..., None]), 4, 252), look


def _clothes(rng, u: np.ndarray, z: np.ndarray) -> np.ndarray:
    coat = np.empty((*u.shape, 3), np.float32)
    coat[:] = rng.uniform(30, 110, 3)
    coat[z > 0.93] = rng.uniform(20, 220, 3)
    coat[z > 1.5] = (205, 160, 130)
    coat[(z < 0.9) & (u > 0.0) & (z > 0.72)] = coat[0, 0]
    return coat * (1 + 0.05 * fractal_noise(rng, u.shape, (60, 30), 2)[..., None])


def coat_of(individual: Individual) -> np.ndarray:
    """`(2,H,W,3) uint8`: the coat on the right and the left flank, over the body's `canvas`, z upward with
    the rows, `RESOLUTION` px for a unit."""
    return _painted(individual)[0]


def look_of(individual: Individual, side: str = "right") -> Look:
    """What an animal's coat on the right or the left flank is made of."""
    return _painted(individual)[1][side == "left"]


@lru_cache(maxsize=1024)
def _painted(individual: Individual) -> tuple[np.ndarray, tuple[Look | None, Look | None]]:
    """Both flanks, right and left: the coat `(2,H,W,3) uint8`, and of animals what it is made of."""
    x0, z0, x1, z1 = individual.body.canvas
    columns, rows = int((x1 - x0) * RESOLUTION) + 1, int((z1 - z0) * RESOLUTION) + 1
    u, z = np.meshgrid(
        x0 + (np.arange(columns, dtype=np.float32) + 0.5) / RESOLUTION,
        z0 + (np.arange(rows, dtype=np.float32) + 0.5) / RESOLUTION,
    )
    flanks = []
    for side in range(1 if individual.symmetric else 2):
        if individual.category == "person":
            flanks.append((_clothes(np.random.default_rng([individual.seed, 99]), u, z), None))
        elif individual.species in SPECIES:
            rng = np.random.default_rng([individual.seed, list(SPECIES).index(individual.species), side])
            flanks.append(_flank(rng, individual, u, z))
        else:
            rng = np.random.default_rng([individual.seed, 40 + list(FAUNA).index(individual.species), side])
            coat = natural_coat(rng, individual.kind, individual.body.marks, u, z, RESOLUTION)
            flanks.append((coat, None))
    (right, said_right), (left, said_left) = flanks[0], flanks[-1]
    return np.stack([right, left]).astype(np.uint8), (said_right, said_left)


def look_up(individual: Individual, rest: np.ndarray) -> np.ndarray:
    """The coat's colour `(N,3) float32`, RGB 0..255, at rest points `(N,3)`."""
    coat = coat_of(individual)
    x0, z0, _, _ = individual.body.canvas
    column = np.clip((rest[:, 0] - x0) * RESOLUTION, 0, coat.shape[2] - 1).astype(np.intp)
    row = np.clip((rest[:, 2] - z0) * RESOLUTION, 0, coat.shape[1] - 1).astype(np.intp)
    return coat[(rest[:, 1] > 0).astype(np.intp), row, column].astype(np.float32)
