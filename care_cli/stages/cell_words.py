"""Cells of the papers' tables as lines, and in words what a reader of them should know."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from care_cli.evaluation.ablations import BEGINNINGS
from care_cli.geometry import sides
from care_cli.stages.evaluation_rows import EVENT

Row = Mapping[str, Any]  # as `cells.row` makes it
TOLD = {"camera": "the camera", "view": "the flank", "both": "camera and flank"}


def line(one: Row, shown: Sequence[str]) -> dict[str, Any]:
    """A row as a table prints it: per cent, `_half` half the width of the 95 % interval, `_apart` without photos of the
    query's own event, `paper_` what is published."""
    found: dict[str, Any] = {"size": one["size"], "variant": one["variant"], "method": one["method"]}
    found |= {"template": one["template"], "points": len(one["points"]) or None}
    found["seeds"] = f"{len(one['seeds'])} of {one['wanted']}"
    for name in shown:
        figure = one["metrics"].get(name, {})
        found[name], found[f"{name}_half"] = (_percent(figure.get(end), 2) for end in ("mean", "half"))
        found[f"{name}_apart"] = _percent(one["variants"].get(EVENT, {}).get(name, {}).get("mean"), 2)
    for name in (f"{name}{end}" for name in shown for end in ("", "_half")):
        found[f"paper_{name}"] = _percent((one["published"] or {}).get(name), 1)
    found["paper_table"] = one["paper"][1] if one["paper"] else None
    return found | {"missing": "; ".join(one["missing"]) or one["failure"]}


def spread(seeds: int) -> str:
    """What stands behind the ± of a table of so many seeds."""
    return f"± half of a 95 % t-interval over {seeds} seeds" if seeds > 1 else "one seed, and so no interval"


def published_columns(rows: Sequence[Row], shown: Sequence[str]) -> list[str]:
    """Of those lines what the paper prints; intervals where it has some."""
    printed = {name for row in rows for name in row["published"] or ()}
    halves = {name: [f"paper_{name}_half"] if f"{name}_half" in printed else [] for name in shown}
    return [column for name in shown for column in (f"paper_{name}", *halves[name])]


def lacks(rows: Sequence[Row]) -> list[str]:
    """What cannot be done here and what failed, a line for each reason with the cells that it is of."""
    reasons: dict[tuple[str, str], list[str]] = {}
    for one in rows:
        for word, some in (("Cannot be done here", one["missing"]), ("Failed", filter(None, [one["failure"]]))):
            for reason in some:
                reasons.setdefault((word, reason), []).append(f"{one['size']}, {one['variant']}")
    return [
        f"{word} ({'all cells' if len(cells) == len(rows) else '; '.join(cells)}): {reason}"
        for (word, reason), cells in reasons.items()
    ]


def departures(found: Mapping[str, Any], rows: Sequence[Row], printed: Sequence[str] = ()) -> list[str]:
    """In one line, if any, what was done otherwise than the paper has it: settings, weights, backbones, points.

    found    `settings` of all trainings, and what was said of how to `carry` points
    printed  sizes of the backbones that the paper's figures are of, where these stand beside every other's
    """
    given = {f"--carry {name}": value for name, value in found["carry"].items()} | found["settings"]
    said = [f"{name}={value if isinstance(value, str) else json.dumps(value)}" for name, value in given.items()]
    theirs = ", ".join(BEGINNINGS.get(size, size) for size in printed)
    for row in rows:
        who = row["method"] or row["variant"]
        if row["training"] is not None and not row["begun_from"]:  # of a data set that failed nothing was begun
            said.append(f"{who} begins from scratch (--begin {who}=WEIGHTS)")
        elif row["begun_from"] and row["begun_from"] != row["begins"]:
            said.append(f"{who} begins from {row['begun_from']}")
        if printed and row["published"] and row["size"] not in printed:
            said.append(f"the backbone {row['size']}, beside figures of {theirs}")
        if row["extractor"] and not row["extractor"]["diffusion"]:
            said.append(f"points carried by {row['extractor']['name']}, no diffusion model")
    return [f"NOT AS IN THE PAPER: {'; '.join(dict.fromkeys(said))}."] if said else []


def unlike(rows: Sequence[Row]) -> str | None:
    """In words, how rows differ in what their models see and how they are taught; None where they do not."""
    several = len({row["size"] for row in rows}) > 1
    groups: dict[str, list[str]] = {}
    for row in rows:
        if row["training"] is not None:
            name = f"{row['size']} {row['variant']}" if several else row["variant"]
            groups.setdefault(_taught(row["training"]), []).append(name)
    words = "; ".join(f"{', '.join(names)}: {taught}" for taught, names in groups.items())
    return f"rows are not of one protocol of training. {words}" if len(groups) > 1 else None


def _taught(training: Mapping[str, Any]) -> str:
    height, width = sides(training["input_size"])
    told = ""
    if training["side"] is not None:
        told = f", told {TOLD[training['side']]} where known (weight {training['side_weight']:g})"
    return (
        f"{height} x {width} px, rate {training['learning_rate']:g}, batch {training['batch']}, "
        f"{training['epochs']:g} epochs{told}"
    )


def _percent(share: float | None, digits: int) -> float | None:
    return None if share is None else round(100 * share, digits)
