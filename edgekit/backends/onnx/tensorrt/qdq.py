"""The rules that concern QuantizeLinear, DequantizeLinear and the operators around them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import numpy as np

from edgekit.backends.onnx.graph import DEQUANTIZE, QUANTIZE, Graph, Op
from edgekit.backends.onnx.tensorrt.lines import Line
from edgekit.backends.onnx.tensorrt.violation import Violation

if TYPE_CHECKING:
    from edgekit.types import Array

WEIGHTED = ("Conv", "ConvTranspose", "Gemm", "MatMul")
ONE_SCALE = ("Add", "Concat")
# Operators that TensorRT moves a DequantizeLinear past, since they compute the same on integers.
_COMMUTING = frozenset(
    ("Flatten", "Identity", "MaxPool", "Relu", "Reshape", "Slice", "Squeeze", "Transpose", "Unsqueeze")
)


# -- QuantizeLinear and DequantizeLinear


def _constant(graph: Graph, name: str) -> Array | None:
    """Value of an initializer or of a Constant, behind any Identity; None for a computed tensor."""
    import onnx

    op = graph.producers.get(name)
    while op is not None and op.op == "Identity":
        name = op.inputs[0]
        op = graph.producers.get(name)
    if op is not None and op.op == "Constant":
        held = op.attribute("value")
        if held is not None:
            return np.asarray(onnx.numpy_helper.to_array(held))
        value = next((op.attribute(k) for k in ("value_float", "value_int", "value_floats")), None)
        return None if value is None else np.asarray(value)
    return graph.constant(name)


def _stored_type(graph: Graph, op: Op) -> str:
    """The type that a Q writes or a DQ reads. Without a zero point Q writes uint8, by ONNX."""
    import onnx

    if len(op.inputs) > 2 and op.inputs[2]:
        zero = _constant(graph, op.inputs[2])
        return str(zero.dtype) if zero is not None else graph.dtypes.get(op.inputs[2], "unknown")
    if op.op == QUANTIZE:
        kind = op.attribute("output_dtype", 0)
        return str(onnx.helper.tensor_dtype_to_np_dtype(kind)) if kind else "uint8"
    held = _constant(graph, op.inputs[0])
    return str(held.dtype) if held is not None else graph.dtypes.get(op.inputs[0], "unknown")


def _is_weight(graph: Graph, op: Op) -> bool:
    """Whether a Q or DQ works on a constant."""
    if _constant(graph, op.inputs[0]) is not None:
        return True
    before = graph.producers.get(op.inputs[0])
    return before is not None and before.op == QUANTIZE and _constant(graph, before.inputs[0]) is not None


def quantizer(graph: Graph, op: Op, line: Line) -> Iterator[Violation]:
    def broken(rule: str, reason: str, change: str) -> Violation:
        return Violation(rule=rule, node=op.name, reason=reason, change=change)

    scale = _constant(graph, op.inputs[1])
    if scale is None:
        yield broken("scale", "the scale is computed at run time", "calibrate statically")
    elif not np.all(np.isfinite(scale) & (scale > 0)):
        yield broken(
            "scale", "a scale is not greater than zero", "calibrate on samples that reach this layer"
        )
    stored, weight = _stored_type(graph, op), _is_weight(graph, op)
    bias = op.op == DEQUANTIZE and weight and _feeds_bias(graph, op)
    if stored != "int8" and not bias:
        yield broken(
            "signed-int8",
            f"values are stored as {stored}",
            "quantise symmetrically, with a zero point of type int8",
        )
    if len(op.inputs) > 2 and op.inputs[2]:
        zero = _constant(graph, op.inputs[2])
        if zero is None or np.any(zero != 0):
            shown = "computed at run time" if zero is None else f"{zero.ravel()[0]}"
            yield broken("zero-point", f"the zero point is {shown}", "quantise symmetrically")
    if scale is not None and scale.size > 1 and not weight:
        yield broken(
            "activation-per-tensor",
            f"an activation has {scale.size} scales",
            "use one scale per tensor; scales per channel are for weights",
        )
    if op.op == DEQUANTIZE and not line.int8_constants and not bias:
        held = _constant(graph, op.inputs[0])
        if held is not None:
            yield broken(
                "int8-weights",
                f"TensorRT {line.name} refuses weights stored as {held.dtype}",
                "store them as float32 with a Q/DQ pair of their own",
            )
    yield from _pair(graph, op, broken)


def _feeds_bias(graph: Graph, op: Op) -> bool:
    readers = graph.consumers.get(op.outputs[0], [])
    return any(r.op in WEIGHTED and op.outputs[0] in r.inputs[2:3] for r in readers)


def _pair(graph: Graph, op: Op, broken: Callable[[str, str, str], Violation]) -> Iterator[Violation]:
    if op.op == QUANTIZE:
        readers = graph.consumers.get(op.outputs[0], [])
        others = sorted({r.op for r in readers if r.op != DEQUANTIZE})
        if others or not readers or op.outputs[0] in graph.outputs:
            what = f"is read by {', '.join(others)}" if others else "is an output of the model"
            yield broken("pair", f"the int8 result {what}", "put DequantizeLinear behind it")
        return
    before = graph.producers.get(op.inputs[0])
    if before is None or before.op != QUANTIZE:
        if _constant(graph, op.inputs[0]) is None:
            yield broken("pair", "it reads a tensor that no QuantizeLinear wrote", "put one before it")
        return
    for place, what in ((1, "scale"), (2, "zero point")):
        mine, other = (_parameter(graph, o, place) for o in (op, before))
        if mine is not None and other is not None and not np.array_equal(mine, other):
            reason = f"its {what} is not that of {before.name}"
            yield broken("pair", reason, "give both of a pair the same parameters")


def _parameter(graph: Graph, op: Op, place: int) -> Array | None:
    name = op.inputs[place] if len(op.inputs) > place else ""
    return _constant(graph, name) if name else None


# -- operators around them


def _source(graph: Graph, name: str) -> Op | None:
    """The DequantizeLinear that a tensor comes from, past operators that TensorRT moves it over."""
    op = graph.producers.get(name)
    while op is not None and op.op in _COMMUTING:
        op = graph.producers.get(op.inputs[0])
    return op if op is not None and op.op == DEQUANTIZE else None


def weighted(graph: Graph, op: Op) -> Iterator[Violation]:
    if len(op.inputs) > 2 and op.inputs[2]:
        behind = graph.producers.get(op.inputs[2])
        if behind is not None and behind.op == DEQUANTIZE:
            yield Violation(
                rule="bias",
                node=op.name,
                reason="its bias is quantised, which TensorRT refuses",
                change="leave the bias in float32",
            )
    data, weights = _source(graph, op.inputs[0]), _source(graph, op.inputs[1])
    if (data is None) != (weights is None):
        which = ("weights", "activation") if data is None else ("activation", "weights")
        yield Violation(
            rule="both-inputs",
            node=op.name,
            reason=f"its {which[0]} are int8, its {which[1]} not"
            if data is None
            else f"its {which[0]} is int8, its {which[1]} are not",
            change="quantise both, or neither",
        )
    direct = graph.producers.get(op.inputs[1])
    if direct is not None and direct.op == DEQUANTIZE and _is_weight(graph, direct):
        yield from _axis(graph, op, direct)


def _axis(graph: Graph, op: Op, dequantize: Op) -> Iterator[Violation]:
    scale = _constant(graph, dequantize.inputs[1])
    shape = graph.shapes.get(op.inputs[1]) or graph.shapes.get(dequantize.inputs[0], ())
    if scale is None or scale.size == 1 or not shape:
        return
    axis = int(dequantize.attribute("axis", 1)) % len(shape)
    wanted = _channel_axis(op, len(shape))
    if axis != wanted:
        yield Violation(
            rule="weight-axis",
            node=op.name,
            reason=f"its weights have scales along axis {axis}, TensorRT's {op.op} has them along {wanted}",
            change="use one scale for the weights"
            if op.op == "ConvTranspose"
            else f"quantise along axis {wanted}, or use one scale",
        )
    elif scale.size != shape[axis]:
        yield Violation(
            rule="weight-axis",
            node=op.name,
            reason=f"its weights have {scale.size} scales for {shape[axis]} channels",
            change="quantise again",
        )


def _channel_axis(op: Op, rank: int) -> int:
    """The axis of scales per channel.

    Output channels, but for ConvTranspose: its kernels are those of a convolution run backwards and have
    the scales along the input channels (NVIDIA/TensorRT issues 1694 and 2380).
    """
    if op.op in ("Conv", "ConvTranspose"):
        return 0
    if op.op == "Gemm":
        return 0 if op.attribute("transB", 0) else 1
    return rank - 1


def one_scale(graph: Graph, op: Op) -> Iterator[Violation]:
    sources = [s for t in op.inputs if (s := _source(graph, t)) is not None and not _is_weight(graph, s)]
    scales = [v for s in sources if (v := _constant(graph, s.inputs[1])) is not None and v.size == 1]
    distinct = sorted({float(s.ravel()[0]) for s in scales})
    if len(distinct) > 1:
        yield Violation(
            rule="one-scale",
            node=op.name,
            reason=f"its int8 inputs have the scales {', '.join(f'{s:.6g}' for s in distinct)}",
            change="calibrate them together, so that TensorRT needs no rescaling in between",
        )
