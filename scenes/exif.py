"""The EXIF block that a camera writes into its photos."""

from __future__ import annotations

from datetime import datetime

from PIL import Image
from PIL.TiffImagePlugin import IFDRational

from .places import Location

EXIF_BLOCK, GPS_BLOCK = 0x8769, 0x8825
FLASH_FIRED = 1


def _degrees(angle: float) -> tuple[IFDRational, IFDRational, IFDRational]:
    seconds = round(abs(angle) * 3600 * 100)
    whole, rest = divmod(seconds, 360000)
    minutes, hundredths = divmod(rest, 6000)
    return IFDRational(whole, 1), IFDRational(minutes, 1), IFDRational(hundredths, 100)


def camera_exif(location: Location, when: datetime, infrared: bool, orientation: int = 1) -> Image.Exif:
    """Date with hundredths of a second, camera, serial number, orientation and position."""
    exif = Image.Exif()
    exif[0x010F], exif[0x0110] = location.make, location.model
    exif[0x0112] = orientation
    exif[0x0131] = "CARE scenes"
    exif[0x0132] = f"{when:%Y:%m:%d %H:%M:%S}"
    details = exif.get_ifd(EXIF_BLOCK)
    details[0x829A] = IFDRational(1, 30 if infrared else 250)
    details[0x8827] = 1600 if infrared else 100
    details[0x9003] = details[0x9004] = f"{when:%Y:%m:%d %H:%M:%S}"
    details[0x9209] = FLASH_FIRED if infrared else 0
    details[0x9291] = f"{when.microsecond // 10000:02d}"
    details[0xA431] = location.serial
    position = exif.get_ifd(GPS_BLOCK)
    position[1], position[2] = "N" if location.latitude >= 0 else "S", _degrees(location.latitude)
    position[3], position[4] = "E" if location.longitude >= 0 else "W", _degrees(location.longitude)
    return exif
