"""Lists by key on disk: what belongs to a record that stands elsewhere in a file too large for memory."""

from __future__ import annotations

import contextlib
import json
import sqlite3
from collections.abc import Iterable, Sequence
from types import TracebackType

CACHE_KB = 64_000  # kept in memory; the rest goes to a temporary file that the system deletes


class Shelf:
    """Values put under keys and taken by them, and keys that were met; a context manager.

    Memory stays as it is however much is put. First everything is put, then it is taken.
    """

    def __init__(self) -> None:
        self._db = sqlite3.connect("", isolation_level=None)
        for setting in (f"cache_size = -{CACHE_KB}", "journal_mode = OFF", "synchronous = OFF"):
            self._db.execute(f"PRAGMA {setting}")
        self._db.execute("CREATE TABLE lists (key TEXT NOT NULL, value TEXT NOT NULL)")
        self._db.execute("CREATE TABLE met (key TEXT PRIMARY KEY) WITHOUT ROWID")
        self._indexed = False
        self.put_count = 0
        self.taken_count = 0

    def put(self, pairs: Iterable[tuple[str, object]]) -> None:
        """Put values, which JSON can hold, under their keys."""
        with self._transaction():
            before = self._db.total_changes
            self._db.executemany("INSERT INTO lists VALUES (?, ?)", ((key, json.dumps(value)) for key, value in pairs))
            self.put_count += self._db.total_changes - before

    def take(self, keys: Sequence[str]) -> dict[str, list]:
        """What was put under these keys, in the order it was put; keys with nothing are left out."""
        if not self._indexed:
            self._db.execute("CREATE INDEX lists_by_key ON lists(key)")
            self._indexed = True
        found: dict[str, list] = {}
        query = "SELECT key, value FROM lists WHERE key IN (SELECT value FROM json_each(?)) ORDER BY rowid"
        for key, value in self._db.execute(query, (json.dumps(list(keys)),)):
            found.setdefault(key, []).append(json.loads(value))
            self.taken_count += 1
        return found

    def meet(self, keys: Sequence[str]) -> list[bool]:
        """For each key whether it is met for the first time."""
        query = "SELECT key FROM met WHERE key IN (SELECT value FROM json_each(?))"
        known = {key for (key,) in self._db.execute(query, (json.dumps(list(keys)),))}
        first = []
        for key in keys:
            first.append(key not in known)
            known.add(key)
        with self._transaction():
            self._db.executemany("INSERT OR IGNORE INTO met VALUES (?)", ((key,) for key in keys))
        return first

    def never_met(self, most: int) -> list[str]:
        """Some of the keys under which something was put and that were never met."""
        query = "SELECT DISTINCT key FROM lists WHERE key NOT IN (SELECT key FROM met) LIMIT ?"
        return [key for (key,) in self._db.execute(query, (most,))]

    @contextlib.contextmanager
    def _transaction(self):
        self._db.execute("BEGIN")
        yield
        self._db.execute("COMMIT")

    def __enter__(self) -> Shelf:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._db.close()
