"""Searches that work on any backend: they see trials, points and limits, never a runtime."""

from edgekit.tune.budget import Ladder, Outcome, climb
from edgekit.tune.points import LeftOut, Point, Trial, margin_of
from edgekit.tune.ranking import Layer, Ranked, layers_of, rank, rank_alone

__all__ = [
    "Ladder",
    "Layer",
    "LeftOut",
    "Outcome",
    "Point",
    "Ranked",
    "Trial",
    "climb",
    "layers_of",
    "margin_of",
    "rank",
    "rank_alone",
]
