"""`care train`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from care_cli.cli import output, train_detector
from care_cli.errors import CareError

SMALLEST = 16  # px, side of a network's input


def train(
    ctx: typer.Context,
    method: Annotated[
        str,
        typer.Option(help="vit, kpe, ckpe, wildlife, care, clip-reid, clip-ft, transreid or adafreq; detector."),
    ] = "ckpe",
    preset: Annotated[
        list[str] | None, typer.Option(help="A bundle of the method's settings, such as square-224 of care.")
    ] = None,
    name: Annotated[str | None, typer.Option(help="Of the model.  [default: METHOD-RUN]")] = None,
    backbone: Annotated[
        str | None,
        typer.Option(
            help="tiny, small, base, large, huge, or a name of timm's or open_clip's; of a detector yolo11n to "
            "yolo11x.  [default: by method and device]"
        ),
    ] = None,
    weights: Annotated[
        str | None, typer.Option(help="To begin from: a model's name, or a file, or none.  [default: by method]")
    ] = None,
    species: Annotated[str | None, typer.Option(help="Only crops of this species.")] = None,
    epochs: Annotated[float | None, typer.Option(help="Passes over the photos.", min=0)] = None,
    batch: Annotated[
        str | None,
        typer.Option(
            metavar="PxK",
            help="Individuals and photos of each in a forward pass, such as 16x4; of a detector N photos.",
        ),
    ] = None,
    size: Annotated[
        str | None, typer.Option(metavar="S|HxW", help="Side of the network's input, or its height and width, px.")
    ] = None,
    learning_rate: Annotated[float | None, typer.Option(help="At its highest.", min=0)] = None,
    flip: Annotated[
        float | None, typer.Option(help="Chance of mirroring; 0 where flanks tell animals apart.", min=0, max=1)
    ] = None,
    seed: Annotated[int, typer.Option(help="Of all that is drawn.", min=0)] = 0,
    seeds: Annotated[int, typer.Option(metavar="N", help="Train N models, seed by seed.", min=1)] = 1,
    split: Annotated[str, typer.Option(help="Which split of the animals.")] = "default",
    split_by: Annotated[
        str | None,
        typer.Option(
            help="individual, event, site or random; --split-file for a published one.  [default: individual]"
        ),
    ] = None,
    split_file: Annotated[
        Path | None, typer.Option(metavar="FILE.csv", help="Columns individual and part: a published split.")
    ] = None,
    test: Annotated[float | None, typer.Option(help="Share that is never learned from.  [default: 0.2]")] = None,
    val: Annotated[float | None, typer.Option(help="Share that chooses the best model.  [default: 0.1]")] = None,
    split_seed: Annotated[int | None, typer.Option(help="Draws the split.  [default: 666]", min=0)] = None,
    show_split: Annotated[bool, typer.Option("--show-split", help="Divide the animals, show it, and stop.")] = False,
    data: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Labelled photos that a detector learns from.")
    ] = None,
    recipe: Annotated[
        str | None, typer.Option(help="Of the catalog's labels, a detector's photos: nz-trailcams-15, or a TOML file.")
    ] = None,
    patience: Annotated[
        int | None, typer.Option(help="Epochs without a better detector that end it.  [default: 15]", min=0)
    ] = None,
    workers: Annotated[
        int, typer.Option(help="Processes that make a detector's photos ready for a CUDA card.", min=0)
    ] = 8,
    known_places: Annotated[
        bool, typer.Option("--known-places", help="A detector may be examined at places that it learns from.")
    ] = False,
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="NAME=VALUE", help="Any setting of a training.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder of the models.  [default: CATALOG.models]")] = None,
    precision: output.Precision = "auto",
    csv: output.Csv = False,
) -> None:
    """Train a re-identification model from the named animals, or a detector; killed, it goes on where it stopped."""
    given = {"epochs": epochs, "input_size": _size(size), "learning_rate": learning_rate, "augmentation.flip": flip}
    given = {key: value for key, value in given.items() if value is not None}
    if precision != "auto":
        given["precision"] = precision
    if method == "detector":
        refuse(
            ctx,
            method,
            "preset",
            "species",
            "split",
            "split_by",
            "split_file",
            "test",
            "val",
            "split_seed",
            "show_split",
        )
        asked = {"name": name, "backbone": backbone, "weights": weights, "folder": out, "known_places": known_places}
        asked |= {"data": data, "recipe": recipe, "workers": workers, "seeds": tuple(range(seed, seed + seeds))}
        train_detector.train(ctx, asked, given, batch=batch, patience=patience, texts=settings or [], csv=csv)
        return
    refuse(ctx, method, "data", "recipe", "patience", "workers", "known_places")
    from care_cli.records import Selection
    from care_cli.stages import splits, train_settings
    from care_cli.stages import train as stage
    from care_cli.stages.devices import choose

    asked = splits.SplitRequest(split, split_by, test, val, split_seed, split_file)
    with output.open_catalog(ctx) as catalog:
        if show_split:
            division = splits.divide(catalog, asked, Selection(category="animal", species=species))
            show_parts(ctx, division.summary(), csv)
            return
        request = train_settings.TrainRequest(
            method=method,
            presets=tuple(preset or ()),
            name=name,
            backbone=backbone,
            weights=weights,
            species=species,
            split=asked,
            seeds=tuple(range(seed, seed + seeds)),
            folder=out,
            device=choose(ctx.obj.device),
            settings=given | _batch(batch) | train_settings.overrides(settings or []),
        )
        done = stage.run(catalog, request)
    show(ctx, done, csv)
    if done["damaged"]:
        output.message(f"Crops whose pixels are damaged: {', '.join(map(str, done['damaged']))}. Run `care doctor`.")
        raise typer.Exit(1)


def _size(text: str | None) -> int | tuple[int, int] | None:
    """The network's input: a side, or height and width, in px."""
    sides = () if text is None else tuple(text.lower().split("x"))
    if not all(side.isdecimal() and int(side) >= SMALLEST for side in sides) or len(sides) > 2:
        raise CareError(
            f"--size is a side or HEIGHTxWIDTH of at least {SMALLEST} px, such as 224 or 256x128, got {text!r}."
        )
    return (int(sides[0]) if len(sides) == 1 else (int(sides[0]), int(sides[1]))) if sides else None


def refuse(ctx: typer.Context, method: str, *names: str) -> None:
    """CareError when an option was given that a method has no use for."""
    for name in names:
        if ctx.get_parameter_source(name).name != "DEFAULT":
            raise CareError(f"--{name.replace('_', '-')} is not for --method {method}: leave it out.")


def _batch(text: str | None) -> dict[str, int]:
    """P and K of a batch."""
    if text is None:
        return {}
    individuals, cross, photos = text.lower().partition("x")
    if not (cross and individuals.isdecimal() and photos.isdecimal() and int(individuals) > 1 and int(photos) > 0):
        raise CareError(
            f"--batch is how many individuals, at least 2, and how many photos of each, such as 16x4, but got {text!r}."
        )
    return {"individuals": int(individuals), "photos": int(photos)}


def show_parts(ctx: typer.Context, summary: dict, csv: bool = False) -> None:
    """The parts of a split."""
    if ctx.obj.json:
        output.emit(summary)
        return
    output.table(ctx, summary["parts"], csv=csv)
    output.notice(ctx)(f"Split {summary['split']} by {summary['by']}, {summary['sha256'][:12]}.{_leaky(summary)}")
    for reason, number in summary["dropped"].items():
        output.notice(ctx)(f"{number} crops are in no part: {reason}.")


def _leaky(summary: dict) -> str:
    if summary["by"] != "random":
        return ""
    return " It is leaky: pictures of one moment come into several parts, and figures on it flatter."


def show(ctx: typer.Context, done: dict, csv: bool) -> None:
    """The models with what they reach on the validation part."""
    if ctx.obj.json:
        output.emit(done)
        return
    rows = []
    for model in done["models"]:
        reached = model["metrics"].get("validation", {})
        rows.append(
            {"model": model["name"], "seed": model["seed"], "top1": reached.get("top1"), "mAP": reached.get("mAP"),
             "new": "yes" if model["new"] else "stood", "file": model["file"]}
        )  # fmt: skip
    output.table(ctx, rows, csv=csv)
    say = output.notice(ctx)
    parts = {part["part"]: f"{part['crops']} crops of {part['individuals']} animals" for part in done["split"]["parts"]}
    say(
        f"Learned from {done['crops']} crops of {done['individuals']} animals. top1 and mAP are of the validation part "
        f"({parts['val']}); the test part ({parts['test']}) is for `care evaluate`.{_leaky(done['split'])}"
    )
    say(f"Next: `care index --model {done['models'][-1]['name']}`.")
