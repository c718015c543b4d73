"""Opening, settings, transactions, backup: the file itself."""

from __future__ import annotations

import contextlib
import datetime
import re
import sqlite3
from collections.abc import Iterator
from importlib import resources
from pathlib import Path

from sqlite_utils import Database

from care_cli.catalog.migrations import MIGRATIONS, statements
from care_cli.errors import CareError, NotBegunError

APPLICATION_ID = 0x43415245  # 'CARE', in the file's header
BUSY_S = 60  # how long to wait for another process's transaction
DISK_ERRORS = (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_BUSY)
SCHEMA_OF_FILE = "SELECT type, name, sql FROM sqlite_master WHERE name NOT LIKE 'sqlite\\_%' ESCAPE '\\'"
COMMENT = re.compile(r"--[^\n]*|/\*.*?\*/", re.DOTALL)
DAMAGE = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


def now() -> str:
    """The present, UTC, 'YYYY-MM-DDTHH:MM:SS.ffffffZ'."""
    return datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


class Store:
    """One SQLite file, opened for one process; an older format is migrated on the way.

    `create` makes the catalog where there is none. `notice` takes a line for the user. Raises CareError when
    the file is not SQLite, damaged, not a CARE catalog, newer than this program, or absent; and, unless it is only
    opened to `examine` it, when tables are missing or it holds triggers or views that are not CARE's, for those run
    by themselves.
    """

    def __init__(self, path: Path, *, create: bool = False, examine: bool = False, notice=lambda text: None):
        self.path = Path(path)
        self.notice = notice
        if not self.path.exists() and not create:
            raise NotBegunError(
                f"There is no catalog at {self.path}. Run `care detect FOLDER` to begin one, "
                "or name another with --catalog."
            )
        if self.path.is_dir() or not self.path.parent.is_dir():
            raise CareError(f"A catalog is a file in an existing folder, but {self.path} is not.")
        try:
            self._open(create, examine)
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

    def _open(self, create: bool, examine: bool) -> None:
        connection = sqlite3.connect(self.path, isolation_level=None, timeout=BUSY_S)
        try:
            self.db = Database(connection)
            new = self._check_format()
            if new and not create:
                raise NotBegunError(
                    f"{self.path} is empty. Run `care detect FOLDER` to begin a catalog in it, "
                    "or name another with --catalog."
                )
            self._set_up(new)
            if not examine and (faults := self.schema_faults()):
                raise CareError(
                    f"{self.path} is not as CARE made it: {', '.join(faults[:3])}. Nothing was done. "
                    "Run `care doctor`, or go on with the newest backup."
                )
        except BaseException:
            connection.close()
            raise

    def _check_format(self) -> bool:
        """Whether the file is still empty (new, or its creation was interrupted)."""
        execute = self.db.conn.execute
        execute("PRAGMA cell_size_check = ON")
        [application] = execute("PRAGMA application_id").fetchone()
        [things] = execute("SELECT count(*) FROM sqlite_master").fetchone()
        if application == things == 0:
            return True
        if application != APPLICATION_ID:
            raise CareError(f"{self.path} is an SQLite file, but not a CARE catalog. Name another with --catalog.")
        [version] = execute("PRAGMA user_version").fetchone()
        if version < 1:
            raise CareError(
                f"{self.path} is damaged: it claims catalog format {version}, and the first one was 1. Go on with the "
                "newest backup; nothing was changed."
            )
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

    def schema_faults(self) -> list[str]:
        """Tables, indexes, triggers and views that the file lacks, and triggers and views that are not CARE's."""
        present = {tuple(row[:2]): _plain(row[2]) for row in self.db.conn.execute(SCHEMA_OF_FILE)}
        with contextlib.closing(sqlite3.connect(":memory:")) as fresh:
            for statement in statements(schema()):
                fresh.execute(statement)
            wanted = {tuple(row[:2]): _plain(row[2]) for row in fresh.execute(SCHEMA_OF_FILE)}
        missing = [f"{kind} {name} is missing" for kind, name in sorted(set(wanted) - set(present))]
        running = [key for key in sorted(present) if key[0] in ("trigger", "view")]
        return missing + [f"{kind} {name} is not CARE's" for kind, name in running
                          if wanted.get((kind, name)) != present[kind, name]]  # fmt: skip

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
            if isinstance(error, sqlite3.Error | OverflowError) and (words := self._in_words(error)):
                raise CareError(words) from error
            raise

    def _in_words(self, error: Exception) -> str | None:
        """What a user can do about an error of SQLite; None for our own mistakes."""
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF
        if isinstance(error, OverflowError):
            return "No number in a catalog is that large."
        if code in DAMAGE:
            return f"{self.path} is damaged: {error}. Run `care doctor`, and keep a copy of the file before all else."
        if code in DISK_ERRORS:
            return (
                f"{self.path} could not be read or written: {error}. What was committed before is safe; see that the "
                "disk is there, has space, may be written to and that no other program keeps the catalog locked, "
                "then give the same command again."
            )
        return None

    def rows(self, sql: str, parameters: dict | tuple = ()) -> list[dict]:
        """All rows of a query at once: no cursor stays open across a write. CareError when the file is damaged."""
        names, rows = self._fetched(sql, parameters)
        return [dict(zip(names, row, strict=True)) for row in rows]

    def value(self, sql: str, parameters: dict | tuple = ()):
        """The first column of the first row, or None."""
        _, rows = self._fetched(sql, parameters)
        return rows[0][0] if rows else None

    def _fetched(self, sql: str, parameters: dict | tuple) -> tuple[list[str], list[tuple]]:
        """The names of a query's columns, and its rows."""
        try:
            cursor = self.db.conn.execute(sql, parameters)
            return [column[0] for column in cursor.description or ()], cursor.fetchall()
        except (sqlite3.Error, OverflowError) as error:
            if words := self._in_words(error):
                raise CareError(words) from error
            raise

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

    def expunge(self) -> bool:
        """Write the file anew if pixels were deleted from it, so that no copy of them is left in its bytes.

        False, and a notice, when another process has the catalog open or the disk is full. That it is to be done
        stays noted in the file (`leftovers`), through a crash too.
        """
        if (at := self.value("SELECT at FROM leftovers")) is None:
            return True
        if self._write_anew():
            with self.transaction():  # not what another process deleted meanwhile
                self.db.conn.execute("DELETE FROM leftovers WHERE at = ?", (at,))
            return True
        self.notice(
            f"The pixels are deleted, but {self.path} may hold copies until it is written anew, which needs that no "
            "other program has it open, and room beside it for as much again. Then run `care doctor`."
        )
        return False

    def _write_anew(self) -> bool:
        """VACUUM, with nothing of before left in the write-ahead log."""
        if not self.checkpoint():
            return False
        with contextlib.suppress(sqlite3.OperationalError):
            self.db.conn.execute("VACUUM")
            return self.checkpoint()
        return False

    def close(self) -> None:
        """Fold the write-ahead log into the one file, and close it."""
        self.db.conn.execute("PRAGMA busy_timeout = 1000")  # another process that still reads will fold it in
        self.checkpoint()
        self.db.conn.close()

    def __enter__(self):
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: object) -> None:
        """Close. An error that a damaged catalog may have led to is said as what it is: CareError."""
        suspicious = isinstance(error, Exception) and not isinstance(error, CareError)
        faults = self.faults() if suspicious else []
        self.close()
        if faults:
            raise CareError(
                f"{self.path} is damaged: {faults[0]}. Run `care doctor`, and keep a copy of the file before all else."
            ) from error


def _plain(sql: str | None) -> str:
    """SQL without comments, and with one space wherever there are some."""
    return " ".join(COMMENT.sub(" ", sql or "").split())


def schema() -> str:
    """The script of `schema.sql`."""
    return resources.files("care_cli.catalog").joinpath("schema.sql").read_text("utf-8")


def free_name(path: Path) -> Path:
    """`path`, or the first of `stem-2`, `stem-3`, ... that does not exist."""
    number, free = 1, path
    while free.exists():
        number += 1
        free = path.with_name(f"{path.stem}-{number}{path.suffix}")
    return free
