"""Our own checkpoints: one `.safetensors` file whose header carries everything needed to use it.

The header's metadata has one entry, `care`, which is JSON: task, architecture, input size, mean and std,
class names, training split, metrics. Reading it needs the standard library only.
"""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

from care_cli.errors import CareError

HEADER_LIMIT = 100 * 2**20  # bytes, the format's own bound


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
    return care


def save(path: Path, state: dict[str, Any], header: dict[str, Any]) -> None:
    """Write tensors by name and the header; whole or not at all.

    Matrices and kernels are stored in half precision. Vectors (biases, norms and their statistics) keep
    float32: they weigh little, and small variances do not survive float16.
    """
    import torch
    from safetensors.torch import save_file

    tensors = {
        name: (t.half() if t.is_floating_point() and t.ndim > 1 else t).detach().cpu().contiguous().clone()
        for name, t in state.items()
        if isinstance(t, torch.Tensor)
    }
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(path.name + ".part")
    try:
        save_file(tensors, unfinished, metadata={"care": json.dumps(header, sort_keys=True)})
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


def load_state(path: Path) -> dict[str, Any]:
    """Tensors by name from `.safetensors` or from a torch file that holds nothing but tensors.

    Floating point comes back as float32. Raises CareError for anything else; no pickle is executed.
    """
    import pickle

    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    path = Path(path)
    try:
        if path.suffix.lower() == ".safetensors":
            state = load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, ValueError, pickle.UnpicklingError, SafetensorError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CareError(
            f"{path} can't be read as weights: {reason}. Expected .safetensors or a file of plain tensors."
        ) from error
    for key in ("state_dict", "model"):
        if isinstance(state, dict) and isinstance(state.get(key), dict):
            state = state[key]
    if not isinstance(state, dict) or not any(isinstance(t, torch.Tensor) for t in state.values()):
        raise CareError(f"{path} holds no weights by name; expected a state dict")
    return {
        name.removeprefix("module."): t.float() if t.is_floating_point() else t
        for name, t in state.items()
        if isinstance(t, torch.Tensor)
    }
