"""Hostile photos through the real commands, and mutations of real photos: a reason for each, no crash, no hang."""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
import socket
import stat
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest
from hostile import NAMES, PHOTOS, care, encode, mutant, scene
from hypothesis import given, settings
from hypothesis import strategies as st
from test_cli import Care, runner

from care_cli.catalog import Catalog
from care_cli.images import read_bytes, read_photo
from care_cli.scan import Found, scan

LONGEST = 10  # seconds an image may take
MOST_MEMORY = 2_500_000_000  # bytes that a run over small hostile photos may take, torch included

posix = pytest.mark.skipif(os.name == "nt", reason="Windows has no such files")
linux = pytest.mark.skipif(sys.platform != "linux", reason="only here names are any bytes")


def write(folder: Path) -> dict[str, set[str]]:
    """The hostile photos of `PHOTOS` in a folder; the states that are right, by file name."""
    folder.mkdir(parents=True)
    for name, (recipe, _) in PHOTOS.items():
        (folder / name).write_bytes(recipe())
    return {name: states for name, (_, states) in PHOTOS.items()}


class Survey:
    """A detected, named and indexed catalog whose card holds good photos and hostile ones."""

    def __init__(self, folder: Path, card: Path):
        self.card, self.catalog = folder / "card", folder / "care.db"
        self.states = write(self.card / "hostile")
        good = sorted((card / "FERN001").rglob("*.JPG"))[:6]
        for photo in good:
            shutil.copy(photo, self.card / photo.name)
        self.good = {photo.name for photo in good}
        self.detected = self.care("--json", "detect", self.card, "--model", "demo-detector")

    def care(self, *arguments: object, **settings):
        return care(*arguments, catalog=self.catalog, **settings)


@pytest.fixture(scope="module")
def survey(tmp_path_factory: pytest.TempPathFactory, root: Path) -> Survey:
    return Survey(tmp_path_factory.mktemp("hostile"), root / "sample_data" / "card")


def test_every_hostile_photo_ends_in_a_state_with_a_reason(survey: Survey) -> None:
    done = survey.detected
    assert done.code == 1 and "Traceback" not in done.err
    summary = json.loads(done.out)
    unreadable = {name for name, states in survey.states.items() if states == {"unreadable"}}
    assert summary["images"] == len(survey.states) + len(survey.good)
    assert summary["unreadable"] >= len(unreadable)
    with Catalog(survey.catalog) as catalog:
        rows = catalog.rows(
            "SELECT image_files.path, state, images.failure FROM image_files JOIN images ON images.id = image_id"
        )
    states = {row["path"].removeprefix("hostile/"): row["state"] for row in rows}
    assert set(states) == set(survey.states) | survey.good
    assert {name: states[name] for name, right in survey.states.items() if states[name] not in right} == {}
    assert all(states[name] == "ok" for name in survey.good)
    assert all((row["failure"] is None) == (row["state"] == "ok") for row in rows)
    assert done.peak < MOST_MEMORY and done.seconds < LONGEST * len(survey.states)


@linux
def test_the_measured_peak_is_the_command_s_own(tmp_path: Path) -> None:
    of_the_test_process = bytearray(b"1") * 600_000_000
    assert care("--help", catalog=tmp_path / "care.db").peak < len(of_the_test_process) / 4


def test_absurd_dates_and_places_are_not_believed(survey: Survey) -> None:
    with Catalog(survey.catalog) as catalog:
        rows = catalog.rows(
            "SELECT image_files.path, captured_at, latitude, longitude FROM image_files "
            "JOIN images ON images.id = image_id WHERE path LIKE '%/date %' OR path LIKE '%/gps %'"
        )
    found = {Path(row["path"]).stem: row for row in rows}
    assert {name: row["captured_at"] for name, row in found.items() if name.startswith("date")} == {
        "date of zeros": None,
        "date impossible": None,
        "date of signs": None,
        "date at the end": "9999-12-31 23:59:59",
        "date at the start": "0001-01-01 00:00:00",
    }
    places = {name: (row["latitude"], row["longitude"]) for name, row in found.items() if name.startswith("gps")}
    assert places == {"gps over zero": (None, None), "gps beyond": (None, None), "gps good": (45.5, 10.0)}


@pytest.fixture
def here(survey: Survey, tmp_path: Path, monkeypatch, capfd) -> Care:
    """`care` in this process, on a copy of the survey's catalog."""
    return runner(monkeypatch, capfd, Path(shutil.copy(survey.catalog, tmp_path / "care.db")))


def test_absurd_dates_survive_clock_shifts_and_listings(survey: Survey, here: Care) -> None:
    for shift in ("+1d", "-1d"):
        done = here("--json", "detect", survey.card, "--model", "demo-detector", "--clock-shift", shift)
        assert done.code == 1 and done.json["new"] == 0 and "Traceback" not in done.err, done.err
        for command in (("images",), ("crops",), ("individuals", "list"), ("doctor",)):
            listed = here("--json", *command)
            assert listed.json is not None and "Traceback" not in listed.err, listed.err


@pytest.mark.parametrize("way", [(), ("--whole",)])
def test_identify_answers_for_every_hostile_photo(survey: Survey, here: Care, tmp_path: Path, way) -> None:
    assert here("index", "--model", "demo-embedder").code == 0
    copies = shutil.copytree(survey.card / "hostile", tmp_path / "asked")
    for path in copies.iterdir():  # other bytes, which the catalog does not know
        with path.open("ab") as file:
            file.write(b"\0")
    done = here("--json", "identify", copies, *way)
    assert done.code == 1 and "Traceback" not in done.err, done.err
    assert {Path(one["path"]).name for one in done.json["photos"]} == set(survey.states)


# -- names and kinds of files


@pytest.fixture
def fresh(tmp_path: Path, monkeypatch, capfd) -> Care:
    """`care` in this process, on a catalog that is still to be begun."""
    return runner(monkeypatch, capfd, tmp_path / "care.db")


@linux
def test_names_of_any_bytes_are_one_line_each_in_every_listing(fresh: Care, tmp_path: Path, root: Path) -> None:
    good = (root / "sample_data" / "queries" / "known_01.JPG").read_bytes()
    for number, name in enumerate(NAMES):
        place = tmp_path / "card" / os.fsdecode(name.removesuffix(b".jpg") + b" site")
        place.mkdir(parents=True)
        (place / os.fsdecode(name)).write_bytes(good + bytes([number]))
        (place / os.fsdecode(b"not a photo " + name)).write_bytes(bytes(number + 1))
    done = fresh("--json", "detect", tmp_path / "card", "--model", "demo-detector")
    assert done.code == 1 and "Traceback" not in done.err, done.err
    assert (done.json["images"], done.json["unreadable"]) == (2 * len(NAMES), len(NAMES))
    for command in (("images",), ("images", "--unreadable"), ("crops",)):
        rows = fresh("--json", *command).json
        assert len(rows) >= len(NAMES)
        out = fresh(*command, "--csv").out
        assert out.count("\n") == len(rows) + 1 and "\r" not in out and "\x1b" not in out
        assert [row["path"] for row in csv.DictReader(io.StringIO(out))] == [row["path"] for row in rows]
        table = fresh(*command).out
        assert table.count("\n") == len(rows) + 2 and table.replace("\n", "").isprintable()


@linux
def test_names_that_look_like_options_are_files(fresh: Care, tmp_path: Path, root: Path, monkeypatch) -> None:
    shutil.copy(root / "sample_data" / "queries" / "known_01.JPG", tmp_path / "-rf.jpg")
    monkeypatch.chdir(tmp_path)
    done = fresh("--json", "detect", "--model", "demo-detector", "--", "-rf.jpg")
    assert done.code == 0 and done.json["images"] == 1, done.err


@posix
def test_what_is_no_regular_file_is_never_opened(tmp_path: Path, root: Path) -> None:
    card = tmp_path / "card"
    card.mkdir()
    shutil.copy(next((root / "sample_data" / "card").rglob("*.JPG")), card / "good.jpg")
    os.mkfifo(card / "pipe.jpg")
    (card / "zero.jpg").symlink_to("/dev/zero")
    (card / "self.jpg").symlink_to("self.jpg")
    (card / "gone.jpg").symlink_to("nowhere.jpg")
    (card / "round").symlink_to(card, target_is_directory=True)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(card / "socket.jpg"))
        if os.geteuid() == 0:
            with suppress(OSError):  # a container may forbid it
                os.mknod(card / "device.jpg", stat.S_IFCHR | 0o600, os.makedev(1, 5))
        done = care("--json", "detect", card, "--model", "demo-detector", catalog=tmp_path / "care.db", limit=120)
        assert done.code == 1 and json.loads(done.out)["images"] == 1, done.err
        assert "self.jpg" in done.err and "gone.jpg" in done.err and "Traceback" not in done.err
        for name in ("pipe.jpg", "zero.jpg"):
            refused = care("detect", card / name, "--model", "demo-detector", catalog=tmp_path / "none.db", limit=120)
            assert refused.code == 2 and "Traceback" not in refused.err, refused.err
    assert not (tmp_path / "none.db").exists()


@posix
def test_paths_as_long_as_the_system_takes_and_longer(fresh: Care, tmp_path: Path) -> None:
    card = tmp_path / "card"
    card.mkdir()
    home = os.open(tmp_path, os.O_RDONLY)
    place, length = os.open(card, os.O_RDONLY), len(os.fsencode(card))
    photos = []
    try:
        for number in range(24):  # to about 4,800 characters
            name = f"{number:02}-" + "x" * 190
            os.mkdir(name, dir_fd=place)
            inner = os.open(name, os.O_RDONLY, dir_fd=place)
            os.close(place)
            place, length = inner, length + 1 + len(name)
            file = os.open("a.jpg", os.O_CREAT | os.O_WRONLY, dir_fd=place)
            os.write(file, encode(scene(seed=number), "JPEG"))
            os.close(file)
            photos.append(length + len("/a.jpg"))
    finally:
        os.close(place)
        os.close(home)
    longest = os.pathconf(tmp_path, "PC_PATH_MAX") - 1
    done = fresh("--json", "detect", card, "--model", "demo-detector")
    assert done.code == 1 and "too long" in done.err and "Traceback" not in done.err, done.err
    assert done.json["images"] == sum(length <= longest for length in photos)
    rows = fresh("--json", "images").json
    assert max(len(row["path"]) for row in rows) > 3700


@linux
def test_a_folder_that_may_not_be_listed_is_told_and_the_rest_is_done(fresh: Care, tmp_path: Path, root: Path) -> None:
    photos = sorted((root / "sample_data" / "card").rglob("*.JPG"))[:3]
    for name, photo in zip(("open", "closed", "sealed"), photos, strict=True):
        (tmp_path / "card" / name).mkdir(parents=True)
        shutil.copy(photo, tmp_path / "card" / name / photo.name)
    closed, sealed = tmp_path / "card" / "closed", tmp_path / "card" / "sealed" / photos[2].name
    command = ("--json", "detect", tmp_path / "card", "--model", "demo-detector")
    closed.chmod(0)
    sealed.chmod(0)
    done = care(*command, catalog=tmp_path / "care.db", bound=True)
    closed.chmod(0o755)
    sealed.chmod(0o644)
    assert done.code == 1 and "Traceback" not in done.err, done.err
    told = [line for line in done.err.splitlines() if "Permission denied" in line]
    assert len(told) == 2 and str(closed) in told[0] and str(sealed) in told[1]
    assert json.loads(done.out)["new"] == 1
    again = fresh(*command)
    assert again.code == 0 and again.json["new"] == 2, again.err


# -- much


@posix
def test_files_of_hundreds_of_megabytes(tmp_path: Path) -> None:
    card = tmp_path / "card"
    card.mkdir()
    photo = encode(scene(), "JPEG")
    for name, size in (("300.jpg", 300_000_000), ("500.jpg", 500_000_000)):  # sparse: a photo, then a hole
        with (card / name).open("wb") as file:
            file.write(photo)
            file.truncate(size)
    started = time.monotonic()
    states = {path.name: read_photo(path).photo for path in sorted(card.iterdir())}
    assert time.monotonic() - started < LONGEST
    assert states["300.jpg"].state in ("ok", "partial") and states["500.jpg"].state == "unreadable"
    assert "500 MB" in states["500.jpg"].failure


@pytest.mark.slow
def test_a_folder_of_100_000_entries(tmp_path: Path) -> None:
    card = tmp_path / "card"
    card.mkdir()
    for number in range(100_000):
        (card / f"IMG_{number:06}.jpg").touch()
    started = time.monotonic()
    assert sum(isinstance(found, Found) for found in scan([card])) == 100_000
    assert time.monotonic() - started < LONGEST
    done = care("--json", "detect", card, "--model", "demo-detector", catalog=tmp_path / "care.db", limit=900)
    assert done.code == 1 and json.loads(done.out)["images"] == 1  # one image: no bytes at all
    assert done.peak < MOST_MEMORY
    again = care("--json", "detect", card, "--model", "demo-detector", catalog=tmp_path / "care.db", limit=300)
    assert again.code in (0, 1) and json.loads(again.out)["new"] == 0


# -- mutations


def real_photos(root: Path) -> list[bytes]:
    """Photos of the sample card, and real ones where they are; those below 2 MB, for speed."""
    paths = sorted((root / "sample_data" / "card").rglob("*.JPG"))[::9]
    real = root.parent / "shared" / "data" / "camera_trap"
    for folder in ("camtrapr_samples", "cct20_sample", "serengeti_d04", "speciesnet_edge_cases"):
        paths += sorted((real / folder).rglob("*.[jJ][pP][gG]"))[::7]
    return [path.read_bytes() for path in paths if path.stat().st_size < 2_000_000]


def survive(photos: list[bytes], seeds: range) -> None:
    for seed in seeds:
        data = mutant(photos[seed % len(photos)], seed)
        started = time.monotonic()
        photo = read_bytes(data).photo
        assert time.monotonic() - started < LONGEST, f"mutant {seed}"
        assert photo.state in ("ok", "partial", "unreadable"), f"mutant {seed}"
        assert (photo.failure is None) == (photo.state == "ok"), f"mutant {seed}"


def test_300_mutants_of_real_photos(root: Path) -> None:
    survive(real_photos(root), range(300))


@pytest.mark.slow
@pytest.mark.parametrize("part", range(10))
def test_10_000_mutants_of_real_photos(root: Path, part: int) -> None:
    survive(real_photos(root), range(1000 + part * 1000, 2000 + part * 1000))


STARTS = [b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"II*\0\x08\0\0\0", b"BM", b"RIFF"]


@pytest.mark.slow
@settings(max_examples=2000, deadline=None)
@given(
    st.binary(max_size=400),
    st.sampled_from([b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"II*\0\x08\0\0\0", b"BM", b"RIFF"]),
)
def test_any_bytes_behind_a_photo_s_first_ones(data: bytes, start: bytes) -> None:
    photo = read_bytes(start + data).photo
    assert (photo.failure is None) == (photo.state == "ok")
