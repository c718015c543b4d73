"""AdaFreq (Li et al. 2024, ECCV): a second look at a photo's fine detail, where the first look found the animal.

Each photo goes through the transformer twice. First as it is. Then its high frequencies, mixed with some of its own
spectrum, and of them only those patches that the class token attended to most: the animal's coat rather than the
grass. Both looks learn to tell animals apart, and to see the same in the same patch. In use there is the first alone.

What the release does otherwise than the paper says is not repeated here. Its class token is appended behind the
patches in the second pass, so that what it takes for it there is a patch: here it stays first. Its patches are off by
one, as they are counted with and without the class token: here they are counted without. Its smooth L1 is a sum over
the batch: here a mean. Its filter is one bin off the spectrum's middle, mixes spectra of different scale, rounds to
bytes, and runs in NumPy, photo by photo: here it is torch's FFT of the batch. Reconstructed: positions of the second
pass are of places, not of ranks, and the mixed picture, stretched to 0..1, is normalised as every photo is.
"""

from __future__ import annotations

import copy

import torch
import torch.nn.functional as F
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from care_cli import backbones
from care_cli.overlapping_vit import entering, through
from care_cli.records import Scheme
from care_cli.training import methods, plain_vits
from care_cli.training.batches import normalised
from care_cli.training.config import TrainConfig
from care_cli.training.heads import Heads, check_weights
from care_cli.training.losses import batch_hard
from care_cli.training.plain_vits import BACKBONE, PRESETS, WEIGHTS, architecture

__all__ = ["BACKBONE", "PRESETS", "RECIPE", "WEIGHTS", "architecture", "learner"]

RECIPE = plain_vits.RECIPE | plain_vits.schedule(learning_rate=0.01, epochs=150.0) | {
    "augmentation": plain_vits.FLANKS, "individuals": 8, "class_weight": 0.9, "triplet_weight": 0.7,
}  # fmt: skip

GREY = (0.299, 0.587, 0.114)  # of red, green and blue (ITU-R BT.601)
MIXED = 0.5  # most of the spectrum's area that its rectangle, unclipped, leaves out
FLAT = 1e-6  # added to a picture's range, so that one without any is not blown up


class AdaFreq(nn.Module):
    """A transformer under L = w1 CE_o + w2 CE_h + w3 Tri_o + w4 Tri_h + w5 L1; o is the first look, h the second.

    CE   cross-entropy of a linear classifier behind a batch norm, of each look its own
    Tri  batch-hard triplets with a soft margin, before the batch norm, not normalised
    L1   smooth L1 between both looks' patch tokens behind the last norm

    classes  C, individuals that are learned from
    """

    def __init__(self, cfg: TrainConfig, classes: int, embedder: VisionTransformer):
        super().__init__()
        how = cfg.frequency
        check_weights(cfg.class_weight, cfg.triplet_weight, how.class_weight, how.triplet_weight)
        self.cfg, self.embedder = cfg, embedder
        places = embedder.num_prefix_tokens + embedder.patch_embed.num_patches
        self.positions = nn.Parameter(torch.zeros(1, places, embedder.embed_dim))  # of the second look
        self.heads = Heads([embedder.embed_dim] * 2, classes)
        self.finished()  # a neck that cannot be folded away is refused now, not when all is learned

    def forward(self, images: Tensor, beside: Tensor | None, labels: Tensor) -> dict[str, Tensor]:
        """Weighted terms of the loss by name, as `methods.Learner.forward`."""
        vit, how, prefix = self.embedder, self.cfg.frequency, self.embedder.num_prefix_tokens

        # the first look, at the photo as it is: what does the class token attend to in the last block?
        tokens = through(vit, vit.blocks[:-1], entering(vit, images))
        chosen = most_attended(vit, tokens, how.tokens)  # (B, n)
        seen = vit.norm(through(vit, vit.blocks[-1:], tokens))  # (B, prefix + N, D)

        # the second look, at its detail there, with the same weights
        again = vit.norm(through(vit, vit.blocks, self.entering_again(self.detail(images), chosen)))

        with torch.autocast(images.device.type, enabled=False):  # a batch's statistics and distances are delicate
            seen, again = seen.float(), again.float()
            alike = F.smooth_l1_loss(_of(seen[:, prefix:], chosen), again[:, prefix:])
            return self.terms(seen[:, 0], again[:, 0], labels) | {"alike": how.alike_weight * alike}

    def terms(self, seen: Tensor, again: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """The loss of both looks' class tokens, each `(B, D)`, term by term."""
        cfg, how = self.cfg, self.cfg.frequency
        entropies = self.heads((seen, again), labels, cfg.smoothing)
        triplets = [batch_hard(x, labels, margin=cfg.triplet_margin) for x in (seen, again)]
        return {
            "class": cfg.class_weight * entropies[0],
            "class_detail": how.class_weight * entropies[1],
            "triplet": cfg.triplet_weight * triplets[0],
            "triplet_detail": how.triplet_weight * triplets[1],
        }

    @torch.no_grad()
    def detail(self, images: Tensor) -> Tensor:
        """High-frequency pictures `(B, 3, H, W)` of photos, normalised as these are; what is mixed in is drawn."""
        with torch.autocast(images.device.type, enabled=False):  # FFTs want float32
            mean, std = (torch.tensor(values, device=images.device) for values in (self.cfg.mean, self.cfg.std))
            photos = images.float() * std[:, None, None] + mean[:, None, None]
            grey = torch.einsum("bchw,c->bhw", photos, torch.tensor(GREY, device=images.device))
            mixed = mix(grey, rectangles(*grey.shape).to(images.device), self.cfg.frequency.cutoff)
            low, high = mixed.amin((1, 2), keepdim=True), mixed.amax((1, 2), keepdim=True)
            return normalised(((mixed - low) / (high - low + FLAT))[:, None].expand(-1, 3, -1, -1), self.cfg)

    def entering_again(self, images: Tensor, chosen: Tensor) -> Tensor:
        """Tokens `(B, prefix + n, D)` of the second look as the first block takes them.

        chosen  (B, n) int64, patches, rows of the grid in turn. The class token stays first, as the blocks know it.
        """
        vit, prefix = self.embedder, self.embedder.num_prefix_tokens
        first = [token for token in (vit.cls_token, vit.reg_token) if token is not None]
        first = torch.cat(first, 1) + self.positions[:, :prefix]
        places = self.positions[:, prefix:].expand(len(images), -1, -1)
        patches = _of(vit.patch_embed(images) + places, chosen)
        return vit.norm_pre(vit.pos_drop(torch.cat([first.expand(len(images), -1, -1), patches], 1)))

    def finished(self) -> nn.Module:
        """A copy of the transformer for use, in eval mode: the first look's batch norm folded into it."""
        embedder = copy.deepcopy(self.embedder).eval()
        backbones.fold_neck(embedder, self.heads.necks[0])
        return embedder


@torch.no_grad()
def most_attended(vit: VisionTransformer, tokens: Tensor, count: int) -> Tensor:
    """The `count` patches `(B, n) int64`, ascending, that the class token attends to most in the last block.

    tokens  (B, prefix + N, D) as that block takes them; attention is averaged over heads
    """
    block = vit.blocks[-1]
    attention = block.attn
    with torch.autocast(tokens.device.type, enabled=False):
        qkv = attention.qkv(block.norm1(tokens.float())).unflatten(2, (3, attention.num_heads, attention.head_dim))
        query, key = attention.q_norm(qkv[:, 0, 0]), attention.k_norm(qkv[:, :, 1])  # (B, h, d), (B, T, h, d)
        weights = (attention.scale * torch.einsum("bhd,bthd->bht", query, key)).softmax(2).mean(1)  # (B, T)
    patches = weights[:, vit.num_prefix_tokens :]
    return patches.topk(min(count, patches.shape[1])).indices.sort(1).values


def mix(grey: Tensor, inside: Tensor, cutoff: float) -> Tensor:
    """Pictures `(B, H, W) float32` without their low frequencies, but for those in a rectangle of the spectrum.

    grey    (B, H, W) float32
    inside  (B, H, W) bool: where the spectrum stays, frequency 0 at (H // 2, W // 2)
    cutoff  D of the filter 1 - exp(-r^2 / 2 D^2), r the distance from frequency 0 in periods a picture

    A rectangle on one side of frequency 0 alone would make a picture complex: its real part is taken.
    """
    spectrum = torch.fft.fftshift(torch.fft.fft2(grey), (1, 2))
    kept = torch.where(inside, spectrum, spectrum * high_pass(*grey.shape[1:], cutoff).to(grey.device))
    return torch.fft.ifft2(torch.fft.ifftshift(kept, (1, 2))).real


def high_pass(height: int, width: int, cutoff: float) -> Tensor:
    """The filter `(H, W) float32`, frequency 0 at (H // 2, W // 2)."""
    rows, columns = (torch.arange(side) - side // 2 for side in (height, width))
    return 1 - torch.exp(-(rows[:, None] ** 2 + columns**2) / (2 * cutoff**2))


def rectangles(count: int, height: int, width: int) -> Tensor:
    """A random rectangle of each spectrum, `(B, H, W) bool`, drawn from torch's generator of the CPU.

    As CutMix cuts it: its sides are sqrt(1 - l) of the spectrum's, l uniform in 0..MIXED, its centre is anywhere, and
    it is clipped.
    """
    drawn = torch.rand(count, 3)
    share = (1 - MIXED * drawn[:, 0]).sqrt()
    within = []
    for place, side in ((drawn[:, 1], height), (drawn[:, 2], width)):
        centre, half = (place * side).floor()[:, None], (share * side).floor().div(2, rounding_mode="floor")[:, None]
        within.append((torch.arange(side) >= centre - half) & (torch.arange(side) < centre + half))
    return within[0][:, :, None] & within[1][:, None]


def learner(cfg: TrainConfig, classes: int, scheme: Scheme | None) -> AdaFreq:
    """A transformer under both looks' losses."""
    return AdaFreq(cfg, classes, methods.plain(cfg))


def _of(patches: Tensor, chosen: Tensor) -> Tensor:
    """Some patches `(B, n, D)` of `patches (B, N, D)`."""
    return patches.gather(1, chosen[..., None].expand(-1, -1, patches.shape[2]))
