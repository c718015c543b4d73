"""What `care evaluate` found, as rows of a table and in words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from care_cli.evaluation.metrics import METRICS
from care_cli.stages import viewpoints
from care_cli.stages.evaluation_rows import EVENT, PLAIN

HEADINGS = {
    "top1": "top-1 %",
    "cmc5": "CMC@5",
    "cmc10": "CMC@10",
    "mAP": "mAP %",
    "mINP": "mINP",
    "balanced": "balanced",
    "random": "chance %",
    "NGR": "NGR",
}
WITH_INTERVAL = ("top1", "mAP")
LEAKY = (
    "The split is random, crop by crop: photos of one moment lie in both parts, so these figures are leaky and flatter."
)
TWO_SEEDS = "Two seeds support no claim of what training makes of them: train at least three (--seeds 3)."
TOLD = {
    PLAIN: "nothing left out",
    EVENT: "own event",
    "day": "own day",
    "flank": "other flanks",
    "camera": "own animal at own deployment",
}


def summary_rows(found: dict) -> list[dict]:
    """A row for each row and variant of the protocol, all figures as shares of 1.

    `_half` is over seeds of training, `_low` and `_high` over animals.
    """
    return [
        {
            "model": row["name"],
            "method": row["method"],
            "seeds": len(row["models"]),
            "variant": variant,
            "queries": told["queries"],
            "without_match": told["without_match"],
            **{
                f"{name}{suffix}": (told["metrics"] or {}).get(name, {}).get(key)
                for name in METRICS
                for suffix, key in (("", "mean"), ("_half", "half"), ("_low", "low"), ("_high", "high"))
            },
        }
        for row in found["rows"]
        for variant, told in {row["variant"]: row, **row["variants"]}.items()
    ]


def table_rows(found: dict) -> list[dict]:
    """As a person reads it: percent, a row for each model and variant of the protocol."""
    return [
        {
            "model": row["name"],
            **({"seeds": len(row["models"])} if any(len(one["models"]) > 1 for one in found["rows"]) else {}),
            "left out": left_out(variant),
            "queries": told["queries"],
            **{
                heading: _mean((told["metrics"] or {}).get(name))
                if name == "random"
                else percent((told["metrics"] or {}).get(name), interval=name in WITH_INTERVAL)
                for name, heading in HEADINGS.items()
            },
        }
        for row in found["rows"]
        for variant, told in {row["variant"]: row, **row["variants"]}.items()
    ]


def left_out(variant: str) -> str:
    """What a variant of the protocol leaves out, in words."""
    return ", ".join(TOLD[name] for name in variant.split("+")) if variant != PLAIN else "-"


def percent(figure: dict[str, Any] | None, interval: bool = True) -> str:
    """A figure in percent: ± over seeds where there are several, in brackets the ends of its interval over animals."""
    if figure is None or figure["mean"] is None:
        return "-"
    text = f"{100 * figure['mean']:.1f}"
    if figure.get("half") is not None:
        text = f"{text} ± {100 * figure['half']:.1f}"
    if interval and figure.get("low") is not None:
        return f"{text} [{100 * figure['low']:.1f}, {100 * figure['high']:.1f}]"
    return text


def _mean(figure: dict[str, Any] | None) -> str:
    return percent(figure and {"mean": figure["mean"]})


def remarks(found: dict) -> list[str]:
    """What the table does not say: who was asked, differences, new animals, leaks, what was left out."""
    lines = [_asked(found)]
    if is_leaky(found["split"]):
        lines.append(LEAKY)
    if any(len(row["models"]) > 1 for row in found["rows"]):
        lines.append("± is over seeds of training, brackets are over animals; 95 % each.")
    if any(len(row["models"]) == 2 for row in found["rows"]):
        lines.append(TWO_SEEDS)
    for one in found["differences"]:
        lines += [_difference(one)]
    for row in found["rows"]:
        lines += _told(row) + _open_set(row) + _leaks(row)
    data = found["data"]
    if data["without_match"]:
        lines.append(f"{data['without_match']} queries have nothing to find and are left out.")
    if data["left_out"]:
        lines.append(f"Left out: {data['left_out']} crops without sound pixels; `care doctor` says what to do.")
    if data["without_event"]:
        lines.append(
            f"{data['without_event']} crops have no time, so that neighbours of their burst stay in the gallery."
        )
    return lines


def _asked(found: dict) -> str:
    data, protocol, split = found["data"], found["protocol"], found["split"]
    how = {
        "loo": "each asks all others",
        "qg": f"{100 * protocol.get('query_share', 0):.0f} % of an animal's crops ask the rest",
        "list": f"of a list {len(protocol.get('queries', ()))} ask {len(protocol.get('gallery', ()))}",
    }[protocol["kind"]]
    where = f"part {split['part']} of {split_words(split)}" if split else "all named crops, for no split was named"
    known = " The models know these animals (closed set)." if found["closed_set"] else ""
    whom = f"{data['crops']} crops of {data['individuals']} individuals in {data['events']} events"
    return f"{whom} ({where}); {how}.{known}"


def split_words(split: Mapping[str, Any]) -> str:
    """A split by its name and the rule that it was made by, where one is known."""
    return f"the split {split['name']}" + (f" (by {split['by']})" if split.get("by") else "")


def is_leaky(split: Mapping[str, Any] | None) -> bool:
    """Was the split made crop by crop?"""
    return bool(split) and split.get("by") == "random"


def _difference(one: dict) -> str:
    said = [
        f"{HEADINGS[name].removesuffix(' %')} {100 * figure['mean']:+.1f}"
        + ("" if figure["half"] is None else f" ± {100 * figure['half']:.1f}")
        + ("" if figure["low"] is None else f" [{100 * figure['low']:+.1f}, {100 * figure['high']:+.1f}]")
        for name, figure in one["metrics"].items()
        if name in ("top1", "mAP", "balanced") and figure["mean"] is not None
    ]
    over = f"{one['seeds']} seeds (±) and over individuals" if one["seeds"] else "individuals"
    return f"{one['row']} against {one['baseline']}, paired over {over}: {', '.join(said)} points."


def _told(row: dict) -> list[str]:
    """How many crops a model that looks at points was shown them of, and one that is told of cameras knew."""
    points, seen_from = (row["models"][0].get(key) for key in ("points", "viewpoints"))
    if seen_from:
        return [f"{row['name']}: {viewpoints.in_words(seen_from)}"]
    if not points:
        return []
    lack = f", {points['without']} were seen as pixels alone. {points['advice'] or ''}" if points["without"] else "."
    return [f"{row['name']} looks at points: {points['with']} crops have some{lack}".rstrip()]


def _open_set(row: dict) -> list[str]:
    told = row["open_set"]
    if told is None:
        return []
    names = ("AUROC", "EER", "TPR5", "BAKS", "BAUS", "root")
    words = {"TPR5": "known at 5 % false", "root": "√(BAKS·BAUS)"}
    said = [f"{words.get(name, name)} {percent(told['metrics'][name])}" for name in names if name in told["metrics"]]
    chosen = (
        f"threshold chosen on {told['threshold_from']}"
        if told["threshold_from"]
        else f"{told['no_threshold']}, so BAKS and BAUS stay open"
    )
    return [f"{row['name']}, {100 * told['share']:.0f} % of the animals unknown: {', '.join(said)} ({chosen})."]


def _leaks(row: dict) -> list[str]:
    told, lines = row["leaks"], []
    if told is None:
        return []
    for variant, one in told["background"].items():
        if one["metrics"] is not None:
            lines.append(
                f"{row['name']}, backgrounds alone ({left_out(variant) if variant != PLAIN else TOLD[PLAIN]}): top-1 "
                f"{percent(one['metrics']['top1'])} %, by chance {_mean(one['metrics']['random'])} %."
            )
    if told["bordered"]:
        lines.append(
            f"{told['bordered']} crops are filled by the animal: of them a border was left, which may show it."
        )
    if told["own_event"]:
        own = told["own_event"]
        lines.append(
            f"{row['name']}, top-1 with photos of the same event in the gallery, as a random split has them (leaky): "
            f"{percent(own['with'])} %; without: {percent(own['without'])} %."
        )
    return lines
