"""Points carried from one crop to others, by CARE or by the plain DIFT procedure, in a process of its own."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.dift import PlainDift, describe, find

POINTS = 10
PROMPT = "a photo of an animal"


def main() -> None:
    """Print the seconds a photo, and the memory of the card where one is used; loading is left out."""
    parser = argparse.ArgumentParser()
    parser.add_argument("way", choices=("care", "plain"))
    parser.add_argument("folder", type=Path, help="a pipeline in diffusers' form")
    parser.add_argument("files", type=Path, help="JSON list of JPEGs; the first is the reference")
    parser.add_argument("--size", type=int, required=True)
    parser.add_argument("--ensemble", type=int, default=8)
    parser.add_argument("--precision", default="float32")
    parser.add_argument("--device", default="cpu")
    given = parser.parse_args()
    jpegs = [Path(file).read_bytes() for file in json.loads(given.files.read_text("utf-8"))]
    carry = (care if given.way == "care" else plain)(given, jpegs[0])
    if given.device != "cpu":
        carry(jpegs[1:])  # the card chooses its kernels
    started = time.perf_counter()
    found = carry(jpegs[1:])
    seconds = (time.perf_counter() - started) / len(found)
    print(json.dumps({"seconds": seconds, "card_mb": card_mb(given.device)}))


def places(size: int) -> np.ndarray:
    """Points `(K,2)` of the reference, xy px of the input."""
    return np.random.default_rng(0).uniform(0.1 * size, 0.9 * size, (POINTS, 2))


def care(given: argparse.Namespace, reference: bytes) -> Callable[[list[bytes]], list[np.ndarray]]:
    """As `care propagate-keypoints` carries points."""
    from care_cli import registry
    from care_cli.features import FeatureConfig, load_extractor
    from care_cli.geometry import input_to_crop
    from care_cli.keypoints.propagator import Propagator
    from care_cli.keypoints.references import Annotated
    from care_cli.records import CropFrame, NamedPoint

    spec = registry.find_extractor(f"sd:{given.folder}")
    cfg = FeatureConfig(size=given.size, ensemble=given.ensemble)
    extractor = load_extractor(spec, cfg, given.device, precision=given.precision)
    size = Image.open(BytesIO(reference)).size
    frame = CropFrame(1, "animal", None, (0, 0, *size), (0, 0, *size), size, size)
    kp_crop = input_to_crop(places(given.size), size, given.size)
    points = tuple(NamedPoint(f"point_{number}", x, y) for number, (x, y) in enumerate(kp_crop.tolist()))
    propagator = Propagator.of({"reference": Annotated(reference, frame, points)}, extractor, prompt=PROMPT)
    return lambda jpegs: [one.kp_input for one in propagator.points(jpegs)]


def plain(given: argparse.Namespace, reference: bytes) -> Callable[[list[bytes]], list[np.ndarray]]:
    """As the reference procedure does."""
    dift = PlainDift(given.folder, given.size, PROMPT, given.device, ensemble=given.ensemble)
    wanted = describe(dift.features(Image.open(BytesIO(reference))), places(given.size), given.size)
    return lambda jpegs: [find(wanted, dift.features(Image.open(BytesIO(one))), given.size) for one in jpegs]


def card_mb(device: str) -> float | None:
    """The most memory of the card that tensors took, MiB."""
    if device == "cpu":
        return None
    import torch

    return torch.cuda.max_memory_allocated() / 2**20


if __name__ == "__main__":
    main()
