"""The photos that methods are compared on: chips of rendered individuals in a catalog, and points on them."""

from __future__ import annotations

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
from scenes.seeds import TRAIN

ANNOTATED = TRAIN[2200:2248]  # twelve of each species: an expert annotates the four that share most points
REFERENCES = 4  # annotated crops of a species
PHOTOS = 16  # of each individual
NONE, CARRIED, RANDOM, TRUE = "none", "carried", "random", "true"  # kinds of points, each in a catalog of its own


@dataclass(frozen=True)
class Animals:
    """Whose photos they are: the split draws who is learned from, who is watched and who is asked about."""

    seeds: tuple[int, ...]
    asked: int  # in the test part
    watched: int  # in the validation part
    difficulty: tuple[float, float]  # of a chip, drawn evenly

    def shares(self) -> tuple[float, float]:
        """Of the test and the validation part."""
        return tuple(round(number / len(self.seeds), 6) for number in (self.asked, self.watched))


def write_chips(seed: int, folder: str, difficulty: tuple[float, float]) -> list[dict[str, Any]]:
    """One individual's chips below `folder`, and what is true of them; points that cannot be seen are left out."""
    individual = make_individual(list(SPECIES)[seed % len(SPECIES)], seed)
    rng = np.random.default_rng([seed, 11])
    name = f"animal-{seed}"
    (Path(folder) / name).mkdir(parents=True)
    records = []
    for number in range(1 if seed in ANNOTATED else PHOTOS):
        chip = render_chip(individual, rng, difficulty=float(rng.uniform(*difficulty)), longest=LONGEST)
        path = f"{name}/{number}.png"
        chip.image.save(Path(folder) / path)
        points = [{"name": point, "x": round(x, 2), "y": round(y, 2)}
                  for point, (x, y, seen) in chip.keypoints.items() if seen]  # fmt: skip
        records.append({"path": path, "species": chip.species, "size": chip.image.size, "points": points,
                        "identity": "unknown" if seed in ANNOTATED else name})  # fmt: skip
    return records


def survey(folder: Path, kind: str, records: Sequence[dict], care: Chain, extractor: Sequence[object]) -> None:
    """Bring the points of a kind into a catalog that holds the photos: annotate and carry, or import the truth."""
    if kind == NONE:
        return
    if kind == TRUE:
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
            what = ["--points", points] if kind == CARRIED else ["--random", len(kept), "--seed", 1]
            care.care("templates", "add", name, "--photo", folder / "photos" / one["path"], *what)
            if kind == RANDOM:
                break  # points drawn on two animals are not the same points
        asked = [part for name in names[: 1 if kind == RANDOM else None] for part in ("--template", name)]
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


def prepare(folder: Path, animals: Animals, kinds: Sequence[str], extractor: Sequence[object]) -> dict[str, Chain]:
    """A catalog for each kind of points, all with the same photos and the same split."""
    catalogs = {kind: Chain(folder / f"{kind}.db", echo=True) for kind in kinds}
    if (folder / "ready").exists():
        return catalogs
    photos = folder / "photos"
    photos.mkdir(parents=True)
    annotated = [] if set(kinds) == {NONE} else ANNOTATED
    render = partial(write_chips, folder=str(photos), difficulty=animals.difficulty)
    records = [record for one in in_processes(render, [*animals.seeds, *annotated], "chips") for record in one]
    with (folder / "photos.csv").open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(("path", "identity", "species", "part"))
        table.writerows((one["path"], one["identity"], one["species"], "") for one in records)
    base = Chain(folder / "base.db", echo=True)
    options = ["--csv", folder / "photos.csv", "--species-column", "species"]
    base.care("import", "dataset", photos, *options)
    test, val = animals.shares()
    for kind, care in catalogs.items():
        shutil.copy(base.catalog, care.catalog)
        care.care("train", "--show-split", "--test", test, "--val", val)
        survey(folder, kind, records, care, extractor)
    (folder / "ready").touch()
    return catalogs
