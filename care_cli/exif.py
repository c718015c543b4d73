"""What a camera writes about a photo: time, maker, place, temperature. Corrupt EXIF gives fewer facts,
never an exception.
"""

from __future__ import annotations

import math
import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from PIL import Image

LONGEST_TEXT = 100  # characters kept of a maker's string

ORIENTATION, MAKE, MODEL, CAMERA_SERIAL = 0x0112, 0x010F, 0x0110, 0xC62F
EXIF_IFD, GPS_IFD = 0x8769, 0x8825
DATE_TIME_ORIGINAL, SUBSEC_TIME_ORIGINAL = 0x9003, 0x9291
MAKER_NOTE, AMBIENT_TEMPERATURE, BODY_SERIAL = 0x927C, 0x9400, 0xA431
LATITUDE_REF, LATITUDE, LONGITUDE_REF, LONGITUDE = 1, 2, 3, 4

HYPERFIRE = b"\x01\xf1"
RECONYX_LAYOUTS = (  # how the note starts, offset of degrees Celsius, of the serial, bytes a character
    (HYPERFIRE, 0x28, 0x2A, 2),
    (b"RECONYXUF\0", 0x46, 0x4B, 1),  # UltraFire
    (b"RECONYXH2\0", 0x50, 0x7E, 2),  # HyperFire 2
    (b"RECONYXMF\0", 0x60, 0x8C, 2),  # MicroFire
    (b"RECONYXHF4K\0", 0x3A, 0x84, 1),  # HyperFire 4K
)

_DATE = re.compile(r"(\d{4})[:/.-](\d{2})[:/.-](\d{2})[ T](\d{2}):(\d{2}):(\d{2})")


@dataclass(frozen=True)
class Exif:
    """The facts of `records.Photo` that come from EXIF, in the same units; None where not written."""

    orientation: int = 1
    captured_at: str | None = None
    make: str | None = None
    model: str | None = None
    serial: str | None = None
    latitude: float | None = None
    longitude: float | None = None
    temperature_c: float | None = None


def read_exif(image: Image.Image) -> Exif:
    """EXIF of an opened (not necessarily decoded) image, as far as it can be read; never raises."""
    main, exif, gps = _directories(image)
    make = _text(main.get(MAKE))
    note_temperature, note_serial = _reconyx(exif.get(MAKER_NOTE), make)
    latitude, longitude = _position(gps)
    orientation = main.get(ORIENTATION)
    return Exif(
        orientation=orientation if isinstance(orientation, int) and 1 <= orientation <= 8 else 1,
        captured_at=_captured_at(exif.get(DATE_TIME_ORIGINAL), exif.get(SUBSEC_TIME_ORIGINAL)),
        make=make,
        model=_text(main.get(MODEL)),
        serial=_text(exif.get(BODY_SERIAL)) or _text(main.get(CAMERA_SERIAL)) or note_serial,
        latitude=latitude,
        longitude=longitude,
        temperature_c=_first(_temperature(_number(exif.get(AMBIENT_TEMPERATURE))), note_temperature),
    )


def _directories(image: Image.Image) -> tuple[Mapping, Mapping, Mapping]:
    """The main, EXIF and GPS directories as tag -> value; an unreadable one is empty."""
    found: list[Mapping] = []
    for read in (
        lambda: image.getexif(),
        lambda: image.getexif().get_ifd(EXIF_IFD),
        lambda: image.getexif().get_ifd(GPS_IFD),
    ):
        try:
            found.append(dict(read()))
        except Exception:  # Pillow raises whatever the damaged bytes lead to
            found.append({})
    return found[0], found[1], found[2]


def _first(*values: float | None) -> float | None:
    return next((value for value in values if value is not None), None)


def _text(value: object) -> str | None:
    """A maker's string: up to the first NUL, printable characters only; None when nothing is left."""
    if isinstance(value, bytes):
        value = value.decode("latin-1")
    if not isinstance(value, str):
        return None
    kept = "".join(letter for letter in value.split("\0", 1)[0] if letter.isprintable())
    return kept.strip()[:LONGEST_TEXT].rstrip() or None


def _number(value: object) -> float | None:
    try:
        number = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError, ZeroDivisionError):
        return None
    return number if math.isfinite(number) else None


def _captured_at(original: object, subsecond: object) -> str | None:
    """The camera's wall clock, verbatim; None for an absent or impossible date, never a substitute."""
    match = _DATE.fullmatch(_text(original) or "")
    if not match:
        return None
    try:
        datetime(*map(int, match.groups()))
    except ValueError:
        return None
    year, month, day, hour, minute, second = match.groups()
    fraction = _text(subsecond) or ""
    digits = f".{fraction}" if re.fullmatch(r"[0-9]{1,9}", fraction) else ""
    return f"{year}-{month}-{day} {hour}:{minute}:{second}{digits}"


def _position(gps: Mapping) -> tuple[float | None, float | None]:
    """Latitude and longitude in degrees; both None unless both are written, signed and possible."""
    latitude = _degrees(gps.get(LATITUDE), gps.get(LATITUDE_REF), "NS", 90.0)
    longitude = _degrees(gps.get(LONGITUDE), gps.get(LONGITUDE_REF), "EW", 180.0)
    # cameras that got no fix write exactly zero, zero
    if latitude is None or longitude is None or (latitude == 0 and longitude == 0):
        return None, None
    return latitude, longitude


def _degrees(value: object, reference: object, signs: str, limit: float) -> float | None:
    sign = (_text(reference) or "?")[0].upper()
    if sign not in signs or not isinstance(value, tuple | list) or len(value) != 3:
        return None
    parts = [_number(part) for part in value]
    if any(part is None or part < 0 for part in parts) or parts[1] >= 60 or parts[2] >= 60:
        return None
    degrees = parts[0] + parts[1] / 60 + parts[2] / 3600
    return round(-degrees if sign == signs[1] else degrees, 7) if degrees <= limit else None


def _temperature(celsius: float | None) -> float | None:
    return celsius if celsius is not None and -90 <= celsius <= 90 else None


def _reconyx(note: object, make: str | None) -> tuple[float | None, str | None]:
    """Temperature in degrees Celsius and serial number from a Reconyx maker note; None, None for others."""
    if not isinstance(note, bytes):
        return None, None
    layout = next((layout for layout in RECONYX_LAYOUTS if note.startswith(layout[0])), None)
    if layout is None:
        return None, None
    start, celsius, serial, width = layout
    # two bytes may open anyone's note: the firmware's major number or the maker's name has to confirm
    if start == HYPERFIRE and note[2:4] not in (b"\2\0", b"\3\0", b"\4\0") and make != "RECONYX":
        return None, None
    text = note[serial : serial + 15 * width]
    return _celsius(note, celsius), _text(text.decode("utf-16-le", "ignore") if width == 2 else text)


def _celsius(note: bytes, offset: int) -> float | None:
    """A little-endian signed 16-bit temperature, checked against its Fahrenheit twin two bytes before."""
    if len(note) < offset + 2:
        return None
    fahrenheit, celsius = struct.unpack_from("<2h", note, offset - 2)
    # cameras truncate or round each for itself; what is further apart is no temperature
    if abs((fahrenheit - 32) * 5 / 9 - celsius) > 2:
        return None
    return _temperature(float(celsius))
