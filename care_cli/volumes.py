"""Which file system holds a path, by an identifier that stays when it is mounted elsewhere."""

from __future__ import annotations

import os
import plistlib
import subprocess
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

DISKS_BY_UUID = Path("/dev/disk/by-uuid")  # Linux
DISKUTIL_SECONDS = 10


@dataclass(frozen=True)
class Volume:
    """A file system: its identifier (kind and value, such as 'uuid:1A2B-3C4D') and where it is mounted."""

    id: str
    mount: Path


def volume_of(path: Path) -> Volume:
    """The volume that holds an existing path.

    The identifier is the file system's own UUID or serial number, which for a FAT card is the same on
    Linux and Windows; else what the system says instead, at worst the device number of this mount.
    """
    mount = path.resolve()
    while not os.path.ismount(mount) and mount != mount.parent:  # Path.is_mount fails on Windows before 3.12
        mount = mount.parent
    device = path.stat().st_dev
    if sys.platform == "win32":
        found = _windows_serial(device)
    elif sys.platform == "darwin":
        found = _macos_uuid(mount)
    else:
        found = _linux_uuid(device)
    return Volume(found or _system_id(mount) or f"device:{device:x}", mount)


def _linux_uuid(device: int) -> str | None:
    links = sorted(DISKS_BY_UUID.iterdir()) if DISKS_BY_UUID.is_dir() else []
    for link in links:
        with suppress(OSError):  # a disk may go away at any time
            if link.stat().st_rdev == device:
                return f"uuid:{link.name}"
    return None


def _windows_serial(device: int) -> str | None:
    """As Linux writes it: FAT's 32 bits in two halves, NTFS' 64 bits in one piece."""
    if device == 0:
        return None
    if device < 2**32:
        return f"uuid:{device >> 16:04X}-{device & 0xFFFF:04X}"
    return f"uuid:{device:016X}"


def _macos_uuid(mount: Path) -> str | None:
    command = ["/usr/sbin/diskutil", "info", "-plist", str(mount)]
    try:
        answer = subprocess.run(command, capture_output=True, timeout=DISKUTIL_SECONDS, check=True)
        uuid = plistlib.loads(answer.stdout).get("VolumeUUID")
    except (OSError, subprocess.SubprocessError, plistlib.InvalidFileException, ValueError):
        return None
    return f"uuid:{uuid}" if uuid else None


def _system_id(mount: Path) -> str | None:
    if not hasattr(os, "statvfs"):
        return None
    try:
        number = os.statvfs(mount).f_fsid
    except OSError:
        return None
    return f"fsid:{number:x}" if number else None
