"""Which operators a delegate takes, as data.

XNNPACK: tensorflow/lite/delegates/xnnpack/README.md ("Supported operators") as of LiteRT 2.3. A
precision is listed where the operator runs in it without leaving the delegate.
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

_XNNPACK_BOTH = (
    "ADD AVERAGE_POOL_2D CONCATENATION DEPTH_TO_SPACE ELU HARD_SWISH LEAKY_RELU LOGISTIC MAX_POOL_2D MEAN MUL PAD "
    "RELU RELU6 RELU_N1_TO_1 RESHAPE EXPAND_DIMS SQUEEZE RESIZE_BILINEAR SLICE SPACE_TO_DEPTH SPLIT STRIDED_SLICE "
    "SUB TANH TRANSPOSE TRANSPOSE_CONV MAXIMUM MINIMUM"
).split()
_XNNPACK_FLOAT = (
    "ABS BATCH_MATMUL CEIL COS DIV EXP FLOOR GELU LOG NEG PRELU ROUND RSQRT SIN SOFTMAX SQRT SQUARE "
    "SQUARED_DIFFERENCE SUM"
).split()
_XNNPACK_DYNAMIC = ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED")

DELEGATES: Mapping[str, Mapping[str, OpRule]] = {
    "xnnpack": {
        **{op: OpRule(op=op, precisions=_BOTH) for op in _XNNPACK_BOTH},
        **{op: OpRule(op=op, precisions=_FLOAT) for op in _XNNPACK_FLOAT},
        **{op: OpRule(op=op, precisions=_BOTH | {"dynamic"}) for op in _XNNPACK_DYNAMIC},
        "QUANTIZE": OpRule(op="QUANTIZE", precisions=_BOTH),
        "DEQUANTIZE": OpRule(op="DEQUANTIZE", precisions=_BOTH),
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
