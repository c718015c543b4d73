"""Points that a network looks at when it tells an animal: peaks of Grad-CAM (Selvaraju et al. 2017) on a crop.

y is how alike the crop and other crops of the animal are to the network, or a logit of its classifier. A is the output
of a CNN's last stage (C,h,w), or the tokens that a transformer's last block normalises first: behind that block only
the class token has a gradient. The map is M = ReLU(sum_c a_c A_c), with a_c the mean over cells of dy/dA_c.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from care_cli import checkpoints, encoders
from care_cli.errors import CareError
from care_cli.features import prepare
from care_cli.records import ModelSpec, NamedPoint

if TYPE_CHECKING:
    import torch
    from PIL import Image

RADIUS = 0.1  # of the map's side: peaks nearer to each other are one
FAMILIES = ("timm", "care")
Score = Callable[["torch.Tensor"], "torch.Tensor"]  # the network's answer (1,D) to a number


def peaks(
    spec: ModelSpec,
    weights: Path,
    image: Image.Image,
    k: int,
    prototype_images: Sequence[Image.Image] = (),
    *,
    logit: int | None = None,
) -> tuple[list[NamedPoint], str]:
    """The `k` strongest peaks of Grad-CAM on a crop, and their source: `gradcam-resnet` (any CNN) or `gradcam-vit`.

    Points `peak_1` (the strongest) to `peak_k` are in px of `image`, the crop frame. y is the cosine between the crop's
    features and the mean of those of `prototype_images` (other crops of the same animal, or species), or `logit`, a
    class of the network's own classifier. Raises CareError when there is neither, when the network is none of timm's,
    when the weights do not fit, and when the map has fewer peaks than asked for.
    """
    if k < 1:
        raise CareError(f"The number of peaks is at least 1, but got {k}.")
    if logit is None and not prototype_images:
        raise CareError("Grad-CAM compares with other crops of the animal, and there is none: name some crops first.")
    if spec.family not in FAMILIES:
        raise CareError(f"{spec.name} is of the family {spec.family}; Grad-CAM takes a network of timm's: timm:NAME.")
    model, settings = _network(spec, Path(weights), logit is not None)
    if logit is None:
        prototype = _features(model, settings, prototype_images).mean(0)
        score = cosine_to(prototype)
    else:
        score = _logit(spec, model, logit)
    vit = is_vit(model)
    heat = (gradcam_vit if vit else gradcam_resnet)(model, _pixels(settings, [image]), score)
    cells = strongest(heat, k)
    if len(cells) < k:
        raise CareError(
            f"Grad-CAM of {spec.name} on this crop has {len(cells)} peaks, and {k} were asked for: ask for fewer, "
            "take another crop, or another network."
        )
    kp_crop = (cells[:, ::-1] + 0.5) * [image.width / heat.shape[1], image.height / heat.shape[0]]
    points = [NamedPoint(f"peak_{i}", float(x), float(y)) for i, (x, y) in enumerate(kp_crop, 1)]
    return points, "gradcam-vit" if vit else "gradcam-resnet"


def gradcam_resnet(model: torch.nn.Module, pixels: torch.Tensor, score: Score) -> np.ndarray:
    """Map `(h,w) float32`, not negative, of a timm CNN's last stage, for normalised `pixels (1,3,S,S)`."""
    stage = model.get_submodule(model.feature_info[-1]["module"])
    maps, gradient = _at(model, stage, pixels, score)
    if getattr(model, "output_fmt", "NCHW") == "NHWC":  # Swin and its kin
        maps, gradient = maps.permute(0, 3, 1, 2), gradient.permute(0, 3, 1, 2)
    return _weighted(maps[0], gradient[0])


def gradcam_vit(model: torch.nn.Module, pixels: torch.Tensor, score: Score) -> np.ndarray:
    """Map `(h,w) float32`, not negative, of the tokens behind `blocks[-1].norm1` of a timm ViT; prefix tokens out."""
    tokens, gradient = _at(model, model.blocks[-1].norm1, pixels, score)
    height, width = model.patch_embed.grid_size

    def grid(x: torch.Tensor) -> torch.Tensor:
        return x[0, model.num_prefix_tokens :].T.reshape(-1, height, width)

    return _weighted(grid(tokens), grid(gradient))


def is_vit(model: torch.nn.Module) -> bool:
    """Is it a plain transformer over patches, rather than stages of maps?"""
    return hasattr(model, "num_prefix_tokens") and hasattr(model.blocks[-1], "norm1")


def cosine_to(prototype: torch.Tensor) -> Score:
    """y: the cosine between the network's features `(1,D)` and a prototype `(D,)`."""
    import torch

    return lambda features: torch.cosine_similarity(features[0], prototype, dim=0)


def strongest(heat: np.ndarray, k: int, radius: float = RADIUS) -> np.ndarray:
    """Cells `(n,2) int`, row and column, of the up to `k` highest peaks of a map `(h,w)`, highest first.

    Greedy: the highest cell is taken, cells within `radius` of it (a share of each side) are out, and so on; cells
    that are not positive are no peaks.
    """
    height, width = heat.shape
    rows, columns = np.mgrid[:height, :width]
    left, cells = np.where(heat > 0, heat, -np.inf), []
    while len(cells) < k and np.isfinite(left.max()):
        row, column = np.unravel_index(left.argmax(), heat.shape)
        cells.append((row, column))
        left[np.hypot((rows - row) / height, (columns - column) / width) <= radius] = -np.inf
    return np.array(cells, int).reshape(-1, 2)


def _at(
    model: torch.nn.Module, stage: torch.nn.Module, pixels: torch.Tensor, score: Score
) -> tuple[torch.Tensor, torch.Tensor]:
    """What a stage answers, and the gradient of y by it; nothing before the stage is differentiated."""
    import torch

    held: list[torch.Tensor] = []

    def hold(module: Any, given: Any, answer: torch.Tensor) -> torch.Tensor:
        held.append(answer.detach().requires_grad_(True))
        return held[0].clone()  # what follows may work in place, which a leaf forbids

    hook = stage.register_forward_hook(hold)
    try:
        with torch.enable_grad():
            (gradient,) = torch.autograd.grad(score(model(pixels)), held[0])
    finally:
        hook.remove()
    return held[0].detach(), gradient


def _weighted(maps: torch.Tensor, gradient: torch.Tensor) -> np.ndarray:
    """ReLU(sum_c a_c A_c) of maps and gradient `(C,h,w)`, with a_c the gradient's mean over cells."""
    return (gradient.mean((1, 2))[:, None, None] * maps).sum(0).relu().float().numpy()


def _network(spec: ModelSpec, weights: Path, head: bool) -> tuple[torch.nn.Module, dict[str, Any]]:
    """The timm model with these weights, with its classifier or ending in its features, and its settings."""
    checkpoints.prepare_torch()
    if not head:
        model, settings, _ = encoders.FAMILIES[spec.family](spec, weights)
        return model.float().eval().requires_grad_(False), settings
    model = encoders.build_backbone(spec.architecture)
    state = checkpoints.load_state(weights)
    classes = [state[f"{name}.weight"] for name in encoders.classifier_layers(model) if f"{name}.weight" in state]
    if not classes:
        raise CareError(f"{weights.name} holds no classifier: compare with other crops of the animal instead.")
    model.reset_classifier(len(classes[0]))
    encoders.load_weights(model, state, weights)
    settings, _ = encoders.as_timm_says(model, spec.architecture, encoders.stated(spec))
    return model.float().eval().requires_grad_(False), settings


def _logit(spec: ModelSpec, model: torch.nn.Module, index: int) -> Score:
    if not 0 <= index < model.num_classes:
        raise CareError(f"{spec.name} knows classes 0 to {model.num_classes - 1}, but got {index}.")
    return lambda logits: logits[0, index]


def _pixels(settings: dict[str, Any], images: Sequence[Image.Image]) -> torch.Tensor:
    """`(B,3,S,S) float32` of crops, squashed and normalised."""
    import torch

    pixels = torch.from_numpy(np.stack([prepare(image, settings["input_size"]) for image in images]))
    mean, std = (torch.tensor(settings[key])[:, None, None] for key in ("mean", "std"))
    return (pixels.float() / 255 - mean) / std


def _features(model: torch.nn.Module, settings: dict[str, Any], images: Sequence[Image.Image]) -> torch.Tensor:
    """`(B,D) float32`: the pooled features of crops, one at a time."""
    import torch

    with torch.no_grad():
        return torch.cat([model(_pixels(settings, [image])) for image in images])
