"""Figures that papers print for known data sets, and how they differ from what was measured here."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

FILE = Path(__file__).with_name("published.toml")
METRICS = ("mAP", "top1")


@cache
def published() -> dict[str, Any]:
    """`published.toml`: papers, datasets and tables, as its heading tells."""
    return tomllib.loads(FILE.read_text(encoding="utf-8"))


def recognise(folders: Iterable[str], individuals: int, images: int) -> str | None:
    """The published data set that imported `folders` are of: by what they are called, else by exact counts; else None.

    `individuals` and `images` are those of the whole catalog: a set with more is another. Several are none.
    """
    plain = [re.sub(r"[^a-z0-9]", "", folder.lower()) for folder in folders]
    called, counted = set(), set()
    for name, about in published()["datasets"].items():
        most = about.get("individuals", individuals), about.get("images", images)
        if (
            individuals <= most[0]
            and images <= most[1]
            and any(folder.startswith(tuple(about["names"])) for folder in plain)
        ):
            called.add(name)
        if (individuals, images) == (about.get("individuals"), about.get("images")):
            counted.add(name)
    found = called or counted
    return found.pop() if len(found) == 1 else None


def counted(dataset: str, photos: Mapping[str, int]) -> tuple[dict[str, int], list[str]]:
    """What of a copy of a data set is used, and in words how its counts differ from the papers'.

    `photos` are those of each individual; without the individuals that the papers leave out it is returned.
    """
    about = published()["datasets"][dataset]
    used = {name: count for name, count in photos.items() if count > 1 or about.get("singles", True)}
    lines = []
    if single := len(photos) - len(used):
        lines.append(f"{single} individuals of a single photo are left out, as in the paper")
    here = len(used), sum(used.values())
    if "individuals" not in about:
        return used, [*lines, f"{here[0]} individuals in {here[1]} photos; the papers do not say how many there are"]
    wanted = about["individuals"], about["images"]
    if here == wanted:
        return used, [*lines, f"counts as published: {here[0]} individuals in {here[1]} photos"]
    kind = "A PART" if here[0] <= wanted[0] and here[1] <= wanted[1] else "OTHER PHOTOS"
    lines.append(
        f"{kind} OF THE DATA SET: this copy has {here[0]} individuals in {here[1]} photos, the papers count "
        f"{wanted[0]} in {wanted[1]}; figures on it are not comparable"
    )
    return used, lines


def cells(paper: str, number: int | None, dataset: str) -> dict[str, dict[str, float]]:
    """One data set's line of a paper's table, per cent by metric, by setting; empty where the table has none."""
    for table in published()["tables"]:
        if (table["paper"], table.get("number")) == (paper, number) and dataset in table["rows"]:
            row = table["rows"][dataset]
            return {
                setting: dict(zip(table["metrics"], cell, strict=True))
                for setting, cell in zip(table["settings"], row, strict=True)
            }
    return {}


def beside(dataset: str) -> list[dict]:
    """What papers say of a data set, as rows to be set beside ours.

    Fields: paper (key), title, protocol, needs (what is missing to reproduce it), where (the table, in words), setting,
    and by metric (mAP, top1) `{"value", "half"}` in per cent, half None where no interval is printed, or None.
    """
    rows = []
    for table in published()["tables"]:
        found = cells(table["paper"], table.get("number"), dataset)
        about = {"paper": table["paper"], **published()["papers"][table["paper"]]}
        about["where"] = f", table {table['number']}" if "number" in table else ""
        for shown in table.get("shown", ()) if found else ():
            setting = table["settings"][shown]
            rows.append(about | {"setting": setting} | {name: _figure(found[setting], name) for name in METRICS})
    return rows


def _figure(cell: dict[str, float], name: str) -> dict[str, float | None] | None:
    return {"value": cell[name], "half": cell.get(f"{name}_half")} if name in cell else None


def differences(dataset: str, individuals: int, images: int) -> list[str]:
    """In words, how the data measured here differs from the papers': `individuals` and `images` that were tested."""
    about = published()["datasets"][dataset]
    lines = list(about.get("remarks", ()))
    if "split" in about:
        test, photos = about["split"]["gallery"][0], about["split"]["gallery"][1] + about["split"]["query"][1]
        if (individuals, images) != (test, photos):
            lines.append(
                f"tested here: {individuals} individuals in {images} crops; the CARE paper's test part: {test} in "
                f"{photos} photos"
            )
    if "individuals" in about and (individuals, images) == (about["individuals"], about["images"]):
        lines.append("here the whole data set was tested, the papers test a part of its individuals")
    return lines
