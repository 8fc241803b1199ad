"""What TensorRT's explicit quantisation asks of an ONNX file, read off the graph.

Sources: NVIDIA's TensorRT documentation ("Explicit Quantization"), docs/operators.md of onnx-tensorrt, and
the parser's own assertions. TensorRT does not run without an NVIDIA GPU: these rules were tried on files, not
against a builder.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from edgekit.backends.onnx import graph as onnx_graph
from edgekit.backends.onnx.graph import DEQUANTIZE, QUANTIZE, Graph
from edgekit.backends.onnx.tensorrt import operators, qdq
from edgekit.backends.onnx.tensorrt.lines import Line, line_of
from edgekit.backends.onnx.tensorrt.violation import RULES, Violation
from edgekit.types import OpCoverage

__all__ = ["RULES", "Violation", "coverage", "violations"]

_MIN_OPSET = 13
_NO_TYPES = frozenset(("DOUBLE", "STRING", "COMPLEX64", "COMPLEX128", "INT16", "UINT16", "UINT32", "UINT64"))
_TYPES_FROM_10 = frozenset(
    ("BFLOAT16", "FLOAT8E4M3FN", "FLOAT8E4M3FNUZ", "FLOAT8E5M2", "FLOAT8E5M2FNUZ", "INT4", "UINT4", "UINT8")
)
_TYPE_HINT = {"DOUBLE": "export the model in float32", "STRING": "move text out of the model"}


def violations(source: Path | Any, version: str = "") -> list[Violation]:
    """All places where an ONNX file (a path or a ModelProto) breaks a rule of the TensorRT ``version``.

    Empty for a file that TensorRT should take and run in int8 wherever it has Q/DQ pairs. In the order of
    RULES, then of the graph. Raises UserError for a damaged file, Unsupported for an unknown version.
    """
    line, graph = line_of(version), _read(source)
    found = [*_file(graph, line), *_operators(graph, line)]
    for op in graph.ops:
        if op.op in (QUANTIZE, DEQUANTIZE):
            found += qdq.quantizer(graph, op, line)
        elif op.op in qdq.WEIGHTED:
            found += qdq.weighted(graph, op)
        elif op.op in qdq.ONE_SCALE:
            found += qdq.one_scale(graph, op)
    order = {rule: i for i, rule in enumerate(RULES)}
    return sorted(found, key=lambda v: order[v.rule])


def coverage(source: Path | Any, version: str = "") -> list[OpCoverage]:
    """Per operator of the main graph, whether TensorRT imports it, and why not.

    One operator that it does not import is enough for no engine at all.
    """
    graph, found = _read(source), []
    for op in graph.ops:
        reason = next(_refusals(op.node, line_of(version)), None)
        found.append(OpCoverage(index=op.index, op=op.op, accelerated=reason is None, reason=reason or ""))
    return found


def _read(source: Path | Any) -> Graph:
    return onnx_graph.read_graph(source) if isinstance(source, Path) else onnx_graph.graph_of(source)


# -- the file as a whole


def _file(graph: Graph, line: Line) -> Iterator[Violation]:
    quantized = any(op.op in (QUANTIZE, DEQUANTIZE) for op in graph.ops)
    if quantized and graph.opset < _MIN_OPSET:
        yield Violation(
            rule="opset",
            node="",
            reason=f"opset {graph.opset} has no scales per channel",
            change=f"export with opset {_MIN_OPSET} to {line.max_opset}",
        )
    if graph.opset > line.max_opset:
        yield Violation(
            rule="opset",
            node="",
            reason=f"TensorRT {line.name} knows opsets up to {line.max_opset}, the file has {graph.opset}",
            change=f"export with opset {line.max_opset}",
        )
    for name in graph.inputs:
        if any(d < 1 for d in graph.shapes.get(name, ())):
            shown = [d if d > 0 else "?" for d in graph.shapes[name]]
            yield Violation(
                rule="static-shapes",
                node=name,
                reason=f"the input has the shape {shown}",
                change="export with a fixed shape: edgekit's scripts build no optimisation profiles",
            )
    yield from _types(graph, line)


def _types(graph: Graph, line: Line) -> Iterator[Violation]:
    """Declared tensors with a type that TensorRT lacks. Those of Q/DQ have rules of their own."""
    import onnx

    own = {t for op in graph.ops if op.op in (QUANTIZE, DEQUANTIZE) for t in (*op.inputs, *op.outputs)}
    refused = _NO_TYPES | (_TYPES_FROM_10 if line.since < (10, 0) else frozenset())
    main = graph.proto.graph
    tensors = [(i.name, i.data_type) for i in main.initializer]
    values = (*main.input, *main.output, *main.value_info)
    tensors += [(v.name, v.type.tensor_type.elem_type) for v in values]
    for op in graph.ops:
        held = op.attribute("value") if op.op == "Constant" else None
        if held is not None:
            tensors.append((op.outputs[0], held.data_type))
        if op.op == "Cast":
            tensors.append((op.outputs[0], int(op.attribute("to"))))
    for name, kind in dict.fromkeys(tensors):
        shown = onnx.TensorProto.DataType.Name(kind)
        if shown in refused and name not in own:
            yield Violation(
                rule="dtype",
                node=name,
                reason=f"TensorRT {line.name} has no tensors of type {shown.lower()}",
                change=_TYPE_HINT.get(shown, "use float32, float16, int32 or bool"),
            )


def _operators(graph: Graph, line: Line) -> Iterator[Violation]:
    for op in graph.ops:
        for reason in _refusals(op.node, line):
            yield Violation(
                rule="operator",
                node=op.name,
                reason=reason,
                change="write it with operators that TensorRT imports, or leave it out of the model",
            )


def _refusals(node: Any, line: Line) -> Iterator[str]:
    """Why TensorRT does not import an operator, those inside its subgraphs included."""
    import onnx

    attributes: dict[str, Any] = {}
    for attribute in node.attribute:
        value = onnx.helper.get_attribute_value(attribute)
        if attribute.type == onnx.AttributeProto.GRAPH:
            for inner in value.node:
                yield from _refusals(inner, line)
        elif attribute.type == onnx.AttributeProto.STRINGS:
            attributes[attribute.name] = [v.decode() for v in value]
        else:
            attributes[attribute.name] = value.decode() if isinstance(value, bytes) else value
    outputs = sum(1 for name in node.output if name)
    reason = operators.refuse(node.op_type, line.name, node.domain)
    reason = reason or operators.refuse_attributes(node.op_type, attributes, outputs)
    if reason is not None:
        yield reason
