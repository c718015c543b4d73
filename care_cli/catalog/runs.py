"""Models and runs: what made each result."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict

from care_cli.catalog.store import now
from care_cli.errors import CareError
from care_cli.records import ModelSpec


class RunsTable:
    """`models` and `runs`. A run's identity is its command, its model's digest and its settings."""

    def add_model(self, spec: ModelSpec) -> int:
        """The row of a model's weights, by digest, as it is described now. `spec.sha256` must be known."""
        with self.transaction():
            self.db.conn.execute(
                "INSERT INTO models (sha256, name, task, licence, spec, file) VALUES (?, ?, ?, ?, ?, ?) "
                "ON CONFLICT (sha256) DO UPDATE SET name = excluded.name, task = excluded.task, "
                "licence = excluded.licence, spec = excluded.spec, file = excluded.file",
                (spec.sha256, spec.name, spec.task, spec.licence, json.dumps(asdict(spec)), spec.file),
            )
            return self.value("SELECT id FROM models WHERE sha256 = ?", (spec.sha256,))

    def begin_run(self, command: str, settings: dict, spec: ModelSpec | None = None, **execution) -> int:
        """The run of this identity: the standing one goes on, or a new one begins.

        `settings` is everything that changes results; `execution` (paths, device, batch, ...) is noted
        per execution and does not.
        """
        canonical, digest = json.dumps(settings, sort_keys=True), _identity(command, settings, spec)
        with self.transaction():
            model_id = self.add_model(spec) if spec else None
            self.db.conn.execute(
                "INSERT OR IGNORE INTO runs (command, model_id, settings, identity, started_at) VALUES (?, ?, ?, ?, ?)",
                (command, model_id, canonical, digest, now()),
            )
            run_id = self.value("SELECT id FROM runs WHERE identity = ?", (digest,))
            self.note_execution(run_id, **execution)
        return run_id

    def note_execution(self, run_id: int, **execution) -> None:
        """Note what was done with a run, and when."""
        with self.transaction():
            self.db.conn.execute(
                "UPDATE runs SET executions = json_insert(executions, '$[#]', json(?)) WHERE id = ?",
                (json.dumps({"at": now(), **execution}), run_id),
            )

    def find_run(self, command: str, settings: dict, spec: ModelSpec | None = None) -> int | None:
        """The run of this identity, or None."""
        return self.value("SELECT id FROM runs WHERE identity = ?", (_identity(command, settings, spec),))

    def finish_run(self, run_id: int) -> None:
        """Mark that an execution of the run reached its end; the latest finished detect run is the active one."""
        with self.transaction():
            self.db.conn.execute("UPDATE runs SET finished_at = ? WHERE id = ?", (now(), run_id))

    def finish_training(self, run_id: int, spec: ModelSpec) -> None:
        """Mark that a training reached its end, and which model came of it."""
        with self.transaction():
            model_id = self.add_model(spec)
            self.db.conn.execute("UPDATE runs SET model_id = ? WHERE id = ?", (model_id, run_id))
            self.finish_run(run_id)

    def trained_models(self) -> list[dict]:
        """Models that were trained in this catalog, newest first, with their runs (id, settings, executions,
        finished_at)."""
        return self.rows(
            "SELECT models.*, runs.id AS run, settings, executions, finished_at FROM runs "
            "JOIN models ON models.id = model_id WHERE command = 'train' AND finished_at IS NOT NULL "
            "ORDER BY finished_at DESC, runs.id DESC"
        )

    def run(self, run_id: int, command: str) -> dict:
        """A run's row with its model's name; CareError when there is none of that command."""
        found = self.rows(
            "SELECT runs.*, models.name AS model, models.sha256, models.spec FROM runs "
            "LEFT JOIN models ON models.id = runs.model_id WHERE runs.id = ? AND command = ?",
            (run_id, command),
        )
        if not found:
            known = [str(row["id"]) for row in self.rows("SELECT id FROM runs WHERE command = ?", (command,))]
            raise CareError(
                f"There is no {command} run {run_id} in this catalog "
                f"(there {'are: ' + ', '.join(known) if known else 'is none yet; run `care ' + command + '`'})."
            )
        return found[0]

    def run_settings(self, run_id: int) -> dict:
        """The settings of a run of any command."""
        return json.loads(self.value("SELECT settings FROM runs WHERE id = ?", (run_id,)))

    def latest_run(self, command: str) -> dict | None:
        """The run that finished last, else the last one begun, else None."""
        run_id = self.value(
            "SELECT id FROM runs WHERE command = ? ORDER BY finished_at IS NULL, finished_at DESC, id DESC LIMIT 1",
            (command,),
        )
        return self.run(run_id, command) if run_id else None

    def latest_run_of(self, sha256: str) -> int | None:
        """The detect run of these weights that was begun last, or None."""
        return self.value(
            "SELECT runs.id FROM runs JOIN models ON models.id = model_id WHERE command = 'detect' AND sha256 = ? "
            "ORDER BY runs.id DESC LIMIT 1",
            (sha256,),
        )

    def active_run(self, run_id: int | None = None) -> int:
        """The detect run that commands read: `run_id`, else the latest finished one; 0 when there is none."""
        if run_id is not None:
            return self.run(run_id, "detect")["id"]
        latest = self.latest_run("detect")
        if latest and latest["finished_at"] is None:
            self.notice("No detect run has finished yet; using what the unfinished one has found so far.")
        return latest["id"] if latest else 0


def _identity(command: str, settings: dict, spec: ModelSpec | None) -> str:
    """SHA-256 of all that makes a run this run."""
    canonical = json.dumps([command, spec.sha256 if spec else None, settings], sort_keys=True)
    return hashlib.sha256(canonical.encode()).hexdigest()
