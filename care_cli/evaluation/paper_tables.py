"""The papers' tables as data: data sets that are rows, and cells that are columns."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from care_cli.evaluation.ablations import ABLATIONS, BEGINNINGS, MACAQUES, OWN, Cell
from care_cli.evaluation.published import published

PAPERS = ("care", "ckpe")
METHODS = "methods"  # the comparison of methods whose table the CARE paper's text at hand does not hold
PUBLIC_STOATS = "MetaWildStoat"  # its authors', beside the paper's own, which are not published
CARE_SETS = (
    *(name for name, about in published()["datasets"].items() if about.get("paper") == "care"),
    PUBLIC_STOATS,
)
CKPE_SETS = ("MacaqueFaces", "Giraffes", "IPanda50", "CTai")
SWIN = "swin_base_patch4_window7_224"

# presets of the method care, by data set: the CARE paper's learning rate, batch and epochs
SCHEDULES = {
    "ATRW": "tiger", "FriesianCattle2017": "cattle", "LionData": "lion", "MPDD": "dog", "IPanda50": "panda",
    "NyalaData": "nyala", "SeaStarReID2023": "sea-star", "Stoat": "stoat",
    PUBLIC_STOATS: "stoat",
}  # fmt: skip


@dataclass(frozen=True)
class Table:
    """A table: its data sets, the backbones that its columns have, and its cells for one of them."""

    about: str
    datasets: tuple[str, ...]
    sizes: tuple[str, ...]
    cells: Callable[[str], list[Cell]]
    seeds: int  # models of a cell: as the paper has, or where it does not say 3
    pictured: tuple[str, ...] = ()  # variants of the Grad-CAM from above; none: the first cell and the best


def schedules(dataset: str) -> dict[str, tuple[str, ...]]:
    """Presets of trainings by method, as the CARE paper has them for a data set."""
    return {"care": (SCHEDULES[dataset],)} if dataset in SCHEDULES else {}


def _ckpe_methods(size: str) -> list[Cell]:
    """WildlifeDatasets' baseline has a Swin; the paper's own figures are those of ViT-H."""
    swin, begins = (SWIN, f"timm:{SWIN}") if size in BEGINNINGS else (size, None)
    own = {"begins": BEGINNINGS.get(size), "source": "expert"}
    return [
        Cell(swin, "WildlifeDatasets", "wildlife", paper=("ckpe", 1, "WildlifeDatasets"), begins=begins),
        Cell(size, "KPE", "kpe", paper=("ckpe", 1, "KPE"), **own),
        Cell(size, "CKPE", "ckpe", paper=("ckpe", 1, "CKPE"), **own),
    ]


def _care_methods(size: str) -> list[Cell]:
    clip, vit = BEGINNINGS[OWN], BEGINNINGS["base"]
    return [
        Cell(size, "CLIP-ZS", None, paper=("clip-zero-shot", None, "CLIP, frozen"), begins=clip),
        Cell(size, "CLIP-FT", "clip-ft", begins=clip),
        Cell(size, "CLIP-ReID", "clip-reid", begins=clip),
        Cell(size, "TransReID", "transreid", begins=vit),
        Cell(size, "AdaFreq", "adafreq", begins=vit),
        Cell(size, "CARE", "care", paper=("care", 1, "w = 4"), begins=clip),
    ]


def _of_ablation(name: str, number: int) -> Callable[[str], list[Cell]]:
    """The cells of an ablation that a table of the CKPE paper prints."""

    def cells(size: str) -> list[Cell]:
        ablation = ABLATIONS[name]
        printed = ablation.sizes[0] if len(ablation.sizes) == 1 else size  # its figures stand beside any backbone's
        every = [replace(one, size=size, begins=BEGINNINGS.get(size)) for one in ablation.cells(printed)]
        return [one for one in every if one.paper and one.paper[1] == number]

    return cells


def _ckpe(name: str, number: int, about: str | None = None) -> Table:
    ablation = ABLATIONS[name]
    return Table(about or ablation.about, (MACAQUES,), ablation.sizes, _of_ablation(name, number), 3)


TABLES: Mapping[tuple[str, str], Table] = {
    ("ckpe", "1"): Table("methods", CKPE_SETS, ("huge",), _ckpe_methods, 3),
    ("ckpe", "2"): _ckpe("keypoint-source", 2),
    ("ckpe", "3"): _ckpe("timestep", 3),
    ("ckpe", "4"): _ckpe("scale", 4),
    ("ckpe", "5"): _ckpe("keypoints", 5),
    ("ckpe", "6"): _ckpe("random", 6, "one keypoint against one random point"),
    ("ckpe", "7"): _ckpe("random", 7, "three keypoints against three random points"),
    ("care", "1"): Table(ABLATIONS["tokens"].about, CARE_SETS, (OWN,), ABLATIONS["tokens"].cells, 10),
    ("care", "2"): Table(ABLATIONS["margin"].about, CARE_SETS, (OWN,), ABLATIONS["margin"].cells, 10),
    ("care", METHODS): Table(
        "six methods on the same splits, each trained as its authors have it",
        CARE_SETS,
        (OWN,),
        _care_methods,
        10,
        pictured=("CLIP-FT", "CARE"),
    ),
}
