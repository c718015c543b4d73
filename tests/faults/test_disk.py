"""A disk that fills, a folder that cannot be written to or goes away: said in words, and nothing lost."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import catalogs
import pytest
from PIL import Image
from processes import INDEX, Care, Process, assert_same, come_to, committed, detect, rows_of

from care_cli.catalog import Catalog
from care_cli.records import Selection
from care_cli.stages import individuals

SLOW = pytest.mark.slow


def assert_refused(process: Process, word: str) -> None:
    """A refusal in words that name what is at fault."""
    assert process.code == 2, (process.code, process.messages)
    assert "Traceback" not in process.messages and process.messages.startswith("Error: ")
    assert word in process.messages


# -- while the catalog grows


FULL = {
    "the disk": {"fault": ("disk full", "care.db", 700_000)},
    "the largest file": {"largest_file": 700_000},
    "the pages": {"pragmas": ["max_page_count = {pages}"]},
}


@pytest.mark.parametrize("what", ["the disk", "the largest file", pytest.param("the pages", marks=SLOW)])
@pytest.mark.usefixtures("faults")
def test_no_room_for_results(care: Care, surveyed: Path, tmp_path: Path, what: str) -> None:
    """Some of the photos fit; those are kept, and the others follow when there is room."""
    catalog = tmp_path / "care.db"
    catalogs.new(catalog).close()
    pages = catalog.stat().st_size // 16384 + 12
    full = json.loads(json.dumps(FULL[what]).replace("{pages}", str(pages)))
    command = detect(surveyed.with_name("FERN001"))
    assert_refused(care.run(catalog, *command, **full), "space")
    assert 0 < committed(catalog) < committed(surveyed)
    rows_of(catalog)  # whole
    again = care.run(catalog, *command)
    assert again.code == 0, again.messages
    assert_same(catalog, surveyed)


@pytest.mark.parametrize("room", [0, 30_000, pytest.param(300_000, marks=SLOW), pytest.param(700_000, marks=SLOW)])
@pytest.mark.usefixtures("faults")
def test_no_room_for_a_new_catalog(care: Care, tmp_path: Path, room: int) -> None:
    catalog, lions = tmp_path / "care.db", tmp_path / "lions"
    lions.mkdir()
    Image.new("RGB", (40, 30)).save(lions / "lion.png")
    command = "import", "dataset", lions
    assert_refused(care.run(catalog, *command, fault=("disk full", "care.db", room)), "space")
    again = care.run(catalog, *command)
    assert again.code == 0, again.messages
    assert len(rows_of(catalog)["crops"]) == 1


@pytest.mark.usefixtures("faults")
def test_no_room_for_names_vectors_or_data_sets(care: Care, surveyed: Path, root: Path, tmp_path: Path) -> None:
    catalog = Path(shutil.copy(surveyed, tmp_path / "care.db"))
    before = rows_of(catalog)
    full = {"fault": ("disk full", "care.db", 40_000)}  # room for two pages
    table = tmp_path / "names.csv"
    with Catalog(catalog) as opened:
        crops = [row["crop"] for row in opened.crop_rows(Selection(category="animal"))]
    rows = "".join(f"{crop},{crop}{' a name' * 20}\n" for crop in crops)
    table.write_text("crop,individual\n" + rows, encoding="utf-8")
    assert_refused(care.run(catalog, "individuals", "name", "--from", table, **full), "space")
    assert rows_of(catalog) == before
    assert_refused(care.run(catalog, *INDEX, **full), "space")
    folder = root / "sample_data" / "queries"
    assert_refused(care.run(catalog, "import", "dataset", folder, **full), "space")
    found = rows_of(catalog)
    assert all(found[name] == before[name] for name in before if name not in ("runs", "embeddings"))
    assert care.run(catalog, *INDEX).code == 0
    assert committed(catalog, "embeddings") == len(crops)


# -- while something else is written


@pytest.fixture
def named(tmp_path: Path) -> Path:
    """A catalog with one named animal."""
    catalog = tmp_path / "care.db"
    with catalogs.new(catalog) as opened:
        individuals.name(opened, catalogs.survey(opened, 12), "Ayo")
    return catalog


OUTPUTS = {
    "tables": ("export", "csv", "out"),
    "results": ("export", "megadetector", "out.json"),
    "a sheet": ("individuals", "show", "Ayo", "--sheet", "out.jpg"),
    "a backup": ("doctor", "--backup", "out.db"),
}


@pytest.mark.parametrize("what", OUTPUTS)
@pytest.mark.usefixtures("faults")
def test_no_room_for_outputs(care: Care, named: Path, tmp_path: Path, what: str) -> None:
    """What was there before stays as it was, and no half file beside it."""
    place = tmp_path / "outputs"
    place.mkdir()
    command = [place / word if str(word).startswith("out") else word for word in OUTPUTS[what]]
    before = rows_of(named)
    assert_refused(
        care.run(named, *command, fault=("disk full", "outputs", 300)),
        "full" if what == "a backup" else "No space left",
    )
    left = [path for path in place.rglob("*") if path.is_file()]
    assert all(path.suffix in (".csv", ".txt") and path.stat().st_size <= 300 for path in left), left
    assert rows_of(named) == before
    overwrite = ["--overwrite"] if "export" in command else []
    assert care.run(named, *command, *overwrite).code == 0
    assert [path for path in place.rglob("*") if path.is_file()]
    assert not list(place.rglob("*.part*"))


def test_a_file_size_limit_leaves_no_half_gallery(care: Care, surveyed: Path, tmp_path: Path) -> None:
    catalog = Path(shutil.copy(surveyed, tmp_path / "care.db"))
    page = tmp_path / "pages" / "gallery.html"
    page.parent.mkdir()
    command = *detect(surveyed.with_name("FERN001")), "--gallery", page
    small = {"largest_file": 100_000}
    assert_refused(care.run(catalog, *command, **small), "gallery.html cannot be written")
    assert list(page.parent.iterdir()) == []
    assert care.run(catalog, *command).code == 0
    before = page.read_bytes()
    assert_refused(care.run(catalog, *command, **small), "gallery.html cannot be written")
    assert list(page.parent.iterdir()) == [page] and page.read_bytes() == before
    assert_same(catalog, surveyed)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.parametrize("words", [("crops", "--csv"), ("images", "--json")])
def test_no_room_for_what_is_printed(care: Care, named: Path, words: tuple[str, ...]) -> None:
    assert_refused(care.run(named, *words, stdout="/dev/full"), "No space left")


@pytest.mark.usefixtures("faults")
def test_no_room_for_weights(care: Care, tmp_path: Path) -> None:
    source = tmp_path / "stick" / "w.pt"
    source.parent.mkdir()
    source.write_bytes(bytes(range(256)) * 1000)
    manifest = tmp_path / "mine.toml"
    manifest.write_text(
        f'[models.mine]\ntask = "embedder"\nfamily = "timm"\nurl = "{source.as_uri()}"\nlicence = "CC0"\n',
        encoding="utf-8",
    )
    cache = {"environment": {"CARE_MODELS": str(tmp_path / "cache")}}
    assert care.run(tmp_path / "no.db", "models", "add", manifest, **cache).code == 0
    pull = "models", "pull", "mine"
    assert_refused(
        care.run(tmp_path / "no.db", *pull, fault=("disk full", "/cache/", 100_000), **cache), "No space left"
    )
    assert not [path for path in (tmp_path / "cache").rglob("*") if path.suffix in (".pt", ".part")]
    assert care.run(tmp_path / "no.db", *pull, **cache).code == 0


# -- folders


def test_a_folder_that_cannot_be_written_to(care: Care, surveyed: Path, tmp_path: Path) -> None:
    if care.server is None:
        pytest.skip("needs Linux, where permissions can be made to hold")
    folder = tmp_path / "read only"
    folder.mkdir()
    catalog = Path(shutil.copy(surveyed, folder / "care.db"))
    command = detect(surveyed.with_name("FERN001"))
    catalog.chmod(0o444)
    folder.chmod(0o555)
    try:
        for words in (command, ("images",), ("doctor",), ("individuals", "name", "1", "--as", "Ayo")):
            assert_refused(care.run(catalog, *words, unprivileged=True), "written")
        new = care.run(folder / "new.db", *command, unprivileged=True)
        assert_refused(new, "written")
        assert list(folder.iterdir()) == [catalog]
    finally:
        folder.chmod(0o755)
    assert_same(catalog, surveyed)


def test_the_catalogs_folder_is_renamed(care: Care, surveyed: Path, tmp_path: Path) -> None:
    """The run ends in the file that it has open; the catalog is whole and complete at its new place."""
    folder = tmp_path / "survey"
    folder.mkdir()
    process = care.start(folder / "care.db", *detect(surveyed.with_name("FERN001")))
    come_to(process, folder / "care.db", 4)
    folder.rename(tmp_path / "elsewhere")
    process.wait()
    assert "Traceback" not in process.messages
    catalog = tmp_path / "elsewhere" / "care.db"
    again = care.run(catalog, *detect(surveyed.with_name("FERN001")))
    assert again.code == 0, again.messages
    assert_same(catalog, surveyed)
