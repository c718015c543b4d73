"""The picture of a table's cells: what each reached with its interval, and the paper's figures beside it."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from care_cli.evaluation.plots import COLOURS
from care_cli.outputs import write_whole

if TYPE_CHECKING:
    from matplotlib.axes import Axes

WORDS = {"top1": "top-1, %", "mAP": "mAP, %"}


def plot(panels: Mapping[str, Sequence[Mapping[str, Any]]], metrics: Sequence[str], title: str, path: Path) -> None:
    """Draw rows of cells, a column of panels a data set (`panels`, by name) and a row a metric, to a file."""
    write_whole(path, drawn(panels, metrics, title, path.suffix[1:].lower()))


def drawn(
    panels: Mapping[str, Sequence[Mapping[str, Any]]], metrics: Sequence[str], title: str, form: str = "png"
) -> bytes:
    """The same as a picture's bytes: a colour for each size of backbone, filled what was measured here with 95 %
    t-intervals over seeds, hollow what the paper prints; lines join amounts (w = 2, w = 4), but no methods."""
    from matplotlib.figure import Figure

    variants = max(len({row["variant"] for row in rows}) for rows in panels.values())
    width = max(5.0, 1.5 + 0.9 * variants) if len(panels) == 1 else max(2.6, 0.8 + 0.55 * variants) * len(panels)
    figure = Figure(figsize=(width, 0.9 + 3.3 * len(metrics)), layout="constrained")
    grid = figure.subplots(len(metrics), len(panels), squeeze=False)
    for across, (dataset, rows) in enumerate(panels.items()):
        for down, metric in enumerate(metrics):
            _panel(grid[down][across], rows, metric, dataset, across == 0)
            if down == 0 and len(panels) > 1:
                grid[down][across].set_title(dataset, fontsize=9)
    figure.suptitle(title, fontsize=10)
    stream = io.BytesIO()
    figure.savefig(stream, format=form, dpi=150)
    return stream.getvalue()


def _panel(axes: Axes, rows: Sequence[Mapping[str, Any]], metric: str, dataset: str, named: bool) -> None:
    sizes = list(dict.fromkeys(row["size"] for row in rows))
    variants = list(dict.fromkeys(row["variant"] for row in rows))
    amounts = len({re.sub(r"[\d.]+", "", variant) for variant in variants}) == 1
    for number, size in enumerate(sizes):
        own = [row for row in rows if row["size"] == size]
        colour, beside = COLOURS[number % len(COLOURS)], 0.08 * (number - (len(sizes) - 1) / 2)
        measured = [(variants.index(row["variant"]) + beside, row["metrics"][metric]) for row in own if row["metrics"]]
        if measured:
            axes.errorbar(
                [x for x, _ in measured], [100 * one["mean"] for _, one in measured],
                [100 * (one["half"] or 0) for _, one in measured],
                fmt="o-" if amounts else "o", ms=5, capsize=3, color=colour, label=size,
            )  # fmt: skip
        printed = [
            (variants.index(row["variant"]) + beside, row["published"][metric], row["published"].get(f"{metric}_half"))
            for row in own
            if (row["published"] or {}).get(metric) is not None
        ]
        if printed:
            places, shares, halves = zip(*printed, strict=True)
            axes.errorbar(
                places, [100 * share for share in shares], [100 * (half or 0) for half in halves],
                fmt="D:" if amounts else "D", mfc="none", ms=5, lw=1, color=colour,
                label=_paper(size if len(sizes) > 1 else "", dataset),
            )  # fmt: skip
    long = len(variants) > 5 or max(map(len, variants)) > 9
    axes.set_xticks(range(len(variants)), variants, rotation=30 if long else 0, fontsize=8)
    axes.set_xlim(-0.5, len(variants) - 0.5)
    low, high = axes.get_ylim()
    axes.set_ylim(max(low, -2), min(high, 102))  # an interval over few seeds may leave the shares that can be
    axes.set_ylabel(WORDS.get(metric, metric) if named else "")
    axes.grid(axis="y", alpha=0.3)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(fontsize=7)


def _paper(size: str, dataset: str) -> str:
    return f"{f'{size}, ' if size else ''}paper{f' ({dataset})' if dataset else ''}"
