"""The rules of TensorRT's explicit quantisation by name, and what breaking one looks like."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

RULES: Mapping[str, str] = {
    "opset": "the opset is one that the parser knows, and at least 13 where there are scales per channel",
    "static-shapes": "every input has a fixed shape",
    "dtype": "no tensor has a type that TensorRT lacks",
    "operator": "every operator is imported by the parser",
    "scale": "scales are constants, finite and greater than zero",
    "signed-int8": "values are stored as signed int8",
    "zero-point": "zero points are 0",
    "activation-per-tensor": "an activation has one scale",
    "weight-axis": "weights have one scale, or one per channel along the axis of TensorRT's kernels",
    "int8-weights": "before TensorRT 10, weights are stored as float with a Q/DQ pair of their own",
    "bias": "a bias is float",
    "pair": "QuantizeLinear is followed by DequantizeLinear with the same scale, and DQ preceded by Q",
    "both-inputs": "an operator with weights has both its activation and its weights in int8, or neither",
    "one-scale": "the int8 inputs of Add and Concat share one scale",
}
"""Rule id -> what it asks for."""


@dataclass(frozen=True, kw_only=True)
class Violation:
    """One place where a file breaks a rule. ``node`` is the operator's or tensor's name, "" for the file."""

    rule: str
    node: str
    reason: str
    change: str

    def __str__(self) -> str:
        return f"{self.rule}{f' at {self.node}' if self.node else ''}: {self.reason}; {self.change}"
