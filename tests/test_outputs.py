"""What is written for the user, and where nothing is: among photos."""

from __future__ import annotations

import json
import os
from pathlib import Path

import catalogs
import pytest

from care_cli import cli
from care_cli.decisions import Decision
from care_cli.errors import CareError
from care_cli.outputs import lies_in, refuse_catalog_among_photos, refuse_scanned, write_whole


@pytest.fixture
def card(tmp_path: Path) -> Path:
    """A scanned folder with one photo, and `care.db` beside it in which its animal is called Bo."""
    folder = tmp_path / "card"
    with catalogs.new(tmp_path / "care.db") as catalog:
        run = catalogs.detect_run(catalog)
        image = catalogs.add_photo(catalog, "DCIM/a.png", folder=folder)
        [crop] = catalogs.add_crops(catalog, run, image, "DCIM/a.png", [catalogs.found((40.0, 30.0, 80.0, 60.0))])
        catalog.decide(Decision("create", crop_id=crop, value="Bo"))
        catalog.begin_meeting()
        catalog.finish_meeting(catalog.value("SELECT id FROM sources"), whole=True)
    return folder


def care(monkeypatch, capsys, *arguments: object) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of `care` in this process."""
    monkeypatch.setattr("sys.argv", ["care", *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    return ended.value.code or 0, *capsys.readouterr()


def test_a_file_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    write_whole(tmp_path / "a.txt", "Žofie\n")
    assert (tmp_path / "a.txt").read_bytes() == "Žofie\n".encode()
    with pytest.raises(CareError, match="cannot be written"):
        write_whole(tmp_path / "none" / "a.txt", b"")
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]


def test_where_a_path_lies(tmp_path: Path) -> None:
    (tmp_path / "card" / "DCIM").mkdir(parents=True)
    (tmp_path / "cards").mkdir()
    card = tmp_path / "card"
    for inside in (card, card / "x.jpg", card / "DCIM" / "new" / "x.jpg", tmp_path / "cards" / ".." / "card" / "x"):
        assert lies_in(inside, card)
    for outside in (tmp_path, tmp_path / "cards" / "x.jpg", tmp_path / "card.jpg", card / ".." / "x.jpg"):
        assert not lies_in(outside, card)
    assert lies_in(Path("/media/ejected/x.jpg"), Path("/media/ejected"))
    assert not lies_in(tmp_path / "x.jpg", Path("/media/ejected"))


@pytest.mark.skipif(os.name == "nt", reason="links need a right on Windows")
def test_links_hide_no_scanned_folder(tmp_path: Path) -> None:
    (tmp_path / "card").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "card")
    for path, folder in (("link/x.jpg", "card"), ("card/x.jpg", "link")):
        with pytest.raises(CareError, match="scanned"):
            refuse_scanned(tmp_path / path, [(tmp_path / folder).as_posix()])


def test_no_catalog_among_the_photos(tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "card" / "DCIM").mkdir(parents=True)
    photo = tmp_path / "card" / "a.jpg"
    photo.touch()
    monkeypatch.chdir(tmp_path / "card")
    for given in (Path(), Path("DCIM/.."), tmp_path / "card", tmp_path):
        with pytest.raises(CareError, match="--catalog"):
            refuse_catalog_among_photos(Path("care.db"), [Path("DCIM"), given])
    refuse_catalog_among_photos(Path("care.db"), [photo, Path("DCIM")])  # a single photo is no scanned folder
    refuse_catalog_among_photos(Path("../care.db"), [Path()])


def test_every_output_is_refused_among_the_photos(card: Path, monkeypatch, capsys) -> None:
    before = sorted(card.rglob("*"))
    monkeypatch.chdir(card)
    for command in (
        ("individuals", "show", "Bo", "--sheet", "bo.jpg"),
        ("identify", "DCIM/a.png", "--sheet", "DCIM/sheet.jpg"),
        ("doctor", "--backup", "copy.db"),
        ("export", "csv", "tables"),
        ("export", "megadetector", "md.json"),
    ):
        code, _, said = care(monkeypatch, capsys, "--catalog", "../care.db", *command)
        assert code == 2 and "scanned for photos" in said, command
    assert sorted(card.rglob("*")) == before
    for command in (("individuals", "show", "Bo", "--sheet", "../b.jpg"), ("doctor", "--backup", "../copy.db")):
        assert care(monkeypatch, capsys, "--catalog", "../care.db", *command)[0] == 0
    assert (card.parent / "b.jpg").exists() and (card.parent / "copy.db").exists()


def test_an_import_begins_no_catalog_in_its_folder(tmp_path: Path, monkeypatch, capsys) -> None:
    (tmp_path / "Bo").mkdir()
    (tmp_path / "Bo" / "a.png").write_bytes(b"")
    monkeypatch.chdir(tmp_path)
    code, _, said = care(monkeypatch, capsys, "import", "dataset", ".")
    assert code == 2 and "--catalog" in said and not (tmp_path / "care.db").exists()


def test_one_sighting_is_one(card: Path, monkeypatch, capsys) -> None:
    code, out, _ = care(monkeypatch, capsys, "--catalog", card.parent / "care.db", "individuals", "show", "Bo")
    assert code == 0 and out.startswith("Bo: 1 sighting in ")


def test_unread_files_are_those_of_the_deployment_or_the_scan(tmp_path: Path, monkeypatch, capsys) -> None:
    north, south, east = "north/DCIM/101CARE_/b.png", "south/DCIM/100CARE_/c.png", "east/d.png"
    with catalogs.new(tmp_path / "care.db") as catalog, catalog.transaction():
        catalogs.add_photo(catalog, "north/DCIM/100CARE_/a.png", deployment="north")
        catalogs.add_photo(catalog, "south/DCIM/100CARE_/a.png", deployment="south")
        catalog.set_deployment(catalog.add_deployment("south"), site="ridge")
        source = catalog.value("SELECT id FROM sources")
        lost = [catalog.add_file(source, path.encode(), path, 1, 1, failure="Input/output error")
                for path in (north, south, east)]  # fmt: skip
        assert catalog.unread_files(met=True) == []  # nothing was scanned
        catalog.begin_meeting()
        catalog.meet(lost[2:])
        assert [row["path"] for row in catalog.unread_files(met=True)] == [east]
    for asked, expected in (
        ((), [east, north, south]),
        (("--deployment", "north"), [north]),
        (("--site", "ridge"), [south]),
        (("--deployment", "north", "--site", "ridge"), []),
        (("--species", "Elk"), []),  # nobody knows what is on them, or when they were taken
        (("--since", "2024-01-01"), []),
    ):
        arguments = ("--catalog", tmp_path / "care.db", "--json", "images", "--unreadable", *asked)
        _, out, _ = care(monkeypatch, capsys, *arguments)
        assert [row["path"].removeprefix("/media/card/") for row in json.loads(out)] == expected, asked


def test_the_classes_of_a_model_fit_a_terminal(monkeypatch, capsys) -> None:
    _, out, _ = care(monkeypatch, capsys, "models", "show", "yolo11n")
    table = out.partition("\n# ")[0]
    assert "\nanimal: bird, cat, " in table and "\nvehicle: bicycle, car, " in table
    assert max(len(line) for line in table.splitlines() if not line.startswith("path")) <= 100
