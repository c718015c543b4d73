"""`care evaluate ablation`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from care_cli.cli import output
from care_cli.errors import CareError

Pair = list[str] | None
COLUMNS = [
    "size",
    "variant",
    "template",
    "points",
    "seeds",
    "top1",
    "top1_half",
    "mAP",
    "mAP_half",
]


Sizes = Annotated[
    str | None, typer.Option(metavar="SIZE,...", help="Of the backbone: tiny, small, base ...  [default: paper's]")
]
Template = Annotated[
    Pair, typer.Option(metavar="SOURCE=NAME", help="Template of a source.  [default: the catalog's only one]")
]
Extractor = Annotated[str | None, typer.Option(help="What carries points.  [default: by device]")]
ExtractorWeights = Annotated[Path | None, typer.Option(help="Weights file for timm:NAME.")]
Carry = Annotated[Pair, typer.Option(metavar="NAME=N", help="Of its features: size, block, timestep or ensemble.")]
Settings = Annotated[Pair, typer.Option("--set", metavar="NAME=VALUE", help="Any setting of a training: epochs=30.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="List the cells and what they lack; do nothing.")]


def ablation(
    ctx: typer.Context,
    name: Annotated[str, typer.Argument(help="keypoint-source, timestep, scale, keypoints, random, tokens or margin.")],
    sizes: Sizes = None,
    seeds: Annotated[int, typer.Option(metavar="N", help="Models trained for each cell.", min=1)] = 3,
    template: Template = None,
    extractor: Extractor = None,
    extractor_weights: ExtractorWeights = None,
    carry: Carry = None,
    begin: Annotated[
        Pair,
        typer.Option(
            metavar="KEY=WEIGHTS",
            help="To begin from, of a size or method.  [default: tokens, margin: CLIP; others: from scratch]",
        ),
    ] = None,
    settings: Settings = None,
    split: Annotated[str, typer.Option(help="Which split of the animals, made as `care train` does.")] = "default",
    species: Annotated[str | None, typer.Option(help="Only crops of this species.")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder of the models.  [default: CATALOG.models]")] = None,
    dry_run: DryRun = False,
    plot: Annotated[Path | None, typer.Option(help="Draw the figure: FILE.png, .svg or .pdf.")] = None,
    csv: output.Csv = False,
) -> None:
    """Do one of the papers' ablations: train and examine a model for every cell; killed, it goes on."""
    from care_cli.stages import ablation as stage
    from care_cli.stages import cell_words, splits, train_settings
    from care_cli.stages.devices import choose
    from care_cli.stages.keypoint_figures import check_targets
    from care_cli.stages.sweep import setting_of

    with output.open_catalog(ctx) as catalog:
        cfg = stage.AblationConfig(
            name=name,
            sizes=output.words(sizes),
            seeds=tuple(range(seeds)),
            templates=output.pairs("--template", template),
            extractor=extractor,
            extractor_weights=extractor_weights,
            features=setting_of(numbers(carry)).features,
            begin=output.pairs("--begin", begin),
            request=train_settings.TrainRequest(
                species=species,
                split=splits.SplitRequest(split),
                folder=out,
                device=choose(ctx.obj.device),
                settings=train_settings.overrides(settings or []),
            ),
        )
        check_targets(catalog, plot, None)
        found = stage.listing(catalog, cfg) if dry_run else stage.run(catalog, cfg)
    stage.draw(found, plot)
    columns = [*COLUMNS, *cell_words.published_columns(found["rows"], stage.SHOWN), "paper_table"]
    show(ctx, found, stage.table_rows(found), columns, cell_words.lacks(found["rows"]), stage.remarks(found), csv)
    if any(row["failure"] for row in found["rows"]):
        raise typer.Exit(1)


def numbers(texts: Pair) -> dict[str, int]:
    """Settings of features."""
    found = output.pairs("--carry", texts)
    for key, value in found.items():
        if key not in ("size", "block", "timestep", "ensemble") or not value.removeprefix("-").isdecimal():
            raise CareError(
                f"--carry takes size, block, timestep or ensemble and a whole number, but got {key}={value}."
            )
    return {key: int(value) for key, value in found.items()}


def show(
    ctx: typer.Context,
    found: dict,
    rows: list[dict],
    columns: list[str],
    lacks: list[str],
    remarks: list[str],
    csv: bool,
) -> None:
    """The table, what each cell lacks, and how it is to be read."""
    if ctx.obj.json:
        output.emit(found)
    elif csv:
        output.table(ctx, rows, csv=True)
    else:
        print("\n".join(output.text_table(rows, columns)))
        for line in lacks:
            output.message(line)
        for line in remarks:
            output.notice(ctx)(line)
