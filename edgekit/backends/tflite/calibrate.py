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
    """What calibration saw of one tensor. The histogram spans [lo, hi]; exact zeros are left out of it."""

    lo: float
    hi: float
    counts: Array


def observe(artifact: Artifact, samples: Sequence[Sequence[Array]], emit: Emit = ignore_events) -> dict[str, Observed]:
    """Run the float file over calibration samples (source layout, batch 1) and record every activation.

    Two passes: exact minimum and maximum over all values, then histograms between them. Raises
    DataError when a tensor is not finite.
    """
    graph = read_graph(artifact.path)
    watched = {t.index: t.name for t in graph.tensors if t.dtype == "float32" and not t.constant}
    interpreter = make_interpreter(artifact.path, keep_all=True)
    slots = [interpreter.get_input_details()[i]["index"] for i in range(len(graph.inputs))]
    order = {s.name: i for i, s in enumerate(artifact.inputs)}
    slots = sorted(slots, key=lambda s: order[graph.tensors[s].name])
    lows = dict.fromkeys(watched, np.inf)
    highs = dict.fromkeys(watched, -np.inf)
    live: dict[int, str] = {}

    def run(sample: Sequence[Array]) -> None:
        for slot, x, spec in zip(slots, sample, artifact.inputs, strict=True):
            interpreter.set_tensor(slot, encode(x, spec))
        interpreter.invoke()

    total = 2 * len(samples)
    for n, sample in enumerate(samples):
        run(sample)
        for index in list(watched) if n == 0 else live:
            try:
                value = interpreter.get_tensor(index)
            except ValueError:  # folded away or never written
                continue
            if value.size == 0:
                continue
            live[index] = watched[index]
            low, high = float(value.min()), float(value.max())
            if not (np.isfinite(low) and np.isfinite(high)):
                raise DataError(
                    f"calibration sample {n} makes {watched[index]!r} infinite or NaN",
                    hint="look at this sample and at the model's weights",
                )
            lows[index], highs[index] = min(lows[index], low), max(highs[index], high)
        emit(Event(kind="progress", step="quantize", data={"done": n + 1, "total": total}))

    counts = {index: np.zeros(BINS, dtype=np.int64) for index in live}
    for n, sample in enumerate(samples):
        run(sample)
        for index, histogram in counts.items():
            span = highs[index] - lows[index]
            if span > 0:
                value = interpreter.get_tensor(index).ravel()
                value = value[:: max(1, value.size // _MAX_ELEMENTS)]
                value = value[value != 0]
                bins = ((value.astype(np.float64) - lows[index]) * (BINS / span)).astype(np.int64)
                histogram += np.bincount(np.minimum(bins, BINS - 1), minlength=BINS)
        emit(Event(kind="progress", step="quantize", data={"done": len(samples) + n + 1, "total": total}))
    return {live[i]: Observed(lows[i], highs[i], counts[i]) for i in live}


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
    centres = o.lo + (np.arange(BINS) + 0.5) * (o.hi - o.lo) / BINS
    above = _clip_cost(centres, o.counts, np.linspace(hi / steps, hi, steps)) if hi > 0 else None
    below = _clip_cost(-centres, o.counts, np.linspace(-lo / steps, -lo, steps)) if lo < 0 else None
    highs = np.linspace(hi / steps, hi, steps) if above is not None else np.zeros(1)
    lows = np.linspace(lo / steps, lo, steps) if below is not None else np.zeros(1)
    clip_high = above if above is not None else np.zeros(1)
    clip_low = below if below is not None else np.zeros(1)
    width = highs[None, :] - lows[:, None]
    rounding = o.counts.sum() * (width / (LEVELS - 1)) ** 2 / 12
    cost = rounding + clip_high[None, :] + clip_low[:, None]
    i, j = np.unravel_index(int(np.argmin(cost)), cost.shape)
    return float(lows[i]), float(highs[j])


def _clip_cost(values: Array, counts: Array, limits: Array) -> Array:
    """Sum of squared distances beyond each limit."""
    excess = np.maximum(values[None, :] - limits[:, None], 0.0)
    return np.asarray((excess**2) @ counts)
