"""Phase 2 of CARE and CLIP-ReID, and all of CLIP-FT: an image tower learns to keep each animal by its prototype.

Algorithm 3 of the CARE paper; equations 8 to 10 are reconstructed (ALGORITHMS, section 5.3).
"""

from __future__ import annotations

import copy

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from care_cli.clip import ImageTower
from care_cli.geometry import sides
from care_cli.side_information import SideInformation
from care_cli.training.config import TrainConfig
from care_cli.training.heads import Heads, check_weights
from care_cli.training.losses import batch_hard


class Prototypes(nn.Module):
    """What the text side says of each individual, frozen: T_Bank, and how photos are compared with it.

    bank   (C, D) float32, a row an individual that is learned from
    scale  of the products
    unit   rows and photos are of length 1 before they are compared
    """

    def __init__(self, bank: Tensor, scale: float, unit: bool):
        super().__init__()
        self.register_buffer("bank", F.normalize(bank.float()) if unit else bank.float())
        self.scale, self.unit = scale, unit

    def forward(self, projected: Tensor) -> Tensor:
        """Similarities `(B, C) float32` of photos `(B, D)` to all prototypes."""
        projected = projected.float()
        return self.scale * (F.normalize(projected) if self.unit else projected) @ self.bank.T


class Aligned(nn.Module):
    """An image tower under L = w1 L_id + w2 L_tri + w3 L_i2pCon.

    L_id      cross-entropy of smoothed labels, of a linear classifier behind a batch norm, on f and on v
    L_tri     batch-hard triplets on the class token before the last block, on f and on v, not normalised
    L_i2pCon  cross-entropy over similarities of v to the individuals' prototypes, its labels smoothed by their own
              share where one is set, else as those of L_id

    classes     C, individuals that are learned from
    prototypes  None: without a text side
    """

    def __init__(
        self, cfg: TrainConfig, classes: int, tower: ImageTower | SideInformation, prototypes: Prototypes | None = None
    ):
        super().__init__()
        check_weights(cfg.class_weight, cfg.triplet_weight, cfg.prototype_weight if prototypes else 0.0)
        self.cfg, self.embedder, self.prototypes = cfg, tower, prototypes
        with torch.no_grad():
            seen = tower.eval().features(torch.zeros(1, 3, *sides(cfg.input_size)))
        dims = seen.whole.shape[1], seen.projected.shape[1]
        self.heads = Heads(dims, classes) if cfg.class_weight else None

    def forward(self, images: Tensor, beside: Tensor | None, labels: Tensor) -> dict[str, Tensor]:
        """Weighted terms of the loss by name, as `methods.Learner.forward`."""
        cfg, terms = self.cfg, {}
        seen = self.embedder.features(images) if beside is None else self.embedder.features(images, beside)
        with torch.autocast(images.device.type, enabled=False):  # a batch's statistics and distances are delicate
            both = seen.whole.float(), seen.projected.float()
            if self.heads is not None:
                terms["class"] = cfg.class_weight * sum(self.heads(both, labels, cfg.smoothing))
            if cfg.triplet_weight:
                of_stages = [batch_hard(x, labels, margin=cfg.triplet_margin) for x in (seen.early, *both)]
                terms["triplet"] = cfg.triplet_weight * sum(of_stages)
            if self.prototypes is not None and cfg.prototype_weight:
                smoothing = cfg.smoothing if cfg.prototype_smoothing is None else cfg.prototype_smoothing
                loss = F.cross_entropy(self.prototypes(seen.projected), labels, label_smoothing=smoothing)
                terms["prototype"] = cfg.prototype_weight * loss
        return terms

    def finished(self) -> nn.Module:
        """A copy of the image tower for use; necks and classifiers stay behind."""
        return copy.deepcopy(self.embedder).eval()
