"""A plain version of DIFT's reference procedure (Tang et al. 2023), written from its description, for comparison.

One photo at a time: it is squashed to the network's size and repeated for an ensemble; the repetitions are encoded to
samples of their latents, noised to one timestep in one batch, and go through the U-Net up to an up-block, whose outputs
are averaged. To find a point the maps of both photos are up-sampled to the size of the input, and the cosine with the
reference's descriptor at the point's pixel is highest where the point is. All in float32, the noise as it falls.
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import numpy as np
from PIL import Image

BLOCK, TIMESTEP, ENSEMBLE = 1, 261, 8


class PlainDift:
    """The procedure with the weights of a folder in diffusers' form."""

    def __init__(
        self,
        folder: Path,
        size: int,
        prompt: str,
        device: str = "cpu",
        *,
        block: int = BLOCK,
        timestep: int = TIMESTEP,
        ensemble: int = ENSEMBLE,
    ):
        import torch
        from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
        from transformers import CLIPTextModel, CLIPTokenizer

        def part(name: str, make, **options):
            fp16 = {"variant": "fp16"} if any((folder / name).glob("*.fp16.safetensors")) else {}
            return make.from_pretrained(folder / name, local_files_only=True, **options, **fp16).to(device).eval()

        self.vae = part("vae", AutoencoderKL, torch_dtype=torch.float32)
        self.unet = part("unet", UNet2DConditionModel, torch_dtype=torch.float32)
        self.text = part("text_encoder", CLIPTextModel, dtype=torch.float32)
        self.vae.decoder = None
        self.tokenizer = CLIPTokenizer.from_pretrained(folder / "tokenizer", local_files_only=True)
        self.schedule = DDIMScheduler.from_pretrained(folder / "scheduler", local_files_only=True)
        self.size, self.prompt, self.device, self.timestep, self.ensemble = size, prompt, device, timestep, ensemble
        self._output = None
        self.unet.up_blocks[block].register_forward_hook(self._keep)

    def _keep(self, module, given, output) -> None:
        self._output = output
        raise _Reached

    def features(self, image: Image.Image):
        """Features `(1,C,h,w)` of a photo."""
        import torch

        squashed = image.convert("RGB").resize((self.size, self.size))
        pixels = torch.from_numpy(np.asarray(squashed) / 127.5 - 1).float().permute(2, 0, 1)
        pixels = pixels[None].repeat(self.ensemble, 1, 1, 1).to(self.device)
        with torch.no_grad():
            tokens = self.tokenizer(
                self.prompt, padding="max_length", max_length=self.text.config.max_position_embeddings,
                truncation=True, return_tensors="pt",
            )  # fmt: skip
            words = self.text(tokens.input_ids.to(self.device))[0].repeat(self.ensemble, 1, 1)
            latents = self.vae.encode(pixels).latent_dist.sample() * self.vae.config.scaling_factor
            timestep = torch.tensor(self.timestep, device=self.device)
            noisy = self.schedule.add_noise(latents, torch.randn_like(latents), timestep)
            with suppress(_Reached):  # what is behind the block is not computed
                self.unet(noisy, timestep, encoder_hidden_states=words)
        return self._output.mean(0, keepdim=True)


class _Reached(Exception):
    """The up-block has answered."""


def describe(features, kp_input: np.ndarray, size: int):
    """Descriptors `(K,C)` of a photo with `features (1,C,h,w)` at the pixels of points `(K,2)`, xy px of the input."""
    from torch.nn.functional import interpolate

    whole = interpolate(features, (size, size), mode="bilinear")[0]
    columns, rows = np.clip(kp_input, 0, size - 1).astype(int).T
    return whole[:, rows, columns].T


def find(descriptors, features, size: int) -> np.ndarray:
    """Points `(K,2)` xy px of the input that look like the descriptors `(K,C)`, in a photo of `features (1,C,h,w)`."""
    from torch.nn.functional import cosine_similarity, interpolate

    whole = interpolate(features, (size, size), mode="bilinear")[0]
    found = []
    for descriptor in descriptors:
        row, column = divmod(int(cosine_similarity(descriptor[:, None, None], whole, dim=0).argmax()), size)
        found.append((column + 0.5, row + 0.5))
    return np.array(found)
