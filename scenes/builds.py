"""Proportions of the four-legged animals, under the words of public labels."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Build:
    """Proportions of a four-legged species, in trunk lengths unless said otherwise."""

    metres: float  # length of the trunk, m
    back: float  # height of the spine's axis
    girth: tuple[float, float, float]  # half height of the trunk at rump, belly and chest
    width: float  # half width over half height
    neck: tuple[float, float, float, float]  # length, elevation (degrees), thickness at base and top
    skull: tuple[float, float]  # half length, half height
    muzzle: tuple[float, float, float, float]  # length, drop, thickness at base and tip
    ear: tuple[float, float, float, float]  # length, thickness, lean forward and outward (degrees)
    leg: tuple[float, float, float]  # thickness at the top, the knee and the foot
    foot: tuple[float, float]  # half length, half height
    tail: tuple[float, float, float]  # length, thickness at base and tip
    hoofed: bool
    horns: str = ""  # "", "curved" or "antlers"
    beard: bool = False
    snout: bool = False
    mane: bool = False
    spines: int = 0
    lift: float = 0.0  # of the trunk towards the chest, degrees
    arch: float = 0.0  # of the spine's middle
    haunch: float = 1.0  # size of the thigh
    fore: tuple[tuple[float, float], ...] = ()  # (x, z) of shoulder, elbow, wrist and paw, where they are unusual
    hind: tuple[tuple[float, float], ...] = ()  # (x, z) of hip, knee, hock and paw, likewise
    eye: float = 0.019  # radius


BUILDS = {
    "cat": Build(
        0.34, 0.66, (0.18, 0.185, 0.175), 0.74, (0.17, 34, 0.14, 0.12), (0.14, 0.15), (0.045, 0.05, 0.09, 0.06),
        (0.15, 0.065, 5, 16), (0.09, 0.06, 0.05), (0.075, 0.045), (0.95, 0.05, 0.035), False,
        eye=0.026,
    ),
    "deer": Build(
        0.85, 1.02, (0.215, 0.20, 0.225), 0.66, (0.52, 52, 0.15, 0.09), (0.12, 0.10), (0.25, 0.07, 0.075, 0.042),
        (0.20, 0.05, -35, 45), (0.105, 0.042, 0.03), (0.05, 0.04), (0.17, 0.05, 0.03), True,
    ),
    "goat": Build(
        0.75, 0.78, (0.235, 0.265, 0.24), 0.74, (0.32, 48, 0.17, 0.115), (0.12, 0.115), (0.21, 0.08, 0.09, 0.055),
        (0.20, 0.045, -45, 70), (0.11, 0.055, 0.042), (0.06, 0.045), (0.15, 0.045, 0.03), True,
        horns="curved", beard=True,
    ),
    "pig": Build(
        0.85, 0.60, (0.275, 0.30, 0.27), 0.80, (0.10, 15, 0.235, 0.21), (0.16, 0.165), (0.17, 0.09, 0.13, 0.085),
        (0.17, 0.06, 40, 40), (0.12, 0.07, 0.055), (0.065, 0.045), (0.22, 0.025, 0.02), True,
        snout=True,
    ),
    "dog": Build(
        0.62, 0.78, (0.165, 0.165, 0.20), 0.68, (0.24, 48, 0.155, 0.125), (0.15, 0.125), (0.17, 0.045, 0.085, 0.058),
        (0.17, 0.07, 120, 30), (0.105, 0.058, 0.045), (0.07, 0.045), (0.55, 0.065, 0.03), False,
        eye=0.022,
    ),
    "ferret": Build(
        0.36, 0.27, (0.125, 0.12, 0.115), 0.85, (0.12, 22, 0.11, 0.10), (0.105, 0.095), (0.05, 0.03, 0.065, 0.04),
        (0.05, 0.05, 0, 30), (0.075, 0.05, 0.042), (0.055, 0.03), (0.46, 0.075, 0.04), False,
        arch=0.10, eye=0.02,
    ),
    "hedgehog": Build(
        0.24, 0.36, (0.25, 0.29, 0.24), 0.95, (0.03, 0, 0.15, 0.13), (0.13, 0.12), (0.15, 0.06, 0.08, 0.03),
        (0.06, 0.05, 0, 40), (0.07, 0.055, 0.05), (0.06, 0.03), (0.05, 0.02, 0.01), False,
        spines=190, eye=0.028,
    ),
    "rabbit": Build(
        0.33, 0.35, (0.27, 0.255, 0.18), 0.80, (0.08, 40, 0.15, 0.13), (0.155, 0.135), (0.06, 0.05, 0.10, 0.07),
        (0.36, 0.055, -22, 14), (0.10, 0.06, 0.05), (0.075, 0.04), (0.16, 0.085, 0.08), False,
        arch=0.10, haunch=1.45, hind=((-0.28, 0.28), (-0.08, 0.15), (-0.40, 0.07), (-0.16, 0.04)), eye=0.03,
    ),
    "hare": Build(
        0.44, 0.56, (0.205, 0.20, 0.165), 0.74, (0.18, 48, 0.125, 0.105), (0.13, 0.11), (0.06, 0.045, 0.085, 0.055),
        (0.42, 0.05, -16, 12), (0.085, 0.048, 0.04), (0.07, 0.035), (0.19, 0.06, 0.055), False,
        arch=0.09, haunch=1.5, hind=((-0.30, 0.44), (-0.08, 0.27), (-0.42, 0.13), (-0.27, 0.04)), eye=0.026,
    ),
    "cow": Build(
        1.25, 0.86, (0.275, 0.31, 0.28), 0.72, (0.28, 18, 0.225, 0.165), (0.15, 0.135), (0.24, 0.13, 0.115, 0.095),
        (0.15, 0.055, -10, 80), (0.12, 0.065, 0.05), (0.06, 0.06), (0.62, 0.028, 0.045), True,
    ),
    "sheep": Build(
        0.82, 0.70, (0.30, 0.325, 0.30), 0.88, (0.20, 34, 0.21, 0.17), (0.125, 0.115), (0.15, 0.10, 0.08, 0.06),
        (0.14, 0.045, 10, 80), (0.085, 0.05, 0.042), (0.055, 0.045), (0.20, 0.07, 0.05), True,
    ),
    "horse": Build(
        1.25, 1.04, (0.245, 0.235, 0.24), 0.70, (0.50, 46, 0.21, 0.125), (0.135, 0.12), (0.31, 0.17, 0.095, 0.07),
        (0.12, 0.035, 10, 15), (0.12, 0.058, 0.042), (0.07, 0.06), (0.72, 0.06, 0.09), True,
        mane=True,
    ),
    "possum": Build(
        0.40, 0.38, (0.22, 0.225, 0.18), 0.82, (0.12, 30, 0.145, 0.12), (0.125, 0.115), (0.10, 0.05, 0.075, 0.035),
        (0.22, 0.10, 5, 35), (0.09, 0.065, 0.05), (0.07, 0.035), (0.90, 0.095, 0.10), False,
        arch=0.12, haunch=1.1, eye=0.034,
    ),
    "mouse": Build(
        0.13, 0.29, (0.235, 0.235, 0.185), 0.85, (0.05, 10, 0.155, 0.14), (0.15, 0.13), (0.12, 0.06, 0.085, 0.03),
        (0.24, 0.15, -10, 40), (0.07, 0.04, 0.03), (0.06, 0.02), (1.25, 0.034, 0.016), False,
        arch=0.08, haunch=0.9, eye=0.034,
    ),
    "rat": Build(
        0.22, 0.27, (0.22, 0.215, 0.165), 0.80, (0.08, 10, 0.145, 0.125), (0.135, 0.11), (0.15, 0.06, 0.08, 0.03),
        (0.11, 0.07, -10, 40), (0.07, 0.042, 0.034), (0.065, 0.022), (1.15, 0.042, 0.018), False,
        arch=0.08, haunch=0.9, eye=0.026,
    ),
    "stoat": Build(
        0.27, 0.255, (0.082, 0.078, 0.080), 0.88, (0.22, 30, 0.078, 0.066), (0.082, 0.066), (0.03, 0.02, 0.042, 0.026),
        (0.036, 0.036, 0, 35), (0.05, 0.034, 0.028), (0.045, 0.022), (0.52, 0.026, 0.030), False,
        arch=0.05, eye=0.015,
    ),
    "wallaby": Build(
        0.55, 0.50, (0.27, 0.215, 0.135), 0.82, (0.20, 62, 0.105, 0.085), (0.115, 0.095), (0.12, 0.05, 0.062, 0.042),
        (0.23, 0.05, -8, 18), (0.10, 0.06, 0.046), (0.05, 0.034), (1.10, 0.105, 0.035), False,
        lift=52, haunch=1.5, fore=((0.12, 0.84), (0.12, 0.68), (0.24, 0.60), (0.29, 0.52)),
        hind=((-0.26, 0.46), (0.04, 0.32), (-0.32, 0.12), (0.06, 0.04)), eye=0.021,
    ),
}  # fmt: skip
