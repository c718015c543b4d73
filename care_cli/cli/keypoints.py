"""`care keypoints`: listing, setting, removing, drawing, export and import of named points."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from care_cli.cli.exchange import Overwrite, report
from care_cli.cli.output import Csv, emit, message, notice, open_catalog, table
from care_cli.outputs import refuse_catalog_among_photos

app = typer.Typer(invoke_without_command=True)

COLUMNS = ("crop", "name", "x", "y", "confidence", "margin", "cycle", "visible", "source", "species", "individual",
           "path")  # fmt: skip

Species = Annotated[str | None, typer.Option(help="Of animals of this species only.")]
Crops = Annotated[list[int] | None, typer.Option("--crop", help="Of this crop only; may be given again.")]
Run = Annotated[int | None, typer.Option(help="As this propagation or import left them.")]
Template = Annotated[str | None, typer.Option(help="Carried from this template only.")]
Source = Annotated[str | None, typer.Option(help="propagated, human or import.")]
Name = Annotated[str | None, typer.Option(help="Points of this name only.")]
Uncertain = Annotated[bool, typer.Option("--uncertain", help="Only points that are hidden or not sure.")]


@app.callback()
def keypoints(
    ctx: typer.Context,
    species: Species = None,
    crop: Crops = None,
    run: Run = None,
    template: Template = None,
    source: Source = None,
    name: Name = None,
    uncertain: Uncertain = False,
    csv: Csv = False,
) -> None:
    """List named points of animals, px of the upright photo; set, remove, draw, export or import them."""
    if ctx.invoked_subcommand:
        return
    from care_cli.stages import keypoints as stage

    wanted = stage.PointSelection(species, tuple(crop or ()), run, template, source, name, uncertain)
    with open_catalog(ctx) as catalog:
        rows = stage.rows(catalog, wanted)
    table(ctx, rows, COLUMNS, csv, empty="No point fits.")


@app.command("set")
def set_(
    ctx: typer.Context,
    crop: Annotated[int, typer.Argument(help="The crop's id, as `care crops` shows it.")],
    name: Annotated[str, typer.Argument(help="The point's name.")],
    x: Annotated[float, typer.Argument(help="px from the left edge of the upright photo.")],
    y: Annotated[float, typer.Argument(help="px from its upper edge.")],
    hidden: Annotated[bool, typer.Option("--hidden", help="It is there, but cannot be seen.")] = False,
    new: Annotated[bool, typer.Option("--new", help="The crop gets a point of a name it has not.")] = False,
) -> None:
    """Say where a point is; that wins over what models find."""
    from care_cli.stages import keypoints as stage

    with open_catalog(ctx) as catalog:
        done = stage.set_point(catalog, crop, name, x, y, not hidden, new)
    if ctx.obj.json:
        emit(done)
    else:
        before = done["before"]
        was = f", was at ({before['x']:.1f}, {before['y']:.1f})" if before else ""
        notice(ctx)(f"Crop {crop}: {name} is at ({x:g}, {y:g}){was}.")


@app.command("remove")
def remove(
    ctx: typer.Context,
    run: Annotated[int | None, typer.Option(metavar="N", help="All points of this propagation or import.")] = None,
    crop: Annotated[int | None, typer.Option(metavar="C", help="What was set by hand or imported on it.")] = None,
    name: Annotated[str | None, typer.Option(help="With --crop: the point of this name only.")] = None,
) -> None:
    """Delete points: those of a run, or what was said of a crop."""
    from care_cli.stages import keypoints as stage

    with open_catalog(ctx) as catalog:
        done = stage.remove(catalog, run, crop, name)
    if ctx.obj.json:
        emit(done)
    else:
        what = f"run {run}; the same command makes them anew" if crop is None else f"crop {crop}"
        print(f"Removed {done['points']} {'point' if done['points'] == 1 else 'points'} of {what}.")


@app.command("sheet")
def sheet(
    ctx: typer.Context,
    file: Annotated[Path, typer.Argument(help="FILE.jpg; more pages are FILE-2.jpg, ...")],
    most: Annotated[int, typer.Option(metavar="N", help="Crops at most, evenly drawn.", min=1)] = 60,
    species: Species = None,
    crop: Crops = None,
    run: Run = None,
    template: Template = None,
    source: Source = None,
    name: Name = None,
    uncertain: Uncertain = False,
) -> None:
    """Draw crops with their points, coloured by confidence."""
    from care_cli.stages import keypoints as stage

    wanted = stage.PointSelection(species, tuple(crop or ()), run, template, source, name, uncertain)
    with open_catalog(ctx) as catalog:
        done = stage.sheet(catalog, file, wanted, most)
    if ctx.obj.json:
        emit(done)
    else:
        message(f"{done['shown']} of {done['crops']} crops with points: {', '.join(done['files'])}")


@app.command("export")
def export(
    ctx: typer.Context,
    file: Annotated[Path, typer.Argument(help="JSON file to write.")],
    species: Species = None,
    crop: Crops = None,
    run: Run = None,
    template: Template = None,
    source: Source = None,
    name: Name = None,
    uncertain: Uncertain = False,
    overwrite: Overwrite = False,
) -> None:
    """Write points as COCO keypoints; --source human leaves out what models found."""
    from care_cli.stages import keypoints as stage

    wanted = stage.PointSelection(species, tuple(crop or ()), run, template, source, name, uncertain)
    with open_catalog(ctx) as catalog:
        done = stage.export(catalog, file, wanted, overwrite)
    report(ctx, done)


@app.command("import")
def import_(
    ctx: typer.Context,
    file: Annotated[Path, typer.Argument(help="COCO keypoints (.json), or a table crop,name,x,y,visible (.csv).")],
    images: Annotated[Path | None, typer.Option(help="Folder that the photos' paths in the file begin at.")] = None,
    species: Annotated[str | None, typer.Option(help="Species of all animals, not their category's name.")] = None,
) -> None:
    """Take in points that people set: they count as true, and win over what models find.

    Of a file that CARE wrote, points that a model found are left out, unless somebody moved them.
    """
    from care_cli.stages import import_keypoints as stage

    if images is not None:
        refuse_catalog_among_photos(ctx.obj.catalog, [images])
    stage.check(file, images)  # a wrong file or folder begins no catalog
    with open_catalog(ctx, create=images is not None) as catalog:
        done = stage.run(catalog, file, images, species)
    report(ctx, done)
    if done["left_out"] and not ctx.obj.json:
        notice(ctx)(f"{done['left_out']} points that a model found were left out.")
    if done["failed"]:
        raise typer.Exit(1)
