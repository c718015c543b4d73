"""`care evaluate table`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from care_cli.cli import ablation, output

Pair = list[str] | None


def table(
    ctx: typer.Context,
    paper: Annotated[str, typer.Option(help="care or ckpe.")],
    number: Annotated[str, typer.Option("--table", metavar="N", help="ckpe: 1 to 7; care: 1, 2 or methods.")],
    data: Annotated[Path, typer.Option(metavar="ROOT", help="Folder that holds the data sets, as they are published.")],
    out: Annotated[Path, typer.Option(help="Folder of the catalogs, a data set each, and models.")] = Path("tables"),
    only: Annotated[str | None, typer.Option(metavar="NAME,...", help="Only these data sets.  [default: all]")] = None,
    seeds: Annotated[
        int | None, typer.Option(metavar="N", help="Models of a cell.  [default: care 10, ckpe 3]", min=1)
    ] = None,
    backbone: Annotated[
        str | None, typer.Option(metavar="SIZE,...", help="tiny, base ..., or timm's name.  [default: the paper's]")
    ] = None,
    begin: Annotated[
        Pair,
        typer.Option(
            "--begin",
            "--weights",
            metavar="KEY=WEIGHTS",
            help="To begin from, of a size or method; scratch: none.  [default: the paper's]",
        ),
    ] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="NAME=VALUE", help="Any setting of a training: epochs=30.")
    ] = None,
    template: Annotated[
        Pair, typer.Option(metavar="SOURCE=NAME", help="Template of a source.  [default: a catalog's only one]")
    ] = None,
    extractor: Annotated[str | None, typer.Option(help="What carries points.  [default: by device]")] = None,
    extractor_weights: Annotated[Path | None, typer.Option(help="Weights file for timm:NAME.")] = None,
    carry: Annotated[
        Pair, typer.Option(metavar="NAME=N", help="Of its features: size, block, timestep or ensemble.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="List the cells and what they lack; do nothing.")] = False,
    report: Annotated[Path | None, typer.Option(metavar="FOLDER", help="Write a page with table, figures.")] = None,
    csv: output.Csv = False,
) -> None:
    """Do a table of the papers on the data sets that are there, the published figures beside; killed, it goes on."""
    from care_cli.stages import table as stage
    from care_cli.stages import table_report, train_settings
    from care_cli.stages.cells import Recipe
    from care_cli.stages.devices import choose
    from care_cli.stages.sweep import setting_of

    cfg = stage.TableConfig(
        paper=paper,
        table=number,
        data=data,
        out=out,
        sizes=_words(backbone),
        datasets=_words(only),
        seeds=seeds,
        recipe=Recipe(
            templates=output.pairs("--template", template),
            extractor=extractor,
            extractor_weights=extractor_weights,
            features=setting_of(ablation.numbers(carry)).features,
            begin=output.pairs("--begin", begin),
            as_paper=True,
            request=train_settings.TrainRequest(
                device=choose(ctx.obj.device), settings=train_settings.overrides(settings or [])
            ),
        ),
    )
    if report is not None:
        table_report.check(cfg, report)
    found = (stage.listing if dry_run else stage.run)(cfg, output.notice(ctx))
    if report is not None:
        table_report.write(cfg, found, report, output.notice(ctx))
    _show(ctx, found, csv)
    if not dry_run and stage.nothing_done(found):
        raise typer.Exit(2)
    if any(row["failure"] for group in found["datasets"] for row in group["rows"]):
        raise typer.Exit(1)


def _words(text: str | None) -> tuple[str, ...]:
    return tuple(word.strip() for word in text.split(",") if word.strip()) if text else ()


def _show(ctx: typer.Context, found: dict, csv: bool) -> None:
    """The table, what is missing and where to get it, and how it is to be read."""
    from care_cli.stages import table as stage

    if ctx.obj.json:
        output.emit(found)
        return
    rows = stage.table_rows(found)
    if csv:
        output.table(ctx, rows, csv=True)
        return
    columns = ["dataset", "size", "variant", "seeds"]
    columns += [f"{name}{end}" for name in found["shown"] for end in ("", "_half")]
    columns += [f"paper_{name}" for name in found["shown"]]
    print("\n".join(output.text_table(rows, columns)))
    for line in stage.lacks(found):
        output.message(line)
    for line in stage.remarks(found):
        output.notice(ctx)(line)
