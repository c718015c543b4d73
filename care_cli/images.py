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
from functools import cached_property
from pathlib import Path

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
PIXEL_BYTES = 4  # a decoded RGB pixel, as Pillow keeps it
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
class File:
    """A file's bytes and what they are known by; `data` is None where there are more than a photo has."""

    sha256: str
    size: int  # bytes
    data: bytes | None


@dataclass(frozen=True)
class Reading:
    """A photo's facts and its upright RGB picture, which is None when the photo is unreadable.

    The picture may have been decoded at a fraction of the photo's size, each side 1/`scale`; the facts are
    always of the whole photo.
    """

    photo: Photo
    picture: Image.Image | None
    scale: int = 1
    file: File | None = None

    @cached_property
    def pixels(self) -> np.ndarray | None:
        """The picture as `(H, W, 3) uint8`, read-only."""
        return None if self.picture is None else _pixels(self.picture)


def read_file(path: Path) -> File:
    """All bytes of a file, in one pass. Raises OSError when they cannot be read, or change meanwhile."""
    with path.open("rb") as file:
        before = os.fstat(file.fileno())
        if before.st_size > LARGEST_FILE:
            return File(hashlib.file_digest(file, "sha256").hexdigest(), before.st_size, None)
        data = file.read()
        after = os.fstat(file.fileno())
    if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns):
        raise OSError(errno.EBUSY, "the file changed while it was read")  # as one that is still being copied
    return as_file(data)


def as_file(data: bytes) -> File:
    """Bytes as a file that holds them."""
    return File(hashlib.sha256(data).hexdigest(), len(data), data)


def read_photo(path: Path, least: int | None = None) -> Reading:
    """Facts and picture of one file, as `decode`.

    Raises OSError when the file's bytes cannot be read, for then not even its hash is known.
    """
    return decode(read_file(path), least)


def read_bytes(data: bytes, least: int | None = None) -> Reading:
    """Facts and picture of a photo's bytes, as `decode`."""
    return decode(as_file(data), least)


def decode(file: File, least: int | None = None) -> Reading:
    """Facts and picture of a photo; never raises, whatever the bytes.

    A JPEG is decoded at the smallest scale (1, 1/2, 1/4 or 1/8: libjpeg computes only the low frequencies
    of each block) whose longer side has at least `least` px; None: in full. Damaged pictures give state
    'partial' or 'unreadable' with a reason.
    """
    exif, failure, picture, light, scale, size = Exif(), None, None, None, 1, (None, None)
    if file.data is None:
        failure = f"the file has {file.size / 1e6:.0f} MB, more than the {LARGEST_FILE / 1e6:.0f} MB of a photo"
    else:
        with _quiet():
            try:
                with Image.open(io.BytesIO(file.data), formats=FORMATS) as image:
                    exif = read_exif(image)
                    size = _upright_size(image, exif.orientation)
                    if math.prod(size) > LARGEST_PIXELS:
                        raise _Undecodable(f"{image.width} x {image.height} pixels are more than a photo has")
                    scale = _reduce(image, least)
                    picture, light, failure = _decode(image, file.data, exif.orientation, least)
            except Exception as error:  # decoders raise whatever damaged bytes lead them to
                failure = _reason(file.data, error)
    photo = Photo(
        sha256=file.sha256,
        bytes=file.size,
        state="unreadable" if picture is None else "partial" if failure else "ok",
        failure=failure,
        width=None if picture is None else size[0],
        height=None if picture is None else size[1],
        lighting=light,
        **asdict(exif),
    )
    return Reading(photo, picture, scale, file)


def decoded_bytes(file: File, least: int | None = None) -> int:
    """Bytes that a photo and its decoded picture will take, from its header; never raises."""
    pixels = 0
    with _quiet(), suppress(Exception), Image.open(io.BytesIO(file.data or b""), formats=FORMATS) as image:
        _reduce(image, least)
        pixels = image.width * image.height
    return file.size + PIXEL_BYTES * pixels


def _reduce(image: Image.Image, least: int | None) -> int:
    """Have a JPEG decoded at the smallest scale whose longer side has at least `least` px; returns 1/scale."""
    if least is None or image.format not in ("JPEG", "MPO"):
        return 1
    fits = (scale for scale in (8, 4, 2) if max(image.size) >= least * scale and min(image.size) >= scale)
    scale = next(fits, 1)
    image.draft(None, (image.width // scale, image.height // scale))
    return scale


class _Undecodable(Exception):
    """A picture that cannot be used, with the reason that the user reads."""


def _decode(
    image: Image.Image, data: bytes, orientation: int, least: int | None
) -> tuple[Image.Image, str, str | None]:
    """Upright picture, lighting, and why it is only partial (None when it is whole)."""
    try:
        image.load()
    except Exception as error:  # decoders raise whatever damaged bytes lead them to
        return _decode_part(image, data, orientation, least, _cut_reason(error))
    # Pillow turns TIFF by itself while loading, and no other format
    picture = _rgb(image) if image.format == "TIFF" else _turn(_rgb(image), orientation)
    return picture, lighting(_sample(picture)), None


def _decode_part(
    image: Image.Image, data: bytes, orientation: int, least: int | None, failure: str
) -> tuple[Image.Image, str, str]:
    """As `_decode`, for an image that failed to load: what could be decoded all the same."""
    flat = _rgb(_salvage(image, data, least))
    pixels = _pixels(flat)
    # decoders leave black, and libjpeg middle grey, where nothing came
    low, high = pixels.min(axis=(1, 2)), pixels.max(axis=(1, 2))
    decoded = (high > 0) & ((low < 127) | (high > 129))
    if not decoded.any():
        raise _Undecodable(f"{failure} before any of the picture")
    light = lighting(pixels[decoded])
    share = f"about {100 * decoded.mean():.0f} % of the rows decoded"
    return _turn(flat, orientation), light, f"{failure}: {share}"


def _salvage(image: Image.Image, data: bytes, least: int | None) -> Image.Image:
    """An image that failed to load, with the part that could be decoded."""
    if image.format in ("JPEG", "MPO"):
        # with an end marker libjpeg gives out all it has, down to the last complete block; zeros at the
        # end are what a card's file system left of lost data, and would be decoded as picture
        closed = data.rstrip(b"\0") + b"\xff\xd9"
        with suppress(Exception), Image.open(io.BytesIO(closed), formats=FORMATS) as whole:
            _reduce(whole, least)
            whole.load()
            return whole
    image.tile = []  # nothing more to decode: what came before the failure stays
    return image


def _pixels(image: Image.Image) -> np.ndarray:
    """`(H, W, 3) uint8`, read-only. A third faster than `np.asarray`, which asks for the bytes twice."""
    return np.frombuffer(image.tobytes(), np.uint8).reshape(image.height, image.width, 3)


def _upright_size(image: Image.Image, orientation: int) -> tuple[int, int]:
    """Width and height of the picture as it will be when it is turned; before it is loaded."""
    if image.format == "TIFF":  # of which Pillow says the upright size
        return image.size
    return image.size[::-1] if orientation in (5, 6, 7, 8) else image.size


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


def _sample(picture: Image.Image) -> np.ndarray:
    """Pixels `(H, W, 3) uint8` of an even grid over the picture, as many as `lighting` looks at."""
    size = min(picture.width, LIGHTING_SAMPLES), min(picture.height, LIGHTING_SAMPLES)
    return np.asarray(picture.resize(size, Image.Resampling.NEAREST))


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
    picture: Image.Image,
    rect: Rectangle,
    size: tuple[int, int],
    blackout: Sequence[Box] = (),
    quality: int = CROP_QUALITY,
    scale: int = 1,
) -> bytes:
    """JPEG of the rectangle, resized to `size` (width, height) px, with the `blackout` boxes painted black.

    `picture` is the photo, each side 1/`scale` of it; the rectangle and all boxes are of the image frame. It is
    not altered. Boxes are widened to whole pixels of the picture and blackened before resizing, so that nothing
    of them reaches the crop.
    """
    left, top, right, bottom = _edges(rect, scale)
    outer = (
        math.floor(left),
        math.floor(top),
        min(math.ceil(right), picture.width),
        min(math.ceil(bottom), picture.height),
    )
    part = picture.crop(outer)
    for box in blackout:
        x1, y1, x2, y2 = _edges(box, scale)
        hidden = (
            math.floor(x1) - outer[0],
            math.floor(y1) - outer[1],
            math.ceil(x2) - outer[0],
            math.ceil(y2) - outer[1],
        )
        part.paste((0, 0, 0), (max(hidden[0], 0), max(hidden[1], 0), max(hidden[2], 0), max(hidden[3], 0)))
    if scale > 1 or size != part.size:
        inner = (
            left - outer[0],
            top - outer[1],
            min(right, picture.width) - outer[0],
            min(bottom, picture.height) - outer[1],
        )
        part = part.resize(size, Image.Resampling.LANCZOS, inner, reducing_gap=3.0)
    stream = io.BytesIO()
    part.save(stream, "JPEG", quality=quality)
    return stream.getvalue()


def _edges(box: Box | Rectangle, scale: int) -> tuple[float, float, float, float]:
    """Left, top, right and bottom of a box `x, y, w, h` of the image frame in a picture of 1/`scale` its size."""
    x, y, w, h = box
    return x / scale, y / scale, (x + w) / scale, (y + h) / scale


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


def picture_size(data: bytes) -> tuple[int, int] | None:
    """Upright width and height in px of a stored crop, without decoding it; None when it is no whole picture."""
    whole = data.rstrip(b"\0").endswith((b"\xff\xd9", b"IEND\xaeB`\x82")) or not data.startswith(
        (b"\xff\xd8", b"\x89PNG")
    )
    with _quiet(), suppress(Exception), Image.open(io.BytesIO(data), formats=FORMATS) as image:
        turned = read_exif(image).orientation >= 5
        return (image.size[::-1] if turned else image.size) if whole else None
    return None


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
