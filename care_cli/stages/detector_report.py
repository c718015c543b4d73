"""`care evaluate detector --report FOLDER`: one page of an examination, its tables, and the photos that went wrong."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from care_cli import __version__
from care_cli.evaluation import detection, figures
from care_cli.evaluation.detection import Mistake
from care_cli.pages import report_html as html
from care_cli.pages.labelled_photo import DrawnBox, labelled_photo
from care_cli.stages import report
from care_cli.stages.cards import number
from care_cli.stages.evaluate_detector import Examination
from care_cli.thresholds import PERSON

if TYPE_CHECKING:
    from care_cli.catalog import Catalog
    from care_cli.geometry import Box

EXAMPLES = 18  # of each kind of mistake
MATRIX = "confusion.png"
COLUMNS = {
    "class": "",
    "true": "boxes that were labelled",
    "shown": "boxes from the shown threshold",
    "recall": "share of the true boxes that are shown with their name, IoU 0.5",
    "precision": "share of the shown boxes that are true",
    "AP50": "average precision at IoU 0.5, of all boxes",
    "AP50_95": "average precision, mean over IoU 0.5 to 0.95",
}
KINDS = {
    detection.MISS: (
        "Misses",
        "What was not shown at all",
        "Labelled animals at which nothing is shown, the largest first.",
    ),
    detection.ALARM: (
        "False alarms",
        "What was shown where nothing is labelled",
        "The surest first. Some may be animals that nobody labelled.",
    ),
    detection.CONFUSION: ("Wrong names", "What was shown under another name", "The surest first."),
}


def write(catalog: Catalog | None, seen: Examination, folder: Path) -> list[Path]:
    """Write the report of an examination; returns its files, the page first.

    The page is self-contained. Raises CareError when the folder cannot be written.
    """
    report.check(catalog, folder)
    result = seen.result
    matrix = np.array(result["confusion"]["matrix"])
    picture = figures.confusion(matrix, result["confusion"]["classes"])
    sections = [
        html.Section("Result", "How well are animals found and named?", _results(result)),
        html.Section("Light", "By day and in infrared", _lights(result["lighting"])),
        html.Section("Confusions", "What is taken for what", _confusions(picture, result)),
        *_examples(catalog, seen),
        html.Section("How", "How this was measured", _how(result)),
    ]
    foot = f"Made by CARE {__version__}. People that a label, the model or the catalog names are blurred."
    page = html.page(f"Finding animals: {result['model']}", _subtitle(result), sections, foot)
    files = {report.PAGE: page, report.RESULT: json.dumps(result, indent=1) + "\n", report.TABLE: _table(result)}
    return report.written(folder, files | {MATRIX: picture})


def rows(result: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A row a class, and one over all."""
    total = {
        "class": "all",
        "true": result["boxes"],
        "shown": sum(row["shown"] for row in result["classes"]),
        "recall": result["recall"],
        "precision": result["precision"],
        "AP50": result["mAP50"],
        "AP50_95": result["mAP50_95"],
    }
    return [*({name: row[name] for name in COLUMNS} for row in result["classes"]), total]


def _table(result: Mapping[str, Any]) -> str:
    stream = io.StringIO()
    writer = csv.DictWriter(stream, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows(result))
    return stream.getvalue()


# -- sections


def _subtitle(result: Mapping[str, Any]) -> str:
    places = f" at {result['locations']} places" if result["locations"] else ""
    return f"{result['photos']:,} photos of the part {result['part']}{places}, {result['boxes']:,} labelled animals"


def _results(result: Mapping[str, Any]) -> str:
    empties = result["empties"]
    lead = (
        f"mAP50 {number(result['mAP50'])}, mAP50-95 {number(result['mAP50_95'])}. Shown from confidence "
        f"{result['shown_from']:g}: recall {number(result['recall'])}, precision {number(result['precision'])}. "
    )
    lead += (
        f"{empties['with_boxes']} of {empties['photos']} empty photos have a false alarm."
        if empties["photos"]
        else "No photo is empty, so nothing can be said of false alarms on empty ones."
    )
    body = html.paragraph(lead, "lead") + "".join(html.paragraph(remark, "warn") for remark in result["remarks"])
    lines = [
        (
            "best" if row["class"] == "all" else "",
            [html.Cell(_said(row[name]), words=name == "class") for name in COLUMNS],
        )
        for row in rows(result)
    ]
    return body + html.table({name.replace("_", "-"): meaning for name, meaning in COLUMNS.items()}, lines)


def _said(value: Any) -> str:
    return (
        number(value)
        if value is None or isinstance(value, float)
        else f"{value:,}"
        if isinstance(value, int)
        else value
    )


def _lights(lights: Mapping[str, Mapping[str, Any]]) -> str:
    names = ("photos", "boxes", "mAP50", "mAP50_95", "recall", "precision")
    lines = []
    for light, figures_of in lights.items():
        if figures_of["photos"]:
            cells = [html.Cell(light, words=True), *(html.Cell(_said(figures_of[name])) for name in names)]
            alarms = figures_of["empties"]
            lines.append(("", [*cells, html.Cell(f"{alarms['with_boxes']} of {alarms['photos']}")]))
    columns = {"light": "", "photos": "", "boxes": COLUMNS["true"], "mAP50": "", "mAP50-95": ""}
    columns |= {name: COLUMNS[name] for name in ("recall", "precision")}
    return html.table(columns | {"empty photos with a box": "false alarms"}, lines)


def _confusions(picture: bytes, result: Mapping[str, Any]) -> str:
    caption = (
        "Boxes by what they truly are (rows) and what is shown there (columns), whatever the name, from IoU 0.5. The "
        "last row are false alarms, the last column misses; the shade is the share of the row."
    )
    names, matrix = result["confusion"]["classes"], np.array(result["confusion"]["matrix"])
    wrong = matrix.copy()
    np.fill_diagonal(wrong, 0)
    places = [divmod(int(place), len(names)) for place in np.argsort(-wrong, axis=None, kind="stable")[:8]]
    worst = [
        f"{names[row]}: {matrix[row, column]:,} of {matrix[row].sum():,} "
        + ("not shown" if column == len(names) - 1 else f"shown as {names[column]}")
        for row, column in places
        if wrong[row, column] and row < len(names) - 1
    ]
    return html.figure(picture, "Confusion matrix", caption) + html.listing(worst)


def _how(result: Mapping[str, Any]) -> str:
    left_out = [f"{fault['file']}: {fault['why']}" for fault in result["left_out"]]
    items = [
        f"Photos at {result['input_size']} px, {result['engine']} in {result['precision_of_numbers']}, weights "
        f"{str(result['sha256'])[:12]}…",
        "Recall, precision, false alarms and confusions are of what care detect shows: boxes from the shown threshold "
        "after suppression and the merging of a category's boxes.",
        "A shown box is true from IoU 0.5 with a labelled one of its name that no surer box has claimed.",
        "mAP is the mean over the classes that the part shows, of the network's boxes from confidence 0.001, "
        "interpolated at 101 recalls, by Ultralytics' code.",
    ]
    body = html.listing(items)
    if left_out:
        body += html.folded(f"{len(left_out)} photos or labels were left out", html.listing(left_out))
    return body


# -- examples


def _examples(catalog: Catalog | None, seen: Examination) -> Iterator[html.Section]:
    """A section for each kind of mistake that was made, its photos of every class in turn."""
    found = detection.mistakes(seen.looked)
    for kind, (name, heading, words) in KINDS.items():
        same = [mistake for mistake in found if mistake.kind == kind]
        if not same:
            continue
        chosen = detection.in_turn(same, lambda mistake: _classes(seen, mistake), EXAMPLES)
        shots = [shot for mistake in chosen if (shot := _shot(catalog, seen, mistake))]
        body = html.paragraph(f"{len(same):,} in all. {words} Green: labelled; orange, dashed: shown.")
        yield html.Section(name, heading, body + html.shots(shots))


def _classes(seen: Examination, mistake: Mistake) -> tuple[int, int]:
    one = seen.looked[mistake.photo]
    true = -1 if mistake.true is None else int(one.true.classes[mistake.true])
    shown = -1 if mistake.shown is None else int(one.shown.classes[mistake.shown])
    return true, shown


def _shot(catalog: Catalog | None, seen: Examination, mistake: Mistake) -> str | None:
    """A mistake on its photo; None where that can no longer be read."""
    one, photo = seen.looked[mistake.photo], seen.photos[mistake.photo]
    boxes = [
        DrawnBox(tuple(box), seen.names[label], True, row == mistake.true)
        for row, (box, label) in enumerate(zip(one.true.boxes.tolist(), one.true.classes.tolist(), strict=True))
    ]
    said = zip(one.shown.boxes.tolist(), one.shown.classes.tolist(), one.shown.confidence.tolist(), strict=True)
    boxes += [
        DrawnBox(tuple(box), f"{seen.names[label]} {confidence:.2f}", False, row == mistake.shown)
        for row, (box, label, confidence) in enumerate(said)
    ]
    size = photo.width, photo.height
    jpeg = labelled_photo(photo.file, size, boxes, _people(catalog, seen, mistake.photo))
    if jpeg is None:
        return None
    meant = " ".join(one.label for one in boxes if one.meant)
    return html.shot(
        jpeg, f"{mistake.kind}: {meant}", f"{photo.name} · {photo.location or 'place unknown'} · {photo.lighting}"
    )


def _people(catalog: Catalog | None, seen: Examination, number_of: int) -> list[Box]:
    """Boxes of persons on a photo, whoever says so: a label, the model, or the catalog."""
    one, people = seen.looked[number_of], []
    for boxes in (one.true, one.found):
        person = np.isin(boxes.classes, sorted(seen.people)) & (boxes.confidence >= PERSON)
        people += [tuple(box) for box in boxes.boxes[person].tolist()]
    image = catalog.find_image(seen.photos[number_of].sha256) if catalog else None
    return people + (catalog.people([image], PERSON).get(image, []) if image else [])
