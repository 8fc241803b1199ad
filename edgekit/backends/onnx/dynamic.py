"""Dynamic quantisation: int8 weights, activations quantised by each run. ONNX Runtime's own tool."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekit.backends.onnx.graph import Graph, graph_of, load, sort_nodes, unit_of, unit_ops, weight_bytes
from edgekit.backends.onnx.quantize import quiet
from edgekit.errors import Unsupported

if TYPE_CHECKING:
    from edgekit.types import Scheme

_OPERATORS = ("MatMul", "Gemm", "LSTM", "Conv")
_INTEGER = frozenset({"MatMulInteger", "ConvInteger", "DynamicQuantizeLSTM"})


def dynamic(graph: Graph, scheme: Scheme, source: Path, scratch: Path) -> tuple[Any, list[dict[str, Any]]]:
    """The ModelProto, and its units: JSON data of types.Unit with the "tensor" that holds the result.

    Integer products take several operators in the file (quantise, multiply, cast, scale, add); they count
    as the one unit that they came from. Raises Unsupported when nothing can be quantised.
    """
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    known = {op.name for op in unit_ops(graph)}
    for unit, precision in scheme.overrides.items():
        if unit not in known:
            raise Unsupported(f"the model has no unit {unit!r}", hint="`edgekit inspect` lists the units")
        if precision not in ("float32", "dynamic"):
            raise Unsupported(f"unit {unit!r} cannot be {precision} in a dynamic file", hint="use float32")
    kept = [unit for unit, precision in scheme.overrides.items() if precision == "float32"]
    path = scratch / "dynamic.onnx"
    with quiet():
        quantize_dynamic(
            str(source),
            str(path),
            op_types_to_quantize=list(_OPERATORS),
            per_channel=scheme.per_channel,
            weight_type=QuantType.QInt8,
            nodes_to_exclude=kept,
        )
    made = load(path)
    if not any(node.op_type in _INTEGER for node in made.graph.node):
        raise Unsupported(
            f"no operator of the model can be quantised dynamically: it has no {', '.join(_OPERATORS)} with "
            "constant weights",
            hint="choose another precision with --set quantize.precision=...",
        )
    sort_nodes(made, [op.name for op in graph.ops])
    del made.graph.value_info[:]
    made.producer_name, made.producer_version = "edgekit", ""
    onnx.checker.check_model(made)
    return made, _units(graph, graph_of(made))


def _units(before: Graph, after: Graph) -> list[dict[str, Any]]:
    """Units of the float graph as they are now. Tensors keep their names; an integer operator's name
    starts with that of the operator that it replaces."""
    integer = [op for op in after.ops if op.op in _INTEGER]
    rows = []
    for op in unit_ops(before):
        tensor = op.outputs[0]
        unit = unit_of(before, op)
        mine = next((i for i in integer if i.name in (f"{op.name}_quant", f"{op.name}_MatMul_quant")), None)
        if mine is None and op.op == "LSTM":
            mine = next((i for i in integer if tensor in i.outputs), None)
        writer = mine or after.producers[tensor]
        unit = replace(
            unit,
            index=writer.index,
            weight_bytes=unit.weight_bytes if mine is None else weight_bytes(after, mine),
            precision="dynamic" if mine is not None else "float32",
        )
        rows.append({**asdict(unit), "output_shape": list(unit.output_shape), "tensor": tensor})
    return rows
