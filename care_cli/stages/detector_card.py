"""The card of a detector that was trained here: what it is for, what it learned from, what it reaches."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from care_cli.stages.cards import number, table, wrapped


def card(header: Mapping[str, Any]) -> str:
    """Markdown of a model's header, in the form of `models/cards/NAME.md`."""
    training, examined = header["training"], header["metrics"]["examination"]
    blocks = [
        f"# {header['name']}",
        wrapped(f"**What for.** {_purpose(header)}"),
        wrapped(f"**What it says.** {_said(header['classes'])}"),
        wrapped(f"**Shown from** confidence {header['shown']:g}; photos are seen at {header['input_size']} px."),
        wrapped(f"**How it came about.** {_origin(header)}"),
        table(training["parts"], ("part", "photos", "empty", "boxes", "locations")),
        *([wrapped(" ".join(training["remarks"]))] if training["remarks"] else []),
        wrapped(f"**What it reaches.** {_reached(examined)}"),
        table(examined["classes"], ("class", "true", "recall", "precision", "AP50", "AP50_95")),
        wrapped(_lights(examined["lighting"])),
        wrapped(f"**Licence.** {header['licence']}, by Ultralytics' trainer and graph. Weights as safetensors."),
    ]
    return "\n\n".join(blocks) + "\n"


def _purpose(header: Mapping[str, Any]) -> str:
    return (
        f"Finding and naming {', '.join(header['names'])} on photos like those that it was trained with. How it does "
        "elsewhere is not known: examine it on photos of your own with `care evaluate detector`."
    )


def _said(classes: Mapping[str, Mapping[str, Any]]) -> str:
    kinds: dict[str, list[str]] = {}
    for label, meaning in classes.items():
        kinds.setdefault(meaning["category"], []).append(label)
    return "; ".join(f"{kind}: {', '.join(labels)}" for kind, labels in kinds.items()) + "."


def _origin(header: Mapping[str, Any]) -> str:
    training = header["training"]
    settings, begun = training["settings"], training["begun_from"]
    exported = training["recipe"].get("settings") if isinstance(training["recipe"], dict) else None
    recipe = (exported.get("recipe") if isinstance(exported, dict) else None) or {}
    chosen = f"by the recipe {recipe['name']}" if recipe.get("name") else "in a way that is not noted"
    return (
        f"{settings['architecture']} at {settings['input_size']} px, from "
        f"{f'the weights of {begun}' if begun else 'random weights'}, by Ultralytics' trainer: {training['epochs']} "
        f"epochs of at most {settings['epochs']}, of which number {training['epoch']} was the best on the part val. "
        f"Photos were chosen {chosen}; {training['left_out']} were left out as unusable. Settings, recipe and places "
        "are in the file's header."
    )


def _reached(examined: Mapping[str, Any]) -> str:
    empties = examined["empties"]
    chosen = "" if examined["part"] == "test" else ", by which its best epoch was chosen"
    places = f" at {examined['locations']} places" if examined["locations"] else ""
    return (
        f"On {examined['photos']} photos of the part {examined['part']}{places}{chosen}: mAP50 "
        f"{number(examined['mAP50'])}, mAP50-95 {number(examined['mAP50_95'])}. Of what is shown: recall "
        f"{number(examined['recall'])}, precision {number(examined['precision'])}; {empties['with_boxes']} of "
        f"{empties['photos']} empty photos have a box."
    )


def _lights(lights: Mapping[str, Mapping[str, Any]]) -> str:
    said = [
        f"{light}: {figures['photos']} photos, mAP50 {number(figures['mAP50'])}, recall {number(figures['recall'])}, "
        f"precision {number(figures['precision'])}"
        for light, figures in lights.items()
        if figures["photos"]
    ]
    return f"By light: {'; '.join(said)}."
