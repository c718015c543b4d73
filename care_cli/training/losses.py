"""Losses of re-identification: functions from embeddings and labels to a scalar."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def arcface(embeddings: Tensor, labels: Tensor, centres: Tensor, *, scale: float = 64.0, margin: float = 0.5) -> Tensor:
    """Softmax cross-entropy over angles, the angle to the own centre widened by `margin` radians.

    embeddings  (B, D) float, of any length: normalised here
    labels      (B,) int64, rows of `centres`
    centres     (C, D) float, one learned direction a class, normalised here
    returns     () float32, mean over the batch

    Where angle + margin would pass pi, cos stops falling; there the penalty goes on linearly
    (cos - margin * sin(margin)), as ArcFace's authors do, so that the loss stays monotone in the angle.
    """
    cosine = F.normalize(embeddings.float()) @ F.normalize(centres.float()).T  # (B, C)
    own = cosine.gather(1, labels[:, None]).clamp(-1 + 1e-6, 1 - 1e-6)  # (B, 1)
    widened = own * math.cos(margin) - (1 - own**2).sqrt() * math.sin(margin)
    widened = torch.where(own > math.cos(math.pi - margin), widened, own - margin * math.sin(margin))
    return F.cross_entropy(scale * cosine.scatter(1, labels[:, None], widened), labels)


def triplet(embeddings: Tensor, labels: Tensor, *, margin: float | None = 0.2) -> Tensor:
    """Triplet loss on squared distances of unit vectors, with semi-hard negatives.

    For every anchor and every other member of its class, the negative is the nearest one that is farther
    than the positive; where none is farther, the farthest one of all (FaceNet's mining, batch-wise).

    embeddings  (B, D) float, normalised here
    labels      (B,) int64
    margin      None: log(1 + exp(d(a,p) - d(a,n))), the soft margin
    returns     () float32: mean of max(0, d(a,p) - d(a,n) + margin) over all pairs of anchor and positive;
                zero when no anchor has both a positive and a negative
    """
    unit = F.normalize(embeddings.float())
    distance = (2 - 2 * unit @ unit.T).clamp(min=0)  # (B, B) squared Euclidean
    same = labels[:, None] == labels[None]
    positive = same & ~torch.eye(len(labels), dtype=torch.bool, device=labels.device)
    anchor, partner = (positive & (~same).any(1, keepdim=True)).nonzero(as_tuple=True)  # (T,), (T,)
    if not len(anchor):
        return embeddings.sum() * 0.0
    to_positive = distance[anchor, partner]  # (T,)
    to_negatives = distance[anchor].masked_fill(same[anchor], -1.0)  # (T, B), -1 where the class is the same
    farther = to_negatives.masked_fill(to_negatives <= to_positive[:, None], float("inf")).amin(1)
    chosen = torch.where(farther.isinf(), to_negatives.amax(1), farther)
    return _penalty(to_positive - chosen, margin)


def batch_hard(features: Tensor, labels: Tensor, *, margin: float | None = 0.3) -> Tensor:
    """Triplet loss on Euclidean distances, of the farthest photo of the own class and the nearest of another.

    Hermans et al. 2017, equation 5; equation 9 of the CARE paper as reconstructed.

    features  (B, D) float, not normalised here
    labels    (B,) int64
    margin    None: log(1 + exp(d(a,p) - d(a,n))), the soft margin
    returns   () float32: mean over the anchors that have both; zero when none has
    """
    features = features.float()
    distance = ((features[:, None] - features[None]) ** 2).sum(-1).clamp(min=1e-12).sqrt()  # (B, B)
    same = labels[:, None] == labels[None]
    partner = same & ~torch.eye(len(labels), dtype=torch.bool, device=labels.device)
    anchors = partner.any(1) & (~same).any(1)
    if not anchors.any():
        return features.sum() * 0.0
    farthest = distance.masked_fill(~partner, -math.inf).amax(1)[anchors]
    nearest = distance.masked_fill(same, math.inf).amin(1)[anchors]
    return _penalty(farthest - nearest, margin)


def contrast(rows: Tensor, columns: Tensor, labels: Tensor, *, scale: float = 1.0) -> Tensor:
    """Each row tells the columns of its own class from all others of the batch: equations 5 and 6 of the CARE paper.

    -1/B sum_i 1/|P(i)| sum_{p in P(i)} log(exp(s(x_i, y_p)) / sum_a exp(s(x_i, y_a))), s the scaled product.

    rows, columns  (B, D) float; of length 1 where s is to be a cosine
    labels         (B,) int64, of both; P(i) are the columns of row i's class, i among them
    returns        () float32
    """
    likely = F.log_softmax(scale * rows.float() @ columns.float().T, dim=1)  # (B, B)
    same = (labels[:, None] == labels[None]).float()
    return -((same * likely).sum(1) / same.sum(1)).mean()


def _penalty(excess: Tensor, margin: float | None) -> Tensor:
    """Mean over triplets of how much farther the positive is than the negative, `excess (T,)`, from a margin on."""
    return (F.softplus(excess) if margin is None else F.relu(excess + margin)).mean()
