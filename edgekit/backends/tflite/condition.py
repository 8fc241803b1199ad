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


def bound_padding(source: Path, ranges: Ranges) -> tuple[bytes, Ranges]:
    """Bytes of the file, and ranges, without the "minus infinity" that pads the input of a max pooling.

    A padded MaxPool becomes PADV2 with -3.4e38 and MAX_POOL_2D. A scale that holds that number leaves one
    step for all others, and XNNPACK refuses to load the file. The lowest value of the padded tensor does as
    well: none is lower. Where that is zero, PADV2 becomes PAD, which XNNPACK takes.
    """
    from ai_edge_litert import schema_py_generated as schema

    graph, model = read_graph(source), read_model(source)
    found, changed = dict(ranges), False
    for op in graph.ops:
        readers = {o.op for o in graph.consumers(op.outputs[0])}
        if op.op != "PADV2" or readers != {"MAX_POOL_2D"} or op.outputs[0] in graph.outputs:
            continue
        value = graph.tensors[op.inputs[2]].values()
        before = found.get(graph.tensors[op.inputs[0]].name)
        if value is None or before is None or float(value.min()) >= min(before[0], 0.0):
            continue
        lowest = min(before[0], 0.0)
        found[graph.tensors[op.outputs[0]].name] = (lowest, max(before[1], lowest))
        operator = model.subgraphs[0].operators[op.index]
        if lowest == 0.0:
            operator.opcodeIndex = _opcode(model, schema.BuiltinOperator.PAD)
            operator.inputs = operator.inputs[:2]
            operator.builtinOptionsType = schema.BuiltinOptions.PadOptions
            operator.builtinOptions = schema.PadOptionsT()
        else:
            operator.inputs[2] = _new_constant(model, op.inputs[2], np.full(value.shape, lowest, value.dtype))
        changed = True
    return (write_model(model) if changed else source.read_bytes()), found


def _opcode(model: Any, builtin: int) -> int:
    """Index of an operator code of the file, added where it is not there."""
    from ai_edge_litert import schema_py_generated as schema

    for index, code in enumerate(model.operatorCodes):
        if max(code.builtinCode, code.deprecatedBuiltinCode) == builtin:
            return index
    code = schema.OperatorCodeT()
    code.builtinCode, code.deprecatedBuiltinCode, code.version = builtin, min(builtin, 127), 1
    model.operatorCodes.append(code)
    return len(model.operatorCodes) - 1


def _new_constant(model: Any, like: int, values: np.ndarray[Any, Any]) -> int:
    """Index of a new constant tensor with the shape and type of another one."""
    from ai_edge_litert import schema_py_generated as schema

    graph = model.subgraphs[0]
    pattern, tensor, buffer = graph.tensors[like], schema.TensorT(), schema.BufferT()
    tensor.name = b"%s.lowest_%d" % (pattern.name, len(graph.tensors))
    tensor.shape, tensor.type, tensor.hasRank = pattern.shape, pattern.type, pattern.hasRank
    tensor.buffer = len(model.buffers)
    model.buffers.append(buffer)
    graph.tensors.append(tensor)
    buffer.data = np.frombuffer(np.ascontiguousarray(values).tobytes(), dtype=np.uint8)
    return len(graph.tensors) - 1


def _store(model: Any, tensor: int, values: np.ndarray[Any, Any]) -> None:
    buffer = model.buffers[model.subgraphs[0].tensors[tensor].buffer]
    buffer.data = np.frombuffer(np.ascontiguousarray(values).tobytes(), dtype=np.uint8)
