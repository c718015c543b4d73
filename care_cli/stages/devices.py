"""Which device a stage computes on."""

from __future__ import annotations

import ctypes
import re
import sys

from care_cli import engines
from care_cli.checkpoints import prepare_torch
from care_cli.errors import CareError


def choose(device: str) -> str:
    """'cpu', 'cuda' or 'cuda:N' for what --device says; 'auto' is CUDA where there is a card that torch can use.

    Without a card torch is not imported. Raises CareError when the device is unknown or absent.
    """
    if device == "cpu" or (device == "auto" and not _driver_sees_a_card()):
        return "cpu"
    if device != "auto" and not re.fullmatch(r"cuda(:\d+)?", device):
        raise CareError(f"--device is auto, cpu, cuda or cuda:N, but got {device!r}.")
    prepare_torch()
    import torch

    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    number = int(device.partition(":")[2] or 0)
    if number >= torch.cuda.device_count():
        raise CareError(
            f"There is no {device} here: torch sees {torch.cuda.device_count()} CUDA cards. Try --device cpu."
        )
    return device


def _driver_sees_a_card() -> bool:
    """Ask NVIDIA's driver, where it is installed, as CUDA itself would: a matter of milliseconds."""
    if sys.platform == "darwin":
        return False
    cards = ctypes.c_int(0)
    try:
        driver = ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
        answers = driver.cuInit(0), driver.cuDeviceGetCount(ctypes.byref(cards))
    except (OSError, AttributeError):
        return False
    return answers == (0, 0) and cards.value > 0


def precision_like(run: dict, asked: str, device: str) -> str:
    """The precision that was asked for; for 'auto' that of a run's settings, or float32 where the device lacks it."""
    if asked != "auto":
        return asked
    made = run.get("precision", "float32")
    return made if engines.computes(made, device) else "float32"
