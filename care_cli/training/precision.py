"""In which numbers a training computes; torch is loaded when that is asked, as processes that render come by here."""

from __future__ import annotations

from typing import TYPE_CHECKING

from care_cli.errors import CareError

if TYPE_CHECKING:
    import torch


def has_bf16() -> bool:
    """Whether this processor multiplies bfloat16 natively, so that it pays."""
    import torch

    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


def dtype(precision: str, device: torch.device) -> torch.dtype:
    """What products are computed in: `auto` is bf16 where the processor or card has it, else f32.

    Raises CareError for another precision than auto, bf16, fp16 and f32.
    """
    import torch

    if precision == "auto":
        on_card = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
        precision = "bf16" if on_card or (device.type == "cpu" and has_bf16()) else "f32"
    known = {"bf16": torch.bfloat16, "fp16": torch.float16, "f32": torch.float32}
    if precision not in known:
        raise CareError(f"The precision is auto, {', '.join(known)}, got {precision!r}.")
    return known[precision]
