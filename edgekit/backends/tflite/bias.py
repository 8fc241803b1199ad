"""Bias correction: the mean error of rounded weights and inputs is taken out of an int8 file's biases.

An operator's mean output is linear in its weights W and in the mean m of its input under each tap of the
kernel; with the weights V of the int8 file and the mean n of the rounded input the difference is W m - V n
(Nagel et al. 2019, "Data-free quantization through weight equalization and bias correction", section 4.2,
with measured means). It is added to the int32 bias, whose step is far finer than that of the output.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgekit.backends.tflite.flatbuffer import (
    Graph,
    Op,
    Tensor,
    read_graph,
    read_model,
    unit_names,
    write_model,
)

if TYPE_CHECKING:
    from edgekit.backends.calibration import Read
    from edgekit.types import Array

_KINDS = ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED")
_INT32 = 2**31 - 1
_SAME = 0
"""Padding.SAME of the schema."""


@dataclass(frozen=True, eq=False)
class _Layer:
    """An operator with int8 weights and a bias of its own: in the float file and in the int8 file."""

    op: Op
    name: str
    """Of its float input."""
    weights: Array
    """Float weights: (O, kh, kw, I) of a convolution, (1, kh, kw, O) of a depthwise one, (O, I) of a linear
    layer; ``rounded``: what the int8 file holds of them, as floats."""
    rounded: Array
    given: Tensor
    """The int8 input; ``bias``: the int32 bias."""
    bias: Tensor

    def correction(self, mean: Array, rounded_mean: Array) -> Array:
        """What to add to each output channel, from means of the input under each tap, (kh, kw, I)."""
        if self.op.op == "FULLY_CONNECTED":
            return np.asarray(self.weights @ mean[0, 0] - self.rounded @ rounded_mean[0, 0])
        if self.op.op == "DEPTHWISE_CONV_2D":
            times = self.weights.shape[3] // mean.shape[2]
            m, n = (np.repeat(x, times, axis=2) for x in (mean, rounded_mean))
            return np.asarray((self.weights[0] * m - self.rounded[0] * n).sum((0, 1)))
        out, _, _, each = self.weights.shape
        groups = mean.shape[2] // each
        parts = []
        for g in range(groups):
            rows = slice(g * out // groups, (g + 1) * out // groups)
            columns = slice(g * each, (g + 1) * each)
            both = ((self.weights, mean), (self.rounded, rounded_mean))
            then, now = (np.einsum("ohwi,hwi->o", w[rows], x[..., columns]) for w, x in both)
            parts.append(then - now)
        return np.concatenate(parts)


def corrected(file: Path, source: Path, read: Read, samples: Iterable[Sequence[Array]]) -> tuple[bytes, int]:
    """Bytes of the int8 ``file`` with corrected biases, and how many they are. ``source``: the float file it
    was made from; ``read`` gives the float activations of a sample by name."""
    layers = _layers(read_graph(source), read_graph(file))
    by_input: dict[str, list[_Layer]] = {}
    for layer in layers:
        by_input.setdefault(layer.name, []).append(layer)
    sums: dict[_Layer, Array] = {}
    count = 0
    for sample in samples:
        count += 1
        for name, value in read(sample):
            for layer in by_input.get(name, ()):
                means = [_under_taps(layer, x) for x in (value, _rounded(value, layer.given))]
                sums[layer] = sums.get(layer, 0.0) + np.stack(means)
    model = read_model(file)
    for layer, (mean, rounded_mean) in sums.items():
        _add(model, layer.bias, layer.correction(mean / count, rounded_mean / count))
    return write_model(model), len(sums)


def _layers(floats: Graph, integers: Graph) -> list[_Layer]:
    """Layers of the int8 file whose biases can be corrected: int8 throughout, the bias read by them alone."""
    ops = {name: floats.ops[i] for i, name in unit_names(floats).items()}
    readers: dict[int, int] = {}
    for op in integers.ops:
        for t in op.inputs:
            readers[t] = readers.get(t, 0) + 1
    found = []
    for index, name in unit_names(integers).items():
        op, twin = integers.ops[index], ops.get(name)
        if op.op not in _KINDS or len(op.inputs) < 3 or twin is None or twin.op != op.op:
            continue
        given, stored, bias = (integers.tensors[t] for t in op.inputs[:3])
        weights, rounded = floats.tensors[twin.inputs[1]].values(), stored.values()
        if weights is None or rounded is None or not bias.constant or readers[bias.index] > 1:
            continue
        if (given.dtype, stored.dtype, bias.dtype) != ("int8", "int8", "int32"):
            continue
        shape = [1] * rounded.ndim
        shape[stored.axis] = -1
        real = rounded.astype(np.float64) * np.reshape(stored.scale, shape if len(stored.scale) > 1 else ())
        source = floats.tensors[twin.inputs[0]].name
        found.append(_Layer(op, source, weights.astype(np.float64), real, given, bias))
    return found


def _rounded(value: Array, like: Tensor) -> Array:
    """What the int8 file stores of float values, as floats."""
    scale, zero = np.float32(like.scale[0]), like.zero_point[0]
    return np.asarray((np.clip(np.rint(value / scale) + zero, -128, 127) - zero) * scale)


def _under_taps(layer: _Layer, value: Array) -> Array:
    """Mean input under each tap of the kernel over all positions, (kh, kw, I), zeros in the padding."""
    if layer.op.op == "FULLY_CONNECTED":
        vectors = value.reshape(-1, layer.weights.shape[1])
        return np.asarray(vectors.mean(0, dtype=np.float64)[None, None])
    options = layer.op.options
    kernel = layer.weights.shape[1:3]
    steps = (options["strideH"], options["strideW"])
    spread = (options["dilationHFactor"], options["dilationWFactor"])
    sizes, pads = [], []
    for length, taps, step, wide in zip(value.shape[1:3], kernel, steps, spread, strict=True):
        reach = (taps - 1) * wide + 1
        if options["padding"] == _SAME:
            positions = -(-length // step)
            around = max(0, (positions - 1) * step + reach - length)
        else:
            positions, around = (length - reach) // step + 1, 0
        sizes.append(positions)
        pads.append((around // 2, around - around // 2))
    padded = np.pad(value, ((0, 0), *pads, (0, 0)))
    found = np.empty((*kernel, value.shape[3]))
    for i in range(kernel[0]):
        rows = slice(i * spread[0], i * spread[0] + (sizes[0] - 1) * steps[0] + 1, steps[0])
        for j in range(kernel[1]):
            columns = slice(j * spread[1], j * spread[1] + (sizes[1] - 1) * steps[1] + 1, steps[1])
            found[i, j] = padded[:, rows, columns].mean((0, 1, 2), dtype=np.float64)
    return found


def _add(model: Any, bias: Tensor, delta: Array) -> None:
    """Add real numbers to an int32 bias."""
    buffer = model.buffers[model.subgraphs[0].tensors[bias.index].buffer]
    before = np.frombuffer(bytes(buffer.data), np.int32)
    scale = np.asarray(bias.scale, np.float64)
    after = np.clip(before + np.rint(delta / np.where(scale > 0, scale, np.inf)), -_INT32, _INT32)
    buffer.data = np.frombuffer(after.astype(np.int32).tobytes(), dtype=np.uint8)
