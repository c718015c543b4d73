"""In which numbers a training computes; torch is loaded when that is asked, as processes that render come by here."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

PRECISIONS = ("auto", "float32", "bfloat16", "float16")


def has_bf16() -> bool:
    """Whether this processor multiplies bfloat16 natively, so that it pays."""
    import torch

    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


def resolve(precision: str, device: torch.device) -> str:
    """What products are computed in: `auto` is bfloat16 where the processor or card has it, else float32."""
    import torch

    if precision != "auto":
        return precision
    on_card = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    return "bfloat16" if on_card or (device.type == "cpu" and has_bf16()) else "float32"


def dtype(precision: str) -> torch.dtype:
    """Torch's name of a resolved precision."""
    import torch

    return getattr(torch, precision)
