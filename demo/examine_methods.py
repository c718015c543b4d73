"""Whether points help to tell rendered animals apart: the methods of `care train`, through the commands alone.

    python -m demo.examine_methods --keep FOLDER [--seeds 5] [--epochs 12] [--rows vit ckpe ...]
                                   [--extractor timm:mobilenetv2_100 --weights FILE]

Renders chips of individuals, imports their names, annotates the same points on four crops of other animals of each
species, carries them to all chips, and trains every row with the same settings and seeds. Each crop of the test
individuals then asks all others. What is done is kept in FOLDER and not done again.
"""

from __future__ import annotations

import argparse
import csv
import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from demo.chain import Chain
from demo.train_data import LONGEST, in_processes
from scenes import MIRROR_PAIRS, SPECIES, make_individual, render_chip
from scenes.seeds import TEST, TRAIN

DIFFICULTY = (0.15, 0.5)  # of a chip, drawn evenly; fixed on other animals so that `vit` has 50 to 85 %
ANIMALS = [*TRAIN[2000:2110], *TEST[500:560]]  # seeds of individuals; the split draws who is learned from and who asked
ASKED, WATCHED = 60, 10  # of them in the test part, and in the validation part
ANNOTATED = TRAIN[2200:2248]  # twelve of each species: an expert annotates the four that share most points
REFERENCES = 4  # annotated crops of a species
PHOTOS = 16  # of each individual
BACKBONE = "care_stem_vit"
RECIPE = {
    "options": '{"widths": [24, 48, 96], "depth": 3, "num_heads": 3}',  # 64 tokens of 8 px
    "individuals": 16, "photos": 4, "accumulate": 1,
    "optimizer": "adamw", "learning_rate": 2e-3, "warmup": 0.6, "weight_decay": 0.05, "clip": 5,
    "arc_scale": 16, "arc_margin": 0.2, "triplet_weight": 0, "class_weight": 0.2, "neck": "true",
    "mean": "[0.5, 0.5, 0.5]", "std": "[0.5, 0.5, 0.5]",
    "keypoint_scale": 10,  # of 1, 10 and 30 the best on other animals, with true points
}  # fmt: skip


@dataclass(frozen=True)
class Row:
    """A method, and whose points it sees."""

    method: str
    points: str  # the catalog: carried | random | true
    settings: tuple[str, ...] = ()


ROWS = {
    "vit": Row("vit", "carried"),
    "kpe": Row("kpe", "carried"),
    "kpe-pooled": Row("kpe", "carried", ("keypoint_mode=pooled",)),
    "ckpe": Row("ckpe", "carried"),
    "ckpe-random": Row("ckpe", "random"),
    "ckpe-true": Row("ckpe", "true"),
}


def write_chips(seed: int, folder: str) -> list[dict[str, Any]]:
    """One individual's chips below `folder`, and what is true of them; points that cannot be seen are left out."""
    individual = make_individual(list(SPECIES)[seed % len(SPECIES)], seed)
    rng = np.random.default_rng([seed, 11])
    name = f"animal-{seed}"
    (Path(folder) / name).mkdir(parents=True)
    records = []
    for number in range(1 if seed in ANNOTATED else PHOTOS):
        chip = render_chip(individual, rng, difficulty=float(rng.uniform(*DIFFICULTY)), longest=LONGEST)
        path = f"{name}/{number}.png"
        chip.image.save(Path(folder) / path)
        points = [{"name": point, "x": round(x, 2), "y": round(y, 2)}
                  for point, (x, y, seen) in chip.keypoints.items() if seen]  # fmt: skip
        records.append({"path": path, "species": chip.species, "size": chip.image.size, "points": points,
                        "identity": "unknown" if seed in ANNOTATED else name})  # fmt: skip
    return records


def survey(folder: Path, kind: str, records: Sequence[dict], care: Chain, extractor: Sequence[object]) -> None:
    """Bring the points of a kind into a catalog that holds the photos: annotate and carry, or import the truth."""
    if kind == "true":
        named = [one for one in records if one["identity"] != "unknown"]
        (folder / "truth.json").write_text(json.dumps(coco(named)), encoding="utf-8")
        care.care("keypoints", "import", folder / "truth.json", "--images", folder / "photos")
        return
    for species in SPECIES:
        shown = [one for one in records if one["identity"] == "unknown" and one["species"] == species]
        chosen = max(combinations(shown, REFERENCES), key=lambda some: len(shared(some)))
        names = [f"{species}-{number}".lower() for number in range(1, REFERENCES + 1)]
        for name, one in zip(names, chosen, strict=True):
            points = folder / f"{name}.json"
            kept = [point for point in one["points"] if point["name"] in shared(chosen)]
            points.write_text(json.dumps({"species": species, "keypoints": mirrored(kept)}), "utf-8")
            what = ["--points", points] if kind == "carried" else ["--random", len(kept), "--seed", 1]
            care.care("templates", "add", name, "--photo", folder / "photos" / one["path"], *what)
            if kind == "random":
                break  # points drawn on two animals are not the same points
        asked = [part for name in names[: 1 if kind == "random" else None] for part in ("--template", name)]
        care.care("propagate-keypoints", *asked, "--species", species, "--align", *extractor, accept=(0, 1))


def shared(records: Sequence[dict]) -> set[str]:
    """Names of the points that can be seen on all of some chips."""
    return set.intersection(*({point["name"] for point in one["points"]} for one in records))


def mirrored(points: Sequence[dict]) -> list[dict]:
    """The points, each with its counterpart where that is among them."""
    pairs = dict(MIRROR_PAIRS) | {b: a for a, b in MIRROR_PAIRS}
    names = {point["name"] for point in points}
    return [point | ({"mirror": pairs[point["name"]]} if pairs.get(point["name"]) in names else {}) for point in points]


def coco(records: Sequence[dict]) -> dict[str, Any]:
    """The true points as COCO keypoints; each chip is its animal's box."""
    names = sorted({point["name"] for one in records for point in one["points"]})
    pairs = [[names.index(a), names.index(b)] for a, b in MIRROR_PAIRS]
    number = {species: i for i, species in enumerate(SPECIES, 1)}
    document: dict[str, Any] = {
        "images": [], "annotations": [],
        "categories": [{"id": i, "name": name, "keypoints": names, "swap_pairs": pairs} for name, i in number.items()],
    }  # fmt: skip
    for i, one in enumerate(records, 1):
        width, height = one["size"]
        places = {point["name"]: (point["x"], point["y"], 2) for point in one["points"]}
        document["images"].append({"id": i, "file_name": one["path"], "width": width, "height": height})
        document["annotations"].append(
            {"id": i, "image_id": i, "category_id": number[one["species"]], "bbox": [0, 0, width, height],
             "keypoints": [value for name in names for value in places.get(name, (0, 0, 0))],
             "num_keypoints": len(places)}
        )  # fmt: skip
    return document


def prepare(folder: Path, extractor: Sequence[object]) -> dict[str, Chain]:
    """A catalog for each kind of points, all with the same photos and the same split."""
    catalogs = {kind: Chain(folder / f"{kind}.db", echo=True) for kind in ("carried", "random", "true")}
    if (folder / "ready").exists():
        return catalogs
    photos = folder / "photos"
    photos.mkdir(parents=True)
    done = in_processes(partial(write_chips, folder=str(photos)), [*ANIMALS, *ANNOTATED], "chips")
    records = [record for one in done for record in one]
    with (folder / "photos.csv").open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(("path", "identity", "species", "part"))
        table.writerows((one["path"], one["identity"], one["species"], "") for one in records)
    base = Chain(folder / "base.db", echo=True)
    options = ["--csv", folder / "photos.csv", "--species-column", "species"]
    base.care("import", "dataset", photos, *options)
    for kind, care in catalogs.items():
        shutil.copy(base.catalog, care.catalog)
        survey(folder, kind, records, care, extractor)
    (folder / "ready").touch()
    return catalogs


def main() -> None:
    """Prepare, train what is missing, examine, and write FOLDER/figures.json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--keep", type=Path, required=True, help="photos, catalogs, models and figures")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--epochs", type=float, default=12)
    parser.add_argument("--rows", nargs="+", default=list(ROWS), choices=list(ROWS))
    parser.add_argument("--extractor", default="sd:demo-diffusion")
    parser.add_argument("--weights", type=Path, help="of timm:NAME")
    given = parser.parse_args()
    extractor = ["--extractor", given.extractor, *(["--weights", given.weights] if given.weights else [])]
    catalogs = prepare(given.keep, extractor)
    test, val = (round(number / len(ANIMALS), 6) for number in (ASKED, WATCHED))
    figures = {}
    for name in given.rows:
        row = ROWS[name]
        care = catalogs[row.points]
        settings = [f"{key}={value}" for key, value in (RECIPE | {"epochs": given.epochs}).items()] + [*row.settings]
        asked = [part for setting in settings for part in ("--set", setting)]
        care.care("train", "--method", row.method, "--name", name, "--seeds", given.seeds, "--backbone", BACKBONE,
                  "--size", 64, *asked,
                  "--test", test, "--val", val)  # fmt: skip
        care.care("evaluate", "--model", name, "--seeds", given.seeds, "--protocol", "loo")
        figures[name] = care.json("evaluate", "--model", name, "--seeds", given.seeds, "--protocol", "loo")
        (given.keep / "figures.json").write_text(json.dumps(figures, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
