"""Where the QuantizeLinear / DequantizeLinear pairs go, for each delegate, as data and one pass.

A tensor is stored in eight bits where an operator with weights reads it, and in between where the
operators on the way have an int8 form; a sum or a pooling that leads from no convolution to any weight
stays float, which costs little time and keeps residual streams and outputs exact.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from edgekit.backends.onnx.graph import ACTIVATIONS, Graph, Op


@dataclass(frozen=True, kw_only=True)
class Rules:
    """What a delegate computes in int8, and how its values are stored.

    ``joins`` become int8 between int8 operators; ``moves`` pass values on with the range of their input.
    ``folded`` are activation functions that the delegate computes inside the operator before, whose own
    result is then not stored. ``stored`` are operators whose int8 form writes int8 only: their result
    gets a range of its own. ``unsigned`` activations have a zero point (0..255), others are symmetric.
    """

    weighted: frozenset[str]
    joins: frozenset[str]
    moves: frozenset[str]
    folded: frozenset[str]
    stored: frozenset[str]
    unsigned: bool
    quantized_bias: bool
    one_scale: frozenset[str] = frozenset()
    """Operators whose inputs have to share one range."""
    weight_max: int = 127
    """Largest weight as it is stored: 127, or 64 where the sum of two products has to fit into 16 bits."""


_MOVES = frozenset({"Reshape", "Transpose", "Squeeze", "Unsqueeze", "Flatten", "Slice"}) | {
    "DepthToSpace",
    "SpaceToDepth",
}
_CONVOLUTIONS = frozenset({"Conv", "ConvTranspose"})
_PRODUCTS = frozenset({"Gemm", "MatMul"})
_POOLS = frozenset({"AveragePool", "GlobalAveragePool", "MaxPool"})

RULES: Mapping[str, Rules] = {
    # ONNX Runtime's CPU kernels (QLinear*), reached by fusing DequantizeLinear - operator - QuantizeLinear.
    # Unsigned activations and signed weights: on x86-64 the one combination with kernels of its own
    # (signed activations take more than twice as long here); on arm64 U8S8 runs on the same UDOT / NEON
    # kernels as S8S8, with the sign flipped while packing (microsoft/onnxruntime pull request 9902), so
    # it is exact and as fast there.
    "cpu": Rules(
        weighted=frozenset({"Conv"}) | _PRODUCTS,
        joins=frozenset({"Add", "Mul", "Concat", "Sigmoid", "LeakyRelu", "AveragePool", "GlobalAveragePool"}),
        moves=_MOVES | {"MaxPool", "Resize", "Split"},
        folded=frozenset({"Relu", "Clip"}),
        stored=frozenset({"Conv"}),
        unsigned=True,
        quantized_bias=True,
    ),
    # OpenVINO's CPU plugin reads the same file: oneDNN takes unsigned activations with a zero point and
    # computes activation functions inside the convolution before them. On x86 without VNNI it adds two
    # products in 16 bits (VPMADDUBSW), and no option avoids that: 2 * 255 * 64 fits, 2 * 255 * 127 does not.
    # Which x86 a file meets is not known, so weights have 7 bits, as with NNCF's OverflowFix.ENABLE.
    "openvino": Rules(
        weighted=_CONVOLUTIONS | _PRODUCTS,
        joins=frozenset({"Add", "Mul", "Concat", "AveragePool", "GlobalAveragePool"}),
        moves=_MOVES | {"MaxPool", "Resize", "Split"},
        folded=ACTIVATIONS,
        stored=frozenset(),
        unsigned=True,
        quantized_bias=False,
        weight_max=64,
    ),
    # TensorRT's explicit quantisation: pairs in front of what shall run in int8, none behind it, so that
    # convolution, sum and activation become one kernel; symmetric, float bias.
    "tensorrt": Rules(
        weighted=_CONVOLUTIONS | _PRODUCTS,
        joins=frozenset({"Add", "Concat"}) | _POOLS,
        moves=_MOVES | {"Resize", "Split"},
        folded=ACTIVATIONS,
        stored=frozenset(),
        unsigned=False,
        quantized_bias=False,
        one_scale=frozenset({"Add", "Concat", "MaxPool"}),
    ),
}


@dataclass(frozen=True)
class Weighted:
    """An operator whose constant weights become int8, ``axis`` their output channels (None: one scale)."""

    op: Op
    input: str
    weights: str
    axis: int | None
    bias: str | None


@dataclass
class Placement:
    """Tensors to be stored in eight bits.

    ``activations`` have ranges of their own; ``shared`` ones (result -> (source, operator)) those of the
    tensor that they were moved from. ``groups`` are activations that must have one range together.
    """

    weighted: list[Weighted] = field(default_factory=list)
    activations: dict[str, None] = field(default_factory=dict)
    shared: dict[str, tuple[str, str]] = field(default_factory=dict)
    groups: list[tuple[str, ...]] = field(default_factory=list)


def place(graph: Graph, rules: Rules, keep: frozenset[str], *, per_channel: bool) -> Placement:
    """Decide for a float graph; operators named in ``keep`` stay float."""
    placement = Placement()
    for op in graph.ops:
        if op.name not in keep and op.op in rules.weighted:
            placement.weighted += _weighted(graph, rules, op, per_channel=per_channel)
    between = _between(graph, rules, keep, placement.weighted)
    for weighted in placement.weighted:
        placement.activations[weighted.input] = None
        if weighted.op.op in rules.stored:
            placement.activations[result(graph, rules, weighted.op, keep)] = None
    for op in graph.ops:
        if op.name not in between:
            continue
        if op.op in rules.joins:
            _join(graph, rules, op, keep, placement)
        elif rules.unsigned:
            placement.activations.setdefault(op.inputs[0])
            placement.shared.update(dict.fromkeys(op.outputs, (op.inputs[0], op.name)))
    for moved in placement.shared:
        placement.activations.pop(moved, None)
    return placement


def _weighted(graph: Graph, rules: Rules, op: Op, *, per_channel: bool) -> Iterator[Weighted]:
    data, weights = op.inputs[0], op.inputs[1]
    rank = len(graph.shapes.get(weights, ()))
    if weights not in graph.constants or data in graph.constants or not graph.is_float(data):
        return
    if op.op == "Gemm" and (op.attribute("transA", 0) or op.attribute("beta", 1.0) != 1.0):
        return
    bias = op.inputs[2] if len(op.inputs) > 2 and op.inputs[2] else None
    axis: int | None = {
        "Conv": 0,
        "ConvTranspose": 1,
        "Gemm": 0 if op.attribute("transB", 0) else 1,
        "MatMul": 1,
    }[op.op]
    if op.op == "MatMul" and rank != 2:
        axis = None
    if op.op == "ConvTranspose" and (not rules.unsigned or op.attribute("group", 1) != 1):
        axis = None  # TensorRT has no scales along the output channels; with groups, axis 1 is one group's
    yield Weighted(op, data, weights, axis if per_channel else None, bias)


def result(graph: Graph, rules: Rules, op: Op, keep: frozenset[str]) -> str:
    """The tensor that holds an operator's result once activation functions behind it are folded in."""
    tensor = op.outputs[0]
    reader = graph.only_reader(tensor)
    while reader is not None and reader.name not in keep and _folds(graph, rules, reader):
        tensor = reader.outputs[0]
        reader = graph.only_reader(tensor)
    return tensor


def _folds(graph: Graph, rules: Rules, op: Op) -> bool:
    """Whether the delegate computes an activation function inside the operator before it.

    ONNX Runtime drops a Relu or Clip in front of QuantizeLinear when the stored range lies inside its
    limits; with a zero point that is certain only when the lower limit is zero.
    """
    if op.op not in rules.folded:
        return False
    if op.op != "Clip" or not rules.stored:
        return True
    low = graph.constant(op.inputs[1]) if len(op.inputs) > 1 and op.inputs[1] else None
    return low is not None and float(low) == 0.0


def _between(graph: Graph, rules: Rules, keep: frozenset[str], weighted: list[Weighted]) -> set[str]:
    """Names of the operators without weights that lie between a convolution and an operator with weights."""
    passing = rules.joins | rules.moves | ACTIVATIONS
    starts = {w.op.name for w in weighted if w.op.op in _CONVOLUTIONS}
    ends = {w.op.name for w in weighted}
    after: set[str] = set()
    for op in graph.ops:
        if op.name in starts or (op.op in passing and any(t in after for t in op.inputs)):
            after.update(op.outputs)
    before: set[str] = set()
    for op in reversed(graph.ops):
        if op.name in ends:
            before.add(op.inputs[0])
        elif op.op in passing and any(t in before for t in op.outputs):
            before.update(graph.data_inputs(op))
    return {
        op.name
        for op in graph.ops
        if op.op in rules.joins | rules.moves
        and op.name not in keep
        and graph.data_inputs(op)
        and any(t in after for t in op.inputs)
        and any(t in before for t in op.outputs)
        and all(graph.is_float(t) for t in op.outputs)
    }


def _join(graph: Graph, rules: Rules, op: Op, keep: frozenset[str], placement: Placement) -> None:
    inputs = graph.data_inputs(op)
    if rules.unsigned:
        inputs += [t for t in op.inputs if t in graph.constants and graph.is_float(t)]
    elif op.op == "Add":
        inputs = _summands(graph, op, inputs, placement)
    placement.activations.update(dict.fromkeys(inputs))
    if rules.unsigned:
        placement.activations[result(graph, rules, op, keep)] = None
    if op.op in rules.one_scale:
        ends = inputs if op.op == "Add" else [*inputs, op.outputs[0]]
        placement.groups.append(tuple(ends))


def _summands(graph: Graph, op: Op, inputs: list[str], placement: Placement) -> list[str]:
    """Inputs of a sum that are stored in int8 for TensorRT.

    Not the one that a convolution has just computed for this sum alone: TensorRT adds inside that
    convolution's kernel, before anything is rounded. Of two such the later one.
    """
    names = {w.op.name for w in placement.weighted}
    fused = [
        t
        for t in inputs
        if (p := graph.producers.get(t)) is not None and p.name in names and graph.only_reader(t) is op
    ]
    last = max(fused, key=lambda t: graph.producers[t].index, default=None)
    return [t for t in inputs if t != last]
