"""JSON files of any size, read in passes that hold one record at a time."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from care_cli.errors import CareError

CHUNK = 1 << 20  # bytes
NOT_NUMBERS = (b"NaN", b"Infinity")  # Python writes them, though JSON has no such numbers
_TOKEN = re.compile(rb'"(?:[^"\\]++|\\.)*+(?P<end>"|\\?\Z)|-?(?:NaN|Infinity)', re.DOTALL)
_LONGEST = len(b"-Infinity")
_BOM = b"\xef\xbb\xbf"


class JsonFile:
    """A JSON file by its bytes. `digest` is their SHA-256.

    NaN and Infinity, which JSON does not have, are read as null. Raises CareError when the file cannot be read.
    """

    def __init__(self, path: Path):
        self.path = path
        sha256, before, self._numbers = hashlib.sha256(), b"", True
        try:
            with path.open("rb") as file:
                while chunk := file.read(CHUNK):
                    sha256.update(chunk)
                    seam = before + chunk
                    self._numbers = self._numbers and not any(word in seam for word in NOT_NUMBERS)
                    before = chunk[-_LONGEST:]
        except OSError as error:
            raise CareError(f"{path} cannot be read: {error.strerror or error}.") from error
        self.digest = sha256.hexdigest()

    def check(self) -> None:
        """Read it once to its end. CareError when it is no JSON, or breaks off."""
        for _ in self.items("\0"):
            pass

    def items(self, prefix: str) -> Iterator[Any]:
        """The values at a place in ijson's words: `images.item` are the elements of the list `images`.

        CareError where the file is no JSON.
        """
        import ijson

        with self._open() as file:
            try:
                yield from ijson.items(file, prefix, use_float=True)
            except (ijson.JSONError, ValueError) as error:
                raise self._broken(error) from error

    def first(self, prefix: str) -> Any:
        """The first value at a place, None when there is none; reads no further."""
        return next(self.items(prefix), None)

    def events(self) -> Iterator[tuple[str, str, Any]]:
        """Place, kind and value of everything in the file, in its order. CareError where it is no JSON."""
        import ijson

        with self._open() as file:
            try:
                yield from ijson.parse(file, use_float=True)
            except (ijson.JSONError, ValueError) as error:
                raise self._broken(error) from error

    def has(self, part: str) -> bool:
        """Is there such a part at the top, whatever it holds?"""
        return any(place == "" and kind == "map_key" and value == part for place, kind, value in self.events())

    def _open(self) -> Any:
        try:
            file = self.path.open("rb")
        except OSError as error:
            raise CareError(f"{self.path} cannot be read: {error.strerror or error}.") from error
        if file.read(len(_BOM)) != _BOM:
            file.seek(0)
        return file if self._numbers else _OnlyNumbers(file)

    def _broken(self, error: Exception) -> CareError:
        said = error.args[0] if error.args else error
        said = said.decode("utf-8", "backslashreplace") if isinstance(said, bytes) else str(said)
        reason = " ".join(said.split("\n")[0].split()) or type(error).__name__
        return CareError(
            f"{self.path} should be JSON in UTF-8, but is not, or breaks off: {reason}. Nothing was imported from it; "
            "get it anew where it came from."
        )


class _OnlyNumbers:
    """A JSON file whose NaN and Infinity, outside of texts, are null."""

    def __init__(self, file: BinaryIO):
        self._file = file
        self._rest = b""

    def read(self, size: int = CHUNK) -> bytes:
        if size == 0:  # ijson asks whether bytes come
            return b""
        while True:
            chunk = self._file.read(CHUNK)
            data, done, ready = self._rest + chunk, 0, []
            safe = max(0, len(data) - _LONGEST) if chunk else len(data)
            for match in _TOKEN.finditer(data):
                if match["end"] == b'"':
                    ready += [data[done : match.end()]]
                elif match["end"] is not None and chunk:  # a text that goes on
                    safe = match.start()
                    break
                else:
                    ready += [data[done : match.start()], match[0] if match["end"] is not None else b"null"]
                done = match.end()
            safe = max(safe, done)
            ready.append(data[done:safe])
            self._rest = data[safe:]
            if (out := b"".join(ready)) or not chunk:
                return out

    def __enter__(self) -> _OnlyNumbers:
        return self

    def __exit__(self, *error: object) -> None:
        self._file.close()
