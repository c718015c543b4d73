"""Sources, deployments, images and the files they were seen in."""

from __future__ import annotations

import datetime
import json
from collections.abc import Iterable
from dataclasses import asdict

from care_cli.catalog.store import now
from care_cli.geometry import CROP_MARGIN, crop_rectangle
from care_cli.records import Photo

# an image that the scan met
MET = "images.id IN (SELECT image_id FROM image_files WHERE id IN met AND failure IS NULL)"


class PhotosTable:
    """`sources`, `deployments`, `images`, `image_files`."""

    def add_source(self, volume: str, root_bytes: bytes, root: str, location: str) -> int:
        """The row of a scanned folder, by volume and root; `location` (where it is now) is refreshed."""
        with self.transaction():
            self.db.conn.execute(
                "INSERT INTO sources (volume, root_bytes, root, location) VALUES (?, ?, ?, ?) "
                "ON CONFLICT (volume, root_bytes) DO UPDATE SET location = excluded.location",
                (volume, root_bytes, root, location),
            )
            return self.find_source(volume, root_bytes)

    def find_source(self, volume: str, root_bytes: bytes) -> int | None:
        """The row of a folder that was scanned before, or None."""
        return self.value("SELECT id FROM sources WHERE volume = ? AND root_bytes = ?", (volume, root_bytes))

    def known_files(self, source_id: int, paths: list[bytes]) -> dict[bytes, dict]:
        """The rows of `image_files` of these paths, by path."""
        marks = ", ".join("?" * len(paths))
        rows = self.rows(
            "SELECT id, path_bytes, image_id, bytes, mtime_ns, failure FROM image_files "
            f"WHERE source_id = ? AND path_bytes IN ({marks})",
            (source_id, *paths),
        )
        return {row["path_bytes"]: row for row in rows}

    def add_file(self, source_id: int, path_bytes: bytes, path: str, size: int, mtime_ns: int, **outcome) -> int:
        """Note a file as it was seen; `outcome` is `image_id=` or `failure=`. Returns the row's id."""
        return self.value(
            "INSERT INTO image_files (source_id, path_bytes, path, bytes, mtime_ns, image_id, failure) "
            "VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT (source_id, path_bytes) DO UPDATE SET bytes = excluded.bytes, "
            "mtime_ns = excluded.mtime_ns, image_id = coalesce(excluded.image_id, image_id), "
            "failure = excluded.failure, gone_at = NULL RETURNING id",
            (source_id, path_bytes, path, size, mtime_ns, outcome.get("image_id"), outcome.get("failure")),
        )

    def find_image(self, sha256: str) -> int | None:
        """The image of these bytes, or None."""
        return self.value("SELECT id FROM images WHERE sha256 = ?", (sha256,))

    def add_image(self, photo: Photo, deployment_id: int | None, unseen_id: int | None = None) -> int:
        """The image of a photo's bytes; made when it is new.

        `unseen_id` is the row that imported results made for the same file before its bytes were seen: it
        takes the bytes' identity, or gives all it has to the image that has it already.
        """
        image_id = self.find_image(photo.sha256)
        if image_id is None and unseen_id is None:
            image_id = self.value("INSERT INTO images (state) VALUES ('unseen') RETURNING id")
        if image_id is None or unseen_id is None or image_id == unseen_id:
            image_id = image_id or unseen_id
            self._describe(image_id, photo)
        else:
            self._become_one(unseen_id, image_id)
        self.db.conn.execute(
            "UPDATE images SET deployment_id = ? WHERE id = ? AND deployment_id IS NULL",
            (deployment_id, image_id),
        )
        return image_id

    def _describe(self, image_id: int, photo: Photo) -> None:
        """What an unseen image is, now that it is seen; the time that was told stands where the camera wrote none."""
        columns = asdict(photo)
        assignments = ", ".join(f"{name} = coalesce(:{name}, {name})" for name in columns)
        told = self._size(image_id)
        changed = self.db.conn.execute(
            f"UPDATE images SET {assignments} WHERE id = :id AND state = 'unseen'",
            {**columns, "id": image_id},
        )
        if changed.rowcount and photo.width:
            self._scale_boxes(image_id, told, (photo.width, photo.height))

    def _size(self, image_id: int) -> tuple[int, int] | None:
        """Width and height px of an image; None where nobody knows."""
        row = self.rows("SELECT width, height FROM images WHERE id = ?", (image_id,))[0]
        return (row["width"], row["height"]) if row["width"] and row["height"] else None

    def _scale_boxes(self, image_id: int, told: tuple[int, int] | None, size: tuple[int, int]) -> None:
        """Have boxes that results told in px of `told`, or in shares (None), in px of the photo's true size."""
        if told == size:
            return
        across, down = (true / said for true, said in zip(size, told or (1, 1), strict=True))
        for row in self.rows("SELECT id, run_id, x, y, w, h FROM crops WHERE image_id = ?", (image_id,)):
            box = row["x"] * across, row["y"] * down, row["w"] * across, row["h"] * down
            margin = self.run_settings(row["run_id"]).get("crop_margin", CROP_MARGIN)
            self.db.conn.execute(
                "UPDATE crops SET x = ?, y = ?, w = ?, h = ?, rect_x = ?, rect_y = ?, rect_w = ?, rect_h = ? "
                "WHERE id = ?",
                (*box, *crop_rectangle(box, size, margin), row["id"]),
            )

    def _become_one(self, unseen_id: int, image_id: int) -> None:
        """Give all that hangs on an image of unseen bytes to the image whose bytes they are.

        What one run says of both it says once: of two crops the one that a decision speaks of stays.
        """
        execute = self.db.conn.execute
        if size := self._size(image_id):
            self._scale_boxes(unseen_id, self._size(unseen_id), size)
        undecided = "NOT EXISTS (SELECT 1 FROM decisions WHERE crop_id = crops.id)"
        execute(
            f"DELETE FROM crops WHERE image_id = ? AND {undecided} "
            "AND run_id IN (SELECT run_id FROM run_images WHERE image_id = ?)",
            (unseen_id, image_id),
        )
        execute(
            f"DELETE FROM crops WHERE image_id = ? AND {undecided} AND EXISTS (SELECT 1 FROM crops AS same "
            "WHERE same.image_id = ? AND (same.run_id, same.x, same.y, same.w, same.h) = "
            "(crops.run_id, crops.x, crops.y, crops.w, crops.h))",
            (image_id, unseen_id),
        )
        execute("UPDATE crops SET image_id = ? WHERE image_id = ?", (image_id, unseen_id))
        for column in ("deployment_id", "captured_at"):
            execute(
                f"UPDATE images SET {column} = (SELECT {column} FROM images WHERE id = ?) "
                f"WHERE id = ? AND {column} IS NULL",
                (unseen_id, image_id),
            )
        execute("UPDATE OR IGNORE image_labels SET image_id = ? WHERE image_id = ?", (image_id, unseen_id))
        execute("DELETE FROM image_labels WHERE image_id = ?", (unseen_id,))
        execute("UPDATE image_files SET image_id = ? WHERE image_id = ?", (image_id, unseen_id))
        execute(
            "INSERT OR IGNORE INTO run_images SELECT run_id, ? FROM run_images WHERE image_id = ?",
            (image_id, unseen_id),
        )
        execute("DELETE FROM run_images WHERE image_id = ?", (unseen_id,))
        execute("DELETE FROM images WHERE id = ?", (unseen_id,))

    def unseen_image(self, image_id: int | None) -> int | None:
        """`image_id` when the image is known solely from imported results, else None."""
        return self.value("SELECT id FROM images WHERE id = ? AND sha256 IS NULL", (image_id,))

    # -- what a scan did not meet any more

    def begin_meeting(self) -> None:
        """Forget which files earlier scans of this process met."""
        self.db.conn.execute("CREATE TEMP TABLE IF NOT EXISTS met (file_id INTEGER PRIMARY KEY)")
        self.db.conn.execute("DELETE FROM met")

    def meet(self, file_ids: Iterable[int]) -> None:
        """Note that the scan met these files."""
        self.db.conn.executemany("INSERT OR IGNORE INTO met VALUES (?)", ((file_id,) for file_id in file_ids))

    def finish_meeting(self, source_id: int, whole: bool) -> int:
        """Files met again are no longer gone; after a `whole` scan of the source, those not met are gone.

        Returns how many files are newly gone.
        """
        with self.transaction():
            self.db.conn.execute(
                "UPDATE image_files SET gone_at = NULL WHERE source_id = ? AND gone_at IS NOT NULL AND id IN met",
                (source_id,),
            )
            if not whole:
                return 0
            self.db.conn.execute("UPDATE sources SET scanned_at = ? WHERE id = ?", (now(), source_id))
            return self.db.conn.execute(
                "UPDATE image_files SET gone_at = ? WHERE source_id = ? AND gone_at IS NULL AND id NOT IN met",
                (now(), source_id),
            ).rowcount

    def count_met(self) -> dict[str, int]:
        """Distinct images that the scan met, and how many of them are unreadable or partial."""
        return self.rows(
            "SELECT count(*) AS images, coalesce(sum(state = 'unreadable'), 0) AS unreadable, "
            "coalesce(sum(state = 'partial'), 0) AS partial FROM images "
            f"WHERE {MET}"
        )[0]

    def images_met(self) -> list[int]:
        """Ids of the distinct images that the scan met."""
        return [row["id"] for row in self.rows(f"SELECT id FROM images WHERE {MET}")]

    def deployments_met(self) -> list[dict]:
        """Deployments of the images that the scan met: id, name, volume, folder_bytes; `whole` when it met them all."""
        return self.rows(
            f"SELECT deployments.id, name, volume, folder_bytes, min({MET}) AS whole FROM deployments "
            f"JOIN images ON deployment_id = deployments.id GROUP BY deployments.id HAVING max({MET})"
        )

    # -- deployments, bursts, events

    def ungrouped(self, deployment_id: int) -> bool:
        """Does the deployment have dated images without an event yet?"""
        return bool(
            self.value(
                "SELECT EXISTS (SELECT 1 FROM images WHERE deployment_id = ? AND captured_at IS NOT NULL "
                "AND event_id IS NULL)",
                (deployment_id,),
            )
        )

    def add_deployment(
        self, name: str, volume: str | None = None, folder: bytes | None = None, said: bool = False
    ) -> int:
        """The deployment of a folder on a volume, or, where `said` or without a folder, that of this very name.

        A folder's new deployment whose name is taken gets a number behind it.
        """
        with self.transaction():
            of_name = self.value("SELECT id FROM deployments WHERE name = ?", (name,))
            of_folder = self.value("SELECT id FROM deployments WHERE volume = ? AND folder_bytes = ?", (volume, folder))
            if found := of_name if said or folder is None else of_folder:
                return found
            number, unique = 1, name
            while self.value("SELECT id FROM deployments WHERE name = ?", (unique,)):
                number += 1
                unique = f"{name} ({number})"
            if of_folder:
                volume = folder = None
            return self.value(
                "INSERT INTO deployments (name, volume, folder_bytes) VALUES (?, ?, ?) RETURNING id",
                (unique, volume, folder),
            )

    def location(self, name: str, volume: str, root: bytes) -> int:
        """The deployment that a file means by a location of its photos, which lie below `root` on `volume`.

        That of this name, unless a folder elsewhere is its own: another survey's `001` is another place. Then it is the
        first one with a number behind that is free or is none of a folder.
        """
        number, unique = 1, name
        while rows := self.rows("SELECT id, volume, folder_bytes FROM deployments WHERE name = ?", (unique,)):
            [row] = rows
            folder = row["folder_bytes"]
            here = row["volume"] == volume and (root in (b".", folder) or (folder or b"").startswith(root + b"/"))
            if folder is None or here:
                return row["id"]
            number += 1
            unique = f"{name} ({number})"
        return self.add_deployment(unique)

    def move_images_met(self, from_ids: list[int], to_name: str) -> int:
        """Put the images that the scan met out of deployments into the one called `to_name`; its id.

        Deployments left without images go; a single one that is left so and a new name are a renaming.
        """
        with self.transaction():
            standing = self.value("SELECT id FROM deployments WHERE name = ?", (to_name,))
            others = [one for one in from_ids if one != standing]
            if standing is None and len(others) == 1:
                self.db.conn.execute("UPDATE deployments SET name = ? WHERE id = ?", (to_name, others[0]))
                return others[0]
            target = standing or self.add_deployment(to_name)
            for one in others:
                self.db.conn.execute(
                    f"UPDATE images SET deployment_id = ? WHERE deployment_id = ? AND {MET}", (target, one)
                )
                self.db.conn.execute(
                    "DELETE FROM deployments WHERE id = ?1 AND NOT EXISTS "
                    "(SELECT 1 FROM images WHERE deployment_id = ?1)",
                    (one,),
                )
            return target

    def set_deployment(self, deployment_id: int, **columns) -> None:
        """Set `site`, `latitude`, `longitude`, `clock_shift_s`, `burst_gap_s`, `event_gap_s`; None leaves as is."""
        given = {name: value for name, value in columns.items() if value is not None}
        if given:
            assignments = ", ".join(f"{name} = :{name}" for name in given)
            with self.transaction():
                self.db.conn.execute(
                    f"UPDATE deployments SET {assignments} WHERE id = :id", {**given, "id": deployment_id}
                )

    def regroup(self, deployment_id: int) -> None:
        """Recompute a deployment's bursts and events from its photos' times, in one transaction.

        A photo that follows the one before it within the gap belongs to its group; the group is called by
        the id of its first image. Undated photos are in none.
        """
        with self.transaction():
            gaps = self.rows("SELECT burst_gap_s, event_gap_s FROM deployments WHERE id = ?", (deployment_id,))[0]
            images = self.rows(
                "SELECT id, taken_at, burst_id, event_id FROM timed_images WHERE deployment_id = ? "
                "AND taken_at >= '0001' ORDER BY taken_at, id",
                (deployment_id,),
            )
            before, burst, event, changes = None, None, None, []
            for image in images:
                taken = datetime.datetime.fromisoformat(image["taken_at"])
                pause = (taken - before).total_seconds() if before else float("inf")
                burst = burst if pause <= gaps["burst_gap_s"] else image["id"]
                event = event if pause <= gaps["event_gap_s"] else image["id"]
                before = taken
                if (image["burst_id"], image["event_id"]) != (burst, event):
                    changes.append((burst, event, image["id"]))
            self.db.conn.executemany("UPDATE images SET burst_id = ?, event_id = ? WHERE id = ?", changes)

    def deployment_of(self, image_id: int | None) -> int | None:
        """The deployment that the image belongs to, None when to none yet."""
        return self.value("SELECT deployment_id FROM images WHERE id = ?", (image_id,))

    def only_in_other_runs(self, run_id: int) -> tuple[int, list[int]]:
        """How many images other detect runs dealt with and this one has not, and which runs those are."""
        rows = self.rows(
            "SELECT DISTINCT run_id, image_id FROM run_images JOIN runs ON runs.id = run_id WHERE command = 'detect' "
            "AND image_id NOT IN (SELECT image_id FROM run_images WHERE run_id = ?)",
            (run_id,),
        )
        return len({row["image_id"] for row in rows}), sorted({row["run_id"] for row in rows})

    def places(self, image_ids: Iterable[int]) -> dict[int, list[dict]]:
        """Every place where the bytes of these images were seen, the likeliest first, by image id.

        Fields: location (readable form), path_bytes, bytes, mtime_ns, sha256.
        """
        found: dict[int, list[dict]] = {}
        for row in self.rows(
            "SELECT image_id, location, path_bytes, image_files.bytes, mtime_ns, sha256 FROM image_files "
            "JOIN sources ON sources.id = source_id JOIN images ON images.id = image_id "
            "WHERE image_id IN (SELECT value FROM json_each(?)) ORDER BY gone_at IS NOT NULL, image_files.id",
            (json.dumps(list(image_ids)),),
        ):
            found.setdefault(row.pop("image_id"), []).append(row)
        return found

    def take_event(self, image_id: int) -> None:
        """Put an image without a deployment into the event of the same camera at the same time, if there is one."""
        image = self.rows("SELECT serial, captured_at, deployment_id FROM images WHERE id = ?", (image_id,))[0]
        if image["deployment_id"] is not None:
            return
        deployment = self.value(
            "SELECT deployment_id FROM images WHERE id IN (SELECT value FROM json_each(?)) "
            "AND deployment_id IS NOT NULL ORDER BY id",
            (json.dumps(sorted(self.event_images(image["serial"], image["captured_at"]))),),
        )
        if deployment:
            self.db.conn.execute("UPDATE images SET deployment_id = ? WHERE id = ?", (deployment, image_id))
            self.regroup(deployment)

    def event_images(self, serial: str | None, captured_at: str | None) -> set[int]:
        """Images of the event that a photo belongs to: same camera serial, time within the deployment's gap.

        Every event with a photo within the gap is taken whole; an image that is in none counts for itself. Empty
        when serial or time is unknown.
        """
        if not serial or not captured_at:
            return set()
        rows = self.rows(
            "WITH near AS (SELECT images.id, event_id FROM images "
            "LEFT JOIN deployments ON deployments.id = deployment_id WHERE serial = :serial "
            "AND 86400 * abs(julianday(captured_at) - julianday(:at)) <= "
            "coalesce(event_gap_s, 1800) + 0.001) "
            "SELECT id FROM near UNION SELECT id FROM images WHERE event_id IN (SELECT event_id FROM near)",
            {"serial": serial, "at": captured_at},
        )
        return {row["id"] for row in rows}

    def images_of_event(self, image_id: int) -> set[int]:
        """All images of the event that an image belongs to; empty when it is in none."""
        rows = self.rows(
            "SELECT id FROM images WHERE event_id = (SELECT event_id FROM images WHERE id = ?)", (image_id,)
        )
        return {row["id"] for row in rows}
