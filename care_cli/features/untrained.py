"""The same network as if it had never learned anything: what its architecture alone can do."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

from care_cli import checkpoints, encoders, registry
from care_cli.errors import CareError
from care_cli.records import ModelSpec

PARTS = ("unet", "all")


def untrained(spec: ModelSpec, folder: Path, *, seed: int = 0, parts: str = "unet") -> ModelSpec:
    """The model with random weights, drawn as its library begins a training, written below `folder`.

    Of a timm model all weights are drawn anew. Of a diffusion model the U-Net's (`parts="unet"`), whose features
    are what is used, while the VAE and the text encoder stay trained; `"all"` draws theirs too. Everything else,
    the noise schedule and the way photos are prepared included, stays. The same seed gives the same weights.
    """
    if parts not in PARTS:
        raise CareError(f"What is drawn anew is one of {', '.join(PARTS)}, but got {parts!r}.")
    checkpoints.prepare_torch()
    import torch

    folder.mkdir(parents=True, exist_ok=True)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if spec.family == "timm":
            return _backbone(spec, folder)
        return _pipeline(spec, folder, parts)


def _backbone(spec: ModelSpec, folder: Path) -> ModelSpec:
    from safetensors.torch import save_file

    path = folder / "untrained.safetensors"
    save_file(encoders.build_backbone(spec.architecture).state_dict(), path)
    return replace(
        spec, name=f"{spec.name} untrained", file=str(path), files=(), url=None, sha256=None, md5=None, bytes=None
    )


def _pipeline(spec: ModelSpec, folder: Path, parts: str) -> ModelSpec:
    """Configurations and trained parts are copied beside the parts that are drawn anew."""
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    makers = {
        "unet": lambda part: UNet2DConditionModel.from_config(UNet2DConditionModel.load_config(part)),
        "vae": lambda part: AutoencoderKL.from_config(AutoencoderKL.load_config(part)),
        "text_encoder": lambda part: CLIPTextModel(CLIPTextConfig.from_pretrained(part)),
    }
    anew = ("unet",) if parts == "unet" else tuple(makers)
    trained = registry.fetch(spec)
    for file in spec.files:
        part = Path(file).parts[0]
        if part not in anew or file.endswith("/config.json"):
            (folder / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(trained / file, folder / file)
    for part in anew:
        makers[part](trained / part).save_pretrained(folder / part, safe_serialization=True)
    return registry.describe_pipeline(folder, f"{spec.name} untrained")
