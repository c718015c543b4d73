"""Where in a crop a network looks: Grad-CAM (Selvaraju et al. 2017).

y is how alike the crop and another one are to the network, or a logit of its classifier. A is the output of a CNN's
last stage (C,h,w), or the tokens that a transformer's last block normalises first: behind that block only the class
token has a gradient. The map is M = ReLU(sum_c a_c A_c), with a_c the mean over cells of dy/dA_c.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from care_cli import checkpoints, encoders
from care_cli.engines import images_of
from care_cli.errors import CareError
from care_cli.geometry import Box
from care_cli.preparation import Preparation
from care_cli.records import ModelSpec

if TYPE_CHECKING:
    import torch
    from PIL import Image

FAMILIES = ("timm", "care", "miewid", "open_clip")
INNER = ("vit", "backbone", "trunk", "visual")  # where a network that wraps one of timm's or open_clip's keeps it
Score = Callable[["torch.Tensor"], "torch.Tensor"]  # the network's answer (1,D) to a number


class Explainer:
    """A network of timm's or ours, or around one, whose answers can be led back to places in a crop; see `load`."""

    def __init__(self, model: torch.nn.Module, settings: dict[str, Any], preparation: Preparation):
        import torch

        self.model = model.float().eval().requires_grad_(False)
        self.preparation = preparation
        self.scheme = getattr(model, "scheme", None)  # what it is told beside pixels, where it is told anything
        self._mean, self._std = (torch.tensor(settings[key])[:, None, None] for key in ("mean", "std"))

    @property
    def is_vit(self) -> bool:
        """Is it a plain transformer over patches, rather than stages of maps?"""
        return is_vit(self.model)

    def features(self, images: Sequence[Image.Image], beside: np.ndarray | None = None) -> torch.Tensor:
        """`(B,D) float32` of crops, one at a time. `beside (B, ...) float32`: what it is told, by its scheme."""
        import torch

        with torch.no_grad():
            return torch.cat(
                [
                    self._answer(beside if beside is None else beside[i : i + 1])(self.pixels([image]))
                    for i, image in enumerate(images)
                ]
            )

    def heat(self, image: Image.Image, score: Score, beside: np.ndarray | None = None) -> np.ndarray:
        """Grad-CAM's map `(h,w) float32`, not negative, over the part of a crop that `covered` says.

        `beside` is what the network is told of it, `float32` of its scheme's shape: points as shares of the crop's
        width and height with a weight, or its viewpoint.
        """
        answer = self._answer(None if beside is None else beside[None])
        return (gradcam_vit if self.is_vit else gradcam_cnn)(self.model, self.pixels([image]), score, answer)

    def covered(self, size: tuple[int, int]) -> Box:
        """The rectangle `x, y, w, h` px of a crop of `size` that the network's square input shows."""
        return self.preparation.covered(size)

    def pixels(self, images: Sequence[Image.Image]) -> torch.Tensor:
        """`(B,3,S,S) float32` of crops, prepared as for an embedding and normalised."""
        import torch

        pixels = torch.from_numpy(np.stack([self.preparation(image) for image in images]))
        return (images_of(pixels) - self._mean) / self._std

    def _answer(self, beside: np.ndarray | None) -> Callable[[torch.Tensor], torch.Tensor]:
        import torch

        if beside is None or self.scheme is None:
            return self.model
        told = torch.from_numpy(np.ascontiguousarray(beside, np.float32))
        return lambda pixels: self.model(pixels, told)


def load(spec: ModelSpec, weights: Path, *, classifier: bool = False, squash: bool = False) -> Explainer:
    """The network that `spec` describes with these weights, ending in its features, or in its `classifier`.

    With `squash` it sees whole crops, whatever its own preparation. Raises CareError when the network is none of
    timm's, when the weights do not fit, or hold no classifier where one is asked for.
    """
    if spec.family not in FAMILIES:
        raise CareError(f"{spec.name} is of the family {spec.family}; Grad-CAM takes a network of timm's or a CLIP.")
    checkpoints.prepare_torch()
    weights = Path(weights)
    if classifier:
        model, settings, preparation = _with_classifier(spec, weights)
    else:
        model, settings, preparation = encoders.FAMILIES[spec.family](spec, weights)
    if not (is_vit(model) or hasattr(_trunk(model), "feature_info")):
        raise CareError(f"{spec.name} has neither stages nor patch tokens in which Grad-CAM could look.")
    prepared = Preparation(**preparation)
    return Explainer(model, settings, replace(prepared, mode="squash", crop_pct=1.0) if squash else prepared)


def cosine_to(prototype: torch.Tensor) -> Score:
    """y: the cosine between the network's features `(1,D)` and a prototype `(D,)`."""
    import torch

    return lambda features: torch.cosine_similarity(features[0], prototype, dim=0)


def logit(spec: ModelSpec, network: Explainer, index: int) -> Score:
    """y: what the classifier says of a class; CareError for one that it does not know."""
    if not 0 <= index < network.model.num_classes:
        raise CareError(f"{spec.name} knows classes 0 to {network.model.num_classes - 1}, but got {index}.")
    return lambda logits: logits[0, index]


def gradcam_cnn(
    model: torch.nn.Module,
    pixels: torch.Tensor,
    score: Score,
    answer: Callable[[torch.Tensor], torch.Tensor] | None = None,
) -> np.ndarray:
    """Map `(h,w) float32`, not negative, of a timm CNN's last stage, for normalised `pixels (1,3,S,S)`.

    `answer` is how the network is asked, when it is given more than pixels.
    """
    trunk = _trunk(model)
    stage = trunk.get_submodule(trunk.feature_info[-1]["module"])
    maps, gradient = _at(answer or model, stage, pixels, score)
    if getattr(trunk, "output_fmt", "NCHW") == "NHWC":  # Swin and its kin
        maps, gradient = maps.permute(0, 3, 1, 2), gradient.permute(0, 3, 1, 2)
    return _weighted(maps[0], gradient[0])


def gradcam_vit(
    model: torch.nn.Module,
    pixels: torch.Tensor,
    score: Score,
    answer: Callable[[torch.Tensor], torch.Tensor] | None = None,
) -> np.ndarray:
    """Map `(h,w) float32`, not negative, of the tokens behind `blocks[-1].norm1` of a ViT; prefix tokens out."""
    trunk = _trunk(model)
    tokens, gradient = _at(answer or model, _first_norm(trunk), pixels, score)
    height, width = getattr(trunk, "patch_embed", trunk).grid_size
    prefix = getattr(trunk, "num_prefix_tokens", 1)  # CLIP's has its class token

    def grid(x: torch.Tensor) -> torch.Tensor:
        return x[0, prefix:].T.reshape(-1, height, width)

    return _weighted(grid(tokens), grid(gradient))


def is_vit(model: torch.nn.Module) -> bool:
    """Is it a plain transformer over patches, rather than stages of maps?"""
    return _first_norm(_trunk(model)) is not None


def _first_norm(trunk: torch.nn.Module) -> torch.nn.Module | None:
    """The first norm of a plain transformer's last block, by timm's or by CLIP's name; None for other networks."""
    if hasattr(trunk, "num_prefix_tokens"):
        return getattr(trunk.blocks[-1], "norm1", None)
    return trunk.transformer.resblocks[-1].ln_1 if hasattr(trunk, "class_embedding") else None


def _trunk(model: torch.nn.Module) -> torch.nn.Module:
    """timm's own network in one that adds something to it, in as many layers as there are."""
    inner = next((found for name in INNER if (found := getattr(model, name, None)) is not None), None)
    return model if inner is None else _trunk(inner)


def _at(
    answer: Callable[[torch.Tensor], torch.Tensor], stage: torch.nn.Module, pixels: torch.Tensor, score: Score
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
            (gradient,) = torch.autograd.grad(score(answer(pixels)), held[0])
    finally:
        hook.remove()
    return held[0].detach(), gradient


def _weighted(maps: torch.Tensor, gradient: torch.Tensor) -> np.ndarray:
    """ReLU(sum_c a_c A_c) of maps and gradient `(C,h,w)`, with a_c the gradient's mean over cells."""
    return (gradient.mean((1, 2))[:, None, None] * maps).sum(0).relu().float().numpy()


def _with_classifier(spec: ModelSpec, weights: Path) -> encoders.Built:
    model = encoders.build_backbone(spec.architecture)
    state = checkpoints.load_state(weights)
    classes = [state[f"{name}.weight"] for name in encoders.classifier_layers(model) if f"{name}.weight" in state]
    if not classes:
        raise CareError(f"{weights.name} holds no classifier: compare with other crops of the animal instead.")
    model.reset_classifier(len(classes[0]))
    encoders.load_weights(model, state, weights)
    return model, *encoders.as_timm_says(model, spec.architecture, encoders.stated(spec))
