"""The volume of real folders, and the written forms of serial numbers."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from care_cli import volumes
from care_cli.volumes import volume_of


def test_one_volume_has_one_identifier(tmp_path):
    (tmp_path / "a/b").mkdir(parents=True)
    (tmp_path / "a/b/x.jpg").touch()
    found = {volume_of(path) for path in (tmp_path, tmp_path / "a/b", tmp_path / "a/b/x.jpg")}
    assert len(found) == 1
    (volume,) = found
    assert volume.mount.is_mount() and tmp_path.resolve().is_relative_to(volume.mount)
    assert volume.mount.stat().st_dev == tmp_path.stat().st_dev
    kind, value = volume.id.split(":", 1)
    assert kind in ("uuid", "fsid", "device") and value


def test_no_need_of_what_windows_has_since_python_3_12(tmp_path, monkeypatch):
    expected = volume_of(tmp_path)

    def absent(path):
        raise NotImplementedError

    monkeypatch.setattr(type(tmp_path), "is_mount", absent)
    assert volume_of(tmp_path) == expected


@pytest.mark.skipif(not Path("/dev/shm").is_mount(), reason="no second volume is mounted here")
def test_two_volumes_differ_and_links_are_followed(tmp_path):
    other = volume_of(Path("/dev/shm"))
    (tmp_path / "link").symlink_to("/dev/shm")
    assert other.id != volume_of(tmp_path).id or tmp_path.is_relative_to("/dev/shm")
    assert volume_of(tmp_path / "link") == other


@pytest.mark.skipif(sys.platform != "linux", reason="how Linux lists its disks")
def test_linux_disks_are_found_by_their_device_number(tmp_path, monkeypatch):
    # a character device stands for the card: links to devices are all that the search looks at
    (tmp_path / "1A2B-3C4D").symlink_to("/dev/zero")
    (tmp_path / "0-gone").symlink_to("/dev/no-such-disk")
    (tmp_path / "0000-0001").symlink_to("/dev/null")
    monkeypatch.setattr(volumes, "DISKS_BY_UUID", tmp_path)
    assert volumes._linux_uuid(Path("/dev/zero").stat().st_rdev) == "uuid:1A2B-3C4D"
    assert volumes._linux_uuid(12345678) is None
    monkeypatch.setattr(volumes, "DISKS_BY_UUID", tmp_path / "none")
    assert volumes._linux_uuid(Path("/dev/zero").stat().st_rdev) is None


def test_windows_serials_read_as_on_linux():
    assert volumes._windows_serial(0x1A2B3C4D) == "uuid:1A2B-3C4D"
    assert volumes._windows_serial(0x00000001) == "uuid:0000-0001"
    assert volumes._windows_serial(0x01D9A0B0C0D0E0F0) == "uuid:01D9A0B0C0D0E0F0"
    assert volumes._windows_serial(0) is None
