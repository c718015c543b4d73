"""What `care doctor` asks the catalog."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import numpy as np

from care_cli.catalog.keypoints import point_faults
from care_cli.images import picture_size

ODD_VALUES = """
SELECT 'the settings of run' AS what, id FROM runs WHERE json_type(settings) <> 'object'
UNION ALL SELECT 'the executions of run', id FROM runs WHERE json_type(executions) <> 'array'
UNION ALL SELECT 'the description of model', id FROM models WHERE json_type(spec) <> 'object'
UNION ALL SELECT 'the box of crop', id FROM crops WHERE NOT (abs(x) < 1e9 AND abs(y) < 1e9 AND w < 1e9 AND h < 1e9)
UNION ALL SELECT 'the size of image', id FROM images WHERE state IN ('ok', 'partial')
  AND NOT (coalesce(width, 0) > 0 AND coalesce(height, 0) > 0)
UNION ALL SELECT 'the origin of template', id FROM templates WHERE json_type(about) <> 'object'
UNION ALL SELECT 'the points of template', id FROM templates WHERE json_type(points) <> 'array'
  OR EXISTS (SELECT 1 FROM json_each(points) AS point WHERE coalesce(
    json_type(points, point.fullkey || '.name') <> 'text'
    OR json_type(points, point.fullkey || '.x') NOT IN ('integer', 'real')
    OR json_type(points, point.fullkey || '.y') NOT IN ('integer', 'real')
    OR json_type(points, point.fullkey || '.mirror') NOT IN ('text', 'null')
    OR EXISTS (SELECT 1 FROM json_each(points, point.fullkey) WHERE key NOT IN ('name', 'x', 'y', 'mirror')), 1))
UNION ALL SELECT 'the point', id FROM keypoints WHERE NOT (abs(x) < 1e9 AND abs(y) < 1e9 AND abs(confidence) < 1e9)
"""


class Health:
    """Read-only checks; each returns plain values that `stages/doctor.py` puts into words."""

    def integrity(self) -> list[str]:
        """SQLite's own complaints about the file; empty when it is sound."""
        try:
            return [row[0] for row in self.db.conn.execute("PRAGMA integrity_check") if row[0] != "ok"]
        except sqlite3.DatabaseError as error:
            return [str(error)]

    def faults(self) -> list[str]:
        """SQLite's complaints, else values that no CARE writes and no command can use; empty when it is sound."""
        return self.integrity() or self.odd_values()

    def odd_values(self) -> list[str]:
        """Values that the tables take and that mean nothing: runs and models without their JSON, boxes nowhere."""
        try:
            return [f"{row['what']} {row['id']}" for row in self.rows(ODD_VALUES)]
        except sqlite3.DatabaseError as error:
            return [str(error)]

    def broken_references(self) -> list[str]:
        """Rows that point at a row that is not there, as 'table row -> table'."""
        rows = self.db.conn.execute("PRAGMA foreign_key_check").fetchall()
        return [f"{table} row {row} -> {parent}" for table, row, parent, _ in rows]

    def counts(self) -> dict[str, int]:
        """Rows of each table of the survey; of individuals, those that are there now."""
        tables = ("sources", "deployments", "images", "image_files", "crops", "crop_pixels", "embeddings",
                  "templates", "keypoints", "individuals", "decisions", "runs", "models")  # fmt: skip
        found = {table: self.value(f"SELECT count(*) FROM {table}") for table in tables}
        return found | {"individuals": self.value("SELECT count(*) FROM individuals WHERE status = 'active'")}

    def sources_seen(self) -> list[dict]:
        """Sources with where they were last and how many of their files are there, gone, unread."""
        return self.rows(
            "SELECT sources.id, volume, location, scanned_at, count(image_files.id) AS files, "
            "coalesce(sum(gone_at IS NOT NULL), 0) AS gone, coalesce(sum(failure IS NOT NULL), 0) AS unread "
            "FROM sources LEFT JOIN image_files ON source_id = sources.id GROUP BY sources.id"
        )

    def files_of_source(self, source_id: int, after: bytes, limit: int = 4096) -> list[dict]:
        """A page of a source's files that are not known to be gone, by path: those that follow the path `after`."""
        return self.rows(
            "SELECT path_bytes, path FROM image_files WHERE source_id = ? AND gone_at IS NULL AND path_bytes > ? "
            "ORDER BY path_bytes LIMIT ?",
            (source_id, after, limit),
        )

    def animals_without_pixels(self) -> list[int]:
        """Animal crops of seen photos that have no pixels (such as a person's set back to animal)."""
        rows = self.rows(
            "SELECT crops.id FROM crops JOIN images ON images.id = image_id WHERE category = 'animal' "
            "AND sha256 IS NOT NULL AND NOT EXISTS (SELECT 1 FROM crop_pixels WHERE crop_id = crops.id)"
        )
        return [row["id"] for row in rows]

    def lost_images(self) -> list[int]:
        """Images that no file was ever seen of and no crop is of."""
        rows = self.rows(
            "SELECT id FROM images WHERE NOT EXISTS (SELECT 1 FROM image_files WHERE image_id = images.id) "
            "AND NOT EXISTS (SELECT 1 FROM crops WHERE image_id = images.id)"
        )
        return [row["id"] for row in rows]

    def people_with_pixels(self) -> list[int]:
        """Crops of people and vehicles with pixels, points, embeddings or a name, which triggers forbid."""
        tables = ("crop_pixels", "templates", "keypoints", "embeddings", "crop_identity")
        held = " UNION ".join(f"SELECT crop_id FROM {table}" for table in tables)
        rows = self.rows(f"SELECT id FROM crops WHERE category <> 'animal' AND id IN ({held}) ORDER BY id")
        return [row["id"] for row in rows]

    def unfinished_runs(self) -> list[dict]:
        """Runs that never reached their end, but for those whose last execution was not to let them stand."""
        return self.rows(
            "SELECT id, command, started_at FROM runs WHERE finished_at IS NULL "
            "AND json_extract(executions, '$[#-1].stands') IS NOT 0"
        )

    def bad_vectors(self) -> list[int]:
        """Crop ids of embeddings whose vector is not finite, not of norm 1, or of another length than its run's first;
        read in pages.
        """
        rows = self.rows(
            "SELECT crop_id FROM embeddings JOIN "
            "(SELECT run_id AS run, dim AS its, min(id) FROM embeddings GROUP BY run_id) "
            "ON run = run_id WHERE dim <> its ORDER BY crop_id"
        )
        bad, after = [row["crop_id"] for row in rows], 0
        while rows := self.rows(
            "SELECT id, crop_id, vector FROM embeddings WHERE id > ? ORDER BY id LIMIT 1024", (after,)
        ):
            after = rows[-1]["id"]
            norms = [np.linalg.norm(np.frombuffer(row["vector"], "<f4")) for row in rows]
            bad += [row["crop_id"] for row, norm in zip(rows, norms, strict=True) if not abs(norm - 1) < 1e-3]
        return bad

    def bad_pixels(self) -> list[int]:
        """Crop ids whose stored pixels are not a whole picture of the size that the crop has; read in pages."""
        bad, after = [], 0
        while rows := self.rows(
            "SELECT crop_id, jpeg, crop_width, crop_height FROM crop_pixels JOIN crops ON crops.id = crop_id "
            "WHERE crop_id > ? ORDER BY crop_id LIMIT 64",
            (after,),
        ):
            after = rows[-1]["crop_id"]
            sizes = [picture_size(row["jpeg"]) for row in rows]
            bad += [
                row["crop_id"]
                for row, size in zip(rows, sizes, strict=True)
                if size is None or (row["crop_width"] and size != (row["crop_width"], row["crop_height"]))
            ]
        return bad

    def bad_templates(self) -> list[str]:
        """What is wrong with templates' points, in words, each with its template's name."""
        templates = self.templates()
        frames = self.crop_frame(template.crop_id for template in templates)
        return [
            f"{template.name}: {fault}"
            for template in templates
            for fault in point_faults(template.points, frames[template.crop_id].image_size)
        ]

    def points_outside(self) -> list[int]:
        """Crop ids with a point that lies outside their photo, by more than a pixel."""
        rows = self.rows(
            "SELECT DISTINCT crop_id FROM keypoints JOIN crops ON crops.id = crop_id "
            "JOIN images ON images.id = image_id WHERE NOT (keypoints.x BETWEEN -1 AND width + 1 "
            "AND keypoints.y BETWEEN -1 AND height + 1) ORDER BY crop_id"
        )
        return [row["crop_id"] for row in rows]

    def models_used(self) -> list[dict]:
        """Models that made results here: name, digest, file of a user's own weights."""
        return self.rows("SELECT name, sha256, file, spec FROM models ORDER BY id")

    def format(self) -> int:
        """The catalog's format: 1, and one more for each migration."""
        return self.value("PRAGMA user_version")

    def journal_mode(self) -> str:
        """'wal', or the rollback journal that serves where a write-ahead log cannot work."""
        return self.value("PRAGMA journal_mode")

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
