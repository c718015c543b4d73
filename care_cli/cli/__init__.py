"""The command line: parse, open the catalog, call a stage, print what came of it.

One file per group of commands; nothing heavy is imported before a command runs.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from care_cli import __version__
from care_cli.cli import crops, detect, doctor, exchange, identify, images, index, individuals, models
from care_cli.cli.output import Options, message
from care_cli.errors import CareError

app = typer.Typer(
    name="care",
    help="From a camera trap's SD card to named animals, over one catalog file.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("detect")(detect.detect)
app.command("index")(index.index)
app.command("identify")(identify.identify)
app.command("images")(images.images)
app.add_typer(crops.app, name="crops")
app.add_typer(individuals.app, name="individuals")
app.add_typer(exchange.export_app, name="export")
app.add_typer(exchange.import_app, name="import")
app.add_typer(models.app, name="models")
app.command("doctor")(doctor.doctor)


def _version(asked: bool) -> None:
    if asked:
        print(f"care {__version__}")
        raise typer.Exit


@app.callback()
def options(
    ctx: typer.Context,
    catalog: Annotated[
        Path, typer.Option(help="The survey's catalog file.", envvar="CARE_CATALOG", show_default=True)
    ] = Path("care.db"),
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
    json: Annotated[bool, typer.Option("--json", help="Print JSON, before or after the command.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print results only.")] = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Say more; show tracebacks.")] = False,
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True)] = False,
) -> None:
    """Options of every command."""
    if quiet:
        os.environ["TQDM_DISABLE"] = "1"
    ctx.obj = Options(catalog=catalog, device=device, json=json, quiet=quiet, verbose=verbose)


FLAGS = {"--json", "--quiet", "-q", "--verbose", "-v"}
VALUES = {"--catalog", "--device"}


def hoist(arguments: list[str]) -> list[str]:
    """Move the options of every command to the front, so that they work behind a command too."""
    front: list[str] = []
    rest: list[str] = []
    waiting = iter(arguments)
    for argument in waiting:
        if argument == "--":
            rest += [argument, *waiting]
        elif argument in FLAGS or (argument.split("=")[0] in VALUES and "=" in argument):
            front.append(argument)
        elif argument in VALUES:
            front += [argument, *[value for value in [next(waiting, None)] if value is not None]]
        else:
            rest.append(argument)
    return front + rest


def main() -> None:
    """Entry point of `care`: exit code 0 done, 1 some items failed, 2 wrong use or a refusal, 130 Ctrl-C."""
    arguments = hoist(sys.argv[1:])
    try:
        app(arguments, prog_name="care")
    except CareError as error:
        if {"-v", "--verbose"} & set(arguments):
            raise
        message(f"Error: {error}")
        sys.exit(2)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the reader left; that is no error
        sys.exit(0)
