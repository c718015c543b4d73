"""The demo's figures on more queries: 300, each at another event and place than the gallery's photos.

    python -m demo.examine [--gallery 24] [--known 150] [--new 150] [--keep FOLDER]

Renders a survey of the sample's form from seeds that nothing was trained, tuned or shown with, runs the chain
of `make demo` on it, and prints the figures. The larger the gallery, the likelier a new animal resembles someone:
the thresholds of the demo embedder are those for galleries of about 24 animals.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

from demo.chain import Chain, report, score
from scenes import SPECIES
from scenes.sample import make_sample
from scenes.seeds import TEST


def examine(folder: Path, gallery: int = 24, known: int = 150, new: int = 150) -> dict[str, tuple[int, int, float]]:
    """Render, survey and ask; the figures of `chain.score`."""
    make_sample(folder, TEST, gallery, new, asked=known)
    care = Chain(folder / "care.db")
    care.json("detect", folder / "card", "--model", "demo-detector")
    care.json("individuals", "name", "--from", folder / "names.csv")
    annotate(folder, care)
    care.json("propagate-keypoints", "--extractor", "sd:demo-diffusion", "--align")
    care.json("index", "--model", "demo-embedder")
    return score(care.json("identify", folder / "queries", "--top", 3), folder / "truth.json")


def annotate(folder: Path, care: Chain) -> None:
    """The points of one animal of each species, of the one that shows most, as an expert would say them."""
    truth = json.loads((folder / "truth.json").read_text("utf-8"))["photos"]
    alone = [(one["path"], one["objects"][0]) for one in truth
             if one["path"].startswith("card/") and one["kind"] == "animal" and len(one["objects"]) == 1]  # fmt: skip
    for species in SPECIES:
        shown = [(path, [(name, x, y) for name, (x, y, seen) in found["keypoints"].items() if seen])
                 for path, found in alone if found["species"] == species]  # fmt: skip
        path, points = max(shown, key=lambda one: len(one[1]))
        file = folder / f"{species}.json"
        named = [{"name": name, "x": x, "y": y} for name, x, y in points]
        file.write_text(json.dumps({"species": species, "keypoints": named}), encoding="utf-8")
        care.json("templates", "add", species.lower(), "--photo", folder / path, "--points", file)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m demo.examine", description=__doc__)
    parser.add_argument("--gallery", type=int, default=24, help="animals on the card")
    parser.add_argument("--known", type=int, default=150, help="queries of those, each in turn")
    parser.add_argument("--new", type=int, default=150, help="animals that are not, one query each")
    parser.add_argument("--keep", type=Path, help="keep photos and catalog here")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as work:
        report(examine(given.keep or Path(work), given.gallery, given.known, given.new))


if __name__ == "__main__":
    main()
