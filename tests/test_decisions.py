"""The decision log against a plain model of it, through the catalog and its tables."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import catalogs
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from care_cli.catalog import Catalog
from care_cli.decisions import Decision, contradictions, undone
from care_cli.errors import CareError

CROPS, NAMES = (1, 2, 3, 4), ("Asha", "Bindi", "Chui", "Duma")


@pytest.fixture(scope="module")
def blank(tmp_path_factory):
    """A catalog with four animal crops and no decision."""
    path = tmp_path_factory.mktemp("blank") / "care.db"
    with catalogs.new(path) as catalog:
        assert catalogs.survey(catalog, len(CROPS)) == list(CROPS)
    return path


# -- a plain model: individuals are known by the number of the entry that made them


def play(log):
    """The state that a list of plain entries leads to, and the numbers of those that do nothing."""
    dead: set[int] = set()
    for number in range(len(log), 0, -1):
        if log[number - 1][0] == "undo" and number not in dead:
            dead.add(log[number - 1][1])
    called: dict[int, str] = {}  # individuals that are there
    home: dict[int, int] = {}  # crop -> individual
    category, species = dict.fromkeys(CROPS, "animal"), dict.fromkeys(CROPS)
    idle = []
    for number, (action, *what) in enumerate(log, start=1):
        if number in dead or action == "undo":
            continue
        applies = True
        match action, *what:
            case "create", crop, name:
                applies = category[crop] == "animal" and name not in called.values()
                if applies:
                    called[number], home[crop] = name, number
            case "name", crop, who:
                applies = category[crop] == "animal" and who in called
                if applies:
                    home[crop] = who
            case "unname", crop:
                applies = home.pop(crop, None) is not None
            case "rename", who, name:
                applies = who in called and name not in {called[one] for one in called if one != who}
                if applies:
                    called[who] = name
            case "merge", who, into:
                applies = who in called and into in called and who != into
                if applies:
                    home.update({crop: into for crop in home if home[crop] == who})
                    del called[who]
            case "split", who, crops, name:
                applies = bool(crops) and who in called and name not in called.values()
                applies = applies and all(home.get(crop) == who for crop in crops)
                if applies:
                    called[number] = name
                    home.update(dict.fromkeys(crops, number))
            case "different", who, other:
                applies = who in called and other in called and who != other
            case "category", crop, value:
                category[crop] = value
                if value != "animal":
                    home.pop(crop, None)
            case "species", crop, value:
                species[crop] = value
        if not applies:
            idle.append(number)
    names = {crop: called[who] for crop, who in home.items()}
    return {"names": names, "active": called, "category": category, "species": species, "idle": idle, "dead": dead}


def at_odds(log):
    """Numbers of the entries that say two are different whom merges in force make one, by joining sets."""
    state = play(log)
    standing = [
        (number, entry)
        for number, entry in enumerate(log, start=1)
        if number not in state["dead"] and number not in state["idle"]
    ]
    group = {number: {number} for number in range(1, len(log) + 1)}
    for _, (action, *what) in standing:
        if action == "merge":
            joined = group[what[0]] | group[what[1]]
            group.update(dict.fromkeys(joined, joined))
    pairs = {n: (e[1], e[2]) for n, e in standing if e[0] == "different"}
    pairs |= {n: (e[1], n) for n, e in standing if e[0] == "split"}
    return {number for number, (one, other) in pairs.items() if other in group[one]}


crop, name = st.sampled_from(CROPS), st.sampled_from(NAMES)
merges = st.tuples(st.just("merge"), name, name)
undos = st.tuples(st.just("undo"), st.integers(1, 12))
some = st.lists(crop, max_size=2, unique=True).map(tuple)
steps = st.one_of(
    *[merges, undos] * 2,  # which have the farthest consequences
    st.tuples(st.just("create"), crop, name),
    st.tuples(st.just("name"), crop, name),
    st.tuples(st.just("unname"), crop),
    st.tuples(st.just("rename"), name, name),
    st.tuples(st.just("split"), name, some, name),
    st.tuples(st.just("different"), name, name),
    st.tuples(st.just("category"), crop, st.sampled_from(["animal", "person", "vehicle"])),
    st.tuples(st.just("species"), crop, st.sampled_from(["cat", "dog"])),
)
# so that most steps mean something
first = [("create", 1, "Asha"), ("create", 2, "Bindi"), ("name", 3, "Asha"), ("split", "Asha", (3,), "Chui")]


class Both:
    """The same entries, said to the catalog and to the model."""

    def __init__(self, catalog: Catalog):
        self.catalog = catalog
        self.log: list[tuple] = []
        self.ids: dict[int, int] = {}  # the model's number of an individual -> the catalog's

    def say(self, action, *what) -> bool:
        """Say it to both; whether it was taken. They must agree on that."""
        state = play(self.log)
        by_name = {name: who for who, name in state["active"].items()}
        entry: tuple = (action, *what)
        if action in ("rename", "merge", "split", "different"):
            entry = (action, by_name.get(what[0], 0), *what[1:])
        if action in ("merge", "different"):
            entry = (*entry[:2], by_name.get(what[1], 0))
        if action == "name":
            entry = (action, what[0], by_name.get(what[1], 0))
        number = len(self.log) + 1
        if action == "undo":
            taken = what[0] < number and what[0] not in state["dead"]
        else:
            taken = number not in play([*self.log, entry])["idle"]
        try:
            decided = self.catalog.decide(self._decision(*entry))
        except CareError:
            assert not taken, entry
            return False
        assert taken, entry
        assert decided.id == number
        if action in ("create", "split"):
            self.ids[number] = decided.individual_id if action == "create" else decided.other_id
        self.log.append(entry)
        return True

    def _decision(self, action, *what) -> Decision:
        who = self.ids.get(what[0])
        match action:
            case "create" | "category" | "species":
                return Decision(action, crop_id=what[0], value=what[1])
            case "name":
                return Decision(action, crop_id=what[0], individual_id=self.ids.get(what[1]))
            case "unname":
                return Decision(action, crop_id=what[0])
            case "rename":
                return Decision(action, individual_id=who, value=what[1])
            case "split":
                return Decision(action, individual_id=who, crops=what[1], value=what[2])
            case "undo":
                return Decision(action, undoes=what[0])
        return Decision(action, individual_id=who, other_id=self.ids.get(what[1]))

    def compare(self) -> None:
        """The catalog's tables are what the model says, and what its own log says."""
        state, catalog = play(self.log), self.catalog
        assert catalog.divergences() == []
        assert catalog.broken_references() == []
        assert catalog.names_of_crops() == state["names"]
        assert sorted(row["individual"] for row in catalog.individual_rows()) == sorted(state["active"].values())
        for crop in CROPS:
            row = catalog.crop(crop)
            assert (row["category"], row["species"]) == (state["category"][crop], state["species"][crop])
        assert [entry.id for entry, _ in catalog.replayed()[1]] == state["idle"]
        assert {entry.id for entry, _ in catalog.contradictions()} == at_odds(self.log)


def tables(catalog):
    """Everything that is derived from the log."""
    return [
        catalog.rows("SELECT * FROM individuals ORDER BY id"),
        catalog.rows("SELECT * FROM crop_identity ORDER BY crop_id"),
        catalog.rows("SELECT id, category, species, flank FROM crops ORDER BY id"),
    ]


@settings(max_examples=50, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(steps, min_size=8, max_size=14), st.data())
def test_any_sequence_of_decisions_leads_where_the_plain_model_says(blank, entries, data):
    with tempfile.TemporaryDirectory() as folder:
        path = shutil.copy(blank, Path(folder) / "care.db")
        with Catalog(path) as catalog:
            both = Both(catalog)
            for entry in first + entries:
                if both.say(*entry):
                    both.compare()
            standing = [n for n in range(1, len(both.log) + 1) if n not in play(both.log)["dead"]]
            before = tables(catalog)
            undo = catalog.decide(Decision("undo", undoes=data.draw(st.sampled_from(standing))))
            catalog.decide(Decision("undo", undoes=undo.id))
            assert tables(catalog) == before


# -- single rules, by hand


@pytest.fixture
def catalog(blank, tmp_path):
    with Catalog(shutil.copy(blank, tmp_path / "care.db")) as opened:
        yield opened


def test_an_undo_of_an_undo_of_an_undo():
    log = [Decision("create", id=1), *(Decision("undo", id=n, undoes=n - 1) for n in (2, 3, 4))]
    assert undone(log[:2]) == {1}
    assert undone(log[:3]) == {2}
    assert undone(log) == {1, 3}


def test_contradictions_through_a_third():
    log = [
        Decision("different", id=1, individual_id=1, other_id=3),
        Decision("merge", id=2, individual_id=1, other_id=2),
        Decision("different", id=3, individual_id=2, other_id=4),
    ]
    assert contradictions(log) == []
    log.append(Decision("merge", id=4, individual_id=2, other_id=3))  # A=B, B=C, A≠C
    [(apart, chain)] = contradictions(log)
    assert (apart.id, [entry.id for entry in chain]) == (1, [2, 4])
    log.append(Decision("undo", id=5, undoes=2))
    assert contradictions(log) == []


def test_what_does_not_apply_writes_nothing(catalog):
    catalog.decide(Decision("create", crop_id=1, value="Asha"))
    before = catalog.counts(), tables(catalog)
    refused = [
        Decision("create", crop_id=2, value="Asha"),
        Decision("create", crop_id=99, value="Bindi"),
        Decision("name", crop_id=99, individual_id=1),
        Decision("name", crop_id=2, individual_id=99),
        Decision("unname", crop_id=2),
        Decision("rename", individual_id=99, value="Bindi"),
        Decision("merge", individual_id=1, other_id=1),
        Decision("split", individual_id=1, crops=(2,), value="Bindi"),
        Decision("split", individual_id=1, crops=(), value="Bindi"),
        Decision("split", individual_id=1, crops=(1,), value="Asha"),
        Decision("category", crop_id=1, value="ghost"),
        Decision("flank", crop_id=1, value="top"),
        Decision("species", crop_id=99, value="cat"),
        Decision("undo", undoes=99),
    ]
    for entry in refused:
        with pytest.raises(CareError):
            catalog.decide(entry)
        assert (catalog.counts(), tables(catalog)) == before, entry
    catalog.decide(Decision("undo", undoes=1))
    with pytest.raises(CareError, match="undone already"):
        catalog.decide(Decision("undo", undoes=1))


def test_a_decision_keeps_who_when_and_on_what(catalog):
    said = Decision("create", crop_id=1, value="Asha", source="model", who="vit", score=0.7, probability=0.9,
                    evidence={"run": 3, "crop": 4})  # fmt: skip
    entry = catalog.decide(said)
    assert catalog.log() == [entry]
    assert (entry.who, entry.source, entry.score, entry.evidence) == ("vit", "model", 0.7, {"run": 3, "crop": 4})
    assert entry.at.endswith("Z") and catalog.decide(Decision("unname", crop_id=1)).who


def test_repair_makes_tables_what_the_log_says(catalog):
    catalog.decide(Decision("create", crop_id=1, value="Asha"))
    catalog.decide(Decision("create", crop_id=2, value="Bindi"))
    catalog.decide(Decision("merge", individual_id=2, other_id=1))
    catalog.decide(Decision("species", crop_id=3, value="cat"))
    before = tables(catalog)
    damage = [
        "UPDATE individuals SET name = 'Zed' WHERE id = 1",
        "UPDATE individuals SET status = 'active', merged_into = NULL WHERE id = 2",
        "DELETE FROM crop_identity WHERE crop_id = 2",
        "UPDATE crop_identity SET decision_id = 2 WHERE crop_id = 1",
        "INSERT INTO crop_identity VALUES (4, 1, 1)",
        "INSERT INTO individuals VALUES (9, 'Nobody', 'active', NULL)",
        "UPDATE crops SET species = 'dog' WHERE id = 3",
        "UPDATE crops SET flank = 'left' WHERE id = 4",  # of which no decision speaks
    ]
    for statement in damage:
        catalog.db.conn.execute(statement)
        assert len(catalog.divergences()) == 1, statement
        catalog.restore()
        assert catalog.divergences() == [] and tables(catalog) == before, statement
