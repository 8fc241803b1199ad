"""Which operators of an exported graph a rule names; see :data:`RULES`."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from edgekit.verify.lint.finding import Finding

Place = Callable[[Any], tuple[str, str]]
"""Module path and line of the user's code of a node."""

_TRAIN = "train for int8 (qat.epochs), or keep the named layers in float32 (quantize.keep)"

_VIEWS = frozenset({"view", "reshape", "unsqueeze", "squeeze", "flatten", "expand", "contiguous", "clone"})
_SIGMOIDS = frozenset({"sigmoid", "hardsigmoid"})
_HUGE = 1e4
"""A constant beyond this stands for infinity."""


@dataclass(frozen=True, kw_only=True)
class Rule:
    """Why a kind of operator suffers in int8, and what to do about it."""

    reason: str
    hint: str


RULES: Mapping[str, Rule] = {
    "silu": Rule(
        reason="SiLU turns a wide input into a long positive side and a negative one that ends at -0.28, and "
        "one scale has to hold both",
        hint=f"calibrate with quantize.calibration=all, {_TRAIN}",
    ),
    "hard-swish": Rule(
        reason="hard-swish turns a wide input into a long positive side and a negative one that ends at "
        "-0.375, and one scale has to hold both",
        hint=f"calibrate with quantize.calibration=all, {_TRAIN}",
    ),
    "squeeze-excite": Rule(
        reason="a gate between 0 and 1 scales whole channels, and one scale has to hold the loudest and the "
        "quietest of them",
        hint=f"calibrate with quantize.calibration=all, {_TRAIN}",
    ),
    "residual-scale": Rule(
        reason="an int8 addition has one scale for its result, and what is small beside the other summand is "
        "rounded away",
        hint=f"try quantize.form=equalized, {_TRAIN}",
    ),
    "pad-before-max-pool": Rule(
        reason="padding with a constant that no value reaches widens the range that all values share",
        hint="let the pooling pad by itself (padding=...), or pad with a value that occurs: 0 behind a ReLU",
    ),
}


def operator(node: Any) -> str:
    """ "hardswish" of aten.hardswish_.default; "" for what is no operator."""
    if getattr(node, "op", "") != "call_function" or "." not in str(node.target):
        return ""
    return str(node.target).split(".")[1].removesuffix("_")


def find(graph: Any, place: Place) -> list[Finding]:
    """What the rules find in a graph of torch.export (``program.module().graph``), in execution order."""
    found = []
    for node in graph.nodes:
        for name, what in _rules_of(node):
            where, line = place(node)
            rule = RULES[name]
            fatal = name == "pad-before-max-pool" and abs(pad_value(node)) >= _HUGE
            found.append(
                Finding(
                    rule=name,
                    op=what,
                    node=node.name,
                    where=where,
                    line=line,
                    reason=rule.reason,
                    hint=rule.hint,
                    matters=True if fatal else None,
                    measured=f"the constant is {pad_value(node):g}" if fatal else "",
                    loss=_HUGE if fatal else 0.0,
                )
            )
    return found


def _rules_of(node: Any) -> Iterator[tuple[str, str]]:
    op = operator(node)
    if op == "silu" or (op == "mul" and gated_by_itself(node, "sigmoid")):
        yield "silu", op
    elif op == "hardswish" or (op == "mul" and gated_by_itself(node, "hardsigmoid")):
        yield "hard-swish", op
    elif op == "mul" and gate_of(node) is not None:
        yield "squeeze-excite", op
    elif op == "add" and summands(node) is not None:
        yield "residual-scale", op
    elif op in ("pad", "constant_pad_nd") and pads_a_max_pool(node):
        yield "pad-before-max-pool", op


def gated_by_itself(node: Any, gate: str) -> bool:
    """Whether a product is x * gate(x)."""
    a, b = _operands(node)
    return any(operator(g) == gate and g.args[0] is x for x, g in ((a, b), (b, a)))


def gate_of(node: Any) -> tuple[Any, Any] | None:
    """(what is gated, the gate) of a product whose one factor is a sigmoid of one value per channel."""
    a, b = _operands(node)
    for x, gate in ((a, b), (b, a)):
        inner = gate
        while operator(inner) in _VIEWS:
            inner = inner.args[0]
        if operator(inner) in _SIGMOIDS and 1 < _numel(gate) < _numel(x):
            return x, gate
    return None


def summands(node: Any) -> tuple[Any, Any] | None:
    """Both inputs of an addition of two computed tensors of one shape; None for biases and constants."""
    a, b = _operands(node)
    shapes = [_shape(x) for x in (a, b)]
    computed = all(getattr(x, "op", "") in ("call_function", "placeholder") for x in (a, b))
    return (a, b) if computed and shapes[0] == shapes[1] and len(shapes[0] or ()) > 1 else None


def pads_a_max_pool(node: Any) -> bool:
    """Whether a padding by a constant is read by a max pooling."""
    mode = node.args[2] if operator(node) == "pad" and len(node.args) > 2 else "constant"
    return mode == "constant" and any(operator(user).startswith("max_pool") for user in node.users)


def pad_value(node: Any) -> float:
    """The constant of aten.pad or aten.constant_pad_nd; torch's default is 0."""
    place = 3 if operator(node) == "pad" else 2
    value = node.args[place] if len(node.args) > place else node.kwargs.get("value")
    return 0.0 if value is None else float(value)


def _operands(node: Any) -> tuple[Any, Any]:
    """Both tensors of a binary operator, (None, None) where one is a number."""
    if len(node.args) < 2 or not all(hasattr(a, "op") for a in node.args[:2]):
        return None, None
    return node.args[0], node.args[1]


def _shape(node: Any) -> tuple[int, ...] | None:
    shape = getattr(getattr(node, "meta", {}).get("val"), "shape", None)
    return None if shape is None else tuple(int(d) for d in shape)


def _numel(node: Any) -> int:
    return math.prod(_shape(node) or (0,))
