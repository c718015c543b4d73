"""`care evaluate --report FOLDER`: one page of an examination, its tables, pictures and evidence."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from care_cli import __version__
from care_cli.errors import CareError
from care_cli.evaluation import figures, published
from care_cli.evaluation.protocols import Protocol
from care_cli.outputs import refuse_scanned, write_whole
from care_cli.pages import report_html as html
from care_cli.pages.heat_sheet import heat_sheet
from care_cli.stages import report_evidence as evidence
from care_cli.stages import report_tables as tables
from care_cli.stages import report_words
from care_cli.stages.evaluation_data import crops_of
from care_cli.stages.evaluation_tables import LEAKY, is_leaky

if TYPE_CHECKING:
    from care_cli.catalog import Catalog

PAGE, RESULT, TABLE = "index.html", "result.json", "table.csv"
PANELS = 4  # models of a t-SNE
MAPS = 2  # models of the Grad-CAM: the baseline and the best


def check(catalog: Catalog | None, folder: Path) -> None:
    """As `check_folder`, of a catalog's report; asked before long work begins, too."""
    check_folder(folder, catalog.scanned_folders() if catalog else ())


def check_folder(folder: Path, scanned: Iterable[str]) -> None:
    """CareError when no report can be written to `folder`, or it lies in one of the `scanned` folders.

    It is a new folder, an empty one, or one that holds an earlier report.
    """
    if not folder.absolute().parent.is_dir():
        raise CareError(f"There is no folder {folder.parent} for the report. Make it first, or name another place.")
    refuse_scanned(folder / PAGE, scanned)
    try:
        if folder.exists() and any(folder.iterdir()) and not _is_ours(folder / PAGE):
            raise CareError(f"{folder} holds other files and no report of CARE. Name a new folder.")
    except OSError as error:
        raise CareError(
            f"A report is a folder, but {folder} cannot be read as one: {error.strerror or error}."
        ) from error


def _is_ours(page: Path) -> bool:
    with suppress(OSError), page.open("rb") as file:
        return html.MARK.encode() in file.read(512)
    return False


def write(catalog: Catalog, result: dict, folder: Path) -> list[Path]:
    """Write the report of what `evaluate_reid.run` found; returns its files, the page first.

    The page is self-contained; its pictures lie beside it too, with the result as JSON and as a table. Raises
    CareError when the folder can't be written, or the catalog no longer holds what was examined.
    """
    check(catalog, folder)
    seen = _reopened(catalog, result)
    pictures: dict[str, bytes] = {}
    sections = [
        html.Section("Result", "How well are the animals told apart?", _results(result)),
        html.Section("Honesty", "What could flatter these figures", _honesty(result)),
        *_new_animals(result),
        *_papers(catalog, result),
        html.Section("Curves", "How many answers to look at, and how alike animals are", _curves(seen, pictures)),
        *_calibration(catalog, seen, pictures),
        *_individuals(seen, result, pictures),
        *report_words.section(catalog, seen.rows, pictures),
        html.Section("Mistakes", f"The worst answers of {seen.best.name}", _queries(catalog, seen, evidence.worst)),
        html.Section("Successes", f"The best answers of {seen.best.name}", _queries(catalog, seen, evidence.best)),
        *_looked(catalog, seen, result, pictures),
        html.Section("How", "How this was measured", tables.how(result)),
    ]
    foot = f"Made by CARE {__version__}. People are blacked out in every stored crop."
    page = html.page("Telling animals apart", tables.data_words(result), sections, foot)
    return written(
        folder, {PAGE: page, RESULT: json.dumps(result, indent=1) + "\n", TABLE: tables.table_csv(result)} | pictures
    )


def written(folder: Path, files: Mapping[str, str | bytes]) -> list[Path]:
    """The files of a report, by name, in its folder. CareError when they cannot be written."""
    try:
        folder.mkdir(exist_ok=True)
    except OSError as error:
        raise CareError(f"{folder} cannot be made: {error.strerror or error}. Name another place.") from error
    for name, data in files.items():
        write_whole(folder / name, data)
    return [folder / name for name in files]


def _reopened(catalog: Catalog, result: Mapping[str, Any]) -> evidence.Examination:
    protocol = {key: tuple(value) if isinstance(value, list) else value for key, value in result["protocol"].items()}
    crops = crops_of(catalog, result["crops"]["all"])
    if len(crops) != len(result["crops"]["all"]):
        raise CareError(evidence.CHANGED)
    runs = [(row["name"], [model["run"] for model in row["models"]]) for row in result["rows"]]
    return evidence.reopen(catalog, crops, result["crops"]["asked"], Protocol(**protocol), runs)


def _baseline(seen: evidence.Examination, result: Mapping[str, Any]) -> evidence.Row:
    """The row that others are compared with, else the first."""
    name = result["differences"][0]["baseline"] if result["differences"] else seen.rows[0].name
    return next(row for row in seen.rows if row.name == name)


def _pictured(seen: evidence.Examination, result: Mapping[str, Any]) -> list[evidence.Row]:
    """The rows whose maps are drawn, from above: those that `result` names where all are there, else the usual two."""
    by_name = {row.name: row for row in seen.rows}
    names = result.get("pictured", ())
    if names and set(names) <= set(by_name):
        return [by_name[name] for name in names]
    return _compared(seen, result, MAPS)


def _compared(seen: evidence.Examination, result: Mapping[str, Any], most: int) -> list[evidence.Row]:
    """The baseline first, then the best of the others, `most` in all, the best last."""
    baseline = _baseline(seen, result)
    others = sorted((row for row in seen.rows if row is not baseline), key=lambda row: row.map)
    return [baseline, *others[-(most - 1) :]]


# -- sections


def _results(result: Mapping[str, Any]) -> str:
    body = html.paragraph(tables.lead(result), "lead")
    if result["split"] is None:
        body += html.paragraph("No split was named: all named crops were examined.", "warn")
    if is_leaky(result["split"]):
        body += html.paragraph(LEAKY, "warn")
    if result["closed_set"]:
        body += html.paragraph("Closed set: the models know these animals from other crops of them.", "warn")
    body += tables.results(result)
    if result["differences"]:
        body += html.heading("Against the baseline") + tables.differences(result)
    return body


def _honesty(result: Mapping[str, Any]) -> str:
    words = (
        "Photos of one visit are nearly the same photo: where they answer each other, a model need not know the "
        "animal. The figures with and without them:"
    )
    body = html.paragraph(words) + tables.variants(result)
    if not result["data"]["events"]:
        words = "No visit is known, for the photos have no time: near-duplicates among them cannot be told."
        body += html.paragraph(words, "warn")
    if all(row["leaks"] for row in result["rows"]):
        return body + html.heading("Backgrounds") + tables.leaks(result)
    return body + html.paragraph("Backgrounds were not examined; `care evaluate --leaks` does.")


def _new_animals(result: Mapping[str, Any]) -> list[html.Section]:
    if not any(row["open_set"] for row in result["rows"]):
        return []
    return [html.Section("New animals", "Is a new animal recognised as new?", tables.open_set(result))]


def _papers(catalog: Catalog, result: Mapping[str, Any]) -> list[html.Section]:
    whole = crops_of(catalog)
    folders = catalog.datasets_imported(result["crops"]["all"])
    dataset = published.recognise(folders, len(set(whole.individual.tolist())), len(set(whole.image.tolist())))
    if dataset is None or not published.beside(dataset):
        return []
    return [html.Section("Papers", "Beside published figures", tables.beside_papers(result, dataset))]


def _curves(seen: evidence.Examination, pictures: dict[str, bytes]) -> str:
    chance = float((seen.best.answers.right / seen.best.answers.compared.clip(1))[seen.best.answers.right > 0].mean())
    pictures["cmc.png"] = figures.cmc({row.name: row.cmc for row in seen.rows}, chance)
    pictures["similarities.png"] = figures.similarities({row.name: evidence.pairs(seen, row) for row in seen.rows})
    return html.figure(
        pictures["cmc.png"], "CMC curves",
        "Who looks through the first answers by eye finds the right animal among them this often. "
        "Models with several seeds: their mean.",
        narrow=True,
    ) + html.figure(
        pictures["similarities.png"], "Histograms of similarities",
        "How alike a model finds crops of one animal, and of two. The less they overlap, the surer a single answer.",
    )  # fmt: skip


def _calibration(catalog: Catalog, seen: evidence.Examination, pictures: dict[str, bytes]) -> list[html.Section]:
    """Of the rows' first models, where they were calibrated in this catalog."""
    found = []
    for row in seen.rows:
        model = evidence.described(catalog, row.run)
        found += [
            one for one in catalog.calibrations(model["id"])
            if one["settings"].items() >= model["settings"].items() and one["curve"].get("reliability")
        ]  # fmt: skip
    if not found:
        return []
    lines = {f"{one['model']}, {one['species'] or 'all species'}": one["curve"]["reliability"] for one in found}
    pictures["reliability.png"] = figures.reliability(lines)
    body = tables.calibrations(found) + html.figure(
        pictures["reliability.png"], "Reliability curve",
        "Of the pairs of which a probability was said, so many show the same animal; on animals that the curve had not "
        "seen. On the dotted line what is said comes true. Larger points rest on more pairs.",
        narrow=True,
    )  # fmt: skip
    return [html.Section("Probability", "Do probabilities come true?", body)]


def _individuals(
    seen: evidence.Examination, result: Mapping[str, Any], pictures: dict[str, bytes]
) -> list[html.Section]:
    rows = figures.for_tsne(seen.crops.individual.tolist())
    if len(rows) < figures.LEAST:
        return []
    shown = _compared(seen, result, PANELS)
    whose = seen.crops.individual[rows].tolist()
    pictures["tsne.png"] = figures.tsne([(row.name, figures.embedded(row.vectors[rows])) for row in shown], whose)
    words = (
        f"t-SNE of {len(rows)} crops of {len(set(whose))} individuals, those with the most crops (cosine, "
        f"PCA-{figures.COMPONENTS}, perplexity {figures.perplexity(len(rows)):.1f}, seed {figures.SEED}). Crops that "
        "lie together are alike to the model; distances between groups mean little."
    )
    body = html.figure(pictures["tsne.png"], "t-SNE of individuals", words)
    return [html.Section("Individuals", "Does each animal keep to itself?", body)]


def _queries(catalog: Catalog, seen: evidence.Examination, choose: Callable[[evidence.Row, Any], Sequence[int]]) -> str:
    chosen = choose(seen.best, seen.crops)
    if not chosen:
        return html.paragraph("There are none.")
    words = (
        "The query is framed in black; answers in green show the same animal, in red another one. One query an animal."
    )
    return html.paragraph(words) + "".join(map(html.query, evidence.shown(catalog, seen, seen.best, chosen)))


def _looked(
    catalog: Catalog, seen: evidence.Examination, result: Mapping[str, Any], pictures: dict[str, bytes]
) -> list[html.Section]:
    rows = _pictured(seen, result)
    columns, failures = evidence.looked(catalog, seen, rows)
    body = html.listing([f"Not shown: {failure}" for failure in failures])
    if columns:
        pictures["gradcam.jpg"] = heat_sheet(
            [row.name for row in rows],
            columns,
            "Where the models look",
            "Grad-CAM; bright: speaks for the right animal",
        )
        words = (
            "Bright places make the crop on top more like the one at the bottom, which shows the same animal and which "
            f"{rows[-1].name} finds most like it. Rings are keypoints that a model was shown; pale margins it did not "
            f"see. The queries were drawn by chance. Below, the cosine by {' and by '.join(row.name for row in rows)}."
        )
        body += html.figure(pictures["gradcam.jpg"], "Grad-CAM overlays", words)
    return [html.Section("Where", "Where the models look", body)] if body else []
