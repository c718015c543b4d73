"""Networks in OpenVINO, on the CPU: converted from torch once, kept, and held to torch when converted."""

from __future__ import annotations

import functools
import platform
import queue
import sys
import threading
import warnings
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np

from care_cli import compiled
from care_cli.engines import Network, cores
from care_cli.errors import CareError

if TYPE_CHECKING:
    import openvino

STREAMS = 8  # at most: each holds the activations of a batch
EACH = 4  # photos that a stream likes at a time
HINTS = {"float32": "f32", "bfloat16": "bf16"}


class _First:
    """The first call in this process goes alone: OpenVINO's binding prepares itself for NumPy in it, and two threads
    that come at once each hold what the other waits for (Python's lock, and that of the preparation), for ever."""

    lock = threading.Lock()
    done = False


class OpenVINOEngine:
    """An `Engine` in OpenVINO; see `engines`.

    Each core computes a part of the calls on its own ("streams"), which wastes least; a batch that comes alone
    is shared out among them.
    """

    name = "openvino"
    device = "cpu"

    def __init__(self, model: Path | openvino.Model, precision: str):
        """`model` is a place as `compiled` keeps it, or a converted model; RuntimeError when it is no model."""
        self.precision = precision
        self.workers = min(cores(), STREAMS)
        self.batch = EACH * self.workers
        config = {
            "PERFORMANCE_HINT": "THROUGHPUT",
            "NUM_STREAMS": self.workers,
            "INFERENCE_NUM_THREADS": cores(),
            "INFERENCE_PRECISION_HINT": HINTS[precision],
            "ENABLE_CPU_PINNING": False,  # processes that share a machine would all sit on the same cores
        }
        if isinstance(model, Path):
            config |= {"CACHE_DIR": str(model.parent / "blobs"), "CACHE_MODE": "OPTIMIZE_SIZE"}
        core = _core()
        network = core.read_model(model) if isinstance(model, Path) else model
        self._compiled = core.compile_model(network, "CPU", config)
        self._idle: queue.SimpleQueue = queue.SimpleQueue()
        for _ in range(self.workers):
            self._idle.put(self._compiled.create_infer_request())

    def __call__(self, batch: np.ndarray, *beside: np.ndarray) -> np.ndarray:
        """See `Engine`."""
        inputs, each = (batch, *beside), min(EACH, -(-len(batch) // self.workers))
        if _First.done:
            return self._run(inputs, each)
        with _First.lock:
            answers = self._run(inputs, each)
            _First.done = True
        return answers

    def plan(self, height: int, width: int) -> None:
        """Nothing to choose: each stream takes a few photos at a time whatever their size."""

    def _run(self, inputs: Sequence[np.ndarray], each: int) -> np.ndarray:
        """The answers to a batch, `each` photos at a time, on as many streams as are free."""
        parts = deque(
            {place: np.ascontiguousarray(one[i : i + each]) for place, one in enumerate(inputs)}
            for i in range(0, len(inputs[0]), each)
        )
        running: deque = deque()
        answers = []
        try:
            while parts or running:
                if parts and (request := self._free(wait=not running)):
                    running.append(request)
                    request.start_async(parts.popleft(), share_inputs=True)
                else:
                    running[0].wait()
                    answers.append(running[0].get_output_tensor(0).data.astype(np.float32))  # astype copies
                    self._idle.put(running.popleft())
        finally:
            for request in running:
                request.cancel()
                self._idle.put(request)
        return np.concatenate(answers) if len(answers) > 1 else answers[0]

    def _free(self, wait: bool) -> Any | None:
        """A request that nobody uses; None at once when all are in use, unless told to wait."""
        try:
            return self._idle.get(block=wait)
        except queue.Empty:
            return None


@dataclass(frozen=True)
class Loaded:
    """What came of loading: an engine, or the reason why torch must run the network (built, if it had to be)."""

    engine: OpenVINOEngine | None
    about: dict[str, Any]
    network: Network | None = None
    reason: str = ""


def load(identity: dict[str, Any], build: Callable[[], Network], precision: str, begin: Callable[[], None]) -> Loaded:
    """The network from the cache, else built, converted, compared with torch, and kept; `begin` is called before.

    Raises CareError when the processor does not compute in this precision, and what `build` raises.
    """
    if precision == "bfloat16" and "BF16" not in abilities():
        raise CareError("--precision bfloat16 is refused: this processor does not compute in it.")
    processor = _core().get_property("CPU", "FULL_DEVICE_NAME")
    name = compiled.key(
        identity,
        openvino=_openvino().get_version(),
        precision=precision,
        processor=[platform.machine(), processor, *sorted(abilities())],
    )
    if kept := compiled.read(name):
        if kept.model is None:
            return Loaded(None, kept.about, reason=kept.reason)
        try:
            return Loaded(OpenVINOEngine(kept.model, precision), kept.about)
        except RuntimeError:  # whole, and yet no model to this OpenVINO
            compiled.drop(name)
    network = build()
    begin()
    try:
        model = convert(network)
    except Unfit as error:
        compiled.write(name, network.about, None, reason=str(error))
        return Loaded(None, network.about, network, str(error))
    place = compiled.write(name, network.about, functools.partial(_save, model))
    try:
        return Loaded(OpenVINOEngine(place or model, precision), network.about)
    except RuntimeError:  # another process has just removed it as damaged, to put its own there
        return Loaded(OpenVINOEngine(model, precision), network.about)


class Unfit(Exception):
    """OpenVINO can't run a network as torch does."""


def convert(network: Network) -> openvino.Model:
    """The network in OpenVINO, for any number of photos of any size that it takes.

    Raises Unfit when it can't be converted, or answers otherwise than torch at another batch and size than
    the one that it was traced with, with something beside the photos or nothing.
    """
    import torch

    first, second = network.sizes
    fixed = first == second
    shape = [-1, *(first if fixed else (-1, -1)), 3]
    module = network.module.float().eval().requires_grad_(False)
    try:
        with torch.no_grad(), warnings.catch_warnings():  # inference_mode's tensors can't be traced
            warnings.simplefilter("ignore")
            example = tuple(torch.from_numpy(one) for one in (_pattern(1, *first), *_beside(1, network)))
            module(*example)
            shapes = [shape, *([-1, *one] for one in network.beside)]
            model = _openvino().convert_model(module, example_input=example, input=shapes)
            probes = [(_pattern(2, *second), *_beside(2, network))]
            if network.beside:
                probes.append((probes[0][0], *(np.zeros_like(one) for one in probes[0][1:])))
            expected = [module(*(torch.from_numpy(one) for one in probe)).numpy() for probe in probes]
        engine = OpenVINOEngine(model, "float32")
        answers = [engine._run(probe, len(probe[0])) for probe in probes]
    except MemoryError:
        raise
    except Exception as error:  # whatever the converter stumbles over, torch still runs the network
        raise Unfit(f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[-1][:200]}") from error
    for ours, theirs in zip(answers, expected, strict=True):
        if ours.shape != theirs.shape or not network.agrees(theirs, ours):
            raise Unfit("its answers differ from torch's")
    return model


def _beside(count: int, network: Network) -> list[np.ndarray]:
    """What a network takes beside `count` photos: `(count, ...) float32` in 0..1, the same at every call."""
    random = np.random.default_rng(7)
    return [random.random((count, *shape), np.float32) for shape in network.beside]


def _pattern(count: int, height: int, width: int) -> np.ndarray:
    """`(count, height, width, 3) uint8`: coloured squares, the same at every call."""
    colours = np.random.default_rng(7).integers(0, 256, (count, -(-height // 16), -(-width // 16), 3), np.uint8)
    return np.ascontiguousarray(colours.repeat(16, 1).repeat(16, 2)[:, :height, :width])


def _save(model: openvino.Model, path: Path) -> None:
    _openvino().save_model(model, path, compress_to_fp16=False)


def abilities() -> list[str]:
    """What the processor computes in, by OpenVINO's names: FP32, BF16, ..."""
    return _core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


@functools.cache
def _core() -> openvino.Core:
    return _openvino().Core()


def _openvino() -> ModuleType:
    """The package, without its telemetry, which would report every import to its maker over the network."""
    if "openvino" not in sys.modules:
        sys.modules.setdefault("openvino_telemetry", None)
    import openvino

    return openvino
