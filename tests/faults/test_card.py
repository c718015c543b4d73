"""A card that goes away, goes bad or is still being written: said, counted, noted, and made good the next time."""

from __future__ import annotations

import os
import signal
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from processes import PHOTOS, Care, Process, assert_same, come_to, committed, detect, value

SLOW = pytest.mark.slow
STOP = "IMG_0009.JPG"  # where the card goes; what was read ahead of it is done


def failures(catalog: Path) -> dict[str, str]:
    """Files that could not be read, with reasons."""
    with closing(sqlite3.connect(catalog)) as reader:
        assert reader.execute("SELECT count(*) FROM image_files WHERE gone_at IS NOT NULL").fetchone() == (0,)
        return dict(reader.execute("SELECT path, failure FROM image_files WHERE failure IS NOT NULL"))


def stopped_at(care: Care, catalog: Path, card: Path, happen: Callable[[], object], **how: object) -> Process:
    """Detect, with something that happens to the card while STOP is read."""
    process = care.start(catalog, *detect(card), fault=("stopped", STOP, 5000), **how)
    process.stop_comes()
    happen()
    process.send(signal.SIGCONT)
    process.wait()
    return process


def assert_told(process: Process, catalog: Path, reason: str, among: range) -> None:
    """Some photos failed; exit code, lines for the user, rows and finished work tell the same."""
    found = failures(catalog)
    assert process.code == 1 and len(found) in among, (process.code, found, process.messages)
    assert all(said == reason for said in found.values())
    assert all(f"{path}: {reason}" in process.messages for path in found)
    assert "Traceback" not in process.messages
    read = value(catalog, "SELECT count(*) FROM image_files JOIN run_images USING (image_id) WHERE failure IS NULL")
    assert read == PHOTOS - len(found)


@pytest.mark.usefixtures("faults")
def test_the_folder_goes_away(care: Care, card: Path, surveyed: Path, tmp_path: Path) -> None:
    catalog = tmp_path / "care.db"
    away = tmp_path / "in a pocket"
    process = stopped_at(care, catalog, card, lambda: card.rename(away))
    assert_told(process, catalog, "No such file or directory", range(3, PHOTOS))
    away.rename(card)
    again = care.run(catalog, *detect(card))
    assert again.code == 0, again.messages
    assert_same(catalog, surveyed)


@pytest.mark.usefixtures("faults")
def test_permissions_go_away(care: Care, card: Path, surveyed: Path, tmp_path: Path) -> None:
    catalog, folder = tmp_path / "care.db", card / "DCIM" / "100CARE_"
    process = stopped_at(care, catalog, card, lambda: folder.chmod(0), unprivileged=True)
    folder.chmod(0o755)
    assert_told(process, catalog, "Permission denied", range(3, PHOTOS))
    single = folder / "IMG_0012.JPG"
    single.chmod(0)
    process = care.run(catalog, *detect(card), unprivileged=True)
    assert_told(process, catalog, "Permission denied", range(1, 2))
    single.chmod(0o644)
    assert care.run(catalog, *detect(card), unprivileged=True).code == 0
    assert_same(catalog, surveyed)


@pytest.mark.usefixtures("faults")
@pytest.mark.parametrize(
    ("word", "start", "among"), [("IMG_001", 9000, (7, 8)), pytest.param("IMG_0011", 0, (1, 2), marks=SLOW)]
)
def test_bytes_that_cannot_be_read(
    care: Care, card: Path, surveyed: Path, tmp_path: Path, word: str, start: int, among: tuple[int, int]
) -> None:
    catalog = tmp_path / "care.db"
    process = care.run(catalog, *detect(card), fault=("reads fail", word, start))
    assert_told(process, catalog, "Input/output error", range(*among))
    assert all(word in path for path in failures(catalog))
    assert care.run(catalog, *detect(card)).code == 0
    assert_same(catalog, surveyed)


@pytest.mark.usefixtures("faults")
def test_a_known_photo_that_goes_bad_loses_nothing(care: Care, card: Path, surveyed: Path, tmp_path: Path) -> None:
    catalog = tmp_path / "care.db"
    assert care.run(catalog, *detect(card)).code == 0
    photo = card / "DCIM" / "100CARE_" / "IMG_0011.JPG"
    was = photo.stat().st_mtime_ns
    os.utime(photo, ns=(was, was + 10**9))
    assert care.run(catalog, *detect(card), fault=("reads fail", photo.name, 0)).code == 1
    assert len(failures(catalog)) == 1 and committed(catalog) == committed(surveyed)
    os.utime(photo, ns=(was, was))
    assert care.run(catalog, *detect(card)).code == 0
    assert_same(catalog, surveyed)


@pytest.mark.usefixtures("faults")
def test_a_photo_that_is_still_being_copied(care: Care, card: Path, surveyed: Path, tmp_path: Path) -> None:
    """Half a photo is no photo: it is read again, and no image of the half stays behind."""
    catalog, photo = tmp_path / "care.db", card / "DCIM" / "100CARE_" / STOP
    whole, times = photo.read_bytes(), photo.stat()
    photo.write_bytes(whole[: len(whole) // 2])

    def grows() -> None:
        with photo.open("ab") as file:
            file.write(whole[len(whole) // 2 : -1000])

    process = stopped_at(care, catalog, card, grows)
    assert process.code == 1 and f"{STOP}: " in process.messages, process.messages
    assert list(failures(catalog)) == [f"DCIM/100CARE_/{STOP}"]
    photo.write_bytes(whole)
    os.utime(photo, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert care.run(catalog, *detect(card)).code == 0
    assert_same(catalog, surveyed)


@pytest.mark.parametrize("end", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=SLOW)])
def test_stopped_by_hand(care: Care, surveyed: Path, tmp_path: Path, end: signal.Signals) -> None:
    """Ctrl-C is answered with a word and 130; what was committed stays."""
    catalog, command = tmp_path / "care.db", detect(surveyed.with_name("FERN001"), 1)
    process = care.start(catalog, *command)
    come_to(process, catalog, 3)
    process.send(end)
    assert process.wait() == (130 if end == signal.SIGINT else -end), process.messages
    assert "Traceback" not in process.messages and ("Stopped." in process.messages) == (end == signal.SIGINT)
    assert 3 <= committed(catalog) < committed(surveyed)
    assert care.run(catalog, *command).code == 0
    assert_same(catalog, surveyed)
