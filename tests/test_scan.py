"""Scanning of real folders made for the purpose: odd names, circles, pipes, folders that vanish."""

from __future__ import annotations

import os
import socket
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from care_cli.errors import CareError
from care_cli.scan import (
    Found,
    Unreadable,
    deployment_folder,
    deployment_name,
    display_path,
    parse_path,
    scan,
)

posix = pytest.mark.skipif(os.name == "nt", reason="Windows has no such files")
any_bytes_in_names = pytest.mark.skipif(sys.platform != "linux", reason="only here names are any bytes")


def make(folder: Path, *names: str | bytes) -> None:
    for name in names:
        path = folder / os.fsdecode(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")


def relatives(*paths: Path) -> list[bytes]:
    return [found.relative for found in scan(paths) if isinstance(found, Found)]


def test_extensions_in_any_case_and_nothing_else(tmp_path):
    make(tmp_path, "a.jpg", "b.JPG", "c.JpEg", "d.png", "e.TIF", "f.tiff", "g.bmp", "h.WebP")
    make(tmp_path, "i.txt", "jpg", "k.jpg.xmp", "l.mp4", "m.gif", "n.jpg~", "o")
    assert relatives(tmp_path) == [
        b"a.jpg",
        b"b.JPG",
        b"c.JpEg",
        b"d.png",
        b"e.TIF",
        b"f.tiff",
        b"g.bmp",
        b"h.WebP",
    ]


def test_facts_and_order(tmp_path):
    make(tmp_path, "b/z.jpg", "b/a.jpg", "a/DCIM/100CARE_/2.jpg", "a/DCIM/100CARE_/1.jpg", "c.jpg")
    os.utime(tmp_path / "b/a.jpg", ns=(0, 1_234_567_890_123_456_700))
    found = list(scan([tmp_path]))
    assert [one.relative for one in found] == [
        b"c.jpg",
        b"a/DCIM/100CARE_/1.jpg",
        b"a/DCIM/100CARE_/2.jpg",
        b"b/a.jpg",
        b"b/z.jpg",
    ]
    assert {one.root for one in found} == {tmp_path} and {one.bytes for one in found} == {1}
    assert found[3].mtime_ns == (tmp_path / "b/a.jpg").stat().st_mtime_ns
    assert all(one.path.read_bytes() == b"x" for one in found)


def test_hidden_and_system_entries_are_skipped(tmp_path):
    make(tmp_path, "x.jpg", ".hidden.jpg", "._x.jpg", ".Trashes/a.jpg", ".Spotlight-V100/a.jpg")
    make(tmp_path, "$RECYCLE.BIN/a.jpg", "System Volume Information/a.jpg", "@eaDir/a.jpg", "__MACOSX/a.jpg")
    make(tmp_path, "lost+found/a.jpg", "Thumbs.db", "deep/@eaDir/a.jpg", "deep/y.jpg")
    assert relatives(tmp_path) == [b"x.jpg", b"deep/y.jpg"]


def test_what_is_named_is_tried(tmp_path):
    make(tmp_path, ".card/x.jpg", "photo.dat", ".odd.jpg")
    assert relatives(tmp_path / ".card") == [b"x.jpg"]
    (found,) = scan([tmp_path / "photo.dat"])
    assert (found.root, found.relative) == (tmp_path, b"photo.dat")
    assert relatives(tmp_path / ".odd.jpg") == [b".odd.jpg"]


def test_each_file_once_however_it_is_reached(tmp_path, monkeypatch):
    make(tmp_path, "a/x.jpg", "a/b/y.jpg", "a/b/z.jpg")
    for paths in (
        [tmp_path, tmp_path / "a", tmp_path / "a/b"],
        [tmp_path / "a/b", tmp_path],
        [tmp_path / "a", tmp_path / "a/x.jpg", tmp_path / "a/x.jpg", tmp_path / "a/b/y.jpg"],
        [tmp_path, tmp_path],
    ):
        names = [found.path.name for found in scan(paths)]
        assert sorted(names) == ["x.jpg", "y.jpg", "z.jpg"], paths
    monkeypatch.chdir(tmp_path / "a")
    assert [found.root for found in scan([Path(), Path("../a/x.jpg")])] == [tmp_path / "a"] * 3


def test_a_missing_path_is_refused_before_anything_is_found(tmp_path):
    make(tmp_path, "x.jpg")
    with pytest.raises(CareError, match="no such file or folder"):
        scan([tmp_path, tmp_path / "gone"])
    with pytest.raises(CareError, match="no such file or folder"):
        scan([tmp_path / "x.jpg" / "inside"])


@posix
def test_circles_of_links_end(tmp_path):
    make(tmp_path, "survey/a/x.jpg", "survey/b/y.jpg", "outside/z.jpg", "outside.jpg")
    root = tmp_path / "survey"
    (root / "a/up").symlink_to(root, target_is_directory=True)
    (root / "a/above").symlink_to(tmp_path, target_is_directory=True)
    (root / "b/self").symlink_to("self")
    (root / "0-first").symlink_to(root / "b", target_is_directory=True)
    (root / "link").symlink_to(tmp_path / "outside", target_is_directory=True)
    (root / "again").symlink_to(tmp_path / "outside", target_is_directory=True)
    (tmp_path / "outside/back").symlink_to(root, target_is_directory=True)
    found = list(scan([root]))
    # folders under their own names, a linked folder once, a link onto itself reported
    assert [one.relative for one in found if isinstance(one, Found)] == [b"a/x.jpg", b"b/y.jpg", b"again/z.jpg"]
    assert [one.path for one in found if isinstance(one, Unreadable)] == [os.fsencode(root / "b/self")]


@posix
def test_a_link_beside_a_folder_whose_name_it_starts_with(tmp_path):
    make(tmp_path, "survey2/x.jpg", "survey/z.jpg")
    (tmp_path / "survey2/link").symlink_to(tmp_path / "survey", target_is_directory=True)
    assert relatives(tmp_path / "survey2") == [b"x.jpg", b"link/z.jpg"]


@posix
def test_linked_files_and_broken_links(tmp_path):
    make(tmp_path, "real.jpg")
    (tmp_path / "link.jpg").symlink_to("real.jpg")
    (tmp_path / "broken.jpg").symlink_to("gone.jpg")
    (tmp_path / "broken").symlink_to("gone")
    found = list(scan([tmp_path]))
    assert [one.relative for one in found if isinstance(one, Found)] == [b"link.jpg", b"real.jpg"]
    (broken,) = (one for one in found if isinstance(one, Unreadable))
    assert broken.path.endswith(b"/broken.jpg") and "No such file" in broken.reason


@posix
def test_pipes_sockets_and_devices_are_never_opened(tmp_path, monkeypatch):
    make(tmp_path, "x.jpg")
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "device.jpg").symlink_to("/dev/zero")
    monkeypatch.chdir(tmp_path)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("socket.jpg")
        assert relatives(tmp_path) == [b"x.jpg"]
    (refused,) = scan([tmp_path / "pipe.jpg"])
    assert isinstance(refused, Unreadable) and "not a file" in refused.reason


@any_bytes_in_names
def test_any_byte_in_a_name(tmp_path):
    names = [b"line\nbreak.jpg", b"latin-\xe9\xff.JPG", "höhle ☃.jpg".encode(), b"back\\slash.jpg", b" .jpg"]
    make(tmp_path, *names, b"dir-\xfe/\x01\x7f.jpg")
    found = list(scan([tmp_path]))
    assert sorted(one.relative for one in found) == sorted([*names, b"dir-\xfe/\x01\x7f.jpg"])
    assert all(one.path.read_bytes() == b"x" for one in found)
    assert relatives(tmp_path / os.fsdecode(b"dir-\xfe")) == [b"\x01\x7f.jpg"]


def test_a_folder_that_cannot_be_listed_is_reported(tmp_path):
    make(tmp_path, "a/x.jpg", "b/y.jpg", "c/z.jpg")
    walk = scan([tmp_path])
    assert next(walk).relative == b"a/x.jpg"
    (tmp_path / "b/y.jpg").unlink()
    (tmp_path / "b").rmdir()  # as when a drive lets go in the middle of the work
    lost, last = walk
    assert isinstance(lost, Unreadable) and lost.path.endswith(b"/b") and lost.reason
    assert last.relative == b"c/z.jpg"


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="needs a user whom permissions bind")
def test_a_folder_without_permission_is_reported(tmp_path):
    make(tmp_path, "closed/x.jpg", "open/y.jpg")
    (tmp_path / "closed").chmod(0)
    try:
        refused, found = scan([tmp_path])
        (given_itself,) = scan([tmp_path / "closed"])
    finally:
        (tmp_path / "closed").chmod(0o700)
    assert refused == given_itself == Unreadable(os.fsencode(tmp_path / "closed"), "Permission denied")
    assert found.relative == b"open/y.jpg"


def test_the_same_folder_moved_is_found_alike(tmp_path):
    make(tmp_path, "one/DCIM/100CARE_/x.jpg", "one/DCIM/101CARE_/y.jpg")
    before = relatives(tmp_path / "one")
    (tmp_path / "one").rename(tmp_path / "two")
    assert relatives(tmp_path / "two") == before


@given(st.binary(max_size=60))
def test_display_path_round_trip(path):
    text = display_path(path)
    assert text.isprintable()
    text.encode("utf-8")
    assert parse_path(text) == path


@given(st.text(max_size=40))
def test_display_path_round_trip_of_text(text):
    path = text.encode("utf-8", "surrogatepass")
    assert parse_path(display_path(path)) == path


@pytest.mark.parametrize(
    ("path", "text"),
    [
        (b"DCIM/100CARE_/IMG_0001.JPG", "DCIM/100CARE_/IMG_0001.JPG"),
        ("Höhle ☃.jpg".encode(), "Höhle ☃.jpg"),
        (b"line\nbreak\t.jpg", r"line\x0abreak\x09.jpg"),
        (b"latin \xe9.jpg", r"latin \xe9.jpg"),
        (b"a\\b.jpg", r"a\\b.jpg"),
        (b"a\\x0a.jpg", r"a\\x0a.jpg"),
        ("right‮left".encode(), r"right\xe2\x80\xaeleft"),
    ],
)
def test_display_path_by_hand(path, text):
    assert display_path(path) == text
    assert parse_path(text) == path


@pytest.mark.parametrize("text", ["a\\", "a\\q", "a\\x1", "a\\xzz"])
def test_a_path_with_an_unknown_escape_is_refused(text):
    with pytest.raises(CareError, match="after a backslash"):
        parse_path(text)


@pytest.mark.parametrize(
    ("relative", "folder"),
    [
        (b"siteA/DCIM/100CARE_/x.JPG", b"siteA"),
        (b"siteA/dcim/101recnx/x.JPG", b"siteA"),
        (b"DCIM/100EK113/x.JPG", b""),
        (b"100EK113/x.JPG", b""),
        (b"x.JPG", b""),
        (b"siteA/100RECNX/x.JPG", b"siteA"),
        (b"siteA/DCIM/100/x.JPG", b"siteA"),
        (b"siteA/DCIM/x.JPG", b"siteA"),
        (b"StationB/PBE/x.jpg", b"StationB/PBE"),
        (b"survey/101/x.jpg", b"survey/101"),
        (b"survey/001/x.jpg", b"survey/001"),
        (b"survey/102B/x.jpg", b"survey/102B"),
        (b"2024/cam1/DCIM/100_BTCF/x.jpg", b"2024/cam1"),
        (b"DCIMs/1000CARE_/x.jpg", b"DCIMs/1000CARE_"),
        (b"\xff\n/DCIM/100MEDIA/x.jpg", b"\xff\n"),
    ],
)
def test_deployment_folder(relative, folder):
    assert deployment_folder(relative) == folder


@pytest.mark.parametrize(
    ("root", "folder", "name"),
    [
        ("/media/cards/CARD7", b"", "CARD7"),
        ("/media/cards/CARD7/DCIM", b"", "CARD7"),
        ("/media/cards/CARD7/DCIM/100CARE_", b"", "CARD7"),
        ("/survey", b"siteA", "siteA"),
        ("/survey", b"north/site A", "site A"),
        ("/survey", b"caf\xe9\n", r"caf\xe9\x0a"),
        ("/DCIM", b"", "card"),
    ],
)
@posix
def test_deployment_name(root, folder, name):
    assert deployment_name(Path(root), folder) == name


def test_a_real_card(shared):
    card = shared / "data/camera_trap/sdcard_sdzg1"
    found = list(scan([card]))
    assert [one.relative for one in found] == [b"DCIM/100EK113/EK%06d.JPG" % i for i in range(1, 61)]
    assert {deployment_folder(one.relative) for one in found} == {b""}
    inside = list(scan([card / "DCIM/100EK113"]))
    assert {deployment_name(one.root, deployment_folder(one.relative)) for one in inside} == {card.name}
