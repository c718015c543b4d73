"""Crops and their pixels, and the listings of photos and crops."""

from __future__ import annotations

import json
import sqlite3
import threading
from collections.abc import Callable, Iterable, Sequence

from care_cli.catalog.labels import LABELLING
from care_cli.decisions import Decision, composed, undone
from care_cli.errors import CareError
from care_cli.geometry import Box
from care_cli.records import Crop, Selection
from care_cli.scan import deployment_folder
from care_cli.thresholds import ONE_BEING, SHOWN

SAME_ANIMAL = 0.6  # IoU from which two runs' boxes are of one animal


def overlap(one: str, other: str, least: float) -> str:
    """SQL: do the boxes of two rows of crops overlap with an IoU of at least `least`?

    inter / (a + b - inter) >= least  <=>  (1 + least) * inter >= least * (a + b)
    """
    inter = " * ".join(
        f"max(0, min({one}.{at} + {one}.{size}, {other}.{at} + {other}.{size}) - max({one}.{at}, {other}.{at}))"
        for at, size in ("xw", "yh")
    )
    return f"{1 + least} * {inter} >= {least} * ({one}.w * {one}.h + {other}.w * {other}.h)"


# crops that a decision in force speaks of; :undone are the decisions that are taken back
DECIDED = """decided AS MATERIALIZED (
  SELECT DISTINCT crop_id AS id FROM decisions
  WHERE crop_id IS NOT NULL AND id NOT IN (SELECT value FROM json_each(:undone)))"""

IMPORTS = "('import', 'import-keypoints', 'import-labels')"  # commands that take crops from what others made
SAID = "('annotate', 'import-keypoints')"  # commands whose points a person said

# The crops that commands read: those of the active detect run from the shown confidence upward, all that were
# imported, and every crop that somebody has worked on: with a decision, a template or points that a person said, or
# drawn by a person and imported. A crop of the active run that covers such a crop of another run (same photo, same
# category, IoU >= 0.6) counts as that one; so does an animal on a decided person's body.
VISIBLE = f"""
WITH {DECIDED},
kept AS MATERIALIZED (
  SELECT id FROM decided
  UNION SELECT crop_id FROM templates
  UNION SELECT id FROM crops WHERE run_id IN ({LABELLING})
  UNION SELECT crop_id FROM keypoints WHERE run_id IN (SELECT id FROM runs WHERE command IN {SAID})),
candidates AS (
  SELECT id FROM crops WHERE run_id = :run AND confidence >= :shown
  UNION SELECT crops.id FROM crops JOIN runs ON runs.id = run_id WHERE command IN {IMPORTS}
  UNION SELECT id FROM kept),
visible AS (
  SELECT crops.* FROM crops JOIN candidates USING (id)
  WHERE crops.id IN kept OR crops.run_id <> :run OR NOT EXISTS (
    SELECT 1 FROM crops AS other WHERE other.image_id = crops.image_id AND other.run_id <> crops.run_id
    AND other.id IN kept
    AND (other.category = crops.category AND {overlap("other", "crops", SAME_ANIMAL)}
      OR other.category = 'person' AND crops.category = 'animal' AND {overlap("other", "crops", ONE_BEING)})))
"""

# of the animals of a photo the one that the original toolkit keeps: the best stoat, else the best of all
TOOLKIT = """, toolkit AS (
  SELECT id FROM (SELECT id, row_number() OVER (
    PARTITION BY image_id ORDER BY species = 'stoat' COLLATE NOCASE DESC, confidence DESC, id) AS place
  FROM visible WHERE category = 'animal') WHERE place = 1)
"""
PRESETS = {"toolkit": (TOOLKIT, "(visible.category <> 'animal' OR visible.id IN toolkit)")}

PIXELS = "SELECT crop_id, jpeg FROM crop_pixels WHERE crop_id IN (SELECT value FROM json_each(?))"

CROP_COLUMNS = """
visible.id AS crop, visible.image_id AS image, visible.category, visible.species, visible.flank,
round(visible.confidence, 3) AS confidence, individuals.name AS individual, visible.label,
images.taken_at, images.deployment, images.site, images.event_id AS event,
visible.x, visible.y, visible.w, visible.h, visible.run_id AS run,
(SELECT path FROM image_files WHERE image_id = images.id ORDER BY gone_at IS NOT NULL, id LIMIT 1) AS path"""


class CropsTable:
    """`crops`, `crop_pixels`, `run_images`."""

    def undone_images(self, run_id: int, image_ids: Sequence[int]) -> list[int]:
        """Those of `image_ids` that a run has not dealt with yet, in the order given."""
        marks = ", ".join("?" * len(image_ids))
        done = self.rows(
            f"SELECT image_id FROM run_images WHERE run_id = ? AND image_id IN ({marks})",
            (run_id, *image_ids),
        )
        finished = {row["image_id"] for row in done}
        return [image_id for image_id in image_ids if image_id not in finished]

    def add_crops(self, run_id: int, image_id: int, crops: Sequence[Crop], again: bool = False) -> list[int]:
        """Write what a run found in an image and that the run has dealt with it. Returns the crops' ids.

        An image is dealt with once a run, unless `again` adds to it (a data set tells of one photo twice).
        """
        ids = []
        with self.transaction():
            insert = "INSERT OR IGNORE" if again else "INSERT"
            self.db.conn.execute(f"{insert} INTO run_images VALUES (?, ?)", (run_id, image_id))
            for crop in crops:
                found, size = crop.detection, crop.size or (None, None)
                crop_id = self.value(
                    "INSERT INTO crops (run_id, image_id, confidence, x, y, w, h, label, model_category, "
                    "model_species, model_flank, category, species, flank, rect_x, rect_y, rect_w, rect_h, "
                    "crop_width, crop_height) "
                    "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) RETURNING id",
                    (run_id, image_id, found.confidence, *found.box, found.label, found.category, found.species,
                     crop.flank, found.category, found.species, crop.flank, *crop.rect, *size),
                )  # fmt: skip
                if crop.jpeg is not None:
                    self.db.conn.execute("INSERT INTO crop_pixels VALUES (?, ?)", (crop_id, crop.jpeg))
                ids.append(crop_id)
        return ids

    def pixels(self, crop_ids: Iterable[int]) -> dict[int, bytes]:
        """The stored JPEGs of these crops, by crop id; crops without pixels are left out."""
        return dict(self._fetched(PIXELS, (json.dumps(list(crop_ids)),))[1])

    def viewpoints(self, crop_ids: Iterable[int]) -> dict[int, tuple[str | None, str | None]]:
        """By which deployment's camera crops were taken, and which flank they show, by crop id; None: not known."""
        _, rows = self._fetched(
            "SELECT crops.id, deployments.name, nullif(flank, 'unknown') FROM crops "
            "JOIN images ON images.id = image_id LEFT JOIN deployments ON deployments.id = deployment_id "
            "WHERE crops.id IN (SELECT value FROM json_each(?))",
            (json.dumps([int(crop_id) for crop_id in crop_ids]),),
        )
        return {crop_id: (camera, view) for crop_id, camera, view in rows}

    def pixel_reader(self) -> Callable[[Iterable[int]], dict[int, bytes]]:
        """`pixels` for any thread, through a connection of its own that only reads."""
        file = f"{self.path.resolve().as_uri()}?mode=ro"
        connection, lock = sqlite3.connect(file, uri=True, check_same_thread=False), threading.Lock()

        def pixels(crop_ids: Iterable[int]) -> dict[int, bytes]:
            try:
                with lock:
                    return dict(connection.execute(PIXELS, (json.dumps(list(crop_ids)),)).fetchall())
            except sqlite3.Error as error:
                raise CareError(f"{self.path} could not be read: {error}. Run `care doctor`.") from error

        return pixels

    def replace_pixels(self, crop_id: int, jpeg: bytes) -> None:
        """Put other pixels in place of a crop's; embeddings and points that models found in the old ones go."""
        with self.transaction():
            self.db.conn.execute("UPDATE crop_pixels SET jpeg = ? WHERE crop_id = ?", (jpeg, crop_id))
            self.db.conn.execute("DELETE FROM embeddings WHERE crop_id = ?", (crop_id,))
            self.db.conn.execute("DELETE FROM keypoints WHERE crop_id = ? AND source = 'propagated'", (crop_id,))

    def put_pixels(self, crop_id: int, jpeg: bytes, size: tuple[int, int]) -> None:
        """Give an animal the pixels it has not, or new ones, of `size` (width, height) px."""
        with self.transaction():
            if self.value("SELECT crop_id FROM crop_pixels WHERE crop_id = ?", (crop_id,)):
                self.replace_pixels(crop_id, jpeg)
            else:
                self.db.conn.execute("INSERT INTO crop_pixels VALUES (?, ?)", (crop_id, jpeg))
            self.db.conn.execute("UPDATE crops SET crop_width = ?, crop_height = ? WHERE id = ?", (*size, crop_id))

    def decided_people(self, image_id: int) -> list[tuple[float, float, float, float]]:
        """Boxes that a decision calls persons in this image, whatever run found them: `(x, y, w, h)` px."""
        rows = self.rows(
            "SELECT x, y, w, h FROM crops WHERE image_id = ? AND category = 'person' AND model_category <> 'person'",
            (image_id,),
        )
        return [(row["x"], row["y"], row["w"], row["h"]) for row in rows]

    def people(self, image_ids: Iterable[int], confidence: float) -> dict[int, list[Box]]:
        """Boxes `(x, y, w, h)` px that any run (from `confidence`) or a decision calls a person, by image id."""
        found: dict[int, list[Box]] = {}
        for row in self.rows(
            "SELECT image_id, x, y, w, h FROM crops WHERE image_id IN (SELECT value FROM json_each(?)) AND "
            "category = 'person' AND (confidence >= ? OR model_category <> 'person')",
            (json.dumps(list(image_ids)), confidence),
        ):
            found.setdefault(row["image_id"], []).append((row["x"], row["y"], row["w"], row["h"]))
        return found

    def possible_people(self, confidence: float) -> list[int]:
        """Animals with pixels on a body that another run (from `confidence`) calls a person; nobody decided which."""
        rows = self.rows(
            f"WITH {DECIDED} SELECT crops.id FROM crops JOIN crop_pixels ON crop_id = crops.id "
            "WHERE crops.id NOT IN decided AND EXISTS (SELECT 1 FROM crops AS person "
            "WHERE person.image_id = crops.image_id AND person.run_id <> crops.run_id AND person.category = 'person' "
            f"AND person.confidence >= :confidence AND {overlap('person', 'crops', ONE_BEING)}) ORDER BY crops.id",
            {"confidence": confidence, "undone": self._undone()},
        )
        return [row["id"] for row in rows]

    def neighbours(self, crop_id: int) -> list[dict]:
        """The other crops of the same image that have pixels: id, rectangle and stored size."""
        return self.rows(
            "SELECT id, rect_x, rect_y, rect_w, rect_h, crop_width, crop_height FROM crops "
            "JOIN crop_pixels ON crop_id = id WHERE id <> :id "
            "AND image_id = (SELECT image_id FROM crops WHERE id = :id)",
            {"id": crop_id},
        )

    def crops_of_images(self, image_ids: Iterable[int]) -> list[int]:
        """Ids of all crops of some images, of any run."""
        rows = self.rows(
            "SELECT id FROM crops WHERE image_id IN (SELECT value FROM json_each(?))", (json.dumps(list(image_ids)),)
        )
        return [row["id"] for row in rows]

    def crops_of_run(self, run_id: int, image_id: int) -> list[dict]:
        """All that a run found in an image, in the order it was written."""
        return self.rows("SELECT * FROM crops WHERE run_id = ? AND image_id = ? ORDER BY id", (run_id, image_id))

    def crop(self, crop_id: int) -> dict | None:
        """One crop's row, or None."""
        rows = self.rows("SELECT * FROM crops WHERE id = ?", (crop_id,))
        return rows[0] if rows else None

    def shown_confidence(self, run_id: int) -> float:
        """The confidence from which a run's detections are shown: its model's own, or what imported results say of
        theirs, else 0.2."""
        shown = self.value(
            "SELECT coalesce(json_extract(spec, '$.shown'), json_extract(settings, '$.shown')) FROM runs "
            "LEFT JOIN models ON models.id = model_id WHERE runs.id = ?",
            (run_id,),
        )
        return SHOWN if shown is None else shown

    def _visible(self, selection: Selection) -> dict:
        run_id = self.active_run(selection.run)
        shown = selection.confidence
        shown = self.shown_confidence(run_id) if shown is None else shown
        return {"run": run_id, "shown": shown, "undone": self._undone()}

    def _undone(self) -> str:
        """Ids of the decisions that are taken back, as JSON."""
        rows = self.rows("SELECT id, undoes FROM decisions WHERE action = 'undo'")
        return json.dumps(sorted(undone(Decision("undo", **row) for row in rows)))

    def crop_rows(self, selection: Selection) -> list[dict]:
        """Crops as a listing shows them, in the order of their photos' times."""
        return self._crops(CROP_COLUMNS, selection)

    def crop_ids(self, selection: Selection) -> list[int]:
        """Ids of the crops that `crop_rows` shows, in its order."""
        return [row["id"] for row in self._crops("visible.id AS id", selection)]

    def _crops(self, columns: str, selection: Selection) -> list[dict]:
        parameters = self._visible(selection)
        where = ["1"]
        equal = {
            "visible.category": selection.category,
            "visible.species": selection.species,
            "visible.flank": selection.flank,
            "individuals.name": selection.individual and composed(selection.individual),
        }
        for column, value in equal.items():
            if value is not None:
                where.append(f"{column} = :{column.replace('.', '_')}")
                parameters[column.replace(".", "_")] = value
        if selection.unnamed:
            where.append("individuals.id IS NULL")
        if selection.ids:
            where.append("visible.id IN (SELECT value FROM json_each(:ids))")
            parameters["ids"] = json.dumps(selection.ids)
        chosen = ""
        if selection.preset is not None:
            chosen, condition = PRESETS[selection.preset]
            where.append(condition)
        where += image_filters(selection, parameters)
        return self.rows(
            f"{VISIBLE}{chosen} SELECT {columns} FROM visible "
            "JOIN timed_images AS images ON images.id = visible.image_id "
            "LEFT JOIN crop_identity ON crop_identity.crop_id = visible.id "
            "LEFT JOIN individuals ON individuals.id = crop_identity.individual_id "
            f"WHERE {' AND '.join(where)} ORDER BY images.taken_at, images.id, visible.id",
            parameters,
        )

    def image_rows(self, selection: Selection) -> list[dict]:
        """Photos as a listing shows them, with how many visible crops of each category they hold."""
        parameters = self._visible(selection)
        where = ["1", *image_filters(selection, parameters)]
        if selection.category:
            where.append(f"{selection.category}s > 0")
        if selection.species:
            where.append("instr(',' || species || ',', ',' || :species || ',')")
            parameters["species"] = selection.species
        if selection.individual:
            where.append("instr(',' || individuals || ',', ',' || :individual || ',')")
            parameters["individual"] = composed(selection.individual)
        if selection.unnamed:
            where.append("unnamed > 0")
        return self.rows(
            f"""{VISIBLE}, found AS (
              SELECT image_id, sum(category = 'animal') AS animals, sum(category = 'person') AS persons,
                sum(category = 'vehicle') AS vehicles, group_concat(DISTINCT visible.species) AS species,
                group_concat(DISTINCT individuals.name) AS individuals,
                sum(category = 'animal' AND individuals.id IS NULL) AS unnamed
              FROM visible LEFT JOIN crop_identity ON crop_identity.crop_id = visible.id
              LEFT JOIN individuals ON individuals.id = individual_id GROUP BY image_id)
            SELECT images.id AS image, images.taken_at, images.deployment, images.site, images.state,
              coalesce(animals, 0) AS animals, coalesce(persons, 0) AS persons, coalesce(vehicles, 0) AS vehicles,
              found.species, found.individuals, images.lighting, images.temperature_c, images.burst_id AS burst,
              images.event_id AS event, images.width, images.height, images.failure,
              (SELECT path FROM image_files WHERE image_id = images.id ORDER BY gone_at IS NOT NULL, id LIMIT 1) AS path
            FROM timed_images AS images LEFT JOIN found ON found.image_id = images.id
            WHERE {" AND ".join(where)} ORDER BY images.taken_at, images.id""",
            parameters,
        )

    def unread_files(self, deployment: str | None = None, site: str | None = None, met: bool = False) -> list[dict]:
        """Files whose bytes could not be read at all: path, reason (failure) and where they lie (location).

        `met` leaves those that the scan of this process met. A file is of a deployment or site when photos of
        it were seen in the same camera's folder.
        """
        if met and not self.value("SELECT count(*) FROM sqlite_temp_master WHERE name = 'met'"):
            return []  # nothing was scanned
        files = self.rows(
            "SELECT source_id, path_bytes, path, image_files.failure, location FROM image_files "
            "JOIN sources ON sources.id = source_id WHERE image_files.failure IS NOT NULL AND gone_at IS NULL "
            f"{'AND image_files.id IN met' if met else ''} ORDER BY location, path"
        )
        folders = [(file.pop("source_id"), deployment_folder(file.pop("path_bytes"))) for file in files]
        if not files or (deployment is None and site is None):
            return files
        neighbours = self.rows(
            "SELECT source_id, path_bytes FROM image_files JOIN timed_images AS images ON images.id = image_id "
            "WHERE (:deployment IS NULL OR deployment = :deployment) AND (:site IS NULL OR site = :site)",
            {"deployment": deployment, "site": site},
        )
        wanted = {(file["source_id"], deployment_folder(file["path_bytes"])) for file in neighbours}
        return [file for file, folder in zip(files, folders, strict=True) if folder in wanted]

    def count_visible(self, run_id: int) -> dict[str, int]:
        """How many visible crops of each category the images have that the scan met."""
        rows = self.rows(
            f"{VISIBLE} SELECT category, count(*) AS n FROM visible WHERE image_id IN "
            "(SELECT image_id FROM image_files WHERE id IN met) GROUP BY category",
            {"run": run_id, "shown": self.shown_confidence(run_id), "undone": self._undone()},
        )
        return {row["category"]: row["n"] for row in rows}

    def fill_species(self, run_id: int, species: str) -> None:
        """Give a species to the run's animals that have none, in the images that the scan met."""
        with self.transaction():
            self.db.conn.execute(
                "UPDATE crops SET model_species = ?1, species = coalesce(species, ?1) WHERE run_id = ?2 "
                "AND category = 'animal' AND model_species IS NULL "
                "AND image_id IN (SELECT image_id FROM image_files WHERE id IN met)",
                (species, run_id),
            )


def image_filters(selection: Selection, parameters: dict) -> list[str]:
    """Conditions on `images` (a row of timed_images); fills `parameters`."""
    where = []
    if selection.images:
        where.append("images.id IN (SELECT value FROM json_each(:images))")
        parameters["images"] = json.dumps(selection.images)
    if selection.undated:
        where.append("images.captured_at IS NULL AND images.state <> 'unreadable'")
    if selection.unreadable:
        where.append("images.state = 'unreadable'")
    for column in ("deployment", "site"):
        if (value := getattr(selection, column)) is not None:
            where.append(f"images.{column} = :{column}")
            parameters[column] = value
    if selection.since:
        where.append("images.taken_at >= :since")
        parameters["since"] = selection.since
    if selection.until:
        where.append("substr(images.taken_at, 1, 10) <= :until")
        parameters["until"] = selection.until
    return where
