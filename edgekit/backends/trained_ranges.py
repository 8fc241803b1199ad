"""Activation ranges that quantisation-aware training has found, put where calibration's would be.

Every runtime names its tensors in its own way. A trained range comes with the extremes that the float model
shows at that place on the calibration samples (Scheme.trained); a tensor with the same extremes on the same
samples is that place. Where training knew nothing, what calibration saw is used.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from edgekit.backends.calibration import Observed, Ranges

_SAME = 2e-4
"""Largest difference of both extremes, relative to their distance: float files differ by rounding."""


def find(observed: Mapping[str, Observed], trained: Sequence[Sequence[float]]) -> Ranges:
    """The trained range of each tensor that has one. ``observed`` is of all calibration samples."""
    found: Ranges = {}
    for name, o in observed.items():
        width = max(o.hi - o.lo, 1e-12)
        nearest = min(trained, key=lambda t: max(abs(t[0] - o.lo), abs(t[1] - o.hi)), default=None)
        if nearest is not None and max(abs(nearest[0] - o.lo), abs(nearest[1] - o.hi)) <= _SAME * width:
            found[name] = (nearest[2], nearest[3])
    return found


def given(observed: Mapping[str, Observed], ranges: Ranges) -> dict[str, Observed]:
    """``observed`` as if it had seen exactly ``ranges`` where there are any."""
    return {
        name: replace(o, lo=ranges[name][0], hi=ranges[name][1], edges=ranges[name]) if name in ranges else o
        for name, o in observed.items()
    }
