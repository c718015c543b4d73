"""Several processes on one catalog: no lock error, nothing twice, readers that never wait, the rows of one by one."""

from __future__ import annotations

import contextlib
import shutil
import sqlite3
import threading
import time
from pathlib import Path

import pytest
from processes import INDEX, Care, assert_same, come_to, committed, detect, rows_of, until


@pytest.fixture(scope="module")
def other_card(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Photos of another station."""
    photos = sorted((root / "sample_data" / "card" / "KANUKA004").rglob("*.JPG"))[:12]
    folder = tmp_path_factory.mktemp("other") / "KANUKA004"
    folder.mkdir()
    for photo in photos:
        shutil.copy2(photo, folder)
    return folder


@pytest.fixture(scope="module")
def one_by_one(care: Care, surveyed: Path, other_card: Path) -> Path:
    """Both cards detected after each other, then indexed."""
    catalog = Path(shutil.copy(surveyed, other_card.parent / "one by one.db"))
    for command in (detect(other_card), INDEX):
        process = care.run(catalog, *command)
        assert process.code == 0, process.messages
    return catalog


def test_two_cards_and_an_index_at_once(
    care: Care, surveyed: Path, other_card: Path, one_by_one: Path, tmp_path: Path
) -> None:
    catalog = tmp_path / "care.db"
    first, second = (care.start(catalog, *detect(card)) for card in (surveyed.with_name("FERN001"), other_card))
    until(lambda: committed(catalog, "crop_pixels") > 2 or first.code is not None)
    index = care.start(catalog, *INDEX)
    for process in (first, second, index):
        assert process.wait() == 0, process.messages
    assert care.run(catalog, *INDEX).code == 0  # what was not detected yet
    assert_same(catalog, one_by_one)


def test_the_same_card_twice_at_once(care: Care, surveyed: Path, tmp_path: Path) -> None:
    catalog = tmp_path / "care.db"
    card = surveyed.with_name("FERN001")
    for process in [care.start(catalog, *detect(card)) for _ in range(2)]:
        assert process.wait() == 0, process.messages
    assert_same(catalog, surveyed)


def test_the_same_index_twice_at_once(care: Care, surveyed: Path, tmp_path: Path) -> None:
    catalog, once = (Path(shutil.copy(surveyed, tmp_path / name)) for name in ("care.db", "once.db"))
    assert care.run(once, *INDEX).code == 0
    for process in [care.start(catalog, *INDEX) for _ in range(2)]:
        assert process.wait() == 0, process.messages
    assert_same(catalog, once)


class Reader(threading.Thread):
    """Reads again and again, and does not wait for any lock at all."""

    def __init__(self, catalog: Path):
        super().__init__(daemon=True)
        self.catalog, self.ended, self.counts, self.errors = catalog, threading.Event(), [], []

    def run(self) -> None:
        address = f"{self.catalog.as_uri()}?mode=ro"
        with contextlib.closing(sqlite3.connect(address, uri=True, timeout=0)) as reader:
            while not self.ended.is_set():
                try:
                    sql = "SELECT count(*) FROM run_images LEFT JOIN crops USING (image_id) LEFT JOIN crop_pixels"
                    self.counts.append(reader.execute(f"{sql} ON crop_id = crops.id").fetchone()[0])
                except sqlite3.OperationalError as error:
                    self.errors.append(str(error))
                time.sleep(0.002)


def test_readers_never_wait_for_a_writer(care: Care, root: Path, one_by_one: Path, tmp_path: Path) -> None:
    """Raw reads without patience, and whole commands that list and identify, while a detect writes."""
    catalog = Path(shutil.copy(one_by_one, tmp_path / "care.db"))
    name = care.run(catalog, "individuals", "name", "1", "--as", "Ayo")
    assert name.code == 0, name.messages
    reader = Reader(catalog)
    reader.start()
    card = tmp_path / "TUI002"
    card.mkdir()
    for photo in sorted((root / "sample_data" / "card" / "RIDGE000").rglob("*.JPG"))[:16]:
        shutil.copy2(photo, card)
    before = committed(catalog)
    writer = care.start(catalog, *detect(card, 1))
    come_to(writer, catalog, before + 2)
    query = next((root / "sample_data" / "queries").glob("known_*.JPG"))
    questions = ("images", "--json"), ("crops", "--csv"), ("individuals", "list"), ("identify", query, "--json")
    asked = [care.start(catalog, *words) for words in questions]
    for process in asked:
        assert process.wait() == 0, process.messages
        assert process.output
    assert writer.wait() == 0, writer.messages
    reader.ended.set()
    reader.join()
    assert reader.errors == []
    assert reader.counts == sorted(reader.counts) and len(set(reader.counts)) > 3  # it saw the writer's progress
    assert committed(catalog) == before + 16
    rows_of(catalog)


def test_a_reader_that_stays_keeps_nobody_from_finishing(care: Care, surveyed: Path, tmp_path: Path) -> None:
    """Someone looks at the catalog for hours: the log cannot be folded in, and nothing is lost by that."""
    catalog = tmp_path / "care.db"
    card = surveyed.with_name("FERN001")
    process = care.start(catalog, *detect(card))
    come_to(process, catalog, 4)
    with contextlib.closing(sqlite3.connect(catalog, isolation_level=None)) as reader:
        reader.execute("BEGIN")
        seen = reader.execute("SELECT count(*) FROM run_images").fetchone()
        assert process.wait() == 0, process.messages
        assert reader.execute("SELECT count(*) FROM run_images").fetchone() == seen
        reader.execute("COMMIT")
        assert reader.execute("SELECT count(*) FROM run_images").fetchone() > seen
    assert_same(catalog, surveyed)
