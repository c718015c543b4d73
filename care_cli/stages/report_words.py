"""The report's pictures of words: what a training with texts left beside its model, and how photos lie around it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from care_cli import registry
from care_cli.checkpoints import load_state, read_header
from care_cli.errors import CareError
from care_cli.evaluation import figures
from care_cli.pages import report_html as html
from care_cli.records import ModelSpec, Selection
from care_cli.stages import index
from care_cli.stages.evaluation_data import header_of, training_of
from care_cli.stages.report_evidence import Row

if TYPE_CHECKING:
    from care_cli.catalog import Catalog

FILE = "prototypes.safetensors"  # in the folder of a training, which is called as its model


@dataclass(frozen=True, eq=False)
class Words:
    """The texts that a model learned beside: of its N training crops, and one prototype for each of C individuals."""

    text: np.ndarray  # (N,D) float32, of the description of each crop
    whose: np.ndarray  # (N,) str, individual
    crops: np.ndarray  # (N,) str, SHA-256 of the stored pixels
    bank: np.ndarray  # (C,D) float32, prototypes
    individuals: tuple[str, ...]  # (C,)


def beside(model: Path) -> Words | None:
    """What a training left beside its model's file; None where it left nothing.

    CareError for a file that is none such, or whose parts do not fit each other.
    """
    path = model.with_suffix("") / FILE
    if not path.is_file():
        return None
    state, header = load_state(path), read_header(path)
    try:
        text, labels, bank = (state[name].numpy() for name in ("text", "labels", "bank"))
        individuals, crops = tuple(map(str, header["individuals"])), np.array(header["crops"], str)
        fits = (
            text.ndim == bank.ndim == 2
            and text.shape[1] == bank.shape[1]
            and labels.shape == crops.shape == (len(text),)
            and len(bank) == len(individuals)
            and labels.min() >= 0
            and labels.max() < len(bank)
        )
    except (KeyError, TypeError, ValueError) as error:
        raise CareError(f"{path} holds no prototypes as a training writes them: {error!r}.") from error
    if not fits:
        raise CareError(f"{path} holds prototypes whose parts do not fit each other; train the model again.")
    return Words(text, np.array(individuals, str)[labels], crops, bank, individuals)


def section(catalog: Catalog, rows: Sequence[Row], pictures: dict[str, bytes]) -> list[html.Section]:
    """Texts, and photos with prototypes, of the best row whose first model has some, those of a text for each photo
    before those of one for each animal; none without any."""
    for row in sorted(rows, key=lambda one: (not _of_photos(catalog, one), -one.map)):
        try:
            words = beside(Path(registry.fetch(_model(catalog, row))))
            body = _body(catalog, row, words, pictures) if words else ""
        except CareError as error:
            body = html.paragraph(f"Not shown: {error}", "warn")
        if body:
            return [html.Section("Words", "What the model read of the animals that it learned from", body)]
    return []


def _model(catalog: Catalog, row: Row) -> ModelSpec:
    return registry.recall(json.loads(catalog.run(row.run, "index")["spec"]))


def _of_photos(catalog: Catalog, row: Row) -> bool:
    """Did the row's first model learn from texts of photos, by a meta-net, and not only from texts of animals?"""
    try:
        header = header_of(_model(catalog, row))
    except CareError:  # its weights went: it is told so in its turn
        return False
    settings = training_of(header).get("settings")
    text = settings.get("text") if isinstance(settings, dict) else None
    return isinstance(text, dict) and text.get("meta_net") is True


def _body(catalog: Catalog, row: Row, words: Words, pictures: dict[str, bytes]) -> str:
    shown = figures.for_tsne(words.whose.tolist())
    whose = words.whose[shown].tolist()
    pictures["texts.png"] = figures.tsne([(row.name, figures.embedded(words.text[shown]))], whose)
    made = (
        f"t-SNE of {len(shown)} crops of {len(set(whose))} individuals of the training part, those with the most crops "
        f"(cosine, PCA-{figures.COMPONENTS}, seed {figures.SEED}). "
    )
    body = html.figure(
        pictures["texts.png"], "t-SNE of text features",
        f"{made}Each point is the text that {row.name} made for a crop.",
    )  # fmt: skip
    try:
        here, vectors = _photos(catalog, row, words, shown)
        names = sorted(set(words.whose[here].tolist()))
        rows_of_bank = [words.individuals.index(name) for name in names]
        places, crosses = figures.embedded_together(vectors, words.bank[rows_of_bank])
    except CareError as error:
        return body + html.paragraph(f"Photos with their prototypes are not shown: {error}", "warn")
    panel = [(row.name, places)]
    pictures["prototypes.png"] = figures.tsne(panel, words.whose[here].tolist(), dict(zip(names, crosses, strict=True)))
    return body + html.figure(
        pictures["prototypes.png"], "t-SNE of photos with prototypes",
        f"The same crops as the network sees them, and as crosses the prototypes of their individuals' texts; "
        f"{len(vectors)} crops and {len(names)} prototypes in one t-SNE. The nearer a cross to its own points, the "
        "better photo and text agree.",
    )  # fmt: skip


def _photos(catalog: Catalog, row: Row, words: Words, shown: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of the `shown` crops those that the catalog has, and their visual features `(M,D)`: the last D numbers of the
    vectors that the row's model gives."""
    crop_of = {digest: crop for crop, digest in catalog.pixel_digests(catalog.names_of_crops()).items()}
    here = np.array([one for one in shown if words.crops[one] in crop_of], np.int64)
    if len(here) < figures.LEAST:
        raise CareError(f"{len(here)} of the {len(shown)} crops that it learned from are in this catalog.")
    ids = [crop_of[words.crops[one]] for one in here]
    stored = catalog.vectors(_indexed(catalog, row.run, ids), ids)
    if not np.isin(ids, stored.ids).all():
        raise CareError("Some of the crops that it learned from have damaged pixels; `care doctor` says which.")
    vectors = stored.vectors[np.searchsorted(stored.ids, ids)]
    return here, vectors[:, -words.bank.shape[1] :]


def _indexed(catalog: Catalog, run: int, crop_ids: Sequence[int]) -> int:
    """The index run that has these crops' vectors too, made as `run` was."""
    told = catalog.run(run, "index")
    settings, noted = json.loads(told["settings"]), json.loads(told["executions"])[-1]
    done = index.run(
        catalog,
        index.IndexConfig(
            registry.recall(json.loads(told["spec"])),
            noted.get("device", "cpu"),
            noted.get("engine", "auto"),
            settings["precision"],
            selection=Selection(category="animal", ids=tuple(crop_ids)),
            points_run=settings.get("keypoints_run"),
            whole=False,
        ),
    )
    return done["run"]
