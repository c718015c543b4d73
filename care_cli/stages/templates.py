"""Templates: where the named points of a reference crop come from, and what is kept of them."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from care_cli import registry
from care_cli.catalog import Catalog
from care_cli.catalog.store import free_name
from care_cli.decisions import checked_name
from care_cli.errors import CareError
from care_cli.geometry import Box, clip_box, to_crop, to_image
from care_cli.images import CROP_QUALITY, decode_jpeg, read_file
from care_cli.keypoints import files, random_points, vlm
from care_cli.keypoints.chat import Endpoint, address, key_for
from care_cli.keypoints.points import checked
from care_cli.outputs import refuse_scanned
from care_cli.pages.keypoint_sheet import check, template_picture
from care_cli.records import CropFrame, ModelSpec, NamedPoint, Selection, Template
from care_cli.scan import display_path

PROTOTYPE = 32  # crops at most that say what an individual, or a species, looks like


@dataclass(frozen=True)
class Proposal:
    """Points for a template, not stored yet; in px of the image frame, checked."""

    crop_id: int
    points: tuple[NamedPoint, ...]
    source: str  # expert | vlm | gradcam-resnet | gradcam-vit | random
    species: str | None
    about: dict


# -- the reference crop


def crop_of_photo(catalog: Catalog, photo: Path) -> int:
    """The only shown animal of a photo, which the catalog knows by its bytes; CareError when there is not just one."""
    try:
        sha256 = read_file(photo).sha256
    except OSError as error:
        raise CareError(f"{photo} cannot be read: {error.strerror or error}.") from error
    image = catalog.find_image(sha256)
    if image is None:
        raise CareError(f"The catalog does not know {photo}. Run `care detect` on its folder first.")
    crops = catalog.crop_rows(Selection(category="animal", images=(image,)))
    if not crops:
        raise CareError(f"No animal is shown in {photo}; `care crops` lists what was found.")
    if len(crops) > 1:
        boxes = ", ".join(f"{row['crop']} at ({row['x']:.0f}, {row['y']:.0f})" for row in crops)
        raise CareError(f"{photo} shows {len(crops)} animals; choose one with --crop: {boxes}.")
    return crops[0]["crop"]


def check_name(catalog: Catalog, name: str) -> str:
    """A new template's name; CareError when it is taken, before anything is asked or computed for it."""
    name = checked_name(name)
    if any(template.name == name for template in catalog.templates()):
        raise CareError(f"There is a template {name!r} already. Name another, or `care templates remove` it first.")
    return name


# -- where points come from


def from_file(catalog: Catalog, crop_id: int, path: Path, annotation: int | None = None) -> Proposal:
    """An expert's points.

    CareError for what `files.read` and `points.checked` refuse, another photo's size, and fractions instead of px.
    """
    frame = catalog.crop_to_annotate(crop_id)
    photo = [display_path(place["path_bytes"]) for place in _places(catalog, crop_id)]
    found = files.read(path, photo, annotation)
    if found.size and frame.image_size and found.size != frame.image_size:
        raise CareError(
            f"{path} speaks of a photo of {found.size[0]} x {found.size[1]} px, but upright this one has "
            f"{frame.image_size[0]} x {frame.image_size[1]} px. Choose the annotation of this very photo."
        )
    x, y, w, h = frame.rect
    small = x + w <= 1 and y + h <= 1
    if found.points and not small and all(0 <= at <= 1 for point in found.points for at in (point.x, point.y)):
        raise CareError(
            f"All points of {path} lie in 0 to 1: these look like fractions. Give px of the upright photo; the crop "
            f"spans {x} to {x + w} and {y} to {y + h} px."
        )
    return _proposal(frame, found.points, "expert", found.about, found.species)


def endpoint(url: str, model: str, timeout: float) -> Endpoint:
    """Where a vision-language model is asked, with the key of the environment. CareError for those of `address`."""
    place = Endpoint(url, model, key_for(url), timeout)
    address(place)
    return place


def from_vlm(
    catalog: Catalog,
    crop_id: int,
    endpoint: Endpoint,
    count: int = 3,
    names: Sequence[str] = (),
    species: str | None = None,
    notice: Callable[[str], None] = lambda text: None,
) -> Proposal:
    """What a vision-language model proposes; the stored crop, people black in it, is the one picture that it is sent.

    It is told the crop's species, or `species` instead; `notice` is told what goes where before it does.
    """
    frame = catalog.crop_to_annotate(crop_id)
    names = vlm.checked_names(names)
    jpeg = _picture_alone(catalog, crop_id)
    width, height = frame.size
    notice(
        f"Sending to {endpoint.url.partition('?')[0]}, to be read by {endpoint.model}: the species and the stored "
        f"picture of crop {crop_id} ({width} x {height} px, {len(jpeg) / 1000:.0f} kB; people that were found are "
        "black)."
    )
    species = species or frame.species
    points, about = vlm.propose(
        endpoint, jpeg, size=frame.size, box=_box_in_crop(frame), species=species, count=count, names=names
    )
    return _proposal(frame, _in_image(points, frame), "vlm", about)


def _picture_alone(catalog: Catalog, crop_id: int) -> bytes:
    """JPEG of a stored crop, without whatever an imported file says beside its pixels: place, date, camera, owner."""
    stream = io.BytesIO()
    _pictures(catalog, [crop_id])[0].save(stream, "JPEG", quality=CROP_QUALITY)
    return stream.getvalue()


def _pictures(catalog: Catalog, crop_ids: Sequence[int]) -> list[Image.Image]:
    return [decode_jpeg(jpeg) for jpeg in catalog.pixels(crop_ids).values()]


def from_gradcam(
    catalog: Catalog,
    crop_id: int,
    spec: ModelSpec,
    count: int = 3,
    notice: Callable[[str], None] = lambda text: None,
) -> Proposal:
    """Where a network looks when it tells this animal from others: peaks of Grad-CAM.

    It compares with other crops of the same individual, or of the species where there are none. Raises CareError when
    there are neither, and what `gradcam.peaks` raises.
    """
    from care_cli.keypoints import gradcam

    frame = catalog.crop_to_annotate(crop_id)
    crop_ids, of_what = _prototype(catalog, frame)
    notice(f"Comparing with {len(crop_ids)} crops of {of_what}.")
    [picture] = _pictures(catalog, [crop_id])
    found, source = gradcam.peaks(spec, registry.fetch(spec), picture, count, _pictures(catalog, crop_ids))
    about = {"model": spec.name, "sha256": registry.model_sha256(spec), "prototype": of_what, "crops": crop_ids}
    return _proposal(frame, _in_image(found, frame), source, about)


def _prototype(catalog: Catalog, frame: CropFrame) -> tuple[list[int], str]:
    """Crops that say what the animal looks like, evenly chosen, and of what they are."""
    individual = catalog.names_of_crops([frame.crop_id]).get(frame.crop_id)
    for name, value in (("individual", individual), ("species", frame.species)):
        if value is None:
            continue
        others = [
            one for one in catalog.crop_ids(Selection(category="animal", **{name: value})) if one != frame.crop_id
        ]
        without = set(catalog.without_pixels(others))
        others = [one for one in others if one not in without]
        if others:
            chosen = np.linspace(0, len(others) - 1, min(PROTOTYPE, len(others))).round().astype(int)
            return [others[i] for i in chosen], value
    raise CareError(
        f"Grad-CAM compares crop {frame.crop_id} with others of the same animal or species, and there are none. Name "
        "the animal (`care individuals name`), or say the species of several crops (`care crops set`)."
    )


def from_random(catalog: Catalog, crop_id: int, count: int, seed: int = 0) -> Proposal:
    """Points drawn at random in the animal's box."""
    frame = catalog.crop_to_annotate(crop_id)
    points = random_points.propose(_box_in_crop(frame), count, seed)
    return _proposal(frame, _in_image(points, frame), "random", {"seed": seed, "count": count})


def _proposal(
    frame: CropFrame, points: Sequence[NamedPoint], source: str, about: dict, species: str | None = None
) -> Proposal:
    x, y, w, h = frame.rect
    size = frame.image_size or (x + w, y + h)
    return Proposal(frame.crop_id, checked(points, size, frame.rect), source, frame.species or species, about)


def _box_in_crop(frame: CropFrame) -> Box:
    """The animal's box in the crop frame, its part inside the crop."""
    x, y, w, h = frame.box
    corners = to_crop(np.array([(x, y), (x + w, y + h)]), frame.rect, frame.size)
    return clip_box((*corners[0], *(corners[1] - corners[0])), frame.size)


def _in_image(points: Sequence[NamedPoint], frame: CropFrame) -> list[NamedPoint]:
    """Points of the crop frame in the image frame."""
    x, y, w, h = frame.rect
    places = to_image(np.array([(point.x, point.y) for point in points]), frame.rect, frame.size)
    places = np.clip(places, [x, y], [x + w, y + h])  # rounding may lead a hair beyond the edge
    return [
        NamedPoint(point.name, float(x), float(y), point.mirror) for point, (x, y) in zip(points, places, strict=True)
    ]


def points_in_crop(points: Sequence[NamedPoint], frame: CropFrame) -> list[NamedPoint]:
    """Points of the image frame in the crop frame, as pictures show them."""
    places = to_crop(np.array([(point.x, point.y) for point in points]), frame.rect, frame.size)
    return [
        NamedPoint(point.name, float(x), float(y), point.mirror) for point, (x, y) in zip(points, places, strict=True)
    ]


def _places(catalog: Catalog, crop_id: int) -> list[dict]:
    """Where the crop's photo was seen, the likeliest place first."""
    image = catalog.crop(crop_id)["image_id"]
    return catalog.places([image]).get(image, [])


# -- keeping and showing


def free_picture(name: str) -> Path:
    """Where the picture of a proposal goes unless it is said: NAME.jpg in the working folder, or NAME-2.jpg, ..."""
    return free_name(Path("".join("_" if letter in '/\\:*?"<>|' else letter for letter in name) + ".jpg"))


def check_places(catalog: Catalog, picture: Path | None, save: Path | None = None) -> None:
    """CareError where no picture or no file can be written; asked before long work begins."""
    if picture is not None:
        check(picture, catalog.scanned_folders())
    if save is not None:
        refuse_scanned(save, catalog.scanned_folders())
        if save.exists():
            raise CareError(f"{save} exists already, and may be somebody's work. Name another file.")
        if not save.absolute().parent.is_dir():
            raise CareError(f"There is no folder {save.parent} for the points. Make it first, or name another place.")


def write(catalog: Catalog, proposal: Proposal, picture: Path | None, save: Path | None) -> None:
    """Write a proposal as a picture and as an expert's file, where these are wanted."""
    if picture is not None:
        draw(catalog, proposal, picture)
    if save is not None:
        files.write(save, proposal.points, proposal.species)


def add(catalog: Catalog, name: str, proposal: Proposal, species: str | None = None) -> dict:
    """Keep a proposal as a template; returns what `show` does. `species` is the proposal's own unless said.

    An expert's points are those of the crop as well, as set by hand.
    """
    species = checked_name(species) if species is not None else proposal.species
    shown = catalog.crop_to_annotate(proposal.crop_id).species
    if shown and species != shown:
        catalog.notice(f"Crop {proposal.crop_id} shows the species {shown}; the template is kept as one of {species}.")
    with catalog.transaction():
        catalog.add_template(name, proposal.crop_id, proposal.points, proposal.source, species, proposal.about)
        if proposal.source == "expert":
            catalog.say_keypoints(proposal.crop_id, proposal.points)
    return show(catalog, name)


def listing(catalog: Catalog) -> list[dict]:
    """A row for each template: name, species, crop, individual, path, points, source, created_at, carried."""
    templates = catalog.templates()
    names = catalog.names_of_crops([template.crop_id for template in templates])
    carried = catalog.points_carried()
    return [
        {
            "name": template.name,
            "species": template.species,
            "crop": template.crop_id,
            "individual": names.get(template.crop_id),
            "path": next((display_path(place["path_bytes"]) for place in _places(catalog, template.crop_id)), None),
            "points": len(template.points),
            "source": template.source,
            "created_at": template.created_at,
            "carried": carried.get(template.id, 0),
        }
        for template in templates
    ]


def show(catalog: Catalog, name: str) -> dict:
    """All about one template: its row of the listing, `points` as a list, `about`. CareError when there is none."""
    template = catalog.template(name)
    row = next(row for row in listing(catalog) if row["name"] == template.name)
    return row | {"points": [asdict(point) for point in template.points], "about": template.about}


def origin(shown: dict) -> str:
    """How a template came about, in a few words."""
    about = shown["about"]
    words = {
        "expert": f"{about.get('file')}" + (f", annotation {about['annotation']}" if "annotation" in about else ""),
        "vlm": f"{about.get('model')} at {about.get('host')}, {len(about.get('replies', []))} answers",
        "random": f"seed {about.get('seed')}",
    }
    return words.get(shown["source"]) or f"{about.get('model')}, {about.get('prototype')}"


def draw(catalog: Catalog, shown: Template | Proposal, path: Path) -> None:
    """Write a picture of the reference crop with its named points to `path`; CareError where it cannot."""
    frame = catalog.crop_to_annotate(shown.crop_id)
    [jpeg] = catalog.pixels([shown.crop_id]).values()
    template_picture(jpeg, points_in_crop(shown.points, frame), path)
