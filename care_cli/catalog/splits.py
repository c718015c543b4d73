"""Splits: which named crops belong to training, validation and test."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable

from care_cli.catalog.store import now
from care_cli.errors import CareError

PAGE = 256  # crops whose pixels are in memory at once


class SplitsTable:
    """`splits` and `split_crops`."""

    def split(self, name: str) -> dict | None:
        """A split's row (id, name, settings, sha256, created_at), its settings read; None when there is none."""
        rows = self.rows("SELECT * FROM splits WHERE name = ?", (name,))
        return rows[0] | {"settings": json.loads(rows[0]["settings"])} if rows else None

    def find_split(self, name: str) -> dict:
        """As `split`; CareError that lists the known ones when there is none."""
        found = self.split(name)
        if found is None:
            known = ", ".join(row["name"] for row in self.rows("SELECT name FROM splits ORDER BY id"))
            raise CareError(
                f"There is no split {name!r} in this catalog "
                f"(there {'are: ' + known if known else 'is none yet; `care train` makes one'})."
            )
        return found

    def split_parts(self, name: str) -> dict[int, str]:
        """The part ('train', 'val' or 'test') of each crop of a split, by crop id; empty when there is none."""
        rows = self.rows(
            "SELECT crop_id, part FROM split_crops JOIN splits ON splits.id = split_id WHERE name = ? ORDER BY crop_id",
            (name,),
        )
        return {row["crop_id"]: row["part"] for row in rows}

    def put_split(self, name: str, settings: dict, parts: dict[int, str]) -> dict:
        """Make a split, or put crops into one that stands; returns its row.

        Its SHA-256 is of the sorted lines 'digest of the crop's pixels, part'. CareError when it stands with other
        settings.
        """
        with self.transaction():
            before = self.split(name)
            if before and before["settings"] != settings:
                raise CareError(f"The split {name!r} was made with {before['settings']}; name another with --split.")
            if before and parts.items() <= self.split_parts(name).items():
                return before
            split_id = self.value(
                "INSERT INTO splits (name, settings, sha256, created_at) VALUES (?, ?, ?, ?) "
                "ON CONFLICT (name) DO UPDATE SET name = excluded.name RETURNING id",
                (name, json.dumps(settings, sort_keys=True), "0" * 64, now()),
            )
            self.db.conn.executemany(
                "INSERT INTO split_crops VALUES (?, ?, ?) "
                "ON CONFLICT (split_id, crop_id) DO UPDATE SET part = excluded.part",
                [(split_id, crop, part) for crop, part in parts.items()],
            )
            every = self.split_parts(name)
            digests = self.pixel_digests(every)
            lines = sorted(f"{digests[crop]} {part}\n" for crop, part in every.items() if crop in digests)
            digest = hashlib.sha256("".join(lines).encode()).hexdigest()
            self.db.conn.execute("UPDATE splits SET sha256 = ? WHERE id = ?", (digest, split_id))
        return self.split(name)

    def pixel_digests(self, crop_ids: Iterable[int]) -> dict[int, str]:
        """SHA-256 of the stored pixels of crops, by crop id, read in pages; crops without pixels are left out."""
        ids = [int(crop) for crop in crop_ids]
        return {
            crop: hashlib.sha256(jpeg).hexdigest()
            for start in range(0, len(ids), PAGE)
            for crop, jpeg in self.pixels(ids[start : start + PAGE]).items()
        }
