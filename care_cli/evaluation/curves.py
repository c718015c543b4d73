"""A training in one picture: its loss, its learning rate, and what was measured on the way."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np

from care_cli.evaluation.plots import COLOURS
from care_cli.outputs import write_whole

POINTS = 300  # of a line at most: each is the mean of as many steps as it takes


def draw(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    """A PNG of a training's history: panels for the loss and its terms, the rate, and the validation, over epochs.

    rows  as history.jsonl has them: `loss`, its terms and `rate` of steps, `validation` of those that were measured
    """
    from matplotlib.figure import Figure

    steps = [row for row in rows if "loss" in row]
    measured = [row for row in rows if "validation" in row]
    figure = Figure(figsize=(5 * (3 if measured else 2), 3.6), layout="constrained")
    loss, rate, *validation = figure.subplots(1, 3 if measured else 2)
    terms = [name for name in steps[0] if name not in ("step", "epoch", "rate", "images_per_second")] if steps else []
    for name, colour in zip(terms, cycle(COLOURS), strict=False):
        loss.plot(*_means(steps, name), color=colour, label=name, linewidth=2 if name == "loss" else 1)
    loss.set(xlabel="epoch", ylabel="loss, weighted terms", ylim=(0, None))
    rate.plot(*_means(steps, "rate"), color=COLOURS[0])
    rate.set(xlabel="epoch", ylabel="learning rate", ylim=(0, None))
    for axes in validation:
        for name, colour in zip(measured[0]["validation"], cycle(COLOURS), strict=False):
            values = [row["validation"].get(name) for row in measured]
            axes.plot([row["epoch"] for row in measured], values, "o-", ms=3, color=colour, label=name)
        axes.set(xlabel="epoch", ylabel="validation")
    for axes in (loss, *validation):
        if axes.lines:
            axes.legend(fontsize=8)
    for axes in (loss, rate, *validation):
        axes.grid(alpha=0.3)
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=100)
    write_whole(path, stream.getvalue())


def _means(rows: Sequence[Mapping[str, Any]], name: str) -> tuple[list[float], list[float]]:
    """Epochs and values, each the mean of some steps in turn."""
    parts = np.array_split(np.arange(len(rows)), min(POINTS, len(rows))) if rows else []
    return tuple([float(np.mean([rows[i][what] for i in part])) for part in parts] for what in ("epoch", name))
