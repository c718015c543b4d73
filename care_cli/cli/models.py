"""`care models`: what CARE can load, and what of it is on this machine."""

from __future__ import annotations

import textwrap
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated

import typer

from care_cli.cli import output
from care_cli.errors import CareError

app = typer.Typer(help="List, show, pull, verify and add models.", no_args_is_help=True, rich_markup_mode=None)
Names = Annotated[list[str] | None, typer.Argument(metavar="NAME", help="Names from `care models list`.")]
WIDTH = 100  # characters of a line


@app.command("list")
def list_models(
    ctx: typer.Context,
    task: Annotated[str | None, typer.Option(help="detector, embedder or diffusion.")] = None,
    csv: output.Csv = False,
) -> None:
    """The models known by name or trained in the catalog, and which of them are on this machine."""
    from care_cli.stages import models

    columns = ["name", "task", "here", "licence", "default_for"]
    with catalog_of(ctx) as catalog:
        rows = models.listing(task, catalog)
    if not (ctx.obj.json or csv):
        rows = [row | {"here": "yes" if row["here"] else ""} for row in rows]
    output.table(ctx, rows, columns, csv=csv)


@app.command()
def show(
    ctx: typer.Context,
    name: Annotated[str, typer.Argument(help="A model's name, or a path to weights or a manifest.")],
) -> None:
    """What one model is for, its licence, and how it is used."""
    from care_cli.stages import models

    with catalog_of(ctx) as catalog:
        model = models.show(name, catalog)
    if ctx.obj.json:
        output.emit(model)
        return
    card, classes = model.pop("card"), model.pop("classes")
    rows = [{"field": key, "value": str(value)} for key, value in model.items() if value not in (None, "")]
    output.table(ctx, rows, ["field", "value"])
    for line in _in_words(classes):
        print(line)
    if card:
        print(f"\n{card.rstrip()}")


def catalog_of(ctx: typer.Context):
    """The catalog, as a context manager; None where there is none, or none that can be opened."""
    try:
        return output.standing_catalog(ctx)
    except CareError as error:
        output.notice(ctx)(f"Models that were trained in the catalog are not shown: {error}")
        return nullcontext()


def _in_words(classes: dict[str, dict]) -> list[str]:
    """The classes of each category, in lines that fit a terminal."""
    kinds: dict[str, list[str]] = {}
    for label, meaning in classes.items():
        kinds.setdefault(meaning["category"], []).append(label)
    return [
        line
        for kind, labels in kinds.items()
        for line in ["", *textwrap.wrap(f"{kind}: {', '.join(labels)}", WIDTH, subsequent_indent="  ")]
    ]


@app.command()
def pull(ctx: typer.Context, names: Names = None) -> None:
    """Fetch weights while online; without names, all that a survey uses by default."""
    from care_cli.stages import models

    with _Bar(quiet=ctx.obj.quiet) as bar:
        rows = models.pull(names or (), bar)
    output.table(ctx, rows, ["name", "path"])


@app.command()
def verify(ctx: typer.Context, names: Names = None, csv: output.Csv = False) -> None:
    """Read weights again and compare them with their digests; without names, all that are here."""
    from care_cli.stages import models

    rows = models.verify(names or ())
    output.table(ctx, rows, ["name", "state", "failure"], csv=csv, empty="No weights are on this machine.")
    if any(row["state"] != "ok" for row in rows):
        raise typer.Exit(1)


@app.command()
def add(
    ctx: typer.Context,
    path: Annotated[Path, typer.Argument(help="A .toml manifest, or a .safetensors checkpoint of ours.")],
) -> None:
    """Make your own models known by name."""
    from care_cli.stages import models

    output.table(ctx, models.add(path), ["name", "task", "here"])


class _Bar:
    """A tqdm bar for each file that arrives; none when stderr is not a terminal."""

    def __init__(self, quiet: bool):
        self.quiet, self.name, self.bar = quiet, None, None

    def __enter__(self) -> _Bar:
        return self

    def __call__(self, name: str, done: int, total: int | None) -> None:
        from tqdm import tqdm

        if name != self.name or self.bar is None or done < self.bar.n:
            self.__exit__()
            self.name = name
            self.bar = tqdm(total=total, desc=name, unit="B", unit_scale=True, disable=True if self.quiet else None)
        self.bar.update(done - self.bar.n)

    def __exit__(self, *_: object) -> None:
        if self.bar is not None:
            self.bar.close()
