"""`care identify`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from care_cli.cli import output
from care_cli.errors import CareError


def identify(
    ctx: typer.Context,
    paths: Annotated[list[Path], typer.Argument(help="Photos, or folders of them.", show_default=False)],
    top: Annotated[int, typer.Option(help="Candidates shown for each animal.", min=1)] = 5,
    model: Annotated[str | None, typer.Option(help="Embedder of an index.  [default: the newest index's]")] = None,
    weights: Annotated[Path | None, typer.Option(help="Weights file for --model timm:NAME.")] = None,
    detector: Annotated[str | None, typer.Option(help="Detector.  [default: the active detect run's]")] = None,
    whole: Annotated[bool, typer.Option("--whole", help="Each photo is one animal, cut out already.")] = False,
    engine: output.Engine = "auto",
    precision: output.Precision = "auto",
    score: Annotated[str, typer.Option(help="One score per individual: best, mean or vote.")] = "best",
    m: Annotated[int, typer.Option("--mean-of", help="Matches that --score mean averages.", min=1)] = 3,
    k: Annotated[int, typer.Option("--neighbours", help="Neighbours that --score vote asks.", min=1)] = 5,
    known: Annotated[float | None, typer.Option(help="Similarity from which it is the first candidate.")] = None,
    new_below: Annotated[float | None, typer.Option(help="Similarity below which it is a new animal.")] = None,
    species: Annotated[str | None, typer.Option(help="Compare with animals of this species only.")] = None,
    site: Annotated[str | None, typer.Option(help="Compare with animals seen at this site only.")] = None,
    flank: Annotated[str | None, typer.Option(help="Compare with crops of this flank only.")] = None,
    keypoints: Annotated[bool, typer.Option("--keypoints", help="Find the animals' named points too.")] = False,
    sheet: Annotated[Path | None, typer.Option(help="Write a picture: FILE.jpg.")] = None,
    confirm: Annotated[str | None, typer.Option(help="Add the photo: its animal is this individual.")] = None,
    new: Annotated[str | None, typer.Option(help="Add the photo: its animal is a new individual of this name.")] = None,
    crop: Annotated[int | None, typer.Option(help="Which animal of the photo --confirm and --new mean.")] = None,
) -> None:
    """Name the animals in photos: ranked individuals, known, new or unsure, with evidence."""
    from care_cli import registry
    from care_cli.pages.sheet import check
    from care_cli.records import Selection
    from care_cli.stages import answers, trained
    from care_cli.stages import identify as stage
    from care_cli.stages.devices import choose

    if confirm is not None and new is not None:
        raise CareError("--confirm names an animal that has a name, --new one that has none; give one of them.")
    cfg = stage.IdentifyConfig(
        paths=tuple(paths),
        top=top,
        detector=registry.find(detector, task="detector") if detector else None,
        whole=whole,
        device=choose(ctx.obj.device),
        engine=engine,
        precision=precision,
        score=score,
        m=m,
        k=k,
        known=known,
        new_below=new_below,
        candidates=Selection(species=species, site=site, flank=flank),
        name=confirm if new is None else new,
        new=new is not None,
        keep=sheet is not None,
        keypoints=keypoints,
    )
    with output.open_catalog(ctx) as catalog:
        if model:
            cfg = replace(cfg, model=trained.find(catalog, model, weights))
        if sheet:
            check(sheet, catalog.scanned_folders())
        identifier, photos = stage.run(catalog, cfg)
        if sheet:
            write_sheet(ctx, answers.sheet_rows(identifier, photos), sheet)
        if ctx.obj.json:
            output.emit(answers.contract(identifier, photos))
        else:
            show(ctx, answers.contract(identifier, photos))
        for line in answers.remarks(identifier, photos):
            output.notice(ctx)(line)
        if cfg.name is not None:
            done = stage.confirm(identifier, photos, crop)
            said = f"decision {done['decisions'][0]}" if done["decisions"] else "as it was already"
            output.message(f"Crop {done['crop']} is {done['individual']} ({said}).")
    if any(photo.failure for photo in photos):
        raise typer.Exit(1)


def show(ctx: typer.Context, answer: dict) -> None:
    """The answers as a table: a line per candidate."""
    rows = []
    for photo in answer["photos"]:
        name = photo["path"].rpartition("/")[2]
        if photo.get("failure"):
            output.message(f"Could not be read: {photo['path']}: {photo['failure']}")
            continue
        if not photo["crops"]:
            rows.append({"photo": name, "verdict": "nothing found"})
        for number, crop in enumerate(photo["crops"], 1):
            first = {"photo": name, "crop": number, "species": crop["species"], "verdict": crop["verdict"],
                     "why": crop["reason"] if crop["verdict"] == "unsure" else " "}  # fmt: skip
            if crop["category"] != "animal":
                rows.append(first | {"verdict": crop["category"]})
                continue
            for place, one in enumerate(crop["candidates"] or [{}], 1):
                line = {"rank": place} | {name: one.get(name) for name in ("individual", "similarity", "probability")}
                line["gallery_crop"] = one.get("crop")
                rows.append((first if place == 1 else {}) | line)
    blank = {"photo": " ", "crop": " ", "species": " ", "verdict": " "}
    lines = [{"why": " "} | (row if "photo" in row else blank | row) for row in rows]
    columns = ["photo", "crop", "species", "verdict", "rank", "individual", "similarity"]
    columns += ["probability"] if any(line.get("probability") is not None for line in lines) else []
    columns += ["gallery_crop"]
    columns += ["why"] if any(line["why"] != " " for line in lines) else []
    if lines:
        print("\n".join(output.text_table(lines, columns)))


def write_sheet(ctx: typer.Context, rows, path: Path) -> None:
    """The picture of --sheet."""
    from care_cli.pages.sheet import identify_sheet

    written = identify_sheet(rows, path)
    output.notice(ctx)(f"Sheet: {', '.join(str(one) for one in written)}")
