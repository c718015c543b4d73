"""A small training in a process that may be killed: `trainer.py` obeys lines of stdin, "FOLDER LARGEST METHOD".

It imports torch once and forks for every order. The training's folder gets `weights` with their digest at the end, or
`refusal`; no file may grow beyond LARGEST bytes, as on a disk without room.
"""

from __future__ import annotations

import os
import resource
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from care_cli.errors import CareError

if TYPE_CHECKING:
    from care_cli.training.config import TrainConfig

EPOCHS = 20


def main() -> None:
    """Fork for every folder; say the process's id, and how it ended."""
    import matplotlib.figure  # noqa: F401
    import open_clip  # noqa: F401
    import timm  # noqa: F401
    import torch

    from care_cli.training import loop  # noqa: F401

    torch.set_num_threads(1)  # no thread may be there before a fork
    print("ready", flush=True)
    for line in sys.stdin:
        process = os.fork()
        if process == 0:
            obey(*line.split())
        print(process, flush=True)
        print(os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]), flush=True)


def obey(folder: str, largest: str, method: str) -> None:
    """Train, in a process that ends here: 0, or 2 for a refusal."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(largest), resource.RLIM_INFINITY))
    try:
        learn(Path(folder), method)
    except CareError as error:
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        (Path(folder) / "refusal").write_text(str(error), encoding="utf-8")
        os._exit(2)
    os._exit(0)


def learn(folder: Path, method: str) -> None:
    """Train on crops of noise, saving after every second step."""
    import torch

    from care_cli.records import KeypointScheme
    from care_cli.training.data import LabelledCrops
    from care_cli.training.methods import train
    from care_cli.training.state import digest

    rng = np.random.default_rng(0)
    crops = rng.integers(0, 256, (32, 32, 32, 3), np.uint8)
    points = np.concatenate([rng.random((32, 2, 2)), np.ones((32, 2, 1))], 2).astype(np.float32)
    scheme, names = KeypointScheme(("nose", "tail")), tuple("ABCDEFGH")
    data = LabelledCrops(crops, np.repeat(np.arange(8), 4), points, scheme, names, ("stoat",) * 8)

    def validate(model: torch.nn.Module) -> dict[str, float]:
        with torch.no_grad():
            images = torch.from_numpy(crops).permute(0, 3, 1, 2).float() / 255
            beside = [torch.from_numpy(points)] if method == "ckpe" else []
            return {"spread": float(model(images, *beside).std())}

    trained = train(data, settings(method), folder, validate=validate, device="cpu", save_every=2)
    state = trained.model.state_dict()
    weights = digest(state[name].numpy() for name in sorted(state))
    rows = [{name: value for name, value in row.items() if name != "images_per_second"} for row in trained.history]
    (folder / "weights").write_text(f"{weights} {trained.best} {rows}", encoding="ascii")


def settings(method: str) -> TrainConfig:
    """Of a training that lasts about a second."""
    from care_cli.training.augment import Augmentation
    from care_cli.training.methods import configure
    from tests.miniatures import SMALL_CLIP

    usual = {"epochs": EPOCHS, "validate_every": 5, "individuals": 4, "accumulate": 1, "precision": "float32"}
    if method == "ckpe":
        small = {"backbone": "test_vit", "options": {"drop_path_rate": 0.1}, "input_size": 32}
        return configure(method, optimizer="adamw", ema=0.9, augmentation=Augmentation(), **small, **usual)
    cfg = configure(method, backbone="care_clip", options=SMALL_CLIP, input_size=32, **usual)
    return replace(cfg, text=replace(cfg.text, epochs=EPOCHS, batch=16))


if __name__ == "__main__":
    main()
