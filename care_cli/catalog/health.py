"""What `care doctor` asks the catalog."""

from __future__ import annotations

from pathlib import Path

import numpy as np


class Health:
    """Read-only checks; each returns plain values that `stages/doctor.py` puts into words."""

    def integrity(self) -> list[str]:
        """SQLite's own complaints about the file; empty when it is sound."""
        return [row[0] for row in self.db.conn.execute("PRAGMA integrity_check") if row[0] != "ok"]

    def broken_references(self) -> list[str]:
        """Rows that point at a row that is not there, as 'table row -> table'."""
        rows = self.db.conn.execute("PRAGMA foreign_key_check").fetchall()
        return [f"{table} row {row} -> {parent}" for table, row, parent, _ in rows]

    def counts(self) -> dict[str, int]:
        """Rows of each table of the survey."""
        tables = ("sources", "deployments", "images", "image_files", "crops", "crop_pixels", "embeddings",
                  "keypoints", "individuals", "decisions", "runs", "models")  # fmt: skip
        return {table: self.value(f"SELECT count(*) FROM {table}") for table in tables}

    def sources_seen(self) -> list[dict]:
        """Sources with where they were last and how many of their files are there, gone, unread."""
        return self.rows(
            "SELECT sources.id, location, scanned_at, count(image_files.id) AS files, "
            "sum(gone_at IS NOT NULL) AS gone, sum(failure IS NOT NULL) AS unread FROM sources "
            "LEFT JOIN image_files ON source_id = sources.id GROUP BY sources.id"
        )

    def files_of_source(self, source_id: int, after: int, limit: int = 4096) -> list[dict]:
        """A page of a source's files that are not known to be gone, by key."""
        return self.rows(
            "SELECT id, path_bytes, path, bytes FROM image_files WHERE source_id = ? AND gone_at IS NULL AND id > ? "
            "ORDER BY id LIMIT ?",
            (source_id, after, limit),
        )

    def animals_without_pixels(self) -> int:
        """Animal crops that have no pixels (set back to animal after having been a person)."""
        return self.value(
            "SELECT count(*) FROM crops WHERE category = 'animal' AND id NOT IN (SELECT crop_id FROM crop_pixels)"
        )

    def unfinished_runs(self) -> list[dict]:
        """Runs that never reached their end."""
        return self.rows("SELECT id, command, started_at FROM runs WHERE finished_at IS NULL")

    def bad_vectors(self) -> list[int]:
        """Crop ids of embeddings whose vector is not finite or not of norm 1."""
        bad = []
        for (run_id,) in self.db.conn.execute("SELECT DISTINCT run_id FROM embeddings").fetchall():
            stored = self.embeddings(run_id)
            norms = np.linalg.norm(stored.vectors, axis=1)
            bad += stored.ids[~(np.abs(norms - 1) < 1e-3)].tolist()
        return bad

    def bad_pixels(self) -> list[int]:
        """Crop ids whose stored pixels are no JPEG."""
        rows = self.rows("SELECT crop_id FROM crop_pixels WHERE substr(jpeg, 1, 2) <> x'FFD8'")
        return [row["crop_id"] for row in rows]

    def stale_embeddings(self) -> int:
        """Embeddings made with keypoints that are no longer those of the crop."""
        rows = self.rows(
            "SELECT embeddings.crop_id, keypoints_hash, json_extract(settings, '$.keypoints_run') AS run "
            "FROM embeddings JOIN runs ON runs.id = run_id WHERE keypoints_hash IS NOT NULL"
        )
        return sum(self.keypoints_hash(row["crop_id"], row["run"]) != row["keypoints_hash"] for row in rows)

    def models_used(self) -> list[dict]:
        """Models that made results here: name, digest, file of a user's own weights."""
        return self.rows("SELECT name, sha256, file, spec FROM models")

    def page_size(self) -> int:
        """Bytes a page."""
        return self.value("PRAGMA page_size")

    def file_bytes(self) -> int:
        """Bytes of the catalog with its write-ahead log."""
        parts = [self.path, Path(f"{self.path}-wal")]
        return sum(part.stat().st_size for part in parts if part.exists())

    def clock_jumps(self) -> list[dict]:
        """Deployments whose photos claim times more than two years apart: a camera clock was reset."""
        return self.rows(
            "SELECT deployment, min(taken_at) AS first, max(taken_at) AS last FROM timed_images "
            "WHERE taken_at IS NOT NULL AND deployment IS NOT NULL GROUP BY deployment_id "
            "HAVING julianday(max(taken_at)) - julianday(min(taken_at)) > 730"
        )
