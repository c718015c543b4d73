"""Finding photos in folders, on any system and under any name; nothing is opened but folders."""

# paths are bytes here, which pathlib does not take
# ruff: noqa: PTH100, PTH116, PTH118
from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from care_cli.errors import CareError

EXTENSIONS = (b".jpg", b".jpeg", b".png", b".tif", b".tiff", b".bmp", b".webp")
SYSTEM_NAMES = frozenset(
    (b"$recycle.bin", b"system volume information", b"@eadir", b"__macosx", b"thumbs.db", b"lost+found")
)  # beside names that start with a dot

_NUMBERED = re.compile(rb"[1-9][0-9]{2}[A-Za-z0-9_]{5}")  # as the camera standard DCF has it
_NUMBERED_IN_DCIM = re.compile(rb"[0-9]{3}.{0,5}", re.DOTALL)
_ESCAPE = re.compile(rb"\\(?:(\\)|x([0-9a-f]{2})|)")
_HIDDEN_ON_WINDOWS = stat.FILE_ATTRIBUTE_HIDDEN | stat.FILE_ATTRIBUTE_SYSTEM

_FileId = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Found:
    """A photo under one of the given paths."""

    root: Path  # the given folder, or the folder of a single given file; absolute
    relative: bytes  # path under the root, with forward slashes
    bytes: int
    mtime_ns: int

    @property
    def path(self) -> Path:
        """Where to open the file."""
        return self.root / os.fsdecode(self.relative)


@dataclass(frozen=True, slots=True)
class Unreadable:
    """A folder or file that could not be looked at; never the same as an empty folder."""

    path: bytes  # absolute, with forward slashes
    reason: str


def scan(paths: Sequence[Path]) -> Iterator[Found | Unreadable]:
    """Photos under the paths, each once and in an order that depends on names only.

    Given files come first and are found under any name; folders are searched with everything below
    them, links to folders after the folders themselves. Skipped: names that start with a dot or that
    systems keep for themselves, what Windows marks hidden, and all that is no regular file.

    Raises CareError at once when a path does not exist.
    """
    absolute = [Path(os.path.abspath(path)) for path in paths]
    for path in absolute:
        try:
            path.lstat()
        except (FileNotFoundError, NotADirectoryError, ValueError):
            raise CareError(
                f"There is no such file or folder: {display_path(_slashed(os.fsencode(path)))}. "
                "Check the spelling, and that the card or drive is connected."
            ) from None
        except OSError:
            continue  # it is there but cannot be looked at: reported in its turn
    return _scan(absolute)


def _scan(paths: list[Path]) -> Iterator[Found | Unreadable]:
    folders: list[Path] = []
    files: set[_FileId] = set()
    for path in paths:
        try:
            status = path.stat()
        except OSError as error:
            yield _unreadable(os.fsencode(path), error)
            continue
        if stat.S_ISDIR(status.st_mode):
            folders.append(path)
        elif not stat.S_ISREG(status.st_mode):
            yield Unreadable(_slashed(os.fsencode(path)), "not a file that can hold a photo")
        elif _identity(status) not in files:
            files.add(_identity(status))
            yield Found(path.parent, os.fsencode(path.name), status.st_size, status.st_mtime_ns)
    visited: set[_FileId] = set()
    for folder in folders:
        yield from _Walk(folder, files, visited).run()


class _Walk:
    """One folder searched to its depths. `visited` folders and given `files` are shared by all walks."""

    def __init__(self, root: Path, files: set[_FileId], visited: set[_FileId]):
        self.root = root
        self.root_bytes = os.fsencode(root)
        self.files = files
        self.visited = visited
        self.links: list[bytes] = []  # to folders, relative to the root

    def run(self) -> Iterator[Found | Unreadable]:
        """Everything below the root, then what its links lead to."""
        yield from self._below(b"")
        while self.links:
            link = self.links.pop(0)
            if not self._holds_root(link):
                yield from self._below(link)

    def _holds_root(self, link: bytes) -> bool:
        """Whether a link leads to a folder above the root: a circle, though the walk never was there."""
        target = Path(os.fsdecode(self._absolute(link))).resolve()
        return self.root.resolve().is_relative_to(target)

    def _below(self, top: bytes) -> Iterator[Found | Unreadable]:
        pending = [top]
        while pending:
            folder = pending.pop()
            try:
                device, entries = self._entries(folder)
            except OSError as error:
                yield _unreadable(self._absolute(folder), error)
                continue
            prefix = folder + b"/" if folder else b""
            inner: list[bytes] = []
            for entry in entries:
                relative = prefix + entry.name
                try:
                    if entry.is_dir():
                        (self.links if entry.is_symlink() else inner).append(relative)
                    elif found := self._photo(entry, relative, device):
                        yield found
                except OSError as error:
                    yield _unreadable(self._absolute(relative), error)
            pending.extend(reversed(inner))

    def _entries(self, folder: bytes) -> tuple[int, list[os.DirEntry[bytes]]]:
        """The folder's device number and its entries by name; none when it was visited before."""
        path = self._absolute(folder)
        identity = _identity(os.stat(path))
        if identity in self.visited:
            return identity[0], []
        self.visited.add(identity)
        with os.scandir(path) as listing:
            entries = [e for e in listing if not (_is_kept_by_system(e.name) or _is_hidden(e))]
        return identity[0], sorted(entries, key=lambda entry: entry.name)

    def _photo(self, entry: os.DirEntry[bytes], relative: bytes, device: int) -> Found | None:
        if not entry.name.lower().endswith(EXTENSIONS) or not (entry.is_file() or entry.is_symlink()):
            return None
        status = entry.stat()
        if not stat.S_ISREG(status.st_mode):
            return None
        if self.files and (device, entry.inode()) in self.files:
            return None
        return Found(self.root, relative, status.st_size, status.st_mtime_ns)

    def _absolute(self, relative: bytes) -> bytes:
        return os.path.join(self.root_bytes, relative) if relative else self.root_bytes


def _identity(status: os.stat_result) -> _FileId:
    return status.st_dev, status.st_ino


def _is_kept_by_system(name: bytes) -> bool:
    return name.startswith(b".") or name.lower() in SYSTEM_NAMES


def _is_hidden(entry: os.DirEntry[bytes]) -> bool:
    if os.name != "nt":
        return False
    return bool(entry.stat(follow_symlinks=False).st_file_attributes & _HIDDEN_ON_WINDOWS)


def _slashed(path: bytes) -> bytes:
    return path.replace(b"\\", b"/") if os.name == "nt" else path


def _unreadable(path: bytes, error: OSError) -> Unreadable:
    return Unreadable(_slashed(path), error.strerror or type(error).__name__)


def display_path(path: bytes) -> str:
    r"""Printable form of a path of any bytes: text as it is, a backslash as `\\`, and every byte of what
    is no printable text as `\xNN`. One line, no control characters, valid UTF-8."""
    text = path.decode("utf-8", "surrogateescape")
    if text.isprintable() and "\\" not in text:
        return text
    return "".join(letter if letter.isprintable() and letter != "\\" else _escaped(letter) for letter in text)


def _escaped(letter: str) -> str:
    if letter == "\\":
        return "\\\\"
    return "".join(f"\\x{byte:02x}" for byte in letter.encode("utf-8", "surrogateescape"))


def parse_path(text: str) -> bytes:
    """The path of which `display_path` made the text. Raises CareError for an escape it never writes."""

    def unescaped(match: re.Match[bytes]) -> bytes:
        if match[0] == b"\\":
            raise CareError(rf"A path has '\\' or '\xNN' after a backslash, but this came: {text!r}")
        return match[1] or bytes.fromhex(match[2].decode())

    return _ESCAPE.sub(unescaped, text.encode("utf-8", "surrogateescape"))


def deployment_folder(relative: bytes) -> bytes:
    """The folder, relative to the root, that stands for a camera's stay at a site: that of the photo,
    where `DCIM` and the numbered folders in it, which cameras make by themselves, belong to their parent.
    b"" is the root.

    A numbered folder without its DCIM is known by the full DCF form (100-999 and five characters), so
    that stations named 001 or 102B stay apart.
    """
    parts = relative.split(b"/")[:-1]
    while parts and _is_camera_folder(parts[-1], parts[-2] if len(parts) > 1 else b""):
        parts.pop()
    return b"/".join(parts)


def deployment_name(root: Path, folder: bytes) -> str:
    """A readable name for a deployment folder: the last part of root and folder that no camera made."""
    parts = [*_slashed(os.fsencode(root)).split(b"/"), *folder.split(b"/")]
    parts = [part for part in parts if part]
    while parts and _is_camera_folder(parts[-1], parts[-2] if len(parts) > 1 else b""):
        parts.pop()
    return display_path(parts[-1]) if parts else "card"


def _is_camera_folder(name: bytes, parent: bytes) -> bool:
    if name.lower() == b"dcim":
        return True
    pattern = _NUMBERED_IN_DCIM if parent.lower() == b"dcim" else _NUMBERED
    return pattern.fullmatch(name) is not None
