"""A small CLIP from scratch, on rendered chips and what their renderer knows of them, put into words.

    python -m demo.train_clip --out FILE.safetensors [--steps 1600] [--individuals 1600]

The file is a checkpoint of CARE's: `care index --model FILE` is CLIP zero-shot, and `care train --method care --weights
FILE --size 64` begins from it. At the end it is asked which caption belongs to which chip of animals that it has not
seen. It knows rendered animals alone and is of no use in the field.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image
from tqdm import tqdm

from care_cli.training.precision import has_bf16
from demo.captions import caption
from demo.train_data import LONGEST, in_processes
from scenes import SPECIES, make_individual, render_chip
from scenes.coats import look_of
from scenes.seeds import TRAIN, TUNE

if TYPE_CHECKING:  # training loads torch, which the processes that render do without
    import torch

    from care_cli.clip import Clip

SIZE = 64  # px
OPTIONS = {
    "embed_dim": 128,
    "vision_image_size": SIZE, "vision_patch_size": 8,
    "vision_width": 128, "vision_layers": 4, "vision_head_width": 32,
    "text_context_length": 32, "text_vocab_size": 49408,
    "text_width": 128, "text_heads": 4, "text_layers": 3,
}  # fmt: skip
KNOWN, HELD_OUT = TRAIN[2300:], TUNE[800:]  # seeds of individuals to learn from, and to be asked about
DIFFICULTY = (0.0, 0.5)  # of a chip, drawn evenly
HALF = (0.5, 0.5, 0.5)
SHARPEST = math.log(100)  # bound of the logarithm by which cosines are multiplied, as CLIP's


@dataclass(frozen=True)
class Recipe:
    """How much is rendered and learned; about 15 minutes on two cores."""

    individuals: int = 1600
    chips: int = 8  # of each
    batch: int = 128  # individuals, one chip of each
    steps: int = 1600
    rate: float = 1e-3
    warmup: int = 100  # steps
    weight_decay: float = 0.1
    asked: int = 100  # individuals that it has not seen
    seed: int = 0


@dataclass(frozen=True, eq=False)
class Captioned:
    """Chips `(N, SIZE, SIZE, 3) uint8` of individuals `labels (N,)`; tokens `(N, T, L) int64` of captions: the first
    tells all, the others leave some of it out."""

    chips: np.ndarray
    labels: np.ndarray
    tokens: np.ndarray


def main() -> None:
    """Render, learn, write, and say what was learned."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=Recipe.steps)
    parser.add_argument("--individuals", type=int, default=Recipe.individuals)
    given = parser.parse_args()
    if given.out.suffix != ".safetensors":  # by which weights are known to be a file
        parser.error(f"--out {given.out}: the file's name must end in .safetensors")
    make_clip(replace(Recipe(), steps=given.steps, individuals=given.individuals), given.out)


def make_clip(recipe: Recipe, path: Path, report: Callable[[str], None] = print) -> dict[str, float]:
    """Train both towers and write them to `path`; returns what they reach on animals that they have not seen."""
    import torch

    from care_cli.clip import Clip
    from care_cli.encoders import save_embedder

    data = describe(KNOWN[: recipe.individuals], recipe.chips)
    torch.manual_seed(recipe.seed)
    clip = Clip(**OPTIONS)
    learn(clip, data, recipe, report)
    found = retrieval(clip, describe(HELD_OUT[: recipe.asked], recipe.chips))
    report(f"scale {clip.logit_scale.exp().item():.1f}; " + ", ".join(f"{key} {found[key]:.3f}" for key in found))
    save_embedder(clip, path, header(recipe, found))
    return found


def header(recipe: Recipe, metrics: dict[str, float]) -> dict[str, Any]:
    """All that a user of the weights needs, and how they came about."""
    seeds = KNOWN[: recipe.individuals]
    about = {"on": "rendered scenes alone", "individuals": f"seeds {seeds[0]} to {seeds[-1]}"}
    return {
        "method": "clip",
        "architecture": "care_clip",
        "options": OPTIONS,
        "input_size": SIZE,
        "mean": HALF,
        "std": HALF,
        "interpolation": "bicubic",
        "crop_pct": 1.0,
        "crop_mode": "squash",
        "licence": "AGPL-3.0-or-later",
        "purpose": "a CLIP trained on rendered scenes, to compare methods with; not for the field",
        "training": asdict(recipe) | about,
        "metrics": {name: round(value, 4) for name, value in metrics.items()},
    }


def describe(seeds: Sequence[int], chips: int) -> Captioned:
    """Chips of one individual a seed, with their captions."""
    from care_cli.clip import tokenizer

    done = in_processes(partial(told, chips=chips), seeds, "chips")
    encode = tokenizer()
    tokens = np.stack([encode(sentences, OPTIONS["text_context_length"]) for _, said in done for sentences in said])
    return Captioned(np.concatenate([one for one, _ in done]), np.repeat(np.arange(len(seeds)), chips), tokens)


def told(seed: int, chips: int) -> tuple[np.ndarray, list[list[str]]]:
    """One individual's chips `(chips, SIZE, SIZE, 3) uint8`, squashed, and of each a whole caption and three others.

    The species follow from the seed in turn.
    """
    individual = make_individual(list(SPECIES)[seed % len(SPECIES)], seed)
    rng = np.random.default_rng([seed, 23])
    pixels, said = [], []
    for number in range(chips):
        infrared = number % 2 == 1
        difficulty = float(rng.uniform(*DIFFICULTY))
        chip = render_chip(individual, rng, difficulty=difficulty, longest=LONGEST, infrared=infrared)
        pixels.append(np.asarray(chip.image.resize((SIZE, SIZE), Image.Resampling.BICUBIC)))
        look = look_of(individual, chip.side)
        said.append([caption(individual, look, chip.side, infrared, some) for some in (None, rng, rng, rng)])
    return np.stack(pixels), said


def learn(clip: Clip, data: Captioned, recipe: Recipe, report: Callable[[str], None]) -> None:
    """Each chip of a batch finds its caption among all others, and each caption its chip (Radford et al. 2021)."""
    import torch
    from open_clip import ClipLoss
    from torch.nn.attention import SDPBackend, sdpa_kernel  # MATH: half the time of the default in bfloat16

    matrices = [parameter for parameter in clip.parameters() if parameter.ndim > 1]
    others = [parameter for parameter in clip.parameters() if parameter.ndim <= 1]
    groups = [{"params": matrices, "weight_decay": recipe.weight_decay}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=recipe.rate, betas=(0.9, 0.98))
    rng, loss_of, losses, began = np.random.default_rng(recipe.seed), ClipLoss(), [], time.monotonic()
    clip.train()
    for step in tqdm(range(recipe.steps), "CLIP", disable=None):
        rise, fall = min(1.0, (step + 1) / recipe.warmup), 0.5 * (1 + math.cos(math.pi * step / recipe.steps))
        for group in optimizer.param_groups:
            group["lr"] = recipe.rate * rise * fall
        rows = drawn(data.labels, min(recipe.batch, recipe.individuals), rng)
        sentences = data.tokens[rows, rng.integers(data.tokens.shape[1], size=len(rows))]
        with torch.autocast("cpu", torch.bfloat16, enabled=has_bf16()), sdpa_kernel(SDPBackend.MATH):
            seen, read = features(clip, data.chips[rows], sentences)
        loss = loss_of(seen.float(), read.float(), clip.logit_scale.exp())
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(clip.parameters(), 1.0)
        optimizer.step()
        with torch.no_grad():
            clip.logit_scale.clamp_(0, SHARPEST)
        losses.append(loss.item())
        if step % 200 == 199:
            minutes = (time.monotonic() - began) / 60
            report(f"step {step + 1} of {recipe.steps}: loss {np.mean(losses[-200:]):.3f}, {minutes:.1f} min")
    clip.eval()


def drawn(labels: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """Rows of `count` individuals, a chip of each, `(count,) int64`; each has as many as the others, in turn."""
    chips = len(labels) // (labels[-1] + 1)
    return rng.choice(labels[-1] + 1, count, replace=False) * chips + rng.integers(chips, size=count)


def features(clip: Clip, chips: np.ndarray, tokens: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
    """Of chips `(B, SIZE, SIZE, 3) uint8` and captions `(B, L) int64`, both `(B, D)` and of length 1."""
    import torch

    pixels = torch.from_numpy(chips).permute(0, 3, 1, 2).float() / 127.5 - 1
    return clip.encode_image(pixels, normalize=True), clip.encode_text(torch.from_numpy(tokens), normalize=True)


def retrieval(clip: Clip, data: Captioned) -> dict[str, float]:
    """How often a chip finds its own caption first, or among five, of one of each individual; and the other way.

    Each individual's n-th chips are asked together, and what is told is the mean over n.
    """
    import torch

    individuals = data.labels[-1] + 1
    chips = len(data.labels) // individuals
    found: dict[str, list[float]] = {}
    with torch.inference_mode():
        for number in range(chips):
            seen, read = features(clip, data.chips[number::chips], data.tokens[number::chips, 0])
            for name, scores in (("image_to_text", seen @ read.T), ("text_to_image", read @ seen.T)):
                better = (scores > scores.diagonal()[:, None]).sum(1)
                for first in (1, 5):
                    found.setdefault(f"{name}_R{first}", []).append(float((better < first).float().mean()))
    return {name: float(np.mean(values)) for name, values in found.items()}


if __name__ == "__main__":
    main()
