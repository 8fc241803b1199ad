"""Values between zero and a limit moved around zero, for delegates whose activations have no zero point.

A symmetric int8 range wastes its negative half behind a ReLU6. Clip(x, 0, 6) minus c is
Clip(x - c, -c, 6 - c): the layer before takes -c into its bias, the layers behind take c times the sum of
their weights into theirs. The function stays what it was, no operator is added, and the tensor in between
has twice the resolution. Layers that pad with zeros cannot read it: zero would no longer be zero.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from edgekit.backends.onnx.graph import Graph, Op, clip_limit, is_own

if TYPE_CHECKING:
    from edgekit.types import Array


@dataclass(frozen=True)
class Shift:
    """A layer, the Clip(0, ``limit``) behind it, the tensor that the Clip writes, and its readers."""

    writer: Op
    clip: Op
    tensor: str
    limit: float
    readers: tuple[Op, ...]


def shifts(graph: Graph) -> list[Shift]:
    """All places of a float graph; every bias that changes belongs to one layer alone."""
    found = []
    for op in graph.ops:
        limit = clip_limit(graph, op)
        writer = graph.producers.get(op.inputs[0]) if limit is not None else None
        readers = tuple(graph.consumers.get(op.outputs[0], ()))
        if limit is None or writer is None or not readers or op.outputs[0] in graph.outputs:
            continue
        alone = graph.only_reader(op.inputs[0]) is op
        if (
            writer.op == "Conv"
            and alone
            and _has_bias(graph, writer)
            and all(_takes(graph, r) for r in readers)
        ):
            found.append(Shift(writer, op, op.outputs[0], limit, readers))
    return found


def _has_bias(graph: Graph, op: Op) -> bool:
    return len(op.inputs) > 2 and bool(op.inputs[2]) and is_own(graph, op, 2)


def _takes(graph: Graph, op: Op) -> bool:
    """Whether a layer reads the tensor through constant weights, all of them at every position."""
    if op.op not in ("Conv", "Gemm") or op.inputs[1] not in graph.constants or not _has_bias(graph, op):
        return False
    if op.op == "Gemm":
        return not op.attribute("transA", 0) and op.attribute("beta", 1.0) == 1.0
    return not any(op.attribute("pads", ())) and op.attribute("auto_pad", "NOTSET") in ("NOTSET", "VALID")


def shifted(graph: Graph, found: Sequence[Shift], by_tensor: Mapping[str, float]) -> Any:
    """A copy of the model in which each tensor is less by its offset in ``by_tensor``."""
    import onnx

    proto = onnx.ModelProto()
    proto.CopyFrom(graph.proto)
    nodes = {node.output[0]: node for node in proto.graph.node}
    added: dict[str, Array] = {}
    for place in found:
        offset = by_tensor.get(place.tensor)
        if offset is None:
            continue
        bias = place.writer.inputs[2]
        added[bias] = added.get(bias, np.zeros(1)) - offset
        for reader in place.readers:
            bias = reader.inputs[2]
            added[bias] = added.get(bias, np.zeros(1)) + offset * _sums(graph, reader)
        limits = (-offset, place.limit - offset)
        for index, (end, limit) in enumerate(zip(("low", "high"), limits, strict=True), 1):
            name = f"{place.tensor}_{end}"
            held = np.array(limit, dtype=graph.dtypes[place.tensor])
            proto.graph.initializer.append(onnx.numpy_helper.from_array(held, name))
            nodes[place.tensor].input[index] = name
    for held in proto.graph.initializer:
        if held.name in added:
            value = onnx.numpy_helper.to_array(held)
            held.CopyFrom(
                onnx.numpy_helper.from_array((value + added[held.name]).astype(value.dtype), held.name)
            )
    return proto


def _sums(graph: Graph, op: Op) -> Array:
    """What a layer adds to each output channel when all of its inputs are 1."""
    weights = graph.constant(op.inputs[1])
    assert weights is not None
    weights = weights.astype(np.float64)
    if op.op == "Conv":
        return np.asarray(weights.sum(tuple(range(1, weights.ndim))))
    return np.asarray(op.attribute("alpha", 1.0) * weights.sum(1 if op.attribute("transB", 0) else 0))
