"""What a run of the benchmarks was asked for, and the inputs that its rows share; made once, when first needed."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from benchmarks.processes import Done, best, finish, python
from scenes.seeds import TEST
from scenes.survey import make_survey

SAMPLE = Path(__file__).resolve().parent.parent / "sample_data"
PHOTO = (".jpg", ".jpeg")


@dataclass(frozen=True)
class Bench:
    """The settings of a run, its working folder, and what is made in it."""

    work: Path
    weights: Path | None = None  # a YOLO .pt; default: the demo detector in that form
    photos: Path | None = None  # a folder of photos to measure beside the rendered ones
    count: int = 48  # photos rendered at 12 megapixels
    vectors: int = 1_000_000  # in the gallery that is searched
    million: bool = False  # growth up to a million rows, labels of a whole public collection
    size: int = 768  # px of a side that propagation squashes crops to

    @property
    def env(self) -> Mapping[str, str]:
        """The environment of every process: converted models in the working folder, nobody on the network."""
        return {
            "CARE_MODELS": str(self.work / "models"),
            "YOLO_CONFIG_DIR": str(self.work / "ultralytics"),
            "YOLO_OFFLINE": "1",
            "YOLO_AUTOINSTALL": "false",
        }

    def care(
        self, catalog: Path, *arguments: object, device: str = "cpu", accept: tuple[int, ...] = (0, 1), times: int = 1
    ) -> Done:
        """A `care` command on a catalog, the fastest of `times` runs; some photos may be damaged."""
        command = python("-m", "care_cli", "--device", device, "--json", "-q", "--catalog", catalog, *arguments)
        return best(times, command, accept=accept, env=self.env)

    def module(self, name: str, *arguments: object, env: Mapping[str, str] | None = None) -> Done:
        """One of the modules beside this one, in a process of its own."""
        return finish(python("-m", f"benchmarks.{name}", *arguments), env={**self.env, **(env or {})})

    @cached_property
    def scenes(self) -> list[Path]:
        """Rendered photos of 12 megapixels; the damaged one is no measure of speed."""
        folder, individuals = self.work / "scenes", max(1, self.count // 4)
        truth = make_survey(folder, seed=TEST[400], individuals=individuals, size=(4000, 3000))
        return [folder / record["path"] for record in truth if record["kind"] != "truncated"][: self.count]

    @cached_property
    def survey(self) -> Path:
        """The catalog of the sample card: detected, named and indexed with the demo models."""
        catalog = self.work / "survey.db"
        self.care(catalog, "detect", SAMPLE / "card", "--model", "demo-detector")
        self.care(catalog, "individuals", "name", "--from", SAMPLE / "names.csv")
        self.care(catalog, "index", "--model", "demo-embedder")
        return catalog

    @cached_property
    def query(self) -> Path:
        """A photo that the sample card does not hold."""
        return photos_in(SAMPLE / "queries")[0]

    def folder(self, name: str) -> Path:
        """An empty folder of this name in the working folder."""
        path = self.work / name
        shutil.rmtree(path, ignore_errors=True)
        path.mkdir(parents=True)
        return path

    def copy(self, catalog: Path, name: str) -> Path:
        """A copy of a catalog, to be filled further."""
        return Path(shutil.copy(catalog, self.work / f"{name}.db"))


def photos_in(folder: Path) -> list[Path]:
    """The JPEGs below a folder, in order."""
    return sorted(path for path in folder.rglob("*") if path.suffix.lower() in PHOTO)
