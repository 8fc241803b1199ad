"""Which operators of a file a delegate computes with its own fast kernels."""

from __future__ import annotations

import tempfile
from pathlib import Path

from edgekit.backends.onnx.graph import (
    DEQUANTIZE,
    MOVES,
    QUANTIZE,
    Graph,
    Op,
    graph_of,
    op_precision,
    read_graph,
    unit_ops,
    units,
)
from edgekit.types import Artifact, OpCoverage

_QGEMM_FLOAT_INPUTS = 7
"""QGemm writes integers when an output scale follows its other inputs."""

_FOLDED = frozenset({"Relu", "Clip"})
"""What ONNX Runtime drops in front of QuantizeLinear; others that are gone were taken apart into several."""

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
    fast = precision == "dynamic" or op in MOVES
    reason = "" if fast else f"{op} has no dynamic int8 kernel: it runs in float"
    return OpCoverage(index=index, op=op, accelerated=fast, reason=reason)


def _quantized(graph: Graph, op: Op) -> OpCoverage:
    fast = op.op in MOVES or not graph.data_inputs(op) or op_precision(graph, op) == "int8"
    reason = "" if fast else f"{op.op} is not quantised: OpenVINO runs it in float"
    return OpCoverage(index=op.index, op=op.op, accelerated=fast, reason=reason)


def _optimized(path: Path) -> Graph:
    """The graph that ONNX Runtime runs: QDQ groups fused, before layouts are chosen for one processor."""
    import onnx
    import onnxruntime

    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "optimized.onnx"
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
        options.optimized_model_filepath = str(target)
        onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        return graph_of(onnx.load(str(target)))  # not checked: it has operators of com.microsoft


def _not_integer(graph: Graph, optimized: Graph) -> dict[str, str]:
    """Reasons by unit name for those that compute in float."""
    running = {op.name: op for op in optimized.ops}
    reasons: dict[str, str] = {}
    for op in unit_ops(graph):
        now = running.get(op.name)
        if not graph.data_inputs(op) or (now is None and op.op in MOVES | _FOLDED):
            continue
        if now is not None and (now.op.startswith(_INTEGER_OPS) or _is_stored(optimized, now.inputs[0])):
            continue
        if op.op in MOVES:
            reasons[op.name] = f"{op.op} moves float values"
        elif op_precision(graph, op) == "int8":
            reasons[op.name] = f"ONNX Runtime has no integer kernel for {op.op} here: it runs in float"
        else:
            reasons[op.name] = f"{op.op} is not quantised: it runs in float"
    return reasons


def _is_stored(graph: Graph, tensor: str) -> bool:
    """Whether a tensor of the optimised graph holds integers. Shape inference does not know the operators
    of com.microsoft, so this asks who wrote it."""
    writer = graph.producers.get(tensor)
    if writer is None:
        return False
    if writer.op == QUANTIZE or writer.op.startswith("QLinear"):
        return True
    if writer.op == "QGemm":
        return len(writer.inputs) > _QGEMM_FLOAT_INPUTS and bool(writer.inputs[_QGEMM_FLOAT_INPUTS])
    return (writer.op in MOVES or writer.op == "MaxPool") and _is_stored(graph, writer.inputs[0])
