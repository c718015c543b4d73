"""The named points of crops."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Sequence
from itertools import groupby

import numpy as np

from care_cli.catalog.crops import SAID
from care_cli.decisions import checked_name
from care_cli.errors import CareError
from care_cli.records import PROPAGATED, CropFrame, Keypoints, NamedPoint

POINT_COLUMNS = "run_id, crop_id, name, x, y, confidence, margin, cycle, visible, template_id, source"

# The points that count, of :crops: the newest finished propagation's, and over them, name by name, those that were
# imported, the newest file first, and those set by hand.
STANDING = f"""
WITH all_points AS (
  SELECT keypoints.*, command, finished_at,
    first_value(run_id) OVER (PARTITION BY crop_id, command ORDER BY finished_at DESC, run_id DESC) AS newest
  FROM json_each(:crops) CROSS JOIN keypoints ON crop_id = value JOIN runs ON runs.id = run_id
  WHERE command IN {SAID} OR finished_at IS NOT NULL),
ranked AS (
  SELECT *, row_number() OVER (PARTITION BY crop_id, name ORDER BY command = 'annotate' DESC,
    command = 'import-keypoints' DESC, finished_at DESC, run_id DESC) AS place
  FROM all_points WHERE command IN {SAID} OR run_id = newest)
SELECT {POINT_COLUMNS} FROM ranked WHERE place = 1 ORDER BY crop_id, id"""


class KeypointsTable:
    """`keypoints`, in px of the image frame."""

    # -- frames

    def crop_frame(self, crop_ids: Iterable[int]) -> dict[int, CropFrame]:
        """Where these crops lie, by crop id; those that do not exist are left out."""
        rows = self.rows(
            "SELECT crops.*, width, height, EXISTS (SELECT 1 FROM crop_pixels WHERE crop_id = crops.id) AS stored "
            "FROM crops JOIN images ON images.id = image_id WHERE crops.id IN (SELECT value FROM json_each(?))",
            (_ids(crop_ids),),
        )
        return {row["id"]: _frame(row) for row in rows}

    def crop_to_annotate(self, crop_id: int) -> CropFrame:
        """Where an animal's crop lies whose pixels can be seen; CareError for any other."""
        frame = self.crop_frame([crop_id]).get(crop_id)
        if frame is None:
            raise CareError(f"There is no crop {crop_id}; `care crops` shows their ids.")
        if frame.category != "animal":
            raise CareError(f"Crop {crop_id} shows a {frame.category}; points are kept of animals only.")
        if frame.size is None:
            raise CareError(f"Crop {crop_id} has no pixels to point at. Connect its card and run `care doctor`.")
        return frame

    # -- points that runs find

    def without_keypoints(self, run_id: int, crop_ids: Sequence[int]) -> list[int]:
        """Those of `crop_ids` that have pixels but no points of a run yet, in the order given."""
        rows = self.rows(
            "SELECT value AS id FROM json_each(:ids) WHERE EXISTS (SELECT 1 FROM crop_pixels WHERE crop_id = value) "
            "AND NOT EXISTS (SELECT 1 FROM keypoints WHERE run_id = :run AND crop_id = value)",
            {"ids": _ids(crop_ids), "run": run_id},
        )
        return [row["id"] for row in rows]

    def add_keypoints(self, run_id: int, found: Sequence[Keypoints], digests: Sequence[bytes] | None = None) -> int:
        """Write the points of crops, all points of a crop or none; one transaction. Returns how many points are new.

        Points that the run has already are kept. Passed over is a crop that ceased to be an animal meanwhile, one
        whose pixels are no longer those of which `digests` (SHA-256, one for each of `found`) were taken, and one
        with points from a template that is gone. CareError when a number is not finite.
        """
        for one in found:
            if not (np.isfinite(one.kp_image).all() and np.isfinite(one.confidence).all()):
                raise CareError(f"Points are finite numbers, but those of crop {one.crop_id} are not.")
        with self.transaction():
            frames = self.crop_frame(one.crop_id for one in found)
            stored = self.pixels(frames) if digests else {}
            templates = {None} | {row["id"] for row in self.rows("SELECT id FROM templates")}
            rows = []
            for one, digest in zip(found, digests or [None] * len(found), strict=True):
                animal = one.crop_id in frames and frames[one.crop_id].category == "animal"
                same = digest is None or hashlib.sha256(stored.get(one.crop_id, b"")).digest() == digest
                if animal and same and templates.issuperset(one.templates):
                    rows += _point_rows(run_id, one)
            cursor = self.db.conn.executemany(
                f"INSERT OR IGNORE INTO keypoints ({POINT_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                rows,
            )
        return cursor.rowcount if rows else 0

    # -- points by hand

    def correct_keypoint(self, crop_id: int, name: str, x: float, y: float, visible: bool = True) -> None:
        """Say where a crop's point is, px of the image frame; it wins over what models find and files say.

        The run "annotate" holds all points set by hand, and its executions what was said when. CareError when the
        crop is no animal with pixels or the point lies outside the photo.
        """
        point = NamedPoint(checked_name(name), x, y)
        with self.transaction():
            if faults := point_faults([point], self.crop_to_annotate(crop_id).image_size):
                raise CareError(f"Nothing was set: {faults[0]}.")
            said = {"crop": crop_id, "name": point.name, "x": x, "y": y, "visible": visible}
            run_id = self.begin_run("annotate", {}, **said)
            self.db.conn.execute(
                f"INSERT INTO keypoints ({POINT_COLUMNS}) VALUES (?, ?, ?, ?, ?, 1, NULL, NULL, ?, NULL, "
                "'human') ON CONFLICT (run_id, crop_id, name) "
                "DO UPDATE SET x = excluded.x, y = excluded.y, visible = excluded.visible",
                (run_id, crop_id, point.name, x, y, visible),
            )
            self.finish_run(run_id)

    def say_keypoints(self, crop_id: int, points: Sequence[NamedPoint]) -> int:
        """Take points, px of the image frame, as set by hand; returns how many are new.

        What was set by hand before stays, name by name.
        """
        said = [{"name": point.name, "x": point.x, "y": point.y} for point in points]
        one = Keypoints(
            crop_id=crop_id,
            names=tuple(point.name for point in points),
            kp_image=np.array([(point.x, point.y) for point in points], float),
            confidence=np.ones(len(points), np.float32),
            visible=np.ones(len(points), bool),
            source="human",
        )
        with self.transaction():
            run_id = self.begin_run("annotate", {}, crop=crop_id, points=said)
            new = self.add_keypoints(run_id, [one])
            self.finish_run(run_id)
        return new

    # -- removing

    def remove_points_of_run(self, run_id: int) -> int:
        """Delete the points of a run; returns how many.

        The run is unfinished then: the same command makes them anew. CareError when it has none.
        """
        with self.transaction():
            self.run_of_points(run_id)
            gone = self.db.conn.execute("DELETE FROM keypoints WHERE run_id = ?", (run_id,)).rowcount
            if not gone:
                raise CareError(f"Run {run_id} has no points now; nothing was removed.")
            self.db.conn.execute("UPDATE runs SET finished_at = NULL WHERE id = ?", (run_id,))
            self.note_execution(run_id, removed=gone)
        return gone

    def remove_points_said(self, crop_id: int, name: str | None = None) -> int:
        """Delete a crop's points, or that of a name, that were set by hand or imported; returns how many.

        What a model found counts again then. CareError when there is none.
        """
        with self.transaction():
            gone = self.rows(
                "DELETE FROM keypoints WHERE crop_id = ?1 AND (?2 IS NULL OR name = ?2) "
                f"AND run_id IN (SELECT id FROM runs WHERE command IN {SAID}) RETURNING run_id, name",
                (crop_id, name),
            )
            if not gone:
                what = "no point" if name is None else f"no point {name!r}"
                raise CareError(
                    f"Crop {crop_id} has {what} that was set by hand or imported; nothing was removed. "
                    f"`care keypoints --crop {crop_id}` lists what it has."
                )
            for row in gone:
                self.note_execution(row["run_id"], crop=crop_id, removed=row["name"])
        return len(gone)

    # -- asking

    def keypoints(self, crop_ids: Iterable[int], run_id: int | None = None) -> dict[int, Keypoints]:
        """The points of crops, by crop id; crops without any are left out.

        Of one run where `run_id` says so. Else those of the newest finished propagation that has some for the crop,
        and over them, name by name, those that were imported or set by hand.
        """
        if run_id is None:
            return _by_crop(self.rows(STANDING, {"crops": _ids(crop_ids)}))
        rows = self.rows(
            f"SELECT {POINT_COLUMNS} FROM json_each(?) CROSS JOIN keypoints ON crop_id = value AND run_id = ? "
            "ORDER BY crop_id, keypoints.id",
            (_ids(crop_ids), run_id),
        )
        return _by_crop(rows)

    def found_places(self, crop_ids: Iterable[int]) -> dict[int, dict[str, np.ndarray]]:
        """Where models found the points of crops, by crop id and name: `(N,2) float64`, a place for each run."""
        rows = self.rows(
            "SELECT crop_id, name, x, y FROM json_each(?) CROSS JOIN keypoints ON crop_id = value WHERE source = ?",
            (_ids(crop_ids), PROPAGATED),
        )
        places: dict[int, dict[str, list]] = {}
        for row in rows:
            places.setdefault(row["crop_id"], {}).setdefault(row["name"], []).append((row["x"], row["y"]))
        return {crop: {name: np.array(of, float) for name, of in named.items()} for crop, named in places.items()}

    def annotated(self, species: str | None = None) -> dict[int, Keypoints]:
        """The points that were set by hand or imported, alone, by crop id: what is known to be true."""
        rows = self.rows(
            f"WITH said AS (SELECT keypoints.*, row_number() OVER (PARTITION BY crop_id, name "
            "ORDER BY command = 'annotate' DESC, finished_at DESC, run_id DESC) AS place "
            f"FROM runs CROSS JOIN keypoints ON run_id = runs.id WHERE command IN {SAID}) "
            f"SELECT {', '.join('said.' + column for column in POINT_COLUMNS.split(', '))} FROM said "
            "JOIN crops ON crops.id = crop_id WHERE place = 1 AND (?1 IS NULL OR species = ?1) "
            "ORDER BY crop_id, said.id",
            (species,),
        )
        return _by_crop(rows)

    def propagate_runs(self) -> list[dict]:
        """Finished propagations with their models, newest first."""
        return self.rows(
            "SELECT runs.*, models.name AS model, models.sha256, models.spec FROM runs "
            "LEFT JOIN models ON models.id = runs.model_id WHERE command = 'propagate-keypoints' "
            "AND finished_at IS NOT NULL ORDER BY finished_at DESC, runs.id DESC"
        )

    def superseded(self, run_id: int) -> list[int]:
        """The finished propagations whose points counted for crops for which this run's count now, newest first."""
        rows = self.rows(
            "WITH found AS (SELECT DISTINCT keypoints.crop_id, run_id, finished_at "
            "FROM (SELECT DISTINCT crop_id FROM keypoints WHERE run_id = :run) AS mine "
            "CROSS JOIN keypoints ON keypoints.crop_id = mine.crop_id JOIN runs ON runs.id = run_id "
            "WHERE command = 'propagate-keypoints' AND finished_at IS NOT NULL), "
            "ranked AS (SELECT run_id, row_number() OVER newest AS place, lead(run_id) OVER newest AS former "
            "FROM found WINDOW newest AS (PARTITION BY crop_id ORDER BY finished_at DESC, run_id DESC)) "
            "SELECT DISTINCT runs.id, finished_at FROM ranked JOIN runs ON runs.id = former "
            "WHERE place = 1 AND run_id = :run ORDER BY finished_at DESC, runs.id DESC",
            {"run": run_id},
        )
        return [row["id"] for row in rows]

    def run_of_points(self, run_id: int) -> dict:
        """The row of a run that found points or took them in; CareError that lists the known ones."""
        rows = self.rows(
            f"SELECT * FROM runs WHERE command = 'propagate-keypoints' OR command IN {SAID} ORDER BY id", ()
        )
        for row in rows:
            if row["id"] == run_id:
                return row
        known = ", ".join(f"{row['id']} ({row['command']})" for row in rows)
        raise CareError(f"Run {run_id} has no points (runs that have: {known or 'none yet'}).")

    def digests_of(self, image_ids: Iterable[int]) -> dict[int, str]:
        """SHA-256 of the bytes of photos, by image id."""
        rows = self.rows(
            "SELECT id, sha256 FROM images WHERE id IN (SELECT value FROM json_each(?))", (_ids(image_ids),)
        )
        return {row["id"]: row["sha256"] for row in rows}


def point_faults(points: Sequence[NamedPoint], size: tuple[int, int] | None) -> list[str]:
    """What is wrong with points, px of a photo of `size` (width, height), if that is known: in words, a line each."""
    if not points:
        return ["there is no point"]
    names = [point.name for point in points]
    mirrors = {point.name: point.mirror for point in points}
    faults = [f"the name {name!r} is given twice" for name in sorted(set(names)) if names.count(name) > 1]
    for point in points:
        if not (math.isfinite(point.x) and math.isfinite(point.y)):
            faults.append(f"{point.name!r} is at ({point.x}, {point.y}), which are no numbers of pixels")
        elif size and not (0 <= point.x <= size[0] and 0 <= point.y <= size[1]):
            faults.append(
                f"{point.name!r} at ({point.x:g}, {point.y:g}) lies outside the photo of {size[0]} x {size[1]} px"
            )
        if point.mirror is not None and (point.mirror == point.name or mirrors.get(point.mirror) != point.name):
            faults.append(f"{point.name!r} names {point.mirror!r} as its mirror point, which does not name it in turn")
    return faults


def _ids(crop_ids: Iterable[int]) -> str:
    return json.dumps([int(crop_id) for crop_id in crop_ids])


def _frame(row: dict) -> CropFrame:
    return CropFrame(
        crop_id=row["id"],
        category=row["category"],
        species=row["species"],
        box=(row["x"], row["y"], row["w"], row["h"]),
        rect=(row["rect_x"], row["rect_y"], row["rect_w"], row["rect_h"]),
        size=(row["crop_width"], row["crop_height"]) if row["stored"] else None,
        image_size=(row["width"], row["height"]) if row["width"] and row["height"] else None,
    )


def _point_rows(run_id: int, one: Keypoints) -> list[tuple]:
    """A crop's points as rows of `keypoints`."""
    none = [None] * len(one.names)
    columns = zip(
        one.names,
        one.kp_image.tolist(),
        one.confidence.tolist(),
        none if one.margin is None else one.margin.tolist(),
        none if one.cycle is None else one.cycle.tolist(),
        one.visible.tolist(),
        one.templates or none,
        strict=True,
    )
    return [
        (run_id, one.crop_id, name, x, y, confidence, margin, cycle, visible, template, one.source)
        for name, (x, y), confidence, margin, cycle, visible, template in columns
    ]


def _by_crop(rows: list[dict]) -> dict[int, Keypoints]:
    """Rows of POINT_COLUMNS, in the order of their crops, as one record a crop."""
    return {crop_id: _record(crop_id, list(group)) for crop_id, group in groupby(rows, lambda row: row["crop_id"])}


def _record(crop_id: int, rows: list[dict]) -> Keypoints:
    def column(name: str) -> np.ndarray | None:
        """`(K,) float32`, NaN where nothing is known; None where nothing is known of any point."""
        values = [row[name] for row in rows]
        return None if values.count(None) == len(values) else np.array(values, np.float32)

    return Keypoints(
        crop_id=crop_id,
        names=tuple(row["name"] for row in rows),
        kp_image=np.array([(row["x"], row["y"]) for row in rows], float),
        confidence=np.array([row["confidence"] for row in rows], np.float32),
        visible=np.array([row["visible"] for row in rows], bool),
        margin=column("margin"),
        cycle=column("cycle"),
        templates=tuple(row["template_id"] for row in rows),
        source=rows[0]["source"] if len({row["source"] for row in rows}) == 1 else "mixed",
        sources=tuple(row["source"] for row in rows),
        runs=tuple(row["run_id"] for row in rows),
    )
