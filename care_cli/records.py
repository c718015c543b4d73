"""What the stages hand to each other and to the catalog: plain frozen dataclasses, no behaviour."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from care_cli.geometry import InputSize

CATEGORIES = ("animal", "person", "vehicle")
PRESETS = ("toolkit",)  # ways of reading what was found, for comparison
VIEWS = ("left", "right", "front", "back")  # of an animal
FLANKS = (*VIEWS, "unknown")


@dataclass(frozen=True)
class Photo:
    """What is known of one image file's bytes; the row of `images`.

    Sizes are upright pixels. `captured_at` is the camera's own wall clock, 'YYYY-MM-DD HH:MM:SS' with
    the digits of DateTimeOriginal and any sub-seconds ('.123'), no zone; None when the camera wrote none.
    """

    sha256: str | None
    bytes: int | None = None
    state: str = "ok"  # ok | partial (decoded as far as it goes) | unreadable
    failure: str | None = None  # why it is partial or unreadable
    width: int | None = None
    height: int | None = None
    orientation: int = 1  # EXIF 1..8, already applied
    captured_at: str | None = None
    make: str | None = None
    model: str | None = None
    serial: str | None = None
    latitude: float | None = None  # degrees, WGS 84, north positive
    longitude: float | None = None  # degrees, WGS 84, east positive
    temperature_c: float | None = None
    lighting: str | None = None  # day | infrared


@dataclass(frozen=True)
class Detection:
    """One box as a detector gives it, in pixels of the image frame."""

    box: tuple[float, float, float, float]  # x, y, w, h
    confidence: float
    label: str  # the model's own class name
    category: str | None = None  # animal | person | vehicle; None: not stored
    species: str | None = None  # where the model's classes are species


@dataclass(frozen=True)
class Crop:
    """A detection with the pixels that were cut for it (animals only)."""

    detection: Detection
    rect: tuple[int, int, int, int]  # x, y, w, h in whole pixels of the image frame
    jpeg: bytes | None = None
    size: tuple[int, int] | None = None  # stored width, height in px
    flank: str | None = None  # as an imported table says it


@dataclass(frozen=True, slots=True)
class Awaited:
    """A photo that imported results tell of and whose bytes nobody has seen: where its file is awaited, and what it
    is said to show. Boxes of `crops` are px of `size`, or shares of the photo's sides where that is None."""

    path_bytes: bytes  # below the source's root
    path: str  # in readable form
    image_id: int | None = None  # of the row that other results made
    size: tuple[int, int] | None = None  # width, height px
    captured_at: str | None = None
    deployment_id: int | None = None
    labels: tuple[tuple[str, bool], ...] = ()  # of the photo as a whole, and whether each is its sequence's
    crops: tuple[Crop, ...] = ()
    complete: bool = True  # all was taken in; False: the run is not done with it


@dataclass(frozen=True)
class ModelSpec:
    """One entry of the registry (or a file described in its form), without its weights loaded."""

    name: str
    task: str  # detector | embedder | classifier | diffusion
    family: str  # ultralytics | timm | open_clip | miewid | care | diffusers
    sha256: str | None = None
    md5: str | None = None
    url: str | None = None
    bytes: int | None = None
    licence: str = "unknown"
    source: str = ""
    architecture: str = ""  # e.g. yolo11n, vit_small_patch16_224, ViT-B-16-quickgelu
    input_size: InputSize | None = None
    dim: int | None = None  # embedding length
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    shown: float | None = None  # confidence from which detections are shown
    classes: dict[str, dict] = field(default_factory=dict)  # class name -> {category, species?}
    default_for: tuple[str, ...] = ()  # e.g. ("detect:cpu",)
    file: str | None = None  # weights inside the models folder, or an absolute path for a user's file
    files: tuple[str, ...] = ()  # a model of several files: their paths below the url and in its own folder


@dataclass(frozen=True)
class Embeddings:
    """Vectors of one model: `ids (N,) int64` crop ids, `vectors (N, dim) float32`, L2 norm 1."""

    ids: np.ndarray
    vectors: np.ndarray


@dataclass(frozen=True)
class NamedPoint:
    """A point of a template, in px of the image frame (keypoint sources that see only a crop say their frame)."""

    name: str
    x: float
    y: float
    mirror: str | None = None  # the name of its counterpart on the animal's other side


@dataclass(frozen=True)
class Template:
    """An annotated reference crop; the row of `templates`."""

    id: int
    name: str
    crop_id: int
    species: str | None
    points: tuple[NamedPoint, ...]
    source: str  # expert | vlm | gradcam-resnet | gradcam-vit | random
    about: dict = field(default_factory=dict)  # how it came about: file, model, replies, ...
    created_at: str = ""  # UTC


@dataclass(frozen=True)
class CropFrame:
    """Where a crop lies: what leads from one frame to another."""

    crop_id: int
    category: str
    species: str | None
    box: tuple[float, float, float, float]  # x, y, w, h px of the image frame
    rect: tuple[int, int, int, int]  # what was cut, x, y, w, h in whole px of the image frame
    size: tuple[int, int] | None  # width, height px of the stored crop; None: nothing is stored
    image_size: tuple[int, int] | None  # width, height px of the upright photo; None: not seen yet


PROPAGATED = "propagated"  # the source of points that a model found


@dataclass(frozen=True, eq=False)
class Keypoints:
    """K named points of one crop, as one run found them or a hand put them."""

    crop_id: int
    names: tuple[str, ...]
    kp_image: np.ndarray  # (K,2) float64, xy px, image frame
    confidence: np.ndarray  # (K,) float32: peak cosine; 1 when set by hand
    visible: np.ndarray  # (K,) bool: sure enough to be used; points that are not are kept and marked
    margin: np.ndarray | None = None  # (K,) float32: peak cosine less the best one elsewhere
    cycle: np.ndarray | None = None  # (K,) float32: there and back, as a share of the reference box's longer side
    templates: tuple[int | None, ...] = ()  # (K,) the template that each point was carried from
    source: str = PROPAGATED  # propagated | human | import | mixed (only as read from a catalog)
    sources: tuple[str, ...] = ()  # (K,) of each point, as read from a catalog
    runs: tuple[int, ...] = ()  # (K,) the run of each point, as read from a catalog


@dataclass(frozen=True)
class KeypointScheme:
    """The categories of points that a model was taught, in its order: a category is a point's name.

    `mirrors` leads from a name to that of its counterpart on the animal's other side, both ways.
    """

    names: tuple[str, ...]
    mirrors: dict[str, str] = field(default_factory=dict)

    @property
    def swap(self) -> np.ndarray:
        """`(K,) int64`: where each category's counterpart stands, itself where it has none here."""
        place = {name: i for i, name in enumerate(self.names)}
        return np.array([place.get(self.mirrors.get(name), i) for i, name in enumerate(self.names)], np.int64)

    @property
    def shape(self) -> tuple[int, ...]:
        """Of what a model is told of one crop: x, y and weight of each point."""
        return len(self.names), 3


@dataclass(frozen=True)
class ViewpointScheme:
    """The cameras and the views of an animal that a model was taught, in its order; none of a kind that it isn't told.

    Pairs of both stand one behind the other, camera by camera: camera * views + view, as in TransReID.
    """

    cameras: tuple[str, ...] = ()  # names of deployments
    views: tuple[str, ...] = ()  # of VIEWS

    @property
    def shape(self) -> tuple[int, ...]:
        """Of what a model is told of one crop: 1 at its pair, 0 at all others."""
        return (max(1, len(self.cameras)) * max(1, len(self.views)),)

    def place(self, camera: str | None, view: str | None) -> int | None:
        """Where a pair stands; None where the model does not know it."""
        place = 0
        for name, names in ((camera, self.cameras), (view, self.views)):
            if names and name not in names:
                return None
            place = place * max(1, len(names)) + (names.index(name) if names else 0)
        return place

    @property
    def swap(self) -> np.ndarray:
        """`(V,) int64`: where each pair stands in a mirrored photo, in which a left flank is a right one."""
        other = {"left": "right", "right": "left"}
        pairs = [(camera, view) for camera in self.cameras or (None,) for view in self.views or (None,)]
        mirrored = [self.place(camera, other.get(view, view)) for camera, view in pairs]
        return np.array([i if place is None else place for i, place in enumerate(mirrored)], np.int64)


Scheme = KeypointScheme | ViewpointScheme  # what a model is told beside a crop's pixels


@dataclass(frozen=True)
class Selection:
    """Which photos or crops a command means; None leaves a filter out. Dates are 'YYYY-MM-DD', inclusive."""

    category: str | None = None
    species: str | None = None
    deployment: str | None = None
    site: str | None = None
    flank: str | None = None
    since: str | None = None
    until: str | None = None
    confidence: float | None = None  # instead of the model's shown threshold
    individual: str | None = None
    unnamed: bool = False
    undated: bool = False
    unreadable: bool = False
    run: int | None = None  # a detect run other than the active one
    ids: tuple[int, ...] = ()  # only these crops
    images: tuple[int, ...] = ()  # only these images
    preset: str | None = None  # 'toolkit': of a photo's animals only the best stoat, else the best one
