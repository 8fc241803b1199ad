"""How each operator is written as something that the quantiser knows: its module or function."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from edgekit.backends.torchscript.filegraph import Op
from edgekit.backends.torchscript.sharing import reaches_mixing, write_relu
from edgekit.backends.torchscript.units import Group, is_view, relu_limit
from edgekit.backends.torchscript.weighted import PLAIN_CONVOLUTIONS, recurrent, weighted

if TYPE_CHECKING:
    from edgekit.backends.torchscript.lift import _Lifter as Lifter

Writer = Callable[[Group], None]

_FLOAT = "torch.float32"
_OF_SCORES = ("softmax", "log_softmax", "sigmoid")
"""Operators behind which scores leave the model."""
_AVERAGES = ("mean", "avg_pool1d", "avg_pool2d", "adaptive_avg_pool1d", "adaptive_avg_pool2d")


def float_writer(lifter: Lifter, group: Group) -> Writer | None:
    """Layers with weights as modules, batch norms folded; None leaves a unit to its plain operators."""
    return weighted(lifter, group, quantized=False)


def dynamic_writer(lifter: Lifter, group: Group) -> Writer | None:
    """Linear and recurrent layers for dynamic int8, the rest as in float."""
    name = group.ops[0].name
    if name in ("lstm", "gru"):
        return recurrent(lifter, group)
    if name in ("linear", "addmm", "matmul"):
        return weighted(lifter, group, quantized=True)
    return None


def int8_writer(lifter: Lifter, group: Group) -> Writer | None:
    """Everything that QNNPACK's or torch's own int8 kernels take."""
    op = group.ops[0]
    if op.name in ("lstm", "gru"):
        return recurrent(lifter, group)
    is_3d = op.name == "conv3d" or (op.name == "_convolution" and len(lifter.shape(op.inputs[0])) == 5)
    if not _is_float(lifter, group) or is_3d:
        return None
    if op.name in (*PLAIN_CONVOLUTIONS, "conv_transpose1d", "conv_transpose2d", "linear", "addmm", "matmul"):
        return weighted(lifter, group, quantized=True)
    if op.name in ("add", "mul"):
        return _binary(lifter, group)
    if op.name == "cat":
        return _concatenation(lifter, group)
    if op.name in _AVERAGES and (_is_score(lifter, group.value) or not _is_pooling(lifter, op)):
        return lambda g: lifter.kept.append(lifter._plain(g.ops[0]))
    if group.op == "silu":
        return lambda g: _silu(lifter, g)
    if op.name == "batch_norm" and len(lifter.shape(op.inputs[0])) == 4:
        return lambda g: _batch_norm(lifter, g)
    return _activation(lifter, group)


def _is_score(lifter: Lifter, value: str) -> bool:
    """Whether a value is an output of the model, itself or through views and what is computed in float behind
    them. Scores averaged over an image are far smaller than the largest of them, in whose steps they would
    tie."""
    if value in lifter.graph.outputs:
        return True
    readers = lifter.consumers.get(value, [])
    return bool(readers) and all(
        (is_view(op) or op.name in _OF_SCORES or _has_constant(lifter, op))
        and _is_score(lifter, op.outputs[0])
        for op in readers
    )


def _has_constant(lifter: Lifter, op: Op) -> bool:
    """Whether an operator scales or shifts a value by constants."""
    return op.name in ("mul", "div", "add", "sub") and op.inputs[1] in lifter.graph.constants


def _is_pooling(lifter: Lifter, op: Op) -> bool:
    """Whether a mean is that over an image. One over features, as in a normalisation, is so much smaller than
    what it is taken of that it would vanish in the steps of its input."""
    if op.name != "mean":
        return True
    shape, dims = lifter.shape(op.inputs[0]), lifter.constant(op.inputs[1])
    return len(shape) == 4 and isinstance(dims, list) and sorted(d % 4 for d in dims) == [2, 3]


def _is_float(lifter: Lifter, group: Group) -> bool:
    """Whether a unit turns finite float32 into float32: complex numbers and indices are none for int8."""
    op = group.ops[0]
    if op.name == "cat":
        return lifter.dtype(group.value) == _FLOAT
    values = [lifter.examples[name] for name in (*op.inputs[:2], group.value) if lifter.dtype(name) == _FLOAT]
    # A mask of minus infinity has no range.
    is_finite = all(bool(value.isfinite().all()) for value in values)
    return is_finite and lifter.dtype(op.inputs[0]) == _FLOAT and lifter.dtype(group.value) == _FLOAT


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
        write_relu(lifter, group, follower, node)


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
    misfits = is_fixed and (group.value in lifter.graph.outputs or reaches_mixing(lifter, group.value, 0.0))
    if op.name in makers and not misfits:
        module = makers[op.name](values)

        def write(g: Group) -> None:
            lifter.module(g, module, (lifter.follow(op),), op)
            lifter.quantized.add(g.name)

        return write
    return None
