"""Who is asked in an examination: named crops, the part of a split, and what a model has learned from already."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from care_cli import registry
from care_cli.checkpoints import read_header
from care_cli.errors import CareError
from care_cli.evaluation.protocols import Crops
from care_cli.records import ModelSpec, Selection
from care_cli.splits import NOBODY, PARTS

if TYPE_CHECKING:
    from care_cli.catalog import Catalog

NAMED_IN_ERRORS = 5
ALL = "all"


@dataclass(frozen=True, eq=False)
class Asked:
    """The crops of an examination, and which of them may ask; the others answer only."""

    crops: Crops
    may_ask: np.ndarray  # (N,) bool
    validation: Crops  # of the split's validation part; empty without one
    split: dict[str, Any] | None  # name, sha256, part, rule
    closed: bool = False  # the models know these animals
    without: tuple[int, ...] = ()  # crops that a model could not see: no pixels, or damaged ones

    def seen(self, crop_ids: Iterable[int]) -> Asked:
        """Without the crops that are not among `crop_ids`."""
        ids = list(crop_ids)
        kept = np.isin(self.crops.id, ids)
        return replace(
            self,
            crops=self.crops.where(kept),
            may_ask=self.may_ask[kept],
            validation=self.validation.where(np.isin(self.validation.id, ids)),
            without=(*self.without, *self.crops.id[~kept].tolist()),
        )


def asked(
    catalog: Catalog,
    headers: Sequence[dict],
    *,
    split: str | None = None,
    part: str | None = None,
    species: str | None = None,
    closed: bool = False,
) -> Asked:
    """The named animal crops of a part of a split (None: test); of the whole catalog without a split.

    In a closed set the part's crops ask, those that a model learned from never do, and all named crops answer.
    Raises CareError when nobody is named, when the part is empty, and when a model (of `headers`) learned from a crop
    of an animal that would be examined, unless the set is said to be `closed`.
    """
    named = crops_of(catalog, species=species)
    if not len(named):
        raise CareError(
            "No crop has a name yet, so nothing can be examined. Name animals with `care individuals name`, or bring "
            "in a named data set with `care import dataset`."
        )
    if part not in (None, *PARTS, ALL):
        raise CareError(f"A part of a split is {', '.join(PARTS)} or {ALL}, not {part!r}.")
    split = split or _split_of(catalog, headers)
    if part is not None and split is None:
        raise CareError(f"Say of which split the part {part!r} is: --split NAME.")
    part = part or "test"
    row = catalog.find_split(split) if split else None
    parts = catalog.split_parts(split) if split else {}
    wanted = [one for one in PARTS if part in (one, ALL)]
    chosen = np.array([row is None or parts.get(crop) in wanted for crop in named.id.tolist()])
    if not chosen.any():
        raise CareError(f"The part {part!r} of the split {split!r} holds no named crop of these.")
    learned = np.isin(named.id, sorted(_learned(catalog, named, headers)))
    known = np.intersect1d(named.individual[learned], named.individual[chosen])
    if len(known) and not closed:
        raise CareError(_known(known, len(np.unique(named.individual[chosen])), split))
    kept = np.ones(len(named), bool) if closed else chosen
    choosing = part == "test" and not closed  # what is chosen on the validation part may be examined on the test part
    validation = np.array([choosing and parts.get(crop) == "val" for crop in named.id.tolist()])
    about = {"name": split, "part": part, "sha256": row["sha256"], **row["settings"]} if row else None
    return Asked(named.where(kept), (chosen & ~learned)[kept], named.where(validation), about, closed)


def crops_of(catalog: Catalog, crop_ids: Iterable[int] | None = None, species: str | None = None) -> Crops:
    """Named animal crops in the order of their ids: all, or those of `crop_ids`."""
    ids = None if crop_ids is None else set(crop_ids)
    rows = [
        row
        for row in catalog.crop_rows(Selection(category="animal", species=species))
        if row["individual"] is not None
        and row["individual"].strip().casefold() not in NOBODY
        and (ids is None or row["crop"] in ids)
    ]
    rows.sort(key=lambda row: row["crop"])

    def column(name: str) -> np.ndarray:
        return np.array([row[name] or "" for row in rows], str)

    return Crops(
        id=np.array([row["crop"] for row in rows], np.int64),
        individual=column("individual"),
        image=np.array([row["image"] for row in rows], np.int64),
        event=np.array([-1 if row["event"] is None else row["event"] for row in rows], np.int64),
        day=np.array([(row["taken_at"] or "")[:10] for row in rows], str),
        flank=np.array(["" if row["flank"] in (None, "unknown") else row["flank"] for row in rows], str),
        camera=column("deployment"),
        species=column("species"),
    )


def header_of(spec: ModelSpec) -> dict[str, Any]:
    """What a checkpoint of ours says of itself; empty for the weights of others."""
    path = registry.fetch(spec)
    return read_header(path) if spec.family == "care" and Path(path).suffix == ".safetensors" else {}


def training_of(header: dict[str, Any]) -> dict[str, Any]:
    """What a header says of the training; headers come from anywhere."""
    training = header.get("training")
    return training if isinstance(training, dict) else {}


def _learned(catalog: Catalog, named: Crops, headers: Sequence[dict]) -> set[int]:
    """Crops whose very pixels a model was trained on."""
    digests = {digest for header in headers for digest in training_of(header).get("crops") or ()}
    if not digests:
        return set()
    return {crop for crop, digest in catalog.pixel_digests(named.id.tolist()).items() if digest in digests}


def _split_of(catalog: Catalog, headers: Sequence[dict]) -> str | None:
    """The split that the models were trained with, where this catalog has it. CareError when they differ."""
    abouts = [training_of(header).get("split") for header in headers]
    names = {about["name"] for about in abouts if isinstance(about, dict) and isinstance(about.get("name"), str)}
    here = sorted(name for name in names if catalog.split(name))
    if len(here) > 1:
        raise CareError(f"These models were trained with different splits ({', '.join(here)}); say which with --split.")
    return here[0] if here else None


def _known(known: np.ndarray, of: int, split: str | None) -> str:
    some = ", ".join(known[:NAMED_IN_ERRORS].tolist()) + (", ..." if len(known) > NAMED_IN_ERRORS else "")
    advice = "Name another part" if split else "Name the split it was trained with (--split NAME)"
    return (
        f"A model has learned from {len(known)} of these {of} animals ({some}), so its figures would flatter it. "
        f"{advice}, or say --closed-set to ask with crops that it has not seen of animals that it knows."
    )
