"""Bodies: bones, the ellipsoids that hang on them, and named points, in a rest pose.

The body frame has x forward, y to the animal's left and z up; the trunk is one unit long and the ground is
at z = 0. The rest pose is also the canvas of the coat: a coat is a picture over rest (x, z).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, lru_cache

import numpy as np

from .builds import BUILDS, Build

SIDES = (("left", 1.0), ("right", -1.0))


def _by(point: np.ndarray, x: float, y: float, z: float) -> np.ndarray:
    """The point moved by x, y, z."""
    return point + np.array((x, y, z))


@dataclass(frozen=True)
class Body:
    """`parents (B,) int` (-1 for the root), `pivots (B,3)`, and for the P ellipsoids `part_bone (P,) int`,
    `centres (P,3)`, `axes (P,3,3)` (columns are half axes), `keratin (P,) float` (1 for horn, hoof, nose and
    eye); `points` maps a keypoint's name to its bone and rest position; `marks` places the coat."""

    bones: tuple[str, ...]
    parents: np.ndarray
    pivots: np.ndarray
    part_bone: np.ndarray
    centres: np.ndarray
    axes: np.ndarray
    keratin: np.ndarray
    points: dict[str, tuple[int, np.ndarray]]
    marks: dict[str, float]
    metres: float  # length of the trunk

    @property
    def canvas(self) -> tuple[float, float, float, float]:
        """`(x0, z0, x1, z1)` that holds every part in the rest pose."""
        reach = np.linalg.norm(self.axes, axis=2)
        low, high = (self.centres - reach).min(0), (self.centres + reach).max(0)
        return low[0] - 0.03, low[2] - 0.03, high[0] + 0.03, high[2] + 0.03


class Builder:
    """Collects bones, ellipsoids and points into a `Body`."""

    def __init__(self) -> None:
        self.bones: dict[str, tuple[int, tuple[float, ...]]] = {}
        self.parts: list[tuple[int, np.ndarray, np.ndarray, float]] = []
        self.points: dict[str, tuple[int, np.ndarray]] = {}
        self.marks: dict[str, float] = {}

    def bone(self, name: str, parent: str | None, pivot: tuple[float, ...]) -> None:
        """A bone that turns about `pivot` and carries its children with it."""
        self.bones[name] = (-1 if parent is None else self.index(parent), pivot)

    def index(self, name: str) -> int:
        """The bone's number."""
        return list(self.bones).index(name)

    def ball(self, bone: str, centre, radii, keratin: float = 0.0, lift: float = 0.0) -> None:
        """An ellipsoid along the body's axes, its x axis raised by `lift` radians."""
        axes = np.diag(radii).astype(float)
        if lift:
            c, s = np.cos(lift), np.sin(lift)
            axes = np.array([[c, 0, -s], [0, 1, 0], [s, 0, c]]) @ axes
        self.parts.append((self.index(bone), np.array(centre, float), axes, keratin))

    def limb(self, bone: str, start, end, radii, count: int = 2, flat: float = 1.0, keratin: float = 0.0) -> None:
        """`count` ellipsoids from `start` to `end`, thick `radii[0]` to `radii[1]`, `flat` times as wide."""
        start, end = np.array(start, float), np.array(end, float)
        along = (end - start) / np.linalg.norm(end - start)
        across = np.cross([0.0, 1.0, 0.0], along)
        across /= np.linalg.norm(across)
        turn = np.stack([along, np.cross(across, along), across], 1)
        half = np.linalg.norm(end - start) / (2 * count)
        for i in range(count):
            share = (i + 0.5) / count
            radius = radii[0] + (radii[1] - radii[0]) * share
            axes = turn * np.array([half * 1.5 + 0.5 * radius, radius * flat, radius])
            self.parts.append((self.index(bone), start + (end - start) * share, axes, keratin))

    def point(self, name: str, bone: str, position) -> None:
        """A named keypoint that moves with `bone`."""
        self.points[name] = (self.index(bone), np.array(position, float))

    def build(self, metres: float) -> Body:
        """The finished body."""
        bone, centre, axes, keratin = (np.array(column) for column in zip(*self.parts, strict=True))
        parents, pivots = (np.array(column) for column in zip(*self.bones.values(), strict=True))
        return Body(tuple(self.bones), parents, pivots, bone, centre, axes, keratin, self.points, self.marks, metres)


def _spine(s: Build, x: float) -> np.ndarray:
    """The point of the spine's axis at `x` of the level trunk."""
    lift, way = np.radians(s.lift), x + 0.3
    rise = s.arch * max(0.0, 1 - (x / 0.45) ** 2)
    return np.array([x - way * (1 - np.cos(lift)), 0.0, s.back + rise + way * np.sin(lift)])


def _trunk(b: Builder, s: Build) -> None:
    b.bone("hip", None, tuple(_spine(s, -0.3)))
    b.bone("spine", "hip", tuple(_spine(s, -0.12)))
    b.bone("chest", "spine", tuple(_spine(s, 0.15)))
    places = np.linspace(-0.36, 0.36, 11)
    for x in places:
        r = float(np.interp(x, [-0.36, 0.02, 0.36], s.girth))
        r *= 0.86 if abs(x) > 0.35 else 1.0
        sag = 0.3 * max(0.0, s.girth[1] - 0.2) * (1 - (x / 0.36) ** 2) if not s.arch else 0.0
        bone = "hip" if x < -0.15 else "spine" if x < 0.15 else "chest"
        b.ball(bone, _by(_spine(s, x), 0, 0, -sag), (0.19, r * s.width, r), lift=np.radians(s.lift))
    rump, chest = s.girth[0], s.girth[2]
    b.point("withers", "chest", _by(_spine(s, 0.30), 0, 0, chest * 0.92))
    b.point("tail_base", "hip", _by(_spine(s, -0.49), 0, 0, rump * 0.5))
    for side, y in SIDES:
        b.point(f"{side}_shoulder", "chest", _by(_spine(s, 0.32), 0, y * chest * s.width * 0.95, -0.2 * chest))
        b.point(f"{side}_hip", "hip", _by(_spine(s, -0.34), 0, y * rump * s.width * 0.95, -0.1 * rump))


def _leg(b: Builder, s: Build, name: str, parent: str, joints: Sequence[tuple[float, float]], y: float) -> None:
    top, knee, wrist, foot = ((x, y, z) for x, z in joints)
    thick = s.leg
    b.bone(f"{name}1", parent, top)
    b.bone(f"{name}2", f"{name}1", knee)
    b.bone(f"{name}3", f"{name}2", wrist)
    b.limb(f"{name}1", top, knee, (thick[0], thick[1] * 1.15), 2, 0.8)
    b.limb(f"{name}2", knee, wrist, (thick[1] * 1.1, thick[2]), 2)
    b.limb(f"{name}3", wrist, foot, (thick[2] * 1.05, thick[2]), 1)
    length, height = s.foot
    b.ball(f"{name}3", (foot[0] + 0.4 * length, y, height), (length, height * 0.95, height), float(s.hoofed))


def _legs(b: Builder, s: Build) -> None:
    fore = _by(_spine(s, 0.33), 0, 0, -0.35 * s.girth[2])[2]
    hind = s.back - 0.25 * s.girth[0]
    low = s.foot[1]
    for side, sign in SIDES:
        y = sign * s.girth[2] * s.width * 0.62
        mark = side[0]
        joints = s.fore or ((0.33, fore), (0.29, fore * 0.55), (0.31, 0.20 * fore), (0.31, low))
        _leg(b, s, f"f{mark}", "chest", joints, y)
        (elbow_x, elbow_z), (paw_x, paw_z) = joints[1], joints[3]
        b.point(f"{side}_elbow", f"f{mark}2", (elbow_x, y + sign * s.leg[1], elbow_z))
        b.point(f"{side}_front_paw", f"f{mark}3", (paw_x + 0.01, y, paw_z))
        y = sign * s.girth[0] * s.width * 0.62
        joints = s.hind or ((-0.34, hind), (-0.25, hind * 0.60), (-0.42, 0.30 * hind), (-0.38, low))
        _leg(b, s, f"h{mark}", "hip", joints, y)
        thigh = (joints[0][0] + 0.02, y, hind * 0.9)
        b.ball(f"h{mark}1", thigh, np.array((0.12, s.leg[0] * 0.8, 0.62 * s.girth[0])) * s.haunch)
        (hock_x, hock_z), (paw_x, paw_z) = joints[2], joints[3]
        b.point(f"{side}_hock", f"h{mark}3", (hock_x, y + sign * s.leg[2], hock_z))
        b.point(f"{side}_hind_paw", f"h{mark}3", (paw_x + 0.01, y, paw_z))


def _head(b: Builder, s: Build) -> None:
    length, lift, base, top = s.neck
    angle = np.radians(lift)
    root = _by(_spine(s, 0.34), 0, 0, 0.3 * s.girth[2])
    end = root + length * np.array([np.cos(angle), 0, np.sin(angle)])
    b.bone("neck", "chest", tuple(root))
    b.bone("head", "neck", tuple(end))
    b.limb("neck", root - 0.1 * (end - root), end, (base, top), 3, 0.8)
    half, tall = s.skull
    skull = _by(end, 0.45 * half, 0, 0.25 * tall)
    b.ball("head", skull, (half, tall * 0.85, tall))
    reach, drop, thick, tip = s.muzzle
    start = _by(skull, 0.5 * half, 0, -0.15 * tall)
    nose = _by(skull, half + reach * 0.75, 0, -drop)
    b.limb("head", start, nose, (thick, tip), 2, 0.85)
    b.ball("head", _by(nose, tip * 0.9, 0, tip * 0.15), (tip * 0.5, tip * 0.7, tip * 0.6), 0.25 if s.snout else 1.0)
    b.point("nose", "head", _by(nose, tip * 1.2, 0, tip * 0.15))
    for side, sign in SIDES:
        eye = _by(skull, 0.62 * half, sign * tall * 0.66, 0.22 * tall)
        b.ball("head", eye, (s.eye,) * 3, 1.0)
        b.point(f"{side}_eye", "head", eye)
        _ear(b, s, side, sign, skull)
    b.marks |= {
        "eye_x": skull[0] + 0.6 * half,
        "eye_z": skull[2],
        "nose_x": nose[0],
        "neck_x": root[0],
        "neck_z": root[2],
    }
    b.marks |= {"skull_x": skull[0], "skull_z": skull[2], "skull": half}
    if s.horns:
        _horns(b, s, skull)
    if s.beard:
        chin = _by(nose, -0.06, 0, -tip)
        b.limb("head", chin, _by(chin, -0.03, 0, -0.15), (0.03, 0.012), 2)
    if s.mane:
        crest = np.array([-0.5 * base, 0, 0.75 * base])
        b.limb("neck", root + crest, _by(end, -0.05, 0, tall * 1.1), (0.07, 0.05), 4, 0.5)


def _ear(b: Builder, s: Build, side: str, sign: float, skull: np.ndarray) -> None:
    half, tall = s.skull
    long, thick, forward, outward = s.ear
    lean, out = np.radians(forward), np.radians(outward)
    start = _by(skull, -0.15 * half, sign * 0.55 * tall, 0.65 * tall)
    way = np.array([np.sin(lean) * np.cos(out), sign * np.sin(out), np.cos(lean) * np.cos(out)])
    if s.snout:
        way[2] *= 0.55
    b.bone(f"{side}_ear", "head", tuple(start))
    b.limb(f"{side}_ear", start, start + way * long, (thick, thick * 0.4), 3, 0.6)
    b.point(f"{side}_ear", f"{side}_ear", start + way * long * 0.85)


def _horns(b: Builder, s: Build, skull: np.ndarray) -> None:
    half, tall = s.skull
    for _, sign in SIDES:
        start = _by(skull, 0.1 * half, sign * 0.4 * tall, 0.8 * tall)
        path = [(0, 0, 0), (-0.03, 0.02, 0.13), (-0.12, 0.04, 0.22), (-0.23, 0.07, 0.21)]
        thick = [0.035, 0.03, 0.023, 0.012]
        if s.horns == "antlers":
            path = [(0, 0, 0), (-0.10, 0.08, 0.16), (-0.12, 0.15, 0.33), (-0.02, 0.17, 0.47)]
            thick = [0.024, 0.021, 0.019, 0.012]
            for base, tip in (((-0.02, 0.02, 0.04), (0.14, 0.05, 0.15)), ((-0.11, 0.11, 0.24), (0.04, 0.17, 0.34))):
                ends = [start + np.array(p) * [1, sign, 1] for p in (base, tip)]
                b.limb("head", *ends, (0.018, 0.009), 2, keratin=0.8)
        nodes = [start + np.array(p) * [1, sign, 1] for p in path]
        for i in range(3):
            b.limb("head", nodes[i], nodes[i + 1], thick[i : i + 2], 2, keratin=0.8)


def _tail(b: Builder, s: Build) -> None:
    length, thick, tip = s.tail
    root = _by(_spine(s, -0.46), 0, 0, s.girth[0] * 0.55)
    parent = "hip"
    count = 5 if length > 0.5 else 2
    for i in range(count):
        start = _by(root, -length * i / count, 0, 0)
        b.bone(f"tail{i + 1}", parent, tuple(start))
        ends = [thick + (tip - thick) * (i + j) / count for j in (0, 1)]
        b.limb(f"tail{i + 1}", start, _by(start, -length / count, 0, 0), ends, 2)
        parent = f"tail{i + 1}"
    b.marks |= {"tail_x": root[0], "tail_end": root[0] - length, "tail_z": root[2], "tail_rise": 0.0}


def _spines(b: Builder, s: Build) -> None:
    """Spines all over the back, spread evenly and laid backwards."""
    for i in range(s.spines):
        x = 0.40 - 0.93 * (i + 0.5) / s.spines
        around = 1.9 * (2 * ((i * 0.618) % 1) - 1)
        radius = 0.97 * s.girth[1] * max(0.15, 1 - (x / 0.56) ** 2) ** 0.5
        out = np.array([0.0, np.sin(around), np.cos(around)])
        start = _spine(s, x) + radius * out * (1, s.width, 1)
        way = out + np.array([-0.35 + 1.2 * min(x, 0.0), 0, 0])
        bone = "hip" if x < -0.15 else "spine" if x < 0.15 else "chest"
        b.limb(bone, start, start + 0.13 * way / np.linalg.norm(way), (0.016, 0.006), 1)


@cache
def quadruped(kind: str, antlers: bool = False) -> Body:
    """The body of one of the animals in `BUILDS`."""
    build = BUILDS[kind]
    if antlers:
        build = Build(**{**build.__dict__, "horns": "antlers"})
    b = Builder()
    _trunk(b, build)
    _legs(b, build)
    _head(b, build)
    _tail(b, build)
    _spines(b, build)
    b.marks |= {"back": build.back, "girth": build.girth[1], "leg": build.back - build.girth[1]}
    b.marks |= {"slope": float(np.tan(np.radians(build.lift))), "axis_x": -0.3}
    return b.build(build.metres)


@lru_cache(maxsize=1)
def person() -> Body:
    """An upright walker; a unit is one metre."""
    b = Builder()
    b.bone("hip", None, (0, 0, 0.92))
    b.bone("spine", "hip", (0, 0, 1.0))
    b.bone("head", "spine", (0, 0, 1.5))
    b.ball("hip", (0, 0, 0.95), (0.13, 0.18, 0.15))
    for z, r in ((1.08, 0.155), (1.2, 0.17), (1.33, 0.185), (1.42, 0.16)):
        b.ball("spine", (0, 0, z), (0.125, r, 0.13))
    b.limb("head", (0, 0, 1.44), (0.02, 0, 1.58), (0.065, 0.06), 1)
    b.ball("head", (0.02, 0, 1.65), (0.105, 0.085, 0.135))
    b.ball("head", (0.0, 0, 1.70), (0.115, 0.10, 0.10), 1.0)
    for side, y in SIDES:
        m = side[0]
        b.bone(f"h{m}1", "hip", (0, y * 0.1, 0.92))
        b.bone(f"h{m}2", f"h{m}1", (0.02, y * 0.1, 0.5))
        b.limb(f"h{m}1", (0, y * 0.1, 0.92), (0.02, y * 0.1, 0.5), (0.1, 0.075), 3)
        b.limb(f"h{m}2", (0.02, y * 0.1, 0.5), (0, y * 0.1, 0.08), (0.07, 0.05), 3)
        b.ball(f"h{m}2", (0.06, y * 0.1, 0.05), (0.14, 0.055, 0.05), 1.0)
        b.bone(f"f{m}1", "spine", (0, y * 0.2, 1.42))
        b.bone(f"f{m}2", f"f{m}1", (0, y * 0.24, 1.14))
        b.limb(f"f{m}1", (0, y * 0.2, 1.42), (0, y * 0.24, 1.14), (0.07, 0.055), 2)
        b.limb(f"f{m}2", (0, y * 0.24, 1.14), (0.03, y * 0.25, 0.88), (0.052, 0.042), 2)
        b.ball(f"f{m}2", (0.04, y * 0.25, 0.82), (0.045, 0.035, 0.07))
    return b.build(1.0)
