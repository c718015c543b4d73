"""Reading and writing weights; no pickle is ever executed.

Our own checkpoints are one `.safetensors` file whose header carries everything needed to use it: its
metadata has one entry, `care`, which is JSON (task, architecture, input size, mean and std, class names,
training split, metrics). Reading the header needs the standard library only.

An Ultralytics `.pt` is a pickled network. Torch's restricted unpickler reads it against an explicit
allow-list: layers of torch and Ultralytics, and a few plain values. The list does not hold the layers'
classes but stand-ins that refuse to be called, so such a file can only say which layers there were and
what state they had. What else it names is refused by name.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import json
import os
import pickle
import struct
import threading
import types
import zipfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any

from care_cli.errors import CareError
from care_cli.headers import check_labels, check_values

if TYPE_CHECKING:
    import torch

HEADER_LIMIT = 100 * 2**20  # bytes, the format's own bound
LARGEST_STRIDE = 1024  # px
PATHS = {f"pathlib{part}.{kind}Path" for part in ("", "._local") for kind in ("Posix", "Windows")}
LAYERS = ("torch.nn.modules", "ultralytics.nn.modules", "ultralytics.nn.tasks")
LOSSES = ("ultralytics.utils.loss", "ultralytics.utils.tal")  # left behind by training, dropped on reading
RENAMED = {
    "ultralytics.nn.tasks.YOLOv10DetectionModel": "ultralytics.nn.tasks.DetectionModel",
    "ultralytics.utils.loss.v10DetectLoss": "ultralytics.utils.loss.E2EDetectLoss",
}
_LOCK = threading.Lock()


def prepare_torch() -> None:
    """Call before torch is first imported.

    Its threads share the processors with those that decode photos, and with whatever else runs: one that
    waits must not spin (measured: a busy 2-core machine, YOLO26s at 640 px, 0.4 s a photo instead of 4 s).
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def read_header(path: Path) -> dict[str, Any]:
    """What CARE wrote about itself into a safetensors file; empty for files that others wrote.

    Raises CareError for a file that is not safetensors or whose header is absurd.
    """
    path = Path(path)
    try:
        with path.open("rb") as stream:
            start = stream.read(8)
            length = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
            if not 2 <= length <= min(HEADER_LIMIT, path.stat().st_size - 8):
                raise CareError(f"{path} is not a safetensors file: its header claims {length:,} bytes")
            header = json.loads(stream.read(length))
        care = json.loads(header.get("__metadata__", {}).get("care", "{}"))
    except OSError as error:
        raise CareError(f"{path} can't be read: {error.strerror or error}") from error
    except (ValueError, AttributeError, TypeError, RecursionError) as error:
        raise CareError(f"{path} is not a safetensors file: its header can't be read") from error
    if not isinstance(care, dict):
        raise CareError(f"{path}: expected an object under 'care' in the header, got {type(care).__name__}")
    check_values(str(path), care)
    return care


def save(path: Path, state: dict[str, Any], header: dict[str, Any]) -> None:
    """Write tensors by name and the header; whole or not at all.

    Matrices and kernels are stored in half precision. Vectors (biases, norms and their statistics) keep
    float32: they weigh little, and small variances do not survive float16.
    """
    import torch
    from safetensors.torch import save as serialized

    tensors = {
        name: (t.half() if t.is_floating_point() and t.ndim > 1 else t).detach().cpu().contiguous().clone()
        for name, t in state.items()
        if isinstance(t, torch.Tensor)
    }
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(path.name + ".part")
    try:
        # written by us, so that the file gets the permissions of any other; safetensors gives it to its owner alone
        unfinished.write_bytes(serialized(tensors, metadata={"care": json.dumps(header, sort_keys=True)}))
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


def build(path: Path, make: Callable[[], torch.nn.Module]) -> torch.nn.Module:
    """The network that `make` makes for the weights in a file.

    It is planned without memory first, so that a header cannot ask for more than the machine has. Raises
    CareError when the network has more numbers than the file has bytes, and when it cannot be made.
    """
    import torch

    try:
        with torch.device("meta"):
            numbers = sum(parameter.numel() for parameter in make().parameters())
        if numbers > path.stat().st_size:
            raise CareError(
                f"{path} is not what its header says: a network of {numbers:,} numbers does not fit into "
                f"{path.stat().st_size:,} bytes"
            )
        return make()
    except CareError:
        raise
    except Exception as error:  # networks check what they are given with whatever exception
        raise CareError(f"{path} describes a network that cannot be made: {_reason(error)}") from error


def load_state(path: Path) -> dict[str, Any]:
    """Tensors by name from `.safetensors` or from a torch file that holds nothing but tensors.

    Floating point comes back as float32. Raises CareError for anything else; no pickle is executed.
    """
    import torch
    from safetensors.torch import load_file

    path = Path(path)
    try:
        if path.suffix.lower() == ".safetensors":
            state = load_file(path)
        else:
            _check_archive(path)
            state = torch.load(path, map_location="cpu", weights_only=True)
    except CareError:
        raise
    except Exception as error:  # a hostile pickle fails in whatever way its instructions do
        raise CareError(
            f"{path} can't be read as weights: {_reason(error)}. Expected .safetensors or a file of plain tensors."
        ) from error
    for key in ("state_dict", "model"):
        if isinstance(state, dict) and isinstance(state.get(key), dict):
            state = state[key]
    if not isinstance(state, dict) or not any(isinstance(t, torch.Tensor) for t in state.values()):
        raise CareError(f"{path} holds no weights by name; expected a state dict")
    tensors = {name: t for name, t in state.items() if isinstance(name, str) and isinstance(t, torch.Tensor)}
    _check_tensors(path, tensors.values())
    return {name.removeprefix("module."): t.float() if t.is_floating_point() else t for name, t in tensors.items()}


def load_ultralytics(path: Path) -> torch.nn.Module:
    """The network of an Ultralytics `.pt`, its averaged weights where it has them, on the CPU.

    Ultralytics must be set up and imported before (`yolo.prepare_ultralytics`). Raises CareError when
    the file is not such a checkpoint, or names anything outside the allow-list.
    """
    import torch

    try:
        _check_archive(path)
        with _own_allow_list():
            names = torch.serialization.get_unsafe_globals_in_checkpoint(path)
            torch.serialization.add_safe_globals([(_allowed(name), name) for name in names])
            checkpoint = torch.load(path, map_location="cpu", weights_only=True)
        return _network(path, checkpoint)
    except _Refused as error:
        raise CareError(
            f"{path} is refused: {error}. Expected detection weights as Ultralytics publishes or trains them."
        ) from error
    except CareError:
        raise
    except Exception as error:  # a hostile pickle fails in whatever way its instructions do
        raise CareError(f"{path} is not an Ultralytics checkpoint: {_reason(error)}") from error


def _network(path: Path, checkpoint: Any) -> torch.nn.Module:
    """The network in what was unpickled. CareError when there is none, or one that claims what no detector has."""
    from ultralytics.nn.tasks import BaseModel

    model = (checkpoint.get("ema") or checkpoint.get("model")) if isinstance(checkpoint, dict) else None
    if not isinstance(model, BaseModel):
        raise CareError(f"{path} holds no network of Ultralytics; expected its detection weights")
    _check_tensors(path, model.state_dict().values())
    _check_description(path, model)
    return _restore(model)


def _check_description(path: Path, model: torch.nn.Module) -> None:
    """CareError when what the network says about itself is no detector's."""
    names, stride = getattr(model, "names", {}), getattr(model, "stride", None)
    if not isinstance(names, dict):
        raise CareError(f"{path}: the names of classes must be a table, got {type(names).__name__}")
    check_labels(str(path), names.values())
    if stride is not None and not 1 <= float(stride.max()) <= LARGEST_STRIDE:
        raise CareError(f"{path}: a stride of {float(stride.max()):g} px is none that a detector has")


def _check_archive(path: Path) -> None:
    """CareError for a zip file that would unpack to more than it is; torch packs nothing."""
    if not zipfile.is_zipfile(path):
        return
    with zipfile.ZipFile(path) as archive:
        unpacked = sum(member.file_size for member in archive.infolist())
    if unpacked > path.stat().st_size:
        raise CareError(f"{path} is refused: its {path.stat().st_size:,} bytes unpack to {unpacked:,}")


def _check_tensors(path: Path, tensors: Iterable[torch.Tensor]) -> None:
    """CareError for tensors that claim more numbers than the file has bytes."""
    numbers = sum(tensor.numel() for tensor in tensors)
    if numbers > path.stat().st_size:
        raise CareError(f"{path} is refused: its {path.stat().st_size:,} bytes claim {numbers:,} numbers")


class _Refused(Exception):
    """A checkpoint asks for more than layers and their state."""


@contextlib.contextmanager
def _own_allow_list() -> Iterator[None]:
    """Start the restricted unpickler from an empty allow-list, and put the process's back afterwards.

    Ultralytics leaves the layers themselves on it, and those must not be callable here.
    """
    import numpy as np
    import torch

    with _LOCK:
        before = torch.serialization.get_safe_globals()
        torch.serialization.clear_safe_globals()
        try:
            torch.serialization.add_safe_globals([type(np.dtype(np.float64))])  # no file names it
            yield
        finally:
            torch.serialization.clear_safe_globals()
            torch.serialization.add_safe_globals(before)


def _reason(error: BaseException) -> str:
    if isinstance(error, pickle.UnpicklingError):  # torch's text advises an unsafe load
        return "it holds more than weights, or is damaged"
    return (str(error).splitlines() or [type(error).__name__])[0].rstrip(". ")


def _allowed(name: str) -> Any:
    """What a global of the pickle is replaced with."""
    import numpy as np

    plain = {
        "builtins.getattr": _guarded_getattr,
        "numpy.dtype": np.dtype,
        "numpy.core.multiarray.scalar": np.float64(0).__reduce__()[0],
        "numpy._core.multiarray.scalar": np.float64(0).__reduce__()[0],
        "ultralytics.utils.IterableSimpleNamespace": types.SimpleNamespace,
    }
    if name in plain:
        return plain[name]
    if name in PATHS:
        return PurePath
    found = _class(RENAMED.get(name, name))
    if found is None:
        raise _Refused(f"beside layers it names {name}, which could run code on loading")
    return _stand_in(found)


def _class(name: str) -> type | None:
    """A layer or loss class by its full name, when it is one that may be in a checkpoint."""
    import torch

    module, _, attribute = name.rpartition(".")
    layer = any(module == root or module.startswith(f"{root}.") for root in LAYERS)
    if not layer and module not in LOSSES:
        return None
    try:
        found = getattr(importlib.import_module(module), attribute, None)
    except ImportError:
        return None
    if not isinstance(found, type) or (layer and not issubclass(found, torch.nn.Module)):
        return None
    return found if layer or found.__module__ == module else None


@functools.cache
def _stand_in(found: type) -> type:
    """A subclass that can be given state but not be called: constructors read files, some run code."""

    def refuse(self: Any, *_: Any, **__: Any) -> None:
        raise _Refused(f"it calls {found.__name__} instead of describing one")

    return type(found.__name__, (found,), {"__init__": refuse, "stands_for": found})


def _guarded_getattr(owner: Any, name: str) -> Any:
    """Checkpoints of Ultralytics refer to `forward` of a layer through `getattr`, and to nothing else."""
    import torch

    layer = owner if isinstance(owner, type) else type(owner)
    if not issubclass(layer, torch.nn.Module) or name not in ("forward", "forward_fuse"):
        raise _Refused(f"it asks for {name!r} of {layer.__name__}")
    return getattr(owner, name)


def _restore(model: torch.nn.Module) -> torch.nn.Module:
    """Give every layer its own class back, and drop what training left behind."""
    import torch

    for layer in list(model.modules()):
        for name, value in list(vars(layer).items()):
            if hasattr(type(value), "stands_for") and not isinstance(value, torch.nn.Module):
                delattr(layer, name)
        vars(layer).pop("forward", None)
        if isinstance(layer, torch.nn.Upsample) and not hasattr(layer, "recompute_scale_factor"):
            layer.recompute_scale_factor = None  # absent from files of torch before 1.11
        layer.__class__ = getattr(type(layer), "stands_for", type(layer))
    return model
