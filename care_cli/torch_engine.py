"""Networks in torch: the reference on the CPU, and the engine for CUDA cards."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from care_cli.checkpoints import prepare_torch
from care_cli.errors import CareError

if TYPE_CHECKING:
    import torch

CPU_BATCH = 8
LARGEST_BATCH = 256  # on a card: more gains nothing
SHARE = 0.6  # of a card's free memory that a batch may fill


class TorchEngine:
    """An `Engine` in torch; see `engines`.

    In float16 and bfloat16 the products (convolutions, linear layers, attention) are computed so, and what torch's
    autocast holds to be delicate stays in float32. A batch that the device's memory does not hold is
    halved, and the smaller size is kept for the calls that follow.
    """

    name = "torch"
    workers = 1

    def __init__(self, module: torch.nn.Module, device: str, precision: str, beside: tuple[tuple[int, ...], ...] = ()):
        """`module` and `beside` as a `Network` has them."""
        prepare_torch()
        import torch

        self.device, self.precision, self.batch = device, precision, CPU_BATCH
        self._beside = beside
        self._kind = torch.device(device).type
        self._dtype = getattr(torch, precision)
        self._lock = threading.Lock()
        self._most: int | None = None  # items that a forward pass holds, once that is known
        if precision == "bfloat16" and not _has_bfloat16(self._kind):
            raise CareError(f"--precision bfloat16 is refused: this {_what(self._kind)} does not compute in it.")
        self._module = module.float().eval().requires_grad_(False).to(device).to(memory_format=torch.channels_last)
        if precision != "float32":
            _lower(self._module, self._dtype)

    def __call__(self, batch: np.ndarray, *beside: np.ndarray) -> np.ndarray:
        """See `Engine`; raises CareError when the device's memory does not hold a single item."""
        done: list[np.ndarray] = []
        start = 0
        with self._lock:
            while start < len(batch) or not done:
                end = start + (self._most or len(batch))
                part = [one[start:end] for one in (batch, *beside)]
                answer = self._try(part)
                if answer is None:
                    self._halve(len(part[0]))
                    continue
                done.append(answer)
                start += len(part[0])
        return done[0] if len(done) == 1 else np.concatenate(done)

    def plan(self, height: int, width: int) -> None:
        """Choose `batch` by the memory that a probing forward pass takes on a card; fixed on the CPU."""
        if self._kind != "cuda":
            return
        import torch

        self._probe(1, height, width)  # the libraries' own memory comes with the first call
        torch.cuda.reset_peak_memory_stats(self.device)
        before = torch.cuda.memory_allocated(self.device)
        self._probe(2, height, width)
        each = (torch.cuda.max_memory_allocated(self.device) - before) / 2
        free, _ = torch.cuda.mem_get_info(self.device)
        self.batch = int(min(max(SHARE * free / max(each, 1), 1), LARGEST_BATCH))

    def _probe(self, count: int, height: int, width: int) -> None:
        self(
            np.zeros((count, height, width, 3), np.uint8),
            *(np.zeros((count, *shape), np.float32) for shape in self._beside),
        )

    def _try(self, inputs: Sequence[np.ndarray]) -> np.ndarray | None:
        """The answer to a batch; None when memory ran out, with nothing of the attempt held."""
        import torch

        try:
            return self._forward(inputs)
        except torch.OutOfMemoryError:
            return None

    def _halve(self, size: int) -> None:
        import torch

        if size <= 1:
            raise CareError(
                f"The memory of {self.device} does not hold this network with a single photo: use --device cpu."
            )
        self._most = size // 2
        self.batch = min(self.batch, self._most)
        if self._kind == "cuda":
            torch.cuda.empty_cache()

    def _forward(self, inputs: Sequence[np.ndarray]) -> np.ndarray:
        import torch

        tensors = [torch.from_numpy(np.ascontiguousarray(one)) for one in inputs]
        if self._kind == "cuda":
            tensors = [one.pin_memory().to(self.device, non_blocking=True) for one in tensors]
        lowered = self.precision != "float32"
        with torch.inference_mode(), torch.autocast(self._kind, dtype=self._dtype, enabled=lowered):
            return self._module(*tensors).float().cpu().numpy()


def _lower(module: torch.nn.Module, dtype: torch.dtype) -> None:
    """Store the weights of products in `dtype`, so that autocast need not convert them at every call."""
    from torch import nn

    for layer in module.modules():
        if isinstance(layer, nn.Conv1d | nn.Conv2d | nn.Linear):
            layer.to(dtype)


def _has_bfloat16(kind: str) -> bool:
    import torch

    if kind == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


def _what(kind: str) -> str:
    return "processor" if kind == "cpu" else "card"
