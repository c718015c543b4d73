"""The parts of the benchmarks that compute: ratios and tables, box parity, the plain all-pairs way, grown catalogs."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import catalogs
import numpy as np
import pytest

from benchmarks import boxes, grown, labels, report
from benchmarks.all_pairs import all_pairs
from benchmarks.processes import LeftOut, finish
from benchmarks.report import Measured, Row
from care_cli.catalog import Catalog
from care_cli.records import Selection


def test_a_ratio_says_how_many_times_better() -> None:
    faster = Row("x", 12.0, "photos a second", "peer", 4.0, more=True, target=3)
    shorter = Row("x", 2.0, "s", "peer", 7.0, target=4)
    assert (faster.ratio, faster.met) == (3.0, True)
    assert (shorter.ratio, shorter.met) == (3.5, False)
    assert Row("x", 0.2, "s", target=0.25).met and not Row("x", 0.3, "s", target=0.25).met
    assert Row("x", 60_000.0, "a second", more=True, target=50_000).met
    assert Row("x", 1.0).met is None and Row("x", note="no card").met is None


def test_rows_survive_the_file_and_a_family_measured_again_replaces_its_own(tmp_path: Path) -> None:
    old = [
        Measured("start", "laptop", "aaa", "2026-01-01", Row("help", 0.2, "s", target=0.25, note="é | ü")),
        Measured("detect", "laptop", "aaa", "2026-01-01", Row("detect", 3.0, more=True)),
        Measured("start", "server", "aaa", "2026-01-01", Row("help", 0.1, "s")),
    ]
    report.save(tmp_path / "rows.jsonl", old)
    assert report.load(tmp_path / "rows.jsonl") == old
    new = [replace(old[0], commit="bbb")]
    assert report.merge(old, new) == [old[1], old[2], new[0]]


def test_the_tables_stand_between_their_marks_and_hand_written_text_stays(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"before\n{report.BEGIN}\nold figures\n{report.END}\nwhy it is so\n", encoding="utf-8")
    row = Row("a | b", 12.34, "s", "peer", 37.02, target=4, precision="float32")
    report.rewrite(page, [Measured("start", "laptop", "abc", "2026-01-01", row)])
    text = page.read_text("utf-8")
    assert text.startswith("before\n") and text.endswith("why it is so\n") and "old figures" not in text
    assert "| a \\| b | float32 | 12.3 s | 37 (peer) | 3 times | 4 times: **missed** |  |" in text
    report.rewrite(page, [Measured("start", "laptop", "abc", "2026-01-01", row)])
    assert page.read_text("utf-8") == text


def test_boxes_are_compared_in_pixels(tmp_path: Path) -> None:
    with catalogs.new(tmp_path / "care.db") as catalog:
        run = catalogs.detect_run(catalog)
        image = catalogs.add_photo(catalog, "one.PNG")
        near, far = catalogs.found((40.0, 30.0, 80.0, 60.0), confidence=0.9), catalogs.found((0.0, 0.0, 20.0, 20.0))
        catalogs.add_crops(catalog, run, image, "one.PNG", [near, far])
    width, height = catalogs.WIDTH, catalogs.HEIGHT
    lines = [
        (0, 40 + 40, 30 + 30, 80, 60, 0.85),  # the very box
        (0, 40 + 40, 30 + 45, 80, 30, 0.7),  # its lower half: IoU 1/2
        (0, 150, 100, 10, 10, 0.6),  # nothing of ours there
        (0, 150, 100, 10, 10, 0.2),  # not confident
        (7, 150, 100, 10, 10, 0.9),  # of a class that is not kept
        (2, 40 + 40, 30 + 30, 80, 60, 0.9),  # the very box, and of another category
    ]
    labels = "".join(
        f"{c} {x / width} {y / height} {w / width} {h / height} {confidence}\n" for c, x, y, w, h, confidence in lines
    )
    (tmp_path / "one.txt").write_text(labels, encoding="utf-8")
    parity = boxes.compare(tmp_path / "care.db", tmp_path, {0: "animal", 2: "vehicle"})
    assert (parity.boxes, parity.matched, parity.lost) == (4, 2, 2) and parity.extra == 1
    assert parity.mean_iou == pytest.approx(0.75, abs=1e-6)
    assert parity.largest_shift == pytest.approx(0.2, abs=1e-6)


def test_the_plain_all_pairs_way_runs_the_network_for_every_pair() -> None:
    rng = np.random.default_rng(5)
    queries, gallery, weights = rng.normal(size=(3, 8)), rng.normal(size=(4, 8)), rng.normal(size=(8, 5))
    passes = []

    def embed(crop: np.ndarray) -> np.ndarray:
        passes.append(crop)
        return crop @ weights

    distances = all_pairs(embed, list(queries), list(gallery))
    a, b = (x @ weights / np.linalg.norm(x @ weights, axis=1, keepdims=True) for x in (queries, gallery))
    assert np.allclose(distances, 1 - a @ b.T)
    assert len(passes) == 3 * (1 + 4)


def test_a_grown_catalog_is_one_that_the_program_could_have_written(tmp_path: Path) -> None:
    path = tmp_path / "care.db"
    with catalogs.new(path) as catalog:
        [crop] = catalogs.survey(catalog, photos=1)
        run = catalog.begin_run("index", {})
        catalog.add_embeddings(run, [crop], grown.unit_vectors(1, 8, seed=0))
        catalog.finish_run(run)
    grown.grow(path, 0, 25)
    grown.grow(path, 25, 60)
    with Catalog(path) as catalog:
        assert catalog.rows("PRAGMA foreign_key_check") == []
        assert catalog.divergences() == []
        rows = catalog.crop_rows(Selection(category="animal"))
        assert len(rows) == 61
        assert {row["individual"] for row in rows} - {None} == {f"animal {i}" for i in range(6)}
        stored = catalog.embeddings(run)
        assert stored.vectors.shape == (61, 8)
        assert np.allclose(np.linalg.norm(stored.vectors, axis=1), 1, atol=1e-6)


def test_a_process_that_fails_leaves_its_row_out_with_its_last_words() -> None:
    with pytest.raises(LeftOut, match="no such peer"):
        finish([sys.executable, "-c", "import sys; sys.exit('no such peer')"])
    done = finish([sys.executable, "-c", "print(bytearray(200 * 2**20)[5])"])
    assert done.out == "0\n" and done.seconds > 0
    assert done.peak_mb is None or 200 < done.peak_mb < 250


def test_the_command_line_measures_one_family_and_stores_nothing_unasked(root: Path) -> None:
    page = (root / "BENCHMARKS.md").read_text("utf-8")
    command = [sys.executable, "-m", "benchmarks", "nonsense"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=root, check=False)
    assert done.returncode == 2 and "none of start, rescan" in done.stderr
    assert (root / "BENCHMARKS.md").read_text("utf-8") == page
    assert report.BEGIN in page and report.END in page


def test_imported_collections_hold_what_was_counted_while_they_were_written(tmp_path: Path) -> None:
    """The benchmark's own measurement at a small size, and that it notices a label too few."""
    from benchmarks.bench import Bench

    rows = list(labels.imports(Bench(tmp_path), 3_000))
    assert [row.unit for row in rows] == ["MiB"] * 3 and all(row.ours for row in rows)
    expected = labels.write_files(tmp_path, 3_000)
    assert expected.labels.total() + expected.given.total() == expected.images == 3_000
    assert len(expected.labels) == 97 and all(expected.dropped.values())
    expected.labels["mouse"] -= 1
    with pytest.raises(AssertionError):
        labels.compare(tmp_path / "labels" / "care.db", expected, None, None)
