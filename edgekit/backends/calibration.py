"""Activation ranges from calibration data: true min/max and MSE-optimal clipping, per tensor.

For every backend whose tool takes ranges from outside. A backend gives a function that runs one sample
through the float file and yields tensors by name; everything else is here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from edgekit.errors import DataError
from edgekit.types import Emit, Event, ignore_events

if TYPE_CHECKING:
    from edgekit.types import Array

BINS = 2048
LEVELS = 256
_MAX_ELEMENTS = 1 << 16
"""Values of one tensor of one sample that enter its histogram; larger tensors are strided."""

Ranges = dict[str, tuple[float, float]]
Read = Callable[[Sequence["Array"]], Iterable[tuple[str, "Array"]]]
"""Runs one sample (arrays in source layout) and gives its float activations by name, one after another."""


@dataclass(frozen=True)
class Observed:
    """What calibration saw of one tensor.

    [lo, hi] are the true extremes of the samples; the histogram's bins divide ``edges``, the extremes of
    all samples that were observed together. Exact zeros are left out of it.
    """

    lo: float
    hi: float
    edges: tuple[float, float]
    counts: Array
    sums: tuple[float, float]
    """Sums over the samples of each one's smallest and largest value."""
    samples: int

    @property
    def average(self) -> tuple[float, float]:
        """Mean of the samples' own extremes."""
        return self.sums[0] / self.samples, self.sums[1] / self.samples


def observe(
    read: Read, groups: Sequence[Sequence[Sequence[Array]]], emit: Emit = ignore_events
) -> list[dict[str, Observed]]:
    """Record every activation that ``read`` gives over groups of calibration samples, group by group.

    Two passes: exact minimum and maximum over all values, then histograms; one tensor is held at a time.
    Raises DataError when a tensor is not finite.
    """
    progress = _Progress(2 * sum(map(len, groups)), emit)
    extremes = [_extremes(read, samples, progress) for samples in groups]
    names = {n: None for e in extremes for n in e}
    edges = {
        n: (min(e[n].lo for e in extremes if n in e), max(e[n].hi for e in extremes if n in e)) for n in names
    }
    found = []
    for samples, extreme in zip(groups, extremes, strict=True):
        counts = _histograms(read, samples, {n: edges[n] for n in extreme}, progress)
        found.append(
            {n: Observed(e.lo, e.hi, edges[n], counts[n], e.sums, e.samples) for n, e in extreme.items()}
        )
    return found


def merge(parts: Sequence[dict[str, Observed]]) -> dict[str, Observed]:
    """What was seen over several groups of one :func:`observe` call."""
    merged: dict[str, Observed] = {}
    for name in {n: None for part in parts for n in part}:
        seen = [part[name] for part in parts if name in part]
        counts = np.sum([o.counts for o in seen], axis=0)
        sums = (sum(o.sums[0] for o in seen), sum(o.sums[1] for o in seen))
        lo, hi = min(o.lo for o in seen), max(o.hi for o in seen)
        merged[name] = Observed(lo, hi, seen[0].edges, counts, sums, sum(o.samples for o in seen))
    return merged


@dataclass
class _Extremes:
    """Extremes of one tensor over the samples so far, and the sums of each sample's own."""

    lo: float
    hi: float
    sums: tuple[float, float]
    samples: int = 1

    def add(self, lo: float, hi: float) -> None:
        self.lo, self.hi = min(self.lo, lo), max(self.hi, hi)
        self.sums = (self.sums[0] + lo, self.sums[1] + hi)
        self.samples += 1


class _Progress:
    def __init__(self, total: int, emit: Emit) -> None:
        self._done, self._total, self._emit = 0, total, emit

    def step(self) -> None:
        self._done += 1
        self._emit(Event(kind="progress", step="quantize", data={"done": self._done, "total": self._total}))


def _extremes(read: Read, samples: Sequence[Sequence[Array]], progress: _Progress) -> dict[str, _Extremes]:
    """Smallest and largest value of each tensor."""
    found: dict[str, _Extremes] = {}
    for n, sample in enumerate(samples):
        for name, value in read(sample):
            if not value.size:
                continue
            low, high = float(value.min()), float(value.max())
            if not (np.isfinite(low) and np.isfinite(high)):
                raise DataError(
                    f"calibration sample {n} makes {name!r} infinite or NaN",
                    hint="look at this sample and at the model's weights",
                )
            if name in found:
                found[name].add(low, high)
            else:
                found[name] = _Extremes(low, high, (low, high))
        progress.step()
    return found


def _histograms(
    read: Read,
    samples: Sequence[Sequence[Array]],
    edges: Mapping[str, tuple[float, float]],
    progress: _Progress,
) -> dict[str, Array]:
    """Counts of values other than zero in ``BINS`` bins between each tensor's edges."""
    counts: dict[str, Array] = {n: np.zeros(BINS, dtype=np.int64) for n in edges}
    for sample in samples:
        for name, value in read(sample):
            low, high = edges.get(name, (0.0, 0.0))
            if high <= low:
                continue
            value = value.ravel()[:: max(1, value.size // _MAX_ELEMENTS)]
            value = value[value != 0].astype(np.float64)
            bins = ((value - low) * (BINS / (high - low))).astype(np.int64)
            counts[name] += np.bincount(np.clip(bins, 0, BINS - 1), minlength=BINS)
        progress.step()
    return counts


def minmax_ranges(observed: Mapping[str, Observed]) -> Ranges:
    """True extremes over all samples."""
    return {name: (o.lo, o.hi) for name, o in observed.items()}


def mse_ranges(observed: Mapping[str, Observed], *, symmetric: bool = False) -> Ranges:
    """Per-tensor ranges that minimise the mean squared quantisation error over the histogram."""
    best = symmetric_mse_range if symmetric else mse_range
    return {name: best(o) for name, o in observed.items()}


def mse_range(o: Observed, *, steps: int = 64, levels: int = LEVELS) -> tuple[float, float]:
    """The range [a, b] inside [lo, hi] with the least squared error when stored in ``levels`` levels.

    Error = rounding, (b-a)^2 / (12 * (levels-1)^2) for each value inside, plus squared distance of each
    value outside (Banner et al. 2019, "Post training 4-bit quantization", eq. 2, on the empirical
    distribution). The range always holds zero, which has to be representable.
    """
    lo, hi = min(o.lo, 0.0), max(o.hi, 0.0)
    if o.hi <= o.lo or o.counts.sum() == 0:
        return o.lo, o.hi
    values = centres(o)
    highs = np.linspace(hi / steps, hi, steps) if hi > 0 else np.zeros(1)
    lows = np.linspace(lo / steps, lo, steps) if lo < 0 else np.zeros(1)
    clip_high = _clip_cost(values, o.counts, highs) if hi > 0 else np.zeros(1)
    clip_low = _clip_cost(-values, o.counts, -lows) if lo < 0 else np.zeros(1)
    width = highs[None, :] - lows[:, None]
    rounding = o.counts.sum() * (width / (levels - 1)) ** 2 / 12
    cost = rounding + clip_high[None, :] + clip_low[:, None]
    i, j = np.unravel_index(int(np.argmin(cost)), cost.shape)
    return float(lows[i]), float(highs[j])


def symmetric_mse_range(o: Observed, *, steps: int = 128, levels: int = LEVELS) -> tuple[float, float]:
    """The range [-a, a] with the least squared error when stored symmetrically; see :func:`mse_range`."""
    top = max(-o.lo, o.hi, 0.0)
    if o.hi <= o.lo or o.counts.sum() == 0:
        return -top, top
    limits = np.linspace(top / steps, top, steps)
    rounding = o.counts.sum() * (2 * limits / (levels - 2)) ** 2 / 12
    cost = rounding + _clip_cost(np.abs(centres(o)), o.counts, limits)
    best = float(limits[int(np.argmin(cost))])
    return -best, best


def centres(o: Observed) -> Array:
    """Values in the middle of each bin of the histogram."""
    return np.asarray(o.edges[0] + (np.arange(BINS) + 0.5) * (o.edges[1] - o.edges[0]) / BINS)


def _clip_cost(values: Array, counts: Array, limits: Array) -> Array:
    """Sum of squared distances beyond each limit."""
    excess = np.maximum(values[None, :] - limits[:, None], 0.0)
    return np.asarray((excess**2) @ counts)
