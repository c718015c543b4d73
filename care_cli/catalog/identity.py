"""The decision log on the catalog's tables: who each crop is, and how it came to be."""

from __future__ import annotations

import difflib
import getpass
import json
from collections.abc import Iterable
from dataclasses import replace

from care_cli.catalog.store import now
from care_cli.decisions import ATTRIBUTES, Decision, Individual, Replay, apply, composed, contradictions, replay, undone
from care_cli.errors import CareError


def whoami() -> str:
    """The login of whoever decides; 'unknown' where the machine does not say."""
    try:
        return getpass.getuser()
    except (OSError, KeyError, ImportError):
        return "unknown"


class IdentityLog:
    """`decisions`, `individuals`, `crop_identity`, and the decided columns of `crops`.

    The class is also the `Names` that `decisions.apply` plays an entry on: `individual`, `active`,
    `category`, `identity`, `members` and the `put_*`.
    """

    # -- what decisions.apply reads and writes

    def individual(self, individual_id: int) -> Individual | None:
        rows = self.rows("SELECT name, status, merged_into FROM individuals WHERE id = ?", (individual_id,))
        return Individual(**rows[0]) if rows else None

    def put_individual(self, individual_id: int, individual: Individual) -> None:
        self.db.conn.execute(
            "INSERT INTO individuals (id, name, status, merged_into) VALUES (?, ?, ?, ?) ON CONFLICT (id) DO "
            "UPDATE SET name = excluded.name, status = excluded.status, merged_into = excluded.merged_into",
            (individual_id, individual.name, individual.status, individual.merged_into),
        )

    def active(self, name: str) -> int | None:
        return self.value("SELECT id FROM individuals WHERE name = ? AND status = 'active'", (name,))

    def category(self, crop_id: int) -> str | None:
        return self.value("SELECT category FROM crops WHERE id = ?", (crop_id,))

    def identity(self, crop_id: int) -> int | None:
        return self.value("SELECT individual_id FROM crop_identity WHERE crop_id = ?", (crop_id,))

    def members(self, individual_id: int) -> list[int]:
        rows = self.rows("SELECT crop_id FROM crop_identity WHERE individual_id = ?", (individual_id,))
        return [row["crop_id"] for row in rows]

    def put_identity(self, crop_id: int, individual_id: int | None, decision_id: int) -> None:
        if individual_id is None:
            self.db.conn.execute("DELETE FROM crop_identity WHERE crop_id = ?", (crop_id,))
        else:
            self.db.conn.execute(
                "INSERT INTO crop_identity VALUES (?, ?, ?) ON CONFLICT (crop_id) DO UPDATE SET "
                "individual_id = excluded.individual_id, decision_id = excluded.decision_id",
                (crop_id, individual_id, decision_id),
            )

    def put_attribute(self, crop_id: int, attribute: str, value: str | None) -> None:
        self.db.conn.execute(f"UPDATE crops SET {attribute} = ? WHERE id = ?", (value, crop_id))

    # -- the log

    def decide(self, entry: Decision) -> Decision:
        """Append an entry and play it, in one transaction. CareError when it does not apply; nothing is written.

        A 'create' or 'split' entry comes without the id of its new individual and gets one here.
        """
        with self.transaction():
            self.db.conn.execute("PRAGMA defer_foreign_keys = ON")  # names point at the entry that made them
            if entry.action in ("create", "split"):
                fresh = (self.value("SELECT max(id) FROM individuals") or 0) + 1
                new = "individual_id" if entry.action == "create" else "other_id"
                entry = replace(entry, **{new: fresh})
            entry = replace(
                entry,
                id=(self.value("SELECT max(id) FROM decisions") or 0) + 1,
                at=entry.at or now(),
                who=entry.who or whoami(),
            )
            if entry.action == "undo":
                self._undo(entry)
                return entry
            if reason := apply(self, entry):
                raise CareError(f"That cannot be decided: {reason}.")
            self._append(entry)
        return entry

    def _append(self, entry: Decision) -> None:
        self.db.conn.execute(
            "INSERT INTO decisions (id, at, who, source, action, crop_id, individual_id, other_id, value, crops, "
            "undoes, score, probability, evidence) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                entry.id, entry.at, entry.who, entry.source, entry.action, entry.crop_id, entry.individual_id,
                entry.other_id, entry.value, json.dumps(entry.crops) if entry.crops else None, entry.undoes,
                entry.score, entry.probability, json.dumps(entry.evidence) if entry.evidence else None,
            ),
        )  # fmt: skip

    def _undo(self, entry: Decision) -> None:
        log = self.log()
        if entry.undoes not in {one.id for one in log}:
            raise CareError(f"There is no decision {entry.undoes} to undo; see `care individuals log`.")
        if entry.undoes in undone(log):
            raise CareError(f"Decision {entry.undoes} is undone already; undo that undo to bring it back.")
        self._append(entry)
        self.restore()

    def log(self) -> list[Decision]:
        """The whole log, oldest first."""
        rows = self.rows("SELECT * FROM decisions ORDER BY id")
        return [
            Decision(
                **{
                    **row,
                    "crops": tuple(json.loads(row["crops"] or "[]")),
                    "evidence": json.loads(row["evidence"]) if row["evidence"] else None,
                }
            )
            for row in rows
        ]

    def replayed(self) -> tuple[Replay, list[tuple[Decision, str]]]:
        """The state that the log leads to, and its entries that no longer apply."""
        rows = self.rows("SELECT id, model_category FROM crops WHERE id IN (SELECT crop_id FROM decisions)")
        return replay(self.log(), {row["id"]: row["model_category"] for row in rows})

    def contradictions(self) -> list[tuple[Decision, list[Decision]]]:
        """Entries that say two animals differ, each with the merges that say they are one."""
        idle = {entry.id for entry, _ in self.replayed()[1]}
        return contradictions(entry for entry in self.log() if entry.id not in idle)

    def divergences(self) -> list[str]:
        """Where the derived tables differ from what the log leads to, in words; empty when all is well."""
        state, _ = self.replayed()
        rows = self.rows("SELECT id, name, status, merged_into FROM individuals")
        actual = {row.pop("id"): Individual(**row) for row in rows}
        wrong = [id_ for id_ in sorted(actual | state.individuals) if actual.get(id_) != state.individuals.get(id_)]
        found = [f"individual {id_} ({(actual | state.individuals)[id_].name})" for id_ in wrong]
        rows = self.rows("SELECT crop_id, individual_id, decision_id FROM crop_identity")
        named = {row["crop_id"]: (row["individual_id"], row["decision_id"]) for row in rows}
        found += [
            f"the name of crop {crop}"
            for crop in sorted(named | state.identities)
            if named.get(crop) != state.identities.get(crop)
        ]
        for attribute in ATTRIBUTES:
            found += [f"{attribute} of crop {crop}" for crop in self._deviants(attribute, state)]
        return found

    def _deviants(self, attribute: str, state: Replay) -> dict[int, str | None]:
        """Crops whose attribute is not what model and log lead to, with the value it should have."""
        rows = self.rows(
            f"SELECT id, {attribute} AS now, model_{attribute} AS model FROM crops WHERE {attribute} IS NOT "
            f"model_{attribute} OR id IN (SELECT crop_id FROM decisions WHERE action = ?)",
            (attribute,),
        )
        told = {row["id"]: state.attributes.get((row["id"], attribute), row["model"]) for row in rows}
        return {row["id"]: told[row["id"]] for row in rows if row["now"] != told[row["id"]]}

    def restore(self) -> None:
        """Make the derived tables what the log leads to."""
        with self.transaction():
            self.db.conn.execute("PRAGMA defer_foreign_keys = ON")
            state, _ = self.replayed()
            self.db.conn.execute("DELETE FROM crop_identity")
            for attribute in ATTRIBUTES:
                for crop, value in self._deviants(attribute, state).items():
                    self.put_attribute(crop, attribute, value)
            self.db.conn.execute("DELETE FROM individuals")
            for individual_id, individual in state.individuals.items():
                self.put_individual(individual_id, individual)
            for crop, (individual_id, decision_id) in state.identities.items():
                self.put_identity(crop, individual_id, decision_id)

    # -- questions about individuals

    def find_individual(self, name: str) -> int:
        """The id of an active individual; CareError with the nearest names when there is none."""
        name = composed(name)
        if (found := self.active(name)) is not None:
            return found
        names = [row["name"] for row in self.rows("SELECT name FROM individuals WHERE status = 'active'")]
        if (survivor := self.survivor(name)) is not None:
            hint = f"It was merged into {self.individual(survivor).name}."
        elif near := difflib.get_close_matches(name, names, n=3, cutoff=0.6):
            hint = f"Did you mean {' or '.join(near)}?"
        else:
            hint = "`care individuals list` shows all names."
        raise CareError(f"There is no individual called {name!r}. {hint}")

    def survivor(self, name: str) -> int | None:
        """The active individual that one of this name was merged into (the latest, if several), or None."""
        return self.value(
            "WITH RECURSIVE chain(start, id) AS (SELECT id, merged_into FROM individuals WHERE name = ? UNION "
            "SELECT start, merged_into FROM chain JOIN individuals USING (id)) "
            "SELECT id FROM chain JOIN individuals USING (id) WHERE status = 'active' ORDER BY start DESC LIMIT 1",
            (name,),
        )

    def individual_rows(self) -> list[dict]:
        """Active individuals as a listing shows them."""
        return self.rows(
            "SELECT individuals.id, name AS individual, group_concat(DISTINCT species) AS species, "
            "count(crops.id) AS crops, count(DISTINCT event_id) AS events, "
            "count(DISTINCT coalesce(site, deployment)) AS sites, min(taken_at) AS first_seen, "
            "max(taken_at) AS last_seen, group_concat(DISTINCT flank) AS flanks FROM individuals "
            "LEFT JOIN crop_identity ON individual_id = individuals.id LEFT JOIN crops ON crops.id = crop_id "
            "LEFT JOIN timed_images ON timed_images.id = image_id "
            "WHERE status = 'active' GROUP BY individuals.id ORDER BY name"
        )

    def names_of_crops(self, crop_ids: Iterable[int] | None = None) -> dict[int, str]:
        """Crop id to the individual's name, of all named crops or of these."""
        rows = self.rows(
            "SELECT crop_id, name FROM crop_identity JOIN individuals ON individuals.id = individual_id "
            "WHERE :ids IS NULL OR crop_id IN (SELECT value FROM json_each(:ids))",
            {"ids": None if crop_ids is None else json.dumps(list(crop_ids))},
        )
        return {row["crop_id"]: row["name"] for row in rows}

    def names_of_individuals(self, individual_ids: Iterable[int]) -> dict[int, str]:
        """Names by id, of those that are there."""
        rows = self.rows(
            "SELECT id, name FROM individuals WHERE id IN (SELECT value FROM json_each(?))",
            (json.dumps([int(id_) for id_ in individual_ids]),),
        )
        return {row["id"]: row["name"] for row in rows}

    def history(self, individual_id: int | None = None) -> list[dict]:
        """Log entries as a listing shows them; undone ones are marked.

        All, or those about one individual: itself, those merged into it, what was set on its crops, and what
        undoes any of these.
        """
        taken_back = undone(self.log())
        rows = self.rows(
            """WITH RECURSIVE
            same(id) AS (
              SELECT :who UNION SELECT individuals.id FROM individuals JOIN same ON merged_into = same.id),
            about(id) AS (
              SELECT id FROM decisions
              WHERE :who IS NULL OR individual_id IN same OR other_id IN same OR individual_id IS NULL
                AND crop_id IN (SELECT crop_id FROM crop_identity WHERE individual_id = :who)
              UNION SELECT decisions.id FROM decisions JOIN about ON undoes = about.id)
            SELECT decisions.id AS decision, at, who, source, action, crop_id AS crop, one.name AS individual,
              other.name AS other, value, crops, undoes, score, probability, evidence
            FROM decisions JOIN about USING (id)
            LEFT JOIN individuals AS one ON one.id = individual_id
            LEFT JOIN individuals AS other ON other.id = other_id ORDER BY decisions.id""",
            {"who": individual_id},
        )
        return [{**row, "in_force": row["decision"] not in taken_back} for row in rows]
