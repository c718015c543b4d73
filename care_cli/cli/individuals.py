"""`care individuals`: who has been seen, and everything that is decided about names."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from care_cli.cli.output import Csv, emit, message, open_catalog, table

app = typer.Typer(help="List, show, name, rename, merge, split, undo.", no_args_is_help=True, rich_markup_mode=None)

Crops = Annotated[list[int], typer.Argument(metavar="CROP", help="Ids as `care crops` shows them.")]
Name = Annotated[str, typer.Argument(help="An individual's name.")]

LIST = ("individual", "species", "flanks", "crops", "events", "sites", "first_seen", "last_seen")
SIGHTINGS = ("crop", "taken_at", "deployment", "site", "species", "flank", "path")
SITES = ("site", "crops", "events", "first_seen", "last_seen")
LOG = ("decision", "at", "who", "source", "action", "crop", "individual", "other", "value", "undoes", "note")


@app.command("list")
def list_(ctx: typer.Context, csv: Csv = False) -> None:
    """All individuals with their sightings."""
    with open_catalog(ctx) as catalog:
        table(ctx, catalog.individual_rows(), LIST, csv, empty="No animal has a name yet; see `care individuals name`.")


@app.command()
def show(
    ctx: typer.Context,
    name: Name,
    sheet: Annotated[Path | None, typer.Option(metavar="FILE.jpg", help="Write its photos on one sheet.")] = None,
) -> None:
    """Sightings, dates, sites and decisions.

    The whole history of one individual, with --sheet its photos too.
    """
    from care_cli.pages.sheet import check
    from care_cli.stages import individuals as stage

    with open_catalog(ctx) as catalog:
        if sheet:
            check(sheet, catalog.scanned_folders())
        found = stage.show(catalog, name)
        if sheet:
            stage.write_sheet(catalog, found, sheet)
            message(f"The photos of {name} are on {sheet}.")
    if ctx.obj.json:
        emit(found)
        return
    seen, events = _several(found["crops"], "sighting"), _several(found["events"], "event")
    print(f"{found['individual']}: {seen} in {events}", end="")
    print(f", {found['first_seen']} to {found['last_seen']}" if found["first_seen"] else "")
    for title, columns in (("sites", SITES), ("sightings", SIGHTINGS), ("decisions", LOG)):
        print(f"\n{title}")
        rows = _brief(ctx, False, found[title]) if title == "decisions" else found[title]
        table(ctx, rows, columns, empty="none")


@app.command()
def name(
    ctx: typer.Context,
    crops: Annotated[list[int] | None, typer.Argument(metavar="CROP", help="Ids as `care crops` shows.")] = None,
    individual: Annotated[str | None, typer.Option("--as", metavar="NAME", help="A known or a new name.")] = None,
    file: Annotated[
        Path | None,
        typer.Option("--from", metavar="FILE.csv", help="Columns crop,individual or path,x,y,w,h,individual."),
    ] = None,
) -> None:
    """Say which animal the crops show.

    --as NAME for a few of them, --from FILE.csv for many.
    """
    from care_cli.errors import CareError
    from care_cli.stages import individuals as stage

    if (file is None) == (individual is None) or bool(crops) == bool(file):
        raise CareError("Give crops and --as NAME, or --from FILE.csv alone.")
    with open_catalog(ctx) as catalog:
        if file is None:
            done = stage.name(catalog, crops, individual)
            _answer(ctx, done, _named(done))
            return
        done = stage.name_from(catalog, file)
    new = f"; new individuals: {done['new']}" if done["new"] else ""
    _answer(ctx, done, f"{_crops(done['named'])} named, {done['already']} were so already{new}.")
    if done["unmatched"]:
        message(f"{len(done['unmatched'])} rows were left out:")
        for row in done["unmatched"]:
            message(f"  row {row['row']}: {row['reason']}")
        raise typer.Exit(1)


@app.command()
def unname(ctx: typer.Context, crops: Crops) -> None:
    """Take the name off crops."""
    from care_cli.stages import individuals as stage

    with open_catalog(ctx) as catalog:
        done = stage.unname(catalog, crops)
    _answer(ctx, done, f"{_crops(len(done['crops']))} without a name now.")


@app.command()
def rename(
    ctx: typer.Context, old: Name, new: Annotated[str, typer.Argument(help="A name that no other has.")]
) -> None:
    """Call an individual by another name."""
    from care_cli.stages import individuals as stage

    with open_catalog(ctx) as catalog:
        done = stage.rename(catalog, old, new)
    _answer(ctx, done, f"{old} is now called {done['individual']}.")


@app.command()
def merge(
    ctx: typer.Context, name: Name, into: Annotated[str, typer.Option(metavar="NAME", help="Whose name stays.")]
) -> None:
    """Two names, one animal.

    All crops of NAME become those of --into.
    """
    from care_cli.stages import individuals as stage

    with open_catalog(ctx) as catalog:
        done = stage.merge(catalog, name, into)
    _answer(ctx, done, f"{name} is {into}: {_crops(done['crops'])} moved. `care individuals undo {done['decision']}`.")
    _warn(done["contradictions"])


@app.command()
def split(
    ctx: typer.Context,
    name: Name,
    crops: Annotated[str, typer.Option(metavar="3,5,...", help="The crops that show another animal.")],
    individual: Annotated[str, typer.Option("--as", metavar="NAME", help="The other animal's new name.")],
) -> None:
    """One name, two animals.

    Some crops of NAME become a new individual.
    """
    from care_cli.stages import individuals as stage

    with open_catalog(ctx) as catalog:
        done = stage.split(catalog, name, stage.crop_numbers(crops), individual)
    _answer(ctx, done, f"{_crops(len(done['crops']))} of {name} now {done['individual']}.")


@app.command()
def different(ctx: typer.Context, a: Name, b: Name) -> None:
    """These two are not the same animal.

    A merge that makes them one will be called a contradiction.
    """
    from care_cli.stages import individuals as stage

    with open_catalog(ctx) as catalog:
        done = stage.different(catalog, a, b)
    _answer(ctx, done, f"{a} and {b} are noted as two animals.")
    _warn(done["contradictions"])


@app.command()
def undo(
    ctx: typer.Context, decision: Annotated[int, typer.Argument(help="Its number in `care individuals log`.")]
) -> None:
    """Take one decision back.

    Later ones stay as far as they still apply; those that do not are shown as conflicts.
    """
    from care_cli.stages import individuals as stage

    with open_catalog(ctx) as catalog:
        done = stage.undo(catalog, decision)
    _answer(ctx, done, f"Decision {decision} ({done['action']}) is undone, by decision {done['decision']}.")
    for conflict in done["conflicts"]:
        message(f"Conflict: decision {conflict['decision']} no longer applies: {conflict['reason']}.")
    for crop in done["without_pixels"]:
        message(f"Crop {crop} has no pixels: its photo is not within reach.")


@app.command()
def log(ctx: typer.Context, name: Annotated[str | None, typer.Argument()] = None, csv: Csv = False) -> None:
    """Every decision, or those about one animal.

    Undone ones are marked.
    """
    from care_cli.stages import individuals as stage

    with open_catalog(ctx) as catalog:
        rows = stage.log(catalog, name)
    table(ctx, _brief(ctx, csv, rows), LOG, csv, empty="Nothing has been decided yet.")


@app.command()
def conflicts(ctx: typer.Context) -> None:
    """What no longer applies, what contradicts.

    Decisions that lost their ground by an undo, and merges of what was said to differ.
    """
    from care_cli.stages import individuals as stage

    with open_catalog(ctx) as catalog:
        found = stage.conflicts(catalog)
    if ctx.obj.json:
        emit(found)
        return
    for conflict in found["conflicts"]:
        print(f"Conflict: decision {conflict['decision']} no longer applies: {conflict['reason']}.")
    for contradiction in found["contradictions"]:
        print(f"Contradiction: {contradiction['text']}")
    if not any(found.values()):
        message("No conflicts and no contradictions.")


def _named(done: dict) -> str:
    """What naming crops did, in words."""
    count, who = len(done["decisions"]), done["individual"]
    moved = "".join(f" Crop {crop} was {before}." for crop, before in done["moved"].items())
    if not count:
        return f"Nothing to do: they are {who} already."
    return f"{_crops(count)} named {who}, {'a new individual' if done['new'] else 'known already'}.{moved}"


def _crops(count: int) -> str:
    return _several(count, "crop")


def _several(count: int, what: str) -> str:
    return f"{count} {what}" if count == 1 else f"{count} {what}s"


def _brief(ctx: typer.Context, csv: bool, rows: list[dict]) -> list[dict]:
    """Log rows with times to the minute, where a person reads them."""
    return rows if ctx.obj.json or csv else [{**row, "at": row["at"][:16].replace("T", " ") + "Z"} for row in rows]


def _answer(ctx: typer.Context, done: dict, text: str) -> None:
    if ctx.obj.json:
        emit(done)
    elif not ctx.obj.quiet:
        message(text)


def _warn(contradictions: list[dict]) -> None:
    for contradiction in contradictions:
        message(f"Contradiction: {contradiction['text']}")
