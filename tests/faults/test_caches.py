"""Caches of networks and galleries: no room for them, killed while they are written, damaged. Answers stay the same."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from processes import INDEX, Care, assert_same, detect

pytestmark = pytest.mark.usefixtures("faults")
SLOW = pytest.mark.slow


def cache_in(folder: Path) -> dict[str, object]:
    """The order of a process whose caches are here."""
    return {"environment": {"CARE_MODELS": str(folder / "cold")}}


@pytest.mark.parametrize("room", [10_000, pytest.param(0, marks=SLOW), pytest.param(1_000_000, marks=SLOW)])
def test_no_room_for_a_converted_network(care: Care, surveyed: Path, tmp_path: Path, room: int) -> None:
    catalog = tmp_path / "care.db"
    command = detect(surveyed.with_name("FERN001"))
    process = care.run(catalog, *command, fault=("disk full", "/cold/", room), **cache_in(tmp_path))
    assert process.code == 0, process.messages
    assert_same(catalog, surveyed)


@SLOW
@pytest.mark.parametrize("change", [1, 2, 3, 5, 8, 13, 21])
def test_killed_while_a_converted_network_is_kept(care: Care, surveyed: Path, tmp_path: Path, change: int) -> None:
    catalog = tmp_path / "care.db"
    command = detect(surveyed.with_name("FERN001"))
    process = care.run(catalog, *command, fault=("killed", "/cold/", change), **cache_in(tmp_path))
    assert process.code in (-9, 0)  # 0: fewer changes than that
    again = care.run(catalog, *command, **cache_in(tmp_path))
    assert again.code == 0, again.messages
    assert_same(catalog, surveyed)


@pytest.fixture(scope="module")
def named(care: Care, surveyed: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An indexed catalog with two named animals."""
    catalog = Path(shutil.copy(surveyed, tmp_path_factory.mktemp("named") / "care.db"))
    for words in (INDEX, ("individuals", "name", 1, "--as", "Ayo"), ("individuals", "name", 2, "--as", "Bea")):
        process = care.run(catalog, *words)
        assert process.code == 0, process.messages
    return catalog


def answers(care: Care, catalog: Path, root: Path, **how: object) -> object:
    """Who a photo shows, without the time that it took."""
    query = sorted((root / "sample_data" / "queries").glob("known_*.JPG"))[0]
    process = care.run(catalog, "identify", query, "--json", **how)
    assert process.code == 0, process.messages
    return rounded(json.loads(process.output))


def rounded(found: object) -> object:
    if isinstance(found, dict):
        return {key: rounded(one) for key, one in found.items() if "seconds" not in key}
    if isinstance(found, list):
        return [rounded(one) for one in found]
    return round(found, 3) if isinstance(found, float) else found


@SLOW
def test_a_gallery_that_is_damaged_half_written_or_finds_no_room(
    care: Care, named: Path, root: Path, tmp_path: Path
) -> None:
    copy = Path(shutil.copytree(named.parent, tmp_path / "survey")) / "care.db"
    cold = cache_in(tmp_path)
    blocks = f"{tmp_path}/cold/galleries"
    expected = answers(care, copy, root)
    query = sorted((root / "sample_data" / "queries").glob("known_*.JPG"))[0]
    assert answers(care, copy, root, fault=("disk full", blocks, 100), **cold) == expected
    assert not list(Path(blocks).rglob("*.block"))
    for change in (1, 2, 3):
        care.run(copy, "identify", query, "--json", fault=("killed", blocks, change), **cold)
        assert answers(care, copy, root, **cold) == expected
        shutil.rmtree(blocks)
    assert answers(care, copy, root, **cold) == expected
    kept = sorted(Path(blocks).rglob("*.block"))
    assert kept
    for block in kept:
        data = block.read_bytes()
        block.write_bytes(data[: len(data) // 2])
    assert answers(care, copy, root, **cold) == expected
