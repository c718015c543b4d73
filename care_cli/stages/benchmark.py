"""The papers' data sets, each in a catalog of its own: found, imported, counted, divided as the papers divide them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from care_cli.errors import CareError
from care_cli.evaluation import draws
from care_cli.evaluation.protocols import Protocol
from care_cli.evaluation.published import counted, published
from care_cli.exchange import layouts
from care_cli.exchange.dataset_table import NOBODY, Dataset
from care_cli.outputs import refuse_catalog_among_photos, write_whole
from care_cli.records import Selection
from care_cli.scan import display_path
from care_cli.stages import import_dataset, split_lists
from care_cli.stages.split_lists import Line
from care_cli.stages.splits import SIDES, SplitRequest, divide

if TYPE_CHECKING:
    from care_cli.catalog import Catalog

LISTS = Path(split_lists.__file__).parent.parent / "evaluation" / "lists"  # that ship with CARE
DEPTH = 2  # folders below the given one, in which data sets are looked for
OFFICIAL = {"train": "train", "val": "test", "test": "test", **{side: side for side in SIDES}}
BY_PAPER = {"ckpe": SplitRequest("ckpe", by="individual", test=0.2, val=0.0, seed=draws.SEED)}
LAST_EPOCH = "nothing is chosen on the test part: models are those of the last epoch, for there is no validation part"


@dataclass(frozen=True)
class Copy:
    """A copy of a known data set in a folder."""

    name: str
    root: Path
    photos: int
    notes: tuple[str, ...]  # how it differs from the data set as it is published


@dataclass(frozen=True)
class Divided:
    """How a data set is divided in its catalog, and who asks whom."""

    split: SplitRequest
    protocol: Protocol
    notes: tuple[str, ...]


# -- finding


def find(data: Path, names: Iterable[str]) -> dict[str, Copy]:
    """Copies of the data sets `names` in a folder or up to two levels below it, of each the fullest.

    CareError when there is no such folder.
    """
    if not data.is_dir():
        raise CareError(f"--data is a folder of data sets, but {data} is none.")
    found: dict[str, Copy] = {}
    for root in _folders(data):
        name = layouts.recognise(root)
        if name in names:
            try:
                copy = look(root, name)
            except CareError as error:
                copy = Copy(name, root, 0, (str(error),))
            if name not in found or copy.photos > found[name].photos:
                found[name] = copy
    return found


def _folders(data: Path) -> list[Path]:
    """Folders below, the upper ones first, and the folder itself last: what one below it is, it need not be itself."""
    levels = [[data]]
    for _ in range(DEPTH):
        levels.append(
            sorted(one for folder in levels[-1] for one in _inner(folder) if one.is_dir() and one.name[:1] != ".")
        )
    return [one for level in levels[1:] for one in level] + [data]


def _inner(folder: Path) -> list[Path]:
    try:
        return list(folder.iterdir())
    except OSError:
        return []


def look(root: Path, name: str) -> Copy:
    """A folder as a copy of a data set, counted; nothing is imported."""
    sightings, lost = layouts.read(root, name)
    photos = Counter(one.identity for one in sightings if one.identity.casefold() not in NOBODY)
    _, notes = counted(name, photos)
    if lost:
        notes.append(f"{len(lost)} things that its tables name are not here, the first: {lost[0]}")
    return Copy(name, root, sum(photos.values()), tuple(notes + list(published()["datasets"][name].get("remarks", ()))))


def recognised(dataset: Dataset, said: str | None) -> tuple[Dataset, dict]:
    """What is to be imported, read as the known data set that was `said` ('none': as none) or that its folders tell.

    And what is to be told of it: `layout`, and `notes` on its counts. CareError when it is not laid out as was said.
    """
    if dataset.csv is not None and said is not None:
        raise CareError("A table says who is on a photo, or a known layout does: give --csv or --layout.")
    name = said
    if said is None and dataset.csv is None and dataset.split is None and dataset.path.is_dir():
        name = layouts.recognise(dataset.path)
    if name in (None, "none"):
        return dataset, {}
    return replace(dataset, layout=name), {"layout": name, "notes": list(look(dataset.path, name).notes)}


# -- into a catalog


def prepare(catalog: Catalog, copy: Copy, paper: str) -> Divided:
    """The data set imported and divided for a paper's table; what is done already stands.

    Raises CareError when a part would be empty.
    """
    refuse_catalog_among_photos(catalog.path, [copy.root])
    done = import_dataset.run(catalog, Dataset(copy.root, layout=copy.name))
    notes = [*copy.notes, *_imported(copy, done), LAST_EPOCH]
    if paper in BY_PAPER:
        divide(catalog, BY_PAPER[paper])
        share = "20 % of the individuals, drawn by seed 666, are tested; every photo of theirs asks all others"
        return Divided(SplitRequest(paper), Protocol(), (*notes, f"{share}; which the paper tested is not published"))
    listed = catalog.path.with_name(f"{copy.name}.csv")
    if listed.is_file():
        lines, how = split_lists.read(listed), f"divided as {listed.name} beside the catalog says"
    else:
        lines, how = _lines(catalog, copy)
        write_whole(listed, split_lists.written(lines))
    divide(catalog, SplitRequest(paper, file=listed))
    return Divided(
        SplitRequest(paper), split_lists.protocol_of(catalog, listed), (*notes, how, *sizes(copy.name, lines))
    )


def standing(catalog: Catalog, name: str, paper: str) -> Divided | None:
    """How a data set was divided in its catalog; None where it was not yet."""
    if catalog.split(paper) is None:
        return None
    listed = catalog.path.with_name(f"{name}.csv")
    if paper in BY_PAPER:
        return Divided(SplitRequest(paper), Protocol(), ())
    return Divided(SplitRequest(paper), split_lists.protocol_of(catalog, listed), ()) if listed.is_file() else None


def _imported(copy: Copy, done: Mapping) -> list[str]:
    """What did not come into the catalog."""
    notes = []
    if done["failed"]:
        notes.append(f"{done['failed']} photos could not be read, the first: {done['failures'][0]}")
    if done["conflicts"]:
        notes.append(f"{len(done['conflicts'])} photos have two names, the first: {done['conflicts'][0]}")
    if same := copy.photos - (done["crops"] - done["unnamed"]) - done["failed"] - len(done["conflicts"]):
        notes.append(f"{same} photos are copies of others, byte by byte, and count once")
    return notes


def _lines(catalog: Catalog, copy: Copy) -> tuple[list[Line], str]:
    """Which photo trains, asks and answers, and how that was found: from a list, the data set itself, or drawn."""
    rows = [
        Line(row["path"], row["individual"], "")
        for row in catalog.crop_rows(Selection(category="animal"))
        if row["individual"] is not None
    ]
    shipped = LISTS / f"{copy.name}.csv"
    if shipped.is_file():
        crops, lost = split_lists.matched(catalog, split_lists.read(shipped))
        kept = list(crops.values())
        if {"gallery", "query"} <= {line.part for line in kept}:
            return kept, "divided by the list that ships with CARE" + (
                f"; {len(lost)} of its photos are not here" if lost else ""
            )
    used, _ = counted(copy.name, Counter(line.individual for line in rows))
    rows = [line for line in rows if line.individual in used]
    official = {display_path(one.found.relative): one.part for one in layouts.read(copy.root, copy.name)[0] if one.part}
    parts = {line: OFFICIAL[official[line.path]] for line in rows if line.path in official}
    if set(SIDES) <= set(parts.values()):
        return [Line(one.path, one.individual, part) for one, part in parts.items()], "divided as it is published"
    if {"train", "test"} <= set(parts.values()):
        tested, how = {line.individual for line, part in parts.items() if part == "test"}, "train and test as published"
    else:
        tested, how = _tested(copy.name, rows), f"tested individuals drawn by seed {draws.SEED}"
    return _sided(copy.name, rows, tested), f"{how}, queries drawn by seed {draws.SEED}; the paper's are not published"


def _tested(name: str, rows: Sequence[Line]) -> set[str]:
    """Individuals drawn for the test: as many, with as many photos, as the paper has; of a part of them that share."""
    photos = Counter(line.individual for line in rows)
    split = published()["datasets"][name].get("split")
    if split is None:
        return set(draws.draw_individuals(photos, round(0.2 * len(photos)), round(0.2 * len(rows))))
    tested, total = split["gallery"][0], split["gallery"][0] + split["train"][0]
    asked, images = split["gallery"][1] + split["query"][1], sum(part[1] for part in split.values())
    individuals = max(2, round(len(photos) * tested / total))
    return set(draws.draw_individuals(photos, individuals, round(len(rows) * asked / images)))


def _sided(name: str, rows: Sequence[Line], tested: set[str]) -> list[Line]:
    """The lines with their parts; of the tested individuals' photos as many ask as in the paper, or that share."""
    own: dict[str, dict[str, Line]] = {}
    for line in rows:
        if line.individual in tested:
            end = "/".join(line.path.split("/")[-2:])  # the same wherever the data set lies
            own.setdefault(line.individual, {})[f"{line.individual} {end}"] = line
    count = sum(map(len, own.values()))
    split = published()["datasets"][name].get("split", {"gallery": [0, 54], "query": [0, 46]})
    share = split["query"][1] / (split["gallery"][1] + split["query"][1])
    asking = draws.draw_queries({name: list(photos) for name, photos in own.items()}, round(share * count))
    queries = {line for photos in own.values() for key, line in photos.items() if key in asking}
    return [
        Line(one.path, one.individual, "train" if one.individual not in tested else _side(one in queries))
        for one in rows
    ]  # fmt: skip


def _side(asks: bool) -> str:
    return "query" if asks else "gallery"


def sizes(name: str, lines: Sequence[Line]) -> list[str]:
    """In words, how many individuals and photos each part has, beside those of the paper."""
    here = {
        part: [len({line.individual for line in lines if line.part == part}), sum(line.part == part for line in lines)]
        for part in ("train", *SIDES)
    }
    split = published()["datasets"][name].get("split")
    said = ", ".join(f"{part} {count[1]} photos of {count[0]}" for part, count in here.items())
    if split is None:
        return [f"{said}; the paper's split is not published"]
    if all(here[part] == split[part] for part in here):
        return [f"the split has the published sizes: {said}"]
    paper = ", ".join(f"{part} {count[1]} of {count[0]}" for part, count in split.items())
    return [f"THE SPLIT DIFFERS from the published sizes: {said}; there {paper}"]
