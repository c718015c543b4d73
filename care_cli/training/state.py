"""All that a training needs to go on exactly, in one file that is there whole or as it was before."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from care_cli.errors import CareError
from care_cli.records import KeypointScheme
from care_cli.training.config import TrainConfig
from care_cli.training.data import LabelledCrops

KEY = "training"  # of the file's metadata


def write(path: Path, tensors: Mapping[str, Tensor], header: Mapping[str, Any], key: str = KEY) -> None:
    """A safetensors file through a temporary one, written through to the disk, and a rename; `header` under `key`.

    Raises CareError when the disk is full or the place cannot be written; the file is then as it was before.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    partial = path.with_name(path.name + ".part")
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    try:
        save_file(plain, partial, metadata={key: json.dumps(header)})
        with partial.open("rb+") as stream:
            os.fsync(stream.fileno())
        partial.replace(path)
    except (OSError, SafetensorError) as error:
        with suppress(OSError):
            partial.unlink(missing_ok=True)
        kept = "; the one before it is whole" if path.exists() else ""
        raise CareError(
            f"{path} cannot be written: {error}{kept}. Make room and give the same command again: it goes on from "
            "the last checkpoint."
        ) from error


def read(path: Path, identity: Mapping[str, Any]) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    """Tensors by name and the header; None where there is no such file.

    Raises CareError for a file that cannot be read, and for one of another training than `identity`.
    """
    from safetensors import SafetensorError, safe_open

    if not path.exists():
        return None
    try:
        with safe_open(path, "pt") as stream:
            header = json.loads(stream.metadata()[KEY])
            differing = differences(header["identity"], json.loads(json.dumps(identity)))
            tensors = {} if differing else {name: stream.get_tensor(name) for name in stream.keys()}  # noqa: SIM118
    except (OSError, SafetensorError, ValueError, KeyError, TypeError) as error:
        raise CareError(
            f"{path} is no checkpoint of a training: {error}. Remove it, or name another folder."
        ) from error
    if differing:
        raise CareError(
            f"{path} is of another training, which differs in {', '.join(differing)}. Name another folder for this "
            "one, or give that one's settings and data to go on with it."
        )
    return tensors, header


def is_of(path: Path, identity: Mapping[str, Any]) -> bool:
    """Is there a file that `read` gives for this identity?"""
    try:
        return read(path, identity) is not None
    except CareError:
        return False


def identity_of(
    cfg: TrainConfig, data: LabelledCrops, start: Mapping[str, Tensor] | None, places: int, validation: str | None
) -> dict:
    """What has to be the same for a training to go on: settings, data, weights begun from, number of processes, and
    the digest of what it is validated on."""
    weights = digest(start[name].detach().cpu().numpy() for name in sorted(start)) if start else None
    own = {"settings": asdict(cfg), "data": data_digest(data), "weights": weights}
    return own | {"validation": validation, "processes": places}


def data_digest(data: LabelledCrops) -> str:
    """SHA-256 of labels, pixels, what is told beside them, and words; photos are asked for their own `digest`."""
    pixels = getattr(data.photos, "digest", None)
    if pixels is None:
        pixels = digest(data.photos[rows] for rows in np.array_split(np.arange(len(data.photos)), len(data.photos)))
    beside = np.zeros(0) if data.beside is None else data.beside
    scheme = data.scheme
    if isinstance(scheme, KeypointScheme):
        scheme = (scheme.names, sorted(scheme.mirrors.items()))
    words = [data.names, data.animals] if data.animals else None
    return digest(
        [np.asarray(data.labels, np.int64), beside, np.frombuffer(repr((pixels, scheme, words)).encode(), np.uint8)]
    )


def digest(arrays: Any) -> str:
    """SHA-256 of arrays, their shapes and kinds."""
    found = hashlib.sha256()
    for array in arrays:
        found.update(f"{array.shape}{array.dtype}".encode())
        found.update(np.ascontiguousarray(array).tobytes())
    return found.hexdigest()


def differences(ours: Mapping[str, Any], theirs: Mapping[str, Any], above: str = "") -> list[str]:
    """Names of entries that are not the same, as paths."""
    found = []
    for name in sorted({*ours, *theirs}):
        one, other = ours.get(name), theirs.get(name)
        if isinstance(one, dict) and isinstance(other, dict):
            found += differences(one, other, f"{name}.")
        elif one != other:
            found.append(f"{above}{name} ({one} there, {other} here)")
    return found


def collect(learner: nn.Module, optimizer: torch.optim.Optimizer, average: nn.Module | None) -> dict[str, Tensor]:
    """Weights, the optimizer's memory of each of them, and their averages."""
    tensors = {f"learner.{name}": tensor for name, tensor in learner.state_dict().items()}
    for name, parameter in learner.named_parameters():
        for what, value in optimizer.state.get(parameter, {}).items():
            if isinstance(value, Tensor):
                tensors[f"optimizer.{name}.{what}"] = value
    if average is not None:
        tensors |= {f"average.{name}": tensor for name, tensor in average.state_dict().items()}
    return tensors


def restore(
    tensors: Mapping[str, Tensor], learner: nn.Module, optimizer: torch.optim.Optimizer, average: nn.Module | None
) -> None:
    """Put back what was collected, laid out in memory as the network likes it."""
    learner.load_state_dict(_of("learner.", tensors))
    fused = bool(optimizer.defaults.get("fused"))
    for name, parameter in learner.named_parameters():
        for what, value in _of(f"optimizer.{name}.", tensors).items():
            place = torch.empty_like(parameter) if value.shape == parameter.shape else _counted(value, parameter, fused)
            optimizer.state[parameter][what] = place.copy_(value).detach()
    if average is not None:
        average.load_state_dict(_of("average.", tensors))


def _counted(value: Tensor, parameter: Tensor, fused: bool) -> Tensor:
    """A place for a parameter's count of steps, which fused optimizers want beside the parameter."""
    return torch.empty_like(value, device=parameter.device if fused else None)


def _of(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
