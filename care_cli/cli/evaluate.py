"""`care evaluate`: honest figures."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from care_cli.cli import ablation, calibrate, examine, output, table
from care_cli.cli import extractors as options
from care_cli.errors import CareError

app = typer.Typer()
app.callback(invoke_without_command=True)(examine.evaluate)

app.command("calibrate")(calibrate.calibrate)
app.command("ablation")(ablation.ablation)
app.command("table")(table.table)

Number = int | None
WORST = 5  # points that are shown of a species

References = Annotated[
    Number,
    typer.Option(metavar="N", help="Crops drawn as references of each target, from 1.  [default: each pair]"),
]
Pairs = Annotated[Number, typer.Option(metavar="N", help="Pairs drawn of each species, from 1.  [default: all]")]
Sweep = Annotated[
    list[str] | None,
    typer.Option(
        metavar="NAME=VALUE,...",
        help="Vary one or two of: timestep, ensemble, block, size, references, refine, align, pose, cycle, mirrored.",
    ),
]
Split = Annotated[
    Number,
    typer.Option(metavar="SEED", help="A random half of the animals chooses the setting, the other reports."),
]
ChooseOn = Annotated[
    Path | None, typer.Option(metavar="FILE", help="The individuals named here, a line each, choose the setting.")
]


@app.command()
def keypoints(
    ctx: typer.Context,
    species: Annotated[str | None, typer.Option(help="Only crops of this species.")] = None,
    extractor: options.Extractor = None,
    weights: options.Weights = None,
    size: options.Size = None,
    block: options.Block = None,
    timestep: options.Timestep = None,
    ensemble: options.Ensemble = None,
    prompt: options.Prompt = None,
    refine: options.Refine = None,
    align: options.Align = None,
    cycle: options.Cycle = None,
    no_cycle: options.NoCycle = False,
    least: options.Least = None,
    references: References = None,
    mirrored: Annotated[bool, typer.Option("--mirrored", help="Carry to the targets' mirror images.")] = False,
    pairs: Pairs = None,
    seed: Annotated[int, typer.Option(help="Of all that is drawn: pairs, intervals, random weights.", min=0)] = 0,
    sweep: Sweep = None,
    split: Split = None,
    choose_on: ChooseOn = None,
    against_untrained: Annotated[
        bool, typer.Option("--against-untrained", help="Measure the same network with random weights too.")
    ] = False,
    untrained_parts: Annotated[str, typer.Option(help="Drawn anew of a diffusion model: unet or all.")] = "unet",
    plot: Annotated[Path | None, typer.Option(help="Draw the figures: FILE.png, .svg or .pdf.")] = None,
    report: Annotated[Path | None, typer.Option(help="Write everything: FILE.json.")] = None,
    engine: output.Engine = "auto",
    precision: output.Precision = "auto",
    csv: output.Csv = False,
) -> None:
    """PCK of points carried between annotated crops of a species: per point, image and pair, with intervals."""
    from care_cli.stages import evaluate_keypoints as stage
    from care_cli.stages import keypoint_figures as figures
    from care_cli.stages.sweep import sweep_of

    with output.open_catalog(ctx) as catalog:
        figures.check_targets(catalog, plot, report)
        device, spec, setting = options.asked(ctx)
        cfg = stage.EvaluateConfig(
            spec=spec, setting=setting, sweep=sweep_of(sweep or []), species=species, prompt=prompt,
            pairs=pairs, seed=seed, split=split, choose_on=_lines(choose_on),
            untrained=untrained_parts if against_untrained else None,
            device=device, engine=engine, precision=precision,
        )  # fmt: skip
        found = stage.run(catalog, cfg)
    figures.write(found, plot, report)
    _show(ctx, found, csv)


def _lines(path: Path | None) -> tuple[str, ...]:
    """Names of a file, one a line."""
    if path is None:
        return ()
    try:
        names = [line.strip() for line in path.read_text("utf-8-sig").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise CareError(f"{path} cannot be read: {error}. Name a text file with an individual on each line.") from error
    if not any(names):
        raise CareError(f"{path} names no individual. Put one on each line.")
    return tuple(dict.fromkeys(filter(None, names)))


def _show(ctx: typer.Context, found: dict, csv: bool) -> None:
    """A table of all settings, and of the one that counts also the points."""
    from care_cli.stages import keypoint_figures as figures

    if ctx.obj.json:
        output.emit(found)
        return
    rows = figures.summary_rows(found)
    if csv:
        output.table(ctx, rows, csv=True)
        return
    if found["sweep"]:
        rows = [row for row in rows if row["species"] == "all"]
    constant = {name for name in ("part", "network", "species") if len({row[name] for row in rows}) == 1}
    print("\n".join(output.text_table(rows, [name for name in rows[0] if name not in constant])))
    if not found["sweep"] or found["chosen"] is not None:
        points = figures.point_rows(found, found["chosen"] or 0)
        print("\n" + "\n".join(output.text_table(points, list(points[0]))))
        if worst := figures.worst(points, WORST):
            print("\n" + "\n".join(worst))
    for line in figures.remarks(found):
        output.notice(ctx)(line)
