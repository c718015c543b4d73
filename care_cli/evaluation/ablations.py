"""The CKPE paper's ablations as data: what each cell of a table is made of, and what the paper prints for it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from care_cli.evaluation.published import cells as printed

DATASET = "MacaqueFaces"  # of which the paper's ablations are
TIMESTEPS = (0, 50, 100, 150, 200, 250, 300, 500, 1000)
LARGEST_TIMESTEP = 999  # of the noise that diffusion models know; the paper prints 1000
COUNTS = (1, 3, 6, 10)
SOURCES = {  # -> how such a template is made
    "expert": "care templates add NAME --crop ID --points FILE",
    "vlm": "care templates add NAME --crop ID --vlm-url URL --vlm-model MODEL, a vision-language model",
    "gradcam-resnet": "care templates add NAME --crop ID --gradcam timm:resnet50 --weights FILE",
    "gradcam-vit": "care templates add NAME --crop ID --gradcam timm:VIT --weights FILE",
    "random": "care templates add NAME --crop ID --random 10",
}


@dataclass(frozen=True)
class Cell:
    """One model to be trained and examined, for several seeds."""

    size: str  # of the backbone, a preset of training
    variant: str  # what the ablation varies, in a word
    method: str = "ckpe"
    source: str | None = "expert"  # of the template whose points are carried; None: no points
    count: int | None = None  # points that are seen, the template's first; None: all
    timestep: int | None = None  # of the features that carry them; None: the extractor's own
    paper: tuple[int, str] | None = None  # table, and what its column is called in published.toml

    @property
    def published(self) -> float | None:
        """The paper's top-1 of this cell, a share; None where it has none."""
        figure = printed("ckpe", self.paper[0], DATASET).get(self.paper[1]) if self.paper else None
        return figure["top1"] / 100 if figure else None


@dataclass(frozen=True)
class Ablation:
    """A question, the backbones that the paper asks it of, and its cells for one size."""

    about: str
    sizes: tuple[str, ...]
    cells: Callable[[str], list[Cell]]


def _sources(size: str) -> list[Cell]:
    return [
        Cell(size, source, source=source, paper=(2, source) if size == "large" else None)
        for source in ("gradcam-resnet", "gradcam-vit", "expert", "vlm", "random")
    ]


def _timesteps(size: str) -> list[Cell]:
    return [
        Cell(size, f"t = {t}", timestep=min(t, LARGEST_TIMESTEP), paper=(3, str(t)) if size == "large" else None)
        for t in TIMESTEPS
    ]


def _methods(size: str) -> list[Cell]:
    methods = {"none": "vit", "kpe": "kpe", "ckpe": "ckpe"}
    return [
        Cell(size, name, method, source=None if name == "none" else "expert", paper=(4, f"{size}, {name}"))
        for name, method in methods.items()
    ]


def _counts(size: str) -> list[Cell]:
    return [Cell(size, f"K = {count}", count=count, paper=(5, f"{size}, {count}")) for count in COUNTS]


def _random(size: str) -> list[Cell]:
    return [
        Cell(size, f"{word} x {count}", source=source, count=count, paper=(table, f"{size}, {word}"))
        for table, count, words in ((6, 1, ("random", "keypoint")), (7, 3, ("random", "keypoints")))
        for source, word in zip(("random", "expert"), words, strict=True)
    ]


SCALES = ("base", "large", "huge")
ABLATIONS = {
    "keypoint-source": Ablation("where a template's points come from", ("large",), _sources),
    "timestep": Ablation("how much noise is added before points are carried", ("large",), _timesteps),
    "scale": Ablation("the backbone's size, without points, with KPE and with CKPE", SCALES, _methods),
    "keypoints": Ablation("how many points are seen", SCALES, _counts),
    "random": Ablation("keypoints against random points", SCALES, _random),
}
