"""Files of weights: where they are kept, how they arrive, and that they are what they should be.

A file is checked by SHA-256 on arrival and again whenever its size or modification time has changed; the
finding is kept in a small note in the cache folder, so that an unchanged file is read once.
"""

from __future__ import annotations

import glob
import hashlib
import http.client
import json
import os
import sys
import time
import urllib.parse
import urllib.request
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from care_cli.errors import CareError

STALLED_S = 30  # a server that sends nothing for so long has gone
ABANDONED_S = 600  # a partial file that nobody wrote to for so long was left by a process that was killed

Progress = Callable[[str, int, int | None], None]  # file name, bytes so far, bytes in all where known


def cache_folder() -> Path:
    """Where weights are kept: $CARE_MODELS, else the platform's cache folder. Not created here."""
    if folder := os.environ.get("CARE_MODELS"):
        return Path(folder).expanduser()
    if sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    elif sys.platform == "darwin":
        base = Path.home() / "Library" / "Caches"
    else:
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return base / "care" / "models"


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's bytes, as hexadecimal digits."""
    with Path(path).open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def digest(path: Path, expected: str | None = None, *, md5: str | None = None, again: bool = False) -> str:
    """SHA-256 of a weights file; read only when it is new, has changed, or `again` is asked for.

    Raises CareError when it is not `expected`, when what is read has not the published `md5`, or when a file
    of the cache is no longer what was pulled.
    """
    path = Path(path).resolve()
    state = path.stat()
    note = _read_note(path)
    unchanged = note.get("size") == state.st_size and note.get("mtime_ns") == state.st_mtime_ns
    if expected is None and (unchanged or path.is_relative_to(cache_folder().resolve())):
        expected = note.get("sha256")
    trusted = unchanged and not again
    if not trusted and md5 is not None:
        with path.open("rb") as stream:
            _compare(path, "MD5", md5, hashlib.file_digest(stream, _md5).hexdigest())
    found = note["sha256"] if trusted else file_sha256(path)
    _compare(path, "SHA-256", expected, found)
    if not unchanged:
        _write_note(path, found)
    return found


def _md5():
    return hashlib.md5(usedforsecurity=False)


def _compare(path: Path, kind: str, expected: str | None, found: str) -> None:
    if expected not in (None, found):
        raise CareError(
            f"{path} is damaged or not what it should be: expected {kind} {expected}, got {found}. "
            "Remove it and run `care models pull` again."
        )


def _note(path: Path) -> Path:
    return cache_folder() / "checked" / f"{hashlib.sha256(os.fsencode(path)).hexdigest()[:24]}.json"


def _read_note(path: Path) -> dict[str, Any]:
    try:
        note = json.loads(_note(path).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return note if isinstance(note, dict) and isinstance(note.get("sha256"), str) else {}


def _write_note(path: Path, sha256: str) -> None:
    state, note = path.stat(), _note(path)
    text = json.dumps({"path": str(path), "size": state.st_size, "mtime_ns": state.st_mtime_ns, "sha256": sha256})
    unfinished = note.with_suffix(f".{os.getpid()}")
    try:
        note.parent.mkdir(parents=True, exist_ok=True)
        unfinished.write_text(text, encoding="utf-8")
        unfinished.replace(note)
    except OSError:
        return  # a cache that can't be written costs a second reading, no more


def check_url(url: str) -> None:
    """Refuse what is neither https, a local file, nor a server on this machine."""
    try:
        parts = urllib.parse.urlparse(url)
    except ValueError as error:
        raise CareError(f"{url!r} is no address: {error}") from error
    if parts.scheme == "file" and parts.netloc not in ("", "localhost"):
        raise CareError(f"weights come over https or from this machine, got {url!r}")
    local = parts.scheme == "http" and parts.hostname in ("127.0.0.1", "localhost", "::1")
    if parts.scheme not in ("https", "file") and not local:
        raise CareError(f"weights come over https only, got {url!r}")


class _SafeRedirects(urllib.request.HTTPRedirectHandler):
    """Follows redirects under the same rule as first addresses; urllib itself follows none to a file."""

    def redirect_request(self, req, fp, code, msg, headers, newurl):
        check_url(newurl)
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _clear_abandoned(path: Path) -> None:
    """Remove what downloads of this file left when they were killed; one that still runs writes all the time."""
    for part in path.parent.glob(f"{glob.escape(path.name)}.*.part"):
        with suppress(OSError):
            if time.time() - part.stat().st_mtime > ABANDONED_S:
                part.unlink()


def download(
    url: str,
    path: Path,
    *,
    sha256: str | None = None,
    md5: str | None = None,
    progress: Progress | None = None,
) -> str:
    """Fetch a file to `path` through a temporary file and a rename; returns its SHA-256.

    Raises CareError when the network fails, the file breaks off, or a published digest differs; nothing
    is kept then.
    """
    check_url(url)
    unfinished = path.with_name(f"{path.name}.{os.getpid()}.part")
    _clear_abandoned(path)
    running = {"SHA-256": hashlib.sha256(), "MD5": _md5()}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        opener = urllib.request.build_opener(_SafeRedirects)
        with opener.open(url, timeout=STALLED_S) as answer, unfinished.open("wb") as stream:
            total = int(answer.headers.get("Content-Length") or 0) or None
            done = 0
            while block := answer.read(1 << 20):
                stream.write(block)
                for hasher in running.values():
                    hasher.update(block)
                done += len(block)
                if progress:
                    progress(path.name, done, total)
        if total is not None and done != total:
            raise CareError(f"{url} broke off after {done:,} of {total:,} bytes; run the same command again")
        for kind, expected in (("SHA-256", sha256), ("MD5", md5)):
            found = running[kind].hexdigest()
            if expected not in (None, found):
                raise CareError(
                    f"{url} is not what was published: expected {kind} {expected}, got {found}. Nothing was kept."
                )
        unfinished.replace(path)
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise CareError(f"{url} can't be fetched: {getattr(error, 'reason', error)}") from error
    finally:
        with suppress(OSError):
            unfinished.unlink(missing_ok=True)
    found = running["SHA-256"].hexdigest()
    _write_note(path.resolve(), found)
    return found
