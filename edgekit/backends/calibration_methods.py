"""Ways to turn what calibration saw into activation ranges, by the names that ``--set`` knows.

========================  =========================================================================
``minmax``                true extremes of all samples
``moving_average``        average of each sample's extremes (Jacob et al. 2018, section 3.1)
``percentile``            the central 99.99 % of all values that are not zero (Wu et al. 2020)
``mse``                   least mean squared error (Banner et al. 2019)
``entropy``               least Kullback-Leibler divergence (Migacz 2017, "8-bit inference with TensorRT")
========================  =========================================================================

``auto`` measures the two that win most often, ``all`` every one; a name is that one alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

import numpy as np

from edgekit.backends.calibration import Observed, Ranges, centres, minmax_ranges, mse_ranges

Method = Callable[[Mapping[str, Observed]], Ranges]

CENTRAL = 0.9999
"""Share of the values that ``percentile`` keeps inside."""

_QUANTISED_BINS = 128
"""Levels that hold one sign of the values in int8: Migacz merges the histogram to so many bins."""
_ENTROPY_STEPS = 96
"""Thresholds that ``entropy`` tries for each tensor."""

NAMES = ("minmax", "moving_average", "percentile", "mse", "entropy")
AUTO = ("minmax", "mse")


def methods_of(name: str, *, symmetric: bool = False) -> dict[str, Method]:
    """The methods that a scheme's ``calibration`` stands for, by name, in the order they are tried.

    ``symmetric``: ranges will be widened to [-a, a], so the ones that weigh clipping against rounding have
    to do so for that range.
    """
    known: dict[str, Method] = {
        "minmax": minmax_ranges,
        "moving_average": moving_average_ranges,
        "percentile": percentile_ranges,
        "mse": partial(mse_ranges, symmetric=symmetric),
        "entropy": entropy_ranges,
    }
    names = {"auto": AUTO, "all": NAMES}.get(name, (name,))
    return {n: known[n] for n in names}


def moving_average_ranges(observed: Mapping[str, Observed]) -> Ranges:
    """Average of the extremes of each sample. One wild sample moves it little; it clips by design."""
    return {name: o.average for name, o in observed.items()}


def percentile_ranges(observed: Mapping[str, Observed]) -> Ranges:
    """The central ``CENTRAL`` share of the values that are not exactly zero, within the true extremes."""
    return {name: _percentile(o) for name, o in observed.items()}


def _percentile(o: Observed) -> tuple[float, float]:
    total = float(o.counts.sum())
    if o.hi <= o.lo or total == 0:
        return o.lo, o.hi
    tail = (1 - CENTRAL) / 2
    share = np.cumsum(o.counts) / total
    width = (o.edges[1] - o.edges[0]) / len(o.counts)
    low = o.edges[0] + width * int(np.searchsorted(share, tail, side="right"))
    high = o.edges[0] + width * (int(np.searchsorted(share, 1 - tail, side="left")) + 1)
    return max(o.lo, min(low, 0.0)), min(o.hi, max(high, 0.0))


def entropy_ranges(observed: Mapping[str, Observed]) -> Ranges:
    """Per tensor the threshold t for which the values clipped to [-t, t] and merged to ``_QUANTISED_BINS``
    bins of their magnitude tell least less than the clipped values themselves (Kullback-Leibler)."""
    return {name: _entropy(o) for name, o in observed.items()}


def _entropy(o: Observed) -> tuple[float, float]:
    top = max(-o.lo, o.hi)
    if o.hi <= o.lo or o.counts.sum() == 0:
        return o.lo, o.hi
    magnitudes = np.abs(centres(o))
    bins = len(o.counts) // 2
    place = np.minimum((magnitudes * (bins / top)).astype(np.int64), bins - 1)
    counts = np.bincount(place, weights=o.counts.astype(np.float64), minlength=bins)
    limits = np.unique(np.linspace(_QUANTISED_BINS, bins, _ENTROPY_STEPS).astype(int))
    best = min(limits, key=lambda n: (_divergence(counts, int(n)), n))
    limit = top * int(best) / bins
    return max(o.lo, -limit), min(o.hi, limit)


def _divergence(counts: np.ndarray, n: int) -> float:
    """Divergence of the first ``n`` bins, with all beyond put into the last, from their merged form."""
    clipped = counts[:n].copy()
    clipped[-1] += counts[n:].sum()
    filled = counts[:n] > 0
    group = np.arange(n) * _QUANTISED_BINS // n
    sums = np.bincount(group, weights=counts[:n], minlength=_QUANTISED_BINS)
    members = np.bincount(group, weights=filled.astype(np.float64), minlength=_QUANTISED_BINS)
    merged = np.where(filled, sums[group] / np.maximum(members[group], 1), 0.0)
    p, q = clipped / clipped.sum(), merged / max(merged.sum(), 1e-30)
    known = p > 0
    return float((p[known] * np.log(p[known] / np.maximum(q[known], 1e-12))).sum())
