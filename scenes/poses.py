"""Poses: how every bone is turned, drawn at random within a species' habits and moved on through a burst."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from .bodies import Body

GAIT = {"hl": 0.0, "fl": 0.25, "hr": 0.5, "fr": 0.75}  # when in a walking cycle each leg swings


def turn(pitch: float = 0.0, yaw: float = 0.0, roll: float = 0.0) -> np.ndarray:
    """Rotation `(3,3)`, radians: pitch lifts what lies forward, yaw turns to the left, roll leans right."""
    cp, sp, cy, sy, cr, sr = (f(a) for a in (pitch, yaw, roll) for f in (np.cos, np.sin))
    lift = np.array([[cp, 0, -sp], [0, 1, 0], [sp, 0, cp]])
    swing = np.array([[cy, -sy, 0], [sy, cy, 0], [0, 0, 1]])
    lean = np.array([[1, 0, 0], [0, cr, -sr], [0, sr, cr]])
    return swing @ lift @ lean


@dataclass(frozen=True)
class Pose:
    """Angles in radians; `phase` in walking cycles; `heading` 0 faces right in the image, pi faces left."""

    heading: float
    tilt: float  # the camera looks down by this much
    phase: float
    stride: float
    bend: float
    neck: tuple[float, float]  # pitch, yaw
    head: tuple[float, float]
    tail: tuple[float, float, float]  # lift at the base, curl and sway along it
    ears: float

    @property
    def side(self) -> str:
        """The flank that the camera sees."""
        return "right" if np.cos(self.heading) > 0 else "left"

    def moved(self, cycles: float, rng: np.random.Generator) -> Pose:
        """The pose some walking cycles later."""
        jitter = rng.normal(0, 0.08, 4)
        return replace(
            self,
            phase=self.phase + cycles,
            heading=self.heading + 0.4 * jitter[0],
            neck=(self.neck[0] + 1.5 * jitter[1], self.neck[1] + jitter[2]),
            bend=self.bend + 0.5 * jitter[3],
        )


HABITS = {  # neck pitch range, tail base pitch range, curl range, and how far the legs swing
    "Bird": ((-0.45, 0.35), (-0.3, 0.25), (0.0, 0.0), 0.7),
    "Cat": ((-0.75, 0.35), (-1.3, 0.7), (-0.35, 0.35), 1.0),
    "Deer": ((-1.75, 0.25), (-0.2, 0.9), (-0.2, 0.4), 1.0),
    "Dog": ((-0.8, 0.35), (-1.3, 0.4), (0.0, 0.35), 1.1),
    "Ferret": ((-0.45, 0.35), (-0.2, 0.4), (-0.1, 0.15), 1.0),
    "Goat": ((-1.6, 0.3), (-1.4, -0.5), (-0.3, 0.2), 1.0),
    "Hedgehog": ((-0.4, 0.1), (0.0, 0.3), (0.0, 0.0), 0.7),
    "Kiwi": ((-0.75, 0.15), (0.0, 0.0), (0.0, 0.0), 0.8),
    "Lagomorph": ((-0.35, 0.3), (-0.8, -0.2), (0.0, 0.3), 0.35),
    "Livestock": ((-1.3, 0.2), (1.05, 1.4), (-0.1, 0.1), 0.7),
    "Pig": ((-0.55, 0.15), (-0.3, 0.9), (0.2, 1.2), 1.0),
    "Possum": ((-0.5, 0.3), (-0.1, 0.35), (-0.05, 0.3), 0.8),
    "Rodent": ((-0.3, 0.15), (0.02, 0.2), (0.0, 0.1), 0.9),
    "Stoat": ((-0.45, 0.55), (-0.4, 0.35), (-0.15, 0.15), 1.0),
    "Wallaby": ((-0.5, 0.2), (0.3, 0.5), (0.02, 0.1), 0.3),
    "Person": ((0.0, 0.0), (0.0, 0.0), (0.0, 0.0), 1.0),
}


def random_pose(species: str, rng: np.random.Generator, difficulty: float, side: str | None = None) -> Pose:
    """A pose whose range of yaw, bend and gait grows with `difficulty` 0..1."""
    spread = 0.35 + 0.9 * difficulty
    side = side or str(rng.choice(["left", "right"]))
    neck, tail, curl, swing = HABITS[species]
    low = neck[0] * min(1.0, 0.45 + 0.8 * difficulty)
    return Pose(
        heading=(0.0 if side == "right" else np.pi) + np.clip(rng.normal(0, 0.42 * spread), -1.1, 1.1),
        tilt=rng.uniform(0.02, 0.16 + 0.12 * difficulty),
        phase=rng.uniform(0, 1),
        stride=rng.uniform(0.08, 0.45) * (0.7 + 0.5 * difficulty) * swing,
        bend=rng.normal(0, 0.16 * spread),
        neck=(rng.uniform(low, neck[1]), rng.normal(0, 0.3 * spread)),
        head=(rng.uniform(-0.25, 0.2) - 0.35 * low * rng.uniform(0, 0.5), rng.normal(0, 0.25 * spread)),
        tail=(rng.uniform(*tail), rng.uniform(*curl), rng.normal(0, 0.15)),
        ears=rng.normal(0, 0.2),
    )


def _leg_turns(pose: Pose) -> dict[str, np.ndarray]:
    turns = {}
    for leg, offset in GAIT.items():
        cycle = 2 * np.pi * (pose.phase + offset)
        swing, lifted = pose.stride * np.sin(cycle), max(0.0, np.cos(cycle)) * pose.stride
        turns[f"{leg}1"] = turn(swing + (0.3 * lifted if leg[0] == "f" else 0.45 * lifted))
        turns[f"{leg}2"] = turn(-1.5 * lifted)
        turns[f"{leg}3"] = turn(1.1 * lifted if leg[0] == "h" else -0.7 * lifted)
    return turns


def bone_turns(pose: Pose) -> dict[str, np.ndarray]:
    """The rotation of each bone about its pivot, relative to its parent; bones left out do not turn."""
    turns = _leg_turns(pose)
    turns["spine"] = turn(0, pose.bend)
    turns["chest"] = turn(0, pose.bend)
    turns["hip"] = turn(0.02 * np.sin(4 * np.pi * pose.phase), -pose.bend)
    turns["neck"] = turn(pose.neck[0], pose.neck[1])
    turns["head"] = turn(pose.head[0] - 0.45 * pose.neck[0], pose.head[1])
    lift, curl, sway = pose.tail
    turns["tail1"] = turn(lift, sway)
    for i in range(2, 6):
        turns[f"tail{i}"] = turn(-curl, sway)
    turns["left_ear"], turns["right_ear"] = turn(pose.ears), turn(0.6 * pose.ears)
    return turns


def pose_bones(body: Body, turns: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Rotation `(B,3,3)` and shift `(B,3)` that take rest points of each bone to the posed body, which
    stands on z = 0."""
    rotation, shift = np.zeros((len(body.bones), 3, 3)), np.zeros((len(body.bones), 3))
    for i, name in enumerate(body.bones):
        own, pivot, parent = turns.get(name, np.eye(3)), body.pivots[i], body.parents[i]
        above, moved = (np.eye(3), np.zeros(3)) if parent < 0 else (rotation[parent], shift[parent])
        rotation[i] = above @ own
        shift[i] = above @ (pivot - own @ pivot) + moved
    posed = np.einsum("pij,pj->pi", rotation[body.part_bone], body.centres) + shift[body.part_bone]
    reach = np.linalg.norm(np.einsum("pij,pjk->pik", rotation[body.part_bone], body.axes)[:, 2], axis=1)
    shift[:, 2] -= (posed[:, 2] - reach).min()
    return rotation, shift
