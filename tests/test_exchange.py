"""What leaves the catalog as files: tables with every column explained, MegaDetector results to the letter."""

from __future__ import annotations

import copy
import csv
import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from care_cli.catalog import Catalog
from care_cli.decisions import Decision
from care_cli.errors import CareError
from care_cli.exchange import FORMATS, csv_tables, megadetector
from care_cli.records import Crop, Detection, ModelSpec, Photo

SPEC = ModelSpec(
    "tiny",
    "detector",
    "ultralytics",
    sha256="b" * 64,
    url="https://example.org/a/tiny-1.pt",
    shown=0.3,
    classes={"cat": {"category": "animal", "species": "cat"}, "other": {"category": "animal"}},
)


def found(box, confidence, label="other", category="animal", species=None) -> Crop:
    pixels = {"jpeg": b"\xff\xd8x", "size": (2, 2)} if category == "animal" else {}
    return Crop(Detection(box, confidence, label, category, species), tuple(round(side) for side in box), **pixels)


@pytest.fixture
def survey(tmp_path):
    """Two scanned folders with a photo in both, an empty one, an unreadable one and a file that cannot be read."""
    with Catalog(tmp_path / "care.db", create=True) as catalog, catalog.transaction():
        card, copies = (
            catalog.add_source("v", name, name.decode(), f"/media/{name.decode()}") for name in (b"a", b"b")
        )
        site = catalog.add_deployment("ridge", card, b"")
        photos = [
            Photo("1" * 64, 10, width=1000, height=800, captured_at="2020-01-01 10:00:00", lighting="day"),
            Photo("2" * 64, 10, width=640, height=480),
            Photo("3" * 64, 10, state="unreadable", failure="the file is empty"),
            Photo("4" * 64, 10, width=300, height=300, captured_at="2020-01-03 09:00:00.5"),
        ]
        images = [catalog.add_image(photo, site) for photo in photos]
        for number, image in enumerate(images):
            catalog.add_file(card, b"100/%d.jpg" % number, f"100/{number}.jpg", 10, 1, image_id=image)
        catalog.add_file(card, b"locked.jpg", "locked.jpg", 10, 1, failure="Permission denied")
        catalog.add_file(copies, b"again.jpg", "again.jpg", 10, 1, image_id=images[0])
        catalog.regroup(site)
        run = catalog.begin_run("detect", {}, SPEC)
        catalog.add_crops(run, images[0], [
            found((100, 200, 300, 400), 0.0512),
            found((0, 0, 333.34, 800), 0.98765, "cat", species="cat"),
            found((900, 700, 100.0, 100.0), 0.5, "person", "person"),
            found((10, 10, 20, 20), 1.0, species="elk"),
        ])  # fmt: skip
        catalog.add_crops(run, images[1], [])
        catalog.add_crops(run, images[2], [])
        catalog.finish_run(run)
        catalog.decide(Decision("create", crop_id=2, value="Luna, the “cat”"))
        catalog.decide(Decision("create", crop_id=4, value="Bo"))
        catalog.decide(Decision("undo", undoes=2))
    with Catalog(tmp_path / "care.db") as catalog:
        yield catalog


def test_megadetector_results_to_the_letter(survey, tmp_path):
    summary = megadetector.write(survey, tmp_path / "md.json")
    assert [(Path(one["file"]).name, one["images"], one["failed"]) for one in summary["files"]] == [
        ("md-1.json", 4, 2), ("md-2.json", 1, 0)]  # fmt: skip
    document = json.loads((tmp_path / "md-1.json").read_text())
    ended = document["info"].pop("detection_completion_time")
    assert len(ended) == 19 and ended[10] == " "
    detections = [
        {"category": "1", "conf": 1.0, "bbox": [0.01, 0.0125, 0.02, 0.025], "classifications": [["2", 1.0]]},
        {"category": "1", "conf": 0.988, "bbox": [0.0, 0.0, 0.3333, 1.0], "classifications": [["1", 0.988]]},
        {"category": "2", "conf": 0.5, "bbox": [0.9, 0.875, 0.1, 0.125]},
        {"category": "1", "conf": 0.051, "bbox": [0.1, 0.25, 0.3, 0.5]},
    ]
    assert document == {
        "info": {
            "format_version": "1.6",
            "detector": "tiny-1.pt",
            "detector_metadata": {"typical_detection_threshold": 0.3, "conservative_detection_threshold": 0.05},
        },
        "detection_categories": {"1": "animal", "2": "person", "3": "vehicle"},
        "classification_categories": {"1": "cat", "2": "elk"},
        "images": [
            {"file": "100/0.jpg", "detections": detections},
            {"file": "100/1.jpg", "detections": []},
            {"file": "100/2.jpg", "failure": "the file is empty", "detections": None},
            {"file": "locked.jpg", "failure": "Permission denied", "detections": None},
        ],
    }
    copy_of_one = json.loads((tmp_path / "md-2.json").read_text())
    assert copy_of_one["images"] == [{"file": "again.jpg", "detections": detections}]
    assert '"conf": 1.0' in (tmp_path / "md-1.json").read_text()  # a decimal number, also when it is whole
    for name in ("md-1.json", "md-2.json"):
        assert megadetector.validate(json.loads((tmp_path / name).read_text())) == []


def test_one_source_of_several_and_no_silent_overwriting(survey, tmp_path):
    megadetector.write(survey, tmp_path / "one.json", source=2)
    assert len(json.loads((tmp_path / "one.json").read_text())["images"]) == 1
    with pytest.raises(CareError, match="--overwrite"):
        megadetector.write(survey, tmp_path / "one.json", source=2)
    megadetector.write(survey, tmp_path / "one.json", source=1, overwrite=True)
    assert len(json.loads((tmp_path / "one.json").read_text())["images"]) == 4
    with pytest.raises(CareError, match="no source 7"):
        megadetector.write(survey, tmp_path / "two.json", source=7)
    with Catalog(tmp_path / "new.db", create=True) as empty, pytest.raises(CareError, match="care detect"):
        megadetector.write(empty, tmp_path / "none.json")
    assert sorted(path.name for path in tmp_path.glob("*.json*")) == ["one.json"]


def test_a_person_said_by_hand_is_a_person_in_the_results(survey, tmp_path):
    survey.decide(Decision("category", crop_id=2, value="person"))
    megadetector.write(survey, tmp_path / "md.json", source=2)
    document = json.loads((tmp_path / "md.json").read_text())
    detections = {detection["conf"]: detection for detection in document["images"][0]["detections"]}
    assert detections[0.988]["category"] == "2" and "classifications" not in detections[0.988]


GOOD = {
    "info": {"format_version": "1.6"},
    "detection_categories": {"1": "animal"},
    "classification_categories": {"0": "fox", "1": "elk"},
    "images": [
        {"file": "a.jpg", "detections": [
            {"category": "1", "conf": 0.9, "bbox": [0.1, 0.2, 0.3, 0.4], "classifications": [["1", 0.8], ["0", 0.1]]}]},
        {"file": "b.jpg", "failure": "Failure image access", "detections": None},
        {"file": "c.jpg", "failure": None, "detections": []},
        {"file": "d.mp4", "frame_rate": 20, "frames_processed": [0, 20], "detections": [
            {"category": "1", "conf": 0.9, "bbox": [0, 0, 1, 1], "frame_number": 20}]},
    ],
}  # fmt: skip


def broken(change) -> list[str]:
    document = copy.deepcopy(GOOD)
    change(document, document["images"], document["images"][0]["detections"][0])
    return megadetector.validate(document)


def test_a_document_that_keeps_the_rules_is_valid():
    assert megadetector.validate(GOOD) == []


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda document, images, box: document["info"].pop("format_version"), "format_version"),
        (lambda document, images, box: document["info"].update(format_version=1.6), "in quotes"),
        (lambda document, images, box: document["info"].update(format_version="new"), "format_version"),
        (lambda document, images, box: document.pop("info"), "info"),
        (lambda document, images, box: document.pop("detection_categories"), "detection_categories"),
        (lambda document, images, box: document["detection_categories"].update({"0": "person"}), "empty photos"),
        (lambda document, images, box: document["detection_categories"].update({"-1": "person"}), "'-1'"),
        (lambda document, images, box: document["detection_categories"].update({"2": " "}), "name of '2'"),
        (lambda document, images, box: document.update(classification_category_descriptions={"0": "x"}), "ids of"),
        (lambda document, images, box: document.update(images={}), "images should be a list"),
        (lambda document, images, box: images[0].pop("file"), "file"),
        (lambda document, images, box: images[0].update(max_detection_conf=0.9), "gone since 1.3"),
        (lambda document, images, box: images[0].pop("detections"), "empty when nothing was found"),
        (lambda document, images, box: images[0].update(detections=None), "empty when nothing was found"),
        (lambda document, images, box: images[1].update(detections=[]), "detections null"),
        (lambda document, images, box: images[1].update(failure=3), "failure should be text"),
        (lambda document, images, box: images[3].pop("frame_rate"), "frame_rate"),
        (lambda document, images, box: images[3].pop("frames_processed"), "frames_processed"),
        (lambda document, images, box: images[3]["detections"][0].pop("frame_number"), "frame_number"),
        (lambda document, images, box: box.update(category=1), "id of detection_categories"),
        (lambda document, images, box: box.update(category="animal"), "id of detection_categories"),
        (lambda document, images, box: box.update(conf=1), "decimal number"),
        (lambda document, images, box: box.update(conf=float("nan")), "decimal number"),
        (lambda document, images, box: box.update(conf=1.2), "decimal number"),
        (lambda document, images, box: box.update(bbox=[10, 20, 300, 400]), "inside 0 to 1"),
        (lambda document, images, box: box.update(bbox=[0.5, 0.5, 0.9, 0.9]), "inside 0 to 1"),
        (lambda document, images, box: box.update(bbox=[0.1, 0.2, 0.3]), "bbox"),
        (lambda document, images, box: box.update(classifications=[["0", 0.1], ["1", 0.8]]), "fall in confidence"),
        (lambda document, images, box: box.update(classifications=[[1, 0.8]]), "classification_categories"),
    ],
)
def test_each_rule_is_held(change, says):
    problems = broken(change)
    assert len(problems) >= 1 and any(says in problem for problem in problems), problems


def test_what_other_programs_write_in_its_name_is_refused():
    pixels = [{"file": "a.jpg", "detections": [{"category": "animal", "confidence": 0.9, "bbox": [1, 2, 30, 40]}]}]
    assert megadetector.validate(pixels) == ["the document should be an object, but is a list"]
    zero_based = {
        "images": [{"file": "a.jpg", "max_detection_conf": 0.9,
                    "detections": [{"category": "0", "conf": 0.9, "bbox": [0.1, 0.2, 0.3, 0.4]}]}],
        "detection_categories": {"0": "animal", "1": "person", "2": "vehicle"},
        "info": {"detector": "megadetector_v5"},
    }  # fmt: skip
    problems = " ".join(megadetector.validate(zero_based))
    assert "format_version" in problems and "empty photos" in problems and "max_detection_conf" in problems


def tables(folder: Path) -> dict[str, list[dict]]:
    return {path.name: list(csv.DictReader(path.open(encoding="utf-8", newline=""))) for path in folder.glob("*.csv")}


def test_tables_say_what_the_catalog_knows(survey, tmp_path):
    summary = csv_tables.write(survey, tmp_path / "out" / "tables")
    assert {key: summary[key] for key in ("images", "crops", "individuals", "decisions", "deployments", "undated")} == {
        "images": 4, "crops": 3, "individuals": 1, "decisions": 3, "deployments": 1, "undated": 2}  # fmt: skip
    read = tables(tmp_path / "out" / "tables")
    crops = {row["crop"]: row for row in read["crops.csv"]}
    assert set(crops) == {"2", "3", "4"}  # the first lies below the shown 0.3
    luna = crops["2"]
    assert (luna["individual"], luna["species"], luna["w"], luna["taken_at"]) == (
        "Luna, the “cat”", "cat", "333.34", "2020-01-01 10:00:00")  # fmt: skip
    assert [float(luna[f"rel_{side}"]) for side in "xywh"] == [0, 0, 0.33334, 1]
    assert (crops["3"]["category"], crops["3"]["individual"]) == ("person", "")
    images = {row["image"]: row for row in read["images.csv"]}
    assert (images["1"]["files"], images["1"]["animals"], images["1"]["persons"]) == ("2", "2", "1")
    assert (images["3"]["state"], images["3"]["failure"]) == ("unreadable", "the file is empty")
    [ridge] = read["deployments.csv"]
    assert (ridge["images"], ridge["undated"], ridge["days"], ridge["events"]) == ("4", "2", "3", "2")
    assert [row["in_force"] for row in read["decisions.csv"]] == ["1", "0", "1"]


def test_every_column_is_explained(survey, tmp_path):
    csv_tables.write(survey, tmp_path / "tables")
    text = (tmp_path / "tables" / "README.txt").read_text("utf-8")
    assert "2 of 4 photos are undated" in text
    for name, rows in tables(tmp_path / "tables").items():
        section = text.split(f"\n{name} (")[1].split(".csv (")[0]
        for column in rows[0]:
            assert any(line.split()[:1] == [column] and len(line.split()) > 1 for line in section.splitlines()), column
    px = {"x", "y", "w", "h", "width", "height"}
    assert all("px" in columns[one] for _, columns in csv_tables.TABLES.values() for one in px & set(columns))


def test_a_folder_of_others_is_left_alone(survey, tmp_path):
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "images.csv").write_text("mine")
    (folder / "thesis.txt").write_text("mine")
    with pytest.raises(CareError, match=r"thesis\.txt.*--overwrite"):
        csv_tables.write(survey, folder)
    assert {path.name: path.read_text() for path in folder.iterdir()} == {"images.csv": "mine", "thesis.txt": "mine"}
    csv_tables.write(survey, folder, overwrite=True)
    assert (folder / "thesis.txt").read_text() == "mine" and len(tables(folder)["images.csv"]) == 4
    (folder / "thesis.txt").unlink()
    csv_tables.write(survey, folder)  # its own work is renewed unasked
    assert not list(folder.glob("*.part"))


def test_nothing_is_written_into_a_scanned_folder(survey, tmp_path):
    card = tmp_path / "card"
    card.mkdir()
    with survey.transaction():
        source = survey.add_source("w", b"card", "card", card.as_posix())
    survey.begin_meeting()
    survey.finish_meeting(source, whole=True)
    for write, path in ((csv_tables.write, card / "tables"), (megadetector.write, card / "DCIM" / "md.json")):
        with pytest.raises(CareError, match="scanned for photos"):
            write(survey, path)
    assert list(card.iterdir()) == []


def test_every_format_is_there():
    from pkgutil import resolve_name

    assert all(callable(resolve_name(place)) for place in FORMATS.values())


@pytest.fixture
def care(survey):
    """The command line over the survey."""
    from care_cli.cli import app

    return lambda *arguments: CliRunner().invoke(app, ["--catalog", str(survey.path), *arguments])


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        ([], [2, 3, 1, 4]),
        (["--animals"], [1]),
        (["--people"], [1]),
        (["--vehicles"], []),
        (["--species", "cat"], [1]),
        (["--species", "ca"], []),
        (["--since", "2020-01-02"], [4]),
        (["--until", "2020-01-01"], [1]),
        (["--since", "2020-01-01", "--until", "2020-01-03"], [1, 4]),
        (["--undated"], [2]),
        (["--unnamed"], [1]),
        (["--individual", "Luna, the “cat”"], [1]),
        (["--deployment", "ridge", "--confidence", "0.99", "--animals"], [1]),
        (["--deployment", "valley"], []),
    ],
)
def test_photos_are_listed_by_what_is_asked(care, filters, expected):
    listed = care("--json", "images", *filters)
    assert listed.exit_code == 0
    assert [row["image"] for row in json.loads(listed.stdout)] == expected


def test_what_cannot_be_read_is_listed_with_its_reason(care):
    rows = list(csv.DictReader(care("images", "--unreadable", "--csv").stdout.splitlines()))
    assert [(row["state"], row["path"], row["failure"]) for row in rows] == [
        ("unreadable", "100/2.jpg", "the file is empty"),
        ("unread", "/media/a/locked.jpg", "Permission denied"),
    ]


@pytest.mark.parametrize(
    "wrong",
    [
        ["--since", "3/2020"],
        ["--until", "2020-02-30"],
        ["--since", "20200101"],
        ["--since", "2020-02-01", "--until", "2020-01-01"],
        ["--confidence", "30"],
        ["--animals", "--people"],
        ["--individual", "Bo"],  # whose naming was undone
        ["--run", "7"],
    ],
)
def test_a_wrong_filter_is_a_clear_refusal(care, wrong):
    assert isinstance(care("images", *wrong).exception, CareError)


def test_exports_as_commands(care, tmp_path):
    assert care("export", "csv", str(tmp_path / "tables")).exit_code == 0
    done = care("--json", "export", "megadetector", str(tmp_path / "md.json"), "--source", "2")
    assert json.loads(done.stdout)["files"][0]["images"] == 1
