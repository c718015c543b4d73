"""Paths of photos as imported files write them, from whatever machine they come."""

from __future__ import annotations

import os
import re
from pathlib import Path

DRIVE = re.compile(r"[A-Za-z]:[/\\]")  # how absolute paths of Windows begin
OUTSIDE = "its path leads out of the folder of photos; --strip PREFIX leaves out the beginning of paths"


def relative_path(root: Path, text: str, strip: str = "") -> bytes | None:
    """A path of a file as it is below the root, with forward slashes; None where it leads out of it.

    Of a path that begins with the folder `strip` that beginning is left out, whichever way its slashes lean.
    """
    if "\0" in text:
        return None
    start = strip.replace("\\", "/").rstrip("/") + "/"
    if strip and text.replace("\\", "/").startswith(start):
        text = text[len(start) :]
    if text.startswith(("/", "\\\\")) or DRIVE.match(text):
        if not Path(text).is_absolute() or not Path(text).is_relative_to(root):
            return None
        text = Path(text).relative_to(root).as_posix()
    elif "\\" in text and not os.path.lexists(root / text):
        text = text.replace("\\", "/")
    parts: list[str] = []
    for part in text.split("/"):
        if part == ".." and not parts:
            return None
        if part == "..":
            parts.pop()
        elif part not in ("", "."):
            parts.append(part)
    return os.fsencode("/".join(parts)) if parts else None
