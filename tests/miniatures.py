"""Miniature models for tests, with weights drawn at random: a Stable Diffusion in diffusers' form, and a CLIP."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from care_cli.clip import Clip

UNET = {  # the shape of Stable Diffusion 2.1's: four levels, words heeded in all but the coarsest
    "sample_size": 16,
    "in_channels": 4,
    "out_channels": 4,
    "block_out_channels": (16, 32, 48, 48),
    "down_block_types": (*["CrossAttnDownBlock2D"] * 3, "DownBlock2D"),
    "up_block_types": ("UpBlock2D", *["CrossAttnUpBlock2D"] * 3),
    "layers_per_block": 1,
    "norm_num_groups": 8,
    "attention_head_dim": 8,
    "cross_attention_dim": 32,
}
VAE = {
    "block_out_channels": (8, 8, 16, 16),
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
    "layers_per_block": 1,
    "norm_num_groups": 8,
    "latent_channels": 4,
    "scaling_factor": 0.7,
}
WORDS = 24  # tokens of a prompt


def save_diffusion(
    folder: Path, seed: int = 0, unet: dict[str, Any] = UNET, vae: dict[str, Any] = VAE, **save: Any
) -> Path:
    """A whole pipeline as `save_pretrained` writes it, 128 px in its own size; `save` goes to the networks' saving."""
    import torch
    from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    vocabulary = save_tokenizer(folder / "tokenizer")
    config = CLIPTextConfig(
        vocab_size=vocabulary,
        hidden_size=unet["cross_attention_dim"],
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=WORDS,
        bos_token_id=vocabulary - 2,
        eos_token_id=vocabulary - 1,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        CLIPTextModel(config).save_pretrained(folder / "text_encoder")
        AutoencoderKL(**vae).save_pretrained(folder / "vae", **save)
        UNet2DConditionModel(**unet).save_pretrained(folder / "unet", **save)
    DDIMScheduler(
        num_train_timesteps=1000, beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False
    ).save_pretrained(folder / "scheduler")
    return folder


def save_tokenizer(folder: Path) -> int:
    """CLIP's tokenizer without merges: every byte is a token, and another at a word's end. Returns how many."""
    folder.mkdir(parents=True)
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [chr(256 + i) for i in range(256 - len(printable))]  # stand for bytes that print nothing
    characters = [*map(chr, printable), *others]
    tokens = [*characters, *(f"{one}</w>" for one in characters), "<|startoftext|>", "<|endoftext|>"]
    (folder / "vocab.json").write_text(json.dumps({token: i for i, token in enumerate(tokens)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    special = {"bos_token": "<|startoftext|>", "eos_token": "<|endoftext|>", "unk_token": "<|endoftext|>"}
    config = special | {"pad_token": "<|endoftext|>", "model_max_length": WORDS, "tokenizer_class": "CLIPTokenizer"}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return len(tokens)


SMALL_CLIP = {
    "embed_dim": 32, "quick_gelu": True,
    "vision_image_size": [64, 32], "vision_layers": 2, "vision_width": 64, "vision_patch_size": 16,
    "vision_head_width": 32,
    "text_context_length": 77, "text_vocab_size": 49408, "text_width": 32, "text_heads": 2, "text_layers": 2,
}  # fmt: skip


def small_clip(seed: int = 0) -> Clip:
    """An untrained CLIP of two small towers, for portraits of 64 x 32 px."""
    import torch

    from care_cli.clip import Clip

    torch.manual_seed(seed)
    return Clip(**SMALL_CLIP).eval()
