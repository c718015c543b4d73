"""The picture of an ablation: top-1 of each cell with its interval, and the paper's beside it."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from care_cli.evaluation.plots import COLOURS
from care_cli.outputs import write_whole


def plot(found: Mapping[str, Any], path: Path) -> None:
    """Draw what `care evaluate ablation` found: a line for each size of backbone, filled what was measured here with
    95 % t-intervals over seeds, hollow what the paper prints."""
    from matplotlib.figure import Figure

    sizes = list(dict.fromkeys(row["size"] for row in found["rows"]))
    variants = list(dict.fromkeys(row["variant"] for row in found["rows"]))
    figure = Figure(figsize=(max(5.0, 1.5 + 0.9 * len(variants)), 4.2), layout="constrained")
    axes = figure.subplots()
    for number, size in enumerate(sizes):
        rows = [row for row in found["rows"] if row["size"] == size]
        colour, beside = COLOURS[number % len(COLOURS)], 0.08 * (number - (len(sizes) - 1) / 2)
        measured = [(variants.index(row["variant"]) + beside, row["metrics"]["top1"]) for row in rows if row["metrics"]]
        if measured:
            axes.errorbar(
                [x for x, _ in measured], [100 * top1["mean"] for _, top1 in measured],
                [100 * (top1["half"] or 0) for _, top1 in measured],
                fmt="o-", ms=5, capsize=3, color=colour, label=size,
            )  # fmt: skip
        printed = [(variants.index(row["variant"]) + beside, row["published"]) for row in rows if row["published"]]
        if printed:
            places, shares = zip(*printed, strict=True)
            label = f"{size}, paper ({found['published']['dataset']})"
            axes.plot(places, [100 * share for share in shares], "D:", mfc="none", ms=5, color=colour, label=label)
    axes.set_xticks(range(len(variants)), variants, rotation=20 if len(variants) > 5 else 0)
    axes.set(ylabel="top-1, %", title=f"{found['ablation']}: {found['about']}")
    axes.title.set_fontsize(10)
    axes.grid(axis="y", alpha=0.3)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(fontsize=8)
    stream = io.BytesIO()
    figure.savefig(stream, format=path.suffix[1:].lower(), dpi=150)
    write_whole(path, stream.getvalue())
