"""`care propagate-keypoints`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from care_cli.cli import extractors as options
from care_cli.cli import output


def propagate_keypoints(
    ctx: typer.Context,
    template: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME", help="Annotated reference; several are used together.  [default: each species' own]"
        ),
    ] = None,
    species: Annotated[str | None, typer.Option(help="Only crops of this species.")] = None,
    confidence: Annotated[
        float | None, typer.Option(help="Only crops detected with this, 0 to 1.  [default: the detector's threshold]")
    ] = None,
    extractor: options.Extractor = None,
    weights: options.Weights = None,
    size: options.Size = None,
    block: options.Block = None,
    timestep: options.Timestep = None,
    ensemble: options.Ensemble = None,
    prompt: options.Prompt = None,
    refine: options.Refine = None,
    align: options.Align = None,
    cycle: options.Cycle = None,
    no_cycle: options.NoCycle = False,
    least: options.Least = None,
    batch: Annotated[
        int | None, typer.Option(metavar="N", help="Crops a forward pass.  [default: what suits]", min=1)
    ] = None,
    engine: output.Engine = "auto",
    precision: output.Precision = "auto",
    sheet: Annotated[Path | None, typer.Option(help="Write a picture of crops with their points: FILE.jpg.")] = None,
    run: Annotated[int | None, typer.Option(help="A detect run other than the active one.")] = None,
) -> None:
    """Carry named points from an annotated crop to all crops; run it again after new photos."""
    from care_cli.pages.keypoint_sheet import check
    from care_cli.records import Selection
    from care_cli.stages import propagate as stage

    with output.open_catalog(ctx) as catalog:
        if sheet:
            check(sheet, catalog.scanned_folders())
        device, spec, setting = options.asked(ctx)
        cfg = stage.PropagateConfig(
            spec=spec,
            templates=tuple(template or ()),
            features=setting.features,
            match=setting.match,
            prompt=prompt,
            device=device,
            engine=engine,
            precision=precision,
            batch=batch,
            selection=Selection(category="animal", species=species, confidence=confidence, run=run),
        )
        done = stage.run(catalog, cfg)
        show(ctx, done)
        if sheet:
            shown = stage.sheet(catalog, cfg, done["runs"], sheet)
            output.notice(ctx)(f"Sheet: {', '.join(shown['files'])}")
    if done["too_small"] or done["damaged"]:
        raise typer.Exit(1)


def show(ctx: typer.Context, done: dict) -> None:
    """What came of it."""
    if ctx.obj.json:
        output.emit(done)
    else:
        unsure = "" if done["uncertain"] is None else f", {100 * done['uncertain']:.0f} % of their points unsure"
        print(f"{done['crops']} crops with points by {done['model']}, {done['new']} new{unsure}.")
        runs = ", ".join(map(str, done["runs"]))
        output.notice(ctx)(f"Run {runs}: {done['seconds']:.1f} s. Next: `care keypoints`.")
    for species, crops in done["without_template"].items():
        output.message(f"{crops} crops of {species} have no template; annotate one: `care templates add`.")
    if done["without_pixels"]:
        output.notice(ctx)(f"{len(done['without_pixels'])} animals have no pixels; `care doctor` says what to do.")
    for reason, words in (("too_small", "too small for points"), ("damaged", "damaged; run `care doctor`")):
        if done[reason]:
            output.message(f"Crops that are {words}: {', '.join(map(str, done[reason]))}.")
