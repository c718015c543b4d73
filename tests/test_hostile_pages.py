"""Pages of names that would break out of them: everything is shown as text, nothing is loaded, nothing runs."""

from __future__ import annotations

import csv
import io
import os
import re
import sys
from html.parser import HTMLParser
from pathlib import Path

import catalogs
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_cli import runner

from care_cli.catalog import Catalog
from care_cli.decisions import Decision
from care_cli.pages import gallery

HOSTILE = (
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "' onmouseover='alert(1)",
    "</style><style>@import 'http://127.0.0.1/x';</style>",
    "</title></head><body onload=alert(1)>",
    "--><!-- <![CDATA[",
    "javascript:alert(1)",
    "data:text/html,<script>alert(1)</script>",
    "&lt;b&gt; &#60;i&#62; &amp;amp;",
    "{{7*7}} ${7*7} %(x)s {0}",
    "url(http://127.0.0.1/x)",
    "<base href=http://127.0.0.1/><meta http-equiv=refresh content=0>",
    "<svg/onload=alert(1)><math><mi//xlink:href='data:x,<script>'>",
    '=HYPERLINK("http://127.0.0.1")',
    "+1+1",
    "@SUM(A1)",
    "-2+3",
)
ELEMENTS = {"html", "head", "meta", "title", "style", "body", "header", "h1", "h2", "p", "nav", "a", "button", "main",
            "section", "h3", "figure", "figcaption", "div", "span", "img", "i", "b", "strong", "small", "script", "br",
            "em", "details", "summary", "ol", "ul", "li", "footer", "table", "tr", "td", "th"}  # fmt: skip


class Page(HTMLParser):
    """Elements with their attributes, and the text of a page."""

    def __init__(self, text: str):
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))

    def handle_data(self, data):
        self.text.append(data)


def is_harmless(text: str) -> Page:
    """The page, when it holds no more scripts than CARE's own and loads nothing from anywhere."""
    page = Page(text)
    tags = [tag for tag, _ in page.elements]
    assert set(tags) <= ELEMENTS and tags.count("script") <= 1 and tags.count("style") <= 1 and tags.count("body") == 1
    for tag, attributes in page.elements:
        assert not any(name.startswith("on") for name in attributes), (tag, attributes)
        for name in ("src", "href", "srcset", "action", "data", "poster", "background", "xlink:href"):
            value = attributes.get(name)
            if value is not None:
                allowed = value.startswith(("data:image/", "#")) or re.fullmatch(r"[\w.%~-]+\.html", value)
                assert allowed, (tag, name, value[:60])
        assert not re.search(r"url\(|expression\(", attributes.get("style") or "")
    [policy] = [one["content"] for tag, one in page.elements if one.get("http-equiv") == "Content-Security-Policy"]
    assert policy.startswith("default-src 'none'; img-src data:;")
    own = re.search(r"<style>(.*?)</style>", text, re.DOTALL)[1]
    assert not re.search(r"url\(|@import|https?:", own)
    assert not any(letter in text for letter in "\0\x1b\u202e\u2066\x7f")
    return page


def named(catalog: Catalog, number: int, text: str) -> None:
    """One photo with the text for every name that there is."""
    run = catalog.latest_run("detect")["id"]
    name = f"{number} {text}"
    image = catalogs.add_photo(catalog, name, f"2024-05-01 12:00:{number % 60:02}", deployment=name)
    [crop] = catalogs.add_crops(catalog, run, image, name, [catalogs.found((40.0, 30.0, 80.0, 60.0), species=text)])
    catalog.decide(Decision("create", crop_id=crop, value=name))
    catalog.decide(Decision("species", crop_id=crop, value=text))


@pytest.fixture
def survey(tmp_path: Path) -> Path:
    with catalogs.new(tmp_path / "care.db") as catalog:
        catalogs.detect_run(catalog)
        for number, text in enumerate(HOSTILE):
            named(catalog, number, text)
        source = catalog.value("SELECT id FROM sources")
        catalog.add_file(source, b"<b>lost</b>.jpg", "<b>lost</b>.jpg", 1, 1, failure="<i>Input/output</i> error")
    return tmp_path / "care.db"


def test_a_gallery_shows_every_hostile_name_as_text(survey: Path, tmp_path: Path) -> None:
    with Catalog(survey) as catalog:
        [path] = gallery.write_gallery(catalog, tmp_path / "g.html", title="<b>&'\"</b>")
    page = is_harmless(path.read_text("utf-8"))
    text = "".join(page.text)
    for number, hostile in enumerate(HOSTILE):
        assert f"{number} {hostile}" in text, hostile
    assert "<b>lost</b>.jpg" in text and "<i>Input/output</i> error" in text and "<b>&'\"</b>" in text


@pytest.mark.skipif(sys.platform != "linux", reason="only here names are any bytes")
def test_a_gallery_of_files_and_folders_of_any_bytes(monkeypatch, capfd, tmp_path: Path, root: Path) -> None:
    photo = (root / "sample_data" / "queries" / "known_01.JPG").read_bytes()
    names = [
        b"<script>1<\xff.jpg",
        b"\"'>\n\x1b[31m\x07.jpg",
        "\u202egpj.\u2066x\x7f.jpg".encode(),
        b"javascript:1.jpg",
    ]
    for number, name in enumerate(names):
        folder = tmp_path / "card" / os.fsdecode(name.removesuffix(b".jpg"))
        folder.mkdir(parents=True)
        (folder / os.fsdecode(name)).write_bytes(photo + bytes([number]))
        (folder / os.fsdecode(b"no " + name)).write_bytes(bytes(number + 1))
    care = runner(monkeypatch, capfd, tmp_path / "care.db")
    done = care("detect", tmp_path / "card", "--model", "demo-detector", "--gallery", tmp_path / "g.html")
    assert done.code == 1 and "Traceback" not in done.err, done.err
    text = "".join(is_harmless((tmp_path / "g.html").read_text("utf-8")).text)
    assert all(said in text for said in ("<script>1<\\xff.jpg", "\\x0a\\x1b[31m\\x07.jpg", "javascript:1.jpg"))


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.text(st.characters(exclude_categories=["Cs", "Cc", "Cf", "Zl", "Zp", "Co", "Cn"]), min_size=1, max_size=40))
def test_no_name_breaks_out(tmp_path: Path, text: str) -> None:
    path = tmp_path / "any.db"
    path.unlink(missing_ok=True)
    with catalogs.new(path) as catalog:
        catalogs.detect_run(catalog)
        catalogs.add_photo(catalog, "a.png", deployment=text)
        [page] = gallery.write_gallery(catalog, tmp_path / "any.html", title=text)
    assert text.strip() in "".join(is_harmless(page.read_text("utf-8")).text)


@pytest.mark.parametrize(
    "name", ["line\nbreak", "nul\0", "\x1b[31m", "right\u202eleft", "zero\u200bwidth", "\ufeff", " "]
)
def test_names_that_cannot_be_seen_are_refused_or_shown_plainly(
    monkeypatch, capfd, survey: Path, tmp_path: Path, name: str
) -> None:
    care = runner(monkeypatch, capfd, survey)
    for command in (("individuals", "rename", "0 " + HOSTILE[0], name), ("crops", "set", "1", "--species", name)):
        done = care(*command)
        assert done.code in (0, 2) and "Traceback" not in done.err, done.err
    out = care("crops").out
    assert out.replace("\n", "").isprintable() and out.count("\n") == len(HOSTILE) + 2
    with Catalog(survey) as catalog:
        [path] = gallery.write_gallery(catalog, tmp_path / "g.html")
    is_harmless(path.read_text("utf-8"))


def test_tables_keep_names_exactly_as_they_are(monkeypatch, capfd, survey: Path, tmp_path: Path) -> None:
    """Exports are for programs that join them by name: a sign that a spreadsheet takes for a formula stays."""
    care = runner(monkeypatch, capfd, survey)
    assert care("export", "csv", tmp_path / "tables").code == 0
    with (tmp_path / "tables" / "crops.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert {row["species"] for row in rows} == set(HOSTILE)
    assert {row["individual"] for row in rows} == {f"{number} {text}" for number, text in enumerate(HOSTILE)}
    listed = list(csv.DictReader(io.StringIO(care("crops", "--csv").out)))
    assert {row["species"] for row in listed} == set(HOSTILE)
    assert "formula" in (tmp_path / "tables" / "README.txt").read_text("utf-8")
