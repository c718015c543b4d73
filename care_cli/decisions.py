"""The decision log: what an entry does, what an undo takes back, what contradicts what.

Pure logic. The log is append-only; names, merges and everything set by hand are what is left when the log
is played from its start, without the entries that a later undo names. The catalog plays each new entry on
its own tables (`catalog/identity.py`) and the whole log only for an undo and for `care doctor`.
"""

from __future__ import annotations

import unicodedata
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Protocol

from care_cli.errors import CareError
from care_cli.records import CATEGORIES, FLANKS

ATTRIBUTES = ("category", "species", "flank")
NAME_LENGTH = 200  # characters


def composed(name: str) -> str:
    """A name as it is stored and looked for: stripped, in Unicode's composed form."""
    return unicodedata.normalize("NFC", name.strip())


def checked_name(text: str) -> str:
    """A name as it is stored. CareError when it is empty, too long or not printable."""
    name = composed(text)
    if not name or len(name) > NAME_LENGTH or any(unicodedata.category(letter) in ("Cc", "Cs") for letter in name):
        raise CareError(f"A name has 1 to {NAME_LENGTH} printable characters, but got {name[:40]!r}.")
    return name


@dataclass(frozen=True)
class Decision:
    """One entry of the log; the fields are the columns of `decisions`."""

    action: str
    id: int = 0
    at: str = ""
    who: str = ""
    source: str = "human"
    crop_id: int | None = None
    individual_id: int | None = None
    other_id: int | None = None
    value: str | None = None
    crops: tuple[int, ...] = ()
    undoes: int | None = None
    score: float | None = None
    probability: float | None = None
    evidence: dict | None = None


@dataclass(frozen=True)
class Individual:
    """A named animal; `merged_into` is the survivor's id while status is 'merged'."""

    name: str
    status: str = "active"  # active | merged | void (its making is undone, or no longer applies)
    merged_into: int | None = None


class Names(Protocol):
    """Where entries are played: the catalog's tables, or `Replay` in memory."""

    def individual(self, individual_id: int) -> Individual | None: ...
    def put_individual(self, individual_id: int, individual: Individual) -> None: ...
    def active(self, name: str) -> int | None: ...
    def category(self, crop_id: int) -> str | None: ...
    def identity(self, crop_id: int) -> int | None: ...
    def members(self, individual_id: int) -> list[int]: ...
    def put_identity(self, crop_id: int, individual_id: int | None, decision_id: int) -> None: ...
    def put_attribute(self, crop_id: int, attribute: str, value: str | None) -> None: ...


@dataclass
class Replay:
    """The state that a log leads to, in memory. `model` gives each crop's category before any decision."""

    model: dict[int, str] = field(default_factory=dict)
    individuals: dict[int, Individual] = field(default_factory=dict)
    identities: dict[int, tuple[int, int]] = field(default_factory=dict)  # crop -> individual, decision
    attributes: dict[tuple[int, str], str | None] = field(default_factory=dict)
    by_name: dict[str, int] = field(default_factory=dict)  # of the active individuals

    def individual(self, individual_id: int) -> Individual | None:
        return self.individuals.get(individual_id)

    def put_individual(self, individual_id: int, individual: Individual) -> None:
        before = self.individuals.get(individual_id)
        if before and before.status == "active":
            del self.by_name[before.name]
        if individual.status == "active":
            self.by_name[individual.name] = individual_id
        self.individuals[individual_id] = individual

    def active(self, name: str) -> int | None:
        return self.by_name.get(name)

    def category(self, crop_id: int) -> str | None:
        return self.attributes.get((crop_id, "category"), self.model.get(crop_id))

    def identity(self, crop_id: int) -> int | None:
        return self.identities.get(crop_id, (None, 0))[0]

    def members(self, individual_id: int) -> list[int]:
        return [crop for crop, (who, _) in self.identities.items() if who == individual_id]

    def put_identity(self, crop_id: int, individual_id: int | None, decision_id: int) -> None:
        if individual_id is None:
            self.identities.pop(crop_id, None)
        else:
            self.identities[crop_id] = (individual_id, decision_id)

    def put_attribute(self, crop_id: int, attribute: str, value: str | None) -> None:
        self.attributes[crop_id, attribute] = value


def apply(names: Names, entry: Decision) -> str | None:
    """Play one entry on `names`. Returns None, or why it does not apply; then nothing was changed."""
    if entry.action in ATTRIBUTES:
        return _apply_attribute(names, entry)
    if entry.action == "create":
        return _apply_create(names, entry)
    if entry.action == "unname":
        if names.identity(entry.crop_id) is None:
            return f"crop {entry.crop_id} has no name"
        names.put_identity(entry.crop_id, None, entry.id)
        return None
    if entry.action == "undo":
        return None
    if reason := _absent(names, entry.individual_id):
        return reason
    individual = names.individual(entry.individual_id)
    if entry.action == "name":
        return _apply_name(names, entry)
    if entry.action == "rename":
        if names.active(entry.value) not in (None, entry.individual_id):
            return f"the name {entry.value!r} is taken"
        names.put_individual(entry.individual_id, replace(individual, name=entry.value))
        return None
    if entry.action == "split":
        return _apply_split(names, entry)
    if reason := _absent(names, entry.other_id):
        return reason
    if entry.individual_id == entry.other_id:
        return "an individual cannot be set against itself"
    if entry.action == "merge":
        for crop in names.members(entry.individual_id):
            names.put_identity(crop, entry.other_id, entry.id)
        names.put_individual(entry.individual_id, replace(individual, status="merged", merged_into=entry.other_id))
    return None  # 'different' changes no name; `contradictions` reads it


def _absent(names: Names, individual_id: int | None) -> str | None:
    """Why an individual cannot be spoken of; None when it can."""
    individual = names.individual(individual_id)
    if individual is None:
        return f"there is no individual {individual_id}"
    endings = {"void": "does not exist any more", "merged": "was merged into another"}
    return None if individual.status == "active" else f"{individual.name!r} {endings[individual.status]}"


def _apply_attribute(names: Names, entry: Decision) -> str | None:
    if names.category(entry.crop_id) is None:
        return f"crop {entry.crop_id} does not exist"
    if entry.action == "category" and entry.value not in CATEGORIES:
        return f"category must be one of {', '.join(CATEGORIES)}, but got {entry.value!r}"
    if entry.action == "flank" and entry.value not in FLANKS:
        return f"flank must be one of {', '.join(FLANKS)}, but got {entry.value!r}"
    names.put_attribute(entry.crop_id, entry.action, entry.value)
    if entry.action == "category" and entry.value != "animal":
        names.put_identity(entry.crop_id, None, entry.id)
    return None


def _apply_create(names: Names, entry: Decision) -> str | None:
    if names.category(entry.crop_id) != "animal":
        return f"crop {entry.crop_id} is no animal"
    if names.active(entry.value) is not None:
        return f"the name {entry.value!r} is taken"
    names.put_individual(entry.individual_id, Individual(entry.value))
    names.put_identity(entry.crop_id, entry.individual_id, entry.id)
    return None


def _apply_name(names: Names, entry: Decision) -> str | None:
    if names.category(entry.crop_id) != "animal":
        return f"crop {entry.crop_id} is no animal"
    names.put_identity(entry.crop_id, entry.individual_id, entry.id)
    return None


def _apply_split(names: Names, entry: Decision) -> str | None:
    if names.active(entry.value) is not None:
        return f"the name {entry.value!r} is taken"
    strangers = [crop for crop in entry.crops if names.identity(crop) != entry.individual_id]
    if strangers or not entry.crops:
        return f"crops {strangers or 'none'} are not of individual {entry.individual_id}"
    names.put_individual(entry.other_id, Individual(entry.value))
    for crop in entry.crops:
        names.put_identity(crop, entry.other_id, entry.id)
    return None


def undone(log: Iterable[Decision]) -> set[int]:
    """Ids of the entries that an undo takes back. An undo may itself be undone by a later one."""
    taken_back: set[int] = set()
    for entry in sorted(log, key=lambda entry: -entry.id):
        if entry.action == "undo" and entry.id not in taken_back:
            taken_back.add(entry.undoes)
    return taken_back


def in_force(log: Iterable[Decision]) -> list[Decision]:
    """The entries that say something and that no undo takes back, oldest first."""
    log = sorted(log, key=lambda entry: entry.id)
    taken_back = undone(log)
    return [entry for entry in log if entry.action != "undo" and entry.id not in taken_back]


def replay(log: Iterable[Decision], model: dict[int, str]) -> tuple[Replay, list[tuple[Decision, str]]]:
    """Play a whole log. `model` maps crop id to the category before any decision.

    Returns the state and the entries that no longer apply, each with the reason. Individuals whose
    creation is not in force are 'void'.
    """
    log = list(log)
    state = Replay(model)
    for entry in log:
        created = {"create": entry.individual_id, "split": entry.other_id}.get(entry.action)
        if created is not None:
            state.individuals[created] = Individual(entry.value, "void")
    conflicts = [(entry, reason) for entry in in_force(log) if (reason := apply(state, entry))]
    return state, conflicts


def contradictions(log: Iterable[Decision]) -> list[tuple[Decision, list[Decision]]]:
    """Entries that say two animals differ, each with the merges in force that say they are one."""
    entries = in_force(log)
    merges: dict[int, list[tuple[int, Decision]]] = {}
    for entry in entries:
        if entry.action == "merge":
            merges.setdefault(entry.individual_id, []).append((entry.other_id, entry))
            merges.setdefault(entry.other_id, []).append((entry.individual_id, entry))
    apart = [entry for entry in entries if entry.action in ("different", "split")]
    found = [(entry, _path(merges, entry.individual_id, entry.other_id)) for entry in apart]
    return [(entry, path) for entry, path in found if path]


def _path(edges: dict[int, list[tuple[int, Decision]]], start: int, goal: int) -> list[Decision]:
    """The shortest chain of entries from `start` to `goal`; empty when there is none."""
    chains: dict[int, list[Decision]] = {start: []}
    queue = deque([start])
    while queue:
        here = queue.popleft()
        if here == goal:
            return chains[here]
        for there, entry in edges.get(here, []):
            if there not in chains:
                chains[there] = [*chains[here], entry]
                queue.append(there)
    return []
