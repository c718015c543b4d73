"""What `care evaluate` found, as the tables and sentences of its report, and as CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from typing import Any

from care_cli.evaluation import published
from care_cli.pages import report_html as html
from care_cli.pages.report_html import Cell
from care_cli.stages.evaluation_tables import split_words

MEANINGS = {
    "top1": ("first right", "share of queries whose first answer shows the right animal (top-1, rank-1)"),
    "cmc5": ("in first 5", "share of queries with the right animal among the first five answers (CMC@5)"),
    "cmc10": ("in first 10", "share of queries with the right animal among the first ten answers (CMC@10)"),
    "mAP": ("mAP", "how far to the front all crops of the right animal come, on average (mean average precision)"),
    "mINP": ("mINP", "how soon the last crop of the right animal comes (mean inverse negative penalty)"),
    "balanced": ("first right, each animal", "first right, every animal weighing the same, many photos or few"),
    "random": ("by chance", "first right when answers are drawn by chance"),
    "NGR": ("gain over chance", "first right, less chance, as a share of what chance leaves"),
}
OPEN = {
    "AUROC": (
        "known from new",
        "how often a known animal's crop scores higher than a new one's (AUROC; 50 % is chance)",
    ),
    "EER": ("equal error", "share of errors where new and known animals are mistaken equally often (EER)"),
    "TPR5": (
        "known found at 5 %",
        "known animals recognised when 5 % of the new ones are taken for known (TPR@FPR 5 %)",
    ),
    "BAKS": ("known, right", "known animals recognised by their right names, at the threshold (BAKS)"),
    "BAUS": ("new, called new", "new animals called new, at the threshold (BAUS)"),
    "root": ("both", "square root of the product of both"),
}
FILTERS = {
    "plain": "everything else answers, photos of the same visit too",
    "event": "without photos of the query's own visit",
    "day": "without photos of the query's own day",
    "flank": "only the same side of the animal",
    "camera": "without the animal's photos by the query's own camera",
}
KINDS = {
    "loo": "every crop asks all the others",
    "qg": "of each animal some crops ask and the others answer, drawn once",
    "list": "the crops that a list says ask those that it says answer",
}
COLUMNS = ("name", "method", "seeds", "variant", "queries")
ENDS = {"": "mean", "_half": "half", "_low": "low", "_high": "high"}


def variant_words(name: str) -> str:
    """A variant of the protocol in words."""
    return ", ".join(FILTERS.get(part, part) for part in name.split("+"))


def protocol_words(protocol: Mapping[str, Any]) -> str:
    """How was asked, in words."""
    filters = "+".join(protocol["filters"]) or "plain"
    return f"{KINDS.get(protocol['kind'], protocol['kind'])}; {variant_words(filters)}"


def percent(value: float | None, digits: int = 1) -> str:
    """A share as a percentage; a dash for none."""
    return "–" if value is None else f"{100 * value:.{digits}f}"


def interval(figure: Mapping[str, Any]) -> str:
    """How far a figure can be trusted, in short: over seeds where there are several, and over animals."""
    seeds = "" if figure.get("half") is None else f"± {percent(figure['half'])}"
    animals = "" if figure.get("low") is None else f"{percent(figure['low'])} to {percent(figure['high'])}"
    return "; ".join(filter(None, [seeds, animals]))


def _figure(figures: Mapping[str, Any] | None, name: str) -> Cell:
    figure = (figures or {}).get(name)
    if figure is None:
        return Cell("–")
    return Cell(percent(figure["mean"]), "" if name == "random" else interval(figure))  # chance is no estimate


def lead(result: Mapping[str, Any]) -> str:
    """The finding in one sentence or two."""
    rows = [row for row in result["rows"] if row["metrics"]]
    best = max(rows, key=lambda row: row["metrics"]["mAP"]["mean"])
    top = best["metrics"]["top1"]
    sure, chance = interval(top), percent(best["metrics"]["random"]["mean"], 0)
    words = (
        f"Asked who is on a crop, {best['name']} names the right animal first in {percent(top['mean'], 0)} of 100 cases"
        f"{f' (95 % interval: {sure})' if sure else ''}; guessing would in {chance}."
    )
    return words + ("" if len(rows) == 1 else f" It has the highest mAP of {len(rows)} models.")


def data_words(result: Mapping[str, Any]) -> str:
    """Of whom was asked."""
    data, split = result["data"], result["split"]
    of = ", ".join(f"{count:,} {name}" for name, count in data["species"].items())
    part = f" (part {split['part']} of {split_words(split)})" if split else " (all named crops: no split was named)"
    return f"{data['individuals']:,} individuals in {data['crops']:,} crops{part}: {of}"


def results(result: Mapping[str, Any]) -> str:
    """The table of all rows, and what its columns mean."""
    columns = {"model": "a row is a model, or several trained alike but for the seed"} | dict(MEANINGS.values())
    best = max(result["rows"], key=lambda row: row["metrics"]["mAP"]["mean"] if row["metrics"] else -1)
    lines = []
    for row in result["rows"]:
        seeds = len(row["models"])
        about = " · ".join(filter(None, [row["method"], f"{seeds} seeds" if seeds > 1 else ""]))
        cells = [Cell(row["name"], about, words=True), *(_figure(row["metrics"], name) for name in MEANINGS)]
        lines.append(("best" if row is best and len(result["rows"]) > 1 else "", cells))
    meanings = [f"{name}: {meaning}." for name, meaning in MEANINGS.values()]
    return (
        html.table(columns, lines)
        + html.paragraph("; ".join(["In per cent", *_intervals(result)]) + ".")
        + html.folded("What the columns mean", html.listing(meanings))
    )


def _intervals(result: Mapping[str, Any]) -> list[str]:
    seeds = {len(row["models"]) for row in result["rows"]}
    lines = ["ranges are 95 % intervals over the animals (bootstrap)"]
    if max(seeds) > 1:
        lines.append("± is a 95 % interval over models trained with different seeds (Student's t)")
    return lines + (["two seeds support no claim of what training makes of them"] if 2 in seeds else [])


def variants(result: Mapping[str, Any]) -> str:
    """The same under the protocol's other variants: what near-duplicates give away."""
    names = list(dict.fromkeys([result["rows"][0]["variant"], *result["rows"][0]["variants"]]))
    lines = []
    for name in names:
        for row in result["rows"]:
            part = row if name == row["variant"] else row["variants"][name]
            asked = f"{part['queries']:,}"
            unasked = f"{part['without_match']:,} more have nothing to find" if part["without_match"] else ""
            cells = [Cell(row["name"], words=True), Cell(variant_words(name), words=True), Cell(asked, unasked)]
            lines.append(
                ("", cells + [_figure(part["metrics"], metric) for metric in ("top1", "cmc5", "mAP", "random")])
            )
    columns = {"model": "", "compared with": "", "queries": "crops that asked and had something to find"}
    return html.table(columns | dict(MEANINGS[name] for name in ("top1", "cmc5", "mAP", "random")), lines)


def differences(result: Mapping[str, Any]) -> str:
    """By how much rows lie above the baseline, and whether that is more than chance."""
    lines, shown = [], ("top1", "mAP", "balanced")
    for one in result["differences"]:
        over = f"over {one['seeds']} seeds (±) and over the animals" if one["seeds"] else "over the animals"
        cells = [Cell(one["row"], f"against {one['baseline']}, paired {over}", words=True)]
        for name in shown:
            figure = one["metrics"][name]
            seeds = "" if figure["half"] is None else f"± {percent(figure['half'])}"
            ends = "" if figure["low"] is None else f"{_signed(figure['low'])} to {_signed(figure['high'])}"
            cells.append(Cell(_signed(figure["mean"]), "; ".join(filter(None, [seeds, ends]))))
        lines.append(("", [*cells, Cell(_verdict(one["metrics"]["top1"]), words=True)]))
    columns = {"model": ""} | dict(MEANINGS[name] for name in shown) | {"in words": "of the first right answer"}
    return html.table(columns, lines) + html.paragraph("Percentage points, with 95 % intervals of the difference.")


def _signed(value: float) -> str:
    return f"{100 * value:+.1f}"


def _verdict(figure: Mapping[str, Any]) -> str:
    """More than chance is what lies beyond the interval over animals, and over seeds where there are several."""
    if figure["low"] is None:
        return "too few animals for an interval: it can't be said"
    if len(figure["values"]) == 2:
        return "two seeds support no claim"
    half = figure["half"] or 0.0
    if min(figure["low"], figure["mean"] - half) > 0:
        return "names more animals right"
    if max(figure["high"], figure["mean"] + half) < 0:
        return "names fewer animals right"
    return "no difference that chance could not make"


def leaks(result: Mapping[str, Any]) -> str:
    """What the backgrounds alone give away, and what photos of the same visit do."""
    visits = any(row["leaks"]["own_event"] for row in result["rows"])
    lines, bordered = [], max(row["leaks"]["bordered"] for row in result["rows"])
    for row in result["rows"]:
        behind, own = row["leaks"]["background"][row["variant"]]["metrics"], row["leaks"]["own_event"]
        cells = [_figure(row["metrics"], "top1"), _figure(behind, "top1"), _figure(behind, "random")]
        cells += [_figure(own, key) for key in ("with", "without")] if visits else []
        lines.append(("", [Cell(row["name"], words=True), *cells]))
    columns = {
        "model": "",
        "whole crop": "first right, as in the first table",
        "background alone": "first right when the animal is blacked out",
        "by chance": MEANINGS["random"][1],
    }
    if visits:
        columns["with own visit"] = "first right when photos of the query's own visit answer too, as in a random split"
        columns["without"] = "the same queries without photos of their own visit"
    words = (
        "Animals are photographed where they live. Where the background alone names them well above chance, or photos "
        "of the same visit make the figures, a model may have learned places rather than animals."
    )
    note = f"{bordered:,} crops are all animal: of these the border alone was kept, and it may show the animal."
    random = "A random split of photos would print the figure with the own visit: it is leaky."
    notes = [*([note] if bordered else []), *([random] if visits else [])]
    return html.paragraph(words) + html.table(columns, lines) + html.listing(notes)


def open_set(result: Mapping[str, Any]) -> str:
    """Can new animals be told from known ones?"""
    rows = [row for row in result["rows"] if row["open_set"]]
    names = [name for name in OPEN if any(name in row["open_set"]["metrics"] for row in rows)]
    lines = [
        ("", [Cell(row["name"], words=True), *(_figure(row["open_set"]["metrics"], name) for name in names)])
        for row in rows
    ]
    about = rows[0]["open_set"]
    words = (
        f"{percent(about['share'], 0)} % of the individuals, drawn {about['draws']} times, are taken for new: their "
        "crops ask and none of them answers. "
    )
    source = about["threshold_from"]
    words += f"The threshold was chosen on {source}." if source else f"{about['no_threshold'].capitalize()}."
    return html.paragraph(words) + html.table({"model": ""} | dict(OPEN[name] for name in names), lines)


def beside_papers(result: Mapping[str, Any], dataset: str) -> str:
    """Published figures of the data set beside ours, what differs, and what is missing to reproduce them."""
    data = result["data"]
    lines = [
        ("", [Cell(row["name"], "here", words=True), _figure(row["metrics"], "mAP"), _figure(row["metrics"], "top1"),
              Cell(protocol_words(result["protocol"]), words=True)])
        for row in result["rows"]
    ]  # fmt: skip
    papers = published.beside(dataset)
    for paper in papers:
        named = ", ".join(filter(None, [paper.get("method"), paper["setting"]]))
        cells = [Cell(named, paper["title"] + paper["where"], words=True)]
        cells += [_printed(paper[name]) for name in published.METRICS]
        lines.append(("paper", [*cells, Cell(paper["protocol"], words=True)]))
    columns = {"model": "", "mAP": MEANINGS["mAP"][1], "first right": MEANINGS["top1"][1], "how": ""}
    differs = published.differences(dataset, data["individuals"], data["crops"])
    parts = [
        html.paragraph(
            f"The photos are those of {dataset}, or a part of them; papers print these figures for it, in per cent."
        ),
        html.table(columns, lines),
        html.heading("What differs from the papers") + html.listing(differs) if differs else "",
        html.heading("What is missing to reproduce their rows"),
    ]
    needs = {paper["title"]: paper["needs"] for paper in papers}
    return "".join(parts) + html.listing([f"{title}: {'; '.join(missing)}." for title, missing in needs.items()])


def _printed(figure: Mapping[str, float | None] | None) -> Cell:
    if figure is None:
        return Cell("–")
    return Cell(f"{figure['value']:.1f}", "" if figure["half"] is None else f"± {figure['half']:.1f}")


def calibrations(rows: Sequence[Mapping[str, Any]]) -> str:
    """Calibrations: what their thresholds are and on how much they rest."""
    lines = [
        ("", [Cell(row["model"], row["species"] or "all species", words=True), Cell(percent(row["ece"])),
              Cell(f"{row['known']:.3f}"), Cell(f"{row['new']:.3f}"), Cell(f"{row['pairs']:,}"),
              Cell(f"{row['individuals']:,}")])
        for row in rows
    ]  # fmt: skip
    columns = {
        "model": "", "error": "mean distance between probabilities said and come true, per cent (ECE)",
        "known from": "similarity from which an animal is called known",
        "new below": "similarity below which it is new",
        "pairs": "that it was learned from", "individuals": "",
    }  # fmt: skip
    return html.table(columns, lines)


def how(result: Mapping[str, Any]) -> str:
    """Everything that is needed to do it again."""
    data, split = result["data"], result["split"]
    items = [
        f"Protocol: {protocol_words(result['protocol'])} ({_values(result['protocol'])}).",
        f"Data: {data_words(result)}; {data['queries']:,} queries, {data['without_match']:,} with nothing to find.",
    ]
    if split:
        items.append(f"Split: {_values(split)}.")
    if result["closed_set"]:
        items.append("Closed set: the models have learned from other crops of these very animals.")
    items += [f"Intervals over {name}: {words}." for name, words in result["intervals"].items()]
    for row in result["rows"]:
        for model in row["models"]:
            said = {key: value for key, value in model.items() if key != "name" and isinstance(value, str | int)}
            items.append(f"Model {model['name']}: {_values(said)}.")
    return html.listing(items)


def _values(table: Mapping[str, Any]) -> str:
    said = {key: f"{len(value)} crops" if key in ("queries", "gallery") else value for key, value in table.items()}
    return ", ".join(f"{key} {value}" for key, value in said.items() if not isinstance(value, dict))


def table_csv(result: Mapping[str, Any]) -> str:
    """A line for each row and variant of the protocol: shares 0..1, and their intervals as `_half`, `_low`, `_high`."""
    stream = io.StringIO()
    names = [f"{metric}{end}" for metric in MEANINGS for end in ENDS]
    writer = csv.DictWriter(stream, [*COLUMNS, *names], lineterminator="\n")
    writer.writeheader()
    for row in result["rows"]:
        for variant, part in {row["variant"]: row, **row["variants"]}.items():
            line = {"name": row["name"], "method": row["method"], "seeds": len(row["models"]), "variant": variant}
            line["queries"] = part["queries"]
            for metric, figure in (part["metrics"] or {}).items():
                line |= {f"{metric}{end}": figure.get(key) for end, key in ENDS.items()}
            writer.writerow(line)
    return stream.getvalue()
