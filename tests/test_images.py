"""Decoding against other decoders and hand-worked arrays, on real photos and on bytes of every mischief."""

from __future__ import annotations

import csv
import hashlib
import io
import struct
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFile

from care_cli import images
from care_cli.errors import CareError
from care_cli.geometry import crop_rectangle, stored_size
from care_cli.images import cut_crop, decode_jpeg, lighting, read_bytes, read_photo

# where the file's row 0 and column 0 lie in the scene: the table of the EXIF standard
ROW_AND_COLUMN = {
    1: ("top", "left"),
    2: ("top", "right"),
    3: ("bottom", "right"),
    4: ("bottom", "left"),
    5: ("left", "top"),
    6: ("right", "top"),
    7: ("right", "bottom"),
    8: ("left", "bottom"),
}


def scene(height: int = 96, width: int = 128, seed: int = 0) -> np.ndarray:
    """A smooth coloured picture with nothing symmetric in it, `(H, W, 3) uint8`."""
    coarse = np.random.default_rng(seed).integers(0, 255, (6, 8, 3), np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))


def encode(pixels: np.ndarray | Image.Image, kind: str, **options) -> bytes:
    stream = io.BytesIO()
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    image.save(stream, kind, **options)
    return stream.getvalue()


def as_stored(upright: np.ndarray, orientation: int) -> np.ndarray:
    """The rows that a camera writes for a scene, pixel by pixel from the standard's table."""
    height, width = upright.shape[:2]
    sides = ROW_AND_COLUMN[orientation]
    rows, columns = (width, height) if sides[0] in ("left", "right") else (height, width)
    stored = np.empty((rows, columns, 3), np.uint8)
    for i in range(rows):
        for j in range(columns):
            place = {"top": 0, "left": 0}
            for side, index in zip(sides, (i, j), strict=True):
                if side in ("top", "bottom"):
                    place["top"] = index if side == "top" else height - 1 - index
                else:
                    place["left"] = index if side == "left" else width - 1 - index
            stored[i, j] = upright[place["top"], place["left"]]
    return stored


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize(
    ("kind", "options", "tolerance"),
    [
        ("PNG", {}, 0),
        ("TIFF", {}, 0),
        ("TIFF", {"compression": "tiff_lzw"}, 0),
        ("WEBP", {"lossless": True, "exact": True}, 0),
        ("JPEG", {"quality": 98, "subsampling": 0}, 6),
    ],
)
def test_every_orientation_is_upright(orientation, kind, options, tolerance):
    upright = scene(24, 40)
    exif = Image.Exif()
    exif[0x0112] = orientation
    reading = read_bytes(encode(as_stored(upright, orientation), kind, exif=exif, **options))
    assert reading.photo.orientation == orientation
    assert (reading.photo.width, reading.photo.height) == (40, 24)
    assert np.abs(reading.pixels.astype(int) - upright).max() <= tolerance


def test_facts_of_the_bytes(tmp_path):
    data = encode(scene(), "JPEG")
    path = tmp_path / "no photo's name.txt"
    path.write_bytes(data)
    reading = read_photo(path)
    assert reading.photo.sha256 == hashlib.sha256(data).hexdigest()
    assert (reading.photo.bytes, reading.photo.state, reading.photo.failure) == (len(data), "ok", None)
    assert np.array_equal(reading.pixels, np.asarray(Image.open(path)))


def test_pixels_cannot_be_altered():
    with pytest.raises(ValueError, match="read-only"):
        read_bytes(encode(scene(), "PNG")).pixels[0, 0] = 1


def test_sixteen_bits_keep_their_range():
    levels = np.linspace(0, 65535, 48 * 32).astype(np.uint16).reshape(32, 48)
    for kind in ("PNG", "TIFF"):
        reading = read_bytes(encode(levels, kind))
        assert np.array_equal(reading.pixels[..., 0], np.rint(levels / 257))
        assert reading.photo.lighting == "infrared"


def test_float_and_deep_integer_grey():
    ramp = np.linspace(0, 1, 64, dtype=np.float32).reshape(8, 8)
    assert np.array_equal(read_bytes(encode(ramp, "TIFF")).pixels[..., 1], np.rint(ramp * 255))
    deep = np.arange(64, dtype=np.int32).reshape(8, 8) * 1000
    assert np.array_equal(read_bytes(encode(deep, "TIFF")).pixels[..., 2], np.rint(deep / 257))


def test_transparent_parts_are_black():
    colour, alpha = scene(20, 30), np.linspace(0, 255, 600).astype(np.uint8).reshape(20, 30)
    expected = colour * (alpha[..., None] / 255)
    with_alpha = np.dstack([colour, alpha])
    for kind, options in (("PNG", {}), ("TIFF", {}), ("WEBP", {"lossless": True, "exact": True})):
        assert np.abs(read_bytes(encode(with_alpha, kind, **options)).pixels - expected).max() <= 1
    palette = Image.new("P", (2, 1))
    palette.putpalette([10, 20, 30, 200, 100, 50])
    palette.putdata([0, 1])
    pixels = read_bytes(encode(palette, "PNG", transparency=0)).pixels
    assert pixels.tolist() == [[[0, 0, 0], [200, 100, 50]]]


def test_grey_bilevel_and_first_frame():
    grey = scene()[..., 0]
    assert np.array_equal(read_bytes(encode(grey, "PNG")).pixels, np.repeat(grey[..., None], 3, 2))
    bilevel = Image.fromarray(grey > 128)
    assert np.array_equal(read_bytes(encode(bilevel, "TIFF")).pixels[..., 0], (grey > 128) * 255)
    frames = [Image.fromarray(scene(seed=seed)) for seed in (1, 2)]
    for kind in ("WEBP", "PNG", "TIFF"):
        options = {"lossless": True} if kind == "WEBP" else {}
        data = encode(frames[0], kind, save_all=True, append_images=frames[1:], **options)
        assert np.array_equal(read_bytes(data).pixels, scene(seed=1))


@pytest.mark.parametrize("share", [0.1, 0.35, 0.6, 0.85])
@pytest.mark.parametrize(("kind", "options"), [("JPEG", {}), ("PNG", {}), ("TIFF", {}), ("BMP", {})])
def test_a_cut_file_gives_what_it_holds(kind, options, share):
    data = encode(scene(480, 640), kind, **options)
    whole, cut = read_bytes(data), read_bytes(data[: int(len(data) * share)])
    assert cut.photo.state == "partial" and "cut off" in cut.photo.failure
    assert cut.pixels.shape == whole.pixels.shape
    same = (cut.pixels == whole.pixels).all(axis=(1, 2))
    same = same[::-1] if kind == "BMP" else same  # stored from the foot upward
    assert same[: int(0.6 * share * 480)].all()
    assert not same.all()


def test_a_cut_progressive_jpeg_is_coarse_but_whole():
    data = encode(scene(480, 640), "JPEG", progressive=True)
    whole, cut = read_bytes(data), read_bytes(data[: len(data) // 2])
    assert cut.photo.state == "partial"
    assert np.abs(cut.pixels.astype(int) - whole.pixels).mean() < 12


def test_a_lost_tail_of_zeros_is_not_decoded_as_picture():
    data = encode(scene(480, 640), "JPEG")
    half = len(data) // 2
    padded, cut = read_bytes(data[:half] + bytes(len(data) - half)), read_bytes(data[:half])
    assert padded.photo.state == "partial"
    assert np.array_equal(padded.pixels, cut.pixels)


def test_lighting_of_a_partial_photo_ignores_the_missing_part():
    data = encode(scene(480, 640), "JPEG")
    assert read_bytes(data[: len(data) // 4]).photo.lighting == "day"


def png_of_size(width: int, height: int) -> bytes:
    """A PNG whose header claims a size that its few bytes do not hold."""

    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(bytes(99))) + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty"),
        (bytes(5000), "only zeros"),
        (b"Dear diary, today we set out the cameras.", "content is no JPEG"),
        (b"%!PS-Adobe-3.0\n(not a photo) show", "content is no JPEG"),
        (encode(scene(), "JPEG")[:40], "cut off"),
        (png_of_size(17850, 10000), "17850 x 10000 pixels"),
        (png_of_size(60000, 60000), "megapixels"),
        (encode(scene(), "WEBP")[:300], "nothing of it"),
        (encode(scene(), "GIF"), "content is no JPEG"),
    ],
    ids=["empty", "zeros", "text", "script", "header", "large", "huge", "webp", "gif"],
)
def test_unreadable_files_say_why(data, reason):
    reading = read_bytes(data)
    assert reading.photo.state == "unreadable" and reading.pixels is None
    assert reason in reading.photo.failure
    assert reading.photo.sha256 == hashlib.sha256(data).hexdigest()
    assert reading.photo.width is None and reading.photo.lighting is None


def test_a_file_too_large_for_a_photo_is_hashed_but_not_decoded(tmp_path, monkeypatch):
    monkeypatch.setattr(images, "LARGEST_FILE", 1000)
    data = encode(scene(), "PNG")
    path = tmp_path / "large.png"
    path.write_bytes(data)
    photo = read_photo(path).photo
    assert photo.sha256 == hashlib.sha256(data).hexdigest()
    assert (photo.state, photo.bytes) == ("unreadable", len(data))


def test_a_file_that_cannot_be_read_is_an_os_error(tmp_path):
    for path in (tmp_path / "gone.jpg", tmp_path):
        with pytest.raises(OSError):
            read_photo(path)


JPEG = encode(scene(48, 64), "JPEG", exif=b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0")


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, len(JPEG) - 1), st.integers(0, 255)), max_size=20),
    st.integers(0, len(JPEG)),
    st.binary(max_size=30),
)
def test_no_damage_raises(changes, length, tail):
    data = bytearray(JPEG)
    for position, value in changes:
        data[position] = value
    reading = read_bytes(bytes(data[:length]) + tail)
    assert reading.photo.state in ("ok", "partial", "unreadable")
    assert (reading.pixels is None) == (reading.photo.state == "unreadable")
    assert (reading.photo.failure is None) == (reading.photo.state == "ok")


def test_nothing_global_is_changed():
    flags = ImageFile.LOAD_TRUNCATED_IMAGES, Image.MAX_IMAGE_PIXELS
    filters = list(warnings.filters)
    data = encode(scene(), "JPEG", exif=b"Exif\0\0II*\0\x08\0\0\0\xff\xff")  # makes Pillow warn
    with ThreadPoolExecutor(8) as pool:
        readings = list(pool.map(read_bytes, [data, data[:-400]] * 100))
    assert {reading.photo.state for reading in readings} == {"ok", "partial"}
    assert flags == (ImageFile.LOAD_TRUNCATED_IMAGES, Image.MAX_IMAGE_PIXELS)
    assert warnings.filters == filters


def test_pillow_does_not_warn_the_user(recwarn):
    read_bytes(encode(scene(), "JPEG", exif=b"Exif\0\0II*\0\x08\0\0\0\xff\xff"))
    assert not recwarn.list


def test_lighting_by_the_formula_in_signed_integers():
    grey = np.full((40, 60, 3), 100, np.uint8)
    # two levels apart in both directions: infrared, where unsigned differences would give 254
    assert lighting(grey + np.array([0, 2, 1], np.uint8)) == "infrared"
    assert lighting(grey + np.array([0, 0, 3], np.uint8)) == "day"
    assert lighting(grey + np.array([3, 0, 0], np.uint8)) == "day"


def test_lighting_is_not_disturbed_by_an_information_bar():
    infrared = np.repeat(scene(900, 1200)[..., :1], 3, axis=2)
    infrared[800:] = (200, 30, 30)
    assert lighting(infrared) == "infrared"


def test_crop_is_the_resized_rectangle():
    pixels = scene(900, 1200)
    rect = crop_rectangle((200, 100, 900, 500), (1200, 900))
    size = stored_size(rect)
    crop = np.asarray(decode_jpeg(cut_crop(Image.fromarray(pixels), rect, size, quality=98)), int)
    x, y, w, h = rect
    assert crop.shape == (size[1], size[0], 3)
    rows = ((np.arange(size[1]) + 0.5) * h / size[1]).astype(int) + y
    columns = ((np.arange(size[0]) + 0.5) * w / size[0]).astype(int) + x
    assert np.abs(crop - pixels[rows[:, None], columns]).mean() < 2


def test_blackout_leaves_no_trace_of_a_person():
    pixels = np.full((200, 300, 3), 90, np.uint8)
    pixels[50:90, 100:160] = (250, 20, 200)  # the person, who also stands outside the crop
    before = pixels.copy()
    rect = (40, 60, 200, 120)
    crop = np.asarray(decode_jpeg(cut_crop(Image.fromarray(pixels), rect, (100, 60), [(100.4, 50, 59.2, 39.6)])), int)
    empty = pixels.copy()
    empty[50:90, 100:160] = 0
    assert np.array_equal(crop, np.asarray(decode_jpeg(cut_crop(Image.fromarray(empty), rect, (100, 60))), int))
    assert crop[:14, 31:59].max() < 25
    assert np.abs(crop[20:] - 90).max() < 12 and np.abs(crop[:, 65:] - 90).max() < 12
    assert np.array_equal(pixels, before)


def test_blackout_beside_the_crop_changes_nothing():
    pixels = scene(200, 300)
    plain = cut_crop(Image.fromarray(pixels), (100, 100, 80, 60), (80, 60))
    beside = [(0, 0, 100, 200), (180, 0, 120, 200), (-50, -50, 20, 20), (0, 160, 300, 500)]
    assert cut_crop(Image.fromarray(pixels), (100, 100, 80, 60), (80, 60), beside) == plain


def test_a_damaged_stored_crop_is_a_clear_error():
    with pytest.raises(CareError, match="care doctor"):
        decode_jpeg(b"\xff\xd8 lost")


def test_speciesnet_edge_cases(shared):
    folder = shared / "data/camera_trap/speciesnet_edge_cases"
    readings = {path.name: read_photo(path) for path in sorted(folder.glob("*.jpg"))}
    states = {name: reading.photo.state for name, reading in readings.items()}
    assert states.pop("african_elephants_truncated_file.jpg") == "partial"
    assert set(states.values()) == {"ok"} and len(states) == 13

    plain = readings["african_elephants.jpg"].pixels
    cut = readings["african_elephants_truncated_file.jpg"]
    assert np.array_equal(cut.pixels[: 1536 * 8 // 10], plain[: 1536 * 8 // 10])
    assert cut.photo.captured_at == "2010-08-04 08:43:15"
    cmyk = readings["african_elephants_cmyk.jpg"].pixels
    assert np.abs(cmyk.astype(int) - plain).mean() < 6
    grey = readings["african_elephants_bw.jpg"]
    assert np.ptp(grey.pixels, axis=2).max() == 0 and grey.photo.lighting == "infrared"


@pytest.mark.parametrize(("orientation", "quarter_turns"), [(6, -1), (8, 1)])
def test_real_photo_turned_by_its_camera(shared, orientation, quarter_turns):
    source = shared / "data/camera_trap/speciesnet_edge_cases/african_elephants_with_exif_orientation.jpg"
    data = source.read_bytes()
    assert data[:4] == b"\xff\xd8\xff\xe1"
    with Image.open(source) as image:
        exif = image.getexif()
        flat = image.convert("RGB")
        exif[0x0112] = orientation
        turned = encode(flat, "JPEG", exif=exif, quality=95)
    reading = read_bytes(turned)
    with Image.open(io.BytesIO(turned)) as image:
        expected = np.rot90(np.asarray(image), quarter_turns)
    assert reading.photo.orientation == orientation
    assert np.array_equal(reading.pixels, expected)
    import cv2

    other = cv2.imdecode(np.frombuffer(turned, np.uint8), cv2.IMREAD_COLOR)[..., ::-1]
    assert other.shape == reading.pixels.shape
    assert np.abs(other.astype(int) - reading.pixels).mean() < 1


def test_real_photo_with_orientation_6_equals_the_upright_original(shared):
    folder = shared / "data/camera_trap/speciesnet_edge_cases"
    turned = read_photo(folder / "african_elephants_with_exif_orientation.jpg")
    plain = read_photo(folder / "african_elephants.jpg")
    assert turned.photo.orientation == 6
    assert np.abs(turned.pixels.astype(int) - plain.pixels).mean() < 6


def test_lighting_of_a_real_card(shared):
    card = shared / "data/camera_trap/sdcard_sdzg1"
    with (card / "labels.csv").open(newline="") as table:
        rows = list(csv.DictReader(table))[::4]
    for row in rows:
        photo = read_photo(card / row["path"]).photo
        assert photo.lighting == {"ir": "infrared", "colour": "day"}[row["light"]], row["path"]
        assert photo.captured_at == row["exif_datetime"].replace(":", "-", 2)
        assert (photo.width, photo.height) == (3264, 2448)


# -- decoding no more than is needed


@pytest.mark.parametrize(
    ("width", "height", "least", "scale"),
    [
        (4000, 3000, 1280, 2),  # 12 megapixels: 2000 at half, 1000 at a quarter
        (3264, 2448, 1280, 2),
        (2560, 1920, 1280, 2),  # just enough
        (2559, 1919, 1280, 1),
        (1919, 2560, 1280, 2),  # upright photos by their height
        (10240, 1024, 1280, 8),
        (4000, 3000, None, 1),
        (640, 480, 1280, 1),
    ],
)
def test_the_smallest_scale_with_enough_pixels(width: int, height: int, least: int | None, scale: int) -> None:
    reading = read_bytes(encode(np.zeros((height, width, 3), np.uint8), "JPEG"), least)
    assert reading.scale == scale
    assert (reading.photo.width, reading.photo.height) == (width, height)
    assert reading.picture.size == (-(-width // scale), -(-height // scale))


def smooth(height: int, width: int) -> np.ndarray:
    """Slow waves of colour, of which a JPEG keeps everything."""
    y, x = np.mgrid[:height, :width]
    waves = [np.sin(x / 37 + i) + np.cos(y / 29 - i) for i in range(3)]
    return np.rint(127.5 + 60 * np.stack(waves, -1)).astype(np.uint8)


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_a_reduced_picture_is_the_mean_of_the_pixels_it_stands_for(orientation: int) -> None:
    upright = smooth(240, 320)
    exif = Image.Exif()
    exif[0x0112] = orientation
    reading = read_bytes(encode(as_stored(upright, orientation), "JPEG", exif=exif, quality=95, subsampling=0), 80)
    assert reading.scale == 4 and reading.pixels.shape == (60, 80, 3)
    mean = upright.reshape(60, 4, 80, 4, 3).mean((1, 3))
    assert np.abs(reading.pixels - mean).max() < 6


def test_a_cut_off_jpeg_is_partial_at_any_scale() -> None:
    data = encode(smooth(960, 1280), "JPEG")
    full, reduced = read_bytes(data[: len(data) // 2]), read_bytes(data[: len(data) // 2], 320)
    assert reduced.scale == 4 and reduced.photo == full.photo.__class__(
        **{**vars(full.photo), "failure": reduced.photo.failure}
    )
    assert full.photo.state == reduced.photo.state == "partial"
    shares = [int(reading.photo.failure.split("about ")[1].split(" %")[0]) for reading in (full, reduced)]
    assert abs(shares[0] - shares[1]) <= 2


@pytest.mark.parametrize("rect", [(0, 0, 640, 480), (101, 57, 333, 201), (603, 401, 37, 79), (1, 0, 639, 3)])
def test_a_crop_of_a_reduced_picture_is_that_of_the_whole(rect: tuple[int, int, int, int]) -> None:
    pixels = smooth(480, 640)
    half = Image.fromarray(np.rint(pixels.reshape(240, 2, 320, 2, 3).mean((1, 3))).astype(np.uint8))
    size = max(1, rect[2] // 3), max(1, rect[3] // 3)
    whole = np.asarray(decode_jpeg(cut_crop(Image.fromarray(pixels), rect, size, quality=98)), int)
    reduced = np.asarray(decode_jpeg(cut_crop(half, rect, size, quality=98, scale=2)), int)
    assert np.abs(whole - reduced).max() <= 8  # half a pixel to the side would be 3 levels more


def test_nothing_of_a_person_reaches_a_crop_of_a_reduced_picture() -> None:
    pixels = np.full((480, 640, 3), 90, np.uint8)
    pixels[101:203, 151:253] = (255, 0, 0)
    half = Image.fromarray(np.rint(pixels.reshape(240, 2, 320, 2, 3).mean((1, 3))).astype(np.uint8))
    jpeg = cut_crop(half, (100, 80, 301, 201), (150, 100), [(151, 101, 102, 102)], quality=98, scale=2)
    crop = np.asarray(decode_jpeg(jpeg), int)
    assert (crop[..., 0] - crop[..., 1]).max() < 12  # no red is left
    assert crop[50:55, 40:45].max() < 12  # where the person stood it is black
