"""What tests of faults share: processes to disturb, a card, and the survey of it that nobody disturbed."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from processes import PHOTOS, Care, detect

if os.name == "nt":
    collect_ignore_glob = ["test_*"]  # signals, limits and permissions of POSIX


@pytest.fixture(scope="session")
def shim(tmp_path_factory: pytest.TempPathFactory) -> Path | None:
    """The compiled fault.c; None where it cannot be used."""
    compiler = shutil.which("cc")
    if sys.platform != "linux" or compiler is None:
        return None
    library = tmp_path_factory.mktemp("shim") / "fault.so"
    source = Path(__file__).with_name("fault.c")
    subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-o", str(library), str(source)], check=True)
    return library


@pytest.fixture(scope="session")
def care(shim: Path | None, tmp_path_factory: pytest.TempPathFactory):
    """Starts `care`."""
    starter = Care(tmp_path_factory.mktemp("processes"), shim)
    yield starter
    starter.stop()


@pytest.fixture
def faults(shim: Path | None) -> None:
    """Skips where faults of a disk cannot be made."""
    if shim is None:
        pytest.skip("needs Linux and a C compiler")


@pytest.fixture
def card(root: Path, tmp_path: Path) -> Path:
    """A card that may be mistreated."""
    return small_card(root, tmp_path)


def small_card(root: Path, folder: Path) -> Path:
    """The first PHOTOS photos of one station."""
    photos = Path("FERN001") / "DCIM" / "100CARE_"
    (folder / photos).mkdir(parents=True)
    for number in range(1, PHOTOS + 1):
        shutil.copy2(root / "sample_data" / "card" / photos / f"IMG_{number:04}.JPG", folder / photos)
    return folder / "FERN001"


@pytest.fixture(scope="session")
def surveyed(care: Care, root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The catalog of that card when nothing went wrong."""
    folder = tmp_path_factory.mktemp("undisturbed")
    catalog = folder / "care.db"
    process = care.run(catalog, *detect(small_card(root, folder)))
    assert process.code == 0, process.messages
    return catalog
