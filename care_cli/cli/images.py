"""`care images`: which photos there are, and what is on them."""

from __future__ import annotations

from datetime import date
from typing import Annotated

import typer

from care_cli.cli.output import Csv, open_catalog, table
from care_cli.errors import CareError

SHOWN = ["image", "taken_at", "deployment", "animals", "persons", "vehicles", "species", "individuals", "state", "path"]
FAILED = ["image", "state", "failure", "path"]


def images(
    ctx: typer.Context,
    animals: Annotated[bool, typer.Option("--animals", help="Only photos with an animal.")] = False,
    people: Annotated[bool, typer.Option("--people", help="Only photos with a person.")] = False,
    vehicles: Annotated[bool, typer.Option("--vehicles", help="Only photos with a vehicle.")] = False,
    species: Annotated[str | None, typer.Option(help="Only photos with this species.")] = None,
    since: Annotated[str | None, typer.Option(help="From this day on, YYYY-MM-DD.")] = None,
    until: Annotated[str | None, typer.Option(help="Up to and with this day, YYYY-MM-DD.")] = None,
    deployment: Annotated[str | None, typer.Option(help="Only of this deployment.")] = None,
    site: Annotated[str | None, typer.Option(help="Only of this site.")] = None,
    confidence: Annotated[float | None, typer.Option(help="Count boxes from this confidence, 0 to 1.")] = None,
    individual: Annotated[str | None, typer.Option(help="Only photos of this animal.")] = None,
    unnamed: Annotated[bool, typer.Option("--unnamed", help="Only photos with an animal without a name.")] = False,
    undated: Annotated[bool, typer.Option("--undated", help="Only photos without a date.")] = False,
    unreadable: Annotated[bool, typer.Option("--unreadable", help="Only what could not be read, and why.")] = False,
    run: Annotated[int | None, typer.Option(help="Boxes of this detect run, not of the latest.")] = None,
    csv: Csv = False,
) -> None:
    """List photos, with what was found on them."""
    from care_cli.records import Selection

    category = _one_category(animals=animals, people=people, vehicles=vehicles)
    check_filters(since, until, confidence)
    selection = Selection(
        category=category, species=species, since=since, until=until, deployment=deployment, site=site,
        confidence=confidence, individual=individual, unnamed=unnamed, undated=undated, unreadable=unreadable, run=run,
    )  # fmt: skip
    with open_catalog(ctx) as catalog:
        if individual is not None:
            catalog.find_individual(individual)
        rows = catalog.image_rows(selection)
        if unreadable and selection == Selection(unreadable=True, deployment=deployment, site=site, run=run):
            rows = _with_unread(rows, catalog.unread_files(deployment, site))  # they have no date and no boxes
    table(ctx, rows, FAILED if unreadable else SHOWN, csv=csv, empty="No photo fits.")


def _one_category(*, animals: bool, people: bool, vehicles: bool) -> str | None:
    asked = [name for name, on in (("animal", animals), ("person", people), ("vehicle", vehicles)) if on]
    if len(asked) > 1:
        raise CareError("Only one of --animals, --people and --vehicles can be asked for at a time.")
    return asked[0] if asked else None


def check_filters(since: str | None, until: str | None, confidence: float | None) -> None:
    """CareError unless the days are days in their order, and the confidence lies in 0 to 1."""
    for option, value in (("--since", since), ("--until", until)):
        try:
            if value is not None and date.fromisoformat(value).isoformat() != value:
                raise ValueError
        except ValueError:
            raise CareError(f"{option} takes a day as YYYY-MM-DD, such as 2026-03-31, but got {value!r}.") from None
    if since and until and since > until:
        raise CareError(f"--since {since} is later than --until {until}; no photo can lie between them.")
    if confidence is not None and not 0 <= confidence <= 1:
        raise CareError(f"--confidence takes a number from 0 to 1, but got {confidence}.")


def check_preset(preset: str | None) -> None:
    """CareError unless it is a way of reading that there is."""
    from care_cli.records import PRESETS

    if preset not in (None, *PRESETS):
        raise CareError(f"--preset is {' or '.join(PRESETS)}, but got {preset!r}.")


def _with_unread(rows: list[dict], files: list[dict]) -> list[dict]:
    """Photos that cannot be decoded, then the files whose very bytes could not be read."""
    fields = dict.fromkeys(rows[0] if rows else FAILED)
    unread = [
        {**fields, "state": "unread", "failure": file["failure"], "path": f"{file['location']}/{file['path']}"}
        for file in files
    ]
    return rows + unread
