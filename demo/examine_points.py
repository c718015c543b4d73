"""How well the demo diffusion model carries points between rendered animals that it has never seen.

    python -m demo.examine_points [--model sd:demo-diffusion] [--animals 40] [--photos 4] [--keep FOLDER]

Renders chips of individuals from two ranges of seeds that nothing was trained with, imports their true points as a
researcher would (COCO keypoints), and runs `care evaluate keypoints`: the settings are chosen on the first range's
individuals, the figures are those of the second, beside the same network with untrained weights.
"""

from __future__ import annotations

import argparse
import csv
import json
import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from demo.chain import Chain
from demo.train_data import LONGEST, in_processes
from scenes import MIRROR_PAIRS, SPECIES, make_individual, render_chip
from scenes.seeds import TEST, TUNE

TIMESTEPS = (0, 50, 100, 150, 200, 261, 300, 400, 500, 650, 800)
FROM = 300  # of either range: the first are those of the thresholds


def render_annotated(folder: Path, seeds: Sequence[int], photos: int) -> None:
    """Chips `INDIVIDUAL/N.png` with `annotations.json` (COCO keypoints) and `names.csv` beside them."""
    done = in_processes(partial(_write_chips, photos=photos, folder=str(folder)), seeds, "chips")
    records = [record for one in done for record in one]
    points = sorted({name for record in records for name in record["points"]})
    pairs = [[points.index(a), points.index(b)] for a, b in MIRROR_PAIRS]
    number = {species: i for i, species in enumerate(SPECIES, 1)}
    categories = [
        {"id": i, "name": species, "keypoints": points, "skeleton": [], "swap_pairs": pairs}
        for species, i in number.items()
    ]
    images, annotations = [], []
    for i, record in enumerate(records, 1):
        images.append({"id": i, "file_name": record["path"], "width": record["size"][0], "height": record["size"][1]})
        flat = [value for name in points for value in record["points"].get(name, (0, 0, 0))]
        annotation = {"id": i, "image_id": i, "category_id": number[record["species"]], "bbox": record["box"]}
        annotations.append(annotation | {"keypoints": flat, "num_keypoints": len(record["points"])})
    document = {"images": images, "annotations": annotations, "categories": categories}
    (folder / "annotations.json").write_text(json.dumps(document), encoding="utf-8")
    with (folder / "names.csv").open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(("path", "x", "y", "w", "h", "individual"))
        table.writerows((record["path"], *record["box"], record["individual"]) for record in records)


def _write_chips(seed: int, photos: int, folder: str) -> list[dict[str, Any]]:
    """One individual's chips, and their truth; points that cannot be seen are left out."""
    individual = make_individual(list(SPECIES)[seed % len(SPECIES)], seed)
    rng = np.random.default_rng([seed, 7])
    name = f"animal-{seed}"
    (Path(folder) / name).mkdir(parents=True)
    records = []
    for number in range(photos):
        chip = render_chip(individual, rng, difficulty=float(rng.uniform(0.15, 0.5)), longest=LONGEST)
        path = f"{name}/{number}.png"
        chip.image.save(Path(folder) / path)
        points = {point: (round(x, 2), round(y, 2), 2) for point, (x, y, seen) in chip.keypoints.items() if seen}
        box = [round(value, 2) for value in chip.box]
        records.append({"path": path, "individual": name, "species": chip.species, "size": chip.image.size, "box": box,
                        "points": points})  # fmt: skip
    return records


def examine(folder: Path, model: str, animals: int, photos: int, arguments: Sequence[str] = ()) -> dict[str, Any]:
    """Render and import; then choose the timestep on half of the animals and report the others. See `main`."""
    seeds = [*TUNE[FROM : FROM + animals], *TEST[FROM : FROM + animals]]
    photos_folder = folder / "annotated"
    photos_folder.mkdir()
    render_annotated(photos_folder, seeds, photos)
    choosing = folder / "choosing.txt"
    choosing.write_text("".join(f"animal-{seed}\n" for seed in seeds[:animals]), encoding="utf-8")
    care = Chain(folder / "care.db", echo=True)
    care.care("keypoints", "import", photos_folder / "annotations.json", "--images", photos_folder)
    care.care("individuals", "name", "--from", photos_folder / "names.csv")
    options = ["--extractor", model, "--choose-on", choosing, "--plot", folder / "timesteps.png"]
    options += [
        "--align",
        "--sweep",
        "timestep=" + ",".join(map(str, TIMESTEPS)),
        "--report",
        folder / "points.json",
        *arguments,
    ]
    care.care("evaluate", "keypoints", *options, "--against-untrained")
    return json.loads((folder / "points.json").read_text("utf-8"))


def main() -> None:
    """The command line; what is not known here goes to `care evaluate keypoints`."""
    parser = argparse.ArgumentParser(prog="python -m demo.examine_points", description=__doc__)
    parser.add_argument("--model", default="sd:demo-diffusion", help="an extractor")
    parser.add_argument("--animals", type=int, default=40, help="individuals that choose, and as many that report")
    parser.add_argument("--photos", type=int, default=4, help="of each")
    parser.add_argument("--keep", type=Path, help="keep photos, catalog, figures and plot here")
    given, others = parser.parse_known_args()
    with tempfile.TemporaryDirectory() as work:
        examine(given.keep or Path(work), given.model, given.animals, given.photos, others)


if __name__ == "__main__":
    main()
