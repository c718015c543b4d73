"""Annotated animals, their features, and what is carried between them where the truth is known."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import TYPE_CHECKING

import numpy as np

from care_cli.errors import CareError
from care_cli.evaluation.pairs import Animal, Transfer
from care_cli.evaluation.pck import Carried
from care_cli.geometry import crop_to_input, input_to_crop, to_crop, to_image
from care_cli.images import decode_jpeg
from care_cli.keypoints.points import other_side
from care_cli.records import CropFrame, Keypoints, NamedPoint, Selection
from care_cli.stages.extractors import worded
from care_cli.stages.index import Stored, stored
from care_cli.stages.pipeline import ahead, batches

if TYPE_CHECKING:
    import torch

    from care_cli.catalog import Catalog
    from care_cli.features import Extractor
    from care_cli.keypoints.matching import MatchConfig, Reference

HELD = 2_000_000_000  # bytes of feature maps kept in memory
TARGETS = 16  # matched at once with one reference
Key = tuple[int, bool]  # a crop, and whether its mirror image is meant


@dataclass(frozen=True)
class Truth:
    """What is known to be true, and what of it can't be used."""

    crops: tuple[Animal, ...]
    mirrors: Mapping[str, Mapping[str, str]]  # species -> point -> the point on the animal's other side
    without_pixels: tuple[int, ...] = ()
    damaged: tuple[int, ...] = ()
    outside: int = 0  # points that lie outside what their crop shows


def truth(catalog: Catalog, species: str | None = None) -> Truth:
    """Animals whose points were set by hand or imported, of one species or of each.

    Mirror pairs are those of the species' templates, else those that the points' names tell (left_eye, right_eye).
    Raises CareError when there are not two such crops of one species.
    """
    said = catalog.annotated(species)
    frames = catalog.crop_frame(said)
    rows = {row["crop"]: row for row in catalog.crop_rows(Selection(ids=tuple(said)))} if said else {}
    animals = [crop for crop in said if crop in rows and frames[crop].category == "animal"]
    bare = [crop for crop in animals if frames[crop].size is None]
    with_pixels = [crop for crop in animals if frames[crop].size is not None]
    damaged = {crop for crop, sound in ahead(_decodes, stored(catalog, with_pixels, 64), depth=32) if not sound}
    crops, outside = [], 0
    for crop in with_pixels:
        if crop not in damaged:
            points, hidden = _inside(said[crop], frames[crop])
            outside += hidden
            crops.append(_annotated(frames[crop], rows[crop], points))
    by_species = {one.species: [other for other in crops if other.species == one.species] for one in crops}
    if not any(len(group) > 1 for group in by_species.values()):
        raise CareError(
            f"An evaluation needs two annotated crops of one species, but there {_count(len(crops))}"
            f"{f' of {species!r}' if species else ''}. Run `care keypoints import FILE.json --images FOLDER`, or set "
            "points by hand: `care keypoints set`."
        )
    mirrors = {name: mirrors_of(catalog, name, group) for name, group in by_species.items()}
    return Truth(tuple(crops), mirrors, tuple(bare), tuple(sorted(damaged)), outside)


def _count(number: int) -> str:
    return f"{'is' if number == 1 else 'are'} {number or 'none'}"


def _decodes(crop: Stored) -> tuple[int, bool]:
    try:
        decode_jpeg(crop.jpeg)
    except CareError:
        return crop.crop_id, False
    return crop.crop_id, True


def _inside(said: Keypoints, frame: CropFrame) -> tuple[dict[str, tuple[float, float]], int]:
    """Visible points that the crop shows, by name, px of the image frame, and how many it does not show."""
    x, y, w, h = frame.rect
    visible = {
        name: (px, py)
        for name, (px, py), seen in zip(said.names, said.kp_image.tolist(), said.visible, strict=True)
        if seen
    }
    points = {name: (px, py) for name, (px, py) in visible.items() if x <= px <= x + w and y <= py <= y + h}
    return points, len(visible) - len(points)


def _annotated(frame: CropFrame, row: dict, points: dict[str, tuple[float, float]]) -> Animal:
    return Animal(
        crop=frame.crop_id,
        image=row["image"],
        species=frame.species or "",
        individual=row["individual"],
        box=frame.box,
        rect=frame.rect,
        size=frame.size,
        points=points,
    )


def mirrors_of(catalog: Catalog, species: str, crops: Iterable[Animal]) -> dict[str, str]:
    """The counterpart on the animal's other side of each point of a species that has one, seen or not."""
    told = {p.name: p.mirror for template in catalog.templates(species) for p in template.points if p.mirror}
    read = {name: other for one in crops for name in one.points if (other := other_side(name))}
    return {**read, **{other: name for name, other in read.items()}, **told}


class FeatureBank:
    """Feature maps of annotated crops, in half precision up to a bound, computed when they are first needed.

    Maps are scaled to a largest value of 1, which changes no cosine, and so fit into half precision.
    """

    def __init__(self, catalog: Catalog, extractor: Extractor, prompt: str, crops: Iterable[Animal]):
        self.extractor = extractor
        self._catalog = catalog
        self._prompts = {one.crop: worded(prompt, one.species or None) for one in crops}
        self._maps: dict[Key, torch.Tensor] = {}
        cells = round(extractor.size / extractor.stride) ** 2
        self.capacity = max(2, HELD // (2 * cells * extractor.channels))

    def __getitem__(self, key: Key) -> torch.Tensor:
        """Features `(C,h,w) float32` of a crop that is held."""
        return self._maps[key].float()

    def hold(self, keys: Collection[Key]) -> None:
        """Have these maps in memory; others go where there is no room for both."""
        if len(self._maps.keys() | keys) > self.capacity:
            self._maps = {key: held for key, held in self._maps.items() if key in keys}
        missing = sorted(set(keys) - self._maps.keys(), key=lambda key: (self._prompts[key[0]], key))
        for prompt, wanted in groupby(missing, key=lambda key: self._prompts[key[0]]):
            ready = ahead(self._prepared, self._read(list(wanted)), depth=32, weigh=lambda crop: len(crop[1]))
            for group in batches(ready, self.extractor.batch):
                keys_of, pixels, seeds = zip(*group, strict=True)
                for key, found in zip(keys_of, self.extractor(np.stack(pixels), seeds, prompt), strict=True):
                    self._maps[key] = (found / found.abs().amax().clamp_min(1e-30)).half()

    def _read(self, keys: list[Key]) -> Iterator[tuple[Key, bytes]]:
        for start in range(0, len(keys), 64):
            page = keys[start : start + 64]
            jpegs = self._catalog.pixels({crop for crop, _ in page})
            yield from ((key, jpegs[key[0]]) for key in page)

    def _prepared(self, item: tuple[Key, bytes]) -> tuple[Key, np.ndarray, int]:
        from care_cli.features import prepare, seed_of

        (crop, mirrored), jpeg = item
        pixels = prepare(decode_jpeg(jpeg), self.extractor.size)
        seed = seed_of(hashlib.sha256(jpeg).digest())
        return (crop, mirrored), (np.ascontiguousarray(pixels[:, :, ::-1]) if mirrored else pixels), seed


@dataclass(frozen=True, eq=False)
class Carrier:
    """Carries points between annotated crops as `care propagate-keypoints` does, and compares with the truth."""

    bank: FeatureBank
    cfg: MatchConfig
    sources: Mapping[int, Animal]
    targets: Mapping[int, Animal]
    mirrors: Mapping[str, Mapping[str, str]]
    told: Callable[[int], object] = field(default=lambda done: None)  # transfers that were done

    def carry(self, transfers: Sequence[Transfer]) -> Carried:
        """Every point of every transfer, in the order of the transfers."""
        found: dict[int, Carried] = {}
        for group in self._blocks(transfers):
            self.bank.hold({key for place in group for key in self._keys(transfers[place])})
            alike = defaultdict(list)
            for place in group:
                alike[transfers[place].references].append(place)
            for places in alike.values():
                for start in range(0, len(places), TARGETS):
                    part = places[start : start + TARGETS]
                    found.update(zip(part, self._matched(part, [transfers[i] for i in part]), strict=True))
                    self.told(len(part))
        return Carried.joined([found[place] for place in range(len(transfers))])

    def _keys(self, transfer: Transfer) -> Iterator[Key]:
        yield transfer.target, self.targets[transfer.target].mirrored
        for crop in transfer.references:
            yield crop, False
            if self.cfg.align:
                yield crop, True

    def _blocks(self, transfers: Sequence[Transfer]) -> Iterator[list[int]]:
        """Places of transfers, few enough that the maps that they need are held together."""
        rank = {crop: place for place, crop in enumerate(sorted(self.sources.keys() | self.targets.keys()))}
        side = max(1, self.bank.capacity // (3 if self.cfg.align else 2))
        order = sorted(
            range(len(transfers)),
            key=lambda i: (rank[transfers[i].references[0]] // side, rank[transfers[i].target] // side, i),
        )
        group: list[int] = []
        held: set[Key] = set()
        for place in order:
            needed = set(self._keys(transfers[place]))
            if group and len(held | needed) > self.bank.capacity:
                yield group
                group, held = [], set()
            group.append(place)
            held |= needed
        if group:
            yield group

    def _matched(self, places: Sequence[int], transfers: Sequence[Transfer]) -> list[Carried]:
        """Transfers from the same references, each with its place in the list, compared with the truth.

        A point is asked of each reference that shows it, and the highest cosine gives it, as in `matching.match`,
        whose references all show the same points.
        """
        import torch

        from care_cli.keypoints.matching import match

        size = self.bank.extractor.size
        references = [self.sources[crop] for crop in transfers[0].references]
        targets = [self.targets[one.target] for one in transfers]
        features = torch.stack([self.bank[one.crop, one.mirrored] for one in targets])
        points: list[dict[str, tuple]] = [{} for _ in transfers]  # name -> confidence, kp_input, kept, source
        for source in references:
            if not source.points:
                continue
            answers = match([self._reference(source)], features, self.cfg, size)
            for answer, found in zip(answers, points, strict=True):
                for k, name in enumerate(source.points):
                    if name not in found or answer.confidence[k] > found[name][0]:
                        found[name] = (answer.confidence[k], answer.kp_input[k], answer.visible[k], source)
        return [self._compared(*one) for one in zip(places, transfers, targets, points, strict=True)]

    def _reference(self, source: Animal) -> Reference:
        """An annotated crop as a reference for its points."""
        from care_cli.keypoints.matching import Reference, mirror_indices

        size = self.bank.extractor.size
        names = tuple(source.points)
        kp_crop = to_crop(np.array([source.points[name] for name in names]), source.rect, source.size)
        mirrors = self.mirrors[source.species]
        return Reference(
            features=self.bank[source.crop, False],
            kp_input=crop_to_input(kp_crop, source.size, size),
            names=names,
            swap=mirror_indices([NamedPoint(name, 0, 0, mirrors.get(name)) for name in names]),
            scale=(source.rect[2] / size, source.rect[3] / size),
            longest=max(source.box[2:]),
            mirrored=self.bank[source.crop, True] if self.cfg.align else None,
        )

    def _compared(self, place: int, transfer: Transfer, target: Animal, points: dict[str, tuple]) -> Carried:
        size = self.bank.extractor.size
        names = transfer.names
        _, kp_input, kept, sources = zip(*(points[name] for name in names), strict=True)
        kp_crop = input_to_crop(np.array(kp_input), target.size, size)
        kp_image = to_image(kp_crop, target.rect, target.size)
        mirrors = self.mirrors[target.species]
        nowhere = (np.nan, np.nan)
        own = np.array([target.points[name] for name in names])
        other = np.array([target.points.get(mirrors.get(name), nowhere) for name in names])
        longest = max(target.box[2:])
        count = len(names)
        return Carried(
            pair=np.full(count, place),
            target=np.full(count, target.crop),
            source=np.array([source.crop for source in sources]),
            target_cluster=np.full(count, target.cluster),
            source_cluster=np.array([source.cluster for source in sources]),
            species=np.full(count, target.species),
            name=np.array(names),
            error=np.linalg.norm(kp_image - own, axis=1) / longest,
            mirror_error=np.linalg.norm(kp_image - other, axis=1) / longest,
            kept=np.array(kept),
        )
