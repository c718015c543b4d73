"""Files for the user: written whole or not at all, and never into a folder of photos."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from care_cli.errors import CareError
from care_cli.scan import parse_path


def write_whole(path: Path, data: bytes | str) -> None:
    """Write a file through a temporary one and a rename: it is complete, or as it was before.

    Text becomes UTF-8 with line feeds. Raises CareError when the place cannot be written.
    """
    partial = path.with_name(path.name + ".part")
    try:
        partial.write_bytes(data.encode("utf-8") if isinstance(data, str) else data)
        partial.replace(path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise CareError(f"{path} cannot be written: {error.strerror or error}. Name another place.") from error


def numbered(path: Path, number: int) -> Path:
    """The file of a series: the path itself for 1, then NAME-2.ext, NAME-3.ext, ..."""
    return path if number == 1 else path.with_name(f"{path.stem}-{number}{path.suffix}")


def refuse_scanned(path: Path, scanned: Iterable[str]) -> None:
    """CareError when `path` lies in one of the `scanned` folders (as `Catalog.scanned_folders` gives them)."""
    target = path.absolute().resolve()
    for location in scanned:
        folder = Path(os.fsdecode(parse_path(location))).resolve()
        if target.is_relative_to(folder):
            raise CareError(
                f"{path} lies in {location}, which was scanned for photos; nothing is written there. "
                "Name a place outside it."
            )
