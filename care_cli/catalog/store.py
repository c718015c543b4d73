"""Opening, settings, transactions, backup: the file itself."""

from __future__ import annotations

import contextlib
import datetime
import sqlite3
from collections.abc import Iterator
from importlib import resources
from pathlib import Path

from sqlite_utils import Database

from care_cli.catalog.migrations import MIGRATIONS
from care_cli.errors import CareError

APPLICATION_ID = 0x43415245  # 'CARE', in the file's header
BUSY_MS = 60_000  # how long to wait for another process's transaction


def now() -> str:
    """The present, UTC, 'YYYY-MM-DDTHH:MM:SS.ffffffZ'."""
    return datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


class Store:
    """One SQLite file, opened for one process.

    `readonly` opens without changing a byte of an existing catalog's tables. Raises CareError when the file
    is not SQLite, not a CARE catalog, newer than this program, or absent and not to be created.
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
            connection = sqlite3.connect(self.path, isolation_level=None)
            self.db = Database(connection)
            self._set_up(new=self._check_format())
        except sqlite3.DatabaseError as error:
            raise CareError(
                f"{self.path} cannot be opened as a catalog: {error}. If it is a catalog that was damaged, "
                "work on a copy and go back to the newest backup."
            ) from error

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
        execute(f"PRAGMA busy_timeout = {BUSY_MS}")
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
        for statement in statements(resources.files("care_cli.catalog").joinpath("schema.sql").read_text("utf-8")):
            self.db.conn.execute(statement)
        self.db.conn.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        self.db.conn.execute(f"PRAGMA user_version = {len(MIGRATIONS) + 1}")

    def _migrate(self) -> None:
        """Bring an older catalog to this program's format, one transaction a step, after a backup."""
        version = self.value("PRAGMA user_version")
        if version > len(MIGRATIONS):
            return
        backup = self.path.with_name(f"{self.path.stem}.format-{version}.backup{self.path.suffix}")
        if not backup.exists():
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
        """All or nothing. Nested calls join the outer one."""
        if self.db.conn.in_transaction:
            yield
            return
        self.db.conn.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            if self.db.conn.in_transaction:
                self.db.conn.execute("ROLLBACK")
            raise
        self.db.conn.execute("COMMIT")

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
        """A complete copy through SQLite's own backup, consistent while others write; never overwrites."""
        if target.exists():
            raise CareError(f"{target} exists already; a backup never overwrites. Name another file.")
        partial = target.with_name(target.name + ".part")
        partial.unlink(missing_ok=True)
        with contextlib.closing(sqlite3.connect(partial)) as copy:
            self.db.conn.backup(copy)
            copy.execute("PRAGMA journal_mode = DELETE")
        partial.replace(target)

    def close(self) -> None:
        """Fold the write-ahead log into the one file, and close it."""
        with contextlib.suppress(sqlite3.OperationalError):  # another process still reads: it will fold it in
            self.db.conn.execute("PRAGMA busy_timeout = 1000")
            self.db.conn.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        self.db.conn.close()

    def __enter__(self):
        return self

    def __exit__(self, *error) -> None:
        self.close()


def statements(script: str) -> Iterator[str]:
    """The statements of an SQL script, one by one (executescript would commit and defeat roll-back)."""
    pending = ""
    for line in script.splitlines(keepends=True):
        pending += line
        if sqlite3.complete_statement(pending):
            yield pending.strip()
            pending = ""
