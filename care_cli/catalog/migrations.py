"""How older catalogs become today's: one named function a step, oldest first.

Format 1 is the first `schema.sql`; `MIGRATIONS[0]` takes format 1 to 2, and so on. Each runs in a
transaction of its own after a backup, and `schema.sql` always shows the result of all of them. Beware:
`executescript` commits, and a trailing `--` comment breaks ADD COLUMN (use /* */).
"""

from __future__ import annotations

from collections.abc import Callable

from sqlite_utils import Database

MIGRATIONS: list[Callable[[Database], None]] = []
