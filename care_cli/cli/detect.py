"""`care detect`."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from care_cli.cli import output
from care_cli.errors import CareError

if TYPE_CHECKING:
    from care_cli.records import ModelSpec

CENTURY = 3_155_760_000  # seconds


def seconds(text: str | None) -> int | None:
    """A span as people write it: 90, 90s, 30m, 2h, -1d, +1:30:00, -0:05. CareError for anything else.

    A century is the longest: a camera's clock that is wrong began in this one.
    """
    if text is None:
        return None
    span = _span(text)
    if abs(span) > CENTURY:
        raise CareError(f"A span is a century at the most, but got {text!r}.")
    return span


def gap(text: str | None) -> int | None:
    """A span that is not negative."""
    if (span := seconds(text)) is not None and span < 0:
        raise CareError(f"A gap between photos is not negative, but got {text!r}.")
    return span


def _span(text: str) -> int:
    simple = re.fullmatch(r"([+-]?)(\d{1,12}(?:\.\d{1,12})?)\s*([smhd]?)", text.strip())
    if simple:
        span = float(simple[2]) * {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}[simple[3]]
        return round(-span if simple[1] == "-" else span)
    clock = re.fullmatch(r"([+-]?)(\d{1,9}):(\d{2})(?::(\d{2}))?", text.strip())
    if clock:
        span = int(clock[2]) * 3600 + int(clock[3]) * 60 + int(clock[4] or 0)
        return -span if clock[1] == "-" else span
    raise CareError(f"A span is written 90s, 30m, 2h, 1d or +1:30:00, but got {text!r}.")


def detect(
    ctx: typer.Context,
    paths: Annotated[
        list[Path], typer.Argument(metavar="PATH", help="Folders, a card, or single photos.", show_default=False)
    ],
    model: Annotated[str | None, typer.Option(help="Registry name or weights file.")] = None,
    image_size: Annotated[int | None, typer.Option(metavar="N", help="Input of the network, px.", min=32)] = None,
    batch: Annotated[int | None, typer.Option(help="Photos a forward pass.  [default: what suits]", min=1)] = None,
    decode: Annotated[str, typer.Option(help="full, or reduced: no finer than network and crops need.")] = "reduced",
    engine: output.Engine = "auto",
    precision: output.Precision = "auto",
    crop_margin: Annotated[float, typer.Option(min=0, help="Crops grow by this share of the box a side.")] = 0.1,
    crop_longest: Annotated[int, typer.Option(min=32, help="Longest side of stored crops, px.")] = 800,
    crop_quality: Annotated[int, typer.Option(min=30, max=100, help="JPEG quality of stored crops.")] = 90,
    species: Annotated[str | None, typer.Option(help="Species of animals whose model knows none.")] = None,
    deployment: Annotated[str | None, typer.Option(help="One deployment for all, instead of one a folder.")] = None,
    site: Annotated[str | None, typer.Option(help="Site of these deployments.")] = None,
    latitude: Annotated[float | None, typer.Option(min=-90, max=90, help="Degrees, north positive.")] = None,
    longitude: Annotated[float | None, typer.Option(min=-180, max=180, help="Degrees, east positive.")] = None,
    clock_shift: Annotated[
        str | None, typer.Option(help="Added to the camera's clock on reading: 2h, -30m, +1:30:00.")
    ] = None,
    burst_gap: Annotated[str | None, typer.Option(help="A longer pause begins a new burst.  [default: 60s]")] = None,
    event_gap: Annotated[str | None, typer.Option(help="A longer pause begins a new event.  [default: 30m]")] = None,
    gallery: Annotated[Path | None, typer.Option(help="Write pages of what was found: FILE.html.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be done; write nothing.")] = False,
) -> None:
    """Find animals, people and vehicles in photos; run it again to go on or to add new photos."""
    from care_cli import registry
    from care_cli.outputs import refuse_catalog_among_photos
    from care_cli.pages.gallery import check, write_gallery
    from care_cli.scan import display_path
    from care_cli.stages import detect as stage
    from care_cli.stages.cropping import CropSettings
    from care_cli.stages.devices import choose
    from care_cli.stages.photos import require_photos
    from care_cli.stages.preview import preview

    if decode not in stage.DECODE:
        raise CareError(f"--decode is {' or '.join(stage.DECODE)}, but got {decode!r}.")
    device = choose(ctx.obj.device)
    cfg = stage.DetectConfig(
        paths=tuple(paths),
        batch=batch,
        decode=decode,
        crop=CropSettings(crop_margin, crop_longest, crop_quality),
        species=species,
        deployment=deployment,
        site=site,
        latitude=latitude,
        longitude=longitude,
        clock_shift_s=seconds(clock_shift),
        burst_gap_s=gap(burst_gap),
        event_gap_s=gap(event_gap),
    )
    chosen = find(ctx, model) if model else registry.default(f"detect:{device[:4]}")
    require_photos(cfg.paths)  # what is wrong is said before a catalog is begun
    if dry_run:
        with output.standing_catalog(ctx) as catalog:
            plan = preview(catalog, cfg, chosen)
        show_preview(ctx, plan)
        raise typer.Exit(1 if plan["unreadable"] else 0)
    folders = [display_path(os.fsencode(path.absolute())) for path in paths if path.is_dir()]
    refuse_catalog_among_photos(ctx.obj.catalog, paths)
    if gallery:
        check(gallery, folders)
    detector = stage.load(chosen, device, image_size, engine, precision, output.notice(ctx))
    with output.open_catalog(ctx, create=True) as catalog:
        if gallery:
            check(gallery, catalog.scanned_folders())
        found = stage.run(catalog, cfg, detector)
        show(ctx, found)
        if gallery:
            written = write_gallery(catalog, gallery, catalog.images_met())
            output.notice(ctx)(f"Gallery: {', '.join(str(page) for page in written)}")
    if found["unreadable"]:
        raise typer.Exit(1)


def find(ctx: typer.Context, model: str) -> ModelSpec:
    """The detector of a name: one trained in the catalog, where there is one, or the registry's; or of a file."""
    from care_cli.stages import trained

    with output.standing_catalog(ctx) as catalog:
        return trained.find(catalog, model, task="detector")


def show(ctx: typer.Context, found: dict) -> None:
    """The summary of a run, as a table or as the JSON contract."""
    for problem in found["problems"]:
        output.message(f"Could not be read: {problem}")
    if ctx.obj.json:
        output.emit({key: value for key, value in found.items() if key != "problems"})
        return
    categories = found["by_category"]
    rows = [
        {"what": "photos", "count": found["images"]},
        {"what": "  new", "count": found["new"]},
        {"what": "  partly decoded", "count": found["partial"]},
        {"what": "  unreadable", "count": found["unreadable"]},
        *({"what": f"{name}s shown", "count": categories.get(name, 0)} for name in ("animal", "person", "vehicle")),
    ]
    print("\n".join(output.text_table(rows, ["what", "count"])))
    speed = f"{found['images_per_second']:.1f} photos a second" if found["images_per_second"] else ""
    output.notice(ctx)(f"Run {found['run']}: {found['seconds']:.1f} s, {speed}. Next: `care crops`, `care index`.")


def show_preview(ctx: typer.Context, plan: dict) -> None:
    """What a run would do."""
    if ctx.obj.json:
        output.emit(plan)
        return
    for problem in plan["unreadable"]:
        output.message(f"Could not be read: {problem}")
    print("\n".join(output.text_table([{"deployment": k, "files": v} for k, v in plan["deployments"].items()],
                                      ["deployment", "files"])))  # fmt: skip
    print(f"{plan['files']} files, {plan['bytes'] / 1e6:.1f} MB: {plan['known']} known, {plan['to_read']} to read.")
