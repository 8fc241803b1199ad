"""Convolutions, linear and recurrent layers as modules, from the operators and weights of a graph."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from edgekit.backends.torchscript.filegraph import Op
from edgekit.backends.torchscript.sharing import write_relu
from edgekit.backends.torchscript.units import Group, is_relu

if TYPE_CHECKING:
    from edgekit.backends.torchscript.lift import _Lifter as Lifter

Writer = Callable[[Group], None]

PLAIN_CONVOLUTIONS = ("_convolution", "conv1d", "conv2d", "conv3d")


def weighted(lifter: Lifter, group: Group, *, quantized: bool) -> Writer | None:
    op = group.ops[0]
    if op.name in (*PLAIN_CONVOLUTIONS, "conv_transpose1d", "conv_transpose2d", "conv_transpose3d"):
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
                write_relu(lifter, g, follower, node)
            else:
                lifter._plain(follower)

    return write


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


def recurrent(lifter: Lifter, group: Group) -> Writer | None:
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
