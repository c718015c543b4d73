"""The command line: parse, open the catalog, call a stage, print what came of it.

One file per group of commands; nothing heavy is imported before a command runs.
"""

from __future__ import annotations

import errno
import io
import os
import sys
import traceback
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from typer.core import TyperGroup

from care_cli import __version__
from care_cli.cli import (
    crops,
    detect,
    doctor,
    evaluate,
    exchange,
    identify,
    images,
    index,
    individuals,
    keypoints,
    models,
    propagate,
    templates,
    train,
)
from care_cli.cli.output import Options, message
from care_cli.errors import CareError
from care_cli.scan import display_path

ORDER = (
    "detect",
    "propagate-keypoints",
    "train",
    "index",
    "identify",
    "evaluate",
    "images",
    "crops",
    "individuals",
    "templates",
    "keypoints",
    "export",
    "import",
    "models",
    "doctor",
)
DISK_ERRORS = (errno.ENOSPC, errno.EFBIG, errno.EIO, getattr(errno, "EDQUOT", errno.ENOSPC))


class Commands(TyperGroup):
    """The commands in the order of a survey's work; ended quietly by Ctrl-C, or by a reader that leaves."""

    def list_commands(self, ctx: typer.Context) -> list[str]:
        return sorted(self.commands, key=ORDER.index)

    def make_context(self, *arguments: object, **settings: object) -> typer.Context:
        with quiet_end():
            return super().make_context(*arguments, **settings)

    def invoke(self, ctx: typer.Context) -> object:
        with quiet_end():
            return super().invoke(ctx)


@contextmanager
def quiet_end() -> Iterator[None]:
    """Turn Ctrl-C into exit code 130 and a word, and a reader that left (`care crops | head`) into 0.

    Raises CareError when a disk did not take what was printed or written.
    """
    try:
        try:
            yield
        finally:
            sys.stdout.flush()  # here, for a failure while Python ends could not be caught
    except KeyboardInterrupt:
        message("Stopped. What was done is kept; the same command goes on.")
        raise typer.Exit(130) from None
    except BrokenPipeError:
        _silence_stdout()
        raise typer.Exit(0) from None
    except OSError as error:
        if error.errno not in DISK_ERRORS:
            raise
        _silence_stdout()
        where = f" to {error.filename}" if error.filename else ""
        raise CareError(
            f"Not all could be written{where}: {error.strerror}. Make room, then give the same command again; what "
            "was committed to the catalog is kept."
        ) from error


def _silence_stdout() -> None:
    """Let what is still to be printed go nowhere, where nobody reads it or no disk takes it."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


app = typer.Typer(
    name="care",
    cls=Commands,
    help="From a camera trap's SD card to named animals, over one catalog file.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("detect")(detect.detect)
app.command("propagate-keypoints")(propagate.propagate_keypoints)
app.command("train")(train.train)
app.command("index")(index.index)
app.command("identify")(identify.identify)
app.add_typer(evaluate.app, name="evaluate")
app.command("images")(images.images)
app.add_typer(crops.app, name="crops")
app.add_typer(individuals.app, name="individuals")
app.add_typer(templates.app, name="templates")
app.add_typer(keypoints.app, name="keypoints")
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
            value = next(waiting, None)
            if value is None:
                return [*front, argument]  # so that the refusal says what is missing
            front += [argument, value]
        else:
            rest.append(argument)
    return front + rest


def check_text(arguments: list[str]) -> None:
    """CareError for an argument of bytes that are no text, unless it leads to a file or folder of such a name."""
    for argument in arguments:
        value = argument.partition("=")[2] if argument.startswith("--") and "=" in argument else argument
        path = Path(value)
        if _is_text(value) or os.path.lexists(path) or (_is_text(path.name) and path.parent.is_dir()):
            continue
        raise CareError(
            f"An argument holds what is no text: {display_path(os.fsencode(argument))}. Write it in UTF-8 "
            "without control characters; other bytes are taken in the names of files and folders that exist."
        )


def _is_text(value: str) -> bool:
    return not any(unicodedata.category(letter) in ("Cc", "Cs") for letter in value)


def main() -> None:
    """Entry point of `care`: exit code 0 done, 1 some items failed, 2 wrong use or a refusal, 130 Ctrl-C."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a pipe on Windows would take a part of all letters only
            stream.reconfigure(encoding="utf-8", errors="backslashreplace")
    arguments = hoist(sys.argv[1:])
    try:
        check_text(arguments)
        app(arguments, prog_name="care")
    except CareError as error:
        if {"-v", "--verbose"} & set(arguments):
            traceback.print_exc()
        message(f"Error: {error}")
        sys.exit(2)
