"""The detector's weights in the two forms that are needed: CARE's own, and the `.pt` that `yolo` reads."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from benchmarks.bench import Bench

DEMO = "demo-detector"


@dataclass(frozen=True)
class Weights:
    """One model."""

    model: str  # for care's --model
    pt: Path  # for yolo
    kept: dict[int, str]  # numbers of the classes that mean something here: animal, person or vehicle


def weights(bench: Bench) -> Weights:
    """The `.pt` that was given, else the demo detector, written as one."""
    from care_cli import checkpoints, registry
    from care_cli.detectors import load_detector

    spec = registry.find(str(bench.weights) if bench.weights else DEMO, task="detector")
    found = load_detector(spec, registry.fetch(spec))
    meant = {i: found.spec.classes.get(name, {}).get("category") for i, name in found.names.items()}
    kept = {i: category for i, category in meant.items() if category}
    if bench.weights:
        return Weights(str(bench.weights), bench.weights, kept)
    pt = bench.work / f"{DEMO}.pt"
    if not pt.exists():
        header = checkpoints.read_header(registry.fetch(spec))
        write_pt(checkpoints.load_state(registry.fetch(spec)), header, pt)
    return Weights(DEMO, pt, kept)


def write_pt(state: dict, header: dict, path: Path) -> None:
    """Our checkpoint of a detector in Ultralytics' form: the module itself, pickled, as its trainer saves it."""
    import torch

    from care_cli.yolo import prepare_ultralytics

    prepare_ultralytics()
    from ultralytics.nn.tasks import DetectionModel

    model = DetectionModel(f"{header['architecture']}.yaml", nc=len(header["names"]), verbose=False)
    model.load_state_dict(state, strict=True)
    model.names = dict(enumerate(header["names"]))
    model.task = "detect"
    model.args = {"task": "detect", "imgsz": header["input_size"]}
    torch.save({"model": model.eval(), "train_args": model.args, "epoch": -1, "date": None}, path)
