"""Embeddings: appended run by run, never compared across runs."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence

import numpy as np

from care_cli.catalog.crops import image_filters
from care_cli.errors import CareError
from care_cli.records import Embeddings, Selection

PAGE = 4096  # rows read at once


class EmbeddingsTable:
    """`embeddings`."""

    def without_embedding(self, run_id: int, crop_ids: Sequence[int]) -> list[int]:
        """Those of `crop_ids` that have pixels but no embedding in a run yet, in the order given."""
        rows = self.rows(
            "SELECT value AS id FROM json_each(:ids) WHERE EXISTS (SELECT 1 FROM crop_pixels WHERE crop_id = value) "
            "AND NOT EXISTS (SELECT 1 FROM embeddings WHERE run_id = :run AND crop_id = value)",
            {"ids": json.dumps(list(crop_ids)), "run": run_id},
        )
        return [row["id"] for row in rows]

    def without_pixels(self, crop_ids: Sequence[int]) -> list[int]:
        """Those of `crop_ids` that have no pixels, in the order given."""
        rows = self.rows(
            "SELECT value AS id FROM json_each(?) WHERE NOT EXISTS (SELECT 1 FROM crop_pixels WHERE crop_id = value)",
            (json.dumps(list(crop_ids)),),
        )
        return [row["id"] for row in rows]

    def add_embeddings(self, run_id: int, crop_ids: Sequence[int], vectors: np.ndarray) -> None:
        """Write `vectors (N, D) float32, L2 norm 1` for crops `(N,)`; one transaction.

        A crop that ceased to be an animal meanwhile is passed over.
        """
        vectors = np.ascontiguousarray(vectors, "<f4")
        norms = np.linalg.norm(vectors, axis=1)
        if not np.allclose(norms, 1, atol=1e-3):
            raise CareError(f"Embeddings have norm 1, but the model gave {norms.min():.4g} to {norms.max():.4g}.")
        with self.transaction():
            self.db.conn.executemany(
                "INSERT OR IGNORE INTO embeddings (run_id, crop_id, dim, vector) "
                "SELECT ?, id, ?, ? FROM crops WHERE id = ? AND category = 'animal'",
                ((run_id, vectors.shape[1], row.tobytes(), crop) for crop, row in zip(crop_ids, vectors, strict=True)),
            )

    def embeddings(self, run_id: int) -> Embeddings:
        """All vectors of a run, by crop id; read in pages, no cursor stays open."""
        ids: list[int] = []
        blocks: list[np.ndarray] = []
        after = 0
        while True:
            rows = self.rows(
                "SELECT crop_id, dim, vector FROM embeddings WHERE run_id = ? AND crop_id > ? ORDER BY crop_id LIMIT ?",
                (run_id, after, PAGE),
            )
            if not rows:
                break
            after = rows[-1]["crop_id"]
            ids += [row["crop_id"] for row in rows]
            vectors = b"".join(row["vector"] for row in rows)
            blocks.append(np.frombuffer(vectors, "<f4").reshape(len(rows), rows[0]["dim"]))
        stacked = np.concatenate(blocks) if blocks else np.zeros((0, 1), np.float32)
        return Embeddings(np.array(ids, np.int64), stacked)

    def index_runs(self) -> list[dict]:
        """Finished index runs with their models, newest first."""
        return self.rows(
            "SELECT runs.*, models.name AS model, models.sha256, models.spec FROM runs "
            "JOIN models ON models.id = runs.model_id WHERE command = 'index' AND finished_at IS NOT NULL "
            "ORDER BY finished_at DESC, runs.id DESC"
        )

    def gallery_rows(self, run_id: int, selection: Selection) -> list[dict]:
        """Named crops with an embedding in a run: crop, individual, image, event; by species, site, flank, dates."""
        parameters: dict = {"run": run_id}
        where = ["embeddings.run_id = :run", *image_filters(selection, parameters)]
        for column in ("species", "flank"):
            if (value := getattr(selection, column)) is not None:
                where.append(f"crops.{column} = :{column}")
                parameters[column] = value
        return self.rows(
            "SELECT crops.id AS crop, individuals.name AS individual, images.id AS image "
            "FROM embeddings JOIN crops ON crops.id = embeddings.crop_id "
            "JOIN crop_identity ON crop_identity.crop_id = crops.id "
            "JOIN individuals ON individuals.id = crop_identity.individual_id "
            "JOIN timed_images AS images ON images.id = crops.image_id "
            f"WHERE {' AND '.join(where)} ORDER BY crops.id",
            parameters,
        )

    def keypoints_hash(self, crop_id: int, run_id: int) -> str | None:
        """SHA-256 of a crop's points of one run, for embeddings made with them; None without points."""
        points = self.rows(
            "SELECT name, x, y, visible FROM keypoints WHERE crop_id = ? AND run_id = ? ORDER BY name",
            (crop_id, run_id),
        )
        return hashlib.sha256(json.dumps(points, sort_keys=True).encode()).hexdigest() if points else None
