"""One call behind which a network runs: in torch (CPU, CUDA) or converted, in OpenVINO (CPU).

Torch is the reference. On the CPU a network is converted once and kept (see `compiled`), so that whoever
finds it there imports neither torch nor the libraries that built it.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from care_cli.errors import CareError

if TYPE_CHECKING:
    import torch

ENGINES = ("auto", "torch", "openvino")
PRECISIONS = ("auto", "float32", "bfloat16", "float16")

Notice = Callable[[str], None]


class Engine(Protocol):
    """A network ready to be called, from any thread: `(B,H,W,3) uint8 RGB`, and what else it takes (`Network.beside`),
    `(B, ...) float32`, to what the network answers, float32.

    The call blocks until its answer is there.
    """

    name: str  # torch | openvino
    precision: str  # float32 | bfloat16 | float16
    device: str  # cpu | cuda | cuda:N
    workers: int  # calls that it likes at the same time
    batch: int  # photos that it likes in a call

    def __call__(self, batch: np.ndarray, *beside: np.ndarray) -> np.ndarray: ...

    def plan(self, height: int, width: int) -> None:
        """Choose `batch` for inputs of at most this size in px."""


@dataclass(frozen=True)
class Network:
    """What a builder made: a torch module, and what was found out about it.

    module   `(B,H,W,3) uint8 RGB`, and what else it takes, to `(B, ...) float32`
    about    plain JSON: all that whoever uses the network must know and can't ask the module for
    sizes    two (height, width) px that it takes, the same one twice when it takes no other
    agrees   do two answers to the same input `(B, ...)` say the same?
    beside   shapes of what it takes beside the photos, float32 in 0..1, all of it zero where there is nothing to say:
             of one photo each, without the batch
    """

    module: torch.nn.Module
    about: dict[str, Any]
    sizes: tuple[tuple[int, int], tuple[int, int]]
    agrees: Callable[[np.ndarray, np.ndarray], bool]
    beside: tuple[tuple[int, ...], ...] = ()


def choose(engine: str, precision: str, device: str) -> tuple[str, str]:
    """Engine and precision for what --engine and --precision say.

    'auto' is OpenVINO in float32 on the CPU (torch where it is not installed), torch in float16 on CUDA. Raises
    CareError for what does not go together.
    """
    if engine not in ENGINES:
        raise CareError(f"--engine is one of {', '.join(ENGINES)}, but got {engine!r}.")
    if precision not in PRECISIONS:
        raise CareError(f"--precision is one of {', '.join(PRECISIONS)}, but got {precision!r}.")
    on_cpu, installed = device == "cpu", importlib.util.find_spec("openvino") is not None
    if engine == "openvino" and not on_cpu:
        raise CareError(f"--engine openvino runs on the CPU, but the device is {device}: add --device cpu.")
    if engine == "openvino" and not installed:
        raise CareError("--engine openvino needs the package openvino, which is not installed; use --engine torch.")
    if on_cpu and precision == "float16":
        raise CareError("--precision float16 is for CUDA cards; the CPU takes float32 or bfloat16.")
    if engine == "auto":
        engine = "openvino" if on_cpu and installed else "torch"
    if precision == "auto":
        precision = "float32" if on_cpu else "float16"
    return engine, precision


def computes(precision: str, device: str) -> bool:
    """Does the device compute in this precision? Torch is asked for CUDA cards only."""
    if precision == "float32":
        return True
    if device != "cpu":
        import torch

        return precision == "float16" or torch.cuda.is_bf16_supported(including_emulation=False)
    if precision == "float16" or importlib.util.find_spec("openvino") is None:
        return False
    from care_cli.openvino_engine import abilities

    return "BF16" in abilities()


def load(
    identity: dict[str, Any],
    build: Callable[[], Network],
    device: str = "cpu",
    *,
    name: str = "this network",
    engine: str = "auto",
    precision: str = "auto",
    notice: Notice | None = None,
) -> tuple[Engine, dict[str, Any]]:
    """The network behind a call, and what is known about it (`Network.about`).

    `identity` is plain JSON that tells this network from every other: the digest of its weights and whatever of its
    description changes the graph; `name` is for the person at the terminal. `build` is called when no converted form
    is kept, or torch is to run it. Raises CareError when the engine, the precision and the machine do not go together,
    and what `build` raises.
    """
    engine, precision = choose(engine, precision, device)
    notice = notice or (lambda text: None)
    if engine == "openvino":
        from care_cli import openvino_engine

        loaded = openvino_engine.load(
            identity, build, precision, lambda: notice(f"Preparing {name} for this processor, once.")
        )
        if loaded.engine is not None:
            return loaded.engine, loaded.about
        network = loaded.network or build()
        notice(f"OpenVINO can't run {name} ({loaded.reason}); torch does.")
    else:
        network = build()
    from care_cli.torch_engine import TorchEngine

    return TorchEngine(network.module, device, precision, network.beside), network.about


def images_of(pixels: torch.Tensor) -> torch.Tensor:
    """Photos `(B, H, W, 3) uint8` as images `(B, 3, H, W) float32` in 0..1."""
    return pixels.permute(0, 3, 1, 2).float() / 255


def cores() -> int:
    """Processor cores that this process may use; $OMP_NUM_THREADS, where it is set, lowers them."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    wished = os.environ.get("OMP_NUM_THREADS", "")
    return max(1, min(allowed, int(wished))) if wished.isdecimal() else allowed
