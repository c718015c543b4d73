"""Where photos lie: folders as sources of the catalog, and the camera's stay that a photo belongs to."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from care_cli.scan import deployment_folder, deployment_name, display_path
from care_cli.volumes import volume_of

if TYPE_CHECKING:
    from care_cli.catalog import Catalog


@dataclass(frozen=True)
class Place:
    """A scanned folder: its volume, its path on it, where the volume is mounted, and its row in `sources`."""

    volume: str
    relative: bytes
    mount: Path
    source_id: int = 0

    def deployment(self, relative: bytes) -> tuple[str, bytes]:
        """Name and folder, on the volume, of the camera's stay to which a photo at `relative` below belongs.

        The same for a card however deep the folder lies that was given.
        """
        folder = deployment_folder(b"/".join(part for part in (self.relative, relative) if part not in (b"", b".")))
        return deployment_name(self.mount, folder), folder


def place_of(root: Path) -> Place:
    """Where a folder lies: its volume, and its path below where that is mounted."""
    volume = volume_of(root)
    return Place(volume.id, os.fsencode(root.resolve().relative_to(volume.mount).as_posix()), volume.mount)


def add_place(catalog: Catalog, root: Path) -> Place:
    """The same, noted as a source in the catalog."""
    place = place_of(root)
    location = display_path(os.fsencode(root.as_posix()))
    source_id = catalog.add_source(place.volume, place.relative, display_path(place.relative), location)
    return replace(place, source_id=source_id)
