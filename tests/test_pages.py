"""Galleries and sheets: self-contained, in order, safe for people, and harmless whatever the names."""

from __future__ import annotations

import base64
import io
import re
from html import escape
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from care_cli.catalog import Catalog
from care_cli.decisions import Decision
from care_cli.errors import CareError
from care_cli.images import cut_crop, read_photo
from care_cli.pages import gallery
from care_cli.pages.sheet import CELL, COLOURS, ROWS, QuerySheetRow, identify_sheet, individual_sheet
from care_cli.records import Crop, Detection, ModelSpec

STRIPES = (np.indices((600, 800)).sum(0) // 20 % 2 * 255).astype(np.uint8)[..., None].repeat(3, 2)  # 20 px wide


class Page(HTMLParser):
    """What is on a page: elements with their attributes, and its text."""

    def __init__(self, path: Path):
        super().__init__()
        self.elements: list[tuple[str, dict]] = []
        self.text: list[str] = []
        self.feed(path.read_text("utf-8"))

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))

    def handle_data(self, data):
        self.text.append(data)

    def of(self, tag: str) -> list[dict]:
        return [attributes for name, attributes in self.elements if name == tag]

    def pictures(self) -> list[np.ndarray]:
        sources = [image["src"] for image in self.of("img")]
        assert all(source.startswith("data:image/jpeg;base64,") for source in sources)
        return [np.asarray(Image.open(io.BytesIO(base64.b64decode(source.partition(",")[2])))) for source in sources]

    def kinds(self) -> list[str]:
        return [figure["class"] for figure in self.of("figure")]

    def names(self) -> list[str]:
        return [name["title"] for name in self.of("strong")]


class Survey:
    """A catalog with real files; photos are added one by one."""

    def __init__(self, folder: Path):
        self.folder = folder / "card"
        self.folder.mkdir()
        self.catalog = Catalog(folder / "care.db", create=True)
        self.source = self.catalog.add_source("v", b"card", "card", self.folder.as_posix())
        spec = ModelSpec("tiny", "detector", "ultralytics", sha256="b" * 64, shown=0.3)
        self.run = self.catalog.begin_run("detect", {}, spec)
        self.count = 0

    def add(self, name: str, *found: tuple[str, float, tuple], data: bytes | None = None) -> int:
        """A photo with these (category, confidence, box); striped, and unlike all others in its last pixel."""
        self.count += 1
        if data is None:
            pixels = STRIPES.copy()
            pixels[-8:, -8:] = self.count
            stream = io.BytesIO()
            Image.fromarray(pixels).save(stream, "JPEG", quality=95)
            data = stream.getvalue()
        path = self.folder / name
        path.write_bytes(data)
        reading = read_photo(path)
        crops = []
        for category, confidence, box in found:
            animal = category == "animal"
            pixels = {"jpeg": cut_crop(reading.picture, box, box[2:]), "size": box[2:]} if animal else {}
            crops.append(Crop(Detection(box, confidence, category, category), box, **pixels))
        with self.catalog.transaction():
            image = self.catalog.add_image(reading.photo, None)
            status = path.stat()
            self.catalog.add_file(
                self.source, name.encode(), name, status.st_size, status.st_mtime_ns, image_id=image
            )  # fmt: skip
            self.catalog.add_crops(self.run, image, crops)
        return image


@pytest.fixture
def survey(tmp_path):
    made = Survey(tmp_path)
    yield made
    made.catalog.close()


def test_order_boxes_names_and_filters(survey, tmp_path):
    survey.add("1 empty.jpg")
    survey.add("2 car.jpg", ("vehicle", 0.8, (10, 10, 50, 50)))
    survey.add("3 broken.jpg", data=b"nothing to see")
    survey.add("4 both.jpg", ("person", 0.9, (0, 0, 80, 60)), ("animal", 0.9, (400, 300, 200, 150)))
    survey.add("5 faint.jpg", ("animal", 0.2, (400, 300, 200, 150)))  # below what is shown
    survey.catalog.decide(Decision("create", crop_id=3, value="Luna"))
    [path] = gallery.write_gallery(survey.catalog, tmp_path / "g.html")
    page = Page(path)
    assert page.names() == ["4 both.jpg", "2 car.jpg", "1 empty.jpg", "5 faint.jpg", "3 broken.jpg"]
    assert page.kinds() == ["animal person", "vehicle", "empty", "empty", "unreadable"]
    frames = [frame["style"] for frame in page.of("i") if frame["class"] == "animal"]
    assert frames == ["left:50.00%;top:50.00%;width:25.00%;height:25.00%"]
    text = " ".join(page.text)
    reason = read_photo(survey.folder / "3 broken.jpg").photo.failure
    assert all(said in text for said in ("Luna, animal 0.90", "person 0.90", reason, "1 file could not be read"))
    assert [button["value"] for button in page.of("button")] == ["all", "animal", "person", "vehicle", "empty",
                                                                "unreadable"]  # fmt: skip
    assert len(page.pictures()) == 4 and all(picture.shape == (360, 480, 3) for picture in page.pictures())


def test_only_the_photos_that_were_asked_for(survey, tmp_path):
    wanted = [survey.add("a.jpg"), survey.add("b.jpg"), survey.add("c.jpg")][::2]
    [path] = gallery.write_gallery(survey.catalog, tmp_path / "g.html", wanted)
    assert Page(path).names() == ["a.jpg", "c.jpg"]
    [path] = gallery.write_gallery(survey.catalog, tmp_path / "none.html", [])
    assert Page(path).names() == []


def test_unread_files_are_named_for_all_or_for_the_scan_shown(survey, tmp_path):
    image = survey.add("a.jpg")
    survey.catalog.begin_meeting()
    for name in ("lost.jpg", "met.jpg"):
        row = survey.catalog.add_file(survey.source, name.encode(), name, 1, 1, failure="Input/output error")
    survey.catalog.meet([row])
    for images, named in ((None, {"lost.jpg", "met.jpg"}), ([image], {"met.jpg"})):
        [path] = gallery.write_gallery(survey.catalog, tmp_path / "g.html", images)
        text = "".join(Page(path).text)
        assert {name for name in ("lost.jpg", "met.jpg") if name in text} == named


def test_people_are_blurred_in_the_picture_itself(survey, tmp_path):
    box = (200, 100, 240, 360)  # in the 480 px picture: 120, 60, 144, 216, and 10 % more on each side
    survey.add("shown.jpg", ("person", 0.9, box))
    survey.add("faint.jpg", ("person", 0.12, box))  # not shown, blurred all the same
    survey.add("said.jpg", ("animal", 0.9, box))
    survey.catalog.decide(Decision("category", crop_id=3, value="person"))
    [path] = gallery.write_gallery(survey.catalog, tmp_path / "g.html")
    for picture in Page(path).pictures():
        inside = picture[60 - 20 : 60 + 216 + 20, 120 - 13 : 120 + 144 + 13]
        steps = np.abs(np.diff(inside.astype(int), axis=1))
        assert steps.max() < 60 and steps.mean() < 4  # stripes of 12 px have steps of 255
        assert np.abs(np.diff(picture[:30].astype(int), axis=1)).max() > 150  # beyond the box all is sharp
    [path] = gallery.write_gallery(survey.catalog, tmp_path / "sharp.html", blur=False)
    assert all(np.abs(np.diff(one[100:200, 150:250].astype(int), axis=1)).max() > 150 for one in Page(path).pictures())
    assert "People are blurred" not in path.read_text("utf-8")


def test_a_card_that_is_gone_leaves_the_stored_crops(survey, tmp_path):
    survey.add("a.jpg", ("animal", 0.9, (400, 300, 200, 150)))
    survey.add("b.jpg", ("person", 0.9, (0, 0, 100, 100)))
    survey.folder.rename(tmp_path / "away")
    [path] = gallery.write_gallery(survey.catalog, tmp_path / "g.html")
    [picture] = Page(path).pictures()
    crop = picture[180:270, 240:360].astype(float)
    assert crop.std() > 100  # stripes where the crop lies, and the empty colour elsewhere
    assert np.abs(picture[:160, :230].astype(int) - gallery.EMPTY_COLOUR).max() < 4
    assert "not at hand" in path.read_text("utf-8")


def test_another_card_at_the_same_place_is_not_shown_for_this_one(survey, tmp_path):
    survey.add("IMG_1.jpg")
    file = survey.folder / "IMG_1.jpg"
    other = bytearray(file.read_bytes())
    other[-100] ^= 0xFF
    file.write_bytes(other)  # same name and size, another photo
    [path] = gallery.write_gallery(survey.catalog, tmp_path / "g.html")
    assert Page(path).pictures() == []
    other[-100] ^= 0xFF
    file.write_bytes(other)  # the same bytes, copied a moment ago
    [path] = gallery.write_gallery(survey.catalog, tmp_path / "g.html")
    assert len(Page(path).pictures()) == 1


def test_pages_are_limited_and_linked_and_older_ones_go(survey, tmp_path, monkeypatch):
    for number in range(7):
        survey.add(f"{number}.jpg")
    monkeypatch.setattr(gallery, "PHOTOS", 3)
    pages = gallery.write_gallery(survey.catalog, tmp_path / "my gallery.html")
    assert [path.name for path in pages] == ["my gallery.html", "my gallery-2.html", "my gallery-3.html"]
    read = [Page(path) for path in pages]
    assert [len(page.kinds()) for page in read] == [3, 3, 1]
    assert [name for page in read for name in page.names()] == [f"{number}.jpg" for number in range(7)]
    links = [{(link["rel"], link["href"]) for link in page.of("a")} for page in read]
    assert links == [
        {("next", "my%20gallery-2.html")},
        {("prev", "my%20gallery.html"), ("next", "my%20gallery-3.html")},
        {("prev", "my%20gallery-2.html")},
    ]
    monkeypatch.setattr(gallery, "PHOTOS", 500)
    gallery.write_gallery(survey.catalog, tmp_path / "my gallery.html")
    assert [path.name for path in tmp_path.glob("*.html*")] == ["my gallery.html"]
    heavy = (tmp_path / "my gallery.html").stat().st_size
    monkeypatch.setattr(gallery, "BYTES", heavy // 2 + gallery.FRAME)
    pages = gallery.write_gallery(survey.catalog, tmp_path / "my gallery.html")
    assert len(pages) >= 2 and max(path.stat().st_size for path in pages) < gallery.BYTES
    (tmp_path / "mine-2.html").write_text("my own")
    gallery.write_gallery(survey.catalog, tmp_path / "mine.html", [])
    assert (tmp_path / "mine-2.html").read_text() == "my own"


def test_names_cannot_break_out_and_nothing_loads_from_anywhere(survey, tmp_path):
    evil = "\"><script>alert(1)</script><img src='http://x' onerror=alert(1)>"
    survey.add("x.jpg", ("animal", 0.9, (100, 100, 50, 50)))
    survey.catalog.decide(Decision("create", crop_id=1, value=evil))
    survey.catalog.decide(Decision("species", crop_id=1, value=evil))
    survey.catalog.db.conn.execute("UPDATE image_files SET path = ?", (evil,))
    [path] = gallery.write_gallery(survey.catalog, tmp_path / "g.html", title=evil)
    page = Page(path)
    assert len(page.of("script")) == 1 and not page.of("link") and not page.of("iframe")
    assert not any(key.startswith("on") for _, attributes in page.elements for key in attributes)
    loads = [value for _, attributes in page.elements for key, value in attributes.items() if key in ("src", "srcset")]
    assert loads and all(value.startswith("data:") for value in loads)
    assert not re.search(r"url\(|@import|fetch\(|https?://", path.read_text("utf-8").replace(escape(evil), ""))
    [policy] = [meta["content"] for meta in page.of("meta") if meta.get("http-equiv") == "Content-Security-Policy"]
    assert policy.startswith("default-src 'none'; img-src data:;")
    assert "".join(page.text).count(evil) >= 3  # shown as it is


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("g.txt", "FILE.html"),
        ("no/g.html", "no folder"),
        ("card/g.html", "scanned"),
        ("mine.html", "is no gallery"),
    ],
)
def test_places_where_no_gallery_can_go(survey, tmp_path, name, says):
    (tmp_path / "mine.html").write_text("<html>my own page")
    survey.catalog.begin_meeting()
    survey.catalog.finish_meeting(survey.source, whole=True)
    with pytest.raises(CareError, match=says):
        gallery.write_gallery(survey.catalog, tmp_path / name)
    assert (tmp_path / "mine.html").read_text() == "<html>my own page" and not list(survey.folder.iterdir())


def test_damaged_and_turned_real_photos(survey, tmp_path, shared):
    for photo in sorted((shared / "data" / "camera_trap" / "speciesnet_edge_cases").glob("african_elephants*.jpg")):
        survey.add(photo.name, data=photo.read_bytes())
    [path] = gallery.write_gallery(survey.catalog, tmp_path / "g.html")
    page = Page(path)
    pictures = dict(zip(page.names(), page.pictures(), strict=True))
    assert len(pictures) == 5 and {picture.shape for picture in pictures.values()} == {(360, 480, 3)}
    whole = pictures["african_elephants.jpg"].astype(int)
    assert np.abs(pictures["african_elephants_with_exif_orientation.jpg"] - whole).mean() < 12
    assert np.abs(pictures["african_elephants_truncated_file.jpg"] - whole)[:250].mean() < 3
    assert "cut off" in " ".join(page.text)


# -- sheets


def flat(colour: tuple[int, int, int], size=(80, 60)) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", size, colour).save(stream, "JPEG", quality=95)
    return stream.getvalue()


def close(pixel, colour, tolerance=12) -> bool:
    return bool(np.abs(np.asarray(pixel, int) - colour).max() <= tolerance)


RED, GREEN, BLUE = (200, 20, 20), (20, 160, 20), (20, 20, 200)


def test_a_query_stands_beside_its_candidates(tmp_path):
    rows = [
        QuerySheetRow("a.jpg", flat(RED), "known", "0.9 is at least 0.8",
                      [("Луна", 0.9, 0.97, flat(GREEN)), ("Bo", 0.2, None, flat(BLUE, (60, 80)))]),
        QuerySheetRow("b.jpg", None, "new", "the catalog holds no candidate", []),
        QuerySheetRow("c.jpg", b"damaged", "unsure", "between the thresholds", [("Bo", -0.3, None, None)]),
    ]  # fmt: skip
    [path] = identify_sheet(rows, tmp_path / "s.jpg")
    sheet = np.asarray(Image.open(path))
    found = {}
    for name, colour in (("query", RED), ("first", GREEN), ("second", BLUE)):
        y, x = np.nonzero((np.abs(sheet.astype(int) - colour) < 12).all(-1))
        found[name] = (x.min(), x.max(), y.min(), y.max())
    # whole crops, each in its own cell, in order, side by side
    assert found["query"][1] < found["first"][0] and found["first"][1] < found["second"][0]
    assert (
        abs(found["first"][1] - found["first"][0] - CELL) < 10
        and abs(found["second"][3] - found["second"][2] - CELL) < 10
    )
    middles = [(top + bottom) / 2 for _, _, top, bottom in found.values()]
    assert max(middles) - min(middles) < 3
    height = (sheet.shape[0]) // 3
    for part, verdict in enumerate(("known", "new", "unsure")):
        colour = [int(COLOURS[verdict][start : start + 2], 16) for start in (1, 3, 5)]
        area = sheet[part * height + 20 : (part + 1) * height, : found["first"][0] - 6]
        assert (np.abs(area.astype(int) - colour) < 12).all(-1).sum() > 500, verdict


def test_long_sheets_go_on_in_another_file(tmp_path):
    rows = [QuerySheetRow(str(number), flat(RED), "new", "", []) for number in range(ROWS + 1)]
    paths = identify_sheet(rows, tmp_path / "s.jpeg")
    assert [path.name for path in paths] == ["s.jpeg", "s-2.jpeg"]
    assert Image.open(paths[0]).height > 10 * Image.open(paths[1]).height
    with pytest.raises(CareError, match=r"FILE\.jpg"):
        identify_sheet(rows, tmp_path / "s.png")
    assert len(identify_sheet([], tmp_path / "none.jpg")) == 1


def test_an_animal_on_one_sheet(tmp_path):
    colours = [(25 * number, 240 - 25 * number, 120) for number in range(7)]
    [path] = individual_sheet("Žofie " + "very " * 60, [(flat(one, (80, 80)), "2020 · ridge") for one in colours],
                              tmp_path / "i.jpg")  # fmt: skip
    sheet = np.asarray(Image.open(path))
    places = []
    for colour in colours:
        y, x = np.nonzero((np.abs(sheet.astype(int) - colour) < 10).all(-1))
        assert len(x) > 0.95 * CELL**2
        places.append((round(np.median(y), -2), np.median(x)))
    assert places == sorted(places) and len({row for row, _ in places}) == 2  # five in a line, in order
