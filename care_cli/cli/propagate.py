"""`care propagate-keypoints`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from care_cli.cli import output


def propagate_keypoints(
    ctx: typer.Context,
    template: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="Annotated reference; may be given several times.")
    ] = None,
    species: Annotated[str | None, typer.Option(help="Only crops of this species.")] = None,
    confidence: Annotated[float | None, typer.Option(help="Instead of the detector's shown threshold.")] = None,
    extractor: Annotated[str | None, typer.Option(help="sd, sd:NAME or FOLDER, timm:NAME, or a registry name.")] = None,
    weights: Annotated[Path | None, typer.Option(help="Weights file for --extractor timm:NAME.")] = None,
    size: Annotated[
        int | None, typer.Option(metavar="PX", help="Side of the square that crops are squashed to.")
    ] = None,
    block: Annotated[
        int | None, typer.Option(metavar="N", help="Up-block or stage that features are taken of.")
    ] = None,
    timestep: Annotated[int | None, typer.Option(metavar="T", help="Noise of a diffusion model, 0..999.")] = None,
    ensemble: Annotated[int | None, typer.Option(metavar="N", help="Draws of noise that are averaged.")] = None,
    prompt: Annotated[str, typer.Option(help="What crops show, for models with words.")] = "a photo of a {species}",
    refine: Annotated[str, typer.Option(help="soft (between cells) or argmax (the highest cosine).")] = "soft",
    align: Annotated[bool, typer.Option("--align/--no-align", help="Match the mirrored reference too.")] = False,
    cycle: Annotated[float, typer.Option(metavar="X", help="Sure up to this error there and back.")] = 0.1,
    no_cycle: Annotated[bool, typer.Option("--no-cycle", help="Sure whatever the way back says.")] = False,
    least: Annotated[float | None, typer.Option(metavar="X", help="Sure from this cosine.")] = None,
    batch: Annotated[
        int | None, typer.Option(metavar="N", help="Crops a forward pass.  [default: what suits]", min=1)
    ] = None,
    engine: output.Engine = "auto",
    precision: output.Precision = "auto",
    sheet: Annotated[Path | None, typer.Option(help="Write a picture of crops with their points: FILE.jpg.")] = None,
    run: Annotated[int | None, typer.Option(help="A detect run other than the active one.")] = None,
) -> None:
    """Carry named points from an annotated crop to all crops; run it again after new photos."""
    from care_cli import registry
    from care_cli.pages.keypoint_sheet import check
    from care_cli.records import Selection
    from care_cli.stages import keypoints
    from care_cli.stages import propagate as stage
    from care_cli.stages.devices import choose

    device = choose(ctx.obj.device)
    role = f"propagate:{device.partition(':')[0]}"
    with output.open_catalog(ctx) as catalog:
        if sheet:
            check(sheet, catalog.scanned_folders())
        cfg = stage.PropagateConfig(
            spec=registry.find_extractor(extractor, weights) if extractor else registry.default(role),
            templates=tuple(template or ()),
            features=stage.FeatureConfig(size, block, timestep, ensemble),
            match=stage.MatchConfig(refine=refine, align=align, cycle=None if no_cycle else cycle, least=least),
            prompt=prompt,
            device=device,
            engine=engine,
            precision=precision,
            batch=batch,
            selection=Selection(category="animal", species=species, confidence=confidence, run=run),
        )
        done = stage.run(catalog, cfg)
        if sheet:
            runs = done["runs"]
            wanted = keypoints.PointSelection(species, run=runs[0] if len(runs) == 1 else None)
            done["sheet"] = keypoints.sheet(catalog, sheet, wanted)["files"]
    show(ctx, done)
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
        if done.get("sheet"):
            output.notice(ctx)(f"Sheet: {', '.join(done['sheet'])}")
    for species, crops in done["without_template"].items():
        output.message(f"{crops} crops of {species} have no template; annotate one: `care templates add`.")
    if done["without_pixels"]:
        output.notice(ctx)(f"{len(done['without_pixels'])} animals have no pixels; `care doctor` says what to do.")
    for reason, words in (("too_small", "too small for points"), ("damaged", "damaged; run `care doctor`")):
        if done[reason]:
            output.message(f"Crops that are {words}: {', '.join(map(str, done[reason]))}.")
