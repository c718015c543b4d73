"""Which device a stage computes on."""

from __future__ import annotations

import re

from care_cli.checkpoints import prepare_torch
from care_cli.errors import CareError


def choose(device: str) -> str:
    """'cpu', 'cuda' or 'cuda:N' for what --device says; 'auto' is CUDA where there is a card.

    Raises CareError when the device is unknown or absent.
    """
    if device == "cpu":
        return device
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
