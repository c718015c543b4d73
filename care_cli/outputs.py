"""Files for the user: written whole or not at all, and never into a folder of photos."""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import suppress
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
        with suppress(OSError):
            partial.unlink(missing_ok=True)
        raise CareError(f"{path} cannot be written: {error.strerror or error}. Name another place.") from error


def numbered(path: Path, number: int) -> Path:
    """The file of a series: the path itself for 1, then NAME-2.ext, NAME-3.ext, ..."""
    return path if number == 1 else path.with_name(f"{path.stem}-{number}{path.suffix}")


def refuse_scanned(path: Path, scanned: Iterable[str]) -> None:
    """CareError when `path` lies in one of the `scanned` folders (as `Catalog.scanned_folders` gives them)."""
    for location in scanned:
        if lies_in(path, Path(os.fsdecode(parse_path(location)))):
            raise CareError(
                f"{path} lies in {location}, which was scanned for photos; nothing is written there. "
                "Name a place outside it."
            )


def refuse_catalog_among_photos(catalog: Path, given: Iterable[Path]) -> None:
    """CareError when a scan of the `given` paths would have the catalog in one of the folders it searches.

    To be called before the catalog is begun.
    """
    for folder in given:
        if folder.is_dir() and lies_in(catalog, folder):
            raise CareError(
                f"The catalog {catalog} would lie in {folder}, which is to be scanned for photos; nothing is written "
                "there. Name a file outside it with --catalog, or give the command in another folder."
            )


def lies_in(path: Path, folder: Path) -> bool:
    """Is `path`, which need not exist, the folder or below it, by whatever name or link they are given?"""
    place = path.resolve()
    if place.is_relative_to(folder.resolve()):
        return True
    with suppress(OSError):  # a folder that is not within reach has its name alone
        return any(above.exists() and above.samefile(folder) for above in (place, *place.parents))
    return False
