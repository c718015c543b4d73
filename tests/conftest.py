"""Shared fixtures: the real photos and weights, where they are beside the checkout."""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
from pathlib import Path

import pytest

# before torch is first imported: several test processes share the cores, and idle threads must not spin
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("OMP_NUM_THREADS", "1" if "PYTEST_XDIST_WORKER" in os.environ else "2")

if "CARE_MODELS" not in os.environ:  # what tests cache goes with them, and not beside the user's weights
    os.environ["CARE_MODELS"] = tempfile.mkdtemp(prefix="care-tests-")
    atexit.register(shutil.rmtree, os.environ["CARE_MODELS"], ignore_errors=True)

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def root() -> Path:
    """The repository's root folder."""
    return ROOT


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real photos and weights; tests that need it skip where it is absent."""
    folder = ROOT.parent / "shared"
    if not (folder / "data").is_dir():
        pytest.skip("real photos are not here: ../shared/data is absent")
    return folder


@pytest.fixture(scope="session")
def mini_diffusion(tmp_path_factory) -> Path:
    """The folder of a miniature Stable Diffusion in diffusers' form, untrained: 128 px, four up-blocks."""
    from miniatures import save_diffusion

    return save_diffusion(tmp_path_factory.mktemp("diffusion") / "mini")
