"""Bias correction: the mean error of rounded weights and inputs is taken out of an int8 file's biases.

An operator's mean output is linear in its weights W and in the mean m of its input under each tap of the
kernel; with the weights V of the int8 file and the mean n of the rounded input the difference is W m - V n
(Nagel et al. 2019, "Data-free quantization through weight equalization and bias correction", section 4.2,
with measured means). It is added to the int32 bias, whose step is far finer than that of the output.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgekit.backends import mean_errors
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
    """An operator with int8 weights and an int32 bias.

    ``weights``: (O, kh, kw, I) of a convolution, (1, kh, kw, O) of a depthwise one, (O, I) of a linear layer,
    in the float file; ``stored`` in the int8 file. ``source``: name of its input in the float file;
    ``given``: the input in the int8 file. ``shared``: whether other operators read the bias as well.
    """

    op: Op
    source: str
    weights: Tensor
    stored: Tensor
    given: Tensor
    bias: Tensor
    shared: bool

    def errors(self, means: Sequence[tuple[Array, Array]]) -> list[Array]:
        """The mean error of each output channel in each sample, from means of the input and of the rounded
        input under each tap, (kh, kw, I)."""
        weights, integers = self.weights.values(), self.stored.values()
        assert weights is not None and integers is not None
        shape = [1] * weights.ndim
        shape[self.stored.axis] = len(self.stored.scale)
        rounded = integers * np.reshape(self.stored.scale, shape)
        return [self._mean_output(weights, m) - self._mean_output(rounded, n) for m, n in means]

    def _mean_output(self, weights: Array, mean: Array) -> Array:
        """The operator's linear part on a mean input."""
        if self.op.op == "FULLY_CONNECTED":
            return np.asarray(weights @ mean[0, 0])
        if self.op.op == "DEPTHWISE_CONV_2D":
            repeated = np.repeat(mean, weights.shape[3] // mean.shape[2], axis=2)
            return np.asarray((weights[0] * repeated).sum((0, 1)))
        groups = mean.shape[2] // weights.shape[3]
        parts = zip(np.split(weights, groups), np.split(mean, groups, axis=2), strict=True)
        return np.concatenate([np.einsum("ohwi,hwi->o", w, m) for w, m in parts])


def corrected(file: Path, source: Path, read: Read, samples: Iterable[Sequence[Array]]) -> tuple[bytes, int]:
    """Bytes of the int8 ``file`` with corrected biases, and how many they are. ``source``: the float file it
    was made from; ``read`` gives the float activations of a sample by name."""
    by_source: dict[str, list[_Layer]] = {}
    for layer in _layers(read_graph(source), read_graph(file)):
        by_source.setdefault(layer.source, []).append(layer)
    seen: dict[_Layer, list[tuple[Array, Array]]] = {}
    for sample in samples:
        for name, value in read(sample):
            for layer in by_source.get(name, ()):
                means = _under_taps(layer, value), _under_taps(layer, _rounded(value, layer.given))
                seen.setdefault(layer, []).append(means)
    model = read_model(file)
    for layer, found in seen.items():
        _add(model, layer, mean_errors.correction(layer.errors(found)))
    return write_model(model), len(seen)


def _layers(floats: Graph, integers: Graph) -> list[_Layer]:
    """Layers of the int8 file that compute in int8 throughout and have a bias."""
    ops = {name: floats.ops[i] for i, name in unit_names(floats).items()}
    found = []
    for index, name in unit_names(integers).items():
        op, twin = integers.ops[index], ops.get(name)
        if op.op not in _KINDS or len(op.inputs) < 3 or twin is None or twin.op != op.op:
            continue
        source, weights = (floats.tensors[t] for t in twin.inputs[:2])
        given, stored, bias = (integers.tensors[t] for t in op.inputs[:3])
        if not (weights.constant and stored.constant and bias.constant) or weights.shape != stored.shape:
            continue
        if (given.dtype, stored.dtype, bias.dtype) == ("int8", "int8", "int32"):
            shared = len(integers.consumers(bias.index)) > 1
            found.append(_Layer(op, source.name, weights, stored, given, bias, shared))
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


def _add(model: Any, layer: _Layer, delta: Array) -> None:
    """Add real numbers to an int32 bias; one that others read as well is copied for the layer."""
    graph = model.subgraphs[0]
    tensor = graph.tensors[layer.bias.index]
    before = np.frombuffer(bytes(model.buffers[tensor.buffer].data), np.int32)
    scale = np.asarray(layer.bias.scale, np.float64)
    after = np.clip(before + np.rint(delta / np.where(scale > 0, scale, np.inf)), -_INT32, _INT32)
    if layer.shared:
        tensor, buffer = copy.copy(tensor), copy.copy(model.buffers[tensor.buffer])
        tensor.name = b"%s.of_%d" % (tensor.name, layer.op.index)
        tensor.buffer = len(model.buffers)
        model.buffers.append(buffer)
        graph.operators[layer.op.index].inputs[2] = len(graph.tensors)
        graph.tensors.append(tensor)
    model.buffers[tensor.buffer].data = np.frombuffer(after.astype(np.int32).tobytes(), dtype=np.uint8)
