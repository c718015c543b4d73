"""Self-contained pages of what was found: to be opened in any browser, passed on, kept."""

from __future__ import annotations

import hashlib
import io
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image, ImageFilter
from tqdm import tqdm

from care_cli import __version__
from care_cli.errors import CareError
from care_cli.geometry import Box, Rectangle
from care_cli.images import decode_jpeg, read_photo
from care_cli.outputs import numbered, refuse_scanned, write_whole
from care_cli.pages import gallery_html as html
from care_cli.records import Selection
from care_cli.scan import parse_path
from care_cli.thresholds import PERSON

if TYPE_CHECKING:
    from care_cli.catalog import Catalog

PHOTOS = 500  # on a page at most
BYTES = 20_000_000  # of a page at most
FRAME = 100_000  # bytes kept for a page's heading and style
LISTED = 500  # unreadable files named at most
THUMBNAIL = 480  # px, longest side
QUALITY = 75  # JPEG
AT_ONCE = 64  # pictures in work
GROWN = 0.10  # of a person's box, blurred beyond each side
BLOCKS = 5  # across the longest side of a person's box, before blurring
EMPTY_COLOUR = (128, 136, 132)


@dataclass(frozen=True)
class Job:
    """One photo on its way to a card: where its file lies, else which crops are stored of it."""

    row: dict
    boxes: Sequence[dict]
    file: Path | None
    crops: Sequence[tuple[Rectangle, bytes]]
    people: Sequence[Box]


def write_gallery(
    catalog: Catalog,
    path: Path,
    image_ids: Iterable[int] | None = None,
    *,
    run: int | None = None,
    title: str = "What the cameras saw",
    blur: bool = True,
) -> list[Path]:
    """Write pages of these images (all when None); returns them: `path`, then NAME-2.html, NAME-3.html, ...

    Photos with animals come first, then people and vehicles, then empty ones, then what cannot be read. Files
    whose very bytes could not be read are named too: all, or with `image_ids` those that the scan just met.
    Boxes are those of detect run `run` (the active one when None). Where a photo's file is not at hand, the
    crops stored of it are shown in their places. People are blurred in the pictures themselves, unless `blur`
    is false. Raises CareError when `path` is no HTML file, lies in a scanned folder or holds someone else's page.
    """
    check(path, catalog.scanned_folders())
    selection = Selection(run=run)
    wanted = None if image_ids is None else set(image_ids)
    rows = [row for row in catalog.image_rows(selection) if wanted is None or row["image"] in wanted]
    rows.sort(key=_rank)
    boxes: dict[int, list[dict]] = {}
    for box in catalog.crop_rows(selection):
        boxes.setdefault(box["image"], []).append(box)
    with tqdm(total=len(rows), unit="photo", desc="gallery", disable=None) as bar:
        cards = _cards(catalog, rows, boxes, blur, bar)
        heading = {"title": title, "subtitle": _subtitle(rows), "unread": _unread(catalog, rows, wanted), "blur": blur}
        written = _write_pages(path, cards, heading)
    _remove_older(path, len(written))
    return written


def check(path: Path, scanned: Iterable[str] = ()) -> None:
    """CareError when no gallery can be written to `path`; asked before long work begins, too."""
    if path.suffix.lower() not in (".html", ".htm"):
        raise CareError(f"A gallery is a web page: name it FILE.html, not {path.name}.")
    if not path.absolute().parent.is_dir():
        raise CareError(f"There is no folder {path.parent} for the gallery. Make it first, or name another place.")
    if path.exists() and not _is_ours(path):
        raise CareError(f"{path} exists and is no gallery of CARE. Name another file.")
    refuse_scanned(path, scanned)


def _rank(row: dict) -> int:
    if row["state"] == "unreadable":
        return 3
    return 0 if row["animals"] else 1 if row["persons"] or row["vehicles"] else 2


def _subtitle(rows: Sequence[dict]) -> str:
    kinds = Counter(kind for row in rows for kind in html.kinds_of(row))
    words = {"animal": "with animals", "person": "with people", "vehicle": "with vehicles", "empty": "empty",
             "unreadable": "unreadable"}  # fmt: skip
    parts = [f"{kinds[kind]:,} {text}" for kind, text in words.items() if kinds[kind]]
    days = sorted(row["taken_at"][:10] for row in rows if row["taken_at"])
    span = f" {days[0]} to {days[-1]}." if days else ""
    return f"{len(rows):,} {'photo' if len(rows) == 1 else 'photos'}: {', '.join(parts) or 'none'}.{span}"


def _unread(catalog: Catalog, rows: Sequence[dict], wanted: set[int] | None) -> list[tuple[str, str]]:
    """Files that could not be used at all, with reasons; of a part of the photos, those that the scan met."""
    files = catalog.unread_files(met=wanted is not None)
    found = [(row["path"] or "?", row["failure"] or "") for row in rows if row["state"] == "unreadable"]
    return found + [(f"{row['location']}/{row['path']}", row["failure"]) for row in files]


def _write_pages(path: Path, cards: Iterator[tuple[dict, str]], heading: dict) -> list[Path]:
    """Pages of cards, each written as soon as it is known whether another follows."""
    written: list[Path] = []
    page: list[tuple[dict, str]] = []
    size = FRAME

    def flush(more: bool) -> None:
        number = len(written) + 1
        counts = Counter(kind for row, _ in page for kind in ("all", *html.kinds_of(row)))
        unread = heading["unread"] if number == 1 else []
        hidden = len(unread) - LISTED
        text = html.page(
            heading["title"] + (f" · page {number}" if number > 1 else ""), heading["subtitle"],
            [card for _, card in page], counts, number=number,
            before=numbered(path, number - 1).name if number > 1 else None,
            after=numbered(path, number + 1).name if more else None,
            unread=unread[:LISTED] + ([(f"and {hidden} more", "")] if hidden > 0 else []),
            foot=f"Made by CARE {__version__}.{' People are blurred.' if heading['blur'] else ''} "
            "Click a photo to enlarge it.",
        )  # fmt: skip
        write_whole(numbered(path, number), text)
        written.append(numbered(path, number))

    for row, card in cards:
        weight = len(card.encode())
        if page and (len(page) == PHOTOS or size + weight > BYTES):
            flush(more=True)
            page, size = [], FRAME
        page.append((row, card))
        size += weight
    flush(more=False)
    return written


def _remove_older(path: Path, pages: int) -> None:
    """Pages that an earlier, longer gallery left behind the last one."""
    number = pages + 1
    while (old := numbered(path, number)).is_file() and _is_ours(old):
        old.unlink()
        number += 1


def _is_ours(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return html.MARK.encode() in file.read(512)
    except OSError as error:
        raise CareError(f"{path} cannot be read: {error.strerror or error}. Name another file.") from error


# -- from rows to cards


def _cards(
    catalog: Catalog, rows: Sequence[dict], boxes: dict[int, list[dict]], blur: bool, bar: tqdm
) -> Iterator[tuple[dict, str]]:
    """The card of each photo, in order; pictures are made by threads, AT_ONCE at a time."""
    with ThreadPoolExecutor(max_workers=min(4, os.cpu_count() or 1)) as pool:
        for start in range(0, len(rows), AT_ONCE):
            part = rows[start : start + AT_ONCE]
            ids = [row["image"] for row in part]
            places = catalog.places(ids)
            people = catalog.people(ids, PERSON) if blur else {}
            jobs = [_job(catalog, row, boxes.get(row["image"], []), places, people) for row in part]
            for job, jpeg in zip(jobs, pool.map(_picture, jobs), strict=True):
                yield job.row, html.card(job.row, job.boxes, jpeg, _note(job, jpeg))
                bar.update()


def _job(catalog: Catalog, row: dict, boxes: list[dict], places: dict, people: dict) -> Job:
    readable = row["state"] != "unreadable"
    file = _locate(places.get(row["image"], [])) if readable else None
    crops = []
    if readable and file is None:
        pixels = catalog.pixels(box["crop"] for box in boxes)
        for box in boxes:
            if box["crop"] in pixels:
                stored = catalog.crop(box["crop"])
                rect = stored["rect_x"], stored["rect_y"], stored["rect_w"], stored["rect_h"]
                crops.append((rect, pixels[box["crop"]]))
    return Job(row, boxes, file, crops, people.get(row["image"], []))


def _note(job: Job, jpeg: bytes | None) -> str | None:
    if job.row["state"] != "ok":
        return job.row["failure"]
    if job.file is None:
        return "The photo is not at hand" + ("; these are the crops stored of it." if job.crops else ".")
    return None if jpeg else "The photo cannot be read any more."


def _locate(places: Sequence[dict]) -> Path | None:
    """A file that holds the photo now: unchanged since it was seen, or with the same bytes.

    Another card mounted at the same place has files of the same names; theirs are other photos.
    """
    for place in places:
        path = Path(os.fsdecode(parse_path(place["location"]))) / os.fsdecode(place["path_bytes"])
        try:
            status = path.stat()
            if status.st_size != place["bytes"]:
                continue
            if status.st_mtime_ns == place["mtime_ns"]:
                return path
            with path.open("rb") as file:
                if hashlib.file_digest(file, "sha256").hexdigest() == place["sha256"]:
                    return path
        except OSError:
            continue
    return None


# -- pictures


def _picture(job: Job) -> bytes | None:
    """The JPEG of a card, THUMBNAIL px, people blurred; None when there is nothing to see."""
    width, height = job.row["width"], job.row["height"]
    if not width or not height:
        return None
    scale = min(1.0, THUMBNAIL / max(width, height))
    size = max(1, round(width * scale)), max(1, round(height * scale))
    picture = _collage(job.crops, size, scale) if job.file is None else _reduced(job.file, size)
    if picture is None:
        return None
    for person in job.people:
        blur_person(picture, tuple(value * scale for value in person))
    stream = io.BytesIO()
    picture.save(stream, "JPEG", quality=QUALITY)
    return stream.getvalue()


def _reduced(path: Path, size: tuple[int, int]) -> Image.Image | None:
    """The upright photo at `size` px; None when its bytes cannot be read or show nothing."""
    try:
        picture = read_photo(path, 2 * max(size)).picture
    except OSError:
        return None
    return picture and picture.resize(size, Image.Resampling.LANCZOS, reducing_gap=3.0)


def _collage(crops: Sequence[tuple[Rectangle, bytes]], size: tuple[int, int], scale: float) -> Image.Image | None:
    """The stored crops in their places on an empty photo; None without any."""
    canvas = Image.new("RGB", size, EMPTY_COLOUR)
    for (x, y, w, h), jpeg in crops:
        shown = max(1, round(w * scale)), max(1, round(h * scale))
        try:
            crop = decode_jpeg(jpeg).resize(shown, Image.Resampling.LANCZOS)
        except CareError:
            continue
        canvas.paste(crop, (round(x * scale), round(y * scale)))
    return canvas if crops else None


def blur_person(picture: Image.Image, box: Box) -> None:
    """Make a person's box, grown by 10 % on each side, unrecognisable: a few blocks, then blurred. In place.

    `box` is `(x, y, w, h)` in pixels of the picture.
    """
    x, y, w, h = box
    left, top = max(int(x - GROWN * w), 0), max(int(y - GROWN * h), 0)
    right = min(int(x + w + GROWN * w) + 1, picture.width)
    bottom = min(int(y + h + GROWN * h) + 1, picture.height)
    if right <= left or bottom <= top:
        return
    part = picture.crop((left, top, right, bottom))
    step = max(part.size) / BLOCKS
    few = max(1, round(part.width / step)), max(1, round(part.height / step))
    blocks = part.resize(few, Image.Resampling.BOX).resize(part.size, Image.Resampling.BICUBIC)
    picture.paste(blocks.filter(ImageFilter.GaussianBlur(step / 2)), (left, top))
