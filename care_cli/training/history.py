"""What a training tells of itself: one JSON object a line, one line a step or validation."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from care_cli.errors import CareError


class History:
    """Rows in memory and, with a `path`, in a file that ends where the state that goes on was saved.

    size  bytes of the file that belong to what was learned; what a killed run wrote after them is cut off
    """

    def __init__(self, path: Path | None, size: int = 0):
        self.path, self.rows = path, []
        if path is None:
            return
        try:
            self._stream = path.open("ab")
            size = min(size, self._stream.tell())
            self._stream.truncate(size)
            self.rows = [json.loads(line) for line in path.read_bytes().splitlines()]
        except (OSError, ValueError) as error:
            raise CareError(f"{path} cannot be kept: {error}. Name another folder.") from error

    def add(self, row: Mapping[str, Any]) -> None:
        """One more row."""
        self.rows.append(dict(row))
        if self.path is not None:
            self._written(lambda: self._stream.write(json.dumps(row).encode() + b"\n"))

    def sync(self) -> int:
        """Bytes of the file, which are on the disk now."""
        if self.path is None:
            return 0
        self._written(lambda: (self._stream.flush(), os.fsync(self._stream.fileno())))
        return self._stream.tell()

    def close(self) -> None:
        """Finish the file."""
        if self.path is not None:
            self._written(self._stream.close)

    def _written(self, action: Any) -> None:
        try:
            action()
        except OSError as error:
            raise CareError(
                f"{self.path} cannot be written: {error.strerror or error}. Make room and give the same command again: "
                "it goes on from the last checkpoint."
            ) from error
