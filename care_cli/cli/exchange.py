"""`care export` and `care import`: other programs' formats, and existing data sets."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from care_cli.cli.images import check_filters, check_preset
from care_cli.cli.output import Preset, emit, message, open_catalog
from care_cli.errors import CareError
from care_cli.outputs import refuse_catalog_among_photos

export_app = typer.Typer(
    help="Write the survey in formats of other programs.", no_args_is_help=True, rich_markup_mode=None
)
import_app = typer.Typer(help="Take in what others made.", no_args_is_help=True, rich_markup_mode=None)

Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace what is there.")]
Run = Annotated[int | None, typer.Option(help="Boxes of this detect run, not of the latest.")]


@export_app.command("csv")
def export_csv(
    ctx: typer.Context,
    folder: Annotated[Path, typer.Argument(help="Folder for the tables; made when absent.")],
    run: Run = None,
    preset: Preset = None,
    overwrite: Overwrite = False,
) -> None:
    """The survey as CSV tables, each column explained in README.txt."""
    _export(ctx, "csv", folder, run=run, preset=preset, overwrite=overwrite)


@export_app.command("megadetector")
def export_megadetector(
    ctx: typer.Context,
    file: Annotated[
        Path, typer.Argument(help="JSON file; of several sources FILE-1.json, FILE-2.json, ... and no FILE.json.")
    ],
    source: Annotated[int | None, typer.Option(help="Only this source; `care doctor` numbers them.")] = None,
    run: Run = None,
    preset: Preset = None,
    overwrite: Overwrite = False,
) -> None:
    """MegaDetector batch results, format 1.6, one file for each scanned folder."""
    _export(ctx, "megadetector", file, source=source, run=run, preset=preset, overwrite=overwrite)


@export_app.command("yolo")
def export_yolo(
    ctx: typer.Context,
    folder: Annotated[Path, typer.Argument(help="Folder for photos and boxes; made when absent.")],
    recipe: Annotated[
        str | None, typer.Option(help="nz-trailcams-15, or a TOML file.  [default: the boxes as they are]")
    ] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="NAME=VALUE", help="Any setting of the recipe.")
    ] = None,
    run: Run = None,
    confidence: Annotated[float | None, typer.Option(help="Without a recipe: boxes from this confidence.")] = None,
    preset: Preset = None,
    people: Annotated[bool, typer.Option("--people", help="Without a recipe: photos of people too.")] = False,
    copy: Annotated[bool, typer.Option("--copy", help="Copies, no links.")] = False,
    overwrite: Overwrite = False,
) -> None:
    """A folder that YOLO detectors are trained on: photos as they are, boxes, classes."""
    from care_cli import recipes
    from care_cli.stages.export_yolo import YoloConfig
    from care_cli.stages.export_yolo import run as export

    check_filters(None, None, confidence)
    check_preset(preset)
    if recipe and (confidence is not None or preset or people):
        raise CareError("--confidence, --preset and --people are for an export without --recipe.")
    if settings and not recipe:
        raise CareError("--set changes a setting of a recipe: name it with --recipe.")
    chosen = recipes.load(recipe).changed(named(settings or [])) if recipe else None
    if chosen and not ctx.obj.quiet:
        for line in chosen.lines():
            message(line)
    cfg = YoloConfig(folder, chosen, run, confidence, preset, people, copy, overwrite)
    with open_catalog(ctx) as catalog:
        summary = export(catalog, cfg)
    report(ctx, summary)
    if summary["foreign"]:
        message(f"No export wrote these {len(summary['foreign'])} into images and labels; they are left as they are.")
    if summary["missing"]:
        message(f"{summary['missing']} originals are not within reach; missing.csv lists them.")
        raise typer.Exit(1)


def named(settings: list[str]) -> dict[str, str]:
    """Settings as they are given, NAME=VALUE, by name."""
    for setting in settings:
        if "=" not in setting:
            raise CareError(f"--set takes NAME=VALUE, but got {setting!r}.")
    return dict(setting.split("=", 1) for setting in settings)


def _export(ctx: typer.Context, name: str, path: Path, **options) -> None:
    from pkgutil import resolve_name

    from care_cli.exchange import FORMATS

    check_preset(options.get("preset"))
    with open_catalog(ctx) as catalog:
        summary = resolve_name(FORMATS[name])(catalog, path, **options)
    report(ctx, summary)


@import_app.command("dataset")
def import_dataset(
    ctx: typer.Context,
    path: Annotated[Path, typer.Argument(help="The data set's folder.")],
    csv: Annotated[Path | None, typer.Option(help="Table of the photos; without it folders are names.")] = None,
    layout: Annotated[
        str | None, typer.Option(metavar="NAME|none", help="Read as this known data set.  [default: recognised]")
    ] = None,
    path_column: Annotated[str, typer.Option(help="Column of the file, relative to PATH.")] = "path",
    identity_column: Annotated[str, typer.Option(help="Column of the animal's name.")] = "identity",
    split_column: Annotated[str | None, typer.Option(help="Column of the part (train, test, ...).")] = None,
    split: Annotated[str | None, typer.Option(help="Only rows of this part.")] = None,
    date_column: Annotated[str | None, typer.Option(help="Column of the date, YYYY-MM-DD [HH:MM:SS].")] = None,
    flank_column: Annotated[str | None, typer.Option(help="Column of the flank that is seen.")] = None,
    event_column: Annotated[str | None, typer.Option(help="Column of the sighting.")] = None,
    box_columns: Annotated[str | None, typer.Option(help="Column of the box, or four: x,y,w,h in px.")] = None,
    species_column: Annotated[str | None, typer.Option(help="Column of the species.")] = None,
    species: Annotated[str | None, typer.Option(help="The species of all animals.")] = None,
    prefix: Annotated[str, typer.Option(help="Put before every name, so that names of two sets stay apart.")] = "",
    join: Annotated[bool, typer.Option("--join", help="Names that exist already mean the same animals.")] = False,
) -> None:
    """An existing re-identification data set: each photo one crop, its name a decision."""
    from care_cli.stages import benchmark
    from care_cli.stages.import_dataset import Dataset, entries, run

    dataset = Dataset(
        path, csv, path_column, identity_column, split_column, split, date_column, flank_column, event_column,
        box_columns, species_column, species, prefix, join,
    )  # fmt: skip
    dataset, notes = benchmark.recognised(dataset, layout)
    refuse_catalog_among_photos(ctx.obj.catalog, [path])
    entries(dataset)  # a wrong path or table begins no catalog
    with open_catalog(ctx, create=True) as catalog:
        summary = run(catalog, dataset) | notes
    report(ctx, summary)
    if summary["failed"]:
        raise typer.Exit(1)


@import_app.command("labels")
def import_labels(
    ctx: typer.Context,
    file: Annotated[Path, typer.Argument(help="JSON file, YOLO folder or its data.yaml.")],
    images: Annotated[
        Path | None, typer.Option(help="Folder that the photos' paths begin at.  [default: where FILE lies]")
    ] = None,
    format: Annotated[
        str | None, typer.Option("--format", help="coco, megadetector or yolo.  [default: recognised]")
    ] = None,
    strip: Annotated[
        str, typer.Option(metavar="PREFIX", help="Beginning of FILE's paths that is left out, such as D:\\survey.")
    ] = "",
    prefix: Annotated[
        str, typer.Option(help="Put before every location, so that those of two surveys stay apart.")
    ] = "",
) -> None:
    """Labels and boxes of COCO Camera Traps, COCO, MegaDetector or YOLO; run it again to go on or to add files."""
    from care_cli.exchange.labels import open_labels
    from care_cli.stages.import_labels import LabelsConfig, run

    source = open_labels(file, format)  # a wrong file begins no catalog
    refuse_catalog_among_photos(ctx.obj.catalog, [images or source.root] if images or file.is_dir() else [])
    with open_catalog(ctx, create=True) as catalog:
        summary = run(catalog, LabelsConfig(file, format, images, strip, prefix), source)
    report(ctx, summary)
    if waiting := summary["unseen"]:
        message(
            f"{waiting} photos are known by their paths alone. Once their files are here, give the command again with "
            "--images FOLDER."
        )
    if summary["failed"]:
        raise typer.Exit(1)


LISTED = 20  # lines of a kind at the terminal; --json has all


def report(ctx: typer.Context, summary: dict) -> None:
    """A summary as one JSON object, or as lines for the person at the terminal."""
    if ctx.obj.json:
        emit(summary)
        return
    for key, value in summary.items():
        if not isinstance(value, list):
            print(f"{key}: {value}")
            continue
        for item in value[:LISTED]:
            message(
                ", ".join(f"{name} {_said(said)}" for name, said in item.items()) if isinstance(item, dict) else item
            )
        if len(value) > LISTED:
            message(f"... and {len(value) - LISTED} more {key}")


def _said(item: object) -> str:
    """One of several, on a line."""
    if isinstance(item, list):
        return "; ".join(map(_said, item))
    return ", ".join(f"{name} {_said(said)}" for name, said in item.items()) if isinstance(item, dict) else str(item)
