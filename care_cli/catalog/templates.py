"""Templates: annotated reference crops."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict

from care_cli.catalog.keypoints import point_faults
from care_cli.catalog.store import now
from care_cli.decisions import checked_name
from care_cli.errors import CareError
from care_cli.records import NamedPoint, Template


class TemplatesTable:
    """`templates`. Their points are in px of the image frame."""

    def add_template(
        self,
        name: str,
        crop_id: int,
        points: Sequence[NamedPoint],
        source: str,
        species: str | None = None,
        about: dict | None = None,
    ) -> int:
        """Keep an annotated reference crop under a name of its own; returns its id.

        `points` are in px of the image frame. `species` is the crop's own where nothing is said. Raises CareError
        when the name is taken, the crop is no animal with pixels, or the points cannot be used.
        """
        name = checked_name(name)
        with self.transaction():
            frame = self.crop_to_annotate(crop_id)
            if faults := point_faults(points, frame.image_size):
                raise CareError(f"These points cannot be a template: {'; '.join(faults)}.")
            if self.value("SELECT id FROM templates WHERE name = ?", (name,)):
                raise CareError(
                    f"There is a template {name!r} already. Name another, or remove it: `care templates remove`."
                )
            described = json.dumps([asdict(point) for point in points])
            return self.value(
                "INSERT INTO templates (name, crop_id, species, points, source, about, created_at) "
                "VALUES (?, ?, ?, ?, ?, ?, ?) RETURNING id",
                (name, crop_id, species or frame.species, described, source, json.dumps(about or {}), now()),
            )

    def template(self, name: str) -> Template:
        """The template of this name; CareError that lists the known ones."""
        every = self.templates()
        for template in every:
            if template.name == name:
                return template
        known = ", ".join(template.name for template in every)
        raise CareError(
            f"There is no template {name!r} in this catalog "
            f"(there {'are: ' + known if known else 'is none yet; run `care templates add`'})."
        )

    def templates(self, species: str | None = None) -> list[Template]:
        """All templates, or those of a species, in the order they were made."""
        rows = self.rows("SELECT * FROM templates WHERE ?1 IS NULL OR species = ?1 ORDER BY id", (species,))
        return [
            Template(
                id=row["id"],
                name=row["name"],
                crop_id=row["crop_id"],
                species=row["species"],
                points=tuple(NamedPoint(**point) for point in json.loads(row["points"])),
                source=row["source"],
                about=json.loads(row["about"]),
                created_at=row["created_at"],
            )
            for row in rows
        ]

    def remove_template(self, name: str, with_points: bool = False) -> int:
        """Forget a template; returns how many points went with it.

        Raises CareError when points were carried from it and `with_points` is not said.
        """
        with self.transaction():
            template = self.template(name)
            resting = self.value("SELECT count(*) FROM keypoints WHERE template_id = ?", (template.id,))
            if resting and not with_points:
                raise CareError(
                    f"{resting} points were carried from template {name!r}. Add --with-points to remove them with it; "
                    "nothing was removed."
                )
            self.db.conn.execute("DELETE FROM keypoints WHERE template_id = ?", (template.id,))
            self.db.conn.execute("DELETE FROM templates WHERE id = ?", (template.id,))
        return resting

    def points_carried(self) -> dict[int, int]:
        """How many points were carried from each template, by its id; those without any are left out."""
        rows = self.rows(
            "SELECT template_id, count(*) AS points FROM keypoints WHERE template_id IS NOT NULL GROUP BY template_id"
        )
        return {row["template_id"]: row["points"] for row in rows}
