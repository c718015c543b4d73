"""The detect stage on small cards that are moved, copied, formatted and broken."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from care_cli import registry
from care_cli.catalog import Catalog
from care_cli.cli.detect import gap, seconds
from care_cli.errors import CareError
from care_cli.images import cut_crop, decode_jpeg, read_photo
from care_cli.records import Crop, Detection, Selection
from care_cli.scan import scan
from care_cli.stages import detect, photos
from care_cli.stages.cropping import CropSettings
from care_cli.stages.detect import DetectConfig
from care_cli.stages.photos import Job, Tally, sort_out
from care_cli.stages.places import add_place, place_of
from care_cli.stages.preview import preview


@pytest.fixture(scope="module")
def detector():
    return detect.load(registry.find("demo-detector"), "cpu")


@pytest.fixture
def catalog(tmp_path: Path):
    with Catalog(tmp_path / "care.db", create=True) as opened:
        yield opened


def photo(path: Path, taken: str | None = None, seed: int = 0, serial: str = "S1") -> Path:
    """A small JPEG of noise with the EXIF that a camera writes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 255, (48, 64, 3), np.uint8)
    exif = Image.Exif()
    details = exif.get_ifd(0x8769)
    if taken:
        details[0x9003] = taken.replace("-", ":", 2)
    details[0xA431] = serial
    Image.fromarray(pixels).save(path, exif=exif)
    return path


def card(folder: Path, photos: int = 3, day: str = "2024-05-01", seed: int = 0) -> Path:
    """A card with photos a minute apart."""
    for i in range(photos):
        photo(folder / "DCIM" / "100CARE_" / f"IMG_{i + 1:04}.JPG", f"{day} 10:{i:02}:00", seed + i)
    return folder


def run(catalog: Catalog, detector, *paths: Path, **said) -> dict:
    return detect.run(catalog, DetectConfig(tuple(paths), **said), detector)


def stays(catalog: Catalog) -> dict[str, list]:
    """Deployment name to its images' paths."""
    found: dict[str, list] = {}
    for row in catalog.image_rows(Selection()):
        found.setdefault(row["deployment"], []).append(row["path"])
    return found


def test_a_formatted_card_keeps_old_photos_and_places_the_new_ones(catalog, detector, tmp_path: Path) -> None:
    place = card(tmp_path / "ridge")
    run(catalog, detector, place)
    shutil.rmtree(place)
    card(place, day="2024-06-01", seed=50)  # the camera starts at IMG_0001 again
    assert run(catalog, detector, place)["new"] == 3
    rows = catalog.image_rows(Selection())
    assert len(rows) == 6 and {row["deployment"] for row in rows} == {"ridge"}
    assert all(row["event"] for row in rows)


def test_one_stay_however_deep_the_folder_that_is_given(catalog, detector, tmp_path: Path) -> None:
    place = card(tmp_path / "ridge", photos=1)
    run(catalog, detector, place)
    photo(place / "DCIM" / "100CARE_" / "IMG_0100.JPG", "2024-05-01 10:05:00", 7)
    run(catalog, detector, place / "DCIM")
    last = photo(place / "DCIM" / "100CARE_" / "IMG_0101.JPG", "2024-05-01 10:06:00", 8)
    run(catalog, detector, last)
    assert list(stays(catalog)) == ["ridge"]
    assert len({row["event"] for row in catalog.image_rows(Selection())}) == 1


def test_what_is_said_of_a_card_leaves_other_deployments_alone(catalog, detector, tmp_path: Path) -> None:
    first, second = card(tmp_path / "one"), card(tmp_path / "two", seed=20, day="2024-05-02")
    run(catalog, detector, first, site="North")
    shutil.copy(first / "DCIM/100CARE_/IMG_0001.JPG", second / "DCIM/100CARE_/COPY.JPG")
    run(catalog, detector, second, site="South", clock_shift_s=3600)
    rows = catalog.image_rows(Selection())
    assert {row["site"] for row in rows if row["deployment"] == "one"} == {"North"}
    assert {row["taken_at"][:13] for row in rows if row["deployment"] == "one"} == {"2024-05-01 10"}
    assert {row["taken_at"][:13] for row in rows if row["deployment"] == "two"} == {"2024-05-02 11"}


def test_a_deployment_can_be_named_afterwards(catalog, detector, tmp_path: Path) -> None:
    place = card(tmp_path / "NO NAME")
    run(catalog, detector, place)
    run(catalog, detector, place, deployment="Creek 2024")
    assert list(stays(catalog)) == ["Creek 2024"]
    photo(place / "DCIM" / "100CARE_" / "IMG_0100.JPG", "2024-05-01 12:00:00", 9)
    run(catalog, detector, place)  # the folder is known by that name from now on
    assert {name: len(paths) for name, paths in stays(catalog).items()} == {"Creek 2024": 4}


def test_two_cameras_can_be_put_into_one_deployment(catalog, detector, tmp_path: Path) -> None:
    first, second = card(tmp_path / "one"), card(tmp_path / "two", seed=20)
    run(catalog, detector, first, second)
    assert set(stays(catalog)) == {"one", "two"}
    run(catalog, detector, first, second, deployment="both")
    assert {name: len(paths) for name, paths in stays(catalog).items()} == {"both": 6}
    assert len({row["event"] for row in catalog.image_rows(Selection())}) == 1  # the same ten minutes


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="needs a file that this user may not read")
def test_a_file_without_permission_is_read_when_it_has_it(catalog, detector, tmp_path: Path) -> None:
    place = card(tmp_path / "ridge")
    locked = place / "DCIM/100CARE_/IMG_0002.JPG"
    locked.chmod(0)
    assert run(catalog, detector, place)["unreadable"] == 1
    locked.chmod(0o644)
    assert run(catalog, detector, place)["unreadable"] == 0


def test_a_file_that_failed_once_is_read_again(catalog, detector, tmp_path: Path) -> None:
    place = card(tmp_path / "ridge")
    run(catalog, detector, place)
    [row] = [row for row in catalog.rows("SELECT * FROM image_files") if row["path"].endswith("0002.JPG")]
    with catalog.transaction():  # as a scan leaves it whose read failed
        catalog.add_file(
            row["source_id"], row["path_bytes"], row["path"], row["bytes"], row["mtime_ns"], failure="I/O error"
        )
    assert run(catalog, detector, place)["images"] == 3
    assert catalog.unread_files() == []


def test_files_that_vanish_are_gone_until_they_are_back(catalog, detector, tmp_path: Path) -> None:
    place = card(tmp_path / "ridge")
    run(catalog, detector, place)
    away = shutil.move(place / "DCIM/100CARE_/IMG_0002.JPG", tmp_path / "aside.JPG")
    assert run(catalog, detector, place)["images"] == 2
    assert [row["path"][-8:] for row in catalog.rows("SELECT path FROM image_files WHERE gone_at NOTNULL")] == [
        "0002.JPG"
    ]
    shutil.move(away, place / "DCIM/100CARE_/IMG_0002.JPG")
    assert run(catalog, detector, place)["new"] == 0
    assert catalog.rows("SELECT path FROM image_files WHERE gone_at NOTNULL") == []


def test_a_folder_that_is_empty_now_has_lost_its_files(catalog, detector, tmp_path: Path) -> None:
    first, second = card(tmp_path / "one"), card(tmp_path / "two", seed=20)
    run(catalog, detector, first, second)
    shutil.rmtree(second / "DCIM")
    run(catalog, detector, first, second)
    assert catalog.value("SELECT count(*) FROM image_files WHERE gone_at NOTNULL") == 3


def test_two_cards_mounted_in_turn_do_not_miss_each_other(catalog, detector, tmp_path: Path, monkeypatch) -> None:
    from care_cli.stages import places
    from care_cli.volumes import Volume

    slot, aside = tmp_path / "slot", tmp_path / "aside"
    card(slot)
    monkeypatch.setattr(places, "volume_of", lambda path: Volume("uuid:AAAA", slot))
    run(catalog, detector, slot)
    slot.rename(aside)
    card(slot, seed=30, day="2024-07-01")
    monkeypatch.setattr(places, "volume_of", lambda path: Volume("uuid:BBBB", slot))
    run(catalog, detector, slot)
    assert catalog.value("SELECT count(*) FROM image_files WHERE gone_at NOTNULL") == 0
    assert catalog.value("SELECT count(*) FROM images") == 6
    assert len(stays(catalog)) == 2  # two cards, two stays, though both are mounted as 'slot'


def test_another_setting_is_another_run_and_says_so(catalog, detector, tmp_path: Path) -> None:
    said: list[str] = []
    catalog.notice = said.append
    first = run(catalog, detector, card(tmp_path / "one"))["run"]
    other = detect.load(registry.find("demo-detector"), "cpu", image_size=256)
    second = run(catalog, other, card(tmp_path / "two", seed=20))["run"]
    assert second != first
    assert any(f"3 photos of the catalog were dealt with by other runs only ({first})" in line for line in said)
    said.clear()
    run(catalog, other, tmp_path / "two")
    assert said == []  # it is said once


def test_preview_knows_what_another_model_has_not_done(catalog, detector, tmp_path: Path, shared: Path) -> None:
    place = card(tmp_path / "ridge")
    run(catalog, detector, place)
    cfg = DetectConfig((place,))
    same = preview(catalog, cfg, registry.find("demo-detector"))
    other = preview(catalog, cfg, registry.find(shared / "weights" / "yolo11n.pt"))
    assert (same["files"], same["known"], same["to_read"]) == (3, 3, 0)
    assert (other["known"], other["to_read"]) == (3, 3)


@pytest.mark.parametrize(
    ("text", "span"),
    [("90", 90), ("90s", 90), ("30m", 1800), ("-2h", -7200), ("1.5d", 129600), ("+1:30:00", 5400), ("-0:05", -300)],
)
def test_spans_as_people_write_them(text: str, span: int) -> None:
    assert seconds(text) == span


@pytest.mark.parametrize("text", ["", "soon", "1:2:3", "--5", "9999999999999d", "9" * 400, "1e9"])
def test_a_span_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(CareError, match="span"):
        seconds(text)


def test_gaps_are_not_negative() -> None:
    assert gap("5m") == 300
    with pytest.raises(CareError, match="negative"):
        gap("-5m")


def test_the_visit_of_a_query_ends_with_the_deployment_s_own_gap(catalog, detector, tmp_path: Path) -> None:
    run(catalog, detector, card(tmp_path / "ridge"))  # 10:00 to 10:02
    later = "2024-05-01 10:45:00"
    assert catalog.event_images("S1", later) == set()  # 43 minutes after the last one, more than 30
    run(catalog, detector, tmp_path / "ridge", event_gap_s=7200)
    assert len(catalog.event_images("S1", later)) == 3
    assert catalog.event_images("S2", later) == set()  # another camera


def test_a_person_that_another_process_finds_meanwhile_is_black_in_the_new_crops(catalog, tmp_path: Path) -> None:
    """Two detects of one card at a time: this one read its photo before the other wrote the person."""
    place = photo(tmp_path / "ridge" / "a.jpg")
    pixels = np.full((480, 640, 3), 200, np.uint8)
    Image.fromarray(pixels).save(place, quality=95)
    [found] = scan([place])
    catalog.begin_meeting()
    other = catalog.begin_run("detect", {"other": True})
    ours = catalog.begin_run("detect", {})
    job = sort_out(catalog, ours, photos.read(Job(found, add_place(catalog, place.parent), None)))
    person, animal = (300.0, 200.0, 60.0, 80.0), (100.0, 100.0, 400.0, 300.0)
    image = catalog.add_image(read_photo(place).photo, None)
    seen = catalog.add_crops(other, image, [Crop(Detection(person, 0.9, "person", "person"), (300, 200, 60, 80))])
    assert len(seen) == 1
    job = replace(job, reading=read_photo(place), detections=[Detection(animal, 0.9, "animal", "animal")])
    detect.write(catalog, ours, [photos.cut(job, CropSettings(), None)], DetectConfig((place,)), Tally())
    [row] = catalog.crop_rows(Selection(run=ours, category="animal"))
    stored = np.asarray(decode_jpeg(catalog.pixels([row["crop"]])[row["crop"]]))
    rect = catalog.crop(row["crop"])
    assert (rect["crop_width"], rect["crop_height"]) == (rect["rect_w"], rect["rect_h"])
    x, y = 300 - rect["rect_x"], 200 - rect["rect_y"]
    assert stored[y : y + 80, x : x + 60].max() < 16
    assert stored[y - 60 : y - 20, x : x + 60].min() > 180


@pytest.mark.parametrize(("whole", "scale"), [(True, 1), (False, 2)])
def test_crops_are_cut_from_the_whole_picture_only_when_that_is_asked_for(tmp_path: Path, whole: bool, scale: int):
    path = tmp_path / "large.jpg"
    Image.fromarray(np.random.default_rng(4).integers(0, 255, (30, 40, 3), np.uint8)).resize((2000, 1500)).save(path)
    [found] = scan([path])
    box = (0.0, 0.0, 2000.0, 1500.0)
    facts = read_photo(path)
    job = replace(
        photos.read(Job(found, place_of(tmp_path), None)),
        reading=replace(facts, picture=None),
        detections=[Detection(box, 0.9, "animal", "animal")],
    )
    [crop] = photos.cut(job, CropSettings(), None, whole).crops
    picture = read_photo(path, None if scale == 1 else 1000).picture
    assert crop.jpeg == cut_crop(picture, (0, 0, 2000, 1500), (800, 600), scale=scale)
