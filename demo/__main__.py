"""`make demo`: the whole chain on `sample_data/`, offline, on the CPU, ending in something to look at.

Every step is a `care` command run as a user would run it; at the end the answers are held against the truth
that the renderer wrote beside the photos.
"""

from __future__ import annotations

import shutil
import sys
import time
from pathlib import Path

from demo.carry import SAMPLE, templates
from demo.chain import Chain, carried, report, score

ROOT = Path(__file__).resolve().parent.parent
OUT = ROOT / "demo_out"


def main() -> int:
    """Run the chain; the exit code is 0 when the demo models answer as well as their cards say."""
    started = time.monotonic()
    shutil.rmtree(OUT, ignore_errors=True)
    OUT.mkdir()
    chain = Chain(OUT / "care.db", echo=True)
    chain.care("detect", SAMPLE / "card", "--model", "demo-detector", "--gallery", OUT / "gallery.html", accept=(0, 1))
    chain.care("individuals", "name", "--from", SAMPLE / "names.csv", accept=(0, 1))
    for species, (photo, points) in templates().items():
        chain.care("templates", "add", species, "--photo", photo, "--points", points)
    chain.care("propagate-keypoints", "--extractor", "sd:demo-diffusion", "--align", "--sheet", OUT / "keypoints.jpg")
    chain.care("index", "--model", "demo-embedder")
    chain.care("individuals", "list")
    chain.care("identify", SAMPLE / "queries", "--top", 3, "--sheet", OUT / "sheet.jpg")
    answers = chain.json("identify", SAMPLE / "queries", "--top", 3)
    figures = score(answers, SAMPLE / "truth.json")
    print("\nAgainst the truth (rendered animals, in neither training nor threshold fitting):")
    report(figures)
    near, of = carried(chain.json("keypoints"), SAMPLE / "truth.json")
    print(f"  {'points carried to within a tenth of the animal':58} {near:3}/{of:<3} {100 * near / of:5.1f} %")
    print(
        "\nLook at  " + "\n         ".join(str(OUT / name) for name in ("gallery.html", "keypoints.jpg", "sheet.jpg"))
    )
    print(f"Done in {time.monotonic() - started:.0f} s.")
    return 0 if all(hits / of >= target for hits, of, target in figures.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
