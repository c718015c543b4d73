"""`care evaluate table --report FOLDER`: the table as a page, its figure, and a report of each data set's models."""

from __future__ import annotations

import csv
import functools
import io
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from care_cli import __version__
from care_cli.evaluation import ablation_figure
from care_cli.evaluation.paper_tables import TABLES
from care_cli.pages import report_html as html
from care_cli.pages.report_html import Cell
from care_cli.scan import display_path
from care_cli.stages import benchmark, cell_words, evaluate_reid, report, table, trained
from care_cli.stages.table import TableConfig

if TYPE_CHECKING:
    from care_cli.catalog import Catalog

FIGURE = "table.png"
NAMES = {"mAP": "mAP", "top1": "R1"}


def check(cfg: TableConfig, folder: Path) -> None:
    """CareError when no report can be written to `folder`; asked before long work begins, too."""
    report.check_folder(folder, [display_path(os.fsencode(cfg.data.absolute().as_posix()))])


def write(
    cfg: TableConfig, found: Mapping[str, Any], folder: Path, notice: Callable[[str], None] = lambda text: None
) -> list[Path]:
    """Write the page of what `table.run` found; returns its files, the page first.

    Beside it a report for each data set of which something was measured, of every cell's first model. Raises CareError
    when the folder can't be written.
    """
    check(cfg, folder)
    measured = [group for group in found["datasets"] if any(row["metrics"] for row in group["rows"])]
    panels = {group["dataset"]: group["rows"] for group in measured}
    figure = ablation_figure.drawn(panels, found["shown"], found["about"]) if panels else b""
    title = f"{found['title']}, {_called(found)}: {found['about']}"
    report.written(folder, {report.PAGE: html.page(title, "", [], "")})  # the folder is a report's from now on
    details = {f"{group['dataset']}, model by model": _detailed(cfg, group, folder, notice) for group in measured}
    sections = [
        html.Section("Table", "The paper's figures and ours", _table(found)),
        *([html.Section("Figure", "The same drawn", _drawn(figure))] if figure else []),
        *([html.Section("Data sets", "Each data set's own report", html.links(details))] if details else []),
        html.Section("Missing", "What is missing, and where to get it", html.listing(table.lacks(found)) or "Nothing."),
        html.Section("How", "How this was measured", html.listing(table.remarks(found))),
    ]
    foot = f"Made by CARE {__version__}."
    files: dict[str, str | bytes] = {report.PAGE: html.page(title, found["protocol"], sections, foot)}
    files |= {report.RESULT: json.dumps(found, indent=1) + "\n", report.TABLE: _csv(table.table_rows(found))}
    return report.written(folder, files | ({FIGURE: figure} if figure else {}))


def _called(found: Mapping[str, Any]) -> str:
    return f"table {found['table']}" if found["table"].isdecimal() else found["table"]


def _table(found: Mapping[str, Any]) -> str:
    """Data sets as rows and cells as columns, as the papers print them; below each what the paper has."""
    heads = {f"{row['size']} {row['variant']}": row for row in found["datasets"][0]["rows"]}
    one_size = len({row["size"] for row in heads.values()}) == 1
    metrics = " / ".join(NAMES[name] for name in found["shown"])
    lines = []
    for group in found["datasets"]:
        cells = [Cell(group["dataset"], group["animal"], words=True)]
        cells += [Cell(_figures(row, found["shown"]), _printed(row, found["shown"])) for row in group["rows"]]
        lines.append(("" if any(row["metrics"] for row in group["rows"]) else "paper", cells))
    columns = {"data set": ""} | {
        (row["variant"] if one_size else name): f"{metrics}, per cent" for name, row in heads.items()
    }
    words = f"{metrics}, per cent; {cell_words.spread(len(found['seeds']))}; below, what is printed."
    return html.table(columns, lines) + html.paragraph(words)


def _figures(row: Mapping[str, Any], shown: Sequence[str]) -> str:
    if not row["metrics"]:
        return "–"
    said = []
    for name in shown:
        figure = row["metrics"][name]
        half = "" if figure["half"] is None else f" ± {100 * figure['half']:.1f}"
        said.append(f"{100 * figure['mean']:.1f}{half}")
    return " / ".join(said)


def _printed(row: Mapping[str, Any], shown: Sequence[str]) -> str:
    if not row["published"]:
        return ""
    return "paper " + " / ".join(map(functools.partial(_with_half, row["published"]), shown))


def _with_half(published: Mapping[str, float], name: str) -> str:
    half = f" ± {100 * published[f'{name}_half']:.1f}" if f"{name}_half" in published else ""
    return f"{100 * published[name]:.1f}{half}" if name in published else "–"


def _drawn(figure: bytes) -> str:
    return html.figure(figure, "Figures of the table", "Filled: measured here, with 95 % t-intervals; hollow: printed.")


def _detailed(cfg: TableConfig, group: Mapping[str, Any], folder: Path, notice: Callable[[str], None]) -> str:
    """The report of a data set's models, the first of each cell; returns its page, from the folder."""
    from care_cli.catalog import Catalog

    name, place = group["dataset"], folder / group["dataset"]
    with Catalog(cfg.out / f"{name}.db", notice=notice) as catalog:
        found = _examined(catalog, cfg, name, [row for row in group["rows"] if row["models"]])
        found["pictured"] = list(TABLES[cfg.paper, cfg.table].pictured)
        report.write(catalog, found, place)
    return f"{name}/{report.PAGE}"


def _examined(catalog: Catalog, cfg: TableConfig, name: str, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What the first models of cells answer, called as the cells are; the first cell is the baseline."""
    stands = benchmark.standing(catalog, name, cfg.paper)
    asked = replace(
        cfg.recipe.examine,
        models=tuple(trained.find(catalog, row["models"][0]) for row in rows),
        protocol=stands.protocol,
        split=stands.split.name,
        part="test",
        device=cfg.recipe.request.device,
    )
    found = evaluate_reid.run(catalog, asked)
    sizes = len({row["size"] for row in rows}) > 1
    names = [f"{row['size']} {row['variant']}" if sizes else row["variant"] for row in rows]
    told = {one["name"]: words for one, words in zip(found["rows"], names, strict=True)}
    for one in found["rows"]:
        one["name"] = told[one["name"]]
    for one in found["differences"]:
        one |= {"row": told[one["row"]], "baseline": told[one["baseline"]]}
    return found


def _csv(rows: Sequence[Mapping[str, Any]]) -> str:
    stream = io.StringIO()
    writer = csv.DictWriter(stream, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return stream.getvalue()
