"""Points of the animals that the demo's embedder learns from and is measured on: carried as the demo carries them,
from its own templates, by its own diffusion model."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from tqdm import tqdm

from care_cli.features import FeatureConfig, load_extractor
from care_cli.images import read_bytes
from care_cli.keypoints import files
from care_cli.keypoints.matching import Match, MatchConfig
from care_cli.keypoints.propagator import Propagator
from care_cli.keypoints.references import Annotated
from care_cli.pipelines import describe_pipeline
from care_cli.records import Detection, KeypointScheme
from care_cli.stages.cropping import cut_crops
from care_cli.stages.extractors import PROMPT, worded
from care_cli.stages.query_points import frame_of
from scenes import MIRROR_PAIRS

SAMPLE = Path(__file__).resolve().parent.parent / "sample_data"


def templates() -> dict[str, tuple[Path, Path]]:
    """The sample's annotated photos: species in lower case -> the photo and the file of its points."""
    found = sorted((SAMPLE / "templates").glob("*.json"))
    return {file.stem: (SAMPLE / json.loads(file.read_text("utf-8"))["photo"], file) for file in found}


class Carrier:
    """Carries the points of each species' template; `scheme` has the names of all."""

    def __init__(self, diffusion: Path):
        extractor = load_extractor(describe_pipeline(diffusion, "demo-diffusion"), FeatureConfig())
        photos = json.loads((SAMPLE / "truth.json").read_text("utf-8"))["photos"]
        truth = {one["path"]: one["objects"][0] for one in photos if one["objects"]}
        self.propagators = {}
        for photo, points in templates().values():
            said = files.read(points)
            box = truth[photo.relative_to(SAMPLE).as_posix()]["box"]
            self.propagators[said.species] = Propagator.of(
                {photo.name: _annotated(photo, box, said)},
                extractor,
                MatchConfig(align=True),
                worded(PROMPT, said.species),
            )
        names = sorted({name for one in self.propagators.values() for name in one.names})
        pairs = dict(MIRROR_PAIRS) | {right: left for left, right in MIRROR_PAIRS}
        self.scheme = KeypointScheme(tuple(names), {name: pairs[name] for name in names if pairs.get(name) in names})
        self.side = extractor.size

    def of_jpegs(self, jpegs: Sequence[bytes], species: Sequence[str]) -> np.ndarray:
        """Points `(N,K,3) float32`, as networks are shown them, of stored crops."""
        pairs = tqdm(list(zip(jpegs, species, strict=True)), "points", mininterval=5)
        return np.stack([self._shown(self.propagators[one].points([jpeg])[0], one) for jpeg, one in pairs])

    def of_chips(self, chips: np.ndarray, species: str) -> np.ndarray:
        """Points `(N,K,3) float32` of squashed chips `(N,S,S,3) uint8` of one species, S as the extractor has it."""
        images = np.ascontiguousarray(np.moveaxis(chips, 3, 1))
        digests = [hashlib.sha256(image.tobytes()).digest() for image in images]
        return np.stack([self._shown(found, species) for found in self.propagators[species].carry(images, digests)])

    def _shown(self, found: Match, species: str) -> np.ndarray:
        shown = np.zeros((len(self.scheme.names), 3), np.float32)
        places = [self.scheme.names.index(name) for name in self.propagators[species].names]
        shown[places, :2] = found.kp_input / self.side
        shown[places, 2] = np.where(found.visible, np.clip(found.confidence, 0, 1), 0)
        return shown


def _annotated(photo: Path, box: Sequence[float], said: files.Annotation) -> Annotated:
    """An annotated photo, its animal cut out at the true box."""
    reading = read_bytes(photo.read_bytes())
    [crop] = cut_crops(reading, [Detection(tuple(box), 1.0, said.species, "animal", said.species)])
    return Annotated(crop.jpeg, frame_of(crop, (reading.photo.width, reading.photo.height)), said.points)
