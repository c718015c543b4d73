"""Coats and plumages of the kinds of animals that are told apart by species, not by individual: a base tone with
the marks of the kind in their places (belly, mask, tail's tip, breast and so on), a little different on each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from .noise import fractal_noise, smooth_noise, smoothstep

Tone = tuple[int, int, int]
BLACK, DARK, WHITE, CREAM = (32, 29, 28), (58, 46, 38), (236, 232, 224), (216, 202, 174)


@dataclass(frozen=True)
class Fur:
    """`tones`, of which an animal takes one, then `marks` one over the other: a name of `REGIONS`, its tones and
    how many of the animals have it, 0..1. `streaks` is the strength of the hairs' pattern."""

    tones: tuple[Tone, ...]
    marks: tuple[tuple[str, tuple[Tone, ...], float], ...]
    streaks: float = 0.10


FURS = {
    "blackbird": Fur((BLACK, BLACK, (84, 64, 46)), (("bill", ((232, 150, 44),), 1), ("legs", (DARK,), 1))),
    "kea": Fur(
        ((96, 112, 56), (86, 96, 50), (108, 104, 62)),
        (("wing", ((74, 92, 48),), 1), ("wing_tip", ((58, 82, 84),), 1), ("legs", (DARK,), 1), ("bill", (DARK,), 1)),
        0.16,
    ),
    "magpie": Fur(
        (BLACK,), (("nape", (WHITE,), 1), ("wing_bar", (WHITE,), 1), ("tail", (WHITE,), 1), ("tail_tip", (BLACK,), 1),
                   ("bill", ((172, 178, 186),), 1), ("legs", (BLACK,), 1))
    ),
    "pukeko": Fur(
        ((48, 62, 134), (42, 54, 112)),
        (("back", ((34, 36, 40),), 1), ("wing", ((36, 42, 60),), 1), ("tail", (WHITE,), 1),
         ("bill", ((204, 48, 38),), 1), ("legs", ((198, 92, 70),), 1)),
    ),
    "robin": Fur(
        ((74, 76, 80), (62, 60, 60)),
        (("breast", ((226, 218, 196), (220, 206, 170)), 1), ("bill", (BLACK,), 1), ("legs", (DARK,), 1)),
    ),
    "thrush": Fur(
        ((132, 104, 70), (118, 94, 66)),
        (("breast", ((230, 214, 180),), 1), ("speckles", (DARK,), 1), ("legs", ((176, 132, 100),), 1)),
    ),
    "kiwi": Fur(
        ((118, 88, 60), (134, 104, 72), (98, 76, 56)),
        (("back", ((84, 62, 44),), 0.6), ("bill", ((214, 190, 160),), 1), ("legs", ((170, 140, 116),), 1)), 0.28,
    ),
    "dog": Fur(
        ((182, 132, 80), (44, 39, 37), (112, 72, 44), (222, 214, 202), (140, 128, 118)),
        (("patches", (WHITE, BLACK, (150, 96, 54)), 0.3), ("throat", (WHITE, CREAM), 0.5), ("feet", (WHITE,), 0.4),
         ("muzzle", (BLACK, WHITE), 0.6)),
    ),
    "ferret": Fur(
        ((206, 184, 142), (188, 162, 120), (222, 206, 172)),
        (("back", ((108, 84, 62), (86, 66, 52)), 0.7), ("legs", ((52, 41, 35),), 1), ("throat", ((62, 48, 40),), 1),
         ("tail", ((48, 38, 33),), 1), ("head", ((236, 228, 210),), 1), ("mask", ((46, 37, 32),), 1)),
        0.16,
    ),
    "hedgehog": Fur(
        ((112, 92, 68), (96, 80, 62)),
        (("grizzle", ((208, 190, 154),), 1), ("head", ((148, 118, 84),), 1), ("mask", (DARK,), 0.7),
         ("legs", (DARK,), 1)),
        0.32,
    ),
    "rabbit": Fur(
        ((146, 118, 86), (126, 106, 82), (108, 96, 82), (60, 54, 50)),
        (("belly", ((214, 198, 174),), 1), ("tail", (WHITE,), 1), ("nape", ((160, 112, 66),), 0.6)), 0.16,
    ),
    "hare": Fur(
        ((164, 126, 80), (176, 136, 86)),
        (("belly", (WHITE,), 1), ("tail", (WHITE,), 1), ("ear_tips", (BLACK,), 1)), 0.18,
    ),
    "cow": Fur(
        (BLACK, BLACK, (124, 70, 38), (206, 172, 124)),
        (("patches", (WHITE,), 0.6), ("head", (WHITE,), 0.15), ("feet", (WHITE,), 0.3),
         ("muzzle", ((196, 158, 142), BLACK), 1)), 0.06,
    ),
    "sheep": Fur(
        ((224, 214, 194), (206, 196, 176), (232, 226, 212)),
        (("legs", (DARK, (226, 218, 204)), 1), ("head", (DARK, (228, 222, 210)), 1)), 0.20,
    ),
    "horse": Fur(
        ((128, 78, 42), (150, 90, 48), (50, 42, 38), (192, 188, 182)),
        (("legs", (BLACK,), 0.6), ("muzzle", (DARK, WHITE), 0.5), ("tail", (BLACK, BLACK, CREAM), 1),
         ("mane", (BLACK, BLACK, CREAM), 1)), 0.05,
    ),
    "possum": Fur(
        ((142, 136, 126), (120, 114, 106), (104, 80, 58)),
        (("belly", (CREAM,), 1), ("legs", ((82, 70, 62),), 0.7), ("tail", (BLACK,), 1),
         ("muzzle", ((176, 146, 128),), 1), ("mask", (DARK,), 0.8), ("ears", ((190, 158, 144),), 1)), 0.18,
    ),
    "mouse": Fur(
        ((134, 110, 84), (116, 102, 86)),
        (("belly", ((198, 184, 164),), 1), ("tail", ((164, 132, 116),), 1), ("ears", ((188, 148, 132),), 1),
         ("feet", ((196, 158, 140),), 1)),
    ),
    "rat": Fur(
        ((92, 80, 68), (76, 66, 58), (112, 90, 68), (48, 44, 42)),
        (("belly", ((158, 146, 130),), 0.8), ("tail", ((140, 112, 100),), 1), ("ears", ((160, 128, 114),), 1),
         ("feet", ((178, 144, 128),), 1)), 0.16,
    ),
    "stoat": Fur(
        ((146, 92, 50), (158, 104, 60), (132, 84, 48)),
        (("belly", ((244, 234, 206),), 1), ("throat", ((244, 234, 206),), 1), ("chin", ((244, 234, 206),), 1),
         ("legs", ((150, 98, 58),), 0.8), ("tail_tip", ((20, 18, 18),), 1)), 0.06,
    ),
    "wallaby": Fur(
        ((144, 122, 96), (126, 112, 94), (158, 130, 96)),
        (("belly", ((206, 190, 160),), 1), ("nape", ((160, 108, 70),), 0.6), ("feet", (DARK,), 1),
         ("ears", (DARK,), 1), ("muzzle", (DARK,), 0.8), ("tail_tip", (DARK,), 0.8)), 0.14,
    ),
}  # fmt: skip


@dataclass(frozen=True)
class _Field:
    """Where on the resting body the coat's pixels lie: `u`, `z` and `v`, the height over the trunk's axis in half
    heights of the trunk; `m` are the body's marks."""

    rng: np.random.Generator
    u: np.ndarray
    z: np.ndarray
    m: dict[str, float]

    @property
    def v(self) -> np.ndarray:
        slope = self.m["slope"]
        above = self.z - self.m["back"] - slope * (self.u - self.m["axis_x"])
        return above / np.hypot(1, slope) / self.m["girth"]

    def on_head(self, of_skull: float) -> np.ndarray:
        """What lies before `of_skull` skulls from the skull's middle."""
        front = self.m["skull_x"] + of_skull * self.m["skull"]
        edge = 0.12 * self.m["skull"]
        return smoothstep(self.u, front - edge, front + edge) * smoothstep(
            self.z, self.m["skull_z"] - 2.2 * self.m["skull"], self.m["skull_z"] - 1.8 * self.m["skull"]
        )

    def on_tail(self, share: float) -> np.ndarray:
        """The last `share` of the tail."""
        end, root = self.m["tail_end"], self.m["tail_x"] - 0.06
        x = end + share * (root - end)
        level = smoothstep(np.abs(self.z - self.m["tail_z"] - self.m["tail_rise"] * (self.u - root)), 0.22, 0.18)
        return smoothstep(self.u, x, x - 0.02) * level


def _over_ears(f: _Field, of_skull: float) -> np.ndarray:
    low = f.m["skull_z"] + of_skull * f.m["skull"]
    return smoothstep(f.z, low, low + 0.03) * smoothstep(np.abs(f.u - f.m["skull_x"]), 0.30, 0.25)


def _mask(f: _Field) -> np.ndarray:
    du, dz = (f.u - f.m["eye_x"]) / f.m["skull"], (f.z - f.m["eye_z"] - 0.15 * f.m["skull"]) / f.m["skull"]
    return smoothstep(np.hypot(du, 1.1 * dz), 0.55, 0.42)


def _mane(f: _Field) -> np.ndarray:
    way = (f.m["skull_z"] - f.m["neck_z"]) / (f.m["skull_x"] - f.m["neck_x"])
    above = f.z - f.m["neck_z"] - way * (f.u - f.m["neck_x"])
    here = smoothstep(f.u, f.m["neck_x"] - 0.25, f.m["neck_x"] - 0.2) * smoothstep(f.z, f.m["back"], f.m["back"] + 0.3)
    return smoothstep(above, 0.13, 0.16) * here


def _noisy(f: _Field, cells: int, level: float) -> np.ndarray:
    shape = f.u.shape
    field = smooth_noise(f.rng, shape, (cells, max(2, round(cells * shape[1] / shape[0]))))
    return smoothstep(field, level - 0.1, level + 0.1)


REGIONS: dict[str, Callable[[_Field], np.ndarray]] = {
    "back": lambda f: smoothstep(f.v, 0.1, 0.75),
    "belly": lambda f: smoothstep(f.v, -0.30, -0.55) * smoothstep(f.u, -0.22, -0.12) * (1 - f.on_head(-0.8)),
    "breast": lambda f: smoothstep(f.v, 0.0, -0.25) * smoothstep(f.u, -0.42, -0.3),
    "throat": lambda f: smoothstep(f.u, 0.24, 0.30) * smoothstep(f.v, 0.0, -0.3) * (1 - f.on_head(-0.8)),
    "nape": lambda f: smoothstep(f.v, 0.3, 0.6) * smoothstep(f.u, 0.02, 0.1) * (1 - f.on_head(-0.5)),
    "wing": lambda f: smoothstep(np.abs(f.v - 0.1), 0.75, 0.5) * smoothstep(f.u, 0.22, 0.12),
    "wing_tip": lambda f: smoothstep(f.u, -0.22, -0.28) * smoothstep(f.v, -0.6, -0.4),
    "wing_bar": lambda f: smoothstep(np.abs(f.v - 0.15), 0.30, 0.18) * smoothstep(np.abs(f.u), 0.22, 0.16),
    "legs": lambda f: smoothstep(f.z, 0.98 * f.m["leg"], 0.8 * f.m["leg"]) * (1 - f.on_tail(1.0)),
    "feet": lambda f: smoothstep(f.z, 0.36 * f.m["leg"], 0.28 * f.m["leg"]) * (1 - f.on_tail(1.0)),
    "tail": lambda f: f.on_tail(1.0),
    "tail_tip": lambda f: f.on_tail(0.38),
    "head": lambda f: f.on_head(-0.75),
    "muzzle": lambda f: f.on_head(0.95),
    "chin": lambda f: f.on_head(-0.8) * smoothstep((f.z - f.m["skull_z"]) / f.m["skull"], -0.1, -0.4),
    "bill": lambda f: smoothstep(f.u, f.m["nose_x"] - 0.01, f.m["nose_x"] + 0.01),
    "mask": _mask,
    "ears": lambda f: _over_ears(f, 1.1),
    "ear_tips": lambda f: _over_ears(f, 2.9),
    "mane": _mane,
    "patches": lambda f: _noisy(f, 5, 0.15),
    "speckles": lambda f: _noisy(f, 34, 0.7) * smoothstep(f.v, 0.05, -0.2) * smoothstep(f.u, -0.4, -0.3),
    "grizzle": lambda f: _noisy(f, 46, 0.1) * smoothstep(f.v, -0.35, -0.1),
}  # fmt: skip


def natural_coat(
    rng: np.random.Generator, kind: str, marks: dict[str, float], u: np.ndarray, z: np.ndarray, resolution: int
) -> np.ndarray:
    """The coat `(H,W,3) float32`, RGB 0..255, of an animal of `kind` over rest points `u, z (H,W)`."""
    fur, shape = FURS[kind], u.shape

    def one(tones: tuple[Tone, ...]) -> np.ndarray:
        tone = np.array(tones[rng.integers(len(tones))], np.float32) * rng.uniform(0.88, 1.1)
        return np.clip(tone + rng.normal(0, 3, 3), 8, 250).astype(np.float32)

    cells = (int(shape[0] / resolution * 6) + 2, int(shape[1] / resolution * 6) + 2)
    warp_u, warp_z = (axis + 0.012 * smooth_noise(rng, shape, cells) for axis in (u, z))
    field = _Field(rng, warp_u, warp_z, marks)
    coat = np.broadcast_to(one(fur.tones), (*shape, 3))
    for region, tones, share in fur.marks:
        if rng.random() < share:
            coat = coat + (one(tones) - coat) * REGIONS[region](field)[..., None]
    streaks = fractal_noise(rng, shape, (shape[0] // 3, shape[1] // 9), 2)
    return np.clip(coat * (1 + fur.streaks * streaks[..., None]), 4, 252)
