"""`care index`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from care_cli.cli import output


def index(
    ctx: typer.Context,
    model: Annotated[
        str | None, typer.Option(help="Name, our safetensors file, or timm:NAME.  [default: the newest trained]")
    ] = None,
    weights: Annotated[Path | None, typer.Option(help="Weights file for timm:NAME.")] = None,
    species: Annotated[str | None, typer.Option(help="Only crops of this species.")] = None,
    confidence: Annotated[float | None, typer.Option(help="Instead of the detector's shown threshold.")] = None,
    batch: Annotated[
        int | None, typer.Option(metavar="N", help="Crops a forward pass.  [default: what suits]", min=1)
    ] = None,
    engine: output.Engine = "auto",
    precision: output.Precision = "auto",
    run: Annotated[int | None, typer.Option(help="A detect run other than the active one.")] = None,
) -> None:
    """Embed animal crops with a model; run it again after new photos."""
    from care_cli import registry
    from care_cli.records import Selection
    from care_cli.stages import index as stage
    from care_cli.stages import shown_points, trained, viewpoints
    from care_cli.stages.devices import choose

    with output.open_catalog(ctx) as catalog:
        cfg = stage.IndexConfig(
            spec=trained.find(catalog, model, weights)
            if model
            else trained.newest(catalog, catalog.notice) or registry.default("index"),
            device=choose(ctx.obj.device),
            engine=engine,
            precision=precision,
            batch=batch,
            selection=Selection(category="animal", species=species, confidence=confidence, run=run),
        )
        done = stage.run(catalog, cfg)
    if ctx.obj.json:
        output.emit(done)
    else:
        new = f"{done['new']} new"
        what = "points" if done["points"] else "camera or flank"
        new += f" ({done['changed']} because their {what} changed)" if done["changed"] else ""
        print(f"{done['crops']} crops in the index of {done['model']} ({done['dim']} numbers each), {new}.")
        output.notice(ctx)(f"Run {done['run']}: {done['seconds']:.1f} s. Next: `care identify PHOTO`.")
        if done["points"]:
            output.notice(ctx)(shown_points.in_words(done["points"]))
        if done["viewpoints"]:
            output.notice(ctx)(viewpoints.in_words(done["viewpoints"]))
    if done["without_pixels"]:
        output.notice(ctx)(f"{len(done['without_pixels'])} animals have no pixels; `care doctor` says what to do.")
    if done["damaged"]:
        output.message(f"Crops whose pixels are damaged: {', '.join(map(str, done['damaged']))}. Run `care doctor`.")
        raise typer.Exit(1)
