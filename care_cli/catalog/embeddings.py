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
TOLERANCE = 1e-3  # of a vector's length, which is 1
BLOCK = 8192  # crops whose changes are noted together, as the triggers of schema.sql count


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

    def embedding_hashes(self, run_id: int, crop_ids: Sequence[int] | None = None) -> dict[int, str | None]:
        """The hashes of the points that a run's embeddings were made with, by crop id; of all crops, or some."""
        some = "" if crop_ids is None else "AND crop_id IN (SELECT value FROM json_each(:ids))"
        ids = json.dumps([int(crop_id) for crop_id in crop_ids or ()])
        rows = f"SELECT crop_id, keypoints_hash FROM embeddings WHERE run_id = :run {some} ORDER BY crop_id"
        return dict(self._fetched(rows, {"run": run_id, "ids": ids})[1])

    def without_pixels(self, crop_ids: Sequence[int]) -> list[int]:
        """Those of `crop_ids` that have no pixels, in the order given."""
        rows = self.rows(
            "SELECT value AS id FROM json_each(?) WHERE NOT EXISTS (SELECT 1 FROM crop_pixels WHERE crop_id = value)",
            (json.dumps(list(crop_ids)),),
        )
        return [row["id"] for row in rows]

    def add_embeddings(
        self,
        run_id: int,
        crop_ids: Sequence[int],
        vectors: np.ndarray,
        digests: Sequence[bytes] | None = None,
        hashes: Sequence[str | None] | None = None,
    ) -> None:
        """Write `vectors (N, D) float32, L2 norm 1` for crops `(N,)`; one transaction.

        A crop that ceased to be an animal meanwhile is passed over, and so is one whose pixels are no longer those
        of which `digests` (SHA-256) were taken: a person may have been made black in it. `hashes` are of the points
        that the vectors were made with; a vector of a crop that was made with others makes room, any other stays.
        """
        vectors = np.ascontiguousarray(vectors, "<f4")
        norms = np.linalg.norm(vectors, axis=1)
        if not np.allclose(norms, 1, atol=TOLERANCE):
            raise CareError(f"Embeddings have norm 1, but the model gave {norms.min():.4g} to {norms.max():.4g}.")
        none = [None] * len(vectors)
        with self.transaction():
            rows = list(zip(crop_ids, vectors, digests or none, hashes or none, strict=True))
            stored = self.pixels(crop_ids) if digests else {}
            rows = [
                (run_id, vectors.shape[1], vector.tobytes(), shown, crop)
                for crop, vector, digest, shown in rows
                if digest is None or hashlib.sha256(stored.get(crop, b"")).digest() == digest
            ]
            if hashes:
                self.db.conn.executemany(
                    "DELETE FROM embeddings WHERE run_id = ? AND crop_id = ? AND keypoints_hash IS NOT ?",
                    [(run_id, crop, shown) for run_id, _, _, shown, crop in rows],
                )
            self.db.conn.executemany(
                "INSERT OR IGNORE INTO embeddings (run_id, crop_id, dim, vector, keypoints_hash) "
                "SELECT ?1, id, ?2, ?3, ?4 FROM crops WHERE id = ?5 AND category = 'animal'",
                rows,
            )

    def embeddings(self, run_id: int) -> Embeddings:
        """All vectors of a run, by crop id; read in pages, no cursor stays open."""
        pages: list[Embeddings] = []
        after = 0
        while True:
            _, rows = self._fetched(
                "SELECT crop_id, vector FROM embeddings WHERE run_id = ? AND crop_id > ? ORDER BY crop_id LIMIT ?",
                (run_id, after, PAGE),
            )
            if not rows:
                break
            after = rows[-1][0]
            pages.append(_stacked(rows))
        if not pages:
            return _stacked([])
        ids, vectors = ([getattr(page, name) for page in pages] for name in ("ids", "vectors"))
        return Embeddings(np.concatenate(ids), np.concatenate(vectors))

    def index_runs(self) -> list[dict]:
        """Finished index runs with their models, newest first."""
        return self.rows(
            "SELECT runs.*, models.name AS model, models.sha256, models.spec FROM runs "
            "JOIN models ON models.id = runs.model_id WHERE command = 'index' AND finished_at IS NOT NULL "
            "ORDER BY finished_at DESC, runs.id DESC"
        )

    def vectors(self, run_id: int, crop_ids: Sequence[int]) -> Embeddings:
        """Vectors of some crops in a run, by crop id; crops without one are left out."""
        _, rows = self._fetched(
            "SELECT crop_id, vector FROM embeddings WHERE run_id = :run AND crop_id IN "
            "(SELECT value FROM json_each(:ids)) ORDER BY crop_id",
            {"run": run_id, "ids": json.dumps([int(crop_id) for crop_id in crop_ids])},
        )
        return _stacked(rows)

    def gallery_crops(self, selection: Selection) -> np.ndarray:
        """Ids `(N,) int64` of named crops, ascending, by species, site, flank and dates."""
        parameters: dict = {}
        where = ["1", *image_filters(selection, parameters)]
        for column in ("species", "flank"):
            if (value := getattr(selection, column)) is not None:
                where.append(f"crops.{column} = :{column}")
                parameters[column] = value
        _, rows = self._fetched(
            "SELECT crops.id FROM crop_identity JOIN crops ON crops.id = crop_identity.crop_id "
            f"JOIN timed_images AS images ON images.id = crops.image_id WHERE {' AND '.join(where)} ORDER BY crops.id",
            parameters,
        )
        return np.array(rows, np.int64).ravel()

    # -- blocks of crops, from which caches are derived

    def number(self) -> int:
        """What tells this catalog from all others; copies keep it."""
        return self.value("SELECT number FROM this_catalog")

    def embedding_blocks(self) -> dict[tuple[int, int], int]:
        """Generations by run and block."""
        _, rows = self._fetched("SELECT run_id, block, generation FROM embedding_blocks", ())
        return {(run_id, block): generation for run_id, block, generation in rows}

    def identity_blocks(self) -> dict[int, int]:
        """Generations by block."""
        return dict(self._fetched("SELECT block, generation FROM identity_blocks", ())[1])

    def embedding_block(self, run_id: int, block: int) -> tuple[int, Embeddings]:
        """The generation of a block and its vectors, both of one moment."""
        _, rows = self._fetched(
            "SELECT generation, crop_id, vector FROM embedding_blocks AS blocks LEFT JOIN embeddings ON "
            "embeddings.run_id = blocks.run_id AND crop_id BETWEEN :first AND :last "
            "WHERE blocks.run_id = :run AND block = :block ORDER BY crop_id",
            {"run": run_id, "block": block, "first": block * BLOCK, "last": block * BLOCK + BLOCK - 1},
        )
        return rows[0][0], _stacked([row[1:] for row in rows if row[1] is not None])

    def identity_block(self, block: int) -> tuple[int, np.ndarray]:
        """The generation of a block, and `(N, 2) int64`: its named crops and who they are; both of one moment."""
        _, rows = self._fetched(
            "SELECT generation, crop_id, individual_id FROM identity_blocks LEFT JOIN crop_identity ON "
            "crop_id BETWEEN :first AND :last WHERE block = :block ORDER BY crop_id",
            {"block": block, "first": block * BLOCK, "last": block * BLOCK + BLOCK - 1},
        )
        named = [row[1:] for row in rows if row[1] is not None]
        return rows[0][0], np.array(named, np.int64).reshape(-1, 2)


def _stacked(rows: list[tuple[int, bytes]]) -> Embeddings:
    """Crop ids and vectors, as read from one run. CareError when they differ in size, or one has not norm 1."""
    ids = np.array([crop for crop, _ in rows], np.int64)
    size = len(rows[0][1]) if rows else 4
    odd = [crop for crop, vector in rows if len(vector) != size]
    if not odd:
        vectors = np.frombuffer(b"".join(vector for _, vector in rows), "<f4").reshape(len(rows), size // 4)
        odd = ids[~(np.abs(np.linalg.norm(vectors, axis=1) - 1) < TOLERANCE)].tolist()
    if odd:
        raise CareError(f"The embedding of crop {odd[0]} is damaged. Run `care doctor`; go on with the newest backup.")
    return Embeddings(ids, vectors)
