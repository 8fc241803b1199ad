"""Which operators a delegate takes and why not, as data: one file of rules for each delegate."""

from __future__ import annotations

from collections.abc import Mapping

from edgekit.backends.tflite.rules.gpu import GPU
from edgekit.backends.tflite.rules.model import Delegate, Rule
from edgekit.backends.tflite.rules.nnapi import NNAPI
from edgekit.backends.tflite.rules.partition import Placement, place
from edgekit.backends.tflite.rules.xnnpack import XNNPACK

DELEGATES: Mapping[str, Delegate] = {d.name: d for d in (XNNPACK, GPU, NNAPI)}

__all__ = ["DELEGATES", "Delegate", "Placement", "Rule", "place"]
