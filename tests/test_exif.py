"""EXIF against bytes built by hand, real cameras, and hostile values."""

from __future__ import annotations

import io
import re
import struct
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from PIL.TiffImagePlugin import IFDRational

from care_cli.exif import Exif, read_exif

# TIFF field types and their struct codes
ASCII, SHORT, RATIONAL, UNDEFINED, SIGNED_RATIONAL = 2, 3, 5, 7, 10


def field(kind: int, value) -> tuple[int, int, bytes]:
    """Type, count and little-endian bytes of one field."""
    if kind in (ASCII, UNDEFINED):
        return kind, len(value), value
    if kind == SHORT:
        return kind, 1, struct.pack("<H", value)
    code = "<II" if kind == RATIONAL else "<ii"
    return kind, len(value), b"".join(struct.pack(code, *pair) for pair in value)


def directory(fields: dict[int, tuple[int, int, bytes]], offset: int) -> bytes:
    """One TIFF directory that lies at `offset`, its long values behind it."""
    head, tail = struct.pack("<H", len(fields)), b""
    after = offset + 2 + 12 * len(fields) + 4
    for tag, (kind, count, value) in sorted(fields.items()):
        place = value.ljust(4, b"\0") if len(value) <= 4 else struct.pack("<I", after + len(tail))
        tail += value if len(value) > 4 else b""
        head += struct.pack("<HHI", tag, kind, count) + place
    return head + bytes(4) + tail


def block(main=(), exif=(), gps=()) -> bytes:
    """EXIF as a camera writes it, from the three directories' fields."""
    main, exif, gps = dict(main), dict(exif), dict(gps)
    pointers = {0x8769: (4, 1, bytes(4)), 0x8825: (4, 1, bytes(4))}
    exif_at = 8 + len(directory(main | pointers, 8))
    gps_at = exif_at + len(directory(exif, exif_at))
    pointers = {0x8769: (4, 1, struct.pack("<I", exif_at)), 0x8825: (4, 1, struct.pack("<I", gps_at))}
    return b"II*\0\x08\0\0\0" + directory(main | pointers, 8) + directory(exif, exif_at) + directory(gps, gps_at)


def read(**directories) -> Exif:
    stream = io.BytesIO()
    Image.new("RGB", (8, 8)).save(stream, "JPEG", exif=b"Exif\0\0" + block(**directories))
    with Image.open(stream) as image:
        return read_exif(image)


def test_everything_that_a_camera_writes():
    found = read(
        main={
            0x010F: field(ASCII, b"CARECAM\0"),
            0x0110: field(ASCII, b"C-1 \0"),
            0x0112: field(SHORT, 8),
            0x0132: field(ASCII, b"2031:01:01 00:00:00\0"),
        },
        exif={
            0x9003: field(ASCII, b"2024:02:29 23:59:58\0"),
            0x9291: field(ASCII, b"047\0"),
            0x9400: field(SIGNED_RATIONAL, [(-75, 10)]),
            0xA431: field(ASCII, b"SN 0815\0"),
        },
        gps={
            1: field(ASCII, b"S\0"),
            2: field(RATIONAL, [(41, 1), (17, 1), (3012, 100)]),
            3: field(ASCII, b"E\0"),
            4: field(RATIONAL, [(174, 1), (46, 1), (0, 1)]),
        },
    )
    assert found == Exif(
        orientation=8,
        captured_at="2024-02-29 23:59:58.047",
        make="CARECAM",
        model="C-1",
        serial="SN 0815",
        latitude=round(-float(41 + Fraction(17, 60) + Fraction(3012, 360000)), 7),
        longitude=round(174 + 46 / 60, 7),
        temperature_c=-7.5,
    )


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        (b"2014:07:01 15:22:09\0", "2014-07-01 15:22:09"),
        (b"2014-07-01T15:22:09\0", "2014-07-01 15:22:09"),
        (b"0000:00:00 00:00:00\0", None),
        (b"2014:13:01 15:22:09\0", None),
        (b"2023:02:29 15:22:09\0", None),
        (b"2014:07:01 24:00:00\0", None),
        (b"2014:07:01 15:22:60\0", None),
        (b"    :  :     :  :  \0", None),
        (b"2014:07:01\0", None),
        (b"yesterday, at dusk!\0", None),
        (b"\xb2014:07:01 15:22:0\0", None),
    ],
)
def test_dates_are_verbatim_or_absent(written, expected):
    other = {0x9004: field(ASCII, b"2001:01:01 01:01:01\0")}
    main = {0x0132: field(ASCII, b"2001:01:01 01:01:01\0")}
    assert read(main=main, exif={0x9003: field(ASCII, written), **other}).captured_at == expected


def test_no_other_date_stands_in():
    main = {0x0132: field(ASCII, b"2001:01:01 01:01:01\0")}
    assert read(main=main, exif={0x9004: field(ASCII, b"2001:01:01 01:01:01\0")}).captured_at is None


@pytest.mark.parametrize(("subsecond", "ending"), [(b"5 \0", ".5"), (b"\0", ""), (b"4x\0", ""), (b"00\0", ".00")])
def test_sub_seconds(subsecond, ending):
    exif = {0x9003: field(ASCII, b"2014:07:01 15:22:09\0"), 0x9291: field(ASCII, subsecond)}
    assert read(exif=exif).captured_at == "2014-07-01 15:22:09" + ending


def position(latitude, longitude, north=b"N\0", east=b"E\0"):
    gps = {2: field(RATIONAL, latitude), 4: field(RATIONAL, longitude)}
    gps |= {1: field(ASCII, north)} if north else {}
    gps |= {3: field(ASCII, east)} if east else {}
    found = read(gps=gps)
    return found.latitude, found.longitude


def test_positions():
    half = [(10, 1), (30, 1), (0, 1)]
    zero = [(0, 1), (0, 1), (0, 1)]
    assert position(half, half) == (10.5, 10.5)
    assert position(half, half, b"s\0", b"w\0") == (-10.5, -10.5)
    assert position(half, zero) == (10.5, 0)
    assert position([(21, 2), (0, 1), (0, 1)], half) == (10.5, 10.5)


@pytest.mark.parametrize(
    "arguments",
    [
        ([(0, 1)] * 3, [(0, 1)] * 3, None, None),
        ([(0, 1)] * 3, [(0, 1)] * 3),
        ([(10, 1), (30, 1), (0, 1)], [(10, 1), (30, 1), (0, 1)], None),
        ([(10, 1), (30, 1), (0, 1)], [(10, 1), (30, 1), (0, 1)], b"X\0"),
        ([(1, 0), (30, 1), (0, 1)], [(10, 1), (30, 1), (0, 1)]),
        ([(0, 0), (0, 0), (0, 0)], [(0, 0), (0, 0), (0, 0)]),
        ([(90, 1), (30, 1), (0, 1)], [(10, 1), (30, 1), (0, 1)]),
        ([(10, 1), (30, 1), (0, 1)], [(180, 1), (0, 1), (1, 1)]),
        ([(10, 1), (60, 1), (0, 1)], [(10, 1), (0, 1), (0, 1)]),
        ([(10, 1)], [(10, 1), (0, 1), (0, 1)]),
        ([(4294967295, 1), (0, 1), (0, 1)], [(10, 1), (0, 1), (0, 1)]),
    ],
)
def test_impossible_positions_are_none(arguments):
    assert position(*arguments) == (None, None)


@pytest.mark.parametrize("pair", [(1, 0), (0, 0), (999, 1), (-300, 1)])
def test_impossible_temperatures_are_none(pair):
    assert read(exif={0x9400: field(SIGNED_RATIONAL, [pair])}).temperature_c is None


@pytest.mark.parametrize("orientation", [0, 9, 65535])
def test_impossible_orientations_are_upright(orientation):
    assert read(main={0x0112: field(SHORT, orientation)}).orientation == 1


def test_strings_are_clean_and_bounded():
    found = read(
        main={
            0x010F: field(ASCII, b"\0\0\0\0\0\0\0"),
            0x0110: field(ASCII, b"  E\x1b[31m8\r\n\x07\0left over\0"),
        },
        exif={0xA431: field(ASCII, b"9" * 5000 + b"\0")},
    )
    assert (found.make, found.model, found.serial) == (None, "E[31m8", "9" * 100)


def reconyx(kind: str, fahrenheit: int, celsius: int, serial: str) -> bytes:
    """A maker note with only the fields that CARE reads, where the makers' tables put them."""
    note = bytearray(512)
    start, at, serial_at, coding = {
        "HyperFire": (b"\x01\xf1\x03\0", 0x13 * 2, 0x15 * 2, "utf-16-le"),
        "UltraFire": (b"RECONYXUF\0", 0x44, 0x4B, "ascii"),
        "HyperFire 2": (b"RECONYXH2\0", 0x4E, 0x7E, "utf-16-le"),
        "MicroFire": (b"RECONYXMF\0", 0x5E, 0x8C, "utf-16-le"),
        "HyperFire 4K": (b"RECONYXHF4K\0", 0x38, 0x84, "ascii"),
    }[kind]
    note[: len(start)] = start
    struct.pack_into("<hh", note, at, fahrenheit, celsius)
    note[serial_at : serial_at + len(serial.encode(coding))] = serial.encode(coding)
    return bytes(note)


@pytest.mark.parametrize("kind", ["HyperFire", "UltraFire", "HyperFire 2", "MicroFire", "HyperFire 4K"])
@pytest.mark.parametrize(("fahrenheit", "celsius"), [(71, 21), (71, 22), (-4, -20), (32, 0)])
def test_reconyx_maker_notes(kind, fahrenheit, celsius):
    note = reconyx(kind, fahrenheit, celsius, "H550HH12223408X")
    found = read(exif={0x927C: field(UNDEFINED, note)})
    assert (found.temperature_c, found.serial) == (celsius, "H550HH12223408X")


def test_a_reconyx_temperature_needs_its_fahrenheit_twin():
    for fahrenheit, celsius in ((71, 71), (0, 0), (257, 125)):
        note = reconyx("HyperFire", fahrenheit, celsius, "S")
        assert read(exif={0x927C: field(UNDEFINED, note)}).temperature_c is None


def test_two_bytes_alone_are_no_reconyx():
    note = b"\x01\xf1\x99\0" + reconyx("HyperFire", 71, 22, "S1")[4:]
    exif = {0x927C: field(UNDEFINED, note)}
    assert read(exif=exif).temperature_c is None
    assert read(main={0x010F: field(ASCII, b"RECONYX\0")}, exif=exif).temperature_c == 22


@settings(max_examples=150, deadline=None)
@given(
    st.sampled_from([b"", b"\x01\xf1\x03\0", b"RECONYXUF\0", b"RECONYXH2\0", b"RECONYXMF\0", b"RECONYXHF4K\0"]),
    st.binary(max_size=200),
)
def test_no_maker_note_raises(start, rest):
    found = read(exif={0x927C: field(UNDEFINED, start + rest)})
    assert found.temperature_c is None or -90 <= found.temperature_c <= 90
    assert found.serial is None or (found.serial.isprintable() and len(found.serial) <= 15)


FULL = block(
    main={0x010F: field(ASCII, b"RECONYX\0"), 0x0112: field(SHORT, 6)},
    exif={
        0x9003: field(ASCII, b"2014:07:01 15:22:09\0"),
        0x9400: field(SIGNED_RATIONAL, [(205, 10)]),
        0x927C: field(UNDEFINED, reconyx("HyperFire", 71, 22, "S1")),
    },
    gps={1: field(ASCII, b"N\0"), 2: field(RATIONAL, [(1, 1)] * 3), 3: field(ASCII, b"E\0")},
)


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, len(FULL) - 1), st.integers(0, 255)), max_size=12),
    st.integers(0, len(FULL)),
)
@pytest.mark.filterwarnings("ignore")
def test_no_damaged_exif_raises(changes, length):
    data = bytearray(FULL)
    for place, value in changes:
        data[place] = value
    stream = io.BytesIO()
    Image.new("RGB", (8, 8)).save(stream, "JPEG", exif=b"Exif\0\0" + bytes(data[:length]))
    with Image.open(stream) as image:
        found = read_exif(image)
    assert 1 <= found.orientation <= 8
    assert found.captured_at is None or re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d(\.\d+)?", found.captured_at)
    assert all(text is None or text.isprintable() for text in (found.make, found.model, found.serial))


def test_pillow_gives_rationals_with_a_zero_divisor():
    assert str(float(IFDRational(1, 0))) == "nan"


def test_real_reconyx_photos(shared):
    folder = shared / "data/camera_trap/speciesnet_edge_cases"
    reconyx_photos = 0
    for path in sorted(folder.glob("*.jpg")):
        data = path.read_bytes()
        at = data.find(b"\x01\xf1")
        with Image.open(path) as image:
            note = image.getexif().get_ifd(0x8769).get(0x927C, b"")
            found = read_exif(image)
        if not note.startswith(b"\x01\xf1"):
            assert found.temperature_c is None
            continue
        reconyx_photos += 1
        # the file's own words, found without any EXIF parser
        words = struct.unpack_from("<64H", data, at)
        fahrenheit, celsius = struct.unpack_from("<hh", data, at + 0x13 * 2)
        assert found.temperature_c == celsius
        assert abs((fahrenheit - 32) * 5 / 9 - celsius) < 1
        assert found.serial == "".join(map(chr, words[0x15:0x24])).rstrip("\0")
        second, minute, hour, month, day, year = words[0x0B:0x11]
        if found.captured_at:
            assert found.captured_at == f"{year}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02}"
            assert found.make == "RECONYX"
    assert reconyx_photos == 5


def test_real_cuddeback_thumbnails(shared):
    folder = shared / "data/camera_trap/camtrapr_samples/pictures/sample_images_species_dir"
    names = re.compile(r".*__(\d{4}-\d\d-\d\d)__(\d\d)-(\d\d)-(\d\d)\(\d+\)\.JPG", re.IGNORECASE)
    checked = 0
    for path in sorted(folder.rglob("*.JPG")):
        date, hour, minute, second = names.fullmatch(path.name).groups()
        with Image.open(path) as image:
            found = read_exif(image)
        # the collection's own renaming put DateTimeOriginal into the names
        assert found.captured_at == f"{date} {hour}:{minute}:{second}"
        assert found.model == "CUDDEBACK" and found.temperature_c is None
        checked += 1
    assert checked > 20
