"""Draws a posed body: every ellipsoid is met by each pixel's line of sight, the hits are blended by depth, and
each pixel learns which point of the resting body it shows, which is where its coat is looked up."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .bodies import Body
from .poses import Pose, bone_turns, pose_bones

FUR = np.random.default_rng(7).uniform(-0.6, 0.42, (192, 160)).astype(np.float32)  # frays the outline
BLEND = 38.0  # per trunk length: how sharply the nearer of two parts hides the farther


@dataclass(frozen=True)
class Surface:
    """What every pixel of a drawn body shows. `inside (H,W) bool`, `rest (H,W,3)` in trunk lengths,
    `normal (H,W,3)` unit (x right, y down, z to the viewer), `depth (H,W)` to the viewer in px,
    `keratin (H,W)` 0..1; `points` maps a keypoint to `(x, y, depth)` px; `foot` is the ground's point below
    the body's origin, px."""

    inside: np.ndarray
    rest: np.ndarray
    normal: np.ndarray
    depth: np.ndarray
    keratin: np.ndarray
    points: dict[str, tuple[float, float, float]]
    foot: tuple[float, float]


def view_matrix(pose: Pose, scale: float) -> np.ndarray:
    """`(3,3)`: body frame to px right, px down, px to the viewer."""
    c, s = np.cos(pose.heading), np.sin(pose.heading)
    ct, st = np.cos(pose.tilt), np.sin(pose.tilt)
    world = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]])  # x right, y away, z up
    camera = np.array([[1, 0, 0], [0, -st, -ct], [0, -ct, st]])
    return scale * camera @ world


def extent(body: Body, pose: Pose) -> tuple[np.ndarray, np.ndarray]:
    """Lowest and highest `(x, y)` of the drawn body about its foot, in trunk lengths, y down."""
    rotation, shift = pose_bones(body, bone_turns(pose))
    view = view_matrix(pose, 1.0)
    linear, offset = (view @ rotation)[body.part_bone], (shift @ view.T)[body.part_bone]
    centres = np.einsum("pij,pj->pi", linear, body.centres) + offset
    reach = np.linalg.norm(linear @ body.axes, axis=2)
    return (centres - reach)[:, :2].min(0), (centres + reach)[:, :2].max(0)


def trace(body: Body, pose: Pose, scale: float) -> Surface:
    """The body in `pose`, `scale` px for a trunk length, on a canvas that just holds it."""
    rotation, shift = pose_bones(body, bone_turns(pose))
    view = view_matrix(pose, scale)
    linear, offset = view @ rotation, shift @ view.T
    bone = body.part_bone
    frames = linear[bone] @ body.axes  # unit sphere to px
    centres = np.einsum("pij,pj->pi", linear[bone], body.centres) + offset[bone]
    reach = np.linalg.norm(frames, axis=2)
    low = np.floor((centres - reach)[:, :2].min(0)) - 1
    size = np.ceil((centres + reach)[:, :2].max(0) - low).astype(int) + 1
    centres[:, :2] -= low
    total = _accumulate(body, frames, centres, reach, (size[1], size[0]), BLEND / scale)
    points = {}
    for name, (i, rest) in body.points.items():
        x, y, z = linear[i] @ rest + offset[i]
        points[name] = (float(x - low[0]), float(y - low[1]), float(z))
    return _resolve(total, points, (float(-low[0]), float(-low[1])))


def _accumulate(body, frames, centres, reach, shape, sharpness) -> np.ndarray:
    """`(9,H,W) float32`: the weight and the weighted rest xyz, normal xyz, depth and keratin of all parts."""
    total = np.zeros((9, *shape), np.float32)
    inverse = np.linalg.inv(frames)
    to_rest = body.axes @ inverse
    to_normal = inverse.transpose(0, 2, 1) @ inverse
    to_normal /= np.linalg.norm(to_normal, axis=(1, 2), keepdims=True) ** 0.5
    gram = inverse.transpose(0, 2, 1) @ inverse
    for p in range(len(frames)):
        x0, y0 = np.maximum(np.floor(centres[p, :2] - reach[p, :2]).astype(int), 0)
        x1, y1 = np.ceil(centres[p, :2] + reach[p, :2]).astype(int) + 1
        x = (np.arange(x0, min(x1, shape[1])) + 0.5 - centres[p, 0]).astype(np.float32)[None]
        y = (np.arange(y0, min(y1, shape[0])) + 0.5 - centres[p, 1]).astype(np.float32)[:, None]
        g = gram[p].astype(np.float32)
        slope = g[0, 2] * x + g[1, 2] * y
        root = slope * slope - g[2, 2] * (g[0, 0] * x * x + g[1, 1] * y * y + 2 * g[0, 1] * x * y - 1)
        hit = root > 0
        z = (np.sqrt(np.maximum(root, 0)) - slope) / g[2, 2]
        weight = np.exp((z + np.float32(centres[p, 2])) * np.float32(sharpness)) * hit
        basis = np.empty((4, *weight.shape), np.float32)
        basis[0], basis[1], basis[2], basis[3] = weight * x, weight * y, weight * z, weight
        mix = np.zeros((9, 4), np.float32)
        mix[0, 3], mix[8, 3] = 1, body.keratin[p]
        mix[1:4, :3], mix[1:4, 3] = to_rest[p], body.centres[p]
        mix[4:7, :3] = to_normal[p]
        mix[7, 2], mix[7, 3] = 1, centres[p, 2]
        blended = (mix @ basis.reshape(4, -1)).reshape(9, *weight.shape)
        total[:, y0 : y0 + weight.shape[0], x0 : x0 + weight.shape[1]] += blended
    return total


def _resolve(total: np.ndarray, points, foot) -> Surface:
    inside = total[0] > 0
    mean = total / np.where(inside, total[0], 1)
    normal = np.moveaxis(mean[4:7], 0, -1)
    length = np.sqrt(normal[..., 0] ** 2 + normal[..., 1] ** 2 + normal[..., 2] ** 2)
    normal = normal / np.maximum(length, 1e-6)[..., None]
    rows, columns = inside.shape
    tiles = (rows // FUR.shape[0] + 1, columns // FUR.shape[1] + 1)
    inside &= normal[..., 2] > np.tile(FUR, tiles)[:rows, :columns]
    return Surface(inside, np.moveaxis(mean[1:4], 0, -1), normal, mean[7], mean[8], points, foot)
