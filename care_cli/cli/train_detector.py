"""`care train --method detector`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import typer

from care_cli.cli import output
from care_cli.cli.exchange import named
from care_cli.errors import CareError

FIGURES = ("recall", "precision", "mAP50", "mAP50_95")


def train(
    ctx: typer.Context,
    asked: dict[str, Any],
    given: dict[str, Any],
    *,
    batch: str | None,
    patience: int | None,
    texts: Sequence[str],
    csv: bool,
) -> None:
    """Train a detector: `asked` are parts of the request, `given` settings by name, `texts` those of --set."""
    from care_cli import recipes
    from care_cli.stages import train_detector as stage
    from care_cli.stages.devices import choose

    if asked["recipe"]:
        of_recipe = [text for text in texts if text.partition("=")[0] in recipes.SETTINGS.keys() - {"seed"}]
        texts = [text for text in texts if text not in of_recipe]
        asked["recipe"] = recipes.load(asked["recipe"]).changed(named(of_recipe))
    if asked["recipe"] and not ctx.obj.quiet:
        for line in asked["recipe"].lines():
            output.message(line)
    settings = given | {"batch": _whole("--batch", batch), "patience": patience}
    settings["epochs"] = _whole("--epochs", given.get("epochs"))
    settings["flip"] = settings.pop("augmentation.flip", None)
    settings = {name: value for name, value in settings.items() if value is not None}
    settings |= stage.overrides(texts)
    request = stage.DetectorRequest(**asked, device=choose(ctx.obj.device), settings=settings)
    with output.open_catalog(ctx, create=True) as catalog:
        done = stage.run(catalog, request)
    show(ctx, done, csv)
    if done["left_out"] or done["missing"]:
        raise typer.Exit(1)


def _whole(option: str, value: str | float | None) -> int | None:
    """A whole number from 1. CareError for anything else."""
    if value is None:
        return None
    try:
        whole = int(value) if float(value) == int(float(value)) else 0
    except (ValueError, OverflowError):
        whole = 0
    if whole < 1:
        raise CareError(f"{option} of a detector is a whole number from 1, but got {value}.")
    return whole


def show(ctx: typer.Context, done: dict, csv: bool) -> None:
    """The models with what they reach on the part that they were examined on."""
    if ctx.obj.json:
        output.emit(done)
        return
    examined = [model["metrics"].get("examination", {}) for model in done["models"]]
    rows = [
        {"model": model["name"], "seed": model["seed"], "epoch": model["epoch"], "examined_on": figures.get("part"),
         **{name: figures.get(name) for name in FIGURES}, "new": "yes" if model["new"] else "stood",
         "file": model["file"]}
        for model, figures in zip(done["models"], examined, strict=True)
    ]  # fmt: skip
    output.table(ctx, rows, csv=csv)
    show_left_out(ctx, done["left_out"])
    name = done["models"][-1]["name"]
    output.notice(ctx)(
        "Recall and precision are of what is shown. Next: `care evaluate detector --model "
        f"{name} --report FOLDER`, `care detect --model {name}`."
    )


def show_left_out(ctx: typer.Context, left_out: Sequence[dict[str, str]], most: int = 5) -> None:
    """How many photos could not be used, and some of them with the reason."""
    if not left_out:
        return
    output.message(f"Left out: {len(left_out)} photos or labels that cannot be used.")
    for fault in left_out if ctx.obj.verbose else left_out[:most]:
        output.message(f"  {fault['file']}: {fault['why']}")
    if len(left_out) > most and not ctx.obj.verbose:
        output.message("  ... all of them with --json or --verbose.")
