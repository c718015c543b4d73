"""The demo diffusion model: a miniature Stable Diffusion in diffusers' form, from scratch on rendered chips.

An autoencoder learns to squeeze chips into latents; then a U-Net, with a text encoder for the species, learns to say
from noised latents what the clean ones were. Where the parts of an animal are is told to neither.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from tqdm import tqdm

from care_cli.training.precision import has_bf16
from demo.train_data import render_chips
from scenes import SPECIES
from scenes.seeds import TRAIN

if TYPE_CHECKING:
    import torch
    from torch import nn

PROMPT = "a photo of a {species}"
WORDS = 40  # tokens of a prompt; one a letter
AUTOENCODER = {  # 64 px to latents of 16
    "block_out_channels": (32, 64, 64),
    "down_block_types": ("DownEncoderBlock2D",) * 3,
    "up_block_types": ("UpDecoderBlock2D",) * 3,
    "layers_per_block": 1,
    "latent_channels": 4,
    "norm_num_groups": 8,
    "mid_block_add_attention": False,
    "sample_size": 64,
}
UNET = {  # 16, 8 and 4 cells a side
    "sample_size": 16,
    "in_channels": 4,
    "out_channels": 4,
    "block_out_channels": (32, 64, 96),
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "layers_per_block": 1,
    "norm_num_groups": 16,
    "attention_head_dim": 2,
    "cross_attention_dim": 64,
}
SCHEDULE = {  # Stable Diffusion's; the U-Net answers with the clean latents ("sample"), which teaches shapes first
    "num_train_timesteps": 1000,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "clip_sample": False,
    "steps_offset": 1,
    "prediction_type": "sample",
}


FEATURES = {"block": 1, "timestep": 800, "ensemble": 8}  # chosen by `demo.examine_points` on animals of their own


@dataclass(frozen=True)
class Recipe:
    """How much is rendered and learned; about 35 minutes on two cores."""

    individuals: int = 1200
    chips: int = 8  # of each; their mirror images come beside
    batch: int = 32
    autoencoder_steps: int = 400
    autoencoder_rate: float = 3e-3
    closeness: float = 5e-4  # weight of the latents' divergence from a normal distribution
    steps: int = 5000
    rate: float = 2e-3
    warmup: int = 100  # steps
    wordless: float = 0.1  # share of the chips that are shown without their caption
    average: float = 0.999  # of the weights over steps
    seed: int = 0


QUICK = Recipe(individuals=8, chips=2, batch=4, autoencoder_steps=3, steps=3, warmup=1)


def make_diffusion(recipe: Recipe, folder: Path, report: Callable[[str], None] = print) -> Path:
    """Train both networks and write the pipeline, in half precision, to `folder`, which is replaced."""
    import torch
    from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel

    seeds = TRAIN[: recipe.individuals]
    chips, labels = render_chips(seeds, recipe.chips, AUTOENCODER["sample_size"])
    species = torch.from_numpy(np.array([seeds[label] % len(SPECIES) for label in labels]))
    torch.manual_seed(recipe.seed)
    tokenizer = make_tokenizer(folder.with_name(folder.name + ".words"))
    words = fresh_text_encoder(len(tokenizer))
    autoencoder = AutoencoderKL(**AUTOENCODER)
    train_autoencoder(autoencoder, chips, recipe, report)
    latents = torch.cat([encode(autoencoder, chips), encode(autoencoder, chips[:, :, ::-1])])
    scale = 1 / float(latents.std())
    autoencoder.register_to_config(scaling_factor=scale)
    unet, schedule = UNet2DConditionModel(**UNET), DDIMScheduler(**SCHEDULE)
    captions = [PROMPT.format(species=name) for name in SPECIES] + [""]
    tokens = tokenizer(captions, padding="max_length", max_length=WORDS, return_tensors="pt").input_ids
    train_unet(unet, words, schedule, latents * scale, species.repeat(2), tokens, recipe, report)
    pipeline = StableDiffusionPipeline(
        vae=autoencoder,
        text_encoder=words,
        tokenizer=tokenizer,
        unet=unet,
        scheduler=schedule,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    shutil.rmtree(folder, ignore_errors=True)
    pipeline.to(torch.float16).save_pretrained(folder)
    (folder / "care.json").write_text(json.dumps(FEATURES) + "\n", encoding="utf-8")
    (folder / "training.json").write_text(json.dumps(about(recipe), indent=1) + "\n", encoding="utf-8")
    return folder


def about(recipe: Recipe) -> dict[str, Any]:
    """How the model came about, for whoever opens its folder."""
    seeds = TRAIN[: recipe.individuals]
    return {
        "purpose": "for CARE's demo and tests on rendered animals; not for the field",
        "licence": "AGPL-3.0-or-later",
        "training": asdict(recipe) | {"seeds": f"{seeds[0]} to {seeds[-1]}", "images": len(seeds) * recipe.chips},
    }


def train_autoencoder(model: nn.Module, chips: np.ndarray, recipe: Recipe, report: Callable[[str], None]) -> None:
    """Learn to give chips `(N,64,64,3) uint8` back: absolute and squared errors, latents held near a normal law."""
    import torch

    optimizer = torch.optim.AdamW(model.parameters(), lr=recipe.autoencoder_rate, weight_decay=1e-4)
    generator = torch.Generator().manual_seed(recipe.seed)
    model.to(memory_format=torch.channels_last).train()
    losses = []
    for step in tqdm(range(recipe.autoencoder_steps), "autoencoder", disable=None):
        _set_rate(optimizer, recipe.autoencoder_rate, step, recipe.autoencoder_steps, recipe.warmup)
        chosen = torch.randint(0, len(chips), (recipe.batch,), generator=generator).numpy()
        pixels = as_input(chips[chosen])
        with torch.autocast("cpu", torch.bfloat16, enabled=has_bf16()):
            law = model.encode(pixels).latent_dist
            restored = model.decode(law.sample(generator=generator)).sample
        error = restored.float() - pixels
        divergence = law.kl().float().mean() / law.mean[0].numel()
        loss = error.abs().mean() + error.square().mean() + recipe.closeness * divergence
        _descend(optimizer, loss, model.parameters())
        losses.append(loss.item())
        if step % 100 == 99:
            report(f"autoencoder, step {step + 1} of {recipe.autoencoder_steps}: loss {np.mean(losses[-100:]):.4f}")
    model.eval()


def train_unet(
    unet: nn.Module,
    words: nn.Module,
    schedule: Any,
    latents: torch.Tensor,
    species: torch.Tensor,
    tokens: torch.Tensor,
    recipe: Recipe,
    report: Callable[[str], None],
) -> None:
    """Learn what the clean `latents (N,4,16,16)` were, from noise of any timestep and the caption of their species.

    `tokens (S+1,L)` are the captions, the last one empty. In the end the weights are their average over the steps.
    """
    import torch

    parameters = [*unet.parameters(), *words.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=recipe.rate, weight_decay=1e-2)
    generator = torch.Generator().manual_seed(recipe.seed)
    unet.to(memory_format=torch.channels_last).train()
    averages = [value.detach().clone() for value in parameters]
    losses, started = [], time.monotonic()
    for step in tqdm(range(recipe.steps), "U-Net", disable=None):
        _set_rate(optimizer, recipe.rate, step, recipe.steps, recipe.warmup)
        chosen = torch.randint(0, len(latents), (recipe.batch,), generator=generator)
        clean, said = latents[chosen], species[chosen].clone()
        said[torch.rand(recipe.batch, generator=generator) < recipe.wordless] = len(tokens) - 1
        timesteps = torch.randint(0, len(schedule.alphas_cumprod), (recipe.batch,), generator=generator)
        noisy = schedule.add_noise(clean, torch.randn(clean.shape, generator=generator), timesteps)
        with torch.autocast("cpu", torch.bfloat16, enabled=has_bf16()):
            context = words(tokens)[0][said]
            guess = unet(noisy.contiguous(memory_format=torch.channels_last), timesteps, context).sample
        loss = (guess.float() - clean).square().mean()
        _descend(optimizer, loss, parameters)
        losses.append(loss.item())
        share = min(recipe.average, (1 + step) / (10 + step))
        with torch.no_grad():
            torch._foreach_lerp_(averages, parameters, 1 - share)
        if step % 250 == 249:
            minutes = (time.monotonic() - started) / 60
            report(f"U-Net, step {step + 1} of {recipe.steps}: loss {np.mean(losses[-250:]):.4f}, {minutes:.1f} min")
    with torch.no_grad():
        torch._foreach_copy_(parameters, averages)
    unet.eval()


def _set_rate(optimizer: Any, rate: float, step: int, steps: int, warmup: int) -> None:
    """A linear rise, then a half cosine down to a fiftieth."""
    falling = 0.02 + 0.98 * 0.5 * (1 + np.cos(np.pi * step / steps))
    for group in optimizer.param_groups:
        group["lr"] = rate * min(1.0, (step + 1) / warmup) * falling


def _descend(optimizer: Any, loss: torch.Tensor, parameters: Any) -> None:
    import torch

    optimizer.zero_grad()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(parameters, 1.0)
    optimizer.step()


def encode(autoencoder: nn.Module, chips: np.ndarray) -> torch.Tensor:
    """Latents `(N,4,16,16) float32` of chips `(N,64,64,3) uint8`: the means of their distributions."""
    import torch

    with torch.no_grad():
        parts = [autoencoder.encode(as_input(chips[i : i + 64])).latent_dist.mean for i in range(0, len(chips), 64)]
    return torch.cat(parts)


def as_input(chips: np.ndarray) -> torch.Tensor:
    """Chips `(N,S,S,3) uint8` as the autoencoder takes them: `(N,3,S,S) float32` in -1..1."""
    import torch

    pixels = torch.from_numpy(np.ascontiguousarray(chips)).permute(0, 3, 1, 2).float() / 127.5 - 1
    return pixels.contiguous(memory_format=torch.channels_last)


def fresh_text_encoder(vocabulary: int) -> nn.Module:
    """An untrained text encoder of CLIP's form; the last two tokens begin and end a prompt."""
    from transformers import CLIPTextConfig, CLIPTextModel

    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=vocabulary,
            hidden_size=UNET["cross_attention_dim"],
            intermediate_size=128,
            num_hidden_layers=2,
            num_attention_heads=2,
            max_position_embeddings=WORDS,
            bos_token_id=vocabulary - 2,
            eos_token_id=vocabulary - 1,
        )
    )


def make_tokenizer(work: Path) -> Any:
    """CLIP's tokenizer with a token for every byte, and another at a word's end, and no longer ones."""
    from transformers import CLIPTokenizer

    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    letters = [*map(chr, printable), *(chr(256 + i) for i in range(256 - len(printable)))]  # as byte-level BPE has them
    ends = {"bos_token": "<|startoftext|>", "eos_token": "<|endoftext|>"}
    tokens = [*letters, *(f"{one}</w>" for one in letters), *ends.values()]
    work.mkdir(parents=True, exist_ok=True)
    try:
        (work / "vocab.json").write_text(json.dumps({token: i for i, token in enumerate(tokens)}), encoding="utf-8")
        (work / "merges.txt").write_text("#version: 0.2\n", encoding="utf-8")
        config = ends | {"unk_token": "<|endoftext|>", "pad_token": "<|endoftext|>", "model_max_length": WORDS}
        (work / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
        return CLIPTokenizer.from_pretrained(work)
    finally:
        shutil.rmtree(work)
