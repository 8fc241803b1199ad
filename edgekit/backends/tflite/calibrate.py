"""Activation ranges from calibration data: true min/max and MSE-optimal clipping, per tensor.

ai-edge-quantizer's own calibration is a moving average of per-sample ranges; it clips and costs 10
to 15 dB. Its quantiser takes any ranges, so the ranges are measured here over every float activation.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from edgekit.backends.tflite.flatbuffer import read_graph
from edgekit.backends.tflite.session import encode, make_interpreter
from edgekit.errors import DataError
from edgekit.types import Artifact, Emit, Event, ignore_events

if TYPE_CHECKING:
    from edgekit.types import Array

BINS = 2048
LEVELS = 256
_MAX_ELEMENTS = 1 << 16
"""Values of one tensor of one sample that enter its histogram; larger tensors are strided."""

Ranges = dict[str, tuple[float, float]]


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


def observe(
    artifact: Artifact, groups: Sequence[Sequence[Sequence[Array]]], emit: Emit = ignore_events
) -> list[dict[str, Observed]]:
    """Run the float file over groups of calibration samples and record every activation, group by group.

    A sample is a list of (1, ...) arrays in source layout. Two passes: exact minimum and maximum over all
    values, then histograms. Raises DataError when a tensor is not finite.
    """
    recorder = _Recorder(artifact, sum(map(len, groups)), emit)
    extremes = [recorder.extremes(samples) for samples in groups]
    edges = {
        i: (min(e[i][0] for e in extremes if i in e), max(e[i][1] for e in extremes if i in e))
        for i in recorder.watched
        if any(i in e for e in extremes)
    }
    found = []
    for samples, extreme in zip(groups, extremes, strict=True):
        counts = recorder.histograms(samples, {i: edges[i] for i in extreme})
        found.append(
            {recorder.watched[i]: Observed(lo, hi, edges[i], counts[i]) for i, (lo, hi) in extreme.items()}
        )
    return found


def merge(parts: Sequence[dict[str, Observed]]) -> dict[str, Observed]:
    """What was seen over several groups of one :func:`observe` call."""
    merged: dict[str, Observed] = {}
    for name in {n: None for part in parts for n in part}:
        seen = [part[name] for part in parts if name in part]
        counts = np.sum([o.counts for o in seen], axis=0)
        merged[name] = Observed(min(o.lo for o in seen), max(o.hi for o in seen), seen[0].edges, counts)
    return merged


class _Recorder:
    """Reads every float activation of a file, sample by sample."""

    def __init__(self, artifact: Artifact, samples: int, emit: Emit) -> None:
        graph = read_graph(artifact.path)
        self.watched = {t.index: t.name for t in graph.tensors if t.dtype == "float32" and not t.constant}
        self._artifact = artifact
        self._interpreter = make_interpreter(artifact.path, keep_all=True)
        by_name = {graph.tensors[i].name: i for i in graph.inputs}
        self._slots = [by_name[s.name] for s in artifact.inputs]
        self._emit, self._done, self._total = emit, 0, 2 * samples

    def extremes(self, samples: Sequence[Sequence[Array]]) -> dict[int, tuple[float, float]]:
        """Smallest and largest value of each tensor that is written at all."""
        found: dict[int, tuple[float, float]] = {}
        for n, sample in enumerate(samples):
            self._run(sample)
            for index in self.watched:
                value = self._read(index)
                if value is None:
                    continue
                low, high = float(value.min()), float(value.max())
                if not (np.isfinite(low) and np.isfinite(high)):
                    raise DataError(
                        f"calibration sample {n} makes {self.watched[index]!r} infinite or NaN",
                        hint="look at this sample and at the model's weights",
                    )
                before = found.get(index, (low, high))
                found[index] = (min(before[0], low), max(before[1], high))
        return found

    def histograms(
        self, samples: Sequence[Sequence[Array]], edges: dict[int, tuple[float, float]]
    ) -> dict[int, Array]:
        """Counts of values other than zero in ``BINS`` bins between each tensor's edges."""
        counts: dict[int, Array] = {i: np.zeros(BINS, dtype=np.int64) for i in edges}
        for sample in samples:
            self._run(sample)
            for index, (low, high) in edges.items():
                value = self._read(index)
                if value is None or high <= low:
                    continue
                value = value.ravel()[:: max(1, value.size // _MAX_ELEMENTS)]
                value = value[value != 0].astype(np.float64)
                bins = ((value - low) * (BINS / (high - low))).astype(np.int64)
                counts[index] += np.bincount(np.minimum(bins, BINS - 1), minlength=BINS)
        return counts

    def _run(self, sample: Sequence[Array]) -> None:
        for slot, x, spec in zip(self._slots, sample, self._artifact.inputs, strict=True):
            self._interpreter.set_tensor(slot, encode(x, spec))
        self._interpreter.invoke()
        self._done += 1
        self._emit(Event(kind="progress", step="quantize", data={"done": self._done, "total": self._total}))

    def _read(self, index: int) -> Array | None:
        try:
            value: Array = self._interpreter.get_tensor(index)
        except ValueError:  # folded away or never written
            return None
        return value if value.size else None


def minmax_ranges(observed: dict[str, Observed]) -> Ranges:
    """True extremes over all samples."""
    return {name: (o.lo, o.hi) for name, o in observed.items()}


def mse_ranges(observed: dict[str, Observed]) -> Ranges:
    """Per-tensor ranges that minimise the mean squared quantisation error over the histogram."""
    return {name: mse_range(o) for name, o in observed.items()}


def mse_range(o: Observed, *, steps: int = 64) -> tuple[float, float]:
    """The range [a, b] inside [lo, hi] with the least squared error when stored in 8 bits.

    Error = rounding, (b-a)^2 / (12 * 255^2) for each value inside, plus squared distance of each value
    outside (Banner et al. 2019, "Post training 4-bit quantization", eq. 2, on the empirical
    distribution). The range always holds zero, which has to be representable.
    """
    lo, hi = min(o.lo, 0.0), max(o.hi, 0.0)
    if o.hi <= o.lo or o.counts.sum() == 0:
        return o.lo, o.hi
    centres = o.edges[0] + (np.arange(BINS) + 0.5) * (o.edges[1] - o.edges[0]) / BINS
    highs = np.linspace(hi / steps, hi, steps) if hi > 0 else np.zeros(1)
    lows = np.linspace(lo / steps, lo, steps) if lo < 0 else np.zeros(1)
    clip_high = _clip_cost(centres, o.counts, highs) if hi > 0 else np.zeros(1)
    clip_low = _clip_cost(-centres, o.counts, -lows) if lo < 0 else np.zeros(1)
    width = highs[None, :] - lows[:, None]
    rounding = o.counts.sum() * (width / (LEVELS - 1)) ** 2 / 12
    cost = rounding + clip_high[None, :] + clip_low[:, None]
    i, j = np.unravel_index(int(np.argmin(cost)), cost.shape)
    return float(lows[i]), float(highs[j])


def _clip_cost(values: Array, counts: Array, limits: Array) -> Array:
    """Sum of squared distances beyond each limit."""
    excess = np.maximum(values[None, :] - limits[:, None], 0.0)
    return np.asarray((excess**2) @ counts)
