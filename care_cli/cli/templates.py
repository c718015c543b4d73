"""`care templates`: annotated reference crops, whose named points are carried to the others."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from care_cli.cli.output import Csv, emit, message, notice, open_catalog, table, text_table
from care_cli.errors import CareError

app = typer.Typer(invoke_without_command=True)

LIST = ("name", "species", "crop", "individual", "points", "source", "carried", "created_at", "path")
POINTS = ("name", "x", "y", "mirror")
SOURCES = {"points": "--points", "vlm_url": "--vlm-url", "gradcam": "--gradcam", "random": "--random"}
MODELS = ("vlm_url", "gradcam")  # sources that propose, and are confirmed
BELONGS = {  # option -> the sources that it is for
    "annotation": ("points",), "vlm_model": ("vlm_url",), "vlm_timeout": ("vlm_url",), "names": ("vlm_url",),
    "weights": ("gradcam",), "seed": ("random",), "count": MODELS, "overlay": MODELS, "yes": MODELS,
}  # fmt: skip

Name = Annotated[str, typer.Argument(help="A template's name.")]


@app.callback()
def templates(ctx: typer.Context, csv: Csv = False) -> None:
    """List, add, show and remove annotated reference crops."""
    if ctx.invoked_subcommand:
        return
    from care_cli.stages import templates as stage

    with open_catalog(ctx) as catalog:
        table(ctx, stage.listing(catalog), LIST, csv, empty="No template yet; `care templates add` makes one.")


@app.command()
def add(
    ctx: typer.Context,
    name: Name,
    crop: Annotated[int | None, typer.Option(help="The reference crop, as `care crops` shows ids.")] = None,
    photo: Annotated[Path | None, typer.Option(help="A photo of the survey with one animal, instead.")] = None,
    points: Annotated[Path | None, typer.Option(help="An expert's file: JSON, CSV or COCO keypoints.")] = None,
    annotation: Annotated[int | None, typer.Option(help="Which annotation of a COCO file.")] = None,
    vlm_url: Annotated[
        str | None, typer.Option(help="Ask a vision-language model at this URL (.../v1); it is sent the crop.")
    ] = None,
    vlm_model: Annotated[str | None, typer.Option(help="The model's name there.")] = None,
    vlm_timeout: Annotated[
        float | None, typer.Option(metavar="S", min=1, help="Seconds that an answer may take.  [default: 120]")
    ] = None,
    names: Annotated[str | None, typer.Option(metavar="A,B,...", help="Points that the model shall find.")] = None,
    gradcam: Annotated[str | None, typer.Option(metavar="timm:NAME", help="Where this model looks.")] = None,
    weights: Annotated[Path | None, typer.Option(help="Weights file for timm:NAME.")] = None,
    random: Annotated[int | None, typer.Option(metavar="K", min=1, help="K points drawn at random.")] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="For --random.  [default: 0]")] = None,
    count: Annotated[int | None, typer.Option(min=1, help="Points that a model proposes.  [default: 3]")] = None,
    species: Annotated[str | None, typer.Option(help="Instead of the crop's own.")] = None,
    overlay: Annotated[
        Path | None, typer.Option(metavar="FILE.jpg", help="Picture of a model's proposal.  [default: NAME.jpg]")
    ] = None,
    save: Annotated[
        Path | None, typer.Option(metavar="FILE.json", help="Write the points as an expert's file.")
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Take a model's proposal without asking.")] = False,
) -> None:
    """Name the points of a reference crop.

    They come from an expert's file, a vision-language model, where a re-identification model looks, or at random.
    """
    from care_cli.stages import templates as stage

    source = _source(ctx.params)
    asked = source in MODELS
    if asked and not (yes or save or sys.stdin.isatty()):
        raise CareError("A model's proposal is shown before it is stored. Add --yes to take it, or --save FILE.json.")
    with open_catalog(ctx) as catalog:
        stage.check_name(catalog, name)
        picture = overlay or (stage.free_picture(name) if asked else None)
        stage.check_places(catalog, picture, save)
        proposal = _propose(ctx, catalog, source, stage.crop_of_photo(catalog, photo) if photo else crop)
        stage.write(catalog, proposal, picture, save)
        if asked and not (yes or _confirmed(proposal, picture)):
            message("Nothing is stored." + (f" Correct {save} and give it with --points." if save else ""))
            return
        added = stage.add(catalog, name, proposal, species)
    if ctx.obj.json:
        emit(added)
    else:
        print(f"Template {added['name']}: {len(added['points'])} points on crop {added['crop']}.")
        notice(ctx)("Next: `care propagate-keypoints`.")


def _source(given: dict) -> str:
    """Which option says where the points come from; CareError when not just one does, or others do not fit it."""
    if (given["crop"] is None) == (given["photo"] is None):
        raise CareError("Say which animal: --crop ID or --photo FILE.")
    chosen = [name for name in SOURCES if given[name] is not None]
    if len(chosen) != 1:
        raise CareError(f"Say where the points come from, by one of {', '.join(SOURCES.values())}.")
    for name, sources in BELONGS.items():
        if given[name] not in (None, False) and chosen[0] not in sources:
            whose = " and ".join(SOURCES[source] for source in sources)
            raise CareError(f"--{name.replace('_', '-')} is for {whose}; the points come from {SOURCES[chosen[0]]}.")
    if given["names"] and given["count"]:
        raise CareError("--names says how many points there are: leave --count out.")
    if chosen[0] == "vlm_url" and not given["vlm_model"]:
        raise CareError("Say which model to ask there: --vlm-model NAME.")
    return chosen[0]


def _propose(ctx: typer.Context, catalog, source: str, crop: int):
    """The points from the source that was chosen, as a stage's Proposal."""
    from care_cli.stages import templates as stage

    given = ctx.params
    count = given["count"] or 3
    if source == "points":
        return stage.from_file(catalog, crop, given["points"], given["annotation"])
    if source == "random":
        return stage.from_random(catalog, crop, given["random"], given["seed"] or 0)
    if source == "gradcam":
        from care_cli import registry

        spec = registry.find(given["gradcam"], task="embedder", weights=given["weights"])
        return stage.from_gradcam(catalog, crop, spec, count, notice(ctx))
    names = [name for name in (given["names"] or "").split(",") if name.strip()]
    endpoint = stage.endpoint(given["vlm_url"], given["vlm_model"], given["vlm_timeout"] or 120.0)
    return stage.from_vlm(catalog, crop, endpoint, count, names, given["species"], message)


def _confirmed(proposal, picture: Path) -> bool:
    """Whether there is a person at the terminal who takes the points."""
    from dataclasses import asdict

    for line in text_table([asdict(point) for point in proposal.points], POINTS):
        message(line)
    try:
        return sys.stdin.isatty() and typer.confirm(f"Look at {picture}. Keep these points?", err=True)
    except typer.Abort:  # Ctrl-C, or nothing more to read
        return False


@app.command()
def show(
    ctx: typer.Context,
    name: Name,
    picture: Annotated[
        Path | None, typer.Option(metavar="FILE.jpg", help="Write a picture of the crop with its named points.")
    ] = None,
    csv: Csv = False,
) -> None:
    """A template's points, mirror pairs, and how it came about."""
    from care_cli.stages import templates as stage

    with open_catalog(ctx) as catalog:
        found = stage.show(catalog, name)
        if picture:
            stage.check_places(catalog, picture)
            stage.draw(catalog, catalog.template(name), picture)
            message(f"The points of {found['name']} are on {picture}.")
    if ctx.obj.json:
        emit(found)
        return
    if not csv:
        print(f"{found['name']}: {found['species'] or 'species not said'}, crop {found['crop']} of {found['path']}")
        print(f"from {found['source']}: {stage.origin(found)}; {found['carried']} points were carried from it\n")
    table(ctx, found["points"], POINTS, csv)


@app.command()
def remove(
    ctx: typer.Context,
    name: Name,
    with_points: Annotated[bool, typer.Option("--with-points", help="And all points carried from it.")] = False,
) -> None:
    """Forget a template."""
    with open_catalog(ctx) as catalog:
        gone = catalog.remove_template(name, with_points)
    if ctx.obj.json:
        emit({"name": name, "points": gone})
    else:
        notice(ctx)(f"Template {name} is removed" + (f", and {gone} points carried from it." if gone else "."))
