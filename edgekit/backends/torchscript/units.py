"""Units of a file: operators that belong together, what they cost, and in which precision they compute."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from edgekit.backends.torchscript.filegraph import VIEWS, FileGraph, Op, flatten, words
from edgekit.types import Unit

if TYPE_CHECKING:
    import torch

CONVOLUTIONS = words(
    """
    _convolution convolution conv1d conv2d conv3d conv_transpose1d conv_transpose2d
    conv_transpose3d conv1d_relu conv2d_relu conv3d_relu conv1d_add conv2d_add
    """
)
LINEARS = words(
    """
    linear linear_relu linear_dynamic linear_relu_dynamic addmm
    """
)
PRODUCTS = words(
    """
    matmul mm bmm baddbmm
    """
)
RECURRENT = words(
    """
    lstm gru quantized_lstm quantized_gru rnn_tanh rnn_relu
    """
)
DYNAMIC = words(
    """
    linear_dynamic linear_relu_dynamic quantized_lstm quantized_gru
    """
)
_RELUS = words(
    """
    relu relu6 hardtanh clamp clamp_min
    """
)
_INNER = words(
    """
    prim::ListConstruct prim::TupleConstruct prim::ListUnpack prim::TupleUnpack
    """
)


@dataclass(frozen=True, eq=False)
class Group:
    """The operators of one unit in execution order: a convolution, its batch norm and its ReLU."""

    name: str
    ops: tuple[Op, ...]

    @property
    def op(self) -> str:
        """The unit's operator, as a person calls it."""
        plain = self.ops[0].name
        if plain in ("_convolution", "convolution"):
            return "conv"
        if plain == "sigmoid" and len(self.ops) == 2:
            return "silu"
        return plain.removesuffix("_relu")

    @property
    def value(self) -> str:
        """Name of the value that it makes (the first of several)."""
        return self.ops[-1].outputs[0]


def is_view(op: Op) -> bool:
    """Whether an operator only renames, cuts, copies or converts."""
    return op.kind.startswith("prim::") or op.name in VIEWS or op.kind in ("aten::__getitem__", "aten::len")


def groups(graph: FileGraph, names: Sequence[str] = ()) -> list[Group]:
    """Units of a graph. ``names`` are theirs, where a file tells them; else they are made from paths."""
    consumers = graph.consumers()
    taken: set[Op] = set()
    found: list[tuple[Op, ...]] = []
    for op in graph.ops:
        if is_view(op) or op in taken:
            continue
        ops = _with_followers(op, graph, consumers)
        taken.update(ops)
        found.append(ops)
    made = list(names) if len(names) == len(found) else _names(found)
    return [Group(name, ops) for name, ops in zip(made, found, strict=True)]


def sole_consumer(value: str, graph: FileGraph, consumers: dict[str, list[Op]]) -> Op | None:
    """The one operator that takes a value, None when there are several or the value is an output."""
    users = consumers.get(value, [])
    return users[0] if len(users) == 1 and value not in graph.outputs else None


def _with_followers(op: Op, graph: FileGraph, consumers: dict[str, list[Op]]) -> tuple[Op, ...]:
    ops = [op]
    if op.name == "sigmoid":
        user = sole_consumer(op.outputs[0], graph, consumers)
        return (op, user) if user and user.name == "mul" and op.inputs[0] in user.inputs else (op,)
    heavy = op.name in CONVOLUTIONS | LINEARS
    if heavy:
        norm = _next(op, graph, consumers)
        if norm is not None and norm.name == "batch_norm":
            ops.append(norm)
    if heavy or op.name in ("add", "batch_norm"):
        relu = _next(ops[-1], graph, consumers)
        if relu is not None and relu.name in _RELUS and is_relu(relu, graph):
            ops.append(relu)
    return tuple(ops)


def _next(op: Op, graph: FileGraph, consumers: dict[str, list[Op]]) -> Op | None:
    """The one operator that takes what ``op`` makes, whatever conversions lie between."""
    user = sole_consumer(op.outputs[0], graph, consumers)
    while user is not None and user.name in ("dequantize", "quantize_per_tensor"):
        user = sole_consumer(user.outputs[0], graph, consumers)
    return user


def is_relu(op: Op, graph: FileGraph) -> bool:
    """Whether it is max(x, 0), with or without an upper limit."""
    if op.name in ("relu", "relu6"):
        return True
    limits = [graph.constants.get(name) for name in op.inputs[1:3]]
    return op.name in _RELUS and bool(limits) and limits[0] == 0


def relu_limit(op: Op, graph: FileGraph) -> float | None:
    """Upper limit of a ReLU: 6 for ReLU6, None where there is none."""
    if op.name in ("relu", "clamp_min"):
        return None
    if op.name == "relu6":
        return 6.0
    limit = graph.constants.get(op.inputs[2]) if len(op.inputs) > 2 else None
    return None if limit is None else float(limit)


def _names(found: Sequence[tuple[Op, ...]]) -> list[str]:
    """Unique names: path of the weights, or module and operator; further uses get a number."""
    seen: dict[str, int] = {}
    names = []
    for ops in found:
        op = ops[0]
        group = Group("", ops)
        name = op.path or (f"{op.where}.{group.op}" if op.where else group.op)
        seen[name] = seen.get(name, 0) + 1
        names.append(name if seen[name] == 1 else f"{name}_{seen[name]}")
    return names if len(set(names)) == len(names) else [f"{name}@{i}" for i, name in enumerate(names)]


@dataclass(frozen=True, kw_only=True)
class Described:
    """Units of a graph with their costs, and what its outputs are."""

    units: tuple[Unit, ...]
    groups: tuple[Group, ...]
    outputs: tuple[torch.Tensor, ...]


def describe(graph: FileGraph, inputs: Sequence[torch.Tensor], names: Sequence[str] = ()) -> Described:
    """Run a graph once and describe its units."""
    found = groups(graph, names)
    owner = {op: i for i, group in enumerate(found) for op in group.ops}
    macs, weights, shapes = [0] * len(found), [0] * len(found), [()] * len(found)
    precision = ["float32"] * len(found)
    shapes_of: list[tuple[int, ...]] = list(shapes)

    def see(op: Op, arguments: list[Any], result: Any) -> None:
        i = owner.get(op)
        if i is None:
            return
        tensors = [t for t in flatten(result) if hasattr(t, "shape")]
        macs[i] += op_macs(op, arguments, result)
        weights[i] += _weight_bytes(op, arguments, graph)
        if tensors:
            shapes_of[i] = tuple(tensors[0].shape)
            if op.name in DYNAMIC:
                precision[i] = "dynamic"
            elif tensors[0].is_quantized:
                precision[i] = "int8"

    outputs = graph.run(inputs, see)
    units = tuple(
        Unit(
            name=group.name,
            op=group.op,
            index=i,
            macs=macs[i],
            weight_bytes=weights[i],
            output_shape=shapes_of[i],
            precision=precision[i],
        )
        for i, group in enumerate(found)
    )
    return Described(units=units, groups=tuple(found), outputs=tuple(outputs))


def op_macs(op: Op, arguments: Sequence[Any], result: Any) -> int:
    """Multiply-accumulates of one call, biases left out: the formulas of torch.utils.flop_counter."""
    if op.name in CONVOLUTIONS:
        weight = _weight(op, arguments)
        out = flatten(result)[0]
        transposed = op.name.startswith("conv_transpose") or (
            op.name in ("_convolution", "convolution") and bool(arguments[6])
        )
        pixels = arguments[0].numel() // arguments[0].shape[1] if transposed else out.numel() // out.shape[1]
        return int(pixels * weight.numel())
    if op.name in LINEARS:
        if op.name == "addmm":
            return int(result.numel() * arguments[1].shape[-1])
        return int(result.numel() * arguments[0].shape[-1])
    if op.name in PRODUCTS:
        left = arguments[1] if op.name == "baddbmm" else arguments[0]
        return int(result.numel() * left.shape[-1])
    if op.name == "scaled_dot_product_attention":
        q, k, v = arguments[:3]
        return int(q.numel() // q.shape[-1] * k.shape[-2] * (q.shape[-1] + v.shape[-1]))
    if op.name in RECURRENT:
        return _recurrent_macs(op, arguments)
    return 0


def _recurrent_macs(op: Op, arguments: Sequence[Any]) -> int:
    """Each step multiplies input and state with their matrices."""
    steps = arguments[0].numel() // arguments[0].shape[-1]
    return int(steps * sum(w.numel() for w in _recurrent_weights(op, arguments) if w.dim() == 2))


def _recurrent_weights(op: Op, arguments: Sequence[Any]) -> list[Any]:
    lists = [a for a in arguments if isinstance(a, list) and a]
    parts = lists[-1] if lists else []
    if parts and not hasattr(parts[0], "dim"):  # packed: each cell holds two matrices
        return [w for cell in parts for w in _cell_weights(cell)]
    return list(parts)


def _cell_weights(cell: Any) -> list[Any]:
    """Matrices of a dynamically quantised cell, out of its saved state."""
    state = cell.__getstate__()
    packed = [p for p in _scripts(state) if hasattr(p, "unpack") or hasattr(p, "__getstate__")]
    return [_unpacked(p) for p in packed]


def _scripts(value: Any) -> list[Any]:
    if isinstance(value, (list, tuple)):
        return [s for part in value for s in _scripts(part)]
    return [value] if type(value).__name__ == "ScriptObject" else []


def _unpacked(packed: Any) -> torch.Tensor:
    """The int8 weight of a packed layer."""
    import torch

    unpack = packed.unpack if hasattr(packed, "unpack") else lambda: torch.ops.quantized.linear_unpack(packed)
    weight: torch.Tensor = unpack()[0]
    return weight


def _weight(op: Op, arguments: Sequence[Any]) -> torch.Tensor:
    second = arguments[1]
    if hasattr(second, "numel"):
        weight: torch.Tensor = second
        return weight
    return _unpacked(second)


def _weight_bytes(op: Op, arguments: Sequence[Any], graph: FileGraph) -> int:
    """Bytes of the parameters that a call takes from the file."""
    if op.kind.startswith("quantized::") or op.name in DYNAMIC:
        if op.name in RECURRENT:
            return int(sum(w.numel() for w in _recurrent_weights(op, arguments)))
        if op.name in CONVOLUTIONS | LINEARS:
            return int(_weight(op, arguments).numel())
    total = 0
    for name in op.inputs:
        for value in flatten(graph.constants.get(name)):
            if hasattr(value, "element_size"):
                total += value.numel() * value.element_size()
    return int(total)
