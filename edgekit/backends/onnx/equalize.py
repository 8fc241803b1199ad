"""Channels in front of depthwise convolutions brought to one range, so that one scale fits all of them.

A convolution's output channel may be multiplied by any positive factor when the depthwise kernel that reads
it is divided by it: both have weights with one scale per channel, so that nothing is lost, while the tensor
between them is stored with one scale for all channels and gains resolution in the quiet ones. (Nagel et al.
2019, "Data-free quantization", section 4.1, for the one pair where it is free.)
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from edgekit.backends.onnx.graph import Graph, Op, clip_limit, is_own

if TYPE_CHECKING:
    from edgekit.backends.calibration import Read
    from edgekit.types import Array

_BINS, _STEPS = 256, 64

_LARGEST = 64.0
"""Factors end here: a channel that is nearly silent carries nothing worth more resolution."""


@dataclass(frozen=True)
class Pair:
    """A convolution, the tensor behind its activation function, and the depthwise convolution that reads it.

    ``limit`` is the upper end of a Clip between them, None without. ``passed`` are the operators whose
    results are multiplied.
    """

    writer: Op
    tensor: str
    reader: Op
    limit: float | None
    passed: tuple[str, ...]


def pairs(graph: Graph) -> list[Pair]:
    """All pairs of a float graph; the weights and biases of each belong to it alone."""
    found = []
    for op in graph.ops:
        if not _is_depthwise(graph, op) or graph.only_reader(op.inputs[0]) is not op:
            continue
        writer, limit = graph.producers.get(op.inputs[0]), None
        passed: tuple[str, ...] = ()
        if writer is not None and writer.op in ("Relu", "Clip"):
            limit = clip_limit(graph, writer)
            if writer.op == "Clip" and limit is None:
                continue
            before = graph.producers.get(writer.inputs[0])
            alone = before is not None and graph.only_reader(writer.inputs[0]) is writer
            passed, writer = (writer.name,), before if alone else None
        if writer is None or writer.op != "Conv" or not all(is_own(graph, writer, i) for i in (1, 2)):
            continue
        found.append(Pair(writer, op.inputs[0], op, limit, (writer.name, *passed)))
    return found


def factors(
    found: Sequence[Pair], read: Read, samples: Sequence[Sequence[Array]], *, levels: int
) -> dict[str, Array]:
    """By tensor, what to multiply each channel by (at least 1).

    Each channel's own range is the one with the least squared error in ``levels`` levels between zero and
    its end, from histograms of the samples (see calibration.mse_range). Multiplied, all channels end where
    the Clip does, or the loudest: the largest values of the others are then clipped, as their own
    quantisers would.
    """
    wanted = {p.tensor for p in found}
    tops: dict[str, Array] = {}
    for name, value in _by_channel(read, samples, wanted):
        top = value.max(1, initial=0.0)
        tops[name] = np.maximum(tops[name], top) if name in tops else top
    counts = {name: np.zeros((top.size, _BINS)) for name, top in tops.items()}
    for name, value in _by_channel(read, samples, wanted):
        bins = np.minimum(value * (_BINS / np.maximum(tops[name], 1e-30))[:, None], _BINS - 1).astype(
            np.int64
        )
        places = (np.arange(len(value))[:, None] * _BINS + bins)[value > 0]
        counts[name] += np.bincount(places, minlength=counts[name].size).reshape(-1, _BINS)
    made = {}
    for pair in found:
        if pair.tensor in tops:
            ends = np.maximum(tops[pair.tensor] * _best_share(counts[pair.tensor], levels), 1e-12)
            goal = ends.max() if pair.limit is None else pair.limit
            made[pair.tensor] = np.clip(goal / ends, 1.0, _LARGEST).astype(np.float32)
    return made


def _by_channel(
    read: Read, samples: Iterable[Sequence[Array]], wanted: set[str]
) -> Iterator[tuple[str, Array]]:
    """Magnitudes of the wanted tensors, one row per channel (axis 1)."""
    for sample in samples:
        for name, value in read(sample):
            if name in wanted:
                yield name, np.abs(np.moveaxis(value, 1, 0).reshape(value.shape[1], -1))


def _best_share(counts: Array, levels: int) -> Array:
    """For each row of a histogram over [0, 1], where clipping gives the least squared error."""
    ends = np.linspace(1 / _STEPS, 1, _STEPS)
    centres = (np.arange(_BINS) + 0.5) / _BINS
    clipping = counts @ (np.maximum(centres[None, :] - ends[:, None], 0.0) ** 2).T
    rounding = counts.sum(1, keepdims=True) * (ends / levels) ** 2 / 12
    return np.asarray(ends[np.argmin(clipping + rounding, axis=1)])


def equalized(graph: Graph, found: Sequence[Pair], by_tensor: Mapping[str, Array]) -> Any:
    """A copy of the model with the factors in its weights and biases."""
    import onnx

    proto = onnx.ModelProto()
    proto.CopyFrom(graph.proto)
    total = _total(found, by_tensor)
    for held in proto.graph.initializer:
        if held.name in total:
            value = onnx.numpy_helper.to_array(held)
            shaped = total[held.name].reshape(-1, *[1] * (value.ndim - 1))
            held.CopyFrom(onnx.numpy_helper.from_array((value * shaped).astype(value.dtype), held.name))
    return proto


def _total(found: Sequence[Pair], by_tensor: Mapping[str, Array]) -> dict[str, Array]:
    """Products of the factors by weight and bias: a kernel may be read from one pair and write another."""
    total: dict[str, Array] = {}
    for pair in found:
        factor = by_tensor.get(pair.tensor)
        if factor is None:
            continue
        for name in pair.writer.inputs[1:3]:
            if name:
                total[name] = total.get(name, np.ones_like(factor)) * factor
        kernel = pair.reader.inputs[1]
        total[kernel] = total.get(kernel, np.ones_like(factor)) / factor
    return total


def _is_depthwise(graph: Graph, op: Op) -> bool:
    weights = graph.shapes.get(op.inputs[1], ()) if op.op == "Conv" else ()
    return (
        len(weights) > 2
        and weights[1] == 1
        and op.attribute("group", 1) == weights[0]
        and is_own(graph, op, 1)
    )
