"""Phase 1 of CARE and CLIP-ReID: learning words for each animal, for a CLIP that stays as it is.

A prompt reads "A photo of a v_1 .. v_w stoat.", where the v are vectors that stand in for words. In CLIP-ReID they are
learned for each individual; CARE's VDTDG adds what a small network F says of the photo, v_j + F(v_x), so that every
photo has a description of its own. (CARE paper, algorithms 1 and 2; equations 5 and 6 are reconstructed.)
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from care_cli.clip import TextTower, tokenizer
from care_cli.errors import CareError
from care_cli.training.config import TextConfig
from care_cli.training.losses import contrast

SPREAD = 0.02  # of untrained tokens
BEGINNING = "A photo of a"
PAGE = 256  # photos described at once


class Descriptions(nn.Module):
    """What is learned in phase 1: tokens V, and the meta-net F; beside them the words that stand.

    names    (C,) of the individuals, in the text where `cfg.identity` asks for it
    animals  (C,) what they are: "stoat"
    notice   is told of names that CLIP's encoding cannot hold
    """

    def __init__(
        self,
        text: TextTower,
        cfg: TextConfig,
        names: Sequence[str],
        animals: Sequence[str],
        notice: Callable[[str], None] = lambda said: None,
    ):
        super().__init__()
        self.cfg = cfg
        words, ends = prompts(cfg, names, animals, text.context, notice)  # (C, L), (C,)
        with torch.no_grad():
            self.register_buffer("words", text.vectors(words.to(_device(text))).cpu(), persistent=False)
        self.register_buffer("ends", ends, persistent=False)
        self.first = 1 + len(tokenizer().encode(BEGINNING))  # where the tokens begin, behind the start of the text
        owners = 1 if cfg.identity == "text" else len(names)
        self.tokens = nn.Parameter(SPREAD * torch.randn(owners, cfg.tokens, text.width))
        self.meta_net = meta_net(text.dim, text.width, cfg.reduction) if cfg.meta_net else None

    def forward(self, photos: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Prompts `(B, L, width)` of photos `(B, D)`, projected features, and where each ends, `(B,) int64`."""
        tokens = self.tokens[torch.zeros_like(labels) if len(self.tokens) == 1 else labels]  # (B, w, width)
        if self.meta_net is not None:
            tokens = tokens + self.meta_net(F.normalize(photos))[:, None]
        words = self.words[labels]
        after = self.first + self.cfg.tokens
        return torch.cat([words[:, : self.first], tokens, words[:, after:]], 1), self.ends[labels]


def meta_net(width: int, out: int, reduction: int) -> nn.Sequential:
    """F(v) = W2 ReLU(W1 v + b1) + b2, as CoCoOp's (Zhou et al. 2022)."""
    hidden = max(1, width // reduction)
    return nn.Sequential(nn.Linear(width, hidden), nn.ReLU(), nn.Linear(hidden, out))


def prompts(
    cfg: TextConfig, names: Sequence[str], animals: Sequence[str], context: int, notice: Callable[[str], None]
) -> tuple[Tensor, Tensor]:
    """Each individual's prompt in CLIP's tokens `(C, L) int64`, 0 behind its end and for what is learned, and where it
    ends `(C,) int64`. An identity's name stands before the full stop; one too long for the context is cut."""
    encoder = tokenizer()
    start = [encoder.sot_token_id, *encoder.encode(BEGINNING), *[0] * cfg.tokens]
    stop = [*encoder.encode("."), encoder.eot_token_id]
    room = context - len(start) - len(stop)
    if room < 1:
        raise CareError(f"text.tokens of {cfg.tokens} leave no room for words in CLIP's {context}: take fewer.")
    rows, cut = [], []
    for name, animal in zip(names, animals, strict=True):
        said = encoder.encode(animal.lower())[:room]
        if cfg.identity != "context":
            said += encoder.encode(name)
        if len(said) > room:
            cut.append(name)
        rows.append([*start, *said[:room], *stop])
    if cut:
        notice(f"{len(cut)} names are too long for CLIP's {context} tokens and are cut, that of {cut[0]!r} first.")
    if cfg.identity == "text" and (same := len(rows) - len(set(map(tuple, rows)))):
        notice(f"{same} names read like others in CLIP's tokens: text.identity=context tells them apart.")
    length = max(map(len, rows))
    return (
        torch.tensor([[*row, *[0] * (length - len(row))] for row in rows]),
        torch.tensor([len(row) - 1 for row in rows]),
    )


class Describer(nn.Module):
    """Descriptions under L_VDTDG = L_img2txt + L_txt2img; `text` is used and never updated."""

    def __init__(self, descriptions: Descriptions, text: TextTower):
        super().__init__()
        self.embedder = descriptions
        self._similarity = how_similar(descriptions.cfg, text)
        self._text = (text,)  # a tuple, so that the frozen tower is no part of what is learned and saved

    def forward(self, photos: Tensor, points: Tensor | None, labels: Tensor) -> dict[str, Tensor]:
        """Terms of the loss by name, of the photos' projected features `(B, D)` and their labels `(B,)`."""
        text = self._text[0].to(photos.device)
        described = text(*self.embedder(photos, labels))
        scale, unit = self._similarity
        with torch.autocast(photos.device.type, enabled=False):  # differences of near products are delicate
            described = described.float()
            if unit:
                photos, described = F.normalize(photos), F.normalize(described)
            return {
                "image_to_text": contrast(photos, described, labels, scale=scale),
                "text_to_image": contrast(described, photos, labels, scale=scale),
            }

    def finished(self) -> nn.Module:
        """A copy of what was learned."""
        return copy.deepcopy(self.embedder).eval()


def how_similar(cfg: TextConfig, text: TextTower) -> tuple[float, bool]:
    """With what products are multiplied, and whether they are of vectors of length 1."""
    return {"clip": (text.scale, True), "cosine": (1.0, True), "dot": (1.0, False)}[cfg.similarity]


def fused(
    descriptions: Descriptions, text: TextTower, photos: np.ndarray, labels: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Texts of all photos `(N, D) float32`, and each individual's prototype `(C, D)`, their mean (algorithm 2).

    photos  (N, D) float32, projected features
    labels  (N,) int64; row c of the prototypes is individual c
    """
    device = _device(text)
    descriptions = descriptions.to(device)
    texts = []
    with torch.inference_mode():
        for rows in np.array_split(np.arange(len(labels)), -(-len(labels) // PAGE)):
            seen, whose = (torch.from_numpy(some[rows]).to(device) for some in (photos, labels))
            texts.append(text(*descriptions(seen, whose)).float().cpu().numpy())
    found = np.concatenate(texts)
    if descriptions.cfg.normalize_first:
        found = found / np.linalg.norm(found, axis=1, keepdims=True)
    bank = np.stack([found[labels == one].mean(0) for one in range(int(labels.max()) + 1)])
    return found, bank.astype(np.float32)


def _device(text: TextTower) -> torch.device:
    return text.clip.text_projection.device
