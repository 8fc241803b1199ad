"""Operators that pass quantised values on in the scale of their input, and what follows from that."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from edgekit.backends.torchscript.filegraph import Op, words
from edgekit.backends.torchscript.units import Group, is_relu, is_view, relu_limit

if TYPE_CHECKING:
    from edgekit.backends.torchscript.lift import _Lifter as Lifter

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


def write_relu(lifter: Lifter, group: Group, op: Op, source: Any) -> None:
    """A ReLU that the layer before takes up. ReLU6 as well, as a range that ends at 6 clips there, unless
    a concatenation behind gives it the range of its neighbours."""
    import torch

    limit = relu_limit(op, lifter.graph)
    # What is below zero or above the limit need not be told apart before the ReLU either.
    lifter.values[source.name] = op.outputs[0]
    if limit is not None:
        lifter.limits[op.outputs[0]] = limit
        if reaches_mixing(lifter, op.outputs[0], limit):
            lifter._plain(op)
            return
    lifter._set(op, lifter.submodule(f"{group.name}_relu", torch.nn.ReLU(), (source,)))


def reaches_mixing(lifter: Lifter, value: str, limit: float) -> bool:
    """Whether a concatenation behind has neighbours that may be greater than ``limit``."""
    left, seen = [value], set()
    while left:
        name = left.pop()
        if name in seen:
            continue
        seen.add(name)
        for user in lifter.consumers.get(name, []):
            if user.name in _MIXING and not is_bounded(lifter, user.inputs[0], limit):
                return True
            if user.name in PASSING | _MIXING or is_view(user):
                left += user.outputs
    return False


def is_bounded(lifter: Lifter, value: str, limit: float) -> bool:
    """Whether a value lies within 0 and ``limit`` by the operator that makes it."""
    op = lifter.makers.get(value)
    if op is None:
        return False
    if op.kind in ("prim::ListConstruct", "prim::TupleConstruct"):
        return all(is_bounded(lifter, name, limit) for name in op.inputs)
    if op.name in (PASSING | _MIXING) - {"relu"} or is_view(op):
        return is_bounded(lifter, op.inputs[0], limit)
    top = relu_limit(op, lifter.graph) if is_relu(op, lifter.graph) else None
    return top is not None and top <= limit
