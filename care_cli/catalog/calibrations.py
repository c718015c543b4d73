"""Calibrations: what similarities of a model mean, and on how much that rests."""

from __future__ import annotations

import json

from care_cli.catalog.store import now


class CalibrationsTable:
    """`calibrations`, and what the splits say of who may be asked."""

    def put_calibration(self, model_id: int, species: str | None, settings: dict, curve: dict, **facts) -> int:
        """Keep a calibration in place of the one of the same model, species and settings; returns its id.

        `facts` are `known` and `new` (similarities), `pairs`, `individuals` and `ece`.
        """
        key = (model_id, species, json.dumps(settings, sort_keys=True))
        names = ("known", "new", "pairs", "individuals", "ece")
        with self.transaction():
            self.db.conn.execute(
                "DELETE FROM calibrations WHERE model_id = ? AND species IS ? AND settings = ?",
                key,
            )
            return self.value(
                f"INSERT INTO calibrations (model_id, species, settings, curve, {', '.join(names)}, made_at) "
                "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?) RETURNING id",
                (*key, json.dumps(curve), *(facts[name] for name in names), now()),
            )

    def calibrations(self, model_id: int | None = None, settings: dict | None = None) -> list[dict]:
        """Calibrations with their models' names, of one model or of all; `settings` and `curve` are tables.

        With `settings` only those that were made with exactly these.
        """
        rows = self.rows(
            "SELECT calibrations.*, models.name AS model, models.sha256 FROM calibrations "
            "JOIN models ON models.id = model_id WHERE (:model IS NULL OR model_id = :model) "
            "AND (:settings IS NULL OR settings = :settings) ORDER BY models.name, species, calibrations.id",
            {"model": model_id, "settings": None if settings is None else json.dumps(settings, sort_keys=True)},
        )
        return [row | {"settings": json.loads(row["settings"]), "curve": json.loads(row["curve"])} for row in rows]

    def crops_of_parts(self) -> list[dict]:
        """Crops of all splits: split (name), sha256 (of the split), part, crop."""
        return self.rows(
            "SELECT splits.name AS split, splits.sha256, part, crop_id AS crop FROM split_crops "
            "JOIN splits ON splits.id = split_id"
        )
