"""The options of every command that carries points: which extractor, its features, the matching."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from care_cli.records import ModelSpec
    from care_cli.stages.sweep import Setting

Extractor = Annotated[
    str | None,
    typer.Option(help="sd, sd:NAME, sd:FOLDER, timm:NAME or a name of `care models list`.  [default: by device]"),
]
Weights = Annotated[Path | None, typer.Option(help="Weights file for --extractor timm:NAME.")]
Size = Annotated[
    int | None,
    typer.Option(metavar="PX", help="Side of the square that crops are squashed to.  [default: model's own]"),
]
Block = Annotated[
    int | None,
    typer.Option(
        metavar="N", help="Layer: up-block (diffusion) or stage (timm) from 0; -1 = last.  [default: model's]"
    ),
]
Timestep = Annotated[
    int | None, typer.Option(metavar="T", help="Noise added, 0 (none) to 999; diffusion only.  [default: model's own]")
]
Ensemble = Annotated[
    int | None,
    typer.Option(metavar="N", help="Draws of noise averaged, from 1; diffusion only.  [default: model's own]"),
]
Prompt = Annotated[
    str | None,
    typer.Option(help="What crops show; diffusion only.  [default: a photo of a {species}]", show_default=False),
]
Refine = Annotated[
    str | None, typer.Option(help="soft (between cells) or argmax (pixel of the highest cosine).  [default: argmax]")
]
Align = Annotated[
    bool | None,
    typer.Option("--align/--no-align", help="Match the mirrored reference too, keep the closer.  [default: no-align]"),
]
Cycle = Annotated[
    float | None,
    typer.Option(
        metavar="X",
        help="A point is sure up to this error there and back: share of the box's longer side.  [default: 0.1]",
    ),
]
NoCycle = Annotated[bool, typer.Option("--no-cycle", help="A point is sure whatever its way back.")]
Least = Annotated[
    float | None, typer.Option(metavar="X", help="A point is sure from this cosine, -1 to 1.  [default: any]")
]


def asked(ctx: typer.Context) -> tuple[str, ModelSpec, Setting]:
    """The device, the extractor and the setting that the options above say. CareError where they say nothing."""
    from care_cli.stages import extractors
    from care_cli.stages.devices import choose
    from care_cli.stages.sweep import setting_of

    given = ctx.params
    setting = setting_of(given, given["no_cycle"])
    device = choose(ctx.obj.device)
    return device, extractors.find(given["extractor"], given["weights"], device), setting
