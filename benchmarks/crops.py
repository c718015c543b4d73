"""Crops to embed: the animals of a rendered survey, in a catalog as `care detect` leaves it and as files."""

from __future__ import annotations

import json
from pathlib import Path

from benchmarks.bench import Bench
from benchmarks.grown import bulk
from care_cli.catalog import Catalog


def crops_catalog(bench: Bench, name: str, copies: int) -> Path:
    """A catalog with every crop of the sample survey `copies` times: the same work for each, bytes and all."""
    catalog = bench.copy(bench.survey, name)
    with bulk(catalog) as connection:
        connection.execute("DELETE FROM embeddings")
        columns = [row[1] for row in connection.execute("PRAGMA table_info(crops)") if row[1] != "id"]
        listed = ", ".join(columns)
        crops = [row[0] for row in connection.execute("SELECT crop_id FROM crop_pixels ORDER BY crop_id")]
        for _ in range(copies - 1):
            for crop in crops:
                made = connection.execute(
                    f"INSERT INTO crops ({listed}) SELECT {listed} FROM crops WHERE id = ? RETURNING id", (crop,)
                ).fetchone()[0]
                connection.execute(
                    "INSERT INTO crop_pixels SELECT ?, jpeg FROM crop_pixels WHERE crop_id = ?", (made, crop)
                )
    return catalog


def export(catalog: Path, folder: Path) -> list[Path]:
    """The crops that `care index` embeds, each written as it is stored, as JPEG files in the order of their ids."""
    with Catalog(catalog) as opened:
        ids = [row["crop"] for row in opened.crop_rows(animals())]
        stored = opened.pixels(sorted(ids))
    files = []
    for crop, jpeg in sorted(stored.items()):
        files.append(folder / f"{crop:08}.jpg")
        files[-1].write_bytes(jpeg)
    return files


def animals():
    """The selection of `care index`."""
    from care_cli.records import Selection

    return Selection(category="animal")


def write_list(files: list[Path], path: Path) -> Path:
    """A list of files as JSON."""
    path.write_text(json.dumps([str(one) for one in files]), encoding="utf-8")
    return path
