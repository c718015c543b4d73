"""`care crops`: what was found, and setting species, category or flank by hand."""

from __future__ import annotations

from typing import Annotated

import typer

from care_cli.cli.images import check_filters, check_preset
from care_cli.cli.output import Csv, Preset, emit, message, open_catalog, table
from care_cli.errors import CareError

app = typer.Typer(invoke_without_command=True)

COLUMNS = ("crop", "category", "species", "flank", "confidence", "individual", "taken_at", "deployment", "path")


@app.callback()
def crops(
    ctx: typer.Context,
    category: Annotated[str | None, typer.Option(help="animal, person or vehicle.")] = None,
    animals: Annotated[bool, typer.Option("--animals", help="Short for --category animal.")] = False,
    species: Annotated[str | None, typer.Option(help="Of this species only.")] = None,
    flank: Annotated[str | None, typer.Option(help="left, right, front, back or unknown.")] = None,
    deployment: Annotated[str | None, typer.Option(help="Of this deployment only.")] = None,
    site: Annotated[str | None, typer.Option(help="Of this site only.")] = None,
    since: Annotated[str | None, typer.Option(metavar="YYYY-MM-DD", help="From this day on.")] = None,
    until: Annotated[str | None, typer.Option(metavar="YYYY-MM-DD", help="Up to this day.")] = None,
    confidence: Annotated[float | None, typer.Option(help="Instead of the model's shown threshold.")] = None,
    individual: Annotated[str | None, typer.Option(help="Of this animal only.")] = None,
    unnamed: Annotated[bool, typer.Option("--unnamed", help="Animals without a name only.")] = False,
    undated: Annotated[bool, typer.Option("--undated", help="Of photos without a date only.")] = False,
    run: Annotated[int | None, typer.Option(help="A detect run other than the newest.")] = None,
    preset: Preset = None,
    csv: Csv = False,
) -> None:
    """List crops, or set what they show: `care crops set`."""
    if ctx.invoked_subcommand:
        return
    from care_cli.records import CATEGORIES, FLANKS, Selection

    if (animals or unnamed) and category not in (None, "animal"):
        raise CareError(f"--animals and --unnamed mean animals, but --category says {category}.")
    category = "animal" if animals or unnamed else category
    for option, value, known in (("--category", category, CATEGORIES), ("--flank", flank, FLANKS)):
        if value not in (None, *known):
            raise CareError(f"{option} is one of {', '.join(known)}, but got {value!r}.")
    check_filters(since, until, confidence)
    check_preset(preset)
    selection = Selection(
        category=category, species=species, flank=flank, deployment=deployment, site=site, since=since, until=until,
        confidence=confidence, individual=individual, unnamed=unnamed, undated=undated, run=run,
        preset=preset,
    )  # fmt: skip
    with open_catalog(ctx) as catalog:
        if individual is not None:
            catalog.find_individual(individual)
        rows = catalog.crop_rows(selection)
    table(ctx, rows, COLUMNS, csv, empty="No crop fits.")


@app.command("set")
def set_(
    ctx: typer.Context,
    crops: Annotated[list[int], typer.Argument(metavar="CROP", help="Ids as `care crops` shows them.")],
    species: Annotated[str | None, typer.Option(help="What species it is.")] = None,
    category: Annotated[str | None, typer.Option(help="animal, person or vehicle.")] = None,
    flank: Annotated[str | None, typer.Option(help="left, right, front, back or unknown.")] = None,
) -> None:
    """Say what crops show; a person's pixels are deleted for good."""
    from care_cli.stages import crops as stage

    with open_catalog(ctx) as catalog:
        done = stage.set_crops(catalog, crops, species=species, category=category, flank=flank)
    if ctx.obj.json:
        emit(done)
    elif not ctx.obj.quiet:
        message(f"{done['changed']} crops set, {done['unchanged']} were so already.")
    if gone := done["templates"]:
        said, them = ("Template {} was on it: it is", "it") if len(gone) == 1 else ("Templates {} are", "them")
        points = f"{done['points']} {'point' if done['points'] == 1 else 'points'}"
        message(f"{said.format(', '.join(gone))} deleted, with {points} carried from {them}.")
    for crop in done["without_pixels"]:
        message(f"Crop {crop} has no pixels: its photo is not within reach. Connect its card and set it again.")
