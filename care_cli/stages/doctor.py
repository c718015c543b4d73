"""Is this catalog healthy, and what to do if not.

No row is changed unless a repair is asked for; copies of deleted pixels that an interrupted command left in the
file are removed.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from tqdm import tqdm

from care_cli import registry
from care_cli.catalog import Catalog
from care_cli.catalog.store import free_name
from care_cli.errors import CareError
from care_cli.outputs import refuse_scanned
from care_cli.scan import parse_path
from care_cli.stages import gallery, shown_points
from care_cli.stages.individuals import conflicts
from care_cli.thresholds import PERSON
from care_cli.volumes import volume_of

PROBLEM = "problem"  # the catalog is not what it should be
ADVICE = "advice"  # nothing is wrong with the catalog, but something can be done
SHOWN = 5  # examples named in a finding


@dataclass(frozen=True)
class Finding:
    """One thing that was found: how grave it is, what it is about, what it says, and what to do."""

    level: str  # problem | advice
    topic: str
    text: str
    action: str


def examine(catalog: Catalog, backup: Path | None = None, repair: bool = False) -> dict:
    """Run every check; copy the catalog to `backup`; rebuild what the decision log leads to.

    Returns a report: catalog, format, bytes, journal, verdict (healthy, advice, damaged), findings, counts,
    sources, backup, repaired. A damaged file is neither copied nor repaired. Raises CareError when the copy
    cannot be made.
    """
    if backup is not None and backup.exists():
        raise CareError(f"{backup} exists already; a backup never overwrites. Name another file.")
    findings = list(_file(catalog))
    report = {
        "catalog": str(catalog.path),
        "format": catalog.format(),
        "bytes": catalog.file_bytes(),
        "journal": catalog.journal_mode(),
        "counts": {},
        "sources": [],
        "backup": None,
        "repaired": [],
    }
    if not findings:
        if backup is not None:
            refuse_scanned(backup, catalog.scanned_folders())
            catalog.backup(backup)
            report["backup"] = str(backup)
        if repair:
            report["repaired"] = _repair(catalog)
        gallery.forget(catalog)
        report["counts"] = catalog.counts()
        report["sources"] = [_source(catalog, source) for source in catalog.sources_seen()]
        for check in (_rows, _names, _results, _points, _surroundings, _photos):
            findings += check(catalog)
        findings += [finding for source in report["sources"] for finding in _missing(source)]
    levels = {finding.level for finding in findings}
    report["verdict"] = "damaged" if PROBLEM in levels else ADVICE if levels else "healthy"
    report["findings"] = [asdict(finding) for finding in findings]
    return report


def _repair(catalog: Catalog) -> list[str]:
    """Rebuild names and decided columns from the log, after a backup; delete damaged cache; what was done, in words."""
    done = [f"deleted from the cache: {path.name}" for path in gallery.damaged(catalog, delete=True)]
    wrong = catalog.divergences()
    if not wrong:
        return done
    kept = free_name(catalog.path.with_name(f"{catalog.path.stem}.before-repair{catalog.path.suffix}"))
    catalog.backup(kept)
    catalog.restore()
    done.append(f"the catalog as it was is kept as {kept.name}")
    return done + [f"rebuilt from the log: {what}" for what in wrong]


# -- checks, each a generator of findings


def _file(catalog: Catalog) -> Iterator[Finding]:
    """What SQLite says of the file; nothing else can be trusted when it complains."""
    faults = catalog.integrity()
    changed = catalog.schema_faults() if not faults else []
    odd = catalog.odd_values() if not faults and not changed else []
    if faults:
        yield Finding(
            PROBLEM,
            "file",
            f"SQLite finds the file damaged: {_some(faults)}.",
            "Copy the file elsewhere before anything else, then go on with the newest backup. What can be read may be "
            "saved with `sqlite3 care.db .recover`. The other checks were left out.",
        )
    if changed:
        yield Finding(
            PROBLEM,
            "schema",
            f"The catalog is not as CARE made it: {_some(changed)}; another program changed it.",
            "Go on with the newest backup. The other checks were left out, and no other command uses the file.",
        )
    if odd:
        yield Finding(
            PROBLEM,
            "values",
            f"What another program wrote, CARE cannot use: {_some(odd)}.",
            "Go on with the newest backup. The other checks were left out.",
        )


def _rows(catalog: Catalog) -> Iterator[Finding]:
    if broken := catalog.broken_references():
        yield Finding(
            PROBLEM,
            "references",
            f"{len(broken)} rows point at rows that are not there: {_some(broken)}.",
            "Another program deleted rows. Go on with the newest backup.",
        )
    if lost := catalog.lost_images():
        yield Finding(
            ADVICE,
            "orphans",
            f"{len(lost)} images have neither a file nor a crop: images {_some(lost)}.",
            "Another program deleted rows; nothing of yours hangs on them.",
        )
    if exposed := catalog.people_with_pixels():
        yield Finding(
            PROBLEM,
            "people",
            f"{len(exposed)} crops of people or vehicles hold more than a box: {_some(exposed)}.",
            "Another program wrote them. `care crops set CROP --category person` deletes what they hold.",
        )


def _names(catalog: Catalog) -> Iterator[Finding]:
    if wrong := catalog.divergences():
        yield Finding(
            PROBLEM,
            "names",
            f"{len(wrong)} entries are not what the decision log leads to: {_some(wrong)}.",
            "`care doctor --repair` rebuilds them from the log, after a backup.",
        )
    found = conflicts(catalog)
    for one in found["conflicts"]:
        yield Finding(
            ADVICE,
            "conflict",
            f"Decision {one['decision']} ({one['action']}) no longer applies: {one['reason']}.",
            "Decide it again in today's names, or undo it; see `care individuals log`.",
        )
    for one in found["contradictions"]:
        yield Finding(ADVICE, "contradiction", one["text"], "Undo the decision that is wrong.")
    idle = [row["individual"] for row in catalog.individual_rows() if row["crops"] == 0]
    if idle:
        yield Finding(
            ADVICE,
            "individuals",
            f"{len(idle)} individuals have no crop any more: {_some(idle)}.",
            "Merge them into whom they are, undo the decision that made them, or leave them.",
        )


def _results(catalog: Catalog) -> Iterator[Finding]:
    if bad := catalog.bad_vectors():
        yield Finding(
            PROBLEM,
            "embeddings",
            f"{len(bad)} embeddings are not of length 1, of the crops {_some(bad)}.",
            "Go on with the newest backup, or index the crops with another model.",
        )
    if bad := catalog.bad_pixels():
        yield Finding(
            PROBLEM,
            "pixels",
            f"The stored pixels of {len(bad)} crops are no picture: crops {_some(bad)}.",
            "With their card connected, set them to person and back to animal: `care crops set CROP --category ...`.",
        )
    if stale := sum(len(shown_points.stale(catalog, run)) for run in catalog.index_runs()):
        found = f"{stale} embeddings were made with older keypoints, camera or flank."
        yield Finding(ADVICE, "embeddings", found, "Run `care index` again with the same model.")
    if without := catalog.animals_without_pixels():
        yield Finding(
            ADVICE,
            "pixels",
            f"{len(without)} animals have no pixels: crops {_some(without)}.",
            "Connect the card of their photos, then `care crops set CROP --category animal`.",
        )
    if doubtful := catalog.possible_people(PERSON):
        yield Finding(
            ADVICE,
            "people",
            f"{len(doubtful)} animals are persons in the eyes of another run, and keep their pixels: "
            f"crops {_some(doubtful)}.",
            "Look at them, and say which they are: `care crops set CROP --category person`, or `animal`.",
        )
    if broken := gallery.damaged(catalog):
        yield Finding(
            ADVICE,
            "cache",
            f"{len(broken)} files that `care identify` made for itself are damaged: "
            f"{_some([path.name for path in broken])}.",
            "`care doctor --repair` deletes them; they are made anew. Is the disk sound?",
        )
    for run in catalog.unfinished_runs():
        yield Finding(
            ADVICE,
            "runs",
            f"Run {run['id']} ({run['command']}), begun {run['started_at'][:16]}Z, did not reach its end.",
            "Give the same command again: it goes on where it stopped.",
        )


def _points(catalog: Catalog) -> Iterator[Finding]:
    if bad := catalog.bad_templates():
        yield Finding(
            PROBLEM,
            "templates",
            f"Templates have points that cannot be: {_some(bad)}.",
            "Another program wrote them. `care templates remove NAME --with-points`, then add it anew.",
        )
    if outside := catalog.points_outside():
        yield Finding(
            PROBLEM,
            "keypoints",
            f"Points of {len(outside)} crops lie outside their photos: crops {_some(outside)}.",
            "Another program wrote them. `care keypoints set CROP NAME X Y` says where they are.",
        )


def _surroundings(catalog: Catalog) -> Iterator[Finding]:
    for model in catalog.models_used():
        try:
            registry.recall(json.loads(model["spec"]))
        except CareError as error:
            yield Finding(ADVICE, "models", f"{error}", "Needed only to go on with that model's runs.")
    free, size = shutil.disk_usage(catalog.path.resolve().parent).free, catalog.file_bytes()
    if free < 2 * size:
        yield Finding(
            ADVICE,
            "space",
            f"{_megabytes(free)} are free beside a catalog of {_megabytes(size)}.",
            "Make room: a backup or a new catalog format needs as much again.",
        )
    if catalog.journal_mode() != "wal":
        yield Finding(
            ADVICE,
            "journal",
            "This disk (a network share?) cannot hold a write-ahead log; a rollback journal serves instead.",
            "Keep the catalog on a disk of this machine, and let one program at a time use it.",
        )


def _photos(catalog: Catalog) -> Iterator[Finding]:
    for jump in catalog.clock_jumps():
        yield Finding(
            ADVICE,
            "clock",
            f"The photos of {jump['deployment']} claim times from {jump['first']} to {jump['last']}: a camera's clock "
            "was reset, or two cameras share the deployment.",
            f"Look with `care images --deployment '{jump['deployment']}'`; scan the folders apart, with --deployment "
            "and --clock-shift.",
        )
    if unread := catalog.unread_files():
        yield Finding(
            ADVICE,
            "photos",
            f"{len(unread)} files could not be read: {_some([row['path'] for row in unread])}.",
            "`care images --unreadable` says why; `care detect` tries them again.",
        )


# -- files of the sources


def _source(catalog: Catalog, source: dict) -> dict:
    """A source's files against the disk; `missing` and examples, when it is connected now."""
    root = Path(os.fsdecode(parse_path(source["location"])))
    missing: list[str] = []
    connected = root.is_dir() and volume_of(root).id == source["volume"]
    after = b""
    with tqdm(total=source["files"], desc=root.name, unit="file", disable=None if connected else True) as bar:
        while connected and (page := catalog.files_of_source(source["id"], after)):
            after = page[-1]["path_bytes"]
            missing += [row["path"] for row in page if not (root / os.fsdecode(row["path_bytes"])).is_file()]
            bar.update(len(page))
    facts = {key: source[key] for key in ("location", "scanned_at", "files", "gone", "unread")}
    return {**facts, "connected": connected, "missing": len(missing), "examples": missing[:SHOWN]}


def _missing(source: dict) -> Iterator[Finding]:
    if source["missing"]:
        yield Finding(
            ADVICE,
            "files",
            f"{source['missing']} files are no longer in {source['location']}: {_some(source['examples'])}.",
            f"The crops are safe in the catalog. `care detect {source['location']}` notes what is gone.",
        )


# -- words


def in_words(report: dict) -> list[str]:
    """The report as lines for a person."""
    verdict = {"healthy": "healthy", ADVICE: "healthy, with advice", "damaged": "DAMAGED"}[report["verdict"]]
    lines = [f"{report['catalog']}: {verdict} ({_megabytes(report['bytes'])}, format {report['format']})"]
    if report["counts"]:
        lines.append("  " + ", ".join(f"{count} {table}" for table, count in report["counts"].items()))
    for source in report["sources"]:
        state = f"{source['missing']} missing" if source["connected"] else "not connected, which is no error"
        lines.append(f"  {source['location']}: {source['files']} files, {state}")
    if report["backup"]:
        lines.append(f"  backup written and checked: {report['backup']}")
    lines += [f"  {done}" for done in report["repaired"]]
    for finding in report["findings"]:
        lines += [f"{finding['level'].capitalize()}: {finding['text']}", f"  → {finding['action']}"]
    return lines


def _some(things: list) -> str:
    return ", ".join(str(thing) for thing in things[:SHOWN]) + (", ..." if len(things) > SHOWN else "")


def _megabytes(count: int) -> str:
    return f"{count / 1e6:,.1f} MB"
