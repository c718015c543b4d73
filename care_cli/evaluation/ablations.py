"""The papers' ablations as data: what each cell of a table is made of, and what the paper prints for it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from care_cli.evaluation.published import cells as printed

MACAQUES = "MacaqueFaces"  # of which the CKPE paper's ablations are
TIMESTEPS = (0, 50, 100, 150, 200, 250, 300, 500, 1000)
LARGEST_TIMESTEP = 999  # of the noise that diffusion models know; the paper prints 1000
COUNTS = (1, 3, 6, 10)
TOKENS = (2, 4, 8, 16)
MARGINS = (0.1, 0.3, 0.5, 0.7, 0.9)
SOURCES = {  # -> how such a template is made
    "expert": "care templates add NAME --crop ID --points FILE",
    "vlm": "care templates add NAME --crop ID --vlm-url URL --vlm-model MODEL, a vision-language model",
    "gradcam-resnet": "care templates add NAME --crop ID --gradcam timm:resnet50 --weights FILE",
    "gradcam-vit": "care templates add NAME --crop ID --gradcam timm:VIT --weights FILE",
    "random": "care templates add NAME --crop ID --random 10",
}
OWN = "own"  # the backbone that a method comes with
BEGINNINGS = {  # of a backbone as the papers have it -> the weights that it begins from
    "base": "vit-base",
    "large": "vit-large",
    "huge": "vit-huge",
    OWN: "clip-vit-b-16",
}


@dataclass(frozen=True)
class Cell:
    """One model to be trained and examined, for several seeds; or examined as it is."""

    size: str  # of the backbone: a preset of training, timm's name, or OWN
    variant: str  # what the ablation varies, in a word
    method: str | None = "ckpe"  # None: nothing is trained, `begins` is examined
    source: str | None = None  # of the template whose points are carried; None: no points
    count: int | None = None  # points that are seen, the template's first; None: all
    timestep: int | None = None  # of the features that carry them; None: the extractor's own
    settings: Mapping[str, Any] = field(default_factory=dict)  # of the training, beside the method's own
    paper: tuple[str, int | None, str] | None = None  # paper, table, and what its column is called in published.toml
    begins: str | None = None  # weights that the paper begins from, a model's name; None: it does not say

    @property
    def backbone(self) -> str | None:
        """As a training is told; None: the method's own."""
        return None if self.size == OWN else self.size

    def published(self, dataset: str | None) -> dict[str, float] | None:
        """The paper's figures of this cell for a data set by metric (with `_half`), shares; None where it has none."""
        figures = printed(*self.paper[:2], dataset).get(self.paper[2]) if self.paper and dataset else None
        return {name: value / 100 for name, value in figures.items()} if figures else None


@dataclass(frozen=True)
class Ablation:
    """A question, the backbones that the paper asks it of, and its cells for one size."""

    about: str
    sizes: tuple[str, ...]
    cells: Callable[[str], list[Cell]]
    dataset: str | None = MACAQUES  # of which its figures are; None: of several, the one that is at hand


def _ckpe(size: str, variant: str, table: int | None, column: str, **made: Any) -> Cell:
    """A cell of the CKPE paper."""
    paper = ("ckpe", table, column) if table is not None else None
    points = {} if made.get("method") == "vit" else {"source": "expert"}
    return Cell(size, variant, **(points | {"paper": paper, "begins": BEGINNINGS.get(size)} | made))


def _sources(size: str) -> list[Cell]:
    return [
        _ckpe(size, source, 2 if size == "large" and source != "random" else None, source, source=source)
        for source in ("gradcam-resnet", "gradcam-vit", "expert", "vlm", "random")
    ]


def _timesteps(size: str) -> list[Cell]:
    return [
        _ckpe(size, f"t = {t}", 3 if size == "large" else None, str(t), timestep=min(t, LARGEST_TIMESTEP))
        for t in TIMESTEPS
    ]


def _methods(size: str) -> list[Cell]:
    methods = {"none": "vit", "kpe": "kpe", "ckpe": "ckpe"}
    return [_ckpe(size, name, 4, f"{size}, {name}", method=method) for name, method in methods.items()]


def _counts(size: str) -> list[Cell]:
    return [_ckpe(size, f"K = {count}", 5, f"{size}, {count}", count=count) for count in COUNTS]


def _random(size: str) -> list[Cell]:
    return [
        _ckpe(size, f"{word} x {count}", table, f"{size}, {word}", source=source, count=count)
        for table, count, words in ((6, 1, ("random", "keypoint")), (7, 3, ("random", "keypoints")))
        for source, word in zip(("random", "expert"), words, strict=True)
    ]


def _care(size: str, table: int, variant: str, **settings: Any) -> Cell:
    """A cell of the CARE paper."""
    begins = BEGINNINGS.get(size)
    return Cell(size, variant, "care", settings=settings, paper=("care", table, variant), begins=begins)


def _tokens(size: str) -> list[Cell]:
    return [_care(size, 1, f"w = {count}", **{"text.tokens": count}) for count in TOKENS]


def _margins(size: str) -> list[Cell]:
    return [_care(size, 2, f"margin {margin}", triplet_margin=margin) for margin in MARGINS]


SCALES = ("base", "large", "huge")
ABLATIONS = {
    "keypoint-source": Ablation("where a template's points come from", ("large",), _sources),
    "timestep": Ablation("how much noise is added before points are carried", ("large",), _timesteps),
    "scale": Ablation("the backbone's size, without points, with KPE and with CKPE", SCALES, _methods),
    "keypoints": Ablation("how many points are seen", SCALES, _counts),
    "random": Ablation("keypoints against random points", SCALES, _random),
    "tokens": Ablation("how many learnable tokens w CARE's descriptions have", (OWN,), _tokens, None),
    "margin": Ablation("the margin of CARE's triplet loss", (OWN,), _margins, None),
}
