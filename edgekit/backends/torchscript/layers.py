"""How each operator is written as something that the quantiser knows: its module or function."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from edgekit.backends.torchscript.filegraph import Op, words
from edgekit.backends.torchscript.units import Group, is_relu, is_view, relu_limit

if TYPE_CHECKING:
    from edgekit.backends.torchscript.lift import _Lifter as Lifter

Writer = Callable[[Group], None]

_FLOAT = "torch.float32"
_PLAIN_CONVOLUTIONS = ("_convolution", "conv1d", "conv2d", "conv3d")
_MIXING = frozenset({"cat", "stack"})
PASSING = words(
    """
    reshape slice select permute transpose expand pad constant_pad_nd pixel_shuffle
    max_pool1d max_pool2d avg_pool1d avg_pool2d adaptive_avg_pool1d adaptive_avg_pool2d mean relu
    upsample_nearest2d upsample_bilinear2d
    """
)
"""Operators of torch that work on quantised tensors as they are and give the scale of their input.

Not clamp, hardtanh and relu6: QNNPACK's clamp mixes up the pixels of channels-last tensors, which its
convolutions make (seen in torch 2.13).
"""


def float_writer(lifter: Lifter, group: Group) -> Writer | None:
    """Layers with weights as modules, batch norms folded; None leaves a unit to its plain operators."""
    return _weighted(lifter, group, quantized=False)


def dynamic_writer(lifter: Lifter, group: Group) -> Writer | None:
    """Linear and recurrent layers for dynamic int8, the rest as in float."""
    name = group.ops[0].name
    if name in ("lstm", "gru"):
        return _recurrent(lifter, group)
    if name in ("linear", "addmm", "matmul"):
        return _weighted(lifter, group, quantized=True)
    return None


def int8_writer(lifter: Lifter, group: Group) -> Writer | None:
    """Everything that QNNPACK's or torch's own int8 kernels take."""
    op = group.ops[0]
    if op.name in ("lstm", "gru"):
        return _recurrent(lifter, group)
    is_3d = op.name == "conv3d" or (op.name == "_convolution" and len(lifter.shape(op.inputs[0])) == 5)
    if not _is_float(lifter, group) or is_3d:
        return None
    if op.name in (*_PLAIN_CONVOLUTIONS, "conv_transpose1d", "conv_transpose2d", "linear", "addmm", "matmul"):
        return _weighted(lifter, group, quantized=True)
    if op.name in ("add", "mul"):
        return _binary(lifter, group)
    if op.name == "cat":
        return _concatenation(lifter, group)
    if group.op == "silu":
        return lambda g: _silu(lifter, g)
    if op.name == "batch_norm" and len(lifter.shape(op.inputs[0])) == 4:
        return lambda g: _batch_norm(lifter, g)
    return _activation(lifter, group)


def _is_float(lifter: Lifter, group: Group) -> bool:
    """Whether a unit turns float32 into float32: complex numbers and indices are no matter for int8."""
    op = group.ops[0]
    if op.name == "cat":
        return lifter.dtype(group.value) == _FLOAT
    return lifter.dtype(op.inputs[0]) == _FLOAT and lifter.dtype(group.value) == _FLOAT


# -- layers with weights


def _weighted(lifter: Lifter, group: Group, *, quantized: bool) -> Writer | None:
    op = group.ops[0]
    if op.name in (*_PLAIN_CONVOLUTIONS, "conv_transpose1d", "conv_transpose2d", "conv_transpose3d"):
        make: Any = _convolution
    elif op.name in ("linear", "addmm", "matmul"):
        make = _linear
    else:
        return None
    made = make(lifter, group)
    if made is None:
        return None
    module, source, used = made

    def write(g: Group) -> None:
        value = lifter._argument(source)
        rest = g.ops[used:]
        relu = next((o for o in rest if is_relu(o, lifter.graph)), None)
        node = lifter.module(g, module, (value,), g.ops[used - 1])
        if quantized:
            lifter.quantized.add(g.name)
        for follower in rest:
            if follower is relu and quantized:
                _relu(lifter, g, follower, node)
            else:
                lifter._plain(follower)

    return write


def _relu(lifter: Lifter, group: Group, op: Op, source: Any) -> None:
    """A ReLU that the layer before takes up. ReLU6 as well, as a range that ends at 6 clips there, unless
    a concatenation behind gives it the range of its neighbours."""
    import torch

    limit = relu_limit(op, lifter.graph)
    # What is below zero or above the limit need not be told apart before the ReLU either.
    lifter.values[source.name] = op.outputs[0]
    if limit is not None:
        lifter.limits[op.outputs[0]] = limit
        if _reaches_mixing(lifter, op.outputs[0], limit):
            lifter._plain(op)
            return
    lifter._set(op, lifter.submodule(f"{group.name}_relu", torch.nn.ReLU(), (source,)))


def _reaches_mixing(lifter: Lifter, value: str, limit: float) -> bool:
    """Whether a concatenation behind has neighbours that may be greater than ``limit``."""
    left, seen = [value], set()
    while left:
        name = left.pop()
        if name in seen:
            continue
        seen.add(name)
        for user in lifter.consumers.get(name, []):
            if user.name in _MIXING and not _is_bounded(lifter, user.inputs[0], limit):
                return True
            if user.name in PASSING | _MIXING or is_view(user):
                left += user.outputs
    return False


def _is_bounded(lifter: Lifter, value: str, limit: float) -> bool:
    """Whether a value lies within 0 and ``limit`` by the operator that makes it."""
    op = lifter.makers.get(value)
    if op is None:
        return False
    if op.kind in ("prim::ListConstruct", "prim::TupleConstruct"):
        return all(_is_bounded(lifter, name, limit) for name in op.inputs)
    if op.name in (PASSING | _MIXING) - {"relu"} or is_view(op):
        return _is_bounded(lifter, op.inputs[0], limit)
    top = relu_limit(op, lifter.graph) if is_relu(op, lifter.graph) else None
    return top is not None and top <= limit


def _convolution(lifter: Lifter, group: Group) -> tuple[Any, str, int] | None:
    """The module of a convolution, the value it takes, and how many operators of the unit it replaces."""
    import torch

    op = group.ops[0]
    values = [lifter.constant(name) for name in op.inputs]
    weight, bias = values[1], values[2]
    if weight is None or (bias is None and op.inputs[2] in lifter.env):
        return None
    transposed = lifter.is_transposed(op)
    dims = weight.dim() - 2
    if op.name == "_convolution":
        stride, padding, dilation, output_padding, groups = (values[i] for i in (3, 4, 5, 7, 8))
    elif transposed:
        stride, padding, output_padding, groups, dilation = values[3:8]
    else:
        stride, padding, dilation, groups, output_padding = *values[3:7], 0
    before = lifter.paddings.get(op.inputs[0])
    if before is not None:
        padding = [a + b for a, b in zip(before, _spread(padding, dims), strict=True)]
    used = 1
    if len(group.ops) > 1 and group.ops[1].name == "batch_norm" and not (transposed and groups > 1):
        folded = _fold(lifter, group.ops[1], weight, bias, 1 if transposed else 0)
        if folded is not None:
            (weight, bias), used = folded, 2
    name = f"Conv{'Transpose' if transposed else ''}{dims}d"
    channels = (weight.shape[1] * groups, weight.shape[0])
    if transposed:
        channels = (weight.shape[0], weight.shape[1] * groups)
    more: dict[str, Any] = {"output_padding": tuple(_spread(output_padding, dims))} if transposed else {}
    module = getattr(torch.nn, name)(
        *channels,
        tuple(weight.shape[2:]),
        stride=tuple(_spread(stride, dims)),
        padding=padding if isinstance(padding, str) else tuple(_spread(padding, dims)),
        dilation=tuple(_spread(dilation, dims)),
        groups=groups,
        bias=bias is not None,
        **more,
    )
    _fill(module, weight, bias)
    return module, op.inputs[0], used


def _spread(value: Any, dims: int) -> list[int]:
    values = list(value) if isinstance(value, (list, tuple)) else [value]
    return values * dims if len(values) == 1 else values


def _linear(lifter: Lifter, group: Group) -> tuple[Any, str, int] | None:
    import torch

    op = group.ops[0]
    values = [lifter.constant(name) for name in op.inputs]
    if op.name == "linear":
        source, weight, bias = op.inputs[0], values[1], values[2]
        known = op.inputs[2] not in lifter.env
    elif op.name == "addmm":
        plain = len(values) < 5 or (values[3] in (1, None) and values[4] in (1, None))
        source, weight, bias = op.inputs[1], values[2], values[0]
        known = plain and bias is not None and bias.dim() == 1
        weight = weight.t() if weight is not None else None
    else:
        source, weight, bias = op.inputs[0], values[1], None
        known = weight is not None and weight.dim() == 2 and source in lifter.env
        weight = weight.t() if known else None
    if weight is None or weight.dim() != 2 or not known:
        return None
    used = 1
    if len(group.ops) > 1 and group.ops[1].name == "batch_norm" and len(lifter.shape(source)) == 2:
        folded = _fold(lifter, group.ops[1], weight, bias, 0)
        if folded is not None:
            (weight, bias), used = folded, 2
    module = torch.nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None)
    _fill(module, weight, bias)
    return module, source, used


def _fold(lifter: Lifter, norm: Op, weight: Any, bias: Any, axis: int) -> tuple[Any, Any] | None:
    """Weights and bias with the batch norm behind: w * f and (b - m) * f + s, with f = g / sqrt(v + e)."""
    import torch

    gamma, shift, mean, variance = (lifter.constant(name) for name in norm.inputs[1:5])
    if mean is None or variance is None or lifter.constant(norm.inputs[5]):
        return None
    factor = (variance.double() + float(lifter.constant(norm.inputs[7]))).rsqrt()
    if gamma is not None:
        factor = factor * gamma.double()
    shape = [1] * weight.dim()
    shape[axis] = -1
    start = torch.zeros_like(mean, dtype=torch.float64) if bias is None else bias.double()
    moved = (start - mean.double()) * factor + (0 if shift is None else shift.double())
    return (weight.double() * factor.reshape(shape)).float(), moved.float()


def _fill(module: Any, weight: Any, bias: Any) -> None:
    import torch

    with torch.no_grad():
        module.weight.copy_(weight)
        if bias is not None:
            module.bias.copy_(bias)
    module.requires_grad_(False)


def _recurrent(lifter: Lifter, group: Group) -> Writer | None:
    """torch.nn.LSTM or GRU from the operator's list of weights."""
    import torch

    op = group.ops[0]
    if len(op.inputs) != 9 or any(not _reads_list(lifter, name) for name in op.inputs[2:3]):
        return None  # on packed sequences: left in float
    flat = lifter.constant(op.inputs[2])
    biases, layers, _, _, both_ways, batch_first = (lifter.constant(name) for name in op.inputs[3:9])
    if flat is None or len(flat) != int(layers) * (1 + bool(both_ways)) * (4 if biases else 2):
        return None
    kind = torch.nn.LSTM if op.name == "lstm" else torch.nn.GRU
    gates = 4 if op.name == "lstm" else 3
    module = kind(
        flat[0].shape[1],
        flat[0].shape[0] // gates,
        num_layers=int(layers),
        bias=bool(biases),
        batch_first=bool(batch_first),
        bidirectional=bool(both_ways),
    )
    with torch.no_grad():
        for parameter, value in zip(module.parameters(), flat, strict=True):
            parameter.copy_(value)

    def write(g: Group) -> None:
        state = lifter._argument(op.inputs[1])
        given = tuple(state) if op.name == "lstm" else state
        node = lifter.submodule(g.name, module, (lifter.follow(op), given))
        lifter.quantized.add(g.name)
        out = lifter.fx.call_function(operator.getitem, (node, 0))
        rest = lifter.fx.call_function(operator.getitem, (node, 1))
        lifter._set(op, out, 0)
        if op.name == "gru":
            lifter._set(op, rest, 1)
            return
        for i in (0, 1):
            lifter._set(op, lifter.fx.call_function(operator.getitem, (rest, i)), i + 1)

    return write


def _reads_list(lifter: Lifter, name: str) -> bool:
    return isinstance(lifter.constant(name), (list, tuple))


# -- operators without weights


def _binary(lifter: Lifter, group: Group) -> Writer | None:
    """Sums and products of two tensors."""
    import torch

    op = group.ops[0]
    if any(lifter.dtype(name) != _FLOAT for name in op.inputs[:2]):
        return None
    if op.name == "add" and len(op.inputs) > 2 and lifter.constant(op.inputs[2]) != 1:
        return None
    function = operator.add if op.name == "add" else operator.mul

    def write(g: Group) -> None:
        node = lifter.function(function, [lifter._argument(name) for name in op.inputs[:2]], op)
        lifter.quantized.add(g.name)
        for follower in g.ops[1:]:
            if relu_limit(follower, lifter.graph) is None:
                lifter.values[node.name] = follower.outputs[0]
                lifter._set(follower, lifter.submodule(f"{g.name}_relu", torch.nn.ReLU(), (node,)))
            else:
                lifter._plain(follower)

    return write


def _concatenation(lifter: Lifter, group: Group) -> Writer | None:
    import torch

    op = group.ops[0]
    parts = lifter._argument(op.inputs[0])
    if not isinstance(parts, (list, tuple)) or any(not hasattr(part, "name") for part in parts):
        return None

    def write(g: Group) -> None:
        lifter.function(torch.cat, [list(parts), lifter.constant(op.inputs[1])], op)
        lifter.quantized.add(g.name)

    return write


def _silu(lifter: Lifter, group: Group) -> None:
    """x * sigmoid(x), both in int8."""
    import torch

    op = group.ops[0]
    source = lifter.follow(op)
    gate = lifter.submodule(f"{group.name}_gate", torch.nn.Sigmoid(), (source,))
    lifter.function(operator.mul, [source, gate], group.ops[-1])
    lifter.quantized.add(group.name)


def _batch_norm(lifter: Lifter, group: Group) -> None:
    """A batch norm that follows no convolution."""
    import torch

    op = group.ops[0]
    gamma, shift, mean, variance = (lifter.constant(name) for name in op.inputs[1:5])
    module: Any = torch.nn.BatchNorm2d(len(mean), eps=float(lifter.constant(op.inputs[7])))
    with torch.no_grad():
        module.running_mean.copy_(mean)
        module.running_var.copy_(variance)
        module.weight.copy_(torch.ones_like(mean) if gamma is None else gamma)
        module.bias.copy_(torch.zeros_like(mean) if shift is None else shift)
    node = lifter.module(group, module.requires_grad_(False), (lifter.follow(op),), op)
    lifter.quantized.add(group.name)
    for follower in group.ops[1:]:
        _relu(lifter, group, follower, node)


def _activation(lifter: Lifter, group: Group) -> Writer | None:
    """Activations with an int8 kernel of their own, and operators that work on quantised tensors."""
    import torch

    op = group.ops[0]
    values = [lifter.constant(name) for name in op.inputs[1:]]
    makers: dict[str, Callable[[Sequence[Any]], Any]] = {
        "hardswish": lambda _: torch.nn.Hardswish(),
        "hardsigmoid": lambda _: torch.nn.Hardsigmoid(),
        "sigmoid": lambda _: torch.nn.Sigmoid(),
        "tanh": lambda _: torch.nn.Tanh(),
        "leaky_relu": lambda v: torch.nn.LeakyReLU(float(v[0])),
        "elu": lambda v: torch.nn.ELU(float(v[0])),
    }
    if op.name == "silu":
        return lambda g: _silu(lifter, g)
    # These have a fixed scale, which suits neither a score of the model itself (steps of 1/256 would tie)
    # nor the neighbours in a concatenation.
    is_fixed = op.name in ("sigmoid", "tanh", "hardsigmoid")
    misfits = is_fixed and (group.value in lifter.graph.outputs or _reaches_mixing(lifter, group.value, 0.0))
    if op.name in makers and not misfits:
        module = makers[op.name](values)

        def write(g: Group) -> None:
            lifter.module(g, module, (lifter.follow(op),), op)
            lifter.quantized.add(g.name)

        return write
    return None
