"""Float-side repairs that a .tflite needs before it can be quantised without damage."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from edgekit.backends.calibration import Ranges
from edgekit.backends.tflite.flatbuffer import constant, read_graph, read_model, write_model

if TYPE_CHECKING:
    from pathlib import Path

_WEIGHTED = {"CONV_2D": 0, "DEPTHWISE_CONV_2D": 3, "FULLY_CONNECTED": 0}
"""Operators with weights and the axis of their output channels."""

_HEADROOM = 2.0**30
"""Quantised biases stay below half of the int32 range."""


@dataclass(frozen=True)
class DeadChannels:
    """Output channels of one operator whose weights are (almost) zero while the bias is not."""

    op_index: int
    op: str
    channels: tuple[int, ...]


def protect_dead_channels(source: Path, ranges: Ranges) -> tuple[bytes, list[DeadChannels]]:
    """Make every int32 bias representable; returns the file's bytes and what was changed.

    A per-channel weight scale is max|w| / 127 and the bias scale is weight scale * input scale. In a
    channel that training has driven to zero the weight scale vanishes, the bias no longer fits into
    int32, and ai-edge-quantizer 0.10 stores a wrong constant. One weight of such a channel is set to the
    smallest value that lets the bias fit. Whatever the input, that weight adds at most
    255 * 127 / 2^30 = 3e-5 of the bias.
    """
    graph = read_graph(source)
    model = read_model(source)
    changed = []
    for op in graph.ops:
        if op.op not in _WEIGHTED or len(op.inputs) < 3 or not graph.tensors[op.inputs[1]].constant:
            continue
        name = graph.tensors[op.inputs[0]].name
        if name not in ranges or not graph.tensors[op.inputs[2]].constant:
            continue
        lo, hi = ranges[name]
        input_scale = (max(hi, 0.0) - min(lo, 0.0)) / 255
        weights = constant(model, op.inputs[1]).copy()
        bias = constant(model, op.inputs[2])
        flat = np.moveaxis(weights, _WEIGHTED[op.op], 0).reshape(bias.size, -1)
        if input_scale <= 0:
            continue
        needed = np.abs(bias) * 127 / (input_scale * _HEADROOM)
        channels = np.flatnonzero(np.abs(flat).max(axis=1) < needed)
        if channels.size == 0:
            continue
        moved = np.moveaxis(weights, _WEIGHTED[op.op], 0)
        for c in channels.tolist():
            moved[c].flat[0] = needed[c]
        _store(model, op.inputs[1], weights)
        changed.append(DeadChannels(op.index, op.op, tuple(int(c) for c in channels)))
    return (write_model(model) if changed else source.read_bytes()), changed


def _store(model: Any, tensor: int, values: np.ndarray[Any, Any]) -> None:
    buffer = model.buffers[model.subgraphs[0].tensors[tensor].buffer]
    buffer.data = np.frombuffer(np.ascontiguousarray(values).tobytes(), dtype=np.uint8)
