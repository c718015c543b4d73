"""The cache of an index: what it answers, when it is stale, and that it forgets."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import catalogs
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from care_cli import search
from care_cli.catalog import Catalog
from care_cli.catalog.embeddings import BLOCK
from care_cli.decisions import Decision
from care_cli.matching import SCORES, rank
from care_cli.records import Selection
from care_cli.stages import crops, detect, doctor, gallery, individuals

DIM = 24
INDEX = 2  # the run
NAMES = ("Moss", "Kea", "Fern", "Ash", "Ivy", "Bo", "Zoe")


def unit(rng: np.random.Generator, rows: int) -> np.ndarray:
    vectors = rng.standard_normal((rows, DIM))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def fill(catalog: Catalog, ids, vectors: np.ndarray, who) -> None:
    """Crops of given ids, each of an image of its own, with vectors and (where not None) names."""
    execute = catalog.db.conn.execute
    with catalog.transaction():
        for crop, name in zip(ids, who, strict=True):
            execute("INSERT INTO images (id, state, width, height) VALUES (?, 'ok', 64, 48)", (crop,))
            execute(
                "INSERT INTO crops (id, run_id, image_id, confidence, x, y, w, h, model_category, category, rect_x, "
                "rect_y, rect_w, rect_h) VALUES (?, 1, ?, 0.9, 0, 0, 1, 1, 'animal', 'animal', 0, 0, 1, 1)",
                (crop, crop),
            )
            if name is not None:
                known = catalog.active(name)
                catalog.decide(
                    Decision("name", crop_id=crop, individual_id=known)
                    if known
                    else Decision("create", crop_id=crop, value=name)
                )
        catalog.add_embeddings(INDEX, ids, vectors)


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("CARE_MODELS", str(tmp_path / "cache"))
    return tmp_path / "cache" / "galleries"


def empty(path: Path) -> Catalog:
    catalog = catalogs.new(path)
    catalogs.detect_run(catalog)
    catalog.begin_run("index", {}, catalogs.EMBEDDER)
    catalog.finish_run(INDEX)
    return catalog


@pytest.fixture
def catalog(tmp_path, cache):
    """Thirty animals in three blocks, some without a name."""
    rng = np.random.default_rng(0)
    ids = [*range(1, 11), *range(BLOCK - 5, BLOCK + 5), *range(2 * BLOCK, 2 * BLOCK + 10)]
    with empty(tmp_path / "care.db") as opened:
        fill(opened, ids, unit(rng, 30), [NAMES[i % 7] if i % 5 else None for i in range(30)])
        yield opened


def plain(catalog: Catalog, query, top=5, score="best", m=3, k=5, without=(), also="") -> list[tuple]:
    """The answer by reading all there is, as SQL and a loop have it: name, similarity, crop."""
    rows = catalog.rows(
        "SELECT crop_id, name, vector FROM embeddings JOIN crop_identity USING (crop_id) JOIN individuals "
        f"ON individuals.id = individual_id JOIN crops ON crops.id = crop_id WHERE embeddings.run_id = 2 {also} "
        "ORDER BY crop_id"
    )
    rows = [row for row in rows if row["crop_id"] not in without]
    cosines = [
        np.float32(np.frombuffer(row["vector"], "<f4").astype(np.float64) @ query.astype(np.float64)) for row in rows
    ]
    ranked = rank(np.array(cosines, np.float32), [row["name"] for row in rows], score, m, k) if rows else []
    return [(one.individual, one.similarity, rows[one.index]["crop_id"]) for one in ranked[:top]]


def answer(catalog: Catalog, query, *arguments, selection=None, **more) -> list[tuple]:
    opened = gallery.open_gallery(catalog, INDEX, selection)
    return [
        (one.individual, one.similarity, int(opened.crops[one.index]))
        for one in opened.search(query, *arguments, **more)
    ]


def same(found: list[tuple], expected: list[tuple]) -> None:
    assert [(name, crop) for name, _, crop in found] == [(name, crop) for name, _, crop in expected]
    np.testing.assert_allclose([one[1] for one in found], [one[1] for one in expected], atol=1e-7, rtol=0)


def check(catalog: Catalog, seed: int = 5) -> None:
    for query in unit(np.random.default_rng(seed), 4):
        for score in SCORES:
            same(answer(catalog, query, 7, score), plain(catalog, query, 7, score))


def files(cache: Path) -> set[str]:
    return {path.name for path in cache.rglob("*") if path.is_file()}


# -- answers


def grid(values: list[list[int]]) -> np.ndarray:
    """Unit vectors of few whole numbers and tiny steps, so that ties and near-ties abound."""
    vectors = np.ones((len(values), DIM))
    for row, (large, small) in enumerate(values):
        vectors[row, large % DIM] += 2
        vectors[row, (large + 7) % DIM] += small * 1e-4
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


@settings(deadline=None, max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(st.tuples(st.integers(0, 4), st.integers(0, 3), st.sampled_from([*NAMES, None])), min_size=1, max_size=40),
    st.sampled_from([1, BLOCK // 16, BLOCK - 1]),
    st.sampled_from(SCORES),
    st.integers(1, 8),
    st.integers(1, 4),
    st.integers(1, 9),
    st.sets(st.integers(0, 39), max_size=6),
)
def test_answers_are_those_of_a_full_scan(tmp_path, cache, animals, step, score, top, m, k, left_out):
    path = tmp_path / "given.db"
    path.unlink(missing_ok=True)
    with empty(path) as catalog:
        vectors = grid([[large, small] for large, small, _ in animals])
        ids = [1 + step * i for i in range(len(animals))]
        fill(catalog, ids, vectors, [name for *_, name in animals])
        without = [1 + step * i for i in left_out]
        for query in (vectors[0], grid([[9, 0]])[0]):
            found = answer(catalog, query, top, score, m, k, without=without)
            same(found, plain(catalog, query, top, score, m, k, without))


def test_an_animal_that_looks_alike_in_every_photo(catalog):
    """All vectors are equal: every row matters, and the order is that of the names."""
    catalog.db.conn.execute("UPDATE embeddings SET vector = (SELECT vector FROM embeddings WHERE crop_id = 1)")
    query = catalog.vectors(INDEX, [1]).vectors[0]
    found = answer(catalog, query, 7)
    assert [name for name, *_ in found] == sorted(NAMES)
    same(found, plain(catalog, query, 7))


def test_filters_and_nobody(catalog):
    execute = catalog.db.conn.execute
    execute("UPDATE crops SET species = 'cat', flank = 'left' WHERE id % 2 = 0")
    execute("INSERT INTO deployments (id, name, site) VALUES (1, 'north', 'river')")
    execute("UPDATE images SET deployment_id = 1 WHERE id > 8000")
    query = unit(np.random.default_rng(3), 1)[0]
    for selection, also in (
        (Selection(species="cat"), "AND species = 'cat'"),
        (Selection(flank="left"), "AND flank = 'left'"),
        (Selection(site="river"), "AND image_id > 8000"),
        (Selection(site="river", species="cat"), "AND image_id > 8000 AND species = 'cat'"),
    ):
        expected = plain(catalog, query, also=also)
        assert expected
        same(answer(catalog, query, selection=selection), expected)
    assert answer(catalog, query, selection=Selection(species="owl")) == []
    assert answer(catalog, query, without=range(4 * BLOCK)) == []


# -- what is current and what is stale


def touched(catalog: Catalog, cache: Path, change) -> int:
    """How many files a change makes anew; those of before are gone, and answers are right."""
    check(catalog)
    before = files(cache)
    change()
    check(catalog)
    after = files(cache)
    assert len(before - after) <= len(after - before) and not [name for name in after if not name.endswith(".block")]
    return len(after - before)


def test_only_what_changed_is_read_again(catalog, cache):
    execute, rng = catalog.db.conn.execute, np.random.default_rng(9)
    assert touched(catalog, cache, lambda: None) == 0 and len(files(cache)) == 6
    assert touched(catalog, cache, lambda: fill(catalog, [50], unit(rng, 1), ["Kea"])) == 2
    assert touched(catalog, cache, lambda: fill(catalog, [51], unit(rng, 1), [None])) == 1
    assert touched(catalog, cache, lambda: catalog.add_embeddings(INDEX, [51], unit(rng, 1))) == 0  # ignored
    assert touched(catalog, cache, lambda: fill(catalog, [3 * BLOCK], unit(rng, 1), ["New"])) == 2
    assert touched(catalog, cache, lambda: execute("DELETE FROM embeddings WHERE crop_id = ?", (BLOCK + 1,))) == 1
    vector = unit(rng, 1)[0].tobytes()
    change = "UPDATE embeddings SET vector = ? WHERE crop_id = 3"
    assert touched(catalog, cache, lambda: execute(change, (vector,))) == 1
    change = "REPLACE INTO embeddings (run_id, crop_id, dim, vector) VALUES (2, 4, ?, ?)"
    assert touched(catalog, cache, lambda: execute(change, (DIM, vector))) == 1
    assert touched(catalog, cache, lambda: execute("INSERT OR REPLACE INTO crop_identity VALUES (2, 1, 1)")) == 1
    assert touched(catalog, cache, lambda: execute("DELETE FROM crop_identity WHERE crop_id = ?", (BLOCK + 2,))) == 1


def test_a_name_is_read_from_the_catalog(catalog, cache):
    assert touched(catalog, cache, lambda: individuals.rename(catalog, "Kea", "Kiri")) == 0
    assert touched(catalog, cache, lambda: individuals.merge(catalog, "Moss", "Kiri")) == 2  # blocks where Moss is
    last = catalog.value("SELECT max(id) FROM decisions")
    assert touched(catalog, cache, lambda: individuals.undo(catalog, last)) == 3  # the log is played anew


def test_what_is_current_is_not_read(catalog):
    query = unit(np.random.default_rng(1), 1)[0]
    answer(catalog, query)
    asked = []
    catalog.db.conn.set_trace_callback(asked.append)
    opened = gallery.open_gallery(catalog, INDEX)
    catalog.db.conn.set_trace_callback(None)
    assert len(opened.crops) == 30 and not [sql for sql in asked if "vector" in sql or "individual_id" in sql]


def test_a_rolled_back_change_is_none(catalog, cache):
    def interrupted():
        with pytest.raises(ZeroDivisionError), catalog.transaction():
            catalog.db.conn.execute("DELETE FROM embeddings WHERE crop_id = 1")
            gallery.open_gallery(catalog, INDEX)
            raise ZeroDivisionError

    check(catalog)
    interrupted()
    check(catalog)
    assert len(files(cache)) == 6


def test_a_catalog_that_went_back_to_a_backup_and_grew_otherwise(tmp_path, cache):
    rng, path = np.random.default_rng(2), tmp_path / "care.db"
    names = ["Kea", "Moss", "Kea"]
    with empty(path) as catalog:
        fill(catalog, [1, 2, 3], unit(rng, 3), names)
        catalog.backup(tmp_path / "backup.db")
        fill(catalog, [100, 101, 102], unit(rng, 3), names)
        check(catalog)
    (tmp_path / "backup.db").replace(path)
    with Catalog(path) as catalog:
        check(catalog)
        fill(catalog, [100, 101, 102], unit(rng, 3), names)
        check(catalog)


def test_catalogs_do_not_share_what_is_not_theirs(catalog, tmp_path, cache):
    check(catalog)
    with empty(tmp_path / "other.db") as other:
        fill(other, [1, 2], unit(np.random.default_rng(4), 2), ["Kea", "Moss"])
        check(other)
        gallery.forget(other)
    assert len(files(cache)) == 8 and len(list(cache.iterdir())) == 2


# -- people


def holds(cache: Path, vector: np.ndarray) -> bool:
    written = [vector.astype(np.float16).tobytes(), vector.astype("<f4").tobytes()]
    return any(one in path.read_bytes() for path in cache.rglob("*") if path.is_file() for one in written)


def test_a_persons_vector_leaves_the_cache_in_the_same_command(catalog, cache):
    check(catalog)
    vector = catalog.vectors(INDEX, [7]).vectors[0]
    [half_written] = {path.parent for path in cache.rglob("*.block")}
    (half_written / "2-0-aa.block.77.part").write_bytes(vector.astype(np.float16).tobytes())  # of a killed process
    assert holds(cache, vector)
    crops.set_crops(catalog, [7], category="person")
    assert not holds(cache, vector) and len(files(cache)) == 4
    check(catalog)
    assert not holds(cache, vector) and len(files(cache)) == 6


def test_a_run_that_is_stopped_leaves_no_vector_of_a_person(catalog, cache):
    check(catalog)
    vector = catalog.vectors(INDEX, [7]).vectors[0]
    with pytest.raises(KeyboardInterrupt), detect.swept_when_stopped(catalog):
        catalog.db.conn.execute("UPDATE crops SET category = 'person', model_category = 'person' WHERE id = 7")
        assert holds(cache, vector)
        raise KeyboardInterrupt
    assert not holds(cache, vector)


def test_doctor_sweeps_what_another_program_left(catalog, cache):
    check(catalog)
    vector = catalog.vectors(INDEX, [7]).vectors[0]
    catalog.db.conn.execute("UPDATE crops SET category = 'person', model_category = 'person' WHERE id = 7")
    assert holds(cache, vector)
    doctor.examine(catalog)
    assert not holds(cache, vector)


# -- files that fail


def test_without_a_folder_to_write_to_answers_are_the_same(catalog, cache, tmp_path, monkeypatch):
    (tmp_path / "a file").write_text("no folder")
    monkeypatch.setenv("CARE_MODELS", str(tmp_path / "a file" / "cache"))
    check(catalog)
    assert not cache.exists() and gallery.damaged(catalog) == []


def test_damaged_files(catalog, cache):
    check(catalog)
    vectors, *_ = sorted(cache.rglob("2-0-*.block"))
    whole = vectors.read_bytes()
    vectors.write_bytes(whole[:-3])
    check(catalog)  # not of the size that it says: made anew
    assert vectors.read_bytes() == whole
    rows = search.load(vectors)
    swapped = rows.values[::-1].tobytes()
    vectors.write_bytes(whole[: -len(swapped)] + swapped)
    assert gallery.damaged(catalog) == [vectors]
    query = catalog.vectors(INDEX, [int(rows.ids[2])]).vectors[0]
    same(answer(catalog, query), plain(catalog, query))  # what it shows is not what the catalog has: all are read
    report = doctor.examine(catalog)
    assert [finding["level"] for finding in report["findings"] if finding["topic"] == "cache"] == ["advice"]
    report = doctor.examine(catalog, repair=True)
    assert not vectors.exists() and any(vectors.name in done for done in report["repaired"])
    assert "cache" not in [finding["topic"] for finding in report["findings"]]
    check(catalog)


# -- several processes

OPEN = """
import sys
from pathlib import Path
from care_cli.catalog import Catalog
from care_cli.stages import gallery
with Catalog(Path(sys.argv[1])) as catalog:
    print(len(gallery.open_gallery(catalog, 2).crops), flush=True)
"""


def start(path: Path, program: str = OPEN) -> subprocess.Popen:
    return subprocess.Popen([sys.executable, "-c", program, str(path)], stdout=subprocess.PIPE, text=True)


def test_processes_may_make_the_cache_at_once(catalog, cache):
    several = [start(catalog.path) for _ in range(3)]
    assert [process.communicate(timeout=60)[0] for process in several] == ["30\n"] * 3
    assert len(files(cache)) == 6
    check(catalog)


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGKILL there")
def test_a_process_killed_while_it_writes(catalog, cache):
    rng = np.random.default_rng(8)
    more = range(4 * BLOCK, 20 * BLOCK, BLOCK)
    fill(catalog, more, unit(rng, len(more)), ["Kea"] * len(more))
    slow = OPEN.replace("with Catalog", "import time; from care_cli import search; whole = search.save\n"
                        "def save(block, path): path.with_name(path.name + '.1.part').touch(); time.sleep(.05); "
                        "whole(block, path)\nsearch.save = save\nwith Catalog")  # fmt: skip
    process = start(catalog.path, slow)
    deadline = time.monotonic() + 60
    while len(files(cache)) < 6 and time.monotonic() < deadline:
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    assert [name for name in files(cache) if name.endswith(".part")]
    check(catalog)
    assert len(files(cache)) == 2 * (3 + len(more)) and not [name for name in files(cache) if name.endswith(".part")]
