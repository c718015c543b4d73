"""`care individuals` and `care crops`: what is said by hand, and that a person's pixels are gone after it."""

from __future__ import annotations

import csv
import io
import json
import shutil
import sys

import catalogs
import numpy as np
import pytest
from PIL import Image

from care_cli import cli
from care_cli.catalog import Catalog
from care_cli.decisions import Decision
from care_cli.errors import CareError
from care_cli.geometry import to_crop
from care_cli.records import Selection
from care_cli.stages import crops, individuals


@pytest.fixture(scope="module")
def blank(tmp_path_factory):
    """A catalog of six animals, crops 1 to 6, an hour apart."""
    path = tmp_path_factory.mktemp("blank") / "care.db"
    with catalogs.new(path) as catalog:
        catalogs.survey(catalog, 6)
    return path


@pytest.fixture
def path(blank, tmp_path):
    """A copy of it."""
    return shutil.copy(blank, tmp_path / "care.db")


@pytest.fixture
def catalog(path):
    with Catalog(path) as opened:
        yield opened


@pytest.fixture
def care(path, monkeypatch, capsys):
    """Run `care` on the catalog: exit code, what it printed, what it said."""

    def run(*arguments, catalog=path):
        monkeypatch.setattr(sys, "argv", ["care", "--catalog", str(catalog), *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as end:
            cli.main()
            sys.exit(0)
        out, err = capsys.readouterr()
        assert "Traceback" not in err
        return end.value.code, out, err

    def ask(*arguments, **options):
        code, out, _ = run("--json", *arguments, **options)
        assert code == 0
        return json.loads(out)

    run.ask = ask
    return run


# -- names, through the command line


def test_from_a_crop_to_a_history_and_back(care):
    said = care.ask("individuals", "name", 1, 2, 3, "--as", " Luna ")
    assert (said["individual"], said["new"], said["decisions"]) == ("Luna", True, [1, 2, 3])
    assert care.ask("individuals", "name", 4, "--as", "Luna")["new"] is False
    assert care.ask("individuals", "name", 4, "--as", "Luna")["decisions"] == []
    assert care.ask("individuals", "name", 5, 4, "--as", "Rani")["moved"] == {"4": "Luna"}
    rows = {row["individual"]: row for row in care.ask("individuals", "list")}
    assert rows["Luna"]["crops"] == 3 and rows["Rani"]["crops"] == 2
    assert (rows["Luna"]["first_seen"], rows["Luna"]["last_seen"]) == ("2024-05-01 00:00:00", "2024-05-01 02:00:00")
    assert care.ask("individuals", "split", "Luna", "--crops", "2,3", "--as", "Nala")["crops"] == [2, 3]
    assert care.ask("individuals", "merge", "Nala", "--into", "Rani")["crops"] == 2
    assert care.ask("individuals", "rename", "Rani", "Zuri")["individual"] == "Zuri"
    assert care.ask("individuals", "unname", 5)["crops"] == [5]
    shown = care.ask("individuals", "show", "Zuri")
    assert [seen["crop"] for seen in shown["sightings"]] == [2, 3, 4]
    first, last = "2024-05-01 01:00:00", "2024-05-01 03:00:00"
    assert shown["sites"] == [{"site": "north", "crops": 3, "events": 0, "first_seen": first, "last_seen": last}]
    actions = [row["action"] for row in shown["decisions"]]
    assert actions == ["create", "name", "split", "merge", "rename", "unname"]  # Nala's making is part of Zuri's story
    undone = care.ask("individuals", "undo", 8)
    assert (undone["action"], undone["conflicts"]) == ("merge", [])
    names = {row["crop"]: row["individual"] for row in care.ask("crops")}
    assert names == {1: "Luna", 2: "Nala", 3: "Nala", 4: "Zuri", 5: None, 6: None}
    log = care.ask("individuals", "log")
    assert [row["note"] for row in log if row["decision"] == 8] == ["undone by 11"]
    code, out, _ = care("individuals", "log", "--csv")
    assert code == 0 and len(list(csv.DictReader(io.StringIO(out)))) == len(log) == 11


def test_an_undo_shows_what_no_longer_applies(care):
    care.ask("individuals", "name", 1, "--as", "Luna")
    care.ask("individuals", "name", 2, "--as", "Luna")
    care.ask("individuals", "name", 3, "--as", "Rani")
    undone = care.ask("individuals", "undo", 1)
    assert undone["conflicts"] == [{"decision": 2, "action": "name", "reason": "'Luna' does not exist any more"}]
    assert care.ask("individuals", "conflicts")["conflicts"] == undone["conflicts"]
    assert [row["individual"] for row in care.ask("individuals", "list")] == ["Rani"]
    care.ask("individuals", "undo", undone["decision"])
    assert care.ask("individuals", "conflicts") == {"conflicts": [], "contradictions": []}
    assert {row["individual"]: row["crops"] for row in care.ask("individuals", "list")} == {"Luna": 2, "Rani": 1}


def test_a_contradiction_is_allowed_and_said(care):
    for crop, name in enumerate(("Asha", "Bindi", "Chui"), start=1):
        care.ask("individuals", "name", crop, "--as", name)
    assert care.ask("individuals", "different", "Asha", "Chui")["contradictions"] == []
    assert care.ask("individuals", "merge", "Asha", "--into", "Bindi")["contradictions"] == []
    code, out, err = care("individuals", "merge", "Bindi", "--into", "Chui")
    assert code == 0 and out == ""
    assert "Asha and Chui are two animals by decision 4 (different), but one by 5, 6 (merge)" in err
    [found] = care.ask("individuals", "conflicts")["contradictions"]
    assert (found["apart"], found["merges"]) == (4, [5, 6])


def test_a_merged_name_means_the_survivor(care, catalog):
    for crop, name in enumerate(("Asha", "Bindi", "Chui"), start=1):
        care.ask("individuals", "name", crop, "--as", name)
    care.ask("individuals", "merge", "Asha", "--into", "Bindi")
    care.ask("individuals", "merge", "Bindi", "--into", "Chui")
    code, _, err = care("individuals", "show", "Asha")
    assert code == 2 and "It was merged into Chui" in err
    said = care.ask("individuals", "name", 4, "--as", "Asha")
    assert (said["individual"], said["new"]) == ("Chui", False)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("name", 99, "--as", "Luna"), "There is no crop 99"),
        (("name", 1, "--as", "   "), "1 to 200 printable characters"),
        (("name", 1, "--as", "x" * 201), "1 to 200 printable characters"),
        (("name", 1, "--as", "a\nb"), "no text"),
        (("name", 1), "--as NAME, or --from FILE.csv"),
        (("name", "--as", "Luna"), "--as NAME, or --from FILE.csv"),
        (("name", "--from", "absent.csv"), "cannot be read"),
        (("show", "Lunna"), "Did you mean Luna?"),
        (("rename", "Luna", "Rani"), "is taken"),
        (("rename", "Nobody", "Rani"), "There is no individual called 'Nobody'"),
        (("merge", "Luna", "--into", "Luna"), "against itself"),
        (("split", "Luna", "--crops", "1,x", "--as", "Nala"), "'x' is no crop id"),
        (("split", "Luna", "--crops", "2", "--as", "Nala"), "not of"),
        (("split", "Luna", "--crops", "1", "--as", "Rani"), "is taken"),
        (("unname", 3), "has no name"),
        (("undo", 77), "There is no decision 77"),
        (("log", "Nobody"), "no individual"),
    ],
)
def test_wrong_use_is_refused_clearly_and_writes_nothing(care, path, arguments, expected):
    care.ask("individuals", "name", 1, "--as", "Luna")
    care.ask("individuals", "name", 2, "--as", "Rani")
    code, out, err = care("individuals", *arguments)
    assert code == 2 and expected in err and out == ""
    with Catalog(path) as catalog:
        assert len(catalog.log()) == 2


def test_names_are_for_animals(care):
    care.ask("crops", "set", 3, "--category", "person")
    code, _, err = care("individuals", "name", 1, 3, "--as", "Luna")
    assert code == 2 and "Crop 3 is a person" in err
    assert care.ask("individuals", "list") == []  # crop 1 was not named either: all or nothing


def test_the_sheet_of_an_individual(care, tmp_path):
    care.ask("individuals", "name", 1, 2, "--as", "Luna")
    sheet = tmp_path / "luna.jpg"
    code, _, err = care("individuals", "show", "Luna", "--sheet", sheet)
    assert code == 0 and str(sheet) in err
    with Image.open(sheet) as picture:
        assert picture.format == "JPEG" and np.asarray(picture).std() > 20


# -- names from a table


def table(tmp_path, *rows):
    file = tmp_path / "names.csv"
    file.write_text("\n".join(rows) + "\n", encoding="utf-8-sig")
    return file


def test_names_from_a_table_of_crops(care, tmp_path):
    file = table(tmp_path, "crop,individual", "1,Luna", "2,Rani", "3, Luna", "99,Luna", "x,Luna", "4,", "1,Rani")
    code, out, _ = care("--json", "individuals", "name", "--from", file)
    said = json.loads(out)
    assert code == 1 and (said["named"], said["new"], said["already"]) == (3, 2, 0)
    assert [row["row"] for row in said["unmatched"]] == [5, 6, 7, 8]
    assert "'Luna' by an earlier row" in said["unmatched"][-1]["reason"]
    code, out, _ = care("--json", "individuals", "name", "--from", file)
    assert (json.loads(out)["named"], json.loads(out)["already"]) == (0, 3)


def test_a_table_read_again_overrules_nobody(care, tmp_path):
    file = table(tmp_path, "crop,individual", "1,Luna", "2,Luna", "3,Rani")
    care.ask("individuals", "name", "--from", file)
    care.ask("individuals", "name", 2, "--as", "Nala")  # a person knows better
    care.ask("individuals", "merge", "Rani", "--into", "Luna")
    care.ask("individuals", "rename", "Luna", "Zuri")
    again = care.ask("individuals", "name", "--from", file)
    assert (again["named"], again["already"]) == (0, 3)
    assert {row["individual"]: row["crops"] for row in care.ask("individuals", "list")} == {"Nala": 1, "Zuri": 2}
    care.ask("individuals", "undo", 1)  # taken back: the table's saying is as if never said
    assert care.ask("individuals", "name", "--from", file)["named"] == 1


def test_names_from_a_table_of_boxes(care, tmp_path):
    # the animals' box is 40, 30, 80, 60; shifted by 20 px it overlaps by 60/100, by 40 px by 40/120
    file = table(
        tmp_path,
        "path,x,y,w,h,individual",
        "DCIM/100CARE_/IMG_0000.PNG,60,30,80,60,Luna",
        "IMG_0001.PNG,40,30,80,60,Luna",
        "100CARE_\\IMG_0002.PNG,40,30,80,60,Luna",
        "/media/card/DCIM/100CARE_/IMG_0003.PNG,40,30,80,60,Luna",
        "MG_0004.PNG,40,30,80,60,Luna",
        "IMG_0004.PNG,80,30,80,60,Luna",
        "IMG_0005.PNG,a,30,80,60,Luna",
    )
    code, out, _ = care("--json", "individuals", "name", "--from", file)
    said = json.loads(out)
    assert code == 1 and (said["named"], said["new"]) == (4, 1)
    reasons = {row["row"]: row["reason"] for row in said["unmatched"]}
    assert reasons.keys() == {6, 7, 8}
    assert "no photo" in reasons[6] and "overlaps" in reasons[7] and "'a' is no number" in reasons[8]
    log = care.ask("individuals", "log")
    assert {row["source"] for row in log} == {"import"}
    assert json.loads(log[3]["evidence"]) == {"file": "names.csv", "row": 5}


def test_a_path_that_two_photos_end_in_is_ambiguous(care, catalog, tmp_path):
    image = catalogs.add_photo(catalog, "DCIM/101CARE_/IMG_0000.PNG")
    name = "DCIM/101CARE_/IMG_0000.PNG"
    catalogs.add_crops(catalog, catalog.active_run(), image, name, [catalogs.found((40.0, 30.0, 80.0, 60.0))])
    file = table(
        tmp_path, "path,x,y,w,h,individual", "IMG_0000.PNG,40,30,80,60,A", "101CARE_/IMG_0000.PNG,40,30,80,60,B"
    )
    done = individuals.name_from(catalog, file)
    assert done["named"] == 1 and "several photos" in done["unmatched"][0]["reason"]
    assert catalog.names_of_crops() == {7: "B"}


def test_tables_that_are_none(care, tmp_path):
    for rows in (("a,b", "1,2"), ("crop,individual",), ("path,individual", "a,b")):
        code, _, err = care("individuals", "name", "--from", table(tmp_path, *rows))
        assert (code == 2 and "individual" in err) or "no rows" in err


# -- care crops


def test_crops_are_listed_and_set(care):
    assert [row["crop"] for row in care.ask("crops")] == [1, 2, 3, 4, 5, 6]
    done = care.ask("crops", "set", 2, 3, "--species", " Cat ", "--flank", "left")
    assert (done["changed"], done["unchanged"]) == (2, 0)
    assert care.ask("crops", "set", 2, "--species", "Cat")["unchanged"] == 1
    assert [row["crop"] for row in care.ask("crops", "--species", "Cat", "--flank", "left")] == [2, 3]
    care.ask("individuals", "name", 2, "--as", "Luna")
    assert [row["crop"] for row in care.ask("crops", "--individual", "Luna")] == [2]
    assert [row["crop"] for row in care.ask("crops", "--unnamed")] == [1, 3, 4, 5, 6]
    assert care.ask("crops", "--since", "2024-05-02") == []
    assert len(care.ask("crops", "--until", "2024-05-01", "--deployment", "north", "--animals")) == 6
    assert care.ask("crops", "--deployment", "south") == [] == care.ask("crops", "--category", "person")
    code, out, _ = care("crops", "--csv", "--species", "Cat")
    assert code == 0 and [row["crop"] for row in csv.DictReader(io.StringIO(out))] == ["2", "3"]
    code, out, _ = care("crops", "--species", "Cat")
    assert code == 0 and "IMG_0001.PNG" in out


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("set", 99, "--species", "Cat"), "There is no crop 99"),
        (("set", 1), "Say what to set"),
        (("set", 1, "--species", " "), "needs a name"),
        (("set", 1, "--category", "ghost"), "one of animal, person, vehicle"),
        (("set", 1, "--flank", "top"), "one of left, right"),
        (("--category", "ghost"), "one of animal, person, vehicle"),
        (("--animals", "--category", "person"), "mean animals"),
        (("--since", "May"), "YYYY-MM-DD"),
        (("--individual", "Nobody"), "no individual"),
        (("--run", "7"), "no detect run 7"),
    ],
)
def test_wrong_use_of_crops(care, arguments, expected):
    code, out, err = care("crops", *arguments)
    assert code == 2 and expected in err and out == ""


# -- people


def traces(raw: bytes, jpeg: bytes, piece: int = 20) -> int:
    """How many pieces of a JPEG's picture data are somewhere in a file."""
    data = jpeg[jpeg.find(b"\xff\xda") + 14 :]
    return sum(data[i : i + piece] in raw for i in range(0, len(data) - piece, piece))


def grey(jpeg: bytes) -> np.ndarray:
    """A JPEG's grey levels `(H, W) float`."""
    return np.asarray(Image.open(io.BytesIO(jpeg)).convert("L"), float)


def test_a_person_leaves_no_trace_in_the_file(care, path, tmp_path):
    with Catalog(path) as catalog:
        pixels = catalog.pixels(range(1, 7))
        run = catalog.begin_run("index", {}, catalogs.EMBEDDER)
        vectors = np.random.default_rng(0).normal(size=(6, 64)).astype(np.float32)
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        catalog.add_embeddings(run, list(range(1, 7)), vectors)
    raw = path.read_bytes()
    assert all(traces(raw, jpeg) for jpeg in pixels.values())
    care.ask("crops", "set", 2, 5, "--category", "person")
    assert [file.name for file in tmp_path.iterdir()] == ["care.db"]
    raw = path.read_bytes()
    assert {crop for crop, jpeg in pixels.items() if traces(raw, jpeg)} == {1, 3, 4, 6}
    assert vectors[1].tobytes() not in raw and vectors[2].tobytes() in raw
    with Catalog(path) as catalog:
        assert catalog.integrity() == [] and catalog.divergences() == []


def test_a_person_is_black_in_the_other_crops_of_the_photo(catalog, path):
    name, run = "two.png", catalog.active_run()
    image = catalogs.add_photo(catalog, name)
    large, person = (20.0, 20.0, 250.0, 180.0), (150.0, 60.0, 50.0, 90.0)
    apart = (5.0, 5.0, 60.0, 40.0)
    found = [catalogs.found(box) for box in (large, person, apart)]
    whole, body, other = catalogs.add_crops(catalog, run, image, name, found)
    second = catalogs.detect_run(catalog, size=960)  # another run saw the same, and stores it smaller
    [small] = catalogs.add_crops(catalog, second, image, name, found[:1], longest=150)
    index = catalog.begin_run("index", {}, catalogs.EMBEDDER)
    catalog.add_embeddings(index, [whole, other, small], np.eye(3, 8, dtype=np.float32))
    before = catalog.pixels([whole, body, other, small])
    done = crops.set_crops(catalog, [body], category="person")
    assert done["without_pixels"] == [] and catalog.crop(body)["category"] == "person"
    after = catalog.pixels([whole, body, other, small])
    assert body not in after and after[other] == before[other]
    for crop_id, bleed in ((whole, 0), (small, 3)):
        crop = catalog.crop(crop_id)
        rect = crop["rect_x"], crop["rect_y"], crop["rect_w"], crop["rect_h"]
        size = crop["crop_width"], crop["crop_height"]
        corners = np.array([person[:2], np.add(person[:2], person[2:])])
        (left, top), (right, bottom) = to_crop(corners, rect, size).astype(int)
        was, now = grey(before[crop_id]), grey(after[crop_id])
        assert now.shape == was.shape == size[::-1]
        assert now[top:bottom, left:right].max() < 40  # what is left is JPEG's ringing
        outside = np.ones(now.shape, bool)
        margin = bleed + 16  # a block of JPEG's colour
        outside[max(top - margin, 0) : bottom + margin, max(left - margin, 0) : right + margin] = False
        assert np.abs(now - was)[outside].mean() < 4
    assert catalog.embeddings(index).ids.tolist() == [other]  # those of the old pixels are gone
    catalog.checkpoint()
    raw = path.read_bytes()
    assert traces(raw, before[body]) == 0 < traces(raw, before[other])
    # above the person's rows old and new JPEG are the same bytes; all that differs is gone
    for crop_id in (whole, small):
        assert traces(raw, before[crop_id]) == traces(after[crop_id], before[crop_id])


def test_an_animal_after_all_gets_its_pixels_from_the_photo(tmp_path):
    with catalogs.new(tmp_path / "care.db") as catalog:
        run = catalogs.detect_run(catalog)
        image = catalogs.add_photo(catalog, "a.png", folder=tmp_path / "card")
        box, hiker = (40.0, 30.0, 80.0, 60.0), (100.0, 60.0, 60.0, 90.0)
        found = [catalogs.found(box, "person"), catalogs.found(hiker, "person")]
        wrong, _ = catalogs.add_crops(catalog, run, image, "a.png", found)
        assert crops.set_crops(catalog, [wrong], category="animal")["without_pixels"] == []
        stored = catalog.pixels([wrong])[wrong]
        crop = catalog.crop(wrong)
        x, y, w, h = crop["rect_x"], crop["rect_y"], crop["rect_w"], crop["rect_h"]
        assert (crop["crop_width"], crop["crop_height"]) == (w, h)
        expected = catalogs.pixels_of("a.png")
        expected[60:150, 100:160] = 0  # the other person stays black
        stream = io.BytesIO()
        Image.fromarray(expected[y : y + h, x : x + w]).save(stream, "JPEG", quality=90)
        assert (grey(stored) == grey(stream.getvalue())).all()
        done = individuals.undo(catalog, 1)
        assert catalog.crop(wrong)["category"] == "person" and catalog.pixels([wrong]) == {}
        individuals.undo(catalog, done["decision"])
        assert catalog.pixels([wrong]).keys() == {wrong}
        (tmp_path / "card" / "a.png").unlink()
        individuals.undo(catalog, 1)
        assert crops.set_crops(catalog, [wrong], category="animal")["without_pixels"] == [wrong]


def test_an_undo_that_makes_a_person_blackens_as_a_decision_does(catalog):
    name = "two.png"
    image = catalogs.add_photo(catalog, name)
    first = catalogs.found((150.0, 60.0, 50.0, 90.0), "person")
    [body] = catalogs.add_crops(catalog, catalog.active_run(), image, name, [first])
    crops.set_crops(catalog, [body], category="animal")
    second = catalogs.detect_run(catalog, size=960)  # meanwhile, nobody was a person there
    [whole] = catalogs.add_crops(catalog, second, image, name, [catalogs.found((20.0, 20.0, 250.0, 180.0))])
    individuals.undo(catalog, 1)
    picture = grey(catalog.pixels([whole])[whole])
    left, top = 150 - catalog.crop(whole)["rect_x"], 60 - catalog.crop(whole)["rect_y"]
    assert picture[top : top + 90, left : left + 50].max() < 40


def test_naming_for_another_program_keeps_its_facts(catalog):
    done = individuals.name(catalog, [1], "Luna", source="model", who="vit", score=0.8, evidence={"run": 2})
    [entry] = catalog.log()
    assert (entry.source, entry.who, entry.score, entry.evidence) == ("model", "vit", 0.8, {"run": 2})
    assert done["decisions"] == [entry.id]
    with pytest.raises(CareError):
        individuals.name(catalog, [2, 99], "Luna")
    assert len(catalog.log()) == 1


def test_show_counts_events_and_undated_sightings(catalog):
    catalog.regroup(1)
    individuals.name(catalog, [3, 1, 2], "Luna")
    image = catalogs.add_photo(catalog, "undated.png", None)
    [late] = catalogs.add_crops(
        catalog, catalog.active_run(), image, "undated.png", [catalogs.found((9.0, 9.0, 50.0, 50.0))]
    )
    individuals.name(catalog, [late], "Luna")
    shown = individuals.show(catalog, "Luna")
    assert (shown["crops"], shown["events"], shown["first_seen"]) == (4, 3, "2024-05-01 00:00:00")
    assert {seen["crop"] for seen in shown["sightings"]} == {1, 2, 3, late}
    assert catalog.crop_rows(Selection(individual="Luna", undated=True))[0]["crop"] == late
    assert catalog.decide(Decision("flank", crop_id=1, value="left")).id in [
        row["decision"] for row in individuals.log(catalog, "Luna")
    ]
