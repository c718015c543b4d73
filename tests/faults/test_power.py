"""Power cuts: the catalog and its log as a disk may have kept them, opened again and continued."""

from __future__ import annotations

import random
import shutil
import signal
import sqlite3
import struct
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from processes import INDEX, Care, assert_same, come_to, detect, rows_of, until

SECTOR = 512  # bytes that a disk writes whole or not at all
HEADER, FRAME = 32, 24  # bytes of the log's header, and of a frame's before its page


# -- the log of a stopped writer, cut and scrambled


@dataclass(frozen=True)
class Log:
    """A write-ahead log: its bytes, and where its valid transactions end."""

    data: bytes
    ends: list[int]


def read_log(path: Path) -> Log:
    """Walk the frames that belong to the log's present salts."""
    data = path.read_bytes()
    page = struct.unpack(">I", data[8:12])[0]
    ends, at = [], HEADER
    while at + FRAME + page <= len(data) and data[at + 8 : at + 16] == data[16:24]:
        at += FRAME + page
        if struct.unpack(">I", data[at - page - FRAME + 4 : at - page - FRAME + 8])[0]:  # pages after a commit
            ends.append(at)
    return Log(data, ends)


def garbage(size: int) -> bytes:
    return random.Random(size).randbytes(size)


LOGS = {
    "cut after the last commit": lambda log: log.data[: log.ends[-1]],
    "scrambled after the last commit": lambda log: log.data[: log.ends[-1]] + garbage(50_000),
    "torn in the midst of the last transaction": lambda log: log.data[: (log.ends[-2] + log.ends[-1]) // 2],
    "scrambled in the midst of the last transaction": lambda log: (
        log.data[: log.ends[-2] + 100] + garbage(1000) + log.data[log.ends[-2] + 1100 :]
    ),
    "nothing but zeros after the first half": lambda log: log.data[: len(log.data) // 2].ljust(len(log.data), b"\0"),
    "missing": lambda log: None,
}
USUAL = ("scrambled after the last commit", "scrambled in the midst of the last transaction", "missing")
KEEPS_ALL = ("cut after the last commit", "scrambled after the last commit")


@pytest.fixture(scope="module")
def stopped(care: Care, surveyed: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Database and log of a writer stopped in the midst of its work, as its disk has them."""
    folder = tmp_path_factory.mktemp("stopped")
    catalog = folder / "running" / "care.db"
    catalog.parent.mkdir()
    process = care.start(catalog, *detect(surveyed.with_name("FERN001")))
    come_to(process, catalog, 8)
    process.send(signal.SIGSTOP)
    copy = Path(shutil.copy(catalog, folder / "care.db"))
    shutil.copy(f"{catalog}-wal", f"{copy}-wal")
    process.kill()
    return copy


@pytest.mark.parametrize(
    "state", [state if state in USUAL else pytest.param(state, marks=pytest.mark.slow) for state in LOGS]
)
def test_a_log_as_a_power_cut_leaves_it(care: Care, surveyed: Path, stopped: Path, tmp_path: Path, state: str) -> None:
    catalog = Path(shutil.copy(stopped, tmp_path / "care.db"))
    log = read_log(Path(f"{stopped}-wal"))
    assert len(log.ends) > 5
    if (data := LOGS[state](log)) is not None:
        catalog.with_name("care.db-wal").write_bytes(data)
    with closing(sqlite3.connect(shutil.copytree(tmp_path, tmp_path / "looked at") / "care.db")) as reader:
        assert reader.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        known = {row[0] for row in reader.execute("SELECT name FROM sqlite_master")}
        kept = reader.execute("SELECT count(*) FROM run_images").fetchone()[0] if "run_images" in known else 0
    assert kept >= 8 if state in KEEPS_ALL else kept < 16
    process = care.run(catalog, *detect(surveyed.with_name("FERN001")))
    assert process.code == 0, process.messages
    assert_same(catalog, surveyed)


# -- every change that the run made, and the disks that a power cut may have made of it


@dataclass
class Change:
    """One entry of the record that fault.c wrote; kind W(rite), T(runcate), S(ync), U(nlink)."""

    kind: str
    file: str  # d(atabase), w(rite-ahead log), j(ournal)
    at: int
    data: bytes = b""


def read_record(path: Path) -> Iterator[Change]:
    data, at = path.read_bytes(), 0
    while at < len(data):
        kind, file, offset, size = struct.unpack_from("<ccqq", data, at)
        at += struct.calcsize("<ccqq")
        yield Change(kind.decode(), file.decode(), offset, data[at : at + size])
        at += size


@dataclass
class Disk:
    """Files as a disk has them, and the changes that it may or may not have taken since they were synced."""

    files: dict[str, bytearray] = field(default_factory=dict)
    waiting: list[Change] = field(default_factory=list)

    def take(self, change: Change) -> None:
        if change.kind == "S":
            for other in (one for one in self.waiting if one.file == change.file):
                self.apply(other)
            self.waiting = [other for other in self.waiting if other.file != change.file]
        elif change.kind == "U":
            self.waiting = [other for other in self.waiting if other.file != change.file]
            self.files.pop(change.file, None)
        else:
            self.waiting.append(change)

    def apply(self, change: Change, chance: random.Random | None = None) -> None:
        """Make a change; with `chance`, only those sectors of it that chance picks."""
        content = self.files.setdefault(change.file, bytearray())
        if change.kind == "T":
            content[:] = content[: change.at].ljust(change.at, b"\0")
            return
        for start in range(0, len(change.data), SECTOR):
            if chance is None or chance.random() < 0.5:
                part = change.data[start : start + SECTOR]
                at = change.at + start
                if len(content) < at:
                    content.extend(bytes(at - len(content)))
                content[at : at + len(part)] = part

    def without_power(self, chance: random.Random) -> Disk:
        """What may be found afterwards: of what was not synced any part, in sectors."""
        found = Disk({file: bytearray(content) for file, content in self.files.items()})
        for change in self.waiting:
            if chance.random() < 0.7:
                found.apply(change, chance if chance.random() < 0.5 else None)
        return found

    def lay_out(self, folder: Path) -> Path:
        folder.mkdir()
        for file, name in (("d", "care.db"), ("w", "care.db-wal"), ("j", "care.db-journal")):
            if file in self.files:
                (folder / name).write_bytes(self.files[file])
        return folder / "care.db"


@pytest.fixture(scope="module")
def record(care: Care, surveyed: Path, shim: Path | None, tmp_path_factory: pytest.TempPathFactory) -> list[Change]:
    """Every change that a whole detect run made to its catalog and log."""
    if shim is None:
        pytest.skip("needs Linux and a C compiler")
    catalog = tmp_path_factory.mktemp("recorded") / "care.db"
    process = care.run(catalog, *detect(surveyed.with_name("FERN001")), fault=("recorded", "care.db", 0))
    assert process.code == 0, process.messages
    assert_same(catalog, surveyed)
    return list(read_record(process.note.with_name(f"{process.note.name}.record")))


def test_the_record_tells_all(record: list[Change], surveyed: Path, tmp_path: Path) -> None:
    disk = Disk()
    for change in record:
        disk.take(change)
        if change.kind != "S":
            disk.take(Change("S", change.file, 0))
    assert_same(disk.lay_out(tmp_path / "all"), surveyed)


def test_every_commit_is_synced(record: list[Change]) -> None:
    """What a command counts as done is on the disk: no commit waits for a later one's sync."""
    commits, waiting = 0, False
    for change in (one for one in record if one.file == "w"):
        assert not (waiting and change.kind == "W" and len(change.data) == FRAME), "a frame after an unsynced commit"
        if change.kind == "S":
            waiting = False
        elif change.kind == "W" and len(change.data) == FRAME and struct.unpack(">I", change.data[4:8])[0]:
            commits, waiting = commits + 1, True
    assert commits > 8


@pytest.mark.parametrize("cuts", [40, pytest.param(1000, marks=pytest.mark.slow)])
def test_power_cut(care: Care, surveyed: Path, record: list[Change], tmp_path: Path, cuts: int) -> None:
    """At any moment, with any part of what was not synced: whole, no commit lost, and the run goes on."""
    chance, continued = random.Random(cuts), 0
    wanted = sorted(chance.sample(range(len(record)), min(cuts, len(record))))
    disk = Disk()
    for number, change in enumerate(record):
        disk.take(change)
        if number not in wanted:
            continue
        folder = tmp_path / str(number)
        safe = Disk({file: bytearray(content) for file, content in disk.files.items()}).lay_out(folder)
        catalog = disk.without_power(chance).lay_out(tmp_path / f"{number} cut")
        assert state_of(catalog) >= state_of(safe)
        if wanted.index(number) % (len(wanted) // 2) == len(wanted) // 4:
            process = care.run(catalog, *detect(surveyed.with_name("FERN001")))
            assert process.code == 0, process.messages
            assert_same(catalog, surveyed)
            continued += 1
        shutil.rmtree(folder)
        shutil.rmtree(catalog.parent)
    assert continued >= 2


def state_of(catalog: Path) -> set[tuple]:
    """The photos that are done with, from a whole file."""
    if not catalog.exists():
        return set()
    with closing(sqlite3.connect(catalog)) as reader:
        assert reader.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        if not reader.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
            return set()
        sql = "SELECT sha256, (SELECT count(*) FROM crops WHERE image_id = images.id) FROM run_images "
        return set(reader.execute(sql + "JOIN images ON images.id = image_id"))


def test_a_killed_writers_log_is_missing(care: Care, surveyed: Path, tmp_path: Path) -> None:
    """An older state, of an index's catalog that was whole before: nothing of before is lost."""
    catalog = Path(shutil.copy(surveyed, tmp_path / "care.db"))
    counted = care.run(Path(shutil.copy(surveyed, tmp_path / "counted.db")), *INDEX, die_at_statement=0)
    statements = until(lambda: counted.told("statements"))
    assert care.run(catalog, *INDEX, die_at_statement=statements // 2).code == -9
    for suffix in ("-wal", "-shm"):
        catalog.with_name(f"care.db{suffix}").unlink()
    assert rows_of(catalog) == rows_of(surveyed)
