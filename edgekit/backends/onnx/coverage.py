"""Which operators of a file a delegate computes with its own fast kernels."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekit.backends.onnx.graph import (
    DEQUANTIZE,
    MOVES,
    Graph,
    Op,
    op_precision,
    read_graph,
    unit_ops,
    units,
)
from edgekit.types import Artifact, OpCoverage

if TYPE_CHECKING:
    from collections.abc import Iterator

_INTEGER_OPS = ("QLinear", "QGemm", "MatMulInteger", "ConvInteger", "DynamicQuantize")


def coverage(artifact: Artifact, delegate: str) -> list[OpCoverage]:
    """Per unit. For "cpu" ONNX Runtime itself is asked: the file is optimised as it would be on a device,
    and an operator counts when it has become an integer kernel or moves integers."""
    if artifact.meta.get("units") is not None:
        return [_plain(u.index, u.op, u.precision) for u in units(artifact)]
    graph = read_graph(artifact.path)
    found = unit_ops(graph)
    if not any(op.op == DEQUANTIZE for op in graph.ops):
        return [OpCoverage(index=op.index, op=op.op, accelerated=True) for op in found]
    if delegate == "openvino":
        return [_quantized(graph, op) for op in found]
    reasons = _not_integer(graph, _optimized(artifact.path))
    return [
        OpCoverage(
            index=op.index, op=op.op, accelerated=op.name not in reasons, reason=reasons.get(op.name, "")
        )
        for op in found
    ]


def _plain(index: int, op: str, precision: str) -> OpCoverage:
    reason = (
        "" if precision == "dynamic" or op in MOVES else f"{op} has no dynamic int8 kernel: runs in float"
    )
    return OpCoverage(index=index, op=op, accelerated=not reason, reason=reason)


def _quantized(graph: Graph, op: Op) -> OpCoverage:
    fast = op.op in MOVES or not graph.data_inputs(op) or op_precision(graph, op) == "int8"
    reason = "" if fast else f"{op.op} is not quantised: OpenVINO runs it in float"
    return OpCoverage(index=op.index, op=op.op, accelerated=fast, reason=reason)


def _optimized(path: Path) -> Graph:
    """The graph that ONNX Runtime runs: QDQ groups fused, before layouts are chosen for one processor."""
    import onnxruntime

    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "optimized.onnx"
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
        options.optimized_model_filepath = str(target)
        onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        import onnx

        return _unchecked(onnx.load(str(target)))


def _unchecked(proto: Any) -> Graph:
    from edgekit.backends.onnx.graph import graph_of

    return graph_of(proto)


def _not_integer(graph: Graph, optimized: Graph) -> dict[str, str]:
    """Reasons by unit name for those that compute in float."""
    running = {op.name: op for op in optimized.ops}
    reasons: dict[str, str] = {}
    for op in unit_ops(graph):
        now = running.get(op.name)
        if now is None or now.op.startswith(_INTEGER_OPS) or not graph.data_inputs(op):
            continue  # folded into its neighbours, or without values of its own
        if not any(_is_dequantized(optimized, t) for t in _data(optimized, now)) and _on_integers(
            optimized, now
        ):
            continue
        if op_precision(graph, op) == "int8" and op.op not in MOVES:
            reasons[op.name] = f"ONNX Runtime has no integer kernel for {op.op} here: it runs in float"
        elif op.op in MOVES:
            reasons[op.name] = f"{op.op} moves float values"
        else:
            reasons[op.name] = f"{op.op} is not quantised: it runs in float"
    return reasons


def _data(graph: Graph, op: Op) -> Iterator[str]:
    return (t for t in op.inputs if t and t not in graph.constants)


def _is_dequantized(graph: Graph, tensor: str) -> bool:
    producer = graph.producers.get(tensor)
    return producer is not None and producer.op == DEQUANTIZE


def _on_integers(graph: Graph, op: Op) -> bool:
    """Whether an operator of the optimised graph reads integers: it comes behind an integer kernel."""
    return any(graph.dtypes.get(t) in ("int8", "uint8") for t in _data(graph, op))
