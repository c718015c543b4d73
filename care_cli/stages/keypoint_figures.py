"""What `care evaluate keypoints` found, as tables, words and files."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from care_cli.errors import CareError
from care_cli.evaluation import plots
from care_cli.evaluation.pck import HEADLINE, LEAST_TARGETS
from care_cli.evaluation.plots import word
from care_cli.outputs import refuse_scanned, write_whole
from care_cli.stages.evaluate_keypoints import ALL, CHOOSING, REPORTED

if TYPE_CHECKING:
    from care_cli.catalog import Catalog

TOP = f"PCK@{HEADLINE}"


def reported(found: dict) -> str:
    """The part of the animals whose figures count: those that chose nothing."""
    return REPORTED if REPORTED in found["animals"] else ALL


def summary_rows(found: dict) -> list[dict]:
    """A row for each setting, part of the animals, network and species, 'all' of them first.

    `low` and `high` are the interval of PCK@HEADLINE per point; `confused` is at HEADLINE, too. Of a sweep, PCK less
    that of the first setting, over the same pairs, with its interval.
    """
    return [
        {
            **{name: word(value) for name, value in row["setting"].items()},
            "part": part,
            "network": network,
            "species": species,
            **_row_of(measured),
            **_above(row, part, network, species, bool(found["sweep"])),
        }
        for row in found["settings"]
        for part in found["animals"]
        for network, about in row["networks"].items()
        for species, measured in {ALL: about["parts"][part]["all"], **about["parts"][part]["species"]}.items()
    ]


def _row_of(measured: dict) -> dict:
    headline = measured["pck"][str(HEADLINE)]
    return {
        "pairs": measured["pairs"],
        "points": measured["points"],
        **{f"PCK@{alpha}": one["per_point"]["value"] for alpha, one in measured["pck"].items()},
        "low": headline["per_point"]["low"],
        "high": headline["per_point"]["high"],
        "per_image": headline["per_image"]["value"],
        "per_pair": headline["per_pair"]["value"],
        "confused": measured["confused"][str(HEADLINE)]["value"],
        "kept": measured["kept"]["share"]["value"],
        "PCK_of_kept": measured["kept"]["pck"][str(HEADLINE)]["value"],
    }


def _above(row: dict, part: str, network: str, species: str, swept: bool) -> dict:
    """Of a sweep, how much better than the first setting it is over the same pairs, with its interval."""
    if not swept:
        return {}
    asked = network == "trained" and species == ALL and row["above_first"]
    ends = row["above_first"][part] if asked else {}
    return {f"above_first{name}": ends.get(end) for name, end in (("", "value"), ("_low", "low"), ("_high", "high"))}


def point_rows(found: dict, number: int = 0) -> list[dict]:
    """The points of each species that the trained network finds in the setting of this number, the worst first."""
    parts = found["settings"][number]["networks"]["trained"]["parts"]
    rows = [
        {
            "species": species,
            "point": name,
            "points": one["points"],
            "images": one["images"],
            **{f"PCK@{alpha}": figure["value"] for alpha, figure in one["pck"].items()},
            "low": one["pck"][str(HEADLINE)]["low"],
            "high": one["pck"][str(HEADLINE)]["high"],
            "confused": one["confused"]["value"],
            "kept": one["kept"]["value"],
        }
        for species, names in parts[reported(found)]["points"].items()
        for name, one in names.items()
    ]
    return sorted(rows, key=lambda row: (row["species"], row[TOP]))


def remarks(found: dict) -> list[str]:
    """What the tables do not say: the choice, the gain over untrained weights, what was left out."""
    part = reported(found)
    lines = [f"low, high: {found['intervals']}, of {TOP} per point."]
    number = found["chosen"] or 0
    if found["chosen"] is not None:
        figures = [
            f"{_figure(found['settings'][number]['networks']['trained']['parts'][which]['all'])} on the {which} half"
            for which in (CHOOSING, REPORTED)
        ]
        said = ", ".join(f"{name} {word(value)}" for name, value in found["settings"][number]["setting"].items())
        lines.append(f"Chosen: {said}; {TOP} {' and '.join(figures)}, which had no say in it.")
    if found["chosen"] is not None or not found["sweep"]:
        lines += _comparisons(found["settings"][number], part)
    out = found["left_out"]
    for crops, why in ((out["without_pixels"], "have no pixels"), (out["damaged"], "are damaged")):
        if crops:
            lines.append(f"Left out: {len(crops)} annotated crops {why} ({', '.join(map(str, crops[:10]))}).")
    if out["points_outside_their_crop"]:
        lines.append(f"Left out: {out['points_outside_their_crop']} points that lie outside what their crop shows.")
    return lines


def _comparisons(row: dict, part: str) -> list[str]:
    """How one setting stands to what it can be held against."""
    network, lines = row["networks"]["trained"], []
    if network["matching"]["cycle"] is not None or network["matching"]["least"] is not None:
        above = network["parts"][part]["all"]["kept"]["above_all"][str(HEADLINE)]
        if above["value"] is not None:
            lines.append(f"{TOP} of the points that are kept is above that of all by {_interval(above)}.")
    for other, words in (("above_untrained", "the untrained network"), ("above_first", "the first setting")):
        if row[other] and not (other == "above_first" and row[other][part]["value"] == 0):
            lines.append(f"{TOP} is above that of {words} by {_interval(row[other][part])}.")
    return lines


def worst(rows: Sequence[dict], count: int) -> list[str]:
    """The species' worst points in words, a line each; of those that were asked of LEAST_TARGETS crops or more."""
    told: dict[str, list[dict]] = {}
    for row in rows:
        if row["images"] >= LEAST_TARGETS:
            told.setdefault(row["species"], []).append(row)
    return [
        f"Worst points of {name}: " + ", ".join(f"{row['point']} {row[TOP]:.3f}" for row in some[:count])
        for name, some in told.items()
    ]


def _figure(measured: dict) -> str:
    return _interval(measured["pck"][str(HEADLINE)]["per_point"])


def _interval(figure: dict) -> str:
    if figure["low"] is None:
        return f"{figure['value']:.3f}"
    return f"{figure['value']:.3f} [{figure['low']:.3f}, {figure['high']:.3f}]"


def check_targets(catalog: Catalog, plot: Path | None, report: Path | None) -> None:
    """CareError when the plot or the report can't be written where it should; asked before long work begins."""
    for path, kind, suffixes in ((plot, "plot", plots.FORMATS), (report, "report", (".json",))):
        if path is None:
            continue
        if path.suffix.lower() not in suffixes:
            raise CareError(f"A {kind} is a {' or '.join(suffixes)} file: name it FILE{suffixes[0]}, not {path.name}.")
        if not path.absolute().parent.is_dir():
            raise CareError(f"There is no folder {path.parent} for the {kind}. Make it first, or name another place.")
        refuse_scanned(path, catalog.scanned_folders())


def write(found: dict, plot: Path | None, report: Path | None) -> None:
    """The plot and the report, each written whole."""
    if plot is not None:
        plots.plot(found, plot, HEADLINE, reported(found))
    if report is not None:
        write_whole(report, json.dumps(found, indent=1) + "\n")
