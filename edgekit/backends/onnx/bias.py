"""Bias correction: take the mean error of quantised weights and inputs out of the biases that stay."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from edgekit.backends.onnx.graph import Graph, Op
from edgekit.backends.onnx.placement import Placement, Rules, Weighted

if TYPE_CHECKING:
    from collections.abc import Iterable

    from edgekit.backends.calibration import Ranges, Read
    from edgekit.types import Array

_SIGNED_MAX = 127


def corrections(
    graph: Graph,
    placement: Placement,
    ranges: Ranges,
    rules: Rules,
    read: Read,
    samples: Iterable[Sequence[Array]],
) -> dict[str, Array]:
    """What to add to each bias, by its name, so that outputs have the mean that they have in float.

    An operator's mean output is linear in its weights W and in the mean m of its input, per channel; with
    the quantised weights V and the mean n of the quantised input the difference is W m - V n (Nagel et al.
    2019, "Data-free quantization", section 4.2, with measured means). Taps that fall into the padding are
    weighted by the share of outputs for which they do not.
    """
    found = [w for w in placement.weighted if w.bias is not None and w.op.op in ("Conv", "Gemm")]
    used: dict[str, int] = {}
    for w in found:
        used[str(w.bias)] = used.get(str(w.bias), 0) + 1
    found = [w for w in found if used[str(w.bias)] == 1]
    limits = {w.input: ranges[stored] for w in found if (stored := _stored(placement, w.input)) in ranges}
    means = _means(limits, rules, read, samples)
    top = rules.weight_max
    return {str(w.bias): _correction(graph, w, top, *means[w.input]) for w in found if w.input in means}


def _stored(placement: Placement, tensor: str) -> str:
    """The tensor whose range a moved one has."""
    while tensor in placement.shared:
        tensor = placement.shared[tensor][0]
    return tensor


def corrected(graph: Graph, deltas: Mapping[str, Array]) -> Any:
    """A copy of the model with the corrections in its biases."""
    import onnx

    proto = onnx.ModelProto()
    proto.CopyFrom(graph.proto)
    for held in proto.graph.initializer:
        if held.name in deltas:
            value = onnx.numpy_helper.to_array(held)
            new = (value + deltas[held.name].reshape(value.shape)).astype(value.dtype)
            held.CopyFrom(onnx.numpy_helper.from_array(new, held.name))
    return proto


def _means(
    limits: Mapping[str, tuple[float, float]],
    rules: Rules,
    read: Read,
    samples: Iterable[Sequence[Array]],
) -> dict[str, tuple[Array, Array]]:
    """Mean of each channel (axis 1) of each tensor, in float and quantised."""
    sums: dict[str, Array] = {}
    count = 0
    for sample in samples:
        count += 1
        for name, value in read(sample):
            if name in limits and value.ndim > 1:
                axes = (0, *range(2, value.ndim))
                rounded = _rounded(value, limits[name], rules)
                both = np.stack([v.mean(axes, dtype=np.float64) for v in (value, rounded)])
                sums[name] = sums[name] + both if name in sums else both
    return {name: (both[0] / count, both[1] / count) for name, both in sums.items()}


def _rounded(value: Array, limits: tuple[float, float], rules: Rules) -> Array:
    """Values after QuantizeLinear and DequantizeLinear, as ONNX Runtime's quantiser chooses the scale."""
    low, high = min(limits[0], 0.0), max(limits[1], 0.0)
    if rules.unsigned:
        scale = (high - low) / 255 or 1.0
        zero = np.rint(-low / scale)
        first, last = 0.0, 255.0
    else:
        scale = max(-low, high) / _SIGNED_MAX or 1.0
        zero, first, last = 0.0, -128.0, 127.0
    stored = np.clip(np.rint(value / np.float32(scale)) + zero, first, last)
    return np.asarray((stored - zero) * np.float32(scale))


def _correction(graph: Graph, w: Weighted, largest: int, mean: Array, quantized_mean: Array) -> Array:
    weights = graph.constant(w.weights)
    assert weights is not None
    if w.op.op == "Gemm":
        rows = weights if w.op.attribute("transB", 0) else weights.T
        alpha = w.op.attribute("alpha", 1.0)
        rounded = _rounded_weights(rows, largest, per_channel=w.axis is not None)
        return np.asarray(alpha * (rows @ mean - rounded @ quantized_mean))
    rounded = _rounded_weights(weights, largest, per_channel=w.axis is not None)
    coverage = _tap_coverage(graph, w.op, weights.shape[2:])
    groups = w.op.attribute("group", 1)
    out, each = weights.shape[:2]
    per_tap = tuple(range(2, weights.ndim))
    now, then = (rounded * coverage).sum(per_tap), (weights * coverage).sum(per_tap)
    m = np.repeat(mean.reshape(groups, each), out // groups, axis=0)
    n = np.repeat(quantized_mean.reshape(groups, each), out // groups, axis=0)
    return np.asarray((then * m - now * n).sum(1))


def _rounded_weights(weights: Array, largest: int, *, per_channel: bool) -> Array:
    flat = np.abs(weights).reshape(weights.shape[0], -1).max(1)
    top = flat if per_channel else np.full_like(flat, flat.max())
    scale = np.where(top > 0, top / largest, 1.0).reshape(-1, *[1] * (weights.ndim - 1))
    return np.asarray(np.rint(weights / scale) * scale)


def _tap_coverage(graph: Graph, op: Op, kernel: tuple[int, ...]) -> Array:
    """For each tap of a kernel, the share of output positions at which it lies inside the input."""
    spatial = graph.shapes[op.inputs[0]][2:]
    outputs = graph.shapes[op.outputs[0]][2:]
    strides = op.attribute("strides", [1] * len(kernel))
    dilations = op.attribute("dilations", [1] * len(kernel))
    pads = op.attribute("pads", [0] * 2 * len(kernel))
    shares = []
    for axis, size in enumerate(kernel):
        first = np.arange(outputs[axis])[None, :] * strides[axis] - pads[axis]
        at = first + np.arange(size)[:, None] * dilations[axis]
        shares.append(((at >= 0) & (at < spatial[axis])).mean(1))
    grid = shares[0]
    for share in shares[1:]:
        grid = np.multiply.outer(grid, share)
    return np.asarray(grid).reshape(kernel) if math.prod(kernel) > 1 else np.ones(kernel)
