"""`care evaluate`: how well models tell individuals apart."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from care_cli.cli import output
from care_cli.errors import CareError

if TYPE_CHECKING:
    from care_cli.catalog import Catalog
    from care_cli.evaluation.protocols import Protocol
    from care_cli.records import ModelSpec

Models = Annotated[
    list[str] | None,
    typer.Option("--model", help="Name, file or timm:NAME; repeat to compare.  [default: as `care index`]"),
]
Weights = Annotated[Path | None, typer.Option(metavar="FILE", help="Weights of the one model timm:NAME.")]
Kind = Annotated[
    str, typer.Option(help="loo: each crop asks all others; qg: a share of each animal's asks; list: --split-file.")
]
QueryShare = Annotated[float | None, typer.Option(metavar="SHARE", help="Of qg, 0 to 1.  [default: 0.46]")]
Exclude = Annotated[
    list[str] | None, typer.Option(metavar="event|day", help="Compare with no crop of the same event or day.")
]
Part = Annotated[str | None, typer.Option(help="Of the split: train, val, test or all.  [default: test]")]
Split = Annotated[
    str | None, typer.Option(metavar="NAME", help="Examine a part of it.  [default: the models' own, else all crops]")
]
Seeds = Annotated[
    int | None,
    typer.Option(metavar="N", help="For --model NAME take NAME-0 to NAME-(N-1), where they were trained.", min=1),
]
Share = Annotated[
    float | None, typer.Option(metavar="SHARE", help="Animals unknown in turn, 0: no open set.  [default: 0.3]")
]


def evaluate(
    ctx: typer.Context,
    model: Models = None,
    weights: Weights = None,
    seeds: Seeds = None,
    baseline: Annotated[str | None, typer.Option(help="Row to compare with.  [default: the first]")] = None,
    protocol: Kind = "loo",
    query_share: QueryShare = None,
    split_file: Annotated[
        Path | None, typer.Option(metavar="FILE.csv", help="Columns path, individual, part: query asks gallery.")
    ] = None,
    exclude: Exclude = None,
    same_flank: Annotated[bool, typer.Option("--same-flank", help="Compare with the same flank only.")] = False,
    camera_filter: Annotated[
        bool, typer.Option("--camera-filter", help="Compare with no crop of the animal at the same deployment.")
    ] = False,
    split: Split = None,
    part: Part = None,
    species: Annotated[str | None, typer.Option(help="Only crops of this species.")] = None,
    closed_set: Annotated[bool, typer.Option("--closed-set", help="Ask about animals that a model knows.")] = False,
    unknown: Share = None,
    leaks: Annotated[bool, typer.Option("--leaks", help="Measure backgrounds without the animals too.")] = False,
    seed: Annotated[int, typer.Option(help="Of all that is drawn.", min=0)] = 0,
    report: Annotated[Path | None, typer.Option(metavar="FOLDER", help="Write a page with tables, figures.")] = None,
    engine: output.Engine = "auto",
    precision: output.Precision = "auto",
    csv: output.Csv = False,
) -> None:
    """Measure how well models tell the named animals apart; `keypoints` and others measure other things."""
    if ctx.invoked_subcommand is not None:
        return
    from care_cli.stages import evaluate_reid as stage
    from care_cli.stages.devices import choose

    with output.open_catalog(ctx) as catalog:
        filters = [*(exclude or []), *["flank"] * same_flank, *["camera"] * camera_filter]
        cfg = stage.EvaluateConfig(
            models=tuple(_specs(catalog, model or [], weights, seeds)),
            protocol=_protocol(catalog, protocol, filters, query_share, seed, split_file),
            split=split, part=part, species=species, closed_set=closed_set, leaks=leaks, baseline=baseline, seed=seed,
            device=choose(ctx.obj.device), engine=engine, precision=precision,
            **({} if unknown is None else {"open_share": unknown}),
        )  # fmt: skip
        if report is not None:
            from care_cli.stages import report as page

            page.check(catalog, report)
        found = stage.run(catalog, cfg)
        if report is not None:
            page.write(catalog, found, report)
    _show(ctx, found, csv)


def _protocol(
    catalog: Catalog, kind: str, filters: list[str], share: float | None, seed: int, listed: Path | None
) -> Protocol:
    """The protocol that was asked for, a list's where one is given."""
    from care_cli.stages import evaluate_reid, split_lists

    if listed is None and kind != "list":
        return evaluate_reid.protocol_of(kind, filters, share, seed)
    if listed is None or kind not in ("loo", "list") or share is not None:
        raise CareError("A list says who asks whom: give --split-file FILE.csv, and no other --protocol or share.")
    return split_lists.protocol_of(catalog, listed, filters)


def _specs(catalog: Catalog, names: list[str], weights: Path | None, seeds: int | None) -> list[ModelSpec]:
    """The models that were asked for, seed by seed; without a name what `care index` would take."""
    from care_cli import registry
    from care_cli.stages import trained

    if not names:
        if seeds is not None or weights is not None:
            raise CareError("Say of which model with --model NAME.")
        return [trained.newest(catalog, catalog.notice) or registry.default("index")]
    if weights is not None and len(names) > 1:
        raise CareError(
            "--weights belongs to one --model timm:NAME; describe others in a manifest (`care models add`)."
        )
    known = {row["name"] for row in catalog.trained_models()}
    if seeds == 1 and set(names) <= known:  # `care train --seeds 1` adds no number
        seeds = None
    if seeds is not None and not any(f"{name}-0" in known for name in names):
        raise CareError(f"No model {names[0]}-0 was trained in this catalog; --seeds is for `care train --seeds`.")
    several = {name: [f"{name}-{number}" for number in range(seeds or 0)] for name in names if f"{name}-0" in known}
    return [trained.find(catalog, one, weights) for name in names for one in several.get(name) or [name]]


def _show(ctx: typer.Context, found: dict, csv: bool) -> None:
    """A table of models and what was left out, and what it does not say; exit code 1 where pixels were damaged."""
    from care_cli.stages import evaluation_tables as tables

    if ctx.obj.json:
        output.emit(found)
    elif csv:
        output.table(ctx, tables.summary_rows(found), csv=True)
    else:
        rows = tables.table_rows(found)
        print("\n".join(output.text_table(rows, list(rows[0]))))
        for line in tables.remarks(found):
            output.notice(ctx)(line)
    if any(one["damaged"] for row in found["rows"] for one in row["models"]):
        raise typer.Exit(1)
