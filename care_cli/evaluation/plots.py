"""Pictures of what an evaluation of points found: a curve of a sweep, or a bar a point; intervals as whiskers."""

from __future__ import annotations

import io
import textwrap
from collections.abc import Mapping, Sequence
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING, Any

from care_cli.outputs import write_whole

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLOURS = (
    "#0072B2",
    "#D55E00",
    "#009E73",
    "#CC79A7",
    "#E69F00",
    "#56B4E9",
    "#000000",
)  # Okabe & Ito, colour-blind-safe
STYLES = {"trained": "-", "untrained": ":"}
FORMATS = (".png", ".svg", ".pdf")


def plot(found: Mapping[str, Any], path: Path, alpha: float, part: str) -> None:
    """Draw what `care evaluate keypoints` found of a part of the animals.

    Of a sweep PCK against what was varied: a line for each α, or where two things were varied a line of PCK@`alpha`
    for each value of the second. Of one setting PCK@`alpha` of each point of each species. Dotted, or as rings, the
    untrained network.
    """
    from matplotlib.figure import Figure

    if found["sweep"]:
        figure = Figure(figsize=(8, 5.5), layout="constrained")
        _curves(figure.subplots(), found, alpha, part)
    else:
        points = found["settings"][0]["networks"]["trained"]["parts"][part]["points"]
        figure = Figure(figsize=(8, 2 + 0.22 * sum(len(names) + 1 for names in points.values())), layout="constrained")
        _bars(figure.subplots(), found, alpha, part)
    figure.suptitle("\n".join(textwrap.wrap(_title(found, part), 95)), fontsize=9)
    stream = io.BytesIO()
    figure.savefig(stream, format=path.suffix[1:].lower(), dpi=150)
    write_whole(path, stream.getvalue())


def _curves(axes: Axes, found: Mapping[str, Any], alpha: float, part: str) -> None:
    across, *second = found["sweep"]
    values = found["sweep"][across]
    numbers = all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)
    places = list(values) if numbers else list(range(len(values)))
    lines = [(second[0], value) for value in found["sweep"][second[0]]] if second else []
    for network, style in STYLES.items():
        if network not in found["settings"][0]["networks"]:
            continue
        labelled = [(f"{word(line[0])} {word(line[1])}, PCK@{alpha}", alpha, dict([line])) for line in lines] or [
            (f"PCK@{one}", float(one), {}) for one in _pck(found["settings"][0], network, part)
        ]
        for number, (label, one, fixed) in enumerate(labelled):
            rows = [row for row in found["settings"] if row["setting"].items() >= fixed.items()]
            figures = [_pck(row, network, part)[str(one)]["per_point"] for row in rows]
            beside = (number - (len(labelled) - 1) / 2) * 0.012 * (max(places) - min(places))
            name = label if network == "trained" else f"{label}, untrained"
            look = {"fmt": f"o{style}", "ms": 4, "capsize": 3, "color": COLOURS[number % len(COLOURS)], "label": name}
            axes.errorbar([x + beside for x in places], **_whiskers(figures, "y"), **look)
    if not numbers:
        axes.set_xticks(places, [word(value) for value in values])
    if found["chosen"] is not None:
        chosen = found["settings"][found["chosen"]]["setting"][across]
        axes.axvline(places[list(values).index(chosen)], color="0.7", zorder=0, label="chosen on the other half")
    axes.set(xlabel=across, ylabel="PCK per point, 95 % intervals", ylim=(0, 1))
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)


def _bars(axes: Axes, found: Mapping[str, Any], alpha: float, part: str) -> None:
    networks = found["settings"][0]["networks"]
    place, labels = 0, []
    for (species, names), colour in zip(
        networks["trained"]["parts"][part]["points"].items(), cycle(COLOURS), strict=False
    ):
        ranked = sorted(names, key=lambda name: -names[name]["pck"][str(alpha)]["value"])
        places = list(range(place, place + len(ranked)))
        figures = [names[name]["pck"][str(alpha)] for name in ranked]
        values = [one["value"] for one in figures]
        whiskers = _whiskers(figures, "x")["xerr"]
        axes.barh(places, values, xerr=whiskers, color=colour, alpha=0.8, capsize=2, label=species)
        if "untrained" in networks:
            plain = networks["untrained"]["parts"][part]["points"][species]
            axes.plot([plain[name]["pck"][str(alpha)]["value"] for name in ranked], places, "o", mfc="none", mec="k",
                      label=None if labels else "untrained")  # fmt: skip
        labels += list(zip(places, [f"{name} ({names[name]['points']})" for name in ranked], strict=True))
        place += len(ranked) + 1
    axes.set_yticks(*zip(*labels, strict=True), fontsize=8)
    axes.set_ylim(place - 1, -1)
    axes.set(xlabel=f"PCK@{alpha}, 95 % intervals (points asked in brackets)", xlim=(0, 1))
    axes.grid(axis="x", alpha=0.3)
    axes.legend(fontsize=8, loc="lower right")


def _pck(row: Mapping[str, Any], network: str, part: str) -> Mapping[str, Any]:
    return row["networks"][network]["parts"][part]["all"]["pck"]


def _whiskers(figures: Sequence[Mapping[str, float | None]], axis: str) -> dict[str, Any]:
    """Values with what lies below and above them; no whisker where there is no interval."""
    values = [one["value"] for one in figures]
    ends = [[0.0 if one[end] is None else abs(one["value"] - one[end]) for one in figures] for end in ("low", "high")]
    return {axis: values, f"{axis}err": ends}


def _title(found: Mapping[str, Any], part: str) -> str:
    """The model and every setting that was not varied."""
    network = found["settings"][0]["networks"]["trained"]
    measured = network["parts"][part]["all"]
    said = {name: network["extractor"].get(name) for name in ("size", "block", "timestep", "ensemble")}
    said |= {name: network["matching"][name] for name in ("refine", "align", "cycle")}
    said |= {"references": network["references"], "mirrored targets": network["mirrored"] or None}
    settings = ", ".join(
        f"{name} {word(value)}" for name, value in said.items() if value is not None and name not in found["sweep"]
    )
    animals = "" if part == "all" else f" ({part} half of the animals)"
    return (
        f"{found['model']['name']}: {settings}; {measured['points']} points in {measured['pairs']} pairs of "
        f"{measured['images']} crops{animals}"
    )


def word(value: object) -> str:
    """A setting's value as it is typed."""
    if value is None or isinstance(value, bool):
        return {True: "on", False: "off", None: "none"}[value]
    return str(value)
