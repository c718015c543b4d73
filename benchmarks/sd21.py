"""A Stable Diffusion of 2.1's size with random weights, in diffusers' form: time and memory do not ask for more."""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path

UNET = {
    "sample_size": 96, "in_channels": 4, "out_channels": 4, "layers_per_block": 2, "cross_attention_dim": 1024,
    "block_out_channels": (320, 640, 1280, 1280), "attention_head_dim": (5, 10, 20, 20),
    "use_linear_projection": True,
}  # fmt: skip
VAE = {
    "sample_size": 768, "in_channels": 3, "out_channels": 3, "latent_channels": 4, "layers_per_block": 2,
    "block_out_channels": (128, 256, 512, 512), "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4, "scaling_factor": 0.18215,
}  # fmt: skip
TEXT = {
    "hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 23, "num_attention_heads": 16,
    "projection_dim": 512, "max_position_embeddings": 77, "hidden_act": "gelu",
}  # fmt: skip
SCHEDULE = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "clip_sample": False}


def write(folder: Path, unet: dict | None = None, vae: dict | None = None, text: dict | None = None) -> None:
    """A pipeline in half precision, its weights drawn from a fixed seed; other sizes of its parts for tests."""
    import torch
    from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

    letters = [chr(code) for code in range(33, 127)]
    words = [*letters, *(letter + "</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    tokenizer = folder / "tokenizer"
    tokenizer.mkdir(parents=True)
    (tokenizer / "vocab.json").write_text(json.dumps({word: number for number, word in enumerate(words)}), "utf-8")
    (tokenizer / "merges.txt").write_text("#version: 0.2\n", "utf-8")
    ends = {"bos_token": "<|startoftext|>", "eos_token": "<|endoftext|>", "unk_token": "<|endoftext|>"}
    CLIPTokenizer(str(tokenizer / "vocab.json"), str(tokenizer / "merges.txt"), **ends, model_max_length=77,
                  pad_token="<|endoftext|>").save_pretrained(tokenizer)  # fmt: skip
    torch.manual_seed(0)
    numbers = {"vocab_size": len(words), "bos_token_id": len(words) - 2, "eos_token_id": len(words) - 1}
    makers = {
        "unet": lambda: UNet2DConditionModel(**UNET | (unet or {})),
        "vae": lambda: AutoencoderKL(**VAE | (vae or {})),
        "text_encoder": lambda: CLIPTextModel(CLIPTextConfig(**TEXT | numbers | (text or {}))),
    }
    for name, make in makers.items():
        make().half().save_pretrained(folder / name, safe_serialization=True)
    DDIMScheduler(**SCHEDULE).save_pretrained(folder / "scheduler")


def main() -> None:
    """Write the pipeline into a folder, instead of what is there."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    shutil.rmtree(folder, ignore_errors=True)
    write(folder)


if __name__ == "__main__":
    main()
