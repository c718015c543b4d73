"""What is installed for comparison only: in a folder of its own, so that CARE runs as it does for its users.

(sqlite-utils imports pandas wherever it finds it, which would slow every `care` command here.)
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from importlib.machinery import PathFinder
from pathlib import Path

from benchmarks.processes import LeftOut

FOLDER = Path(sys.prefix) / "peers"


def need(names: Iterable[str]) -> None:
    """LeftOut unless these packages can be imported with the folder on the path."""
    if missing := [name for name in names if PathFinder.find_spec(name, [*sys.path, str(FOLDER)]) is None]:
        raise LeftOut(f"not installed: {', '.join(missing)}; `make bench` installs them")


def on_the_path() -> dict[str, str]:
    """The environment of a process that may import them."""
    paths = [str(FOLDER), os.environ.get("PYTHONPATH", "")]
    return {"PYTHONPATH": os.pathsep.join(path for path in paths if path)}


def faiss():
    """The FAISS module."""
    need(["faiss"])
    sys.path.append(str(FOLDER))
    try:
        import faiss as module
    finally:
        sys.path.remove(str(FOLDER))
    return module
