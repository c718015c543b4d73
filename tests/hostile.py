"""Files that mean harm, for tests: photos of every mischief, made from their formats' definitions, and mutations."""

from __future__ import annotations

import io
import os
import random
import re
import struct
import subprocess
import sys
import tempfile
import threading
import time
import zlib
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
BOUND_BY_PERMISSIONS = (  # what makes root a user whom permissions bind, with all else that is root's
    "import ctypes, os, sys; libc = ctypes.CDLL(None); "
    "[libc.prctl(24, capability, 0, 0, 0) for capability in (1, 2)]; "  # PR_CAPBSET_DROP, CAP_DAC_*
    "os.execv(sys.executable, [sys.executable, *sys.argv[1:]])"
)

OK, PARTIAL, UNREADABLE = {"ok"}, {"partial"}, {"unreadable"}
ANY = OK | PARTIAL | UNREADABLE


@dataclass(frozen=True)
class Ended:
    """How a command in a process of its own ended: exit code, streams, seconds, and its peak memory in bytes."""

    code: int
    out: str
    err: str
    seconds: float
    peak: int


def care(*arguments: object, catalog: Path, limit: float = 240, bound: bool = False, **settings) -> Ended:
    """`care` as a process of its own, killed after `limit` seconds. `settings` go to subprocess.Popen.

    With `bound`, permissions bind the process even when root starts it (Linux).
    """
    environment = {key: value for key, value in os.environ.items() if not key.startswith("CARE_")}
    environment |= {"PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "utf-8"} | settings.pop("environment", {})
    start = [sys.executable, "-c", BOUND_BY_PERMISSIONS] if bound and os.geteuid() == 0 else [sys.executable]
    command = [*start, "-m", "care_cli", "--catalog", catalog, "--device", "cpu", *arguments]
    words = [word if isinstance(word, bytes) else str(word) for word in command]
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        started = time.monotonic()
        process = subprocess.Popen(words, env=environment, stdout=out, stderr=err, **settings)
        timer = threading.Timer(limit, process.kill)
        timer.start()
        code, peak = _end(process)
        timer.cancel()
        seconds = time.monotonic() - started
        streams = [stream.seek(0) or stream.read().decode() for stream in (out, err)]
    return Ended(code, *streams, seconds, peak)


def _end(process: subprocess.Popen) -> tuple[int, int]:
    """Exit code and peak memory in bytes of a process; 0 where the system does not say.

    On Linux the peak that `wait4` tells survives `exec`: a child of a big test process would be as big as its
    parent was. The kernel's mark of the child's own memory is read instead, every 10 ms while it lives.
    """
    if not sys.platform.startswith("linux"):
        return process.wait(), 0
    peak = 0
    while process.poll() is None:
        peak = max(peak, _high_water_mark(process.pid))
        time.sleep(0.01)
    return process.returncode, peak


def _high_water_mark(pid: int) -> int:
    """The most memory in bytes that a living process has had since its `exec`; 0 for one that has ended."""
    with suppress(OSError):
        found = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
        return int(found[1]) * 1024 if found else 0
    return 0


# -- photos


def scene(width: int = 64, height: int = 48, seed: int = 0) -> Image.Image:
    """A smooth coloured picture."""
    coarse = np.random.default_rng(seed).integers(0, 255, (6, 8, 3), np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


def encode(image: Image.Image, kind: str, **options) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def png(width: int, height: int, depth: int = 8, colour: int = 2, rows: bytes = bytes(99)) -> bytes:
    """A PNG of any claimed size over the given rows."""

    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(rows, 9)) + chunk(b"IEND", b"")


def jpeg_claiming(width: int, height: int, marker: bytes = b"\xff\xc0", **options) -> bytes:
    """A small JPEG whose frame header (`marker`) claims another size."""
    data = bytearray(encode(scene(), "JPEG", **options))
    start = data.index(marker)
    data[start + 5 : start + 9] = struct.pack(">HH", height, width)
    return bytes(data)


def ycck_jpeg() -> bytes:
    """A CMYK JPEG whose Adobe marker says that it is YCCK."""
    data = bytearray(encode(scene().convert("CMYK"), "JPEG"))
    data[data.index(b"Adobe") + 11] = 2
    return bytes(data)


def arithmetic_jpeg() -> bytes:
    """A JPEG that says its entropy coding is arithmetic, and is not."""
    return encode(scene(), "JPEG").replace(b"\xff\xc0", b"\xff\xc9", 1)


def tiff_claiming(width: int, height: int) -> bytes:
    """A TIFF whose header claims a size."""
    data = encode(scene(), "TIFF")
    for tag, old, new in ((256, 64, width), (257, 48, height)):
        for kind, code in ((3, "<HHIHH"), (4, "<HHII")):
            before = struct.pack(code, tag, kind, 1, old, *([0] if kind == 3 else []))
            data = data.replace(before, struct.pack("<HHII", tag, 4, 1, new))
    return data


def bmp_claiming(width: int, height: int) -> bytes:
    """A BMP whose header claims a size."""
    return b"BM" + bytes(12) + struct.pack("<IiiHHI", 40, width, height, 1, 24, 0) + bytes(99)


def directory(*entries: tuple[int, int, int, int], follow: int = 0) -> bytes:
    """A TIFF directory of (tag, kind, count, value or offset), little-endian, and where the next one is."""
    body = b"".join(struct.pack("<HHII", *entry) for entry in entries)
    return struct.pack("<H", len(entries)) + body + struct.pack("<I", follow)


def with_exif(block: bytes) -> bytes:
    """A good JPEG with this EXIF block, a TIFF file whose first directory is at 8."""
    return encode(scene(), "JPEG", exif=b"Exif\0\0" + block)


def cyclic_exif() -> bytes:
    """All directories are one that follows upon itself."""
    return with_exif(b"II*\0\x08\0\0\0" + directory((0x8769, 4, 1, 8), (0x8825, 4, 1, 8), (0xA005, 4, 1, 8), follow=8))


def boundless_exif() -> bytes:
    """Counts and offsets at the end of what 32 bits can say."""
    far = 0xFFFFFFF0
    entries = [(tag, kind, 0xFFFFFFFF, far) for tag, kind in ((0x010F, 2), (0x0112, 3), (0x9003, 2), (0x927C, 7))]
    return with_exif(b"II*\0\x08\0\0\0" + directory(*entries, (0x8769, 4, 1, 8), (0x8825, 4, 0x20000000, far)))


def crowded_exif() -> bytes:
    """A directory that claims 65,535 entries."""
    return with_exif(b"II*\0\x08\0\0\0\xff\xff" + struct.pack("<HHII", 0x9003, 2, 20, 8) * 40)


def said(date: bytes, latitude: tuple[int, ...] = (0, 0, 0, 0, 0, 0)) -> bytes:
    """A good JPEG of this date and this latitude (degrees, minutes, seconds as pairs), at 10 degrees east."""
    texts = date.ljust(20, b"\0")[:20]
    main = 8 + 2 + 2 * 12 + 4  # where the EXIF directory begins
    gps = main + 2 + 12 + 4
    values = gps + 2 + 4 * 12 + 4
    block = b"II*\0\x08\0\0\0" + directory((0x8769, 4, 1, main), (0x8825, 4, 1, gps))
    block += directory((0x9003, 2, 20, values))
    block += directory(
        (1, 2, 2, ord("N")), (2, 5, 3, values + 20), (3, 2, 2, ord("E")), (4, 5, 3, values + 44)
    )  # fmt: skip
    return with_exif(block + texts + struct.pack("<6I", *latitude) + struct.pack("<6I", 10, 1, 0, 1, 0, 1))


def frames(kind: str, **options) -> bytes:
    """A file of three pictures."""
    first, *others = [scene(seed=seed) for seed in range(3)]
    return encode(first, kind, save_all=True, append_images=others, **options)


def palette_with_transparency() -> bytes:
    return encode(scene().quantize(16), "PNG", transparency=3)


def deep(kind: str) -> bytes:
    levels = np.linspace(0, 65535, 48 * 64).astype(np.uint16).reshape(48, 64)
    return encode(Image.fromarray(levels), kind)


Recipe = tuple[Callable[[], bytes], set[str]]

PHOTOS: dict[str, Recipe] = {  # file name -> (its bytes, the states that are right)
    "empty.jpg": (bytes, UNREADABLE),
    "zeros.jpg": (lambda: bytes(70_000), UNREADABLE),
    "text.jpg": (lambda: b"Dear diary, today we set out the cameras.\n" * 50, UNREADABLE),
    "page.png": (lambda: b"<html><script>alert(1)</script></html>", UNREADABLE),
    "bomb.png": (lambda: png(60_000, 60_000), UNREADABLE),
    "bomb wide.png": (lambda: png(2**31 - 1, 1), UNREADABLE),
    "bomb tall.png": (lambda: png(1, 2**31 - 1), UNREADABLE),
    "bomb of text.png": (lambda: _png_with_text(), ANY),
    "bomb.tif": (lambda: tiff_claiming(60_000, 60_000), UNREADABLE),
    "bomb beyond.tif": (lambda: tiff_claiming(2**32 - 1, 2**32 - 1), UNREADABLE),
    "bomb.webp": (lambda: b"RIFF\x1a\0\0\0WEBPVP8L\r\0\0\0\x2f\xff\xff\xff\x0f" + bytes(9), UNREADABLE),
    "bomb.bmp": (
        lambda: b"BM" + bytes(12) + struct.pack("<IiiHHI", 40, 2**30, 2**30, 1, 24, 0) + bytes(99),
        UNREADABLE,
    ),
    "side across.jpg": (lambda: encode(scene(65_500, 100), "JPEG", quality=40), OK),
    "side down.jpg": (lambda: encode(scene(100, 65_500), "JPEG", quality=40), OK),
    "side thin.jpg": (lambda: encode(scene(65_500, 1), "JPEG"), OK),
    "side square.jpg": (lambda: jpeg_claiming(65_500, 65_500), UNREADABLE),
    "one pixel.png": (lambda: encode(scene(1, 1), "PNG"), OK),
    "no width.jpg": (lambda: jpeg_claiming(0, 48), UNREADABLE),
    "no height.png": (lambda: png(64, 0), UNREADABLE),
    "16 bits.png": (lambda: deep("PNG"), OK),
    "16 bits.tif": (lambda: deep("TIFF"), OK),
    "16 bits colour.png": (lambda: png(8, 8, 16, 2, bytes(8 * 49)), OK),
    "cmyk.jpg": (lambda: encode(scene().convert("CMYK"), "JPEG"), OK),
    "ycck.jpg": (ycck_jpeg, OK),
    "1 bit.png": (lambda: encode(scene().convert("1"), "PNG"), OK),
    "1 bit.tif": (lambda: encode(scene().convert("1"), "TIFF", compression="group4"), OK),
    "lab.tif": (lambda: encode(Image.new("LAB", (9, 9), (90, 20, 20)), "TIFF"), OK),
    "palette.png": (palette_with_transparency, OK),
    "animated.jpg": (lambda: frames("GIF"), UNREADABLE),
    "animated.png": (lambda: frames("PNG"), OK),
    "animated.webp": (lambda: frames("WEBP"), OK),
    "pages.tif": (lambda: frames("TIFF"), OK),
    "stereo.jpg": (lambda: frames("MPO"), OK),
    "progressive.jpg": (lambda: encode(scene(), "JPEG", progressive=True), OK),
    "arithmetic.jpg": (arithmetic_jpeg, ANY),
    "exif cyclic.jpg": (cyclic_exif, OK),
    "exif boundless.jpg": (boundless_exif, OK),
    "exif crowded.jpg": (crowded_exif, OK),
    "date of zeros.jpg": (lambda: said(b"0000:00:00 00:00:00"), OK),
    "date at the end.jpg": (lambda: said(b"9999:12:31 23:59:59"), OK),
    "date at the start.jpg": (lambda: said(b"0001:01:01 00:00:00"), OK),
    "date impossible.jpg": (lambda: said(b"2024:02:30 25:61:61"), OK),
    "date of signs.jpg": (lambda: said(b"::::<b>::::\xff\xfe"), OK),
    "gps over zero.jpg": (lambda: said(b"2024:05:01 10:00:00", (4, 0, 0, 0, 1, 0)), OK),
    "gps beyond.jpg": (lambda: said(b"2024:05:01 10:00:01", (91, 1, 0, 1, 0, 1)), OK),
    "gps good.jpg": (lambda: said(b"2024:05:01 10:00:02", (45, 1, 30, 1, 0, 1)), OK),
}


def _png_with_text() -> bytes:
    """A good PNG in which a compressed comment unpacks to 200 MB."""
    body = b"Comment\0\0" + zlib.compress(bytes(200_000_000), 9)
    data = encode(scene(), "PNG")
    chunk = struct.pack(">I", len(body)) + b"zTXt" + body + struct.pack(">I", zlib.crc32(b"zTXt" + body))
    return data[:33] + chunk + data[33:]


NAMES = (  # what a file may be called where names are any bytes
    b"line\nbreak.jpg",
    b"carriage\rreturn.jpg",
    b"tab\tand 'quotes' \"double\" `back`.jpg",
    "emoji \N{PAW PRINTS}.JPG".encode(),
    b"latin-\xe9\xff\xfe.jpg",
    b"--help.jpg",
    b"-rf.jpg",
    b"=1+1,@SUM(A1).jpg",
    b"<script>alert(1)<\xc3\xa9script>&amp;.jpg",
    "right\u202eleft.jpg".encode(),
    b"back\\slash\\x0a.jpg",
    b"\x1b[31mred\x07.jpg",
    b"'; DROP TABLE images; --.jpg",
    b"%s{0}$HOME.jpg",
)


# -- mutations of real photos


def segments(jpeg: bytes) -> list[bytes]:
    """A JPEG's marker segments up to its entropy-coded data, which is the last element with all that follows."""
    found, place = [jpeg[:2]], 2
    while jpeg[place : place + 1] == b"\xff" and jpeg[place + 1] != 0xDA and place + 4 <= len(jpeg):
        length = 2 + struct.unpack(">H", jpeg[place + 2 : place + 4])[0]
        found.append(jpeg[place : place + length])
        place += length
    return [*found, jpeg[place:]]


def mutant(jpeg: bytes, seed: int) -> bytes:
    """A real JPEG after one to three changes of the kinds that cards, transfers and enemies make."""
    chance = random.Random(seed)
    data = jpeg
    for _ in range(chance.randint(1, 3)):
        data = chance.choice(MUTATIONS)(data, chance)
    return data


def _flip_bits(data: bytes, chance: random.Random) -> bytes:
    changed = bytearray(data)
    for _ in range(chance.choice((1, 8, 100)) if data else 0):
        changed[chance.randrange(len(changed))] ^= 1 << chance.randrange(8)
    return bytes(changed)


def _flip_header(data: bytes, chance: random.Random) -> bytes:
    changed = bytearray(data)
    for _ in range(chance.randint(1, 6) if data else 0):
        changed[chance.randrange(min(len(changed), 1200))] = chance.choice(
            (0, 1, 0x7F, 0x80, 0xFF, chance.randrange(256))
        )
    return bytes(changed)


def _cut(data: bytes, chance: random.Random) -> bytes:
    return data[: chance.randint(0, len(data))]


def _remove(data: bytes, chance: random.Random) -> bytes:
    start = chance.randint(0, len(data))
    return data[:start] + data[start + chance.choice((1, 2, 512, 4096)) :]


def _insert(data: bytes, chance: random.Random) -> bytes:
    start = chance.randint(0, len(data))
    return data[:start] + chance.randbytes(chance.choice((1, 16, 512))) + data[start:]


def _blank(data: bytes, chance: random.Random) -> bytes:
    start, length = chance.randint(0, len(data)), chance.choice((512, 4096, 32_768))
    return data[:start] + bytes([chance.choice((0, 0xFF))]) * len(data[start : start + length]) + data[start + length :]


def _repeat(data: bytes, chance: random.Random) -> bytes:
    start = chance.randint(0, len(data))
    return data[:start] + data[start : start + 4096] * chance.randint(2, 9) + data[start:]


def _swap_segments(data: bytes, chance: random.Random) -> bytes:
    parts = segments(data) if data[:2] == b"\xff\xd8" else [data]
    chance.shuffle(parts)
    return b"".join(parts)


def _alter_segment(data: bytes, chance: random.Random) -> bytes:
    """Another marker or another length."""
    parts = segments(data) if data[:2] == b"\xff\xd8" else [data]
    number = chance.randrange(len(parts))
    part = bytearray(parts[number])
    if len(part) > 4:
        if chance.random() < 0.5:
            part[1] = chance.choice((0xC0, 0xC1, 0xC2, 0xC4, 0xC9, 0xD9, 0xDA, 0xDB, 0xDD, 0xE1, 0xE2, 0xEE, 0xFE))
        else:
            part[2:4] = struct.pack(">H", chance.choice((0, 1, 2, 3, 0xFFFF, chance.randrange(65_536))))
    parts[number] = bytes(part)
    return b"".join(parts)


def _alter_exif(data: bytes, chance: random.Random) -> bytes:
    start = data.find(b"Exif\0\0")
    if start < 0:
        return _flip_header(data, chance)
    changed = bytearray(data)
    for _ in range(chance.randint(1, 12)):
        place = start + 6 + chance.randrange(300)
        if place + 4 <= len(changed):
            values = (0, 1, 8, 0xFFFF, 2**31 - 1, 2**32 - 1, chance.getrandbits(32))
            changed[place : place + 4] = struct.pack(chance.choice("<>") + "I", chance.choice(values))
    return bytes(changed)


MUTATIONS = (
    _flip_bits, _flip_header, _cut, _remove, _insert, _blank, _repeat, _swap_segments, _alter_segment, _alter_exif,
)  # fmt: skip
