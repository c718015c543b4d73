"""`python -m scenes card OUT | survey OUT --seed N ... | sheet OUT.png`."""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from .coats import FAUNA, make_individual
from .photos import render_chip
from .sample import make_sample
from .seeds import TRAIN
from .survey import make_survey


def contact_sheet(seed: int, difficulty: float, poses: int = 8, cell: int = 200) -> Image.Image:
    """An individual of every kind of animal, one a row, in several poses, the right half infrared."""
    rng = np.random.default_rng(seed)
    rows = [make_individual(species, seed + i) for species, kinds in FAUNA.items() for i in range(len(kinds))]
    sheet = Image.new("RGB", (poses * cell, len(rows) * cell), (24, 24, 24))
    for row, individual in enumerate(rows):
        for column in range(poses):
            infrared = column >= poses // 2
            chip = render_chip(individual, rng, difficulty=difficulty, longest=cell - 4, infrared=infrared).image
            sheet.paste(chip, (column * cell + (cell - chip.width) // 2, row * cell + (cell - chip.height) // 2))
        ImageDraw.Draw(sheet).text((4, row * cell + 4), f"{individual.species}: {individual.kind}", (250, 210, 90))
    return sheet


def _size(text: str) -> tuple[int, int]:
    width, height = text.lower().split("x")
    return int(width), int(height)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m scenes", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    card = commands.add_parser("card", help="make the committed sample again")
    survey = commands.add_parser("survey", help="make a larger survey with its truth")
    sheet = commands.add_parser("sheet", help="draw individuals by poses to look at")
    for command in (card, survey, sheet):
        command.add_argument("out", type=Path)
    survey.add_argument("--individuals", type=int, default=24)
    survey.add_argument("--photos", type=int, default=4, help="of each individual")
    survey.add_argument("--locations", type=int, default=3)
    survey.add_argument("--size", type=_size, default=(1280, 960), metavar="WxH")
    for command in (survey, sheet):
        command.add_argument("--seed", type=int, default=TRAIN[0], help="the first seed, see scenes/seeds.py")
        command.add_argument("--difficulty", type=float, default=0.3, help="0 easy, 1 hard")
    given = parser.parse_args()
    if given.command == "card":
        make_sample(given.out)
    elif given.command == "survey":
        make_survey(
            given.out,
            seed=given.seed,
            individuals=given.individuals,
            photos_per_individual=given.photos,
            locations=given.locations,
            difficulty=given.difficulty,
            size=given.size,
        )
    else:
        contact_sheet(given.seed, given.difficulty).save(given.out)


if __name__ == "__main__":
    main()
