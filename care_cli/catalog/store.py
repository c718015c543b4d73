"""Opening, settings, transactions, backup: the file itself."""

from __future__ import annotations

import contextlib
import datetime
import sqlite3
from collections.abc import Iterable, Iterator
from importlib import resources
from pathlib import Path

from sqlite_utils import Database

from care_cli.catalog.migrations import MIGRATIONS
from care_cli.errors import CareError

APPLICATION_ID = 0x43415245  # 'CARE', in the file's header
BUSY_S = 60  # how long to wait for another process's transaction
DISK_ERRORS = (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_BUSY)
LEAF = 13  # a page of rows in SQLite's file format; the others of a table's tree point at pages
TRACE = 24  # bytes that are no coincidence


def now() -> str:
    """The present, UTC, 'YYYY-MM-DDTHH:MM:SS.ffffffZ'."""
    return datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


class Store:
    """One SQLite file, opened for one process; an older format is migrated on the way.

    `create` makes the catalog where there is none. `notice` takes a line for the user. Raises CareError when
    the file is not SQLite, damaged, not a CARE catalog, newer than this program, or absent.
    """

    def __init__(self, path: Path, *, create: bool = False, notice=lambda text: None):
        self.path = Path(path)
        self.notice = notice
        if not self.path.exists() and not create:
            raise CareError(
                f"There is no catalog at {self.path}. Run `care detect FOLDER` to begin one, "
                "or name another with --catalog."
            )
        if self.path.is_dir() or not self.path.parent.is_dir():
            raise CareError(f"A catalog is a file in an existing folder, but {self.path} is not.")
        try:
            self._open(create)
        except sqlite3.OperationalError as error:
            raise CareError(
                f"{self.path} cannot be opened: {error}. A catalog needs a folder that can be written to, space "
                "on its disk, and no other program that keeps it locked."
            ) from error
        except sqlite3.DatabaseError as error:
            raise CareError(
                f"{self.path} cannot be opened as a catalog: {error}. If it is a catalog that was damaged, "
                "work on a copy and go back to the newest backup."
            ) from error

    def _open(self, create: bool) -> None:
        connection = sqlite3.connect(self.path, isolation_level=None, timeout=BUSY_S)
        try:
            self.db = Database(connection)
            new = self._check_format()
            if new and not create:
                raise CareError(
                    f"{self.path} is empty. Run `care detect FOLDER` to begin a catalog in it, "
                    "or name another with --catalog."
                )
            self._set_up(new)
        except BaseException:
            connection.close()
            raise

    def _check_format(self) -> bool:
        """Whether the file is still empty (new, or its creation was interrupted)."""
        application = self.value("PRAGMA application_id")
        if application == 0 and self.value("SELECT count(*) FROM sqlite_master") == 0:
            return True
        if application != APPLICATION_ID:
            raise CareError(f"{self.path} is an SQLite file, but not a CARE catalog. Name another with --catalog.")
        version = self.value("PRAGMA user_version")
        if version > len(MIGRATIONS) + 1:
            raise CareError(
                f"{self.path} was written by a newer CARE (catalog format {version}, this program knows "
                f"{len(MIGRATIONS) + 1}). Update CARE; nothing was changed."
            )
        return False

    def _set_up(self, new: bool) -> None:
        execute = self.db.conn.execute
        if new:
            execute("PRAGMA page_size = 16384")
        mode = execute("PRAGMA journal_mode = WAL").fetchone()[0]
        if mode != "wal":
            self.notice(f"{self.path}: this disk cannot hold a write-ahead log; using a rollback journal ({mode}).")
        execute("PRAGMA synchronous = FULL")
        execute("PRAGMA cache_size = -64000")
        execute("PRAGMA mmap_size = 0")  # a pulled disk would be a crash
        execute("PRAGMA journal_size_limit = 67108864")
        execute("PRAGMA secure_delete = ON")  # a person's pixels leave no trace
        execute("PRAGMA foreign_keys = ON")
        if new:
            with self.transaction():
                if self.value("SELECT count(*) FROM sqlite_master") == 0:
                    self._create()
        self._migrate()

    def _create(self) -> None:
        for statement in statements(schema()):
            self.db.conn.execute(statement)
        self.db.conn.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        self.db.conn.execute(f"PRAGMA user_version = {len(MIGRATIONS) + 1}")

    def _migrate(self) -> None:
        """Bring an older catalog to this program's format, one transaction a step, after a backup."""
        version = self.value("PRAGMA user_version")
        if version > len(MIGRATIONS):
            return
        backup = free_name(self.path.with_name(f"{self.path.stem}.format-{version}.backup{self.path.suffix}"))
        self.backup(backup)
        self.notice(f"{self.path}: older catalog format {version}, migrating. The old one is kept as {backup.name}.")
        for number in range(version, len(MIGRATIONS) + 1):
            with self.transaction():
                if self.value("PRAGMA user_version") != number:
                    continue  # another process was faster
                MIGRATIONS[number - 1](self.db)
                self.db.conn.execute(f"PRAGMA user_version = {number + 1}")

    @contextlib.contextmanager
    def transaction(self) -> Iterator[None]:
        """All or nothing. Nested calls join the outer one. CareError when the disk does not take it."""
        connection = self.db.conn
        if connection.in_transaction:
            yield
            return
        try:
            connection.execute("BEGIN IMMEDIATE")
            yield
            connection.execute("COMMIT")
        except BaseException as error:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            if isinstance(error, sqlite3.OperationalError) and error.sqlite_errorcode & 0xFF in DISK_ERRORS:
                raise CareError(
                    f"{self.path} could not be written: {error}. What was committed before is safe; see that the "
                    "disk is there, has space and may be written to, then give the same command again."
                ) from error
            raise

    def rows(self, sql: str, parameters: dict | tuple = ()) -> list[dict]:
        """All rows of a query at once: no cursor stays open across a write."""
        cursor = self.db.conn.execute(sql, parameters)
        names = [column[0] for column in cursor.description]
        return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]

    def value(self, sql: str, parameters: dict | tuple = ()):
        """The first column of the first row, or None."""
        row = self.db.conn.execute(sql, parameters).fetchone()
        return row[0] if row else None

    def backup(self, target: Path) -> None:
        """A complete, checked copy through SQLite's own backup, consistent while others write.

        CareError when `target` exists (a backup never overwrites), cannot be written, or the copy is damaged.
        """
        if target.exists():
            raise CareError(f"{target} exists already; a backup never overwrites. Name another file.")
        partial = target.with_name(target.name + ".part")
        try:
            partial.unlink(missing_ok=True)
            with contextlib.closing(sqlite3.connect(partial)) as copy:
                self.db.conn.backup(copy)
                copy.execute("PRAGMA journal_mode = DELETE")  # one file, to be moved anywhere
                faults = [row[0] for row in copy.execute("PRAGMA integrity_check") if row[0] != "ok"]
            if faults:
                raise CareError(f"The copy of {self.path} is damaged, as is the catalog: {faults[0]}")
            partial.replace(target)
        except (sqlite3.DatabaseError, OSError) as error:
            raise CareError(f"{self.path} could not be copied to {target}: {error}. Nothing was changed.") from error
        finally:
            with contextlib.suppress(OSError):
                partial.unlink(missing_ok=True)

    def checkpoint(self) -> bool:
        """Fold the write-ahead log into the one file and empty it; False while another process reads."""
        with contextlib.suppress(sqlite3.OperationalError):
            return self.db.conn.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0] == 0
        return False

    def expunge(self, deleted: Iterable[bytes]) -> bool:
        """See that nothing of `deleted` pixels is left in the file's bytes, after their rows are gone.

        SQLite overwrites deleted rows with zeros, but leaves copies in the unused parts of pages from which
        it moved rows earlier. Where there is such a copy, the file is written anew. False when another
        process has the catalog open, whose reading holds old content in the write-ahead log.
        """
        if not self.checkpoint():
            return False
        windows = {content[i : i + TRACE] for content in deleted for i in range(len(content) - TRACE + 1)}
        if windows and any(not windows.isdisjoint(_pieces(gap)) for gap in self._gaps("crop_pixels")):
            self.db.conn.execute("VACUUM")
            return self.checkpoint()
        return True

    def _gaps(self, table: str) -> Iterator[bytes]:
        """The unused part of each page with rows of a table: between the cell pointers and the cells.

        Read from the file itself, as SQLite's file format (section 1.6) lays out the pages of a table's tree.
        """
        size = self.value("PRAGMA page_size")
        pending = [self.value("SELECT rootpage FROM sqlite_master WHERE name = ?", (table,))]
        with self.path.open("rb") as file:
            while pending:
                file.seek((pending.pop() - 1) * size)
                page = file.read(size)
                cells, start = (int.from_bytes(page[at : at + 2], "big") for at in (3, 5))
                if page[0] == LEAF:
                    yield page[8 + 2 * cells : start or 65536]
                    continue
                cells_at = [int.from_bytes(page[12 + 2 * i : 14 + 2 * i], "big") for i in range(cells)]
                pending += [int.from_bytes(page[at : at + 4], "big") for at in (8, *cells_at)]

    def close(self) -> None:
        """Fold the write-ahead log into the one file, and close it."""
        self.db.conn.execute("PRAGMA busy_timeout = 1000")  # another process that still reads will fold it in
        self.checkpoint()
        self.db.conn.close()

    def __enter__(self):
        return self

    def __exit__(self, *error) -> None:
        self.close()


def schema() -> str:
    """The script of `schema.sql`."""
    return resources.files("care_cli.catalog").joinpath("schema.sql").read_text("utf-8")


def statements(script: str) -> Iterator[str]:
    """The statements of an SQL script, one by one (executescript would commit and defeat roll-back)."""
    pending = ""
    for line in script.splitlines(keepends=True):
        pending += line
        if sqlite3.complete_statement(pending):
            yield pending.strip()
            pending = ""


def free_name(path: Path) -> Path:
    """`path`, or the first of `stem-2`, `stem-3`, ... that does not exist."""
    number, free = 1, path
    while free.exists():
        number += 1
        free = path.with_name(f"{path.stem}-{number}{path.suffix}")
    return free


def _pieces(gap: bytes) -> Iterator[bytes]:
    """The whole pieces of `TRACE` bytes of a gap, without what is empty."""
    return (gap[i : i + TRACE] for i in range(0, len(gap) - TRACE + 1, TRACE) if gap[i : i + TRACE].strip(b"\0"))
