"""Carrying named points from annotated crops to others, by the features of both (Tang et al., DIFT, NeurIPS 2023).

Everything here is in the input frame: the square of `size` px that a crop was squashed to. A cell `(row, column)`
of an `(h, w)` map is centred at `((column + 0.5) * size / w, (row + 0.5) * size / h)`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from care_cli.errors import CareError
from care_cli.records import NamedPoint

if TYPE_CHECKING:
    import torch

REFINEMENTS = ("soft", "argmax")
POSES = ("mutual", "all", "points")
AT_ONCE = 1 << 25  # numbers of up-sampled maps in memory at a time
POSE_CELLS = 48  # rows and columns that are compared to tell the pose; of finer maps every second cell, and so on


@dataclass(frozen=True)
class MatchConfig:
    """How points are found and doubted. Raises CareError for values that mean nothing."""

    refine: str = "argmax"  # peak of the map at the input's resolution (DIFT); soft: soft-argmax round the best cell
    beta: float = 0.02  # soft: temperature, in units of the cosine (Zhang et al., GeoAware-SC, CVPR 2024)
    window: int = 5  # soft: cells looked at on each side of the best one
    align: bool = False  # match the mirrored reference too, and keep the pose that is closer
    pose: str = "mutual"  # align: cosine of mutual nearest cells | of all cells | of the points
    cycle: float | None = 0.1  # visible up to this error there and back, of the reference box's longer side
    least: float | None = None  # visible from this cosine
    elsewhere: float = 0.1  # of the input's diagonal: from how far a peak is another one

    def __post_init__(self) -> None:
        for name, value, known in (("refinement", self.refine, REFINEMENTS), ("pose measure", self.pose, POSES)):
            if value not in known:
                raise CareError(f"There is no {name} {value!r}; choose one of {', '.join(known)}.")
        if not self.beta > 0 or self.window < 0 or not 0 <= self.elsewhere <= 1:
            raise CareError(
                "The soft-argmax needs a temperature above 0, a window of 0 cells or more, and peaks apart by 0 to 1 "
                f"of the diagonal, but got {self.beta}, {self.window} and {self.elsewhere}."
            )
        if self.cycle is not None and not self.cycle >= 0:
            raise CareError(f"The error there and back is a share of 0 or more, but got {self.cycle}.")
        if self.least is not None and not -1 <= self.least <= 1:
            raise CareError(f"A cosine lies in -1..1, but got {self.least} as the least confidence.")


@dataclass(frozen=True, eq=False)
class Reference:
    """An annotated crop as points are carried from it: K points on a map of C features a cell."""

    features: torch.Tensor  # (C,h,w) float32
    kp_input: np.ndarray  # (K,2) float64, xy px, input frame
    names: tuple[str, ...]  # (K,)
    swap: np.ndarray  # (K,) int64: the point on the animal's other side, itself where there is none
    scale: tuple[float, float]  # px of the image frame a px of the input is wide and high
    longest: float  # px of the image frame, longer side of the animal's box
    mirrored: torch.Tensor | None = None  # (C,h,w) float32: features of the horizontally mirrored crop


@dataclass(frozen=True, eq=False)
class Match:
    """The K points as found in one crop."""

    kp_input: np.ndarray  # (K,2) float64, xy px, input frame
    confidence: np.ndarray  # (K,) float32, peak cosine
    margin: np.ndarray  # (K,) float32, peak cosine less the best one elsewhere
    cycle: np.ndarray  # (K,) float32, error there and back, of the reference box's longer side
    visible: np.ndarray  # (K,) bool, sure enough to be used
    reference: np.ndarray  # (K,) int64, which reference each point was carried from
    mirrored: bool  # were most of them carried from mirrored references?


class _Found(NamedTuple):
    """K points in each of B crops, by one reference."""

    kp: torch.Tensor  # (B,K,2)
    confidence: torch.Tensor  # (B,K)
    margin: torch.Tensor  # (B,K)
    cycle: torch.Tensor  # (B,K)
    mirrored: torch.Tensor  # (B,K) bool


def mirror_indices(points: Sequence[NamedPoint]) -> np.ndarray:
    """For each of K points the index `(K,) int64` of its counterpart on the other side, or its own."""
    place = {point.name: index for index, point in enumerate(points)}
    return np.array([place.get(point.mirror or point.name, index) for index, point in enumerate(points)], np.int64)


def match(references: Sequence[Reference], features: torch.Tensor, cfg: MatchConfig, size: int) -> list[Match]:
    """The references' points in crops of features `(B,C,h,w)`, whose inputs were `size` px.

    Of several references with the same names in the same order, the one of the highest cosine gives each point.
    Raises CareError when names differ.
    """
    import torch

    if len({reference.names for reference in references}) != 1:
        raise CareError("References that are matched together need the same points in the same order.")
    with torch.inference_mode():
        found = [_carried(reference, features, cfg, size) for reference in references]
        stacked = _Found(*(torch.stack(values) for values in zip(*found, strict=True)))  # (R,B,K...)
        best = stacked.confidence.argmax(0, keepdim=True)  # (1,B,K)
        kp = stacked.kp.take_along_dim(best[..., None], 0)[0].double().cpu().numpy()
        confidence, margin, cycle, mirrored = (
            values.take_along_dim(best, 0)[0].cpu().numpy() for values in stacked[1:]
        )
        reference = best[0].cpu().numpy()
    visible = np.isfinite(confidence)
    if cfg.cycle is not None:
        visible &= cycle <= cfg.cycle
    if cfg.least is not None:
        visible &= confidence >= cfg.least
    return [
        Match(kp[b], confidence[b], margin[b], cycle[b], visible[b], reference[b], bool(mirrored[b].mean() > 0.5))
        for b in range(len(features))
    ]


def _carried(reference: Reference, features: torch.Tensor, cfg: MatchConfig, size: int) -> _Found:
    """A reference's points in each crop, from the crop as it is or from its mirror image, whichever is closer."""
    import torch

    kp = torch.as_tensor(reference.kp_input, dtype=features.dtype, device=features.device)
    found = _there_and_back(reference, reference.features, kp, features, cfg, size)
    if not cfg.align or reference.mirrored is None:
        return found
    swap = torch.as_tensor(reference.swap, device=features.device)
    kp_mirrored = torch.stack((size - kp[:, 0], kp[:, 1]), 1)[swap]  # an animal's left eye becomes a right one
    turned = _there_and_back(reference, reference.mirrored, kp_mirrored, features, cfg, size)
    if cfg.pose == "points":
        closer = turned.confidence.mean(1) > found.confidence.mean(1)
    else:
        as_is, mirrored = (
            pose_distance(mapped, features, cfg.pose == "mutual") for mapped in (reference.features, reference.mirrored)
        )
        closer = mirrored < as_is
    chosen = (
        torch.where(closer.view(-1, *[1] * (a.ndim - 1)), b, a) for a, b in zip(found[:4], turned[:4], strict=True)
    )
    return _Found(*chosen, closer[:, None].expand_as(found.mirrored))


def _there_and_back(
    reference: Reference, mapped: torch.Tensor, kp: torch.Tensor, features: torch.Tensor, cfg: MatchConfig, size: int
) -> _Found:
    """Points `kp (K,2)` of a reference's features `mapped (C,h,w)` in each of `features (B,C,h,w)`."""
    import torch

    crops, points = len(features), len(kp)
    queries = sample(mapped[None], kp[None], size).expand(crops, -1, -1)
    there, confidence, margin = _peaks(queries, features, cfg, size)
    returning = sample(features, there, size).reshape(1, crops * points, -1)
    back = _peaks(returning, mapped[None], cfg, size, rivals=False)[0].view(crops, points, 2)
    error = (back - kp) * torch.tensor(reference.scale, dtype=kp.dtype, device=kp.device)
    cycle = error.norm(dim=-1) / reference.longest
    return _Found(there, confidence, margin, cycle, torch.zeros_like(confidence, dtype=torch.bool))


def sample(features: torch.Tensor, kp_input: torch.Tensor, size: int) -> torch.Tensor:
    """Descriptors `(B,K,C)` at points `(B,K,2)`, xy px, of `features (B,C,h,w)`: bilinear between the cells' centres.

    Beyond the outermost centres the outermost cells go on.
    """
    from torch.nn.functional import grid_sample

    grid = kp_input[:, :, None] * (2 / size) - 1
    found = grid_sample(features, grid, mode="bilinear", padding_mode="border", align_corners=False)
    return found[..., 0].transpose(1, 2)


def _peaks(
    queries: torch.Tensor, features: torch.Tensor, cfg: MatchConfig, size: int, rivals: bool = True
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Where in `features (B,C,h,w)` descriptors `(B,K,C)` are met: points `(B,K,2)`, cosines and margins `(B,K)`.

    Without `rivals` margins are 0.
    """
    import torch

    if cfg.refine == "soft":
        return _peaks_of(cosine(queries, features), cfg, size, rivals)
    found = []
    for asked, mapped in zip(queries, features, strict=True):
        norms = upsampled_norms(mapped, size)
        parts = asked.split(max(1, AT_ONCE // size**2))
        maps = (upsampled_cosine(part, mapped, size, norms) for part in parts)
        found.append(
            [torch.cat(values) for values in zip(*(_peaks_of(m, cfg, size, rivals) for m in maps), strict=True)]
        )
    return tuple(torch.stack(values) for values in zip(*found, strict=True))


def _peaks_of(
    maps: torch.Tensor, cfg: MatchConfig, size: int, rivals: bool
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Of cosine maps `(...,h,w)` over the input: peaks `(...,2)` xy px, their cosines and margins `(...)`."""
    import torch

    h, w = maps.shape[-2:]
    x, y = ((torch.arange(n, device=maps.device, dtype=maps.dtype) + 0.5) * (size / n) for n in (w, h))
    peak, index = maps.flatten(-2).max(-1)
    kp = torch.stack((x[index % w], y[index // w]), -1)
    off_x, off_y = (x - kp[..., :1])[..., None, :], (y - kp[..., 1:])[..., None]
    if cfg.refine == "soft":
        near = (off_x.abs() <= (cfg.window + 0.5) * size / w) & (off_y.abs() <= (cfg.window + 0.5) * size / h)
        weights = (maps / cfg.beta).masked_fill(~near, -torch.inf).flatten(-2).softmax(-1).view(maps.shape)
        kp = torch.stack(((weights.sum(-2) * x).sum(-1), (weights.sum(-1) * y).sum(-1)), -1)
    if not rivals:
        return kp, peak, torch.zeros_like(peak)
    near = off_x.square() + off_y.square() < 2 * (cfg.elsewhere * size) ** 2
    margin = peak - maps.masked_fill_(near, -1).amax((-2, -1))  # no cosine is lower, where the map has no elsewhere
    return kp, peak, margin


def cosine(queries: torch.Tensor, features: torch.Tensor) -> torch.Tensor:
    """Cosines `(B,K,h,w)` of descriptors `(B,K,C)` with every cell of `features (B,C,h,w)`; 0 for a cell of zeros."""
    from torch.nn.functional import normalize

    cells = normalize(features.flatten(2), dim=1)
    return (normalize(queries, dim=-1) @ cells).view(*queries.shape[:2], *features.shape[-2:])


def upsampled_cosine(
    queries: torch.Tensor, features: torch.Tensor, size: int, norms: torch.Tensor | None = None
) -> torch.Tensor:
    """Cosines `(K,size,size)` of descriptors `(K,C)` with `features (C,h,w)` up-sampled to `size` px a side.

    Exactly those of a bilinear up-sampling (torch's `interpolate`, corners not aligned), which is never made:
    products with the query are linear, so they are up-sampled instead of the features, and `norms` are those of
    `upsampled_norms`. 0 where the up-sampled features are zeros.
    """
    import torch
    from torch.nn.functional import normalize

    rows, columns = (_weights(n, size, features) for n in features.shape[-2:])
    products = torch.einsum("kc,chw->khw", normalize(queries, dim=-1), features)
    norms = upsampled_norms(features, size) if norms is None else norms
    cosines = (rows @ products @ columns.T).div_(norms.clamp_min(torch.finfo(norms.dtype).tiny))
    return cosines.clamp_(-1, 1)


def upsampled_norms(features: torch.Tensor, size: int) -> torch.Tensor:
    """Euclidean norms `(size,size)` of `features (C,h,w)` up-sampled bilinearly to `size` px a side.

    A pixel's features are a sum over four neighbouring cells `a` with weights `w_a`, so the square of their norm is
    the sum of `w_a w_b <F_a,F_b>`. These inner products are five maps of the cells: with themselves, with the right
    neighbour, with the lower one, and the two diagonals, whose weights are the same.
    """
    exact = features.double()  # neighbours that nearly cancel out leave small differences of large squares
    rows, columns = (_weights(n, size, exact) for n in features.shape[-2:])

    def inner(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return (a * b).sum(0)

    itself = inner(exact, exact)
    right = inner(exact[:, :, :-1], exact[:, :, 1:])
    down = inner(exact[:, :-1], exact[:, 1:])
    diagonals = inner(exact[:, :-1, :-1], exact[:, 1:, 1:]) + inner(exact[:, :-1, 1:], exact[:, 1:, :-1])
    alone_y, alone_x = rows**2, columns**2
    pair_y, pair_x = 2 * rows[:, :-1] * rows[:, 1:], 2 * columns[:, :-1] * columns[:, 1:]
    squares = alone_y @ (itself @ alone_x.T + right @ pair_x.T) + pair_y @ (down @ alone_x.T + diagonals @ pair_x.T / 2)
    return squares.clamp_min(0).sqrt().to(features)


def _weights(cells: int, size: int, like: torch.Tensor) -> torch.Tensor:
    """Weights `(size, cells)` of linear interpolation at pixels' centres, between the centres of cells."""
    import torch

    places = (torch.arange(size, dtype=torch.float64) + 0.5) * (cells / size) - 0.5
    apart = places.clamp(0, cells - 1)[:, None] - torch.arange(cells)
    return (1 - apart.abs()).clamp_min(0).to(like)


def pose_distance(reference: torch.Tensor, features: torch.Tensor, mutual: bool = True) -> torch.Tensor:
    """How far crops `(B,C,h,w)` are from a reference `(C,h,w)`: `(B,)`, mean distance of unit features of its cells
    to their nearest ones there; of `mutual` nearest ones only, or of all (GeoAware-SC's adaptive pose alignment).
    """
    from torch.nn.functional import normalize

    step = -(-max(reference.shape[-2:]) // POSE_CELLS)
    ours = normalize(reference[:, ::step, ::step].flatten(1), dim=0)  # (C,N)
    theirs = normalize(features[:, :, ::step, ::step].flatten(2), dim=1)  # (B,C,M)
    cosines = theirs.transpose(1, 2) @ ours  # (B,M,N)
    nearest, there = cosines.max(1)  # (B,N)
    distance = (2 - 2 * nearest).clamp_min(0).sqrt()
    if not mutual:
        return distance.mean(1)
    back = cosines.argmax(2).gather(1, there)  # (B,N)
    returned = (back == back.new_tensor(range(back.shape[1]))).to(distance.dtype)
    return (distance * returned).sum(1) / returned.sum(1)
