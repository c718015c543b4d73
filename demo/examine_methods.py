"""Which method tells rendered animals apart: the methods of `care train`, through the commands alone.

    python -m demo.examine_methods --keep FOLDER [--study points|clip|plain] [--clip FILE] [--seeds 5] [--epochs E]
                                   [--tune [--rates 1e-5 3e-5 ...]] [--rows vit ckpe ...] [--baseline vit]
                                   [--extractor timm:mobilenetv2_100 --weights FILE]

points: do points help? Annotates the same points on four crops of other animals of each species, and carries them.
clip:   CLIP as it is, fine-tuned, and described in words, from the small CLIP of `python -m demo.train_clip`.
plain:  that CLIP's image tower as a plain transformer, with a jigsaw of overlapping patches, with a second look at
        high frequencies.

Renders chips of individuals, imports their names, and trains every row of a study with the same photos, split, settings
and seeds. Each crop of the test individuals then asks all others. --tune does so with other animals and each of some
learning rates: what is chosen, is chosen there. What is done is kept in FOLDER and not done again.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from care_cli.evaluation.intervals import t_interval
from demo.chain import Chain
from demo.examine_photos import CARRIED, NONE, RANDOM, TRUE, Animals, prepare
from scenes.seeds import TEST, TRAIN, TUNE

SIZE = 64  # px
RATES = (1e-5, 3e-5, 1e-4, 3e-4, 1e-3)  # learning rates; each row gets the one with the best mAP on other animals
STEM_VIT = "care_stem_vit"
PLAIN_VIT = "vit_tiny_patch16_224"
AS_CLIP = {"img_size": SIZE, "patch_size": 8, "embed_dim": 128, "depth": 4, "num_heads": 4, "pre_norm": True}
COMPARED = ((*TRAIN[2000:2110], *TEST[500:560]), 60, 10)  # seeds of individuals; asked, watched
OTHERS = (tuple(TUNE[600:770]), 60, 10)
DIFFICULTY = (0.15, 0.5)  # fixed on other animals so that a ViT has 50 to 85 %


@dataclass(frozen=True)
class Row:
    """A method, and what is its own."""

    method: str | None  # of `care train`; None: the weights as they are
    points: str = NONE  # whose points it sees: the catalog
    backbone: str | None = None  # None: that of the weights
    settings: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Study:
    """Rows that learn from the same photos with the same settings, and the one that others are compared with."""

    compared: Animals
    others: Animals  # on which all is chosen
    rows: Mapping[str, Row]
    baseline: str
    epochs: float
    recipe: Mapping[str, Any]


def points_study() -> Study:
    """Points of four kinds of origin for one small transformer over a convolutional stem."""
    recipe = {
        "options": {"widths": [24, 48, 96], "depth": 3, "num_heads": 3},  # 64 tokens of 8 px
        "individuals": 16, "photos": 4, "accumulate": 1,
        "optimizer": "adamw", "learning_rate": 2e-3, "warmup": 0.6, "weight_decay": 0.05, "clip": 5,
        "arc_scale": 16, "arc_margin": 0.2, "triplet_weight": 0, "class_weight": 0.2, "neck": True,
        "mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5],
        "keypoint_scale": 10,  # of 1, 10 and 30 the best on other animals, with true points
    }  # fmt: skip
    rows = {
        "vit": Row("vit", CARRIED, STEM_VIT),
        "kpe": Row("kpe", CARRIED, STEM_VIT),
        "kpe-pooled": Row("kpe", CARRIED, STEM_VIT, {"keypoint_mode": "pooled"}),
        "ckpe": Row("ckpe", CARRIED, STEM_VIT),
        "ckpe-random": Row("ckpe", RANDOM, STEM_VIT),
        "ckpe-true": Row("ckpe", TRUE, STEM_VIT),
    }
    return Study(Animals(*COMPARED, DIFFICULTY), Animals(*OTHERS, DIFFICULTY), rows, "vit", 12, recipe)


SCHEDULED = {  # as CLIP-ReID and what follows it are trained
    "individuals": 16, "photos": 4, "accumulate": 1,
    "mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5],
    "augmentation.pad": 3,  # px; 10 of 256 x 128
}  # fmt: skip


def clip_study() -> Study:
    """CLIP-ZS, CLIP-FT, CLIP-ReID and CARE from one small CLIP, and CLIP-FT with CARE's weights and margin.

    The schedule is CLIP-ReID's, shortened in proportion: 60 epochs with a rise of 10 and falls after 30 and 50.
    """
    difficulty, epochs = (0.0, 0.3), 6.0  # where, on other animals, `clip-ft` has 50 to 85 %
    recipe = SCHEDULED | {
        "optimizer": "adam", "warmup": epochs / 6, "warmup_from": 0.1, "milestones": [epochs / 2, epochs * 5 / 6],
        "validate_every": 1,
    }  # fmt: skip
    words = {"text.epochs": 20, "text.warmup": 1, "text.similarity": "clip"}  # for its features are not of length 1
    wordless = {"class_weight": 0.25, "triplet_margin": 0.7}  # CARE's loss but for its prototypes
    rows = {
        "clip-zs": Row(None),
        "clip-ft": Row("clip-ft", settings={"learning_rate": 1e-4}),
        "clip-ft-as-care": Row("clip-ft", settings=wordless | {"learning_rate": 1e-4}),
        "clip-reid": Row("clip-reid", settings=words | {"learning_rate": 1e-4}),
        "care": Row("care", settings=words | {"learning_rate": 1e-4}),
    }
    return Study(Animals(*COMPARED, difficulty), Animals(*OTHERS, difficulty), rows, "clip-ft", epochs, recipe)


def plain_study() -> Study:
    """A plain ViT, TransReID and AdaFreq from the small CLIP's image tower, in timm's form.

    Beside them that tower as it is, and over the overlapping patches and under the loss that these two add to.
    """
    recipe = SCHEDULED | {
        "optimizer": "adamw", "warmup": 0.6, "weight_decay": 0.05, "clip": 5, "validate_every": 1,
        "augmentation.flip": 0.5, "augmentation.cover": 0.5, "augmentation.cover_noise": True,
    }  # fmt: skip
    easy = {"arc_scale": 16, "arc_margin": 0.2, "triplet_weight": 0, "neck": True}  # as in the study of points
    overlapping = {"stride": 6}  # 100 patches instead of 64
    few = {"frequency.tokens": 50, "frequency.cutoff": 17.5}  # 220 of 441 patches, and 70 periods, of 256 px
    once = {f"frequency.{term}_weight": 0 for term in ("class", "triplet", "alike")}  # no second look
    rows = {
        "as-it-is": Row(None),
        "vit": Row("vit", settings=easy | {"learning_rate": 3e-6}),
        "overlapping": Row("adafreq", settings=overlapping | once | {"learning_rate": 1e-3}),
        "transreid": Row("transreid", settings=overlapping | {"learning_rate": 1e-3}),
        "adafreq": Row("adafreq", settings=overlapping | few | {"learning_rate": 1e-3}),
    }
    animals = (Animals(*who, (0.0, 0.3)) for who in (COMPARED, OTHERS))
    return Study(*animals, rows, "vit", 6.0, recipe)


def vit_of(clip: Path, path: Path) -> Path:
    """The image tower of a small CLIP as a transformer of timm's, written to `path`."""
    from timm import create_model
    from timm.models.vision_transformer import checkpoint_filter_fn

    from care_cli.checkpoints import load_state, read_header
    from care_cli.encoders import save_embedder

    vit = create_model(PLAIN_VIT, num_classes=0, **AS_CLIP)
    state = checkpoint_filter_fn(load_state(clip), vit)
    vit.load_state_dict({name: state[name] for name in vit.state_dict()})
    header = read_header(clip) | {"method": "vit", "architecture": PLAIN_VIT, "options": AS_CLIP}
    save_embedder(vit, path, header)
    return path


STUDIES = {"points": points_study, "clip": clip_study, "plain": plain_study}


def main() -> None:
    """Prepare, train what is missing, examine, and write FOLDER/figures.json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--keep", type=Path, required=True, help="photos, catalogs, models and figures")
    parser.add_argument("--study", default="points", choices=list(STUDIES))
    parser.add_argument("--clip", type=Path, help="the small CLIP, for clip and plain")
    parser.add_argument("--tune", action="store_true", help="try learning rates on other animals")
    parser.add_argument("--rates", nargs="+", type=float, default=RATES)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--epochs", type=float)
    parser.add_argument("--rows", nargs="+")
    parser.add_argument("--baseline", help="the row that others are compared with")
    parser.add_argument("--extractor", default="sd:demo-diffusion")
    parser.add_argument("--weights", type=Path, help="of timm:NAME")
    given = parser.parse_args()
    if (given.clip is not None) != (given.study != "points"):
        parser.error("The studies clip and plain begin from --clip FILE, as demo.train_clip makes it; points does not.")
    study = STUDIES[given.study]()
    names = given.rows or list(study.rows)
    given.keep.mkdir(parents=True, exist_ok=True)
    start = vit_of(given.clip, given.keep / "vit.safetensors") if given.study == "plain" else given.clip
    if strange := sorted(set(names) - set(study.rows)):
        parser.error(f"The study {given.study} has no row {strange[0]}; it has {', '.join(study.rows)}.")
    extractor = ["--extractor", given.extractor, *(["--weights", given.weights] if given.weights else [])]
    animals = study.others if given.tune else study.compared
    kinds = list(dict.fromkeys(row.points for row in study.rows.values()))
    catalogs = prepare(given.keep, animals, kinds, extractor)
    figures = {}
    for name in names:
        row = study.rows[name]
        care = catalogs[row.points]
        for called, own in tried(name, row, given.rates if given.tune else ()):
            if row.method is not None:
                settings = {**study.recipe, "epochs": given.epochs or study.epochs, **own}
                train(care, called, row, settings, start, given)
            figures[called] = examine(care, called if row.method else start, row, given)
            (given.keep / "figures.json").write_text(json.dumps(figures, indent=1), encoding="utf-8")
    for line in told(figures, given.baseline or study.baseline):
        print(line)


def tried(name: str, row: Row, rates: Sequence[float]) -> list[tuple[str, dict[str, Any]]]:
    """The models of a row, one for each rate that is tried: what each is called, and its settings."""
    own = dict(row.settings)
    if not rates or row.method is None:
        return [(name, own)]
    return [(f"{name}-rate-{rate:g}", own | {"learning_rate": rate}) for rate in rates]


def train(
    care: Chain, name: str, row: Row, settings: Mapping[str, Any], start: Path, given: argparse.Namespace
) -> None:
    """Train a row's models, as far as they are not there yet."""
    begun = ["--backbone", row.backbone] if row.backbone else ["--weights", start]
    asked = [part for key, value in settings.items() for part in ("--set", f"{key}={json.dumps(value)}")]
    many = ["--seeds", given.seeds]
    care.care("train", "--method", row.method, "--name", name, *many, *begun, "--size", SIZE, *asked)


def examine(care: Chain, model: str | Path, row: Row, given: argparse.Namespace) -> dict[str, Any]:
    """What `care evaluate` says of a row: every crop of the test part asks all others."""
    several = ["--seeds", given.seeds] if row.method else []
    found = care.json("evaluate", "--model", model, *several, "--split", "default", "--protocol", "loo")
    return found["rows"][0]


def told(figures: Mapping[str, dict], baseline: str) -> list[str]:
    """The table in per cent: ± over seeds, in brackets over animals; differences to the baseline seed by seed."""
    lines = [
        "| row | top-1 | mAP | top-1 less that of the baseline | mAP less that of the baseline |",
        "|---" * 5 + "|",
    ]
    base = figures.get(baseline)
    for name, row in figures.items():
        cells = [name, *(_cell(row["metrics"][metric]) for metric in ("top1", "mAP"))]
        for metric in ("top1", "mAP"):
            pairs = _paired(row["metrics"][metric]["values"], base["metrics"][metric]["values"]) if base else []
            cells.append(_cell(t_interval(pairs), "+") if len(pairs) > 1 and name != baseline else "")
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def _paired(ours: list[float], theirs: list[float]) -> list[float]:
    """Differences seed by seed; a model that was not trained is the same for all seeds."""
    number = max(len(ours), len(theirs))
    ours, theirs = (values * number if len(values) == 1 else values for values in (ours, theirs))
    return list(np.subtract(ours, theirs)) if len(ours) == len(theirs) else []


def _cell(figure: Mapping[str, Any], sign: str = "") -> str:
    said = f"{100 * figure['mean']:{sign}.1f}"
    said += f" ± {100 * figure['half']:.1f}" if figure["half"] is not None else ""
    return said + (f" [{100 * figure['low']:.0f}, {100 * figure['high']:.0f}]" if figure.get("low") is not None else "")


if __name__ == "__main__":
    main()
