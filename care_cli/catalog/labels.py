"""What imported files say of photos: labels, and boxes of photos that nobody has seen."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence

from care_cli.records import Awaited

IMAGE = "INSERT INTO images (id, state, width, height, captured_at, deployment_id) VALUES (?, 'unseen', ?, ?, ?, ?)"
FILE = (
    "INSERT INTO image_files (source_id, path_bytes, path, image_id) VALUES (?, ?, ?, ?) "
    "ON CONFLICT (source_id, path_bytes) DO UPDATE SET image_id = excluded.image_id, bytes = NULL, mtime_ns = NULL, "
    "failure = NULL"
)
FILL = (
    "UPDATE images SET captured_at = coalesce(captured_at, ?1), deployment_id = coalesce(deployment_id, ?2) "
    "WHERE id = ?3 AND (captured_at IS NULL AND ?1 IS NOT NULL OR deployment_id IS NULL AND ?2 IS NOT NULL)"
)
CROP = (
    "INSERT INTO crops (run_id, image_id, confidence, x, y, w, h, label, model_category, model_species, category, "
    "species, rect_x, rect_y, rect_w, rect_h) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
)
LABELLING = "SELECT id FROM runs WHERE command = 'import-labels'"  # runs of what people said of photos


class LabelsTable:
    """`image_labels`, and images before they are seen."""

    def told_files(self, source_id: int, run_id: int, paths: Sequence[bytes]) -> dict[bytes, dict]:
        """What is known of the files of these paths and of their images, by path.

        Fields: id, image_id, bytes, mtime_ns, failure; of the image state, width, height, burst_id, deployment_id;
        done: the run has dealt with it; bare: an animal of the run has no pixels.
        """
        marks = ", ".join("?" * len(paths))
        rows = self.rows(
            "SELECT path_bytes, files.id, files.image_id, files.bytes, mtime_ns, files.failure, state, width, height, "
            "burst_id, deployment_id, "
            "EXISTS (SELECT 1 FROM run_images WHERE run_id = ?1 AND image_id = images.id) AS done, "
            "EXISTS (SELECT 1 FROM crops WHERE image_id = images.id AND run_id = ?1 AND category = 'animal' "
            "AND NOT EXISTS (SELECT 1 FROM crop_pixels WHERE crop_id = crops.id)) AS bare "
            "FROM image_files AS files LEFT JOIN images ON images.id = files.image_id "
            f"WHERE source_id = ?2 AND path_bytes IN ({marks})",
            (run_id, source_id, *paths),
        )
        return {row["path_bytes"]: row for row in rows}

    def awaited_around(self, volume: str, root: bytes, paths: Sequence[bytes]) -> dict[bytes, int]:
        """Images that nobody has seen and that are awaited at these paths below `root`, by path.

        They are awaited by way of other folders, above that one or in it.
        """
        whole = {b"/".join(part for part in (root, path) if part != b"."): path for path in paths}
        found = {}
        for source in self.rows("SELECT id, root_bytes FROM sources WHERE volume = ?", (volume,)):
            start = b"" if source["root_bytes"] == b"." else source["root_bytes"] + b"/"
            below = {path[len(start) :]: given for path, given in whole.items() if path.startswith(start)}
            marks = ", ".join("?" * len(below))
            rows = self.rows(
                "SELECT path_bytes, image_id FROM image_files JOIN images ON images.id = image_id "
                f"WHERE source_id = ? AND path_bytes IN ({marks}) AND sha256 IS NULL",
                (source["id"], *below),
            )
            found |= {below[row["path_bytes"]]: row["image_id"] for row in rows}
        return found

    def add_awaited(self, run_id: int, source_id: int, photos: Sequence[Awaited]) -> list[int]:
        """Write photos that nobody has seen, with all that a run tells of them; returns their images' ids.

        An image that other results made keeps what they told.
        """
        execute, many = self.db.conn.execute, self.db.conn.executemany
        with self.transaction():
            free = execute("SELECT coalesce(max(id), 0) + 1 FROM images").fetchone()[0]
            ids, new = [], []
            for photo in photos:
                ids.append(photo.image_id or free + len(new))
                if photo.image_id is None:
                    new.append((ids[-1], photo))
            many(IMAGE, [(i, *(one.size or (None, None)), one.captured_at, one.deployment_id) for i, one in new])
            many(FILE, [(source_id, one.path_bytes, one.path, i) for i, one in new])
            both = list(zip(ids, photos, strict=True))
            many(FILL, [(one.captured_at, one.deployment_id, i) for i, one in both if one.image_id])
            self.add_labels(run_id, ((i, one.labels) for i, one in both))
            many("INSERT OR IGNORE INTO run_images VALUES (?, ?)", [(run_id, i) for i, one in both if one.complete])
            crops = ((i, crop, crop.detection) for i, one in both for crop in one.crops)
            many(
                CROP,
                [
                    (run_id, i, found.confidence, *found.box, found.label, found.category, found.species,
                     found.category, found.species, *crop.rect)
                    for i, crop, found in crops
                ],
            )  # fmt: skip
        return ids

    def add_labels(self, run_id: int, labels: Iterable[tuple[int, Sequence[tuple[str, bool]]]]) -> None:
        """Write what a run tells of images as a whole: label, and whether it is their sequence's."""
        self.db.conn.executemany(
            "INSERT OR IGNORE INTO image_labels (run_id, image_id, label, of_sequence) VALUES (?, ?, ?, ?)",
            ((run_id, image_id, label, int(of)) for image_id, its in labels for label, of in its),
        )

    def join_sequences(self, firsts: Iterable[tuple[int, int]]) -> None:
        """Put undated images into the burst and event that are called by their sequence's first image."""
        self.db.conn.executemany(
            "UPDATE images SET burst_id = ?2, event_id = ?2 WHERE id = ?1 AND captured_at IS NULL", firsts
        )

    def fill_image(self, image_id: int, captured_at: str | None, deployment_id: int | None) -> None:
        """Give an image the time and the deployment that it has not."""
        self.db.conn.execute(FILL, (captured_at, deployment_id, image_id))

    def forget_awaited(self, image_id: int) -> None:
        """Delete the places where the file of an image, now seen, was awaited in vain."""
        self.db.conn.execute("DELETE FROM image_files WHERE image_id = ? AND bytes IS NULL", (image_id,))

    def bare_crops(self, run_id: int, image_id: int) -> list[int]:
        """A run's animals without pixels in an image."""
        rows = self.rows(
            "SELECT id FROM crops WHERE run_id = ? AND image_id = ? AND category = 'animal' "
            "AND NOT EXISTS (SELECT 1 FROM crop_pixels WHERE crop_id = crops.id) ORDER BY id",
            (run_id, image_id),
        )
        return [row["id"] for row in rows]

    def earlier_sources(self, run_id: int) -> list[int]:
        """The sources at which earlier executions of an import looked for files, the latest first."""
        rows = self.rows(
            "SELECT DISTINCT json_extract(value, '$.source') AS source FROM runs, json_each(executions) "
            "WHERE runs.id = ? AND source IS NOT NULL ORDER BY key DESC",
            (run_id,),
        )
        return [row["source"] for row in rows]

    def count_told(self, run_id: int) -> dict[str, int]:
        """How many images a run has dealt with, how many of them nobody has seen, its labels, and boxes by category."""
        boxes = self.rows("SELECT category, count(*) AS n FROM crops WHERE run_id = ? GROUP BY category", (run_id,))
        return {
            **self.rows(
                "SELECT count(*) AS images, coalesce(sum(state = 'unseen'), 0) AS unseen FROM run_images "
                "JOIN images ON images.id = image_id WHERE run_id = ?",
                (run_id,),
            )[0],
            "labels": self.value("SELECT count(*) FROM image_labels WHERE run_id = ?", (run_id,)),
            "boxes": {row["category"]: row["n"] for row in boxes},
        }

    # -- what a recipe asks

    def image_ids(self, after: int, limit: int) -> list[int]:
        """`limit` ids of images above `after`, in order."""
        rows = self.rows("SELECT id FROM images WHERE id > ? ORDER BY id LIMIT ?", (after, limit))
        return [row["id"] for row in rows]

    def told_images(self, image_ids: Iterable[int]) -> list[dict]:
        """Facts of images that training rests on, by id.

        Fields: id, path, location (site, else deployment), camera (deployment), taken_at, burst_id, lighting, state,
        width, height, sha256.
        """
        return self.rows(
            "SELECT images.id, coalesce(site, deployment) AS location, deployment AS camera, taken_at, burst_id, "
            "lighting, state, width, height, sha256, (SELECT path FROM image_files WHERE image_id = images.id "
            "ORDER BY gone_at IS NOT NULL, id LIMIT 1) AS path FROM timed_images AS images "
            "WHERE images.id IN (SELECT value FROM json_each(?)) ORDER BY images.id",
            (json.dumps(list(image_ids)),),
        )

    def image_labels(self, image_ids: Iterable[int]) -> list[dict]:
        """What all imports say of images as a whole: image, label, of_sequence."""
        return self.rows(
            "SELECT image_id AS image, label, min(of_sequence) AS of_sequence FROM image_labels "
            "WHERE image_id IN (SELECT value FROM json_each(?)) GROUP BY 1, 2",
            (json.dumps(list(image_ids)),),
        )

    def boxes_of(self, image_ids: Iterable[int], run_id: int) -> list[dict]:
        """The boxes of images that a detect run found or that were imported, in the order they were written.

        Fields: image, label, species, category (after decisions), confidence, x, y, w, h, given (1: people drew it;
        an imported box with a confidence below 1 was found by a detector).
        """
        return self.rows(
            "SELECT image_id AS image, label, species, category, confidence, x, y, w, h, "
            "run_id <> ?2 AND confidence >= 1 AS given FROM crops "
            f"WHERE image_id IN (SELECT value FROM json_each(?1)) AND (run_id = ?2 OR run_id IN ({LABELLING})) "
            "ORDER BY image_id, run_id, id",
            (json.dumps(list(image_ids)), run_id),
        )

    def dealt_with(self, run_id: int, image_ids: Iterable[int]) -> set[int]:
        """Those of some images that a run has dealt with."""
        rows = self.rows(
            "SELECT image_id FROM run_images WHERE run_id = ? AND image_id IN (SELECT value FROM json_each(?))",
            (run_id, json.dumps(list(image_ids))),
        )
        return {row["image_id"] for row in rows}
