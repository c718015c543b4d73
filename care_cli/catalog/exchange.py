"""What exports, pages and imports ask the catalog beyond the listings."""

from __future__ import annotations

import json
from collections.abc import Iterable

from care_cli.catalog.crops import IMPORTS


class ExchangeQueries:
    """Questions that join tables for files that leave the catalog or come in."""

    def scanned_folders(self) -> list[str]:
        """Where the folders lie that were scanned as a whole, readable form."""
        return [row["location"] for row in self.rows("SELECT location FROM sources WHERE scanned_at IS NOT NULL")]

    def photo_folders(self) -> list[str]:
        """Where the folders lie in which any photo was seen, readable form."""
        return [
            row["location"]
            for row in self.rows(
                "SELECT location FROM sources WHERE scanned_at IS NOT NULL OR EXISTS (SELECT 1 FROM image_files "
                "WHERE source_id = sources.id AND image_files.bytes IS NOT NULL)"
            )
        ]

    def sources_of_run(self, run_id: int) -> list[dict]:
        """The sources with files that a detect run has dealt with or that could not be read: id, location."""
        return self.rows(
            "SELECT id, location FROM sources WHERE EXISTS (SELECT 1 FROM image_files WHERE source_id = sources.id "
            "AND gone_at IS NULL AND (failure IS NOT NULL OR image_id IN (SELECT image_id FROM run_images "
            "WHERE run_id = ?))) ORDER BY id",
            (run_id,),
        )

    def files_of_run(self, source_id: int, run_id: int) -> list[dict]:
        """A source's files that a detect run has dealt with or that could not be read, by path.

        Fields: path, image, width and height (px, upright), failure (None when the photo could be used).
        """
        return self.rows(
            "SELECT path, image_id AS image, width, height, coalesce(image_files.failure, "
            "CASE state WHEN 'unreadable' THEN coalesce(images.failure, 'it cannot be decoded') END) AS failure "
            "FROM image_files LEFT JOIN images ON images.id = image_id WHERE source_id = ? AND gone_at IS NULL "
            "AND (image_files.failure IS NOT NULL OR image_id IN (SELECT image_id FROM run_images WHERE run_id = ?)) "
            "ORDER BY path_bytes",
            (source_id, run_id),
        )

    def image_facts(self) -> dict[int, dict]:
        """What the listing of photos leaves out, by image id."""
        rows = self.rows(
            "SELECT images.id, sha256, images.bytes, captured_at, make, model, serial, latitude, longitude, "
            "orientation, count(image_files.id) AS files, min(location) AS source FROM images "
            "LEFT JOIN image_files ON image_id = images.id LEFT JOIN sources ON sources.id = source_id "
            "GROUP BY images.id"
        )
        return {row.pop("id"): row for row in rows}

    def deployment_rows(self) -> list[dict]:
        """Deployments with their photos, the undated ones counted apart, and the days they cover."""
        return self.rows(
            "SELECT deployments.name AS deployment, deployments.site, deployments.latitude, deployments.longitude, "
            "clock_shift_s, burst_gap_s, event_gap_s, count(images.id) AS images, "
            "sum(images.id IS NOT NULL AND taken_at IS NULL) AS undated, count(DISTINCT event_id) AS events, "
            "min(taken_at) AS first_photo, max(taken_at) AS last_photo, "
            "CAST(julianday(date(max(taken_at))) - julianday(date(min(taken_at))) + 1 AS INTEGER) AS days "
            "FROM deployments LEFT JOIN timed_images AS images ON deployment_id = deployments.id "
            "GROUP BY deployments.id ORDER BY deployments.name"
        )

    # -- imports

    def image_brief(self, image_id: int) -> dict:
        """State, size (px, upright), event and deployment of an image."""
        return self.rows(
            "SELECT state, failure, width, height, event_id, deployment_id FROM images WHERE id = ?", (image_id,)
        )[0]

    def animals_of(self, image_id: int) -> list[dict]:
        """The animals with pixels of an image, of any run, the newest run's first: id, box and species."""
        return self.rows(
            "SELECT id, species, x, y, w, h FROM crops JOIN crop_pixels ON crop_id = id "
            "WHERE image_id = ? AND category = 'animal' ORDER BY run_id DESC, id",
            (image_id,),
        )

    def imported_crops(self, image_id: int) -> list[dict]:
        """Crops that an import made of an image: id, box, and whether a name was ever decided for it."""
        return self.rows(
            "SELECT crops.id, x, y, w, h, EXISTS (SELECT 1 FROM decisions WHERE crop_id = crops.id "
            "AND action IN ('create', 'name', 'unname')) AS decided FROM crops JOIN runs ON runs.id = run_id "
            f"WHERE command IN {IMPORTS} AND image_id = ?",
            (image_id,),
        )

    def set_event(self, image_id: int, event_id: int) -> None:
        """Put an image of no deployment into an event that its data set tells of."""
        self.db.conn.execute(
            "UPDATE images SET event_id = ? WHERE id = ? AND deployment_id IS NULL", (event_id, image_id)
        )

    def names_imported(self, dataset: str) -> set[str]:
        """Names of the active individuals that a data set of this name brought."""
        rows = self.rows(
            "SELECT DISTINCT name FROM decisions JOIN individuals ON individuals.id = individual_id "
            "WHERE source = 'import' AND action = 'create' AND status = 'active' "
            "AND json_extract(evidence, '$.dataset') = ?",
            (dataset,),
        )
        return {row["name"] for row in rows}

    def datasets_imported(self, crop_ids: Iterable[int]) -> set[str]:
        """What the data sets are called that named some of these crops."""
        rows = self.rows(
            "SELECT DISTINCT json_extract(evidence, '$.dataset') AS name FROM decisions WHERE source = 'import' "
            "AND crop_id IN (SELECT value FROM json_each(?)) AND name IS NOT NULL",
            (json.dumps(list(crop_ids)),),
        )
        return {row["name"] for row in rows}

    def count_imported(self, image_ids: Iterable[int]) -> dict[str, int]:
        """Imported crops of these images, their individuals, and how many have no name."""
        return self.rows(
            "SELECT count(*) AS crops, count(DISTINCT individual_id) AS individuals, "
            "coalesce(sum(individual_id IS NULL), 0) AS unnamed FROM crops JOIN runs ON runs.id = run_id "
            "LEFT JOIN crop_identity ON crop_id = crops.id "
            f"WHERE command IN {IMPORTS} AND image_id IN (SELECT value FROM json_each(?))",
            (json.dumps(list(image_ids)),),
        )[0]
