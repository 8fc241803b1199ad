"""fp16: weights and arithmetic in half precision, inputs and outputs as they were."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from edgekit.backends.onnx.graph import Graph, graph_of, sort_nodes, unit_ops
from edgekit.backends.onnx.quantize import quiet
from edgekit.errors import Unsupported

if TYPE_CHECKING:
    from collections.abc import Mapping

    from edgekit.types import Scheme

LARGEST = 65504.0
"""The largest finite half-precision number."""

HEADROOM = 2.0
"""An operator stays float32 when a value that it was seen to make comes this close to the largest."""


def half(graph: Graph, scheme: Scheme, overflowing: list[str]) -> tuple[Any, list[str]]:
    """The ModelProto in fp16, and the units that stay float32: those that ``scheme`` names, those in
    ``overflowing`` (see :func:`beyond_range`) and those with constants beyond the range."""
    import onnx
    from onnxruntime.transformers.float16 import convert_float_to_float16

    known = {op.name for op in unit_ops(graph)}
    for unit, precision in scheme.overrides.items():
        if unit not in known:
            raise Unsupported(f"the model has no unit {unit!r}", hint="`edgekit inspect` lists the units")
        if precision not in ("float32", "fp16"):
            raise Unsupported(f"unit {unit!r} cannot be {precision} in an fp16 file", hint="use float32")
    chosen = [unit for unit, precision in scheme.overrides.items() if precision == "float32"]
    kept = list(dict.fromkeys([*chosen, *overflowing, *_large_constants(graph)]))
    proto = onnx.ModelProto()
    proto.CopyFrom(graph.proto)
    with quiet():
        made = convert_float_to_float16(proto, keep_io_types=True, node_block_list=kept)
    _bypass_round_trips(made)
    sort_nodes(made, [op.name for op in graph.ops])
    del made.graph.value_info[:]
    onnx.checker.check_model(made)
    return made, [k for k in kept if k in known]


def _bypass_round_trips(proto: Any) -> None:
    """Take out half precision between two operators that stay float32: the converter casts what each of
    them writes, and values that are too large would be lost on the way."""
    import onnx

    half_type, full = onnx.TensorProto.FLOAT16, onnx.TensorProto.FLOAT
    casts = {n.output[0]: n for n in proto.graph.node if n.op_type == "Cast"}
    kinds = {t: onnx.helper.get_node_attr_value(n, "to") for t, n in casts.items()}
    direct = {
        t: casts[n.input[0]].input[0]
        for t, n in casts.items()
        if kinds[t] == full and kinds.get(n.input[0]) == half_type
    }
    for node in proto.graph.node:
        for i, tensor in enumerate(node.input):
            if tensor in direct:
                node.input[i] = direct[tensor]
    while True:
        used = {t for n in proto.graph.node for t in n.input} | {o.name for o in proto.graph.output}
        unused = [t for t in casts if t not in used]
        if not unused:
            return
        for tensor in unused:
            proto.graph.node.remove(casts.pop(tensor))


def beyond_range(graph: Graph, extremes: Mapping[str, tuple[float, float]]) -> list[str]:
    """Units that read or write values close to or beyond what half precision holds."""
    limit = LARGEST / HEADROOM
    large = {t for t, (low, high) in extremes.items() if max(-low, high) > limit}
    return [op.name for op in unit_ops(graph) if large & {*op.inputs, *op.outputs}]


def _large_constants(graph: Graph) -> list[str]:
    """Operators with a finite constant that would become infinite. An infinite one (a mask) stays that."""
    found = []
    for op in unit_ops(graph):
        for tensor in op.inputs:
            if tensor in graph.constants and graph.is_float(tensor):
                value = graph.constant(tensor)
                if value is not None and (np.abs(value[np.isfinite(value)]) > LARGEST).any():
                    found.append(op.name)
                    break
    return found


def float_tensors(graph: Graph) -> list[str]:
    """Every float tensor that operators compute."""
    return [t for op in unit_ops(graph) for t in op.outputs if t and graph.is_float(t)]


def is_half(proto: Any) -> bool:
    """Whether most operators of a model compute in half precision."""
    graph = graph_of(proto)
    kinds = [graph.dtypes.get(op.outputs[0]) for op in unit_ops(graph)]
    return 2 * kinds.count("float16") > kinds.count("float32") + kinds.count("float16")
