"""Catalogs of any size: rows as a survey of many cards would leave them, written in bulk beside a real small one."""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

CARD = 2_000  # photos of a card, which is a source and a deployment
SIGHTINGS = 10  # crops of an individual
FIRST = 10_000_000  # ids from here upward are ours
BLOCK = 10_000  # vectors made at once

IMAGES = (
    "INSERT INTO images (id, sha256, bytes, state, width, height, captured_at, deployment_id, burst_id, event_id) "
    "VALUES (?, ?, 3000000, 'ok', 4000, 3000, ?, ?, ?, ?)"
)
FILES = (
    "INSERT INTO image_files (source_id, path_bytes, path, image_id, bytes, mtime_ns) "
    "VALUES (?1, ?2, CAST(?2 AS TEXT), ?3, ?4, ?5)"
)
CROPS = (
    "INSERT INTO crops (id, run_id, image_id, confidence, x, y, w, h, label, model_category, model_species, category, "
    "species, rect_x, rect_y, rect_w, rect_h, crop_width, crop_height) "
    "VALUES (?, ?, ?, 0.9, 100, 100, 800, 600, 'Deer', 'animal', 'Deer', 'animal', 'Deer', 20, 40, 960, 720, 800, 600)"
)
DECISIONS = (
    "INSERT INTO decisions (id, at, who, source, action, crop_id, individual_id, value) "
    "VALUES (?, '2024-06-01T00:00:00.000000Z', 'bench', 'human', ?, ?, ?, ?)"
)


@contextmanager
def bulk(catalog: Path) -> Iterator[sqlite3.Connection]:
    """One transaction without waiting for the disk: what is measured comes later."""
    connection = sqlite3.connect(catalog, isolation_level=None)
    try:
        connection.execute("PRAGMA synchronous = OFF")
        connection.execute("PRAGMA cache_size = -500000")
        connection.execute("BEGIN")
        connection.execute("PRAGMA defer_foreign_keys = ON")
        yield connection
        connection.execute("COMMIT")
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    finally:
        connection.close()


def run_of(connection: sqlite3.Connection, command: str) -> int:
    """The newest run of a command."""
    return connection.execute("SELECT max(id) FROM runs WHERE command = ?", (command,)).fetchone()[0]


def grow(catalog: Path, begin: int, end: int, dim: int | None = None) -> None:
    """Photos number `begin` up to and without `end`: each with its file, one animal, its vector and its name.

    Vectors have `dim` numbers, else as many as those of the newest index run.

    They belong to the runs that the catalog has. Pixels are left out: no query that is measured reads them.
    """
    with bulk(catalog) as connection:
        add_cards(connection, begin, end)
        add_photos(connection, begin, end)
        add_vectors(connection, begin, end, dim)
        add_names(connection, begin, end)


def add_cards(connection: sqlite3.Connection, begin: int, end: int) -> None:
    """The source and the deployment of each card that begins in this range."""
    cards = [number for number in range(begin, end) if number % CARD == 0]
    connection.executemany(
        "INSERT INTO sources (id, volume, root_bytes, root, location) VALUES (?1, ?2, x'2e', '.', ?2)",
        ((FIRST + number, f"card {number // CARD}") for number in cards),
    )
    connection.executemany(
        "INSERT INTO deployments (id, name, site, volume, folder_bytes) VALUES (?1, ?2, ?3, ?2, x'2e')",
        ((FIRST + number, f"camera {number // CARD}", f"site {number // CARD // 4}") for number in cards),
    )


def add_photos(connection: sqlite3.Connection, begin: int, end: int) -> None:
    """Images a minute apart, their files, that the detect run dealt with them, and a crop each."""
    run = run_of(connection, "detect")
    numbers = range(begin, end)
    connection.executemany(IMAGES, (_image(number) for number in numbers))
    connection.executemany(
        FILES,
        (
            (FIRST + number // CARD * CARD, f"DCIM/{number:07}.JPG".encode(), FIRST + number, 3_000_000, number)
            for number in numbers
        ),
    )
    connection.executemany("INSERT INTO run_images VALUES (?, ?)", ((run, FIRST + number) for number in numbers))
    connection.executemany(CROPS, ((FIRST + number, run, FIRST + number) for number in numbers))


def _image(number: int) -> tuple:
    minute = number % CARD
    taken = f"2024-05-{1 + minute // 1440:02} {minute // 60 % 24:02}:{minute % 60:02}:00"
    event = FIRST + number - number % SIGHTINGS
    digest = hashlib.sha256(number.to_bytes(8, "little")).hexdigest()
    return FIRST + number, digest, taken, FIRST + number // CARD * CARD, FIRST + number, event


def add_vectors(connection: sqlite3.Connection, begin: int, end: int, dim: int | None) -> None:
    """A random unit vector for each crop, made a BLOCK at a time with the block's first number as seed."""
    run = run_of(connection, "index")
    dim = dim or connection.execute("SELECT dim FROM embeddings WHERE run_id = ? LIMIT 1", (run,)).fetchone()[0]
    for start in range(begin, end, BLOCK):
        count = min(BLOCK, end - start)
        vectors = unit_vectors(count, dim, seed=start)
        connection.executemany(
            "INSERT INTO embeddings (run_id, crop_id, dim, vector) VALUES (?, ?, ?, ?)",
            ((run, FIRST + start + i, dim, vectors[i].tobytes()) for i in range(count)),
        )


def unit_vectors(count: int, dim: int, seed: int) -> np.ndarray:
    """Random directions `(count, dim) float32`, L2 norm 1."""
    vectors = np.random.default_rng(seed).standard_normal((count, dim), np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def add_names(connection: sqlite3.Connection, begin: int, end: int) -> None:
    """An individual for every SIGHTINGS crops, by decisions as `care individuals name` writes them."""
    numbers = range(begin, end)
    firsts = [number for number in numbers if number % SIGHTINGS == 0]
    connection.executemany(
        "INSERT INTO individuals (id, name, status) VALUES (?, ?, 'active')",
        ((FIRST + number, f"animal {number // SIGHTINGS}") for number in firsts),
    )
    connection.executemany(DECISIONS, (_decision(number) for number in numbers))
    connection.executemany(
        "INSERT INTO crop_identity VALUES (?1, ?2, ?1)",
        ((FIRST + number, FIRST + number - number % SIGHTINGS) for number in numbers),
    )


def _decision(number: int) -> tuple:
    first = number % SIGHTINGS == 0
    individual = FIRST + number - number % SIGHTINGS
    name = f"animal {number // SIGHTINGS}" if first else None
    return FIRST + number, "create" if first else "name", FIRST + number, individual, name


def add_known_files(catalog: Path, card: Path, count: int) -> None:
    """Fill a scanned folder with `count` empty files that the catalog knows, each an image of its own, none with
    an animal; they stand for photos, since a file that is known is not read."""
    with bulk(catalog) as connection:
        run = run_of(connection, "detect")
        source = connection.execute("SELECT max(id) FROM sources WHERE id < ?", (FIRST,)).fetchone()[0]
        deployment = connection.execute("SELECT max(id) FROM deployments WHERE id < ?", (FIRST,)).fetchone()[0]
        for number in range(count):
            path = card / "DCIM" / f"{101 + number // 1000}CARE_" / f"EMPTY{number % 1000:03}.JPG"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
            image = FIRST - count + number
            event = (None, deployment, None, None)
            digest = hashlib.sha256(f"empty {number}".encode()).hexdigest()
            connection.execute(IMAGES, (image, digest, *event))
            name = path.relative_to(card).as_posix().encode()
            connection.execute(FILES, (source, name, image, 0, path.stat().st_mtime_ns))
            connection.execute("INSERT INTO run_images VALUES (?, ?)", (run, image))


def name_everything(connection: sqlite3.Connection) -> None:
    """A name for every animal crop that has none, SIGHTINGS crops of each name, in the order of their ids."""
    crops = connection.execute(
        "SELECT id FROM crops WHERE category = 'animal' AND id NOT IN (SELECT crop_id FROM crop_identity) ORDER BY id"
    ).fetchall()
    for i, (crop,) in enumerate(crops):
        number = i - i % SIGHTINGS
        first = i == number
        name = f"animal {number}" if first else None
        if first:
            connection.execute("INSERT INTO individuals (id, name, status) VALUES (?, ?, 'active')", (FIRST + i, name))
        connection.execute(DECISIONS, (FIRST + i, "create" if first else "name", crop, FIRST + number, name))
        connection.execute("INSERT INTO crop_identity VALUES (?, ?, ?)", (crop, FIRST + number, FIRST + i))
