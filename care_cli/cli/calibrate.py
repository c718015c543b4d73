"""`care evaluate calibrate`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from care_cli.cli import output


def calibrate(
    ctx: typer.Context,
    model: Annotated[str | None, typer.Option(help="Embedder of an index.  [default: the newest index's]")] = None,
    weights: Annotated[Path | None, typer.Option(help="Weights file for --model timm:NAME.")] = None,
    species: Annotated[str | None, typer.Option(help="Only animals of this species.  [default: all together]")] = None,
    split: Annotated[str | None, typer.Option(help="Only animals in a part of this split.")] = None,
    part: Annotated[str, typer.Option(help="The part of --split: val, or train for a model of others.")] = "val",
    fpr: Annotated[
        float | None,
        typer.Option(metavar="SHARE", help="New animals that may be taken for known ones.  [default: balanced]"),
    ] = None,
    method: Annotated[str, typer.Option(help="Form of the curve: isotonic or logistic.")] = "isotonic",
    score: Annotated[str, typer.Option(help="As identify's: best, mean or vote.")] = "best",
    m: Annotated[int, typer.Option("--mean-of", help="Matches that --score mean averages.", min=1)] = 3,
    k: Annotated[int, typer.Option("--neighbours", help="Neighbours that --score vote asks.", min=1)] = 5,
    list_: Annotated[bool, typer.Option("--list", help="Show the calibrations of this catalog; make none.")] = False,
    csv: output.Csv = False,
) -> None:
    """Learn what a model's similarities mean: probabilities and thresholds for `identify`.

    Every named crop asks those of other events twice, with its own animal among them and without. Left out are
    animals that the model was trained on and those of a split's test part.
    """
    from care_cli.stages import calibrate as stage
    from care_cli.stages import trained

    with output.open_catalog(ctx) as catalog:
        if list_:
            output.table(ctx, stage.listing(catalog), csv=csv, empty="Nothing is calibrated in this catalog yet.")
            return
        cfg = stage.CalibrateConfig(
            model=trained.find(catalog, model, weights) if model else None,
            species=species, split=split, part=part, fpr=fpr, method=method, score=score, m=m, k=k,
        )  # fmt: skip
        done = stage.run(catalog, cfg)
    if ctx.obj.json:
        output.emit(done)
        return
    spans = [
        {"probability": f"{span['low']:.1f}-{span['high']:.1f}", "pairs": span["pairs"],
         "said": span["probability"], "same_animal": span["same"]}
        for span in done["reliability"]
    ]  # fmt: skip
    output.table(ctx, spans, csv=csv)
    say = output.notice(ctx)
    say(f"{done['model']}: {done['pairs']} pairs of {done['individuals']} animals, as many known as new to the others. "
        f"Expected calibration error {done['ece']:.3f}, on animals that the curve was not fitted to.")  # fmt: skip
    say(f"`identify` says known from similarity {done['known']:.3f} (probability {done['probability_at']:.2f}) and "
        f"new below {done['new']:.3f}: here {100 * done['share']['BAKS']:.0f} % of known animals are named and right, "
        f"{100 * done['share']['BAUS']:.0f} % of new ones called new.")  # fmt: skip
