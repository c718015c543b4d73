"""`care evaluate table`: what a table of the papers needs, on the data sets that are there."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from care_cli.errors import CareError
from care_cli.evaluation.ablations import Cell
from care_cli.evaluation.paper_tables import METHODS, PAPERS, TABLES, Table, schedules
from care_cli.evaluation.published import published
from care_cli.exchange import layouts
from care_cli.stages import ablation, benchmark, cell_words, cells
from care_cli.stages.benchmark import Copy
from care_cli.stages.cells import Planned, Recipe
from care_cli.stages.evaluation_rows import EVENT
from care_cli.stages.evaluation_tables import TWO_SEEDS

if TYPE_CHECKING:
    from care_cli.catalog import Catalog

Notice = Callable[[str], None]


@dataclass(frozen=True)
class TableConfig:
    """What `care evaluate table` was asked to do."""

    paper: str  # of PAPERS
    table: str  # its number, or METHODS
    data: Path  # folder of the data sets
    out: Path  # folder of their catalogs and models
    sizes: tuple[str, ...] = ()  # of the backbone; none: the paper's
    datasets: tuple[str, ...] = ()  # only these; none: all of the table
    seeds: int | None = None  # models of a cell; None: as the paper has
    recipe: Recipe = field(default_factory=lambda: Recipe(as_paper=True))


@dataclass(frozen=True)
class Work:
    """A table as it is to be done here."""

    table: Table
    cells: list[Cell]
    recipe: Recipe
    datasets: tuple[str, ...]
    copies: dict[str, Copy]  # that are here, by data set


def work(cfg: TableConfig) -> Work:
    """What is to be done on which data sets. CareError for a table, a data set or an option that is none."""
    if (cfg.paper, cfg.table) not in TABLES:
        numbers = {paper: ", ".join(number for one, number in TABLES if one == paper) for paper in PAPERS}
        known = "; ".join(f"{paper}: {some}" for paper, some in numbers.items())
        raise CareError(f"There is no table {cfg.table!r} of the paper {cfg.paper!r} to be done; there are {known}.")
    table = TABLES[cfg.paper, cfg.table]
    if strange := [name for name in cfg.datasets if name not in table.datasets]:
        raise CareError(f"{strange[0]!r} is no data set of this table; those are {', '.join(table.datasets)}.")
    if cfg.sizes and cfg.table == METHODS:
        raise CareError(
            f"--backbone {','.join(cfg.sizes)} is for all rows, but those of the table {METHODS} are CLIPs and plain "
            "transformers, and none fits both. Leave it out; other weights are named by method: --begin care=FILE."
        )
    every = [cell for size in cfg.sizes or table.sizes for cell in table.cells(size)]
    recipe = replace(cfg.recipe, seeds=tuple(range(cfg.seeds or table.seeds)))
    ablation.check(recipe, every)
    names = cfg.datasets or table.datasets
    return Work(table, every, recipe, names, benchmark.find(cfg.data, names))


# -- listing and doing


def listing(cfg: TableConfig, notice: Notice = lambda text: None) -> dict:
    """The table with what was measured before and what each cell lacks; nothing is written."""
    todo = work(cfg)
    groups = []
    for name in todo.datasets:
        if name not in todo.copies:
            groups.append(_absent(cfg, todo, name, notice))
            continue
        with _looked_into(cfg.out / f"{name}.db", notice) as catalog:
            recipe = _recipe(todo, name)
            if stands := benchmark.standing(catalog, name, cfg.paper):
                recipe = _divided(recipe, stands)
            planned = cells.plan(catalog, todo.cells, recipe)
            rows = [cells.row(one, recipe, cells.done_before(catalog, recipe, one)) for one in planned]
        groups.append(_group(name, rows, todo.copies[name].notes, todo.copies[name]))
    return _summary(cfg, todo, groups)


def run(cfg: TableConfig, notice: Notice = lambda text: None) -> dict:
    """Import, divide, train and examine what is not done yet, data set by data set; returns the table.

    Killed anywhere, the same goes on. What lacks something or fails is told and passed over.
    """
    todo = work(cfg)
    groups = []
    for name in todo.datasets:
        copy = todo.copies.get(name)
        if copy is None:
            groups.append(_absent(cfg, todo, name, notice))
            continue
        try:
            groups.append(_done(cfg, todo, copy, notice))
        except CareError as error:
            failed = [_bare(cell, todo, name) | {"failure": str(error)} for cell in todo.cells]
            groups.append(_group(name, failed, copy.notes, copy))
    return _summary(cfg, todo, groups)


def _done(cfg: TableConfig, todo: Work, copy: Copy, notice: Notice) -> dict:
    """One data set's rows."""
    from care_cli.catalog import Catalog

    path = cfg.out / f"{copy.name}.db"
    try:
        cfg.out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CareError(f"{cfg.out} cannot be made: {error.strerror}. Name another with --out.") from error
    with Catalog(path, create=True, notice=notice) as catalog:
        divided = benchmark.prepare(catalog, copy, cfg.paper)
        recipe = _divided(_recipe(todo, copy.name), divided)
        rows = cells.run(catalog, cells.plan(catalog, todo.cells, recipe), recipe, copy.name)
    return _group(copy.name, rows, divided.notes, copy)


def _divided(recipe: Recipe, divided: benchmark.Divided) -> Recipe:
    return replace(
        recipe,
        request=replace(recipe.request, split=divided.split),
        examine=replace(recipe.examine, protocol=divided.protocol),
    )


def _recipe(todo: Work, name: str) -> Recipe:
    """How the cells of a data set are done: as the paper schedules them where the user does not say otherwise."""
    return replace(todo.recipe, dataset=name, presets=schedules(name))


@contextmanager
def _looked_into(path: Path, notice: Notice) -> Iterator[Catalog]:
    """The catalog of a data set; where there is none yet an empty one that goes again."""
    from care_cli.catalog import Catalog

    with ExitStack() as stack:
        if not path.is_file():
            path = Path(stack.enter_context(tempfile.TemporaryDirectory())) / path.name
        yield stack.enter_context(Catalog(path, create=True, notice=notice))


# -- the table


def _bare(cell: Cell, todo: Work, name: str) -> dict:
    """A cell of which nothing is known but what the paper prints."""
    return cells.row(Planned(cell, todo.recipe.request), replace(todo.recipe, dataset=name), {})


def _absent(cfg: TableConfig, todo: Work, name: str, notice: Notice) -> dict:
    """A data set that is not here, with what its cells lack beside it."""
    with _looked_into(cfg.out / f"{name}.db", notice) as catalog:
        recipe = _recipe(todo, name)
        rows = [cells.row(one, recipe, {}) for one in cells.plan(catalog, todo.cells, recipe)]
    return _group(name, rows, (), None)


def _group(name: str, rows: list[dict], notes: tuple[str, ...], copy: Copy | None) -> dict:
    """A data set's rows, its notes, and where it is to be had."""
    about = layouts.known()[name]
    return {
        "dataset": name,
        "animal": published()["datasets"][name]["animal"],
        "folder": str(copy.root) if copy else None,
        "where": about["where"],
        "licence": about["licence"],
        "notes": list(notes),
        "rows": rows,
    }


def _summary(cfg: TableConfig, todo: Work, groups: list[dict]) -> dict:
    about = published()["papers"][cfg.paper]
    return {
        "paper": cfg.paper,
        "title": about["title"],
        "table": cfg.table,
        "about": todo.table.about,
        "protocol": about["protocol"],
        "data": str(cfg.data),
        "out": str(cfg.out),
        "seeds": list(todo.recipe.seeds),
        "settings": dict(todo.recipe.request.settings),
        "carry": cells.carry(todo.recipe),
        "begin": dict(todo.recipe.begin),
        "shown": ["top1"] if cfg.paper == "ckpe" else ["mAP", "top1"],
        "datasets": groups,
    }


def table_rows(found: Mapping[str, Any]) -> list[dict]:
    """The table with a line for each cell of each data set."""
    return [
        {"dataset": group["dataset"]} | cell_words.line(row, found["shown"])
        for group in found["datasets"]
        for row in group["rows"]
    ]


def columns(found: Mapping[str, Any]) -> list[str]:
    """Of those lines, what a person looks at."""
    rows = [row for group in found["datasets"] for row in group["rows"]]
    apart = ["_apart"] if any(row["variants"].get(EVENT) for row in rows) else []
    measured = [f"{name}{end}" for name in found["shown"] for end in ("", "_half", *apart)]
    return ["dataset", "size", "variant", "seeds", *measured, *cell_words.published_columns(rows, found["shown"])]


def lacks(found: Mapping[str, Any]) -> list[str]:
    """What is missing, and where it is to be had; a reason that several data sets share is told once."""
    lines = [
        f"Not here: {group['dataset']} ({group['animal']}), licence {group['licence']}: {group['where']}"
        for group in found["datasets"]
        if group["folder"] is None
    ]
    of: dict[str, list[str]] = {}
    for group in found["datasets"]:
        for line in cell_words.lacks(group["rows"]):
            of.setdefault(line, []).append(group["dataset"])
    every = len(found["datasets"])
    return lines + [line if len(names) == every else f"{', '.join(names)}. {line}" for line, names in of.items()]


def remarks(found: Mapping[str, Any]) -> list[str]:
    """What a reader of the table should know: how each data set was divided, and what differs from the paper."""
    lines = [
        f"{found['about'][0].upper()}{found['about'][1:]}, per cent; {cell_words.spread(len(found['seeds']))}. "
        f"paper: what is published ({found['protocol']})."
    ]
    here = [group for group in found["datasets"] if group["folder"]]
    rows = [row for group in found["datasets"] for row in group["rows"]]
    lines += cell_words.departures(found, rows, TABLES[found["paper"], found["table"]].sizes)
    for group in found["datasets"]:
        lines += [f"{group['dataset']}: {note}." for note in group["notes"]]
    for group in here:
        lines += [f"{group['dataset']}: {words}." for words in [cell_words.unlike(group["rows"])] if words]
    if any(row["variants"].get(EVENT) for row in rows):
        lines.append("apart: without photos of the query's own visit or day, which are nearly the same photo.")
    if len(found["seeds"]) == 2:
        lines.append(TWO_SEEDS)
    if any(row["source"] for row in rows):
        lines.append(
            f"Points are carried from templates of each data set's own catalog: `care --catalog {found['out']}/NAME.db "
            "templates add ...`."
        )
    return lines


def nothing_done(found: Mapping[str, Any]) -> bool:
    """Has no cell any figure?"""
    return not any(row["metrics"] for group in found["datasets"] for row in group["rows"])
