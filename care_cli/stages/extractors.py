"""Which extractor carries points, and what it is told that crops show."""

from __future__ import annotations

from pathlib import Path

from care_cli import registry
from care_cli.errors import CareError
from care_cli.features import gives_features, has_words
from care_cli.records import ModelSpec

PROMPT = "a photo of a {species}"  # of DIFT's semantic correspondence


def find(extractor: str | None, weights: Path | None, device: str) -> ModelSpec:
    """The extractor that was named, with its own `weights` where given, else the registry's default for the device.

    Raises CareError when there is none of that name, weights come without a name, or those of the default are not on
    this machine; what else could be used is said.
    """
    if extractor is not None:
        return registry.find_extractor(extractor, weights)
    if weights is not None:
        raise CareError("--weights needs the model that they are of: --extractor timm:NAME.")
    spec = registry.default(f"propagate:{device.partition(':')[0]}")
    if not _is_here(spec):
        here = [f"--extractor {one.name}{_caution(one)}" for one in registry.entries().values() if _is_here(one)]
        raise CareError(
            f"The weights of {spec.name}, which carries points by default, are not on this machine; while online, run: "
            f"care models pull {spec.name}. Or use another extractor{' that is here: ' if here else ': '}"
            f"{', '.join([*here, '--extractor timm:NAME --weights FILE'])}."
        )
    return spec


def _is_here(spec: ModelSpec) -> bool:
    """Does it give features, and are its weights on this machine, with those of the model that it is a part of?"""
    whole = spec.family != "cleandift" or registry.is_here(registry.find(spec.architecture))
    return gives_features(spec) and whole and registry.is_here(spec)


def _caution(spec: ModelSpec) -> str:
    return " (rendered animals only)" if spec.name.startswith("demo-") else ""


# -- words


def prompt_for(spec: ModelSpec, asked: str | None) -> str:
    """The prompt that an extractor gets, which may hold {species}: what was asked, else PROMPT; '' without words.

    Raises CareError when an extractor without words is given some, and for any other placeholder.
    """
    if not has_words(spec):
        if asked is not None:
            raise CareError(
                f"--prompt is for diffusion models; {spec.name} ({spec.family}) has no words: leave it out."
            )
        return ""
    if asked is None:
        return PROMPT
    if set("{}") & set(asked.replace("{species}", "")):
        raise CareError(f"A prompt has one placeholder, {{species}}, and no other braces, but got {asked!r}.")
    return asked


def worded(prompt: str, species: str | None) -> str:
    """A prompt about a species, or about any animal."""
    if species is None:
        return prompt.replace("a {species}", "an animal").replace("{species}", "animal")
    return prompt.replace("{species}", species)
