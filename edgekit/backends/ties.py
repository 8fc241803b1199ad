"""Ranges of inputs whose values do not lie half-way between two levels of int8.

Pixels scaled to [-1, 1] all lie half-way in the range [-1, 1]: there are 255 steps from -1 to 1, and zero,
which needs a level of its own, is in the middle of one. Each is then off by half a step, to one side where
a runtime rounds half up; and torch rounds ``x / scale + zero_point`` on x86 but ``x / scale`` on Arm, both to
even, so that half of the pixels go to different levels there. In a range one step wider they do not.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from edgekit.types import Array

Range = tuple[float, float]

STEPS = 255
"""Steps between the lowest and the highest level."""

_NEAR = 1e-3
"""Distance in levels from half-way within which a value counts as a tie."""

_TOLERATED = 0.01
"""Share of an input's values that may be ties: 0.002 of them are where values lie on no grid."""

_WIDENINGS = 16
"""Ranges that are tried, each a step of the range wider than the last."""

_SAMPLES = 16
"""Calibration samples whose values are looked at."""

_VALUES = 1 << 14
"""Values of one sample that are looked at; larger ones are strided."""


def values_of(names: Sequence[str], samples: Sequence[Sequence[Array]]) -> dict[str, Array]:
    """Values of some samples by the names of the inputs, flat; ``samples`` hold one array for each name."""
    return {
        name: np.concatenate([_some(sample[i]) for sample in samples[:_SAMPLES]])
        for i, name in enumerate(names)
        if samples
    }


def _some(values: Array) -> Array:
    flat = np.ravel(values)
    return flat[:: -(-flat.size // _VALUES) or 1]


def avoided(ranges: Mapping[str, Range], inputs: Mapping[str, Array]) -> dict[str, Range]:
    """``ranges`` with those of ``inputs`` (their values by name) changed by :func:`without_ties`, and with
    them all ranges that are the same: a padded input holds the input's values. One that is the same by
    chance gets wider with it, by a 255th part as a rule."""
    alike: dict[Range, list[Array]] = {}
    for name, values in inputs.items():
        if name in ranges:
            alike.setdefault(ranges[name], []).append(values)
    changed = {limits: without_ties(limits, values) for limits, values in alike.items()}
    return {name: changed.get(limits, limits) for name, limits in ranges.items()}


def without_ties(limits: Range, inputs: Sequence[Array]) -> Range:
    """The range, or the narrowest of some wider ones in which few values of each input are half-way between
    two levels; of all of them the one with the fewest where none has few."""
    tried = []
    for extra in range(_WIDENINGS):
        factor = STEPS / (STEPS - extra)
        wider = (limits[0] * factor, limits[1] * factor)
        share = max((_ties(wider, values) for values in inputs), default=0.0)
        if share <= _TOLERATED:
            return wider
        tried.append((share, wider))
    return min(tried, key=lambda t: t[0])[1]


def _ties(limits: Range, values: Array) -> float:
    """Share of the values that are half-way between two levels."""
    scale = (max(limits[1], 0.0) - min(limits[0], 0.0)) / STEPS
    if not scale or not values.size:
        return 0.0
    levels = values.astype(np.float64) / scale
    return float(np.mean(np.abs(levels - np.floor(levels) - 0.5) < _NEAR))
