"""`care evaluate table`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from care_cli.cli import ablation, output

Begin = Annotated[
    list[str] | None,
    typer.Option(
        "--begin",
        metavar="KEY=WEIGHTS",
        help="To begin from, of a size or method; none: scratch.  [default: the paper's]",
    ),
]
Backbone = Annotated[
    str | None,
    typer.Option(
        metavar="SIZE,...", help="Of all rows: tiny, small, base ...; not for --table methods.  [default: paper's]"
    ),
]


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
    backbone: Backbone = None,
    begin: Begin = None,
    settings: ablation.Settings = None,
    template: ablation.Template = None,
    extractor: ablation.Extractor = None,
    extractor_weights: ablation.ExtractorWeights = None,
    carry: ablation.Carry = None,
    dry_run: ablation.DryRun = False,
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
        sizes=output.words(backbone),
        datasets=output.words(only),
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
    rows, columns = stage.table_rows(found), stage.columns(found)
    ablation.show(ctx, found, rows, columns, stage.lacks(found), stage.remarks(found), csv)
    if not dry_run and stage.nothing_done(found):
        raise typer.Exit(2)
    if any(row["failure"] for group in found["datasets"] for row in group["rows"]):
        raise typer.Exit(1)
