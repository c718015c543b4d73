"""Search in a large gallery beside FAISS: `python -m benchmarks.gallery [--rows N]`.

An index of random unit vectors is written to a catalog, every crop with a name. Measured are the making of the
cache, its opening by a process of its own, and one query, ours and FAISS's exact float32 scan by turns.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

DIM, INDIVIDUALS, QUERIES, TOP = 512, 5000, 9, 5
PAGE = 8192
CROPS = (
    "INSERT INTO crops (id, run_id, image_id, confidence, x, y, w, h, model_category, category, rect_x, rect_y, "
    "rect_w, rect_h) WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ?) "
    "SELECT i, 1, 1, 0.9, 0, 0, 1, 1, 'animal', 'animal', 0, 0, 1, 1 FROM n"
)
DECISION = (
    "INSERT INTO decisions (id, at, who, source, action, crop_id, individual_id, value) "
    "VALUES (1, '', '', 'import', 'create', 1, 1, '0')"
)
OPEN = """
import sys, time
from pathlib import Path
from care_cli.catalog import Catalog
from care_cli.stages.gallery import open_gallery
with Catalog(Path(sys.argv[1])) as catalog:
    started = time.perf_counter()
    open_gallery(catalog, int(sys.argv[2]))
    print(time.perf_counter() - started)
"""


def main() -> None:
    """Print the rows; catalog and cache are deleted in the end."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gallery", description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000, help="vectors; a million take 4 GB of disk and memory")
    rows = parser.parse_args().rows
    if importlib.util.find_spec("faiss") is None:
        raise SystemExit("FAISS is what is measured against: install faiss-cpu.")
    with tempfile.TemporaryDirectory() as work:
        os.environ["CARE_MODELS"] = str(Path(work) / "cache")
        path = Path(work) / "care.db"
        run = write(path, rows)
        made, opened = (float(subprocess.check_output([sys.executable, "-c", OPEN, path, str(run)])) for _ in "12")
        print(f"{rows:,} vectors of {DIM} numbers: cache made in {made:.1f} s, opened in {opened:.3f} s (target 0.2 s)")
        ours, theirs, same = compare(path, run)
        print(
            f"one query, top {TOP}: {1e3 * ours:.1f} ms, FAISS {1e3 * theirs:.1f} ms, ratio {theirs / ours:.1f} "
            f"(target 2), same answers in {same} of {QUERIES}"
        )


def write(path: Path, rows: int) -> int:
    """A catalog with that many named crops and their vectors; the index run's id."""
    from care_cli.catalog import Catalog

    rng = np.random.default_rng(0)
    with Catalog(path, create=True) as catalog:
        execute = catalog.db.conn.execute
        execute("PRAGMA synchronous = OFF")
        catalog.begin_run("detect", {}, None)
        run = catalog.begin_run("index", {}, None)
        with catalog.transaction():
            execute("INSERT INTO images (id, state) VALUES (1, 'ok')")
            execute(CROPS, (rows,))
            for number in range(1, INDIVIDUALS + 1):
                execute("INSERT INTO individuals VALUES (?, ?, 'active', NULL)", (number, str(number)))
            execute(DECISION)
            execute("INSERT INTO crop_identity SELECT id, 1 + id * 7919 % ?, 1 FROM crops", (INDIVIDUALS,))
        for start in range(0, rows, PAGE):
            count = min(PAGE, rows - start)
            catalog.add_embeddings(run, range(start + 1, start + count + 1), unit(rng, count))
    return run


def unit(rng: np.random.Generator, count: int) -> np.ndarray:
    """Random vectors `(count, DIM) float32, norm 1`."""
    vectors = rng.standard_normal((count, DIM), dtype=np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def compare(path: Path, run: int) -> tuple[float, float, int]:
    """Median seconds a query, ours and FAISS's, and how often the nearest crops of the answers are the same."""
    import faiss

    from care_cli.catalog import Catalog
    from care_cli.stages.gallery import open_gallery

    with Catalog(path) as catalog:
        gallery = open_gallery(catalog, run)
        flat = faiss.IndexFlatIP(DIM)
        flat.add(catalog.embeddings(run).vectors)
        seconds, same = [], 0
        for query in unit(np.random.default_rng(1), QUERIES):
            started = time.perf_counter()
            answer = gallery.search(query, TOP)
            between = time.perf_counter()
            nearest = flat.search(query[None], TOP)[1][0]
            seconds.append((between - started, time.perf_counter() - between))
            first: dict[int, int] = {}  # FAISS ranks crops: one more query says whose are the first
            for row in flat.search(query[None], min(100, flat.ntotal))[1][0]:
                first.setdefault(int(gallery.individuals[row]), int(row))
            same += [one.index for one in answer] == list(first.values())[:TOP] and answer[0].index == nearest[0]
        ours, theirs = np.median(seconds, axis=0)
        return float(ours), float(theirs), same


if __name__ == "__main__":
    main()
