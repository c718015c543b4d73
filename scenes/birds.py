"""Two-legged bodies: a body that tapers to the tail, folded wings, a bill, and legs that bend backwards."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np

from .bodies import SIDES, Body, Builder


@dataclass(frozen=True)
class BirdBuild:
    """Proportions of a bird, in body lengths unless said otherwise."""

    metres: float  # length of the body without head and tail, m
    stance: float  # slope of the body, degrees
    girth: float  # half height of the body at its deepest
    leg: tuple[float, float]  # length below the body, thickness
    neck: tuple[float, float, float, float]  # length, elevation (degrees), thickness at base and top
    head: float  # radius
    bill: tuple[float, float, float]  # length, thickness, droop of its tip
    tail: tuple[float, float]  # length, half thickness; no length is no tail
    wing: float  # half length; 0 is none to be seen
    taper: float = 0.35  # depth of the rump against the deepest


BIRDS = {
    "blackbird": BirdBuild(
        0.19, 24, 0.25, (0.26, 0.026), (0.12, 48, 0.16, 0.13), 0.165, (0.17, 0.036, 0.0), (0.52, 0.055), 0.40
    ),
    "kea": BirdBuild(
        0.32, 38, 0.27, (0.17, 0.045), (0.13, 55, 0.19, 0.155), 0.165, (0.19, 0.052, 0.13), (0.40, 0.07), 0.48
    ),
    "kiwi": BirdBuild(
        0.38, 14, 0.40, (0.30, 0.060), (0.20, 8, 0.18, 0.115), 0.125, (0.58, 0.027, 0.10), (0.0, 0.0), 0.0, 0.72
    ),
    "magpie": BirdBuild(
        0.28, 28, 0.24, (0.28, 0.028), (0.13, 50, 0.16, 0.125), 0.145, (0.22, 0.042, 0.0), (0.42, 0.055), 0.42
    ),
    "pukeko": BirdBuild(
        0.30, 22, 0.28, (0.52, 0.032), (0.30, 68, 0.14, 0.09), 0.115, (0.15, 0.055, 0.03), (0.22, 0.06), 0.40
    ),
    "robin": BirdBuild(
        0.16, 42, 0.28, (0.42, 0.022), (0.06, 50, 0.19, 0.17), 0.19, (0.13, 0.028, 0.0), (0.42, 0.045), 0.38
    ),
    "thrush": BirdBuild(
        0.19, 34, 0.26, (0.28, 0.026), (0.12, 52, 0.16, 0.13), 0.155, (0.15, 0.034, 0.0), (0.42, 0.05), 0.40
    ),
}  # fmt: skip


def _torso(b: Builder, s: BirdBuild, middle: float) -> tuple[np.ndarray, float]:
    """The body with wings and tail; answers the unit way along it and its slope in radians."""
    slope = np.radians(s.stance)
    way, centre = np.array([np.cos(slope), 0, np.sin(slope)]), np.array([0, 0, middle])
    b.bone("hip", None, (-0.1, 0, middle))
    for share in np.linspace(-0.36, 0.3, 7):
        depth = s.girth * np.interp(share, (-0.4, 0.05, 0.36), (s.taper, 1.0, 0.78))
        b.ball("hip", centre + share * way, (0.2, depth * 0.85, depth), lift=slope)
    for side, sign in SIDES:
        if s.wing:
            b.bone(f"{side}_wing", "hip", tuple(centre + 0.25 * way))
            rear = centre - 0.12 * way + (0, sign * s.girth * 0.62, 0.1 * s.girth)
            b.ball(f"{side}_wing", rear, (s.wing, s.girth * 0.34, s.girth * 0.62), lift=slope)
        b.point(f"{side}_shoulder", "hip", centre + 0.28 * way + (0, sign * s.girth * 0.75, 0))
    root = centre - 0.42 * way + (0, 0, 0.1 * s.girth)
    b.point("tail_base", "hip", root)
    b.marks |= {"tail_x": root[0], "tail_z": root[2], "tail_end": root[0] - s.tail[0]}
    b.marks |= {"tail_rise": float(np.tan(0.6 * slope))}
    if s.tail[0]:
        b.bone("tail1", "hip", tuple(root))
        back = np.array([np.cos(0.6 * slope), 0, np.sin(0.6 * slope)])
        b.limb("tail1", root + 0.1 * back, root - s.tail[0] * back, (s.tail[1], s.tail[1] * 0.8), 3, 1.8)
    return way, slope


def _head(b: Builder, s: BirdBuild, root: np.ndarray) -> None:
    length, lift, base, top = s.neck
    angle = np.radians(lift)
    end = root + length * np.array([np.cos(angle), 0, np.sin(angle)])
    b.bone("neck", "hip", tuple(root))
    b.bone("head", "neck", tuple(end))
    b.limb("neck", root - 0.15 * (end - root), end, (base, top), 3)
    skull = end + np.array([0.3, 0, 0.35]) * s.head
    b.ball("head", skull, (s.head * 1.12, s.head * 0.9, s.head))
    reach, thick, droop = s.bill
    start = skull + np.array([0.75 * s.head, 0, -0.1 * s.head])
    tip = start + np.array([reach + 0.25 * s.head, 0, -droop])
    bend = start + np.array([0.6 * reach, 0, -0.25 * droop])
    b.limb("head", start, bend, (thick, thick * 0.7), 2)
    b.limb("head", bend, tip, (thick * 0.7, thick * 0.3), 2)
    b.point("nose", "head", tip)
    for side, sign in SIDES:
        eye = skull + np.array([0.35, sign * 0.84, 0.2]) * s.head
        b.ball("head", eye, (0.17 * s.head,) * 3, 1.0)
        b.point(f"{side}_eye", "head", eye)
    b.marks |= {"neck_x": root[0], "skull_x": skull[0], "skull_z": skull[2], "skull": s.head}
    b.marks |= {"eye_x": eye[0], "eye_z": eye[2], "nose_x": start[0] + 0.25 * s.head}


def _legs(b: Builder, s: BirdBuild, middle: float) -> None:
    long, thick = s.leg
    for side, sign in SIDES:
        name, y = f"h{side[0]}", sign * 0.4 * s.girth
        hip, ankle = np.array([-0.02, y, middle - 0.45 * s.girth]), np.array([-0.12, y, 0.78 * long])
        foot = np.array([-0.02, y, thick])
        b.bone(f"{name}1", "hip", tuple(hip))
        b.bone(f"{name}2", f"{name}1", tuple(ankle))
        b.limb(f"{name}1", hip, ankle, (0.4 * s.girth, 1.2 * thick), 3)
        b.limb(f"{name}2", ankle, foot, (thick, 0.85 * thick), 2)
        for turn, reach in ((-0.5, 0.14), (0.0, 0.17), (0.5, 0.14), (np.pi, 0.09)):
            toe = foot + reach * np.array([np.cos(turn), np.sin(turn), 0]) - (0, 0, 0.3 * thick)
            b.limb(f"{name}2", foot, toe, (0.8 * thick, 0.5 * thick), 1)
        b.point(f"{side}_hock", f"{name}2", ankle)
        b.point(f"{side}_hind_paw", f"{name}2", foot)


@cache
def bird(kind: str) -> Body:
    """The body of one of the birds in `BIRDS`."""
    build = BIRDS[kind]
    b = Builder()
    middle = build.leg[0] + 0.85 * build.girth
    way, slope = _torso(b, build, middle)
    _legs(b, build, middle)
    _head(b, build, np.array([0, 0, middle]) + 0.36 * way + (0, 0, 0.25 * build.girth))
    b.marks |= {"back": middle, "girth": build.girth, "leg": build.leg[0], "slope": float(np.tan(slope)), "axis_x": 0.0}
    return b.build(build.metres)
