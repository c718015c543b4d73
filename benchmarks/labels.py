"""A public collection's labels and a detector's results of it: imported in bounded memory, counts exact.

The files are made here, of the size and form of nz-trailcams on LILA (2,453,840 images, 97 labels, 3,127 locations),
with faults among them. What should come of them is counted while they are written, apart from the code that reads them.
"""

from __future__ import annotations

import contextlib
import json
import random
import sqlite3
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.bench import Bench
from benchmarks.processes import Done
from benchmarks.report import Row
from care_cli.recipes import load

IMAGES = 2_453_840  # of nz-trailcams
FEW = 100_000  # without --million
LOCATIONS = 3_127
MEMORY = 2_048.0  # MiB that an import may take
MICE = 0.49  # share of the commonest label
EVERY = {"orphan": 5_003, "again": 7_001, "box": 997, "failure": 9_001}  # one fault, or annotated box, in so many
RECIPE = "nz-trailcams-15"


@dataclass
class Expected:
    """What should come of the files."""

    images: int = 0
    labels: Counter[str] = field(default_factory=Counter)
    given: Counter[str] = field(default_factory=Counter)  # boxes that people drew, by category
    found: Counter[str] = field(default_factory=Counter)  # a detector's, by category
    looked: int = 0
    dropped: Counter[str] = field(default_factory=Counter)


def parts(bench: Bench) -> Iterator[Callable[[], Iterable[Row]]]:
    """The measurements of this family."""
    yield lambda: imports(bench, IMAGES if bench.million else FEW)


def imports(bench: Bench, count: int) -> Iterator[Row]:
    """Both files into one catalog, then a recipe's choice among all photos, each a process of its own."""
    folder = bench.folder("labels")
    expected = write_files(folder, count)
    catalog = folder / "care.db"
    told = bench.care(catalog, "import", "labels", folder / "labels.json")
    found = bench.care(catalog, "import", "labels", folder / "results.json")
    compare(catalog, expected, told, found)
    sizes = {name: (folder / name).stat().st_size / 1e6 for name in ("labels.json", "results.json", "care.db")}
    for done, file, what in ((told, "labels.json", "COCO Camera Traps"), (found, "results.json", "MegaDetector")):
        yield Row(
            f"`care import labels`, {what} JSON of {count:,} images: largest memory",
            done.peak_mb,
            "MiB",
            target=MEMORY,
            note=f"{times(done)} for {sizes[file]:,.0f} MB, {count / done.seconds:,.0f} images a second, files not at "
            f"hand; labels, boxes and faults counted exactly; catalog of {sizes['care.db']:,.0f} MB after both",
        )
    chosen = bench.care(catalog, "export", "yolo", folder / "set", "--recipe", RECIPE)
    answer = chosen.json
    judged = answer["missing"] + sum(row["count"] for row in answer["left_out"])
    assert (answer["photos"], judged) == (0, expected.images), answer
    yield Row(
        f"`care export yolo --recipe {RECIPE}` among {count:,} images: largest memory",
        chosen.peak_mb,
        "MiB",
        note=f"{times(chosen)} to judge all and choose {answer['missing']:,} photos; their originals, which are "
        "not here, are listed",
    )


def times(done: Done) -> str:
    """How long a process took, and how long it computed: other work on the machine makes the first one longer."""
    return f"{done.seconds:.0f} s" + (f" ({done.cpu:.0f} s of processor)" if done.cpu else "")


def compare(catalog: Path, expected: Expected, told: Done, found: Done) -> None:
    """AssertionError unless the catalog holds what was counted while the files were written."""
    with contextlib.closing(sqlite3.connect(catalog)) as db:

        def table(query: str) -> dict:
            return dict(db.execute(query).fetchall())

        [[images]] = db.execute("SELECT count(*) FROM images")
        assert images == expected.images, (images, expected.images)
        assert table("SELECT label, count(*) FROM image_labels GROUP BY 1") == dict(expected.labels)
        boxes = (
            "SELECT model_category, count(*) FROM crops JOIN runs ON runs.id = run_id WHERE command = '{}' GROUP BY 1"
        )
        assert table(boxes.format("import-labels")) == dict(expected.given)
        assert table(boxes.format("detect")) == dict(expected.found)
        [[looked]] = db.execute(
            "SELECT count(*) FROM run_images JOIN runs ON runs.id = run_id WHERE command = 'detect'"
        )
        assert looked == expected.looked, (looked, expected.looked)
    dropped = Counter()
    for done in (told, found):
        dropped.update({row["reason"]: row["count"] for row in done.json["dropped"]})
    assert dropped == expected.dropped, (dropped, expected.dropped)


# -- the files


def write_files(folder: Path, count: int, seed: int = 0) -> Expected:
    """labels.json and results.json of `count` images, and what should come of them."""
    recipe, chance, expected = load(RECIPE), random.Random(seed), Expected()
    labels = [label for listed in recipe.classes.values() for label in listed] + list(recipe.dropped)
    labels.sort(key=lambda label: label != "mouse")  # the commonest first
    chosen = [_label(chance, len(labels)) for _ in range(count)]
    with (folder / "labels.json").open("w", encoding="utf-8") as file:
        categories = [{"id": number, "name": label} for number, label in enumerate(labels)]
        file.write(f'{{"info": {{"version": "1"}}, "categories": {json.dumps(categories)}, "annotations": [')
        _write(file, (text for n in range(count) for text in _annotations(n, chosen[n], labels, expected)))
        file.write('], "images": [')
        _write(file, (text for n in range(count) for text in _images(n, count, labels[chosen[n]], expected)))
        file.write("]}")
    with (folder / "results.json").open("w", encoding="utf-8") as file:
        file.write('{"info": {"format_version": "1.2"}, "images": [')
        _write(file, (_result(n, count, chance, expected) for n in range(count)))
        file.write('], "detection_categories": {"1": "animal", "2": "person", "3": "vehicle"}}')
    return expected


def _write(file, texts: Iterable[str]) -> None:
    for number, text in enumerate(texts):
        file.write(f", {text}" if number else text)


def _label(chance: random.Random, labels: int) -> int:
    return 0 if chance.random() < MICE else chance.randrange(1, labels)


def _camera(number: int, count: int) -> str:
    return f"camera_{number * LOCATIONS // count:04}"  # one after the other, as folders are walked


def _name(number: int, count: int) -> str:
    return f"project/{_camera(number, count)}/{number:08}.JPG"


def _annotations(number: int, label: int, labels: list[str], expected: Expected) -> Iterator[str]:
    box = ""
    if number % EVERY["box"] == 0:
        box = ', "bbox": [10, 20, 30, 40]'
        expected.given["person" if labels[label] == "human" else "animal"] += 1
    else:
        expected.labels[labels[label]] += 1
    yield f'{{"id": "a{number}", "image_id": "{number:032x}", "category_id": {label}{box}}}'
    if number % EVERY["orphan"] == 1:
        expected.dropped["its image_id leads to no image"] += 1
        yield f'{{"id": "o{number}", "image_id": "nobody{number}", "category_id": {label}}}'


def _images(number: int, count: int, label: str, expected: Expected) -> Iterator[str]:
    expected.images += 1
    burst, step = divmod(number, 5)
    day, hour = divmod(burst, 20)  # five photos, ten seconds apart, every hour
    day %= 2_800
    taken = f"20{10 + day // 336:02}-{1 + day // 28 % 12:02}-{1 + day % 28:02} {hour:02}:00:{10 * step:02}"
    text = (
        f'{{"id": "{number:032x}", "file_name": "{_name(number, count)}", '
        f'"location": "{_camera(number, count)}", '
        f'"datetime": "{taken}", "project": "project", "species": "{label}", "width": 2048, "height": 1536}}'
    )
    yield text
    if number % EVERY["again"] == 2:
        expected.dropped["its id was given before; the first one counts"] += 1
        yield text


def _result(number: int, count: int, chance: random.Random, expected: Expected) -> str:
    name = _name(number, count)
    if number % EVERY["failure"] == 3:
        expected.dropped["its detector could not read it"] += 1
        return f'{{"file": "{name}", "failure": "image access failure", "max_detection_conf": 0}}'
    expected.looked += 1
    boxes = []
    for place in range(chance.choice((0, 1, 1, 1, 2))):
        confidence = round(chance.random() ** 0.3, 3)
        category = "2" if chance.random() < 0.01 else "1"
        left = 0.05 + 0.5 * place  # apart, so that all are kept
        boxes.append(f'{{"category": "{category}", "conf": {confidence}, "bbox": [{left}, 0.2, 0.3, 0.4]}}')
        if confidence < 0.05:
            expected.dropped["it is less confident than 0.05"] += 1
        else:
            expected.found["person" if category == "2" else "animal"] += 1
    return f'{{"file": "{name}", "max_detection_conf": 0.5, "detections": [{", ".join(boxes)}]}}'
