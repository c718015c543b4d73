"""Running `care` as a user would, and holding its answers against a renderer's truth."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path


class Chain:
    """`care` commands on one catalog, each in a process of its own."""

    def __init__(self, catalog: Path, echo: bool = False):
        self.catalog = catalog
        self.echo = echo

    def _command(self, *arguments: object) -> list[str]:
        options = ["--catalog", str(self.catalog), "--device", "cpu"]
        return [sys.executable, "-m", "care_cli", *options, *map(str, arguments)]

    def care(self, *arguments: object, accept: tuple[int, ...] = (0,)) -> None:
        """Run a command with its output shown; RuntimeError when its exit code is not accepted.

        A survey with damaged photos in it ends with 1: they are recorded, and the rest is done.
        """
        if self.echo:
            print("\n$ care " + " ".join(_short(argument) for argument in arguments), flush=True)
        code = subprocess.run(self._command(*arguments), env=_environment(), check=False).returncode
        if code not in accept:
            raise RuntimeError(f"`care {arguments[0]}` ended with exit code {code}")

    def json(self, *arguments: object) -> dict:
        """Run a command with --json and return its answer."""
        done = subprocess.run(
            self._command("--json", "--quiet", *arguments), env=_environment(), capture_output=True, check=False
        )
        if not done.stdout:
            raise RuntimeError(done.stderr.decode(errors="replace"))
        return json.loads(done.stdout)


def _short(argument: object) -> str:
    """Paths as seen from the working folder, as a person would type them."""
    if isinstance(argument, Path):
        return str(argument.relative_to(Path.cwd())) if argument.is_relative_to(Path.cwd()) else str(argument)
    return str(argument)


def _environment() -> dict[str, str]:
    return os.environ | {"PYTHONIOENCODING": "utf-8"}


def score(answers: dict, truth: Path) -> dict[str, tuple[int, int, float]]:
    """What is asked of the demo: text -> (hits, of how many, target).

    A photo's answer is that of its most confident animal. A known animal is one that the card shows.
    """
    records = json.loads(truth.read_text("utf-8"))["photos"]
    animal = {Path(one["path"]).name: one["objects"][0]["individual"] for one in records if "queries/" in one["path"]}
    known = right = first = new = seen = unseen = 0
    on_card = {found["individual"] for one in records if "card/" in one["path"] for found in one["objects"]}
    for photo in answers["photos"]:
        individual = animal[Path(photo["path"]).name]
        asked = [crop for crop in photo["crops"] if crop["category"] == "animal"]
        verdict = asked[0]["verdict"] if asked else None
        named = asked[0]["candidates"][0]["individual"] if asked and asked[0]["candidates"] else None
        if individual in on_card:
            seen += 1
            right += named == individual
            known += named == individual and verdict == "known"
        else:
            unseen += 1
            new += verdict == "new"
        first += asked != []
    return {
        "known animals called known, with the right name first": (known, seen, 0.8),
        "known animals with the right name first": (right, seen, 0.9),
        "unseen animals called new": (new, unseen, 0.8),
        "photos in which an animal was found": (first, seen + unseen, 0.9),
    }


def carried(listing: list[dict], truth: Path) -> tuple[int, int]:
    """Propagated points on photos of one animal, of those that can be seen there: how many lie within 0.1 of the
    longer side of the animal's box of where they are (PCK@0.1), and how many there are."""
    animals = {
        one["path"].removeprefix("card/"): one["objects"][0]
        for one in json.loads(truth.read_text("utf-8"))["photos"]
        if one["path"].startswith("card/") and one["kind"] == "animal" and len(one["objects"]) == 1
    }
    near = of = 0
    for point in listing:
        animal = animals.get(point["path"])
        x, y, seen = animal["keypoints"].get(point["name"], (0, 0, False)) if animal else (0, 0, False)
        if seen and point["source"] == "propagated" and point["species"] == animal["species"]:
            of += 1
            near += math.hypot(point["x"] - x, point["y"] - y) <= 0.1 * max(animal["box"][2:])
    return near, of


def report(figures: dict[str, tuple[int, int, float]]) -> None:
    """Print what `score` found, with the targets."""
    for text, (hits, of, target) in figures.items():
        print(f"  {text:58} {hits:3}/{of:<3} {100 * hits / of:5.1f} %   target {100 * target:.0f} %")
