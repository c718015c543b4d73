"""The entry point as a shell sees it: where options stand, how it ends, what it writes into a pipe."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from catalogs import new, survey
from hypothesis import given
from hypothesis import strategies as st

from care_cli.catalog import Catalog
from care_cli.cli import FLAGS, ORDER, VALUES, app, check_text, hoist
from care_cli.decisions import Decision
from care_cli.errors import CareError

POSIX = pytest.mark.skipif(os.name == "nt", reason="signals, fifos and names of any bytes are POSIX")


def start(folder: Path, *arguments: str | bytes, **settings) -> subprocess.Popen:
    """`care` in a process of its own, in `folder`."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("CARE_")}
    return subprocess.Popen(
        [sys.executable, *settings.pop("python", ()), "-m", "care_cli", *arguments],
        cwd=folder,
        env=environment | {"PYTHONPATH": str(Path(__file__).parent.parent)} | settings.pop("environment", {}),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        **settings,
    )


def ended(process: subprocess.Popen) -> tuple[int, bytes, bytes]:
    """Exit code and both streams."""
    out, err = process.communicate(timeout=60)
    return process.returncode, out, err


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a small catalog in which one animal is called Žofie."""
    with new(tmp_path / "care.db") as catalog:
        [crop, *_] = survey(catalog, photos=2)
        catalog.decide(Decision("create", crop_id=crop, value="Žofie"))
    return tmp_path


# -- options of every command


@pytest.mark.parametrize(
    ("given_", "expected"),
    [
        ("crops --json", "--json crops"),
        ("crops set 3 --species Elk -q", "-q crops set 3 --species Elk"),
        ("images --catalog x.db --csv --device=cpu", "--catalog x.db --device=cpu images --csv"),
        ("individuals show -- --json", "individuals show -- --json"),
        ("--json crops", "--json crops"),
        ("images --catalog", "--catalog"),
        ("", ""),
    ],
)
def test_options_of_every_command_move_to_the_front(given_: str, expected: str) -> None:
    assert hoist(given_.split()) == expected.split()


WORDS = st.sampled_from(["crops", "set", "3", "--species", "Elk", "--csv", *sorted(FLAGS), "--device=cpu"])


@given(st.lists(WORDS), st.lists(WORDS), st.sampled_from(sorted(VALUES)), st.text("abc/", min_size=1))
def test_moving_keeps_every_word_and_the_order_of_the_others(before, after, option, value) -> None:
    words = [*before, option, value, *after]
    moved = hoist(words)
    assert sorted(moved) == sorted(words)
    assert moved[moved.index(option) + 1] == value
    common = {*FLAGS, "--device=cpu"}
    rest = [word for word in [*before, *after] if word not in common]
    assert moved[len(moved) - len(rest) :] == rest
    assert hoist(moved) == moved


def test_commands_stand_in_the_order_of_the_work() -> None:
    import typer

    command = typer.main.get_command(app)
    assert tuple(command.list_commands(None)) == ORDER


# -- what is no text


@POSIX
def test_bytes_that_are_no_text_are_taken_in_names_of_files_alone(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    odd = os.fsdecode(b"caf\xe9")
    for arguments in (["crops", "--species", odd], ["crops", f"--species={odd}"], ["detect", odd]):
        with pytest.raises(CareError, match=r"no text.*caf\\xe9"):
            check_text(arguments)
    (tmp_path / odd).mkdir()
    check_text(["detect", odd, f"{odd}/", str(tmp_path / odd), f"--gallery={odd}/new.html", "--species", "Žofie"])
    with pytest.raises(CareError):
        check_text([f"--gallery={odd}/{odd}.html"])


@POSIX
def test_a_name_of_wrong_bytes_is_refused_before_anything_is_done(folder: Path) -> None:
    code, out, err = ended(start(folder, "crops", "set", "1", "--species", b"\xff"))
    assert (code, out) == (2, b"") and b"\\xff" in err and b"Traceback" not in err
    with Catalog(folder / "care.db") as catalog:
        assert catalog.crop(1)["species"] is None


# -- how it ends


def test_a_refusal_ends_with_2_and_v_shows_where(tmp_path: Path) -> None:
    code, out, err = ended(start(tmp_path, "crops"))
    assert (code, out) == (2, b"") and err.startswith(b"Error: There is no catalog")
    code, out, err = ended(start(tmp_path, "crops", "-v"))
    assert (code, out) == (2, b"") and b"Traceback" in err and b"\nError: There is no catalog" in err
    assert ended(start(tmp_path, "crops", "--no-such-option"))[0] == 2
    assert ended(start(tmp_path, "crops", "--catalog"))[0] == 2


@POSIX
def test_ctrl_c_says_that_the_work_is_kept(folder: Path) -> None:
    # a shell that starts the tests in the background lets them ignore Ctrl-C, and programs inherit that
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    os.mkfifo(folder / "names.csv")
    process = start(folder, "individuals", "name", "--from", "names.csv")
    for _ in range(600):  # until it waits for the table
        try:
            writer = os.open(folder / "names.csv", os.O_WRONLY | os.O_NONBLOCK)
            break
        except OSError:
            time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    code, out, err = ended(process)
    os.close(writer)
    signal.signal(signal.SIGINT, before)
    assert (code, out) == (130, b"")
    assert err.decode() == "Stopped. What was done is kept; the same command goes on.\n"


@pytest.mark.parametrize("photos", [1, 60])  # less and more than a pipe's buffer
def test_a_reader_that_leaves_is_no_error(tmp_path: Path, photos: int) -> None:
    with new(tmp_path / "care.db") as catalog:
        survey(catalog, photos=photos)
    for arguments in (("images", "--json"), ("--help",)):
        process = start(tmp_path, *arguments)
        process.stdout.close()
        code = process.wait(timeout=60)
        assert (code, process.stderr.read()) == (0, b"")
        process.stderr.close()


def test_output_is_utf_8_whatever_the_system_prefers(folder: Path) -> None:
    for options in ((), ("--csv",)):
        arguments = ("individuals", "list", *options)
        code, out, err = ended(start(folder, *arguments, environment={"PYTHONIOENCODING": "cp1252"}))
        assert (code, err) == (0, b"")
        assert "Žofie" in out.decode("utf-8")
        assert b"\r" not in out.replace(os.linesep.encode(), b"\n")
    arguments = ("individuals", "show", "Žofie", "--json")
    code, out, _ = ended(start(folder, *arguments, environment={"PYTHONIOENCODING": "ascii"}))
    assert code == 0 and json.loads(out)["individual"] == "Žofie"


def test_help_loads_nothing_heavy(tmp_path: Path) -> None:
    code, out, err = ended(start(tmp_path, "--help", python=("-X", "importtime")))
    loaded = {line.rpartition("|")[2].strip().partition(".")[0] for line in err.decode().splitlines()}
    assert code == 0 and b"detect" in out and {"care_cli", "typer"} <= loaded
    assert not loaded & {"torch", "numpy", "PIL", "rich", "sqlite_utils", "tqdm"}
