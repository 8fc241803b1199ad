"""What XNNPACK takes, the CPU delegate that LiteRT applies by default.

Written after VisitNode of tflite/delegates/xnnpack/xnnpack_delegate.cc, and corrected where LiteRT 2.3 does
otherwise: tests/backends/tflite/test_rules.py runs a file for every operator, precision and condition.
"""

from __future__ import annotations

from edgekit.backends.tflite.rules import conditions as c
from edgekit.backends.tflite.rules.model import Delegate, each, rules_of

MAX_DIMS = 6
"""XNN_MAX_TENSOR_DIMS."""

_FLOAT = frozenset({"float32", "fp16"})
_SIGNED = _FLOAT | {"int8"}
_BOTH = _SIGNED | {"uint8"}
_WEIGHTS = _BOTH | {"dynamic"}
_UNARY = (c.inputs(1, 1), c.ranks_up_to(MAX_DIMS, 0))
_BINARY = (c.inputs(2, 2), c.ranks_up_to(MAX_DIMS, 0, 1), c.activation())
_POOL = (c.inputs(1, 1), c.pool_window, c.activation())
_CONV = (
    c.inputs(3, 3),
    c.given(2, "a bias"),
    c.static(1, "weights"),
    c.static(2, "bias"),
    c.rank(0, 4),
    c.rank(1, 4),
    c.rank(2, 1),
    c.positive("strideH", "strideW", "dilationHFactor", "dilationWFactor"),
    c.activation(),
)
_REDUCE = (c.inputs(2, 2), c.static(1, "axes"), c.dtype(1, "int32"))

_RULES = rules_of(
    each(
        "ABS CEIL COS EXP FLOOR GELU HARD_SWISH LOG NEG RELU RELU6 RELU_N1_TO_1 ROUND RSQRT SIN SQRT SQUARE",
        _FLOAT,
        *_UNARY,
    ),
    each("ELU", _SIGNED, *_UNARY),
    each("LOGISTIC TANH", _BOTH, *_UNARY),
    each("LEAKY_RELU", _BOTH, *_UNARY, c.usable_alpha),
    each(
        "QUANTIZE",
        frozenset({"int8", "uint8"}),
        *_UNARY,
        c.unless(
            "from float32 or between equal types",
            lambda v: v.present[0].dtype in ("float32", v.outputs[0].dtype),
        ),
        c.scale_ratio(1 / 256, 128.0001, 0),
    ),
    each("DEQUANTIZE", _FLOAT | {"dynamic"}, *_UNARY, c.dtype(0, "int8", "uint8", "float16")),
    each("ADD SUB", _BOTH, *_BINARY, c.same_types(0, 1), c.scale_ratio(1 / 1024, 256, 0, 1)),
    each("MUL", _BOTH, *_BINARY, c.same_types(0, 1), c.product_ratio(1 / 65536, 256)),
    each("DIV MAXIMUM MINIMUM SQUARED_DIFFERENCE", _FLOAT, *_BINARY),
    each("PRELU", _FLOAT, c.inputs(2, 2), c.ranks_up_to(MAX_DIMS, 0, 1), c.static(1, "slopes")),
    each("AVERAGE_POOL_2D", _FLOAT, *_POOL),
    each("MAX_POOL_2D", _BOTH, *_POOL),
    each(
        "BATCH_MATMUL",
        _FLOAT | {"dynamic", "int8"},
        c.symmetric_second,
        c.unless("on operands of at least 2 dimensions", lambda v: all(len(t.shape) >= 2 for t in v.present)),
    ),
    each("CONCATENATION", _BOTH, c.inputs(2, 5)),
    each("CONV_2D", _WEIGHTS, *_CONV, c.filter_axis(1, 0)),
    each("DEPTHWISE_CONV_2D", _BOTH, *_CONV, c.positive("depthMultiplier"), c.filter_axis(1, 3)),
    each("DEPTH_TO_SPACE SPACE_TO_DEPTH", _BOTH, c.inputs(1, 1)),
    each(
        "FULLY_CONNECTED",
        _WEIGHTS,
        c.inputs(2, 3),
        c.rank(1, 2),
        c.equals("weightsFormat", 0, "with weights in the default format"),
        c.static(1, "weights"),
        c.static(2, "bias"),
        c.bias_per_channel,
        c.filter_axis(1, 0),
        c.activation(),
    ),
    each("MEAN SUM REDUCE_MAX REDUCE_MIN", _BOTH, *_REDUCE),
    each(
        "PAD",
        _BOTH,
        c.inputs(2, 2),
        c.at_most_rank(MAX_DIMS),
        c.static(1, "amounts"),
        c.dtype(1, "int32"),
        c.no_negative_padding,
    ),
    each(
        "RESHAPE", _BOTH, c.inputs(1, 2), c.at_most_rank(MAX_DIMS), c.static(1, "shape"), c.same_quantization
    ),
    each("RESIZE_BILINEAR", _BOTH, c.inputs(2, 2), c.rank(0, 4), c.static(1, "size")),
    each("SLICE", _BOTH, c.static(1, "begin"), c.static(2, "size"), c.positive_sizes(2)),
    each("SOFTMAX", _FLOAT, c.inputs(1, 1), c.equals("beta", 1.0, "with beta 1")),
    each("SPLIT", _BOTH, c.inputs(2, 2), c.outputs(2, 4), c.static(0, "axis")),
    each(
        "STRIDED_SLICE",
        _BOTH,
        c.strided_slice_plain,
        c.static(1, "begin"),
        c.static(2, "end"),
        c.unit_strides,
    ),
    each("TRANSPOSE", _BOTH, c.inputs(2, 2), c.static(1, "permutation")),
    each(
        "TRANSPOSE_CONV",
        _WEIGHTS,
        c.inputs(3, 4),
        c.static(0, "shape"),
        c.static(1, "weights"),
        c.static(3, "bias"),
        c.rank(1, 4),
        c.rank(2, 4),
        c.filter_axis(1, 0),
        c.activation(),
    ),
)

XNNPACK = Delegate(
    name="xnnpack",
    title="XNNPACK",
    source="google-ai-edge/LiteRT tflite/delegates/xnnpack/xnnpack_delegate.cc @038d2a2; LiteRT 2.3.0 itself",
    rules=_RULES,
    conditions=(c.per_tensor_activations,),
)
