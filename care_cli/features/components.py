"""The parts of a Stable Diffusion in diffusers' form, loaded from a folder: only what features need, no pickle, no net.

A Stable Diffusion (Rombach et al. 2022, "High-resolution image synthesis with latent diffusion models") is an
autoencoder to small latents, a U-Net that takes noise off latents, a text encoder whose words the U-Net heeds, and a
schedule of how much noise there is at each timestep.
"""

from __future__ import annotations

import contextlib
import json
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from care_cli import checkpoints
from care_cli.errors import CareError
from care_cli.features import FeatureConfig
from care_cli.records import ModelSpec

if TYPE_CHECKING:
    import torch

DEFAULTS = {"block": 1, "timestep": 261, "ensemble": 8}  # DIFT's for correspondence (Tang et al. 2023)
OWN_DEFAULTS = "care.json"  # beside model_index.json: a model's own, with `size` if it has one


@dataclass(frozen=True, eq=False)
class Components:
    """What a pass needs; modules are on the CPU still."""

    vae: Any  # AutoencoderKL without its decoder
    unet: Any  # UNet2DConditionModel, whole
    tokenizer: Any
    text_encoder: Any
    signal: torch.Tensor  # (T,) float32, share of the signal's variance left at each timestep: alphas_cumprod


def defaults(folder: Path) -> dict[str, int]:
    """Block, timestep, ensemble (and size, where the model says one) for what the user leaves open.

    Raises CareError for a `care.json` that is none.
    """
    path = folder / OWN_DEFAULTS
    if not path.is_file():
        return dict(DEFAULTS)
    try:
        said = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise CareError(f"{path} can't be read as JSON: {error}") from error
    known = FeatureConfig.__dataclass_fields__
    if not isinstance(said, dict) or set(said) - set(known):
        raise CareError(f"{path}: expected an object with some of {', '.join(known)}, got {str(said)[:80]}")
    for key, value in said.items():
        least = 0 if key in ("block", "timestep") else 1
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            raise CareError(f"{path}: {key} must be a whole number from {least} on, got {str(value)[:40]}")
    return DEFAULTS | said


def load(spec: ModelSpec, folder: Path, precision: str, unet_weights: Path | None = None) -> Components:
    """The parts in `folder`, in this precision; with `unet_weights` (safetensors) in place of the U-Net's own.

    Raises CareError for a file that is absent, damaged, or does not fit the configuration beside it.
    """
    checkpoints.prepare_torch()
    import torch
    from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
    from transformers import CLIPTextModel, CLIPTokenizer

    dtype = getattr(torch, precision)

    def part(name: str, make: Callable[..., Any], **options: Any) -> Any:
        if any(file.startswith(f"{name}/") and ".fp16." in file for file in spec.files):
            options["variant"] = "fp16"
        return make(folder / name, local_files_only=True, **options)

    def network(name: str, make: Callable[..., Any], **options: Any) -> Any:
        model, info = part(name, make, use_safetensors=True, output_loading_info=True, **options)
        _complete(folder / name, info)
        return model.eval().requires_grad_(False)

    with _quiet(), _in_words(spec, folder):
        schedule = part("scheduler", DDIMScheduler.from_pretrained)
        tokenizer = part("tokenizer", CLIPTokenizer.from_pretrained)
        text_encoder = network("text_encoder", CLIPTextModel.from_pretrained, dtype=dtype)
        vae = network("vae", AutoencoderKL.from_pretrained, torch_dtype=dtype)
        vae.decoder = vae.post_quant_conv = None
        if unet_weights is None:
            unet = network("unet", UNet2DConditionModel.from_pretrained, torch_dtype=dtype)
        else:
            unet = _unet(folder / "unet", unet_weights).to(dtype)
    _plain(spec, unet, vae, text_encoder)
    return Components(vae, unet, tokenizer, text_encoder, schedule.alphas_cumprod.float())


def _unet(folder: Path, weights: Path) -> Any:
    """A U-Net of the configuration in `folder` with the weights of one safetensors file."""
    import torch
    from diffusers import UNet2DConditionModel

    with torch.device("meta"):
        unet = UNet2DConditionModel.from_config(UNet2DConditionModel.load_config(folder, local_files_only=True))
    unet.load_state_dict(checkpoints.load_state(weights), strict=True, assign=True)
    return unet.eval().requires_grad_(False)


def _complete(folder: Path, info: dict[str, Any]) -> None:
    """CareError when weights lack layers that the configuration has, or have others."""
    for kind, key in (("lack", "missing_keys"), ("have beside it", "unexpected_keys")):
        names = sorted(name for name in info.get(key) or () if not name.endswith("position_ids"))
        if names:
            more = f" and {len(names) - 5} more" if len(names) > 5 else ""
            raise CareError(
                f"the weights in {folder} do not fit its config.json: they {kind} {', '.join(names[:5])}{more}"
            )
    if mismatched := info.get("mismatched_keys"):
        raise CareError(
            f"the weights in {folder} do not fit its config.json: shapes differ, e.g. {next(iter(mismatched))}"
        )


def _plain(spec: ModelSpec, unet: Any, vae: Any, text_encoder: Any) -> None:
    """CareError for a relative of Stable Diffusion whose U-Net wants more than latents, a timestep and words."""
    want, give = unet.config.cross_attention_dim, text_encoder.config.hidden_size
    if unet.config.addition_embed_type or unet.config.class_embed_type or unet.config.encoder_hid_dim_type:
        raise CareError(f"{spec.name} is no plain Stable Diffusion (1.x or 2.x): its U-Net wants further conditions")
    if unet.config.in_channels != vae.config.latent_channels or vae.config.in_channels != 3:
        raise CareError(
            f"{spec.name} is no plain Stable Diffusion (1.x or 2.x): its U-Net takes {unet.config.in_channels} "
            f"channels, its autoencoder gives {vae.config.latent_channels} of an image of {vae.config.in_channels}"
        )
    if any(width != give for width in ([want] if isinstance(want, int) else want)):
        raise CareError(f"{spec.name}: its U-Net heeds words of {want} numbers, but its text encoder gives {give}")


@contextlib.contextmanager
def _in_words(spec: ModelSpec, folder: Path) -> Iterator[None]:
    """Whatever the libraries raise over a damaged folder, as a CareError."""
    try:
        yield
    except (CareError, MemoryError):
        raise
    except Exception as error:  # OSError, ValueError, RuntimeError, safetensors' own, ...
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise CareError(
            f"{spec.name} can't be loaded from {folder}: {reason[:300]}. Expected a Stable Diffusion 1.x or 2.x "
            "in diffusers' form."
        ) from error


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the libraries' warnings and progress bars: what matters of it is raised."""
    from diffusers.utils import logging as of_diffusers
    from transformers.utils import logging as of_transformers

    before = logging.root.manager.disable
    bars = [one for one in (of_diffusers, of_transformers) if one.is_progress_bar_enabled()]
    logging.disable(logging.WARNING)
    for one in bars:
        one.disable_progress_bar()
    try:
        yield
    finally:
        logging.disable(before)
        for one in bars:
            one.enable_progress_bar()
