"""Staging: where in a view an individual stands, in which pose, and under which light."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from datetime import datetime

import numpy as np

from .coats import Individual
from .figures import extent
from .places import Location
from .poses import Pose, random_pose


@dataclass(frozen=True)
class Light:
    """How a photo is lit and taken. `gain` multiplies all; `shade` is the depth of sun flecks and shadows;
    `grain` is the sensor's noise in grey levels; `fleck_seed` places the flecks."""

    infrared: bool
    gain: float
    tint: tuple[float, float, float]
    shade: float
    grain: float
    fleck_seed: int


@dataclass(frozen=True)
class Placement:
    """An individual standing in a view: `x` and `foot` are the ground below its middle as shares of the
    photo's width and of the way from the horizon to the lower edge."""

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

    def trunk(self, location: Location, ground: float) -> float:
        """Px to the individual's trunk length, `ground` px below the horizon."""
        metre = self.foot * ground / location.lens_height
        return metre * self.individual.body.metres * self.size


def light_at(location: Location, when: datetime, infrared: bool) -> Light:
    """The light of a moment: the same for the photos of a burst, different from day to day."""
    rng = np.random.default_rng([location.seed, when.toordinal(), when.hour, int(infrared)])
    low_sun = min(abs(when.hour - 12.5) / 7.5, 1.0)
    warm = np.array((1 + 0.08 * low_sun, 1.0, 1 - 0.10 * low_sun)) * location.tint
    gain = rng.uniform(0.88, 1.15) * (1 if infrared else 1.12 - 0.22 * low_sun)
    grain = rng.uniform(5, 9) if infrared else rng.uniform(2, 5)
    tint = tuple(float(v) for v in warm)
    return Light(infrared, gain, tint, rng.uniform(0.05, 0.45), grain, int(rng.integers(1 << 30)))


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
    """A random pose and place; the animal's longer side is about `share` of the photo's width, as far as the
    ground there allows it and the head stays in the photo."""
    pose = random_pose(individual.species, rng, difficulty, side)
    share = share or rng.uniform(0.24 - 0.08 * difficulty, 0.52 - 0.12 * difficulty)
    low, high = extent(individual.body, pose)
    horizon, ground = location.horizon * size[1], size[1] * (1 - location.horizon)
    rise = -low[1] - location.lens_height / individual.body.metres  # of the head above the horizon, in trunks
    trunk = share * size[0] / float(max(high - low))
    if rise > 0:
        trunk = min(trunk, 0.93 * horizon / rise)
    foot = trunk / individual.body.metres * location.lens_height / ground
    foot = float(np.clip(foot, 0.05, 0.92 - 0.08 * rng.random()))
    half = min(0.45, 0.5 * share)
    x, speed = rng.uniform(half, 1 - half), rng.uniform(0.02, 0.12)
    return Placement(individual, pose, float(x), foot, float(speed), float(rng.uniform(0.95, 1.05)))
