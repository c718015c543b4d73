"""The commands as a user runs them, over the rendered card, held against the renderer's truth."""

from __future__ import annotations

import json
import shutil
import sqlite3
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from care_cli import cli, geometry
from care_cli.catalog import Catalog
from care_cli.records import Selection


class Done(NamedTuple):
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def json(self):
        return json.loads(self.out)


Care = Callable[..., Done]


def runner(monkeypatch, capfd, catalog: Path) -> Care:
    """`care` in this process: exit code and both streams; any traceback fails the test."""

    def care(*arguments: object, catalog: Path = catalog) -> Done:
        command = ["care", "--catalog", catalog, "--device", "cpu", *arguments]
        monkeypatch.setattr(sys, "argv", [str(word) for word in command])
        capfd.readouterr()
        code = 0
        try:
            cli.main()
        except SystemExit as ended:
            code = ended.code or 0
        return Done(code, *capfd.readouterr())

    return care


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory, root: Path) -> Path:
    """A folder with `care.db`: the sample card detected, named and indexed; tests work on copies."""
    from demo.chain import Chain

    folder = tmp_path_factory.mktemp("chain")
    care = Chain(folder / "care.db")
    found = care.json("detect", root / "sample_data" / "card", "--model", "demo-detector")
    (folder / "detect.json").write_text(json.dumps(found))
    named = care.json("individuals", "name", "--from", root / "sample_data" / "names.csv")
    (folder / "named.json").write_text(json.dumps(named))
    care.json("index", "--model", "demo-embedder")
    return folder


@pytest.fixture
def survey(chain: Path, tmp_path: Path) -> Path:
    """A copy of the finished survey's catalog."""
    return Path(shutil.copy(chain / "care.db", tmp_path / "care.db"))


@pytest.fixture
def care(monkeypatch, capfd, tmp_path: Path) -> Care:
    """`care` on `care.db` in this test's folder."""
    return runner(monkeypatch, capfd, tmp_path / "care.db")


@pytest.fixture(scope="module")
def truth(root: Path) -> dict[str, dict]:
    """The renderer's truth of the card, by file name below the card."""
    photos = json.loads((root / "sample_data" / "truth.json").read_text("utf-8"))["photos"]
    return {one["path"].removeprefix("card/"): one for one in photos if one["path"].startswith("card/")}


@pytest.fixture
def card(root: Path) -> Path:
    return root / "sample_data" / "card"


def tables(catalog: Path) -> dict[str, list]:
    """Every row of every table."""
    with sqlite3.connect(catalog) as reader:
        names = [row[0] for row in reader.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        return {name: reader.execute(f"SELECT * FROM {name}").fetchall() for name in sorted(names)}


# -- detect


def test_detect_finds_what_was_rendered(chain: Path, truth: dict[str, dict]) -> None:
    found = json.loads((chain / "detect.json").read_text())
    contract = ["run", "images", "new", "known", "unreadable", "partial", "crops", "by_category", "seconds",
                "images_per_second"]  # fmt: skip
    assert list(found) == contract
    distinct = [one for one in truth.values() if one["kind"] != "duplicate"]
    assert (found["images"], found["new"], found["known"]) == (len(distinct), len(distinct), 0)
    assert (found["unreadable"], found["partial"]) == (0, 1)
    assert found["crops"] == sum(found["by_category"].values())
    with Catalog(chain / "care.db") as catalog:
        crops = catalog.crop_rows(Selection())
    hits = total = false = 0
    for path, one in truth.items():
        if one["kind"] in ("duplicate", "truncated"):
            continue
        boxes = [row for row in crops if row["path"] == path]
        for thing in one["objects"]:
            same = [row for row in boxes if row["category"] == thing["category"]]
            overlaps = geometry.iou([thing["box"]], [[row[side] for side in "xywh"] for row in same])
            total += 1
            hits += bool(overlaps.size and overlaps.max() >= 0.5)
        false += not one["objects"] and bool(boxes)
    assert hits / total >= 0.9
    assert false <= 1  # of the empty photos


def test_times_cameras_and_events_are_the_card_s(chain: Path, truth: dict[str, dict]) -> None:
    with Catalog(chain / "care.db") as catalog:
        rows = {row["path"]: row for row in catalog.image_rows(Selection())}
        serials = {row["path"]: row["serial"] for row in catalog.rows(
            "SELECT path, serial FROM images JOIN image_files ON image_files.image_id = images.id")}  # fmt: skip
    bursts: dict[tuple, set] = {}
    for path, row in rows.items():
        one = truth[path]
        assert row["taken_at"].replace(" ", "T").rstrip("0") == one["captured_at"].rstrip("0")
        assert serials[path] == one["camera"]
        assert row["lighting"] == one["lighting"]
        assert row["deployment"] == one["location"]
        assert (row["width"], row["height"]) == (one["width"], one["height"])
        bursts.setdefault((one["location"], one["event"]), set()).add(row["burst"])
    assert all(len(found) == 1 for found in bursts.values())  # a burst is one burst
    assert len(set.union(*bursts.values())) == len(bursts)  # and no two are one


def test_a_second_run_and_a_copy_of_the_card_add_nothing(
    care: Care, survey: Path, card: Path, tmp_path: Path, monkeypatch
) -> None:
    before = tables(survey)
    again = care("--json", "detect", card, "--model", "demo-detector").json
    assert (again["new"], again["known"]) == (0, again["images"])
    copy = shutil.copytree(card, tmp_path / "another place" / "card")
    copied = care("--json", "detect", copy, "--model", "demo-detector").json
    assert (copied["new"], copied["images"], copied["run"]) == (0, again["images"], again["run"])
    after = tables(survey)
    for name in ("images", "crops", "crop_pixels", "deployments", "run_images", "embeddings", "crop_identity"):
        assert after[name] == before[name], name
    assert len(after["image_files"]) == 2 * len(before["image_files"])


def test_the_card_is_only_read(care: Care, card: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(card, tmp_path / "card")
    status = {path: path.stat() for path in sorted(copy.rglob("*"))}
    assert care("detect", copy, "--model", "demo-detector", "--gallery", tmp_path / "gallery.html").code == 0
    after = {path: path.stat() for path in sorted(copy.rglob("*"))}
    assert list(after) == list(status)
    for path, seen in status.items():
        assert (after[path].st_size, after[path].st_mtime_ns) == (seen.st_size, seen.st_mtime_ns)


def test_dry_run_writes_nothing(care: Care, card: Path, tmp_path: Path) -> None:
    plan = care("--json", "detect", card, "--dry-run").json
    assert plan["files"] == plan["to_read"] == sum(plan["deployments"].values()) == len(list(card.rglob("*.JPG")))
    assert not (tmp_path / "care.db").exists()


def test_a_clock_shift_moves_what_is_read_and_not_what_is_stored(care: Care, survey: Path, card: Path) -> None:
    before = {row["image"]: row for row in care("--json", "images").json}
    stored = tables(survey)["images"]
    care("detect", card, "--model", "demo-detector", "--clock-shift", "+1:00:00", "--site", "North")
    after = {row["image"]: row for row in care("--json", "images").json}
    for image, row in after.items():
        hours = np.datetime64(row["taken_at"]) - np.datetime64(before[image]["taken_at"])
        assert hours == np.timedelta64(1, "h")
        assert (row["site"], row["burst"], row["event"]) == ("North", before[image]["burst"], before[image]["event"])
    assert tables(survey)["images"] == stored


def test_damaged_files_are_recorded_and_the_run_goes_on(care: Care, card: Path, tmp_path: Path) -> None:
    folder = tmp_path / "odd"
    folder.mkdir()
    good = next(card.rglob("*.JPG"))
    shutil.copy(good, folder / "good.jpg")
    (folder / "empty.jpg").touch()
    (folder / "text.jpg").write_text("this is no photo")
    (folder / "notes.txt").write_text("not looked at")
    (folder / "new\nline 'quoted' \N{PAW PRINTS}.JPG").write_bytes(good.read_bytes() + b"\0")
    done = care("--json", "detect", folder, "--model", "demo-detector")
    assert done.code == 1
    assert (done.json["images"], done.json["unreadable"]) == (4, 2)
    rows = care("--json", "images", "--unreadable").json
    assert {Path(row["path"]).name for row in rows} == {"empty.jpg", "text.jpg"}
    assert all(row["failure"] for row in rows)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("detect", "no/such/folder"), "no/such/folder"),
        (("detect", "{tmp}"), "No photo was found"),
        (("detect", "{tmp}", "--dry-run"), "No photo was found"),
        (("detect", "{card}", "--model", "yolo99"), "yolo99"),
        (("detect", "{card}", "--model", "demo-embedder"), "detector"),
        (("detect", "{card}", "--clock-shift", "soon"), "span"),
        (("detect", "{card}", "--device", "tpu"), "--device"),
        (("index",), "no catalog"),
        (("identify", "{card}"), "no catalog"),
        (("individuals", "show", "Nobody"), "no catalog"),
        (("images", "--catalog", "{text}"), "cannot be opened"),
        (("images", "--catalog", "{foreign}"), "not a CARE catalog"),
    ],
)
def test_wrong_use_is_one_clear_error(
    care: Care, card: Path, tmp_path: Path, arguments: tuple[str, ...], says: str
) -> None:
    (tmp_path / "text.db").write_text("not a database at all, but long enough to be looked at\n" * 40)
    with sqlite3.connect(tmp_path / "foreign.db") as other:
        other.execute("CREATE TABLE notes (text TEXT)")
    places = {"tmp": tmp_path / "empty", "card": card, "text": tmp_path / "text.db", "foreign": tmp_path / "foreign.db"}
    places["tmp"].mkdir()
    done = care(*(word.format(**places) for word in arguments))
    assert (done.code, done.out) == (2, "")
    assert says.lower() in done.err.lower()
    assert "Traceback" not in done.err
    assert not (tmp_path / "care.db").exists()  # a refusal begins no catalog


def test_weights_that_detect_nothing_of_ours_are_refused(care: Care, card: Path, shared: Path) -> None:
    done = care("detect", card, "--model", shared / "weights" / "yolo11n-pose.pt")
    assert done.code == 2 and "pose" in done.err and "Traceback" not in done.err


# -- listings


def test_json_works_before_and_behind_the_command(care: Care, survey: Path) -> None:
    before, behind = care("--json", "crops"), care("crops", "--json")
    assert before.json == behind.json and len(before.json) > 50
    assert care("crops", "--csv").out.count("\n") == len(before.json) + 1


def test_listings_filter(care: Care, survey: Path, truth: dict[str, dict]) -> None:
    rows = care("--json", "images", "--until", "2024-03-05").json
    assert rows and all(row["taken_at"] < "2024-03-06" for row in rows)
    animals = care("--json", "images", "--animals", "--deployment", "FERN001").json
    assert animals and all(row["animals"] and row["deployment"] == "FERN001" for row in animals)
    pigs = care("--json", "crops", "--species", "Pig").json
    assert pigs and {row["species"] for row in pigs} == {"Pig"}
    assert all(row["individual"] is None for row in care("--json", "crops", "--unnamed").json)


def test_species_can_be_corrected_and_taken_back(care: Care, survey: Path) -> None:
    crop = care("--json", "crops", "--species", "Pig").json[0]["crop"]
    assert care("crops", "set", crop, "--species", "Boar").code == 0
    assert [row["crop"] for row in care("--json", "crops", "--species", "Boar").json] == [crop]
    last = care("--json", "individuals", "log").json[-1]["decision"]
    assert care("individuals", "undo", last).code == 0
    assert care("--json", "crops", "--species", "Boar").json == []


# -- identify


def test_identify_keeps_its_contract_and_writes_nothing(care: Care, survey: Path, root: Path) -> None:
    before = tables(survey)
    photos = sorted((root / "sample_data" / "queries").glob("known_0[1-4].JPG"))
    done = care("--json", "identify", *photos, "--top", "3")
    answer = done.json
    assert [Path(one["path"]).name for one in answer["photos"]] == [path.name for path in photos]
    for crop in (crop for one in answer["photos"] for crop in one["crops"] if crop["category"] == "animal"):
        assert len(crop["box"]) == 4
        assert crop["verdict"] in ("known", "new", "unsure")
        assert 1 <= len(crop["candidates"]) <= 3
        scores = [one["similarity"] for one in crop["candidates"]]
        assert scores == sorted(scores, reverse=True)
        assert len({one["individual"] for one in crop["candidates"]}) == len(scores)  # one score an individual
        assert all(one["probability"] is None for one in crop["candidates"])
    assert tables(survey) == before


def test_a_calibrated_survey_answers_with_probabilities(care: Care, survey: Path, root: Path) -> None:
    told = care("evaluate", "calibrate", "--json").json
    assert told["individuals"] == 24 and told["known_queries"] >= 20 and told["ece"] < 0.15
    photo = root / "sample_data" / "queries" / "known_01.JPG"
    [crop] = [one for one in care("--json", "identify", photo).json["photos"][0]["crops"] if one["candidates"]]
    assert crop["candidates"][0]["probability"] > 0.8 > sum(one["probability"] for one in crop["candidates"][1:])
    assert crop["calibration"]["pairs"] == told["pairs"] and crop["verdict"] == "known"
    refused = care("evaluate", "calibrate", "--species", "Pig")
    assert refused.code == 2 and "at least 10 animals" in refused.err


def test_a_photo_of_the_survey_is_not_compared_with_its_own_event(care: Care, survey: Path, card: Path) -> None:
    rows = care("--json", "crops", "--category", "animal").json
    events = {row["crop"]: row["event"] for row in rows}
    busy = next(row for row in rows if list(events.values()).count(row["event"]) >= 3)
    answer = care("--json", "identify", card / busy["path"], "--top", "24").json
    candidates = answer["photos"][0]["crops"][0]["candidates"]
    assert candidates and all(events[one["crop"]] != busy["event"] for one in candidates)


def test_a_renamed_photo_of_a_burst_knows_its_event_by_camera_and_time(
    care: Care, survey: Path, card: Path, tmp_path: Path
) -> None:
    rows = care("--json", "crops", "--category", "animal").json
    events = {row["crop"]: row["event"] for row in rows}
    busy = next(row for row in rows if list(events.values()).count(row["event"]) >= 3)
    other = tmp_path / "sent by mail.jpg"
    other.write_bytes((card / busy["path"]).read_bytes() + b"\0")  # other bytes: not in the catalog
    answer = care("--json", "identify", other, "--top", "24").json
    candidates = answer["photos"][0]["crops"][0]["candidates"]
    assert candidates and all(events[one["crop"]] != busy["event"] for one in candidates)


def test_confirming_adds_the_photo_and_the_decision(care: Care, survey: Path, root: Path) -> None:
    photo = root / "sample_data" / "queries" / "known_01.JPG"
    name = care("--json", "identify", photo).json["photos"][0]["crops"][0]["candidates"][0]["individual"]
    assert care("identify", photo, "--confirm", "Nobody").code == 2
    images = len(tables(survey)["images"])
    done = care("identify", photo, "--confirm", name, "--crop", "1")
    assert done.code == 0, done.err
    rows = tables(survey)
    assert len(rows["images"]) == images + 1
    assert len(rows["decisions"]) == rows["decisions"][-1][0]
    assert photo.name in {row["path"] for row in care("--json", "crops", "--individual", name).json}
    assert care("identify", photo, "--new", name, "--crop", "1").code == 2  # the name is taken
    assert care("identify", photo, "--new", "Somebody", "--crop", "1").code == 0
    assert {row["individual"] for row in care("--json", "individuals", "list").json} >= {"Somebody", name}


def test_an_unreadable_query_is_said_and_the_others_are_answered(
    care: Care, survey: Path, root: Path, tmp_path: Path
) -> None:
    (tmp_path / "broken.jpg").write_bytes(b"\xff\xd8 nothing")
    done = care("--json", "identify", root / "sample_data" / "queries" / "known_02.JPG", tmp_path / "broken.jpg")
    assert done.code == 1
    failed = [one for one in done.json["photos"] if one.get("failure")]
    assert [Path(one["path"]).name for one in failed] == ["broken.jpg"]
    assert sum(bool(one["crops"]) for one in done.json["photos"]) == 1
    alone = care("identify", tmp_path / "broken.jpg")
    assert alone.code == 1 and "broken.jpg" in alone.err and "Traceback" not in alone.err


def test_sheet_and_gallery_are_written(care: Care, survey: Path, root: Path, card: Path, tmp_path: Path) -> None:
    from PIL import Image

    photo = root / "sample_data" / "queries" / "known_03.JPG"
    assert care("identify", photo, "--sheet", tmp_path / "sheet.jpg").code == 0
    with Image.open(tmp_path / "sheet.jpg") as sheet:
        assert sheet.width > sheet.height > 100  # a row: the query and five candidates
    done = care("detect", card, "--model", "demo-detector", "--gallery", tmp_path / "gallery.html")
    page = (tmp_path / "gallery.html").read_text("utf-8")
    assert done.code == 0 and page.count("<img") >= 100
    assert "http://" not in page.replace("http://www.w3.org", "") and "https://" not in page
