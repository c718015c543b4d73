"""The README is what the program does: its walk is run as it stands, and it names every command."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from care_cli.cli import app

NUMBER = re.compile(r"-?\d+(?:\.\d+)?")


def console_blocks(root: Path) -> list[tuple[str, str]]:
    """Commands of the README's console blocks, each with the output shown below it."""
    found = []
    for block in re.findall(r"```console\n(.*?)```", (root / "README.md").read_text("utf-8"), re.DOTALL):
        for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
            command, _, output = part.partition("\n")
            found.append((command, output))
    return found


def words_of(text: str) -> list[str]:
    """Text without its numbers and its layout: what stays the same on every machine."""
    return NUMBER.sub("#", re.sub(r"[─…\s]+", " ", text)).split()


def test_the_walk_runs_as_it_stands(root: Path, tmp_path: Path) -> None:
    shutil.copytree(root / "sample_data", tmp_path / "sample_data")
    blocks = console_blocks(root)
    assert len(blocks) >= 7
    for command, shown in blocks:
        program, *arguments = shlex.split(command)
        assert program == "care"
        done = subprocess.run(
            [sys.executable, "-m", "care_cli", *arguments],
            cwd=tmp_path,
            env=os.environ | {"PYTHONIOENCODING": "utf-8", "CARE_CATALOG": "care.db"},
            capture_output=True,
            encoding="utf-8",
            check=False,
        )
        accepted = (0, 1) if "left out" in shown else (0,)  # 1: some items failed, and the README says so
        assert done.returncode in accepted, f"{command}: {done.stderr}"
        told = words_of(done.stdout + done.stderr)
        missing = [word for word in words_of(shown) if word not in told]
        assert not missing, f"{command} no longer says {missing}"


def commands() -> list[str]:
    import typer

    return sorted(typer.main.get_command(app).commands)


@pytest.mark.parametrize("command", commands())
def test_every_command_is_named(root: Path, command: str) -> None:
    assert f"care {command}" in (root / "README.md").read_text("utf-8")


def test_make_targets_exist(root: Path) -> None:
    makefile = (root / "Makefile").read_text("utf-8")
    for target in re.findall(r"make ([a-z-]+)", (root / "README.md").read_text("utf-8")):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target
