"""`care evaluate detector`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from care_cli.cli import output
from care_cli.cli.train_detector import show_left_out


def detector(
    ctx: typer.Context,
    model: Annotated[str, typer.Option(help="A detector's name, or a weights file.", show_default=False)],
    data: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Labelled photos.  [default: those that it was trained with here]"),
    ] = None,
    part: Annotated[str | None, typer.Option(help="train, val or test.  [default: test, else val]")] = None,
    known_places: Annotated[
        bool, typer.Option("--known-places", help="Examine it even at places that it has learned from.")
    ] = False,
    image_size: Annotated[int | None, typer.Option(metavar="N", help="Input of the network, px.", min=32)] = None,
    report: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Write a page with tables and what went wrong.")
    ] = None,
    engine: output.Engine = "auto",
    precision: output.Precision = "auto",
    csv: output.Csv = False,
) -> None:
    """Measure how well a detector finds and names what is on labelled photos of places that it does not know."""
    from care_cli.stages import detector_report as page
    from care_cli.stages import evaluate_detector as stage
    from care_cli.stages.devices import choose
    from care_cli.stages.report import check

    cfg = stage.EvaluateConfig(
        model=model, data=data, part=part, known_places=known_places, image_size=image_size,
        device=choose(ctx.obj.device), engine=engine, precision=precision,
    )  # fmt: skip
    with output.standing_catalog(ctx) as catalog:
        if report is not None:
            check(catalog, report)
        seen = stage.run(catalog, cfg, output.notice(ctx))
        if report is not None:
            page.write(catalog, seen, report)
    _show(ctx, seen.result, page.rows(seen.result), csv)


def _show(ctx: typer.Context, result: dict, rows: list[dict], csv: bool) -> None:
    """A table of the classes and what the figures do not say; exit code 1 where photos could not be used."""
    if ctx.obj.json:
        output.emit(result)
    else:
        output.table(ctx, rows, csv=csv)
        say, empties = output.notice(ctx), result["empties"]
        say(
            f"{result['model']} on {result['photos']} photos of the part {result['part']}, shown from confidence "
            f"{result['shown_from']:g}; {empties['with_boxes']} of {empties['photos']} empty photos have a box."
        )
        for light, figures in result["lighting"].items():
            if figures["photos"]:
                values = {name: output.text(figures[name]) for name in ("mAP50", "recall", "precision")}
                said = ", ".join(f"{name} {value}" for name, value in values.items())
                say(f"{light}: {figures['photos']} photos, {said}.")
        for remark in result["remarks"]:
            say(remark)
        show_left_out(ctx, result["left_out"])
    if result["left_out"]:
        raise typer.Exit(1)
