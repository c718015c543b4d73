"""`care doctor`: is this catalog healthy, and what to do if not."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from care_cli.cli.output import emit, open_catalog


def doctor(
    ctx: typer.Context,
    backup: Annotated[Path | None, typer.Option(metavar="FILE", help="Also write a verified copy.")] = None,
    repair: Annotated[bool, typer.Option("--repair", help="Rebuild names from the decision log.")] = False,
) -> None:
    """Look for damage, gaps and contradictions; say what to do about each."""
    from care_cli.stages import doctor as stage

    with open_catalog(ctx, examine=True) as catalog:
        report = stage.examine(catalog, backup=backup, repair=repair)
    if ctx.obj.json:
        emit(report)
    else:
        print("\n".join(stage.in_words(report)))
    if report["verdict"] == "damaged":
        raise typer.Exit(1)
