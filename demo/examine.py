"""The demo's figures on more queries: 300, each at another event and place than the gallery's photos.

    python -m demo.examine [--gallery 24] [--known 150] [--new 150] [--keep FOLDER]

Renders a survey of the sample's form from seeds that nothing was trained, tuned or shown with, runs the chain
of `make demo` on it, and prints the figures. The larger the gallery, the likelier a new animal resembles someone:
the thresholds of the demo embedder are those for galleries of about 24 animals.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from demo.chain import Chain, report, score
from scenes.sample import make_sample
from scenes.seeds import TEST


def examine(folder: Path, gallery: int = 24, known: int = 150, new: int = 150) -> dict[str, tuple[int, int, float]]:
    """Render, survey and ask; the figures of `chain.score`."""
    make_sample(folder, TEST, gallery, new, asked=known)
    care = Chain(folder / "care.db")
    care.json("detect", folder / "card", "--model", "demo-detector")
    care.json("individuals", "name", "--from", folder / "names.csv")
    care.json("index", "--model", "demo-embedder")
    return score(care.json("identify", folder / "queries", "--top", 3), folder / "truth.json")


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
