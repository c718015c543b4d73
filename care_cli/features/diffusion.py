"""Dense features of a Stable Diffusion: what its U-Net makes of a photo with some noise (DIFT, Tang et al. 2023).

The photo's latents are noised to a timestep, the U-Net begins to take the noise off, and the output of one of its
up-blocks is the feature map, averaged over several draws of noise. CleanDIFT (Stracke et al. 2025) is a U-Net trained
to give from the clean photo, in one pass, what the mean over draws would.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from care_cli import engines, registry
from care_cli.errors import CareError
from care_cli.features import FeatureConfig, components, whole_grid
from care_cli.records import ModelSpec

if TYPE_CHECKING:
    import torch

CLEAN_TIMESTEP = 261  # what CleanDIFT's U-Net is told, and was told in its training
PASSES = {"cpu": 2 * 96**2, "cuda": 32 * 96**2}  # latent pixels of a pass of the U-Net: more gains nothing
MOST_PASSES = 256
MOST_PROMPTS = 64  # whose words are kept


def load(
    spec: ModelSpec,
    folder: Path,
    cfg: FeatureConfig,
    device: str,
    *,
    engine: str = "auto",
    precision: str = "auto",
    notice: engines.Notice | None = None,
) -> Diffusion:
    """The extractor of a folder in diffusers' form; see `features.load_extractor`."""
    precision = _precision(spec, engine, precision, device)
    own = components.defaults(folder)
    parts = components.load(spec, folder, precision)
    return Diffusion(spec, parts, cfg, own, device, precision, notice=notice)


def load_clean(
    spec: ModelSpec,
    weights: Path,
    cfg: FeatureConfig,
    device: str,
    *,
    engine: str = "auto",
    precision: str = "auto",
    notice: engines.Notice | None = None,
) -> Diffusion:
    """CleanDIFT: a U-Net in one file of weights, with the other parts of the model that `spec.architecture` names."""
    if cfg.timestep is not None or cfg.ensemble is not None:
        raise CareError(f"{spec.name} adds no noise: it has neither --timestep nor --ensemble, leave them out.")
    precision = _precision(spec, engine, precision, device)
    base = registry.find(spec.architecture, task="diffusion")
    folder = registry.fetch(base)
    parts = components.load(base, folder, precision, unet_weights=weights)
    own = components.defaults(folder) | {"timestep": CLEAN_TIMESTEP, "ensemble": 1}
    extractor = Diffusion(spec, parts, cfg, own, device, precision, noise=False, notice=notice)
    extractor.settings["base"] = registry.model_sha256(base)
    return extractor


class Diffusion:
    """An `Extractor` of diffusers' family; see `features`. Made by `load` or `load_clean`."""

    engine = "torch"

    def __init__(
        self,
        spec: ModelSpec,
        parts: components.Components,
        cfg: FeatureConfig,
        own: dict[str, int],
        device: str,
        precision: str,
        *,
        noise: bool = True,
        notice: engines.Notice | None = None,
    ):
        import torch

        self.device, self.precision = device, precision
        self._notice = notice or (lambda text: None)
        self._noise, self._lock, self._prompts = noise, threading.Lock(), {}
        self._lightened = self._sliced = False
        self._unet, self._vae, self._tokenizer, self._text = parts.unet, parts.vae, parts.tokenizer, parts.text_encoder
        asked = own | {key: value for key, value in vars(cfg).items() if value is not None}
        self.ensemble = asked["ensemble"]
        self.timestep = self._clamped(asked["timestep"], len(parts.signal) - 1)
        self._signal = float(parts.signal[self.timestep])
        self.size = asked.get("size") or _own_size(spec, self._unet, self._vae)
        whole_grid(spec, self.size, _step(self._unet, self._vae))
        block = _block(spec, self._unet, asked["block"])
        self.stride, self.channels = grid(self._unet, self._vae, block)
        self.settings: dict[str, Any] = {
            "extractor": "diffusion" if noise else "cleandift",
            "size": self.size,
            "block": block,
            "timestep": self.timestep,
            "ensemble": self.ensemble,
        }
        self._stop_after(block)
        latent = self.size // _factor(self._vae)
        room = PASSES[torch.device(device).type] // latent**2
        self._most = min(max(room, 1), MOST_PASSES)  # passes at a time
        self.batch = max(self._most // self.ensemble, 1)
        for module in (self._unet, self._vae, self._text):
            module.to(device)
        for module in (self._unet, self._vae):
            module.to(memory_format=torch.channels_last)

    def __call__(self, images: np.ndarray, seeds: Sequence[int], prompt: str = "") -> torch.Tensor:
        """See `Extractor`; raises CareError when memory does not hold a single pass."""
        import torch

        if len(images) != len(seeds):
            raise ValueError(f"expected a seed for each of {len(images)} crops, got {len(seeds)}")
        with self._lock, torch.no_grad():
            words = self._words(prompt)
            clean = torch.cat([one for _, one in self._in_parts(lambda part: self._latents(images[part]), len(images))])
            noisy = torch.cat([self._noisy(one, seed) for one, seed in zip(clean, seeds, strict=True)])
            side, draws = round(self.size / self.stride), self.ensemble
            sums = torch.zeros((len(images), self.channels, side, side), device=self.device)
            for part, maps in self._in_parts(lambda part: self._up_block(noisy[part], words).float(), len(noisy)):
                for crop in range(part.start // draws, -(-part.stop // draws)):
                    first, end = max(crop * draws, part.start), min((crop + 1) * draws, part.stop)
                    sums[crop] += maps[first - part.start : end - part.start].sum(0)
            return sums / draws

    def _latents(self, images: np.ndarray) -> torch.Tensor:
        """`(B,c,s,s) float32` on the CPU: the mean of what the autoencoder makes of `(B,3,S,S) uint8` RGB."""
        import torch

        pixels = torch.from_numpy(np.ascontiguousarray(images)).to(self.device)
        pixels = (pixels.float() / 127.5 - 1).to(self._vae.dtype, memory_format=torch.channels_last)
        mean = self._vae.encode(pixels).latent_dist.mean.float()
        return ((mean - (self._vae.config.shift_factor or 0)) * self._vae.config.scaling_factor).cpu()

    def _noisy(self, latent: torch.Tensor, seed: int) -> torch.Tensor:
        """`(E,c,s,s) float32`: draws of z_t = sqrt(abar) z_0 + sqrt(1 - abar) eps, by a generator of the crop's own."""
        import torch

        if not self._noise:
            return latent[None]
        generator = torch.Generator("cpu").manual_seed(int(seed))
        noise = torch.stack([torch.randn(latent.shape, generator=generator) for _ in range(self.ensemble)])
        return self._signal**0.5 * latent + (1 - self._signal) ** 0.5 * noise

    def _up_block(self, noisy: torch.Tensor, words: torch.Tensor) -> torch.Tensor:
        """What the wanted up-block answers to latents `(N,c,s,s)`: `(N,C,h,w)`; the U-Net goes no further."""
        import torch

        noisy = noisy.to(self.device, self._unet.dtype, memory_format=torch.channels_last)
        try:
            self._unet(noisy, self.timestep, encoder_hidden_states=words.expand(len(noisy), -1, -1))
        except _Reached as reached:
            return reached.maps
        raise RuntimeError("the U-Net passed over the block at which it should stop")

    def _stop_after(self, block: int) -> None:
        """Let the U-Net's pass end with this up-block's output, and drop what comes behind it."""

        def reached(module: Any, given: Any, maps: torch.Tensor) -> None:
            raise _Reached(maps)

        self._unet.up_blocks = self._unet.up_blocks[: block + 1]
        self._unet.conv_norm_out = self._unet.conv_out = None
        self._unet.up_blocks[block].register_forward_hook(reached)

    def _words(self, prompt: str) -> torch.Tensor:
        """`(1,L,D)`: what the text encoder makes of a prompt, padded and cut as in the model's training."""
        if prompt not in self._prompts:
            length = min(self._tokenizer.model_max_length, self._text.config.max_position_embeddings)
            tokens = self._tokenizer(
                prompt, padding="max_length", max_length=length, truncation=True, return_tensors="pt"
            )
            if len(self._prompts) >= MOST_PROMPTS:
                self._prompts.clear()
            self._prompts[prompt] = self._text(tokens.input_ids.to(self.device))[0].to(self._unet.dtype)
        return self._prompts[prompt]

    def _in_parts(self, work: Callable[[slice], torch.Tensor], count: int) -> Iterator[tuple[slice, torch.Tensor]]:
        """`work` on slices of `count` items, as many at a time as memory holds: each slice and its answer."""
        start = 0
        while start < count:
            part = slice(start, min(start + self._most, count))
            answer = self._try(work, part)
            if answer is None:
                self._lighten(part.stop - part.start)
            else:
                yield part, answer
                start = part.stop

    @staticmethod
    def _try(work: Callable[[slice], torch.Tensor], part: slice) -> torch.Tensor | None:
        """The answer; None when memory ran out, with nothing of the attempt held."""
        try:
            return work(part)
        except (RuntimeError, MemoryError) as error:
            if not _out_of_memory(error):
                raise
            return None

    def _lighten(self, size: int) -> None:
        """A step down the ladder: fewer passes at a time, then attention in slices, then a refusal."""
        import torch

        if size > 1:
            if not self._lightened:
                self._notice(f"Memory of {self.device} is short: fewer passes at a time. Results stay the same.")
            self._lightened, self._most = True, size // 2
            self.batch = max(min(self.batch, self._most // self.ensemble), 1)
        elif not self._sliced:
            self._notice(f"Memory of {self.device} is short: attention in slices, which is slower.")
            self._sliced = True
            self._unet.set_attention_slice("max")
        else:
            raise CareError(
                f"The memory of {self.device} does not hold this model with a single photo of {self.size} px: "
                f"use a smaller --size, stable-diffusion-1-5, or --extractor dinov2-base."
            )
        if self.device != "cpu":
            torch.cuda.empty_cache()

    def _clamped(self, timestep: int, last: int) -> int:
        if timestep > last:
            self._notice(f"Timestep {timestep} is beyond the schedule's last, {last}, which is taken.")
        return min(timestep, last)


class _Reached(Exception):
    """The U-Net has come as far as it is needed."""

    def __init__(self, maps: torch.Tensor):
        super().__init__()
        self.maps = maps


def _precision(spec: ModelSpec, engine: str, precision: str, device: str) -> str:
    """The precision to compute in; CareError for what does not go together."""
    if engine == "openvino":
        raise CareError(f"{spec.name} is a diffusion model, which runs in torch: leave --engine openvino out.")
    _, precision = engines.choose(engine, precision, device)
    if not engines.computes(precision, device):
        raise CareError(f"--precision {precision} is refused: {device} does not compute in it.")
    return precision


def _out_of_memory(error: BaseException) -> bool:
    import torch

    words = str(error).lower()
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or "can't allocate memory" in words


def grid(unet: Any, vae: Any, block: int) -> tuple[float, int]:
    """Stride in px of the photo, and channels, of what an up-block answers."""
    ups = sum(bool(one.upsamplers) for one in unet.up_blocks[: block + 1])
    return float(_step(unet, vae) / 2**ups), int(unet.up_blocks[block].resnets[-1].out_channels)


def _factor(vae: Any) -> int:
    """Pixels of the photo along a side of a latent pixel."""
    return 2 ** (len(vae.config.block_out_channels) - 1)


def _step(unet: Any, vae: Any) -> int:
    """Pixels of the photo along a side of the U-Net's coarsest cell."""
    return _factor(vae) * 2**unet.num_upsamplers


def _own_size(spec: ModelSpec, unet: Any, vae: Any) -> int:
    """The side in px that the model was trained with."""
    side = unet.config.sample_size
    if not isinstance(side, int):
        raise CareError(f"{spec.name} does not say for what size it was made: add --size, e.g. --size 512.")
    return side * _factor(vae)


def _block(spec: ModelSpec, unet: Any, block: int) -> int:
    count = len(unet.up_blocks)
    if not -count <= block < count:
        raise CareError(f"{spec.name} has {count} up-blocks, 0 to {count - 1}, but got --block {block}.")
    return block % count
