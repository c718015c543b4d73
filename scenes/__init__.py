"""Renders camera-trap photos with their truth: animals told apart by coat, in places of their own."""

from __future__ import annotations

from .coats import FAUNA, SPECIES, Individual, make_individual, make_person
from .labelled import shoot_place, write_labels
from .photos import MIRROR_PAIRS, Chip, Scene, render_chip, render_scene
from .places import Location, make_location
from .staging import Placement, place
from .survey import make_survey

__all__ = [
    "FAUNA",
    "MIRROR_PAIRS",
    "SPECIES",
    "Chip",
    "Individual",
    "Location",
    "Placement",
    "Scene",
    "make_individual",
    "make_location",
    "make_person",
    "make_survey",
    "place",
    "render_chip",
    "render_scene",
    "shoot_place",
    "write_labels",
]
