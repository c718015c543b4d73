"""The card of a re-ID model that was trained here: what it is for, what it learned from, what it reached."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from care_cli.geometry import sides
from care_cli.stages.cards import number, wrapped
from care_cli.training.methods import describes


def card(header: Mapping[str, Any], about: str, crops: int) -> str:
    """Markdown of a model's header, in the form of `models/cards/NAME.md`.

    `about` says what its method is; `crops` is the number of photos that it learned from itself, without those of the
    model that it began from.
    """
    blocks = [
        f"# {header['name']}",
        f"**What for.** {_purpose(header)}",
        f"**Method.** {about} What of it is our reading: docs/methods.md.",
        f"**How it came about.** {_origin(header, crops)}",
        *([f"**What it is told.** {_told(header['viewpoints'])}"] if header.get("viewpoints") else []),
        f"**What it reached.** {_reached(header)}",
        f"**Licence.** {_licence(header)} Weights as safetensors.",
    ]
    return "\n\n".join(map(wrapped, blocks)) + "\n"


def _purpose(header: Mapping[str, Any]) -> str:
    species = header["training"]["species"] or "individual animals"
    return (
        f"Telling {species} apart by crops like those that it learned from: `care index --model {header['name']}`. It "
        "gives a vector a crop, not a name: `care identify` says who has the nearest ones. How it does on other "
        "species, places and cameras is not known: `care evaluate` examines it on named animals of your own."
    )


def _origin(header: Mapping[str, Any], crops: int) -> str:
    training = header["training"]
    settings, split = training["settings"], training["split"]
    height, width = sides(header["input_size"])
    text = settings["text"]
    words = (
        f" Before, for {text['epochs']:g} epochs, {text['tokens']} words were learned that stand for each animal."
        if describes(settings["method"])
        else ""
    )
    return (
        f"{settings['backbone']} at {height} x {width} px (height x width), from "
        f"{'the weights of ' + training['begun_from'] if training['begun_from'] else 'random weights'}: "
        f"{settings['epochs']:g} epochs over {crops} crops of {training['individuals']} animals, the training part of "
        f"the split {split['name']!r} (sha256 {split['sha256'][:12]}), seed {settings['seed']}; kept is step "
        f"{training['step']}.{words} All settings and the digests of all crops are in the file's header."
    )


def _told(viewpoints: Mapping[str, Any]) -> str:
    cameras, views = viewpoints["cameras"], viewpoints["views"]
    what = [f"by which of {len(cameras)} cameras a photo was taken"] if cameras else []
    what += [f"which flank it shows ({', '.join(views)})"] if views else []
    said = f"Beside the pixels, where they are known: {' and '.join(what)}."
    if cameras:
        said += (
            " A camera that it was not taught, as of every other survey, tells it nothing. The cameras' names are in "
            "the file's header: mind to whom you give it where places are a secret."
        )
    return said


def _reached(header: Mapping[str, Any]) -> str:
    found = header["metrics"].get("validation")
    if not found:
        return "Nothing was measured on validation animals; the last step was taken."
    figures = ", ".join(f"{name} {number(value)}" for name, value in found.items())
    return (
        f"On the validation animals, by which its best step was chosen: {figures}. That is no examination; `care "
        f"evaluate --model {header['name']}` asks about the test animals, which it has never seen."
    )


def _licence(header: Mapping[str, Any]) -> str:
    if (licence := header.get("licence")) is None:
        return "Learned from scratch, it is yours, as far as the photos are."
    return f"{licence}, of the weights that it began from; and as far as the photos are yours."
