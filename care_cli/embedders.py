"""Image models that turn a crop into a unit vector, whatever family they are of and whichever engine runs them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from care_cli import engines
from care_cli.encoders import FAMILIES, load_network
from care_cli.errors import CareError
from care_cli.headers import scheme_of
from care_cli.preparation import Preparation
from care_cli.records import ModelSpec, Scheme
from care_cli.weights import digest

if TYPE_CHECKING:
    from PIL import Image


class Embedder:
    """An embedding model ready for use, from any thread; made by `load_embedder`.

    `dim` is the vector's length; `settings` is what changes results beside the weights and the precision; `workers` is
    how many calls it likes at a time, and `batch` how many crops in each. `scheme`: what it is told beside pixels, of
    which points or viewpoints, in this order; None: nothing.
    """

    def __init__(self, engine: engines.Engine, about: dict[str, Any]):
        self.settings: dict[str, Any] = about["settings"]
        self.dim: int = about["dim"]
        self.scheme: Scheme | None = scheme_of(self.settings)
        self.preparation = Preparation(**about["preparation"])
        engine.plan(self.preparation.height, self.preparation.width)
        self.engine, self.device, self.precision = engine.name, engine.device, engine.precision
        self.workers, self.batch = engine.workers, engine.batch
        self._engine = engine

    def transform(self, image: Image.Image) -> np.ndarray:
        """One crop as the network wants it: `(H,W,3) uint8` RGB."""
        return self.preparation(image)

    def embed(self, batch: np.ndarray, beside: np.ndarray | None = None) -> np.ndarray:
        """Vectors `(B,dim) float32` of L2 norm 1 for transformed crops `(B,H,W,3) uint8`.

        `beside`, for a model with a `scheme`, is what it is told, `(B, ...) float32` of the scheme's shape: points as
        `keypoints.inputs.shares` gives them, viewpoints as `stages.viewpoints.vector` does. None, and zeros: nothing is
        known, and the model answers as one that is told nothing.
        """
        if not len(batch):
            return np.zeros((0, self.dim), np.float32)
        if self.scheme is None:
            vectors = self._engine(batch)
        else:
            nothing = np.zeros((len(batch), *self.scheme.shape), np.float32)
            vectors = self._engine(batch, nothing if beside is None else beside)
        return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)


def load_embedder(
    spec: ModelSpec,
    weights: Path,
    device: str = "cpu",
    *,
    engine: str = "auto",
    precision: str = "auto",
    notice: engines.Notice | None = None,
) -> Embedder:
    """The embedding model that `spec` describes, with these weights.

    `device` is torch's name; `engine` and `precision` as `engines.choose` takes them; `notice` is told what takes long
    or is not as asked. Raises CareError when the weights do not fit, naming what differs; only a classifier's layers
    may be left over.
    """
    if spec.task != "embedder" or spec.family not in FAMILIES:
        raise CareError(f"{spec.name} is not an embedder: its task is {spec.task}, its family {spec.family}")
    weights = Path(weights)
    if not weights.is_file():
        raise CareError(f"there is no weights file {weights}")
    described = {key: getattr(spec, key) for key in ("task", "family", "architecture", "input_size", "mean", "std")}
    running, about = engines.load(
        described | {"weights": digest(weights)},
        lambda: load_network(spec, weights),
        device,
        name=spec.name,
        engine=engine,
        precision=precision,
        notice=notice,
    )
    if spec.dim not in (None, about["dim"]):
        raise CareError(f"{spec.name} is described with vectors of {spec.dim} numbers, got {about['dim']}")
    return Embedder(running, about)
