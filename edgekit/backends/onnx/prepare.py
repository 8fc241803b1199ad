"""The float graph in the form that all precisions start from."""

from __future__ import annotations

from typing import Any

import numpy as np

from edgekit.backends.onnx.graph import Graph, Op, graph_of


def prepare(proto: Any) -> Any:
    """Unique node names, and means over all pixels as GlobalAveragePool.

    torch exports x.mean((2, 3)) as ReduceMean, for which neither ONNX Runtime nor TensorRT has an int8
    kernel; both have one for GlobalAveragePool, which computes the same.
    """
    import onnx

    graph = graph_of(proto)
    nodes: list[Any] = []
    for op in graph.ops:
        op.node.name = op.name
        nodes += _pooled(proto, graph, op) if _is_pixel_mean(graph, op) else [op.node]
    kept = [onnx.NodeProto.FromString(n.SerializeToString()) for n in nodes]
    del proto.graph.node[:]
    proto.graph.node.extend(kept)
    used = {t for n in kept for t in n.input} | {o.name for o in proto.graph.output}
    unused = [i for i in proto.graph.initializer if i.name not in used]
    for held in unused:
        proto.graph.initializer.remove(held)
    del proto.graph.value_info[:]
    made = onnx.shape_inference.infer_shapes(proto)
    onnx.checker.check_model(made)
    return made


def _is_pixel_mean(graph: Graph, op: Op) -> bool:
    """Whether an operator averages a (n, c, ...) tensor over every axis but the first two."""
    if op.op != "ReduceMean":
        return False
    rank = len(graph.shapes.get(op.inputs[0], ()))
    axes = op.attribute("axes")
    if axes is None and len(op.inputs) > 1:
        held = graph.constant(op.inputs[1])
        axes = None if held is None else held.ravel().tolist()
    return rank > 2 and axes is not None and sorted(a % rank for a in axes) == list(range(2, rank))


def _pooled(proto: Any, graph: Graph, op: Op) -> list[Any]:
    import onnx

    output = op.outputs[0]
    if op.attribute("keepdims", 1):
        return [onnx.helper.make_node("GlobalAveragePool", [op.inputs[0]], [output], name=op.name)]
    pooled, shape = f"{output}_pooled", f"{output}_shape"
    flat = np.array(graph.shapes[op.inputs[0]][:2], dtype=np.int64)
    proto.graph.initializer.append(onnx.numpy_helper.from_array(flat, shape))
    return [
        onnx.helper.make_node("GlobalAveragePool", [op.inputs[0]], [pooled], name=op.name),
        onnx.helper.make_node("Reshape", [pooled, shape], [output], name=f"{op.name}_flat"),
    ]
