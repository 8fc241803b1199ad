"""Which operators a delegate takes, as data.

XNNPACK: what LiteRT 2.3 delegates, measured with one file per operator and precision
(tests/backends/tflite/test_rules.py repeats that), since tensorflow/lite/delegates/xnnpack/README.md lists
more than the delegate takes. A precision is listed where the operator runs in it without leaving the
delegate. What depends on an operator's attributes is not told apart: a STRIDED_SLICE with steps above 1
is refused in reality, an int8 BATCH_MATMUL is taken when its right side has zero point 0.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class OpRule:
    """An operator that a delegate takes, in the precisions that it takes it in."""

    op: str
    precisions: frozenset[str]


_FLOAT = frozenset({"float32", "fp16"})
_BOTH = _FLOAT | {"int8"}

_XNNPACK: Mapping[frozenset[str], str] = {
    _BOTH: """
        ADD CONCATENATION DEPTHWISE_CONV_2D DEPTH_TO_SPACE DEQUANTIZE ELU LEAKY_RELU LOGISTIC MAX_POOL_2D MEAN
        MUL PAD QUANTIZE REDUCE_MAX REDUCE_MIN RESHAPE RESIZE_BILINEAR SLICE SPACE_TO_DEPTH SPLIT
        STRIDED_SLICE SUB SUM TANH TRANSPOSE
        """,
    _FLOAT: """
        ABS AVERAGE_POOL_2D BATCH_MATMUL CEIL COS DIV EXP FLOOR GELU HARD_SWISH LOG MAXIMUM MINIMUM NEG PRELU
        RELU RELU6 RELU_N1_TO_1 ROUND RSQRT SIN SOFTMAX SQRT SQUARE SQUARED_DIFFERENCE
        """,
    _BOTH | {"dynamic"}: "CONV_2D FULLY_CONNECTED TRANSPOSE_CONV",
}

DELEGATES: Mapping[str, Mapping[str, OpRule]] = {
    "xnnpack": {
        op: OpRule(op=op, precisions=precisions) for precisions, ops in _XNNPACK.items() for op in ops.split()
    },
}


def refuse(delegate: str, op: str, precision: str) -> str | None:
    """None when the delegate takes the operator in this precision, else the reason why not."""
    rule = DELEGATES[delegate].get(op)
    if rule is None:
        return f"{delegate} has no kernel for {op}"
    if precision in rule.precisions:
        return None
    return f"{delegate} runs {op} in {', '.join(sorted(rule.precisions))} but not in {precision}"
