"""Photos to upright RGB and back to stored crops. Files are only read; no flag of Pillow is changed."""

from __future__ import annotations

import errno
import hashlib
import io
import math
import os
import threading
import warnings
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image, UnidentifiedImageError

from care_cli.errors import CareError
from care_cli.exif import Exif, read_exif
from care_cli.geometry import Box, Rectangle
from care_cli.records import Photo

FORMATS = ("JPEG", "PNG", "TIFF", "BMP", "WEBP")  # by content, whatever the name says
LARGEST_FILE = 400_000_000  # bytes
LARGEST_PIXELS = 178_000_000  # just below where Pillow itself refuses to open a file
CROP_QUALITY = 90  # JPEG
LIGHTING_SAMPLES = 256  # rows and columns looked at
INFRARED_BELOW = 3  # grey levels

_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


@dataclass(frozen=True)
class Reading:
    """A photo's facts and its pixels `(H, W, 3) uint8, RGB, upright, read-only`; None when unreadable."""

    photo: Photo
    pixels: np.ndarray | None


@contextmanager
def steady(path: Path) -> Iterator[BinaryIO]:
    """A file opened for reading; OSError at the end if it was written to meanwhile: what was read is no photo."""
    with path.open("rb") as file:
        before = os.fstat(file.fileno())
        yield file
        after = os.fstat(file.fileno())
        if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns):
            raise OSError(errno.EBUSY, "the file changed while it was read")


def read_photo(path: Path) -> Reading:
    """Facts and pixels of one file. Damaged pictures give state 'partial' or 'unreadable' with a reason.

    Raises OSError when the file's bytes cannot be read, for then not even its hash is known.
    """
    with steady(path) as file:
        size = os.fstat(file.fileno()).st_size
        if size > LARGEST_FILE:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
            failure = f"the file has {size / 1e6:.0f} MB, more than the {LARGEST_FILE / 1e6:.0f} MB of a photo"
            return Reading(Photo(digest, size, state="unreadable", failure=failure), None)
        data = file.read()
    return read_bytes(data)


def read_bytes(data: bytes) -> Reading:
    """Facts and pixels of a photo's bytes, as `read_photo`; never raises, whatever the bytes."""
    exif, failure, pixels, light = Exif(), None, None, None
    with _quiet():
        try:
            with Image.open(io.BytesIO(data), formats=FORMATS) as image:
                exif = read_exif(image)
                pixels, light, failure = _decode(image, data, exif.orientation)
        except Exception as error:  # decoders raise whatever damaged bytes lead them to
            failure = _reason(data, error)
    photo = Photo(
        sha256=hashlib.sha256(data).hexdigest(),
        bytes=len(data),
        state="unreadable" if pixels is None else "partial" if failure else "ok",
        failure=failure,
        width=None if pixels is None else pixels.shape[1],
        height=None if pixels is None else pixels.shape[0],
        lighting=light,
        **asdict(exif),
    )
    return Reading(photo, pixels)


class _Undecodable(Exception):
    """A picture that cannot be used, with the reason that the user reads."""


def _decode(image: Image.Image, data: bytes, orientation: int) -> tuple[np.ndarray, str, str | None]:
    """Upright pixels, lighting, and why the picture is only partial (None when it is whole)."""
    if image.width * image.height > LARGEST_PIXELS:
        raise _Undecodable(f"{image.width} x {image.height} pixels are more than a photo has")
    try:
        image.load()
    except Exception as error:  # decoders raise whatever damaged bytes lead them to
        return _decode_part(image, data, orientation, _cut_reason(error))
    # Pillow turns TIFF by itself while loading, and no other format
    pixels = _pixels(_rgb(image) if image.format == "TIFF" else _turn(_rgb(image), orientation))
    return pixels, lighting(pixels), None


def _decode_part(image: Image.Image, data: bytes, orientation: int, failure: str) -> tuple[np.ndarray, str, str]:
    """As `_decode`, for an image that failed to load: what could be decoded all the same."""
    flat = _rgb(_salvage(image, data))
    pixels = _pixels(flat)
    # decoders leave black, and libjpeg middle grey, where nothing came
    low, high = pixels.min(axis=(1, 2)), pixels.max(axis=(1, 2))
    decoded = (high > 0) & ((low < 127) | (high > 129))
    if not decoded.any():
        raise _Undecodable(f"{failure} before any of the picture")
    light = lighting(pixels[decoded])
    share = f"about {100 * decoded.mean():.0f} % of the rows decoded"
    return _pixels(_turn(flat, orientation)), light, f"{failure}: {share}"


def _salvage(image: Image.Image, data: bytes) -> Image.Image:
    """An image that failed to load, with the part that could be decoded."""
    if image.format in ("JPEG", "MPO"):
        # with an end marker libjpeg gives out all it has, down to the last complete block; zeros at the
        # end are what a card's file system left of lost data, and would be decoded as picture
        closed = data.rstrip(b"\0") + b"\xff\xd9"
        with suppress(Exception), Image.open(io.BytesIO(closed), formats=FORMATS) as whole:
            whole.load()
            return whole
    image.tile = []  # nothing more to decode: what came before the failure stays
    return image


def _pixels(image: Image.Image) -> np.ndarray:
    """`(H, W, 3) uint8`, read-only. A third faster than `np.asarray`, which asks for the bytes twice."""
    return np.frombuffer(image.tobytes(), np.uint8).reshape(image.height, image.width, 3)


def _turn(image: Image.Image, orientation: int) -> Image.Image:
    return image.transpose(_TURNS[orientation]) if orientation in _TURNS else image


def _rgb(image: Image.Image) -> Image.Image:
    """RGB of any mode: deep grey scaled to 8 bits, what is transparent made black."""
    if image.mode == "RGB":
        return image
    if image.mode.startswith("I") or image.mode == "F":
        return Image.fromarray(_to_8_bits(np.asarray(image))).convert("RGB")
    if image.has_transparency_data:
        visible = image.convert("RGBA")
        black = Image.new("RGB", image.size)
        black.paste(visible, mask=visible)
        return black
    return image.convert("RGB")


def _to_8_bits(grey: np.ndarray) -> np.ndarray:
    """Grey levels `(H, W)` of 16 or 32 bits or float to uint8. White is 65535 in 16 bits; else the least
    of 1 (float only), 255, 65535 and the picture's own maximum that no level exceeds."""
    scales = {"f": (1.0, 255.0, 65535.0), "i": (255.0, 65535.0), "u": (65535.0,)}[grey.dtype.kind]
    levels = np.nan_to_num(grey.astype(np.float32), copy=False, posinf=0, neginf=0)
    white = next((scale for scale in scales if levels.max() <= scale), levels.max())
    levels *= 255 / white
    return np.clip(np.rint(levels, out=levels), 0, 255, out=levels).astype(np.uint8)


def lighting(pixels: np.ndarray) -> str:
    """'infrared' when the medians of |R-G|, |G-B| and |R-B| are all below 3 grey levels, else 'day'.

    `pixels (H, W, 3) uint8`. The median ignores a coloured information bar. Looks at an even grid.
    """
    height, width = pixels.shape[:2]
    down, across = math.ceil(height / LIGHTING_SAMPLES), math.ceil(width / LIGHTING_SAMPLES)
    red, green, blue = np.moveaxis(pixels[::down, ::across].astype(np.int16), -1, 0)
    medians = [np.median(np.abs(a - b)) for a, b in ((red, green), (green, blue), (red, blue))]
    return "infrared" if max(medians) < INFRARED_BELOW else "day"


def cut_crop(
    pixels: np.ndarray,
    rect: Rectangle,
    size: tuple[int, int],
    blackout: Sequence[Box] = (),
    quality: int = CROP_QUALITY,
) -> bytes:
    """JPEG of the rectangle, resized to `size` (width, height) px, with the `blackout` boxes painted black.

    `pixels (H, W, 3) uint8` and all boxes are of the image frame; the input is not altered. Boxes are
    widened to whole pixels and blackened before resizing, so that nothing of them reaches the crop.
    """
    x, y, w, h = rect
    part = np.array(pixels[y : y + h, x : x + w])
    for left, top, width, height in blackout:
        rows = slice(max(math.floor(top) - y, 0), max(math.ceil(top + height) - y, 0))
        columns = slice(max(math.floor(left) - x, 0), max(math.ceil(left + width) - x, 0))
        part[rows, columns] = 0
    crop = Image.fromarray(part)
    if size != (w, h):
        crop = crop.resize(size, Image.Resampling.LANCZOS, reducing_gap=3.0)
    stream = io.BytesIO()
    crop.save(stream, "JPEG", quality=quality)
    return stream.getvalue()


def decode_jpeg(data: bytes) -> Image.Image:
    """A stored crop as an upright RGB image; imported crops may be of any format of `FORMATS`.

    Raises CareError when the bytes are damaged.
    """
    with _quiet():
        try:
            with Image.open(io.BytesIO(data), formats=FORMATS) as image:
                orientation = read_exif(image).orientation
                image.load()
                return _rgb(image) if image.format == "TIFF" else _turn(_rgb(image), orientation)
        except Exception as error:
            raise CareError(
                f"A stored crop should be a JPEG, but {_reason(data, error)}. Run 'care doctor'."
            ) from error


def _cut_reason(error: Exception) -> str:
    return "the file is cut off" if "truncated" in str(error).lower() else "the file is damaged"


def _reason(data: bytes, error: Exception) -> str:
    """Why nothing can be seen of a photo, in a few words."""
    if isinstance(error, _Undecodable):
        return str(error)
    if not data:
        return "the file is empty"
    if not data.strip(b"\0"):
        return "the file holds only zeros"
    if isinstance(error, Image.DecompressionBombError):
        return f"more than {LARGEST_PIXELS / 1e6:.0f} megapixels are more than a photo has"
    if isinstance(error, MemoryError):
        return "not enough memory to decode it"
    # where another library put its own opener into Pillow, what Pillow said stands behind that one's error
    if not isinstance(error, UnidentifiedImageError) and not isinstance(error.__context__, UnidentifiedImageError):
        return f"{_cut_reason(error)}, and nothing of it can be decoded"
    if data.startswith((b"\xff\xd8", b"\x89PNG", b"II*\0", b"MM\0*", b"BM", b"RIFF")):
        return "the file is cut off or damaged in its header"
    return f"its content is no {', '.join(FORMATS[:-1])} or {FORMATS[-1]}"


class _Silence:
    """How many threads decode now; the warning filters of a process are one state for all of them."""

    lock = threading.Lock()
    users = 0
    filters = ExitStack()


@contextmanager
def _quiet() -> Iterator[None]:
    """Pillow's warnings silenced while any thread is inside (`catch_warnings` alone is for one thread)."""
    with _Silence.lock:
        if _Silence.users == 0:
            _Silence.filters.enter_context(warnings.catch_warnings())
            warnings.simplefilter("ignore")
        _Silence.users += 1
    try:
        yield
    finally:
        with _Silence.lock:
            _Silence.users -= 1
            if _Silence.users == 0:
                _Silence.filters.close()
