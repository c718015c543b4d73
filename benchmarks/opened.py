"""A gallery opened in a process of its own: `python -m benchmarks.opened CATALOG RUN` prints the seconds."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

from benchmarks.grown import unit_vectors
from care_cli.catalog import Catalog
from care_cli.stages.gallery import open_gallery


def main(path: Path, run: int) -> None:
    """Open the catalog's gallery, ask one question."""
    started = time.perf_counter()
    with Catalog(path) as catalog:
        gallery = open_gallery(catalog, run)
        opened = time.perf_counter()
        dim = gallery.blocks[0].values.shape[1]
        query = unit_vectors(1, dim, seed=1)[0]
        asked = time.perf_counter()
        gallery.search(query, 5)
        answered = time.perf_counter()
    print(json.dumps({"open": opened - started, "query": answered - asked}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
