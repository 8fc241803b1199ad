"""What the TFLite NNAPI delegate takes, for Android 11 (API 30), the first with signed int8.

Written after NNAPIDelegateKernel::Validate of nnapi/nnapi_delegate.cc. A driver may take less than NNAPI
defines; only the phone knows. Nothing here was run: there is no NNAPI here.
"""

from __future__ import annotations

from edgekit.backends.tflite.rules import conditions as c
from edgekit.backends.tflite.rules.model import Condition, Delegate, each, rules_of
from edgekit.backends.tflite.rules.view import FLOATS, QUANTIZED, View

API = 30
"""Level that the rules are judged for: Android 11, NNAPI 1.3."""

FEATURE_LEVEL_6 = 1_000_006
FEATURE_LEVEL_7 = 1_000_007

_FLOAT = frozenset({"float32", "fp16"})
_ANY = _FLOAT | QUANTIZED
_INTS = _ANY | {"int32"}
_WEIGHTS = _ANY | {"dynamic"}
_LOGIC = frozenset({"bool"})
_TYPES = FLOATS | QUANTIZED | {"int32", "bool"}

_PAIR = c.ranks_up_to(4, 0, 1)
_SMALL = c.ranks_up_to(4, 0)


def _no_activation_on_int32(view: View) -> str | None:
    """Integer arithmetic has no fused activation."""
    if view.present[0].dtype != "int32" or not view.option("fusedActivationFunction"):
        return None
    return "without an activation on int32"


def _no_activation(view: View) -> str | None:
    return "without a fused activation" if view.option("fusedActivationFunction") else None


def _a_result_with_axes(view: View) -> str | None:
    return None if view.outputs[0].shape else "with a result that is not a single number"


def _no_crops(view: View) -> str | None:
    crops = view.values(2)
    return None if crops is not None and not crops.any() else "without crops"


def _not_last_axis(view: View) -> str | None:
    dims = len(view.present[0].shape)
    last = dims if view.op.op == "PACK" else dims - 1
    return None if int(view.option("axis")) not in (-1, last) else "along another axis than the last"


def _no_hybrid(view: View) -> str | None:
    return None if view.precision != "dynamic" else "with weights of the same type"


def _float_weights(position: int) -> Condition:
    return c.unless(
        "with float32 weights",
        lambda v: (t := v.operand(position)) is not None and t.dtype in FLOATS,
    )


_RULES = rules_of(
    each("ADD", _INTS, _PAIR, _no_activation_on_int32, max_version=2),
    each("MUL", _INTS, _PAIR, _no_activation_on_int32, max_version=2),
    each("SUB", _INTS, _PAIR, _no_activation_on_int32, max_version=3, level=28),
    each("DIV", _FLOAT, _PAIR, max_version=1, level=28),
    each("SQUARED_DIFFERENCE", _INTS, _PAIR, max_version=2, level=28),
    each("MAXIMUM MINIMUM", _INTS, max_version=3, level=29),
    each("ABS EXP LOG POW COS SIN SQRT", _FLOAT, max_version=1, level=29),
    each("RSQRT", _FLOAT, max_version=2, level=29),
    each("NEG", _FLOAT | {"int32"}, max_version=2, level=29),
    each("FLOOR", _FLOAT, max_version=1),
    each("ELU", _FLOAT, max_version=1, level=30),
    each("RELU RELU6 RELU_N1_TO_1 LOGISTIC", _ANY, max_version=2),
    each("TANH", _ANY, max_version=2),
    each("HARD_SWISH", _ANY),
    each("LEAKY_RELU PRELU", _ANY, max_version=1, level=29),
    each("ARG_MAX ARG_MIN", frozenset({"int32"}), c.dtype(1, "int32"), max_version=2, level=29),
    each("AVERAGE_POOL_2D MAX_POOL_2D", _ANY, max_version=2),
    each("L2_POOL_2D", _FLOAT, max_version=1),
    each("CONV_2D", _WEIGHTS, c.inputs(3, 3), c.given(2, "a bias"), max_version=5),
    each("DEPTHWISE_CONV_2D", _ANY, max_version=3),
    each(
        "FULLY_CONNECTED",
        _WEIGHTS,
        c.one_weight_scale(1),
        c.equals("weightsFormat", 0, "with weights in the default format"),
        max_version=5,
    ),
    each("TRANSPOSE_CONV", _ANY, c.static(0, "shape"), c.static(1, "weights"), max_version=4, level=29),
    each(
        "BATCH_MATMUL",
        _FLOAT | {"int8", "int32"},
        _PAIR,
        _no_hybrid,
        c.unless("without broadcast", lambda v: v.present[0].shape[:-2] == v.present[1].shape[:-2]),
        max_version=2,
        level=FEATURE_LEVEL_6,
    ),
    each("SOFTMAX", _ANY, _SMALL, max_version=2),
    each("LOG_SOFTMAX", _FLOAT, max_version=1, level=29),
    each("RESHAPE", _ANY, c.at_most_rank(4), c.static(1, "shape"), max_version=1),
    each("SQUEEZE", _ANY, max_version=1, level=28),
    each("EXPAND_DIMS", _INTS, c.static(1, "axis"), c.dtype(1, "int32"), max_version=1, level=29),
    each("RESIZE_BILINEAR", _ANY, c.rank(0, 4), c.static(1, "size"), max_version=3),
    each("RESIZE_NEAREST_NEIGHBOR", _ANY, c.static(1, "size"), max_version=3, level=29),
    each("L2_NORMALIZATION", _ANY, _no_activation, max_version=2),
    each("LOCAL_RESPONSE_NORMALIZATION", _FLOAT, max_version=1),
    each("CONCATENATION", _ANY, _SMALL, _no_activation, max_version=2),
    each("DEQUANTIZE", _FLOAT, c.dtype(0, "int8", "uint8", "float16"), max_version=2),
    each("QUANTIZE", QUANTIZED, c.dtype(0, "float32", "int8", "uint8"), max_version=2, level=29),
    each("PAD PADV2", _ANY, c.not_empty, max_version=2, level=28),
    each("MIRROR_PAD", _INTS, c.inputs(2, 2), c.not_empty, max_version=2, level=FEATURE_LEVEL_7),
    each("REVERSE_V2", _INTS, c.inputs(2, 2), max_version=3, level=FEATURE_LEVEL_7),
    each("SPACE_TO_BATCH_ND", _ANY, max_version=2, level=28),
    each("BATCH_TO_SPACE_ND", _ANY, _no_crops, max_version=2, level=28),
    each("STRIDED_SLICE", _ANY, max_version=2, level=28),
    each("SLICE", _INTS, c.dtype(1, "int32"), c.dtype(2, "int32"), max_version=2, level=29),
    each("TRANSPOSE", _ANY, c.static(1, "permutation"), max_version=2, level=28),
    each("SPACE_TO_DEPTH", _ANY, max_version=2),
    each("DEPTH_TO_SPACE", _ANY),
    each("MEAN", _ANY, _SMALL, _a_result_with_axes, max_version=2, level=28),
    each("REDUCE_MAX REDUCE_MIN", _ANY, max_version=2, level=29),
    each("REDUCE_PROD SUM", _FLOAT, _a_result_with_axes, max_version=1, level=29),
    each("REDUCE_ANY", _LOGIC, _a_result_with_axes, max_version=2, level=29),
    each("CAST", _INTS, c.dtype(0, "float32", "int32", "int8", "uint8"), max_version=1, level=29),
    each("TILE", _INTS, c.dtype(1, "int32"), max_version=1, level=29),
    each("LOGICAL_OR LOGICAL_AND LOGICAL_NOT", _LOGIC, max_version=1, level=29),
    each("EQUAL NOT_EQUAL GREATER GREATER_EQUAL LESS LESS_EQUAL", _LOGIC, max_version=2, level=29),
    each("TOPK_V2", _INTS, c.static(1, "k"), c.dtype(1, "int32"), max_version=2, level=29),
    each(
        "SELECT",
        _INTS,
        c.unless(
            "with a condition of the result's shape", lambda v: v.present[0].shape == v.present[1].shape
        ),
        max_version=2,
        level=29,
    ),
    each("GATHER", _INTS, c.dtype(1, "int32"), max_version=2, level=29),
    each("SPLIT", _INTS, c.static(0, "axis"), max_version=3, level=29),
    each("SPLIT_V", _INTS, c.static(1, "sizes"), c.static(2, "axis"), max_version=2, level=30),
    each("PACK", _FLOAT | {"int8"}, _not_last_axis, max_version=2, level=30),
    each("UNPACK", _ANY, _SMALL, _not_last_axis, max_version=2, level=30),
    each("FILL", _FLOAT | {"int32"}, c.static(0, "shape"), max_version=1, level=30),
    each(
        "UNIDIRECTIONAL_SEQUENCE_LSTM",
        _FLOAT,
        c.unless("with 20 or 24 operands", lambda v: len(v.operands) in (20, 24)),
        max_version=2,
        level=29,
    ),
    each("UNIDIRECTIONAL_SEQUENCE_RNN BIDIRECTIONAL_SEQUENCE_LSTM", _FLOAT, max_version=1, level=29),
    each("LSTM", _FLOAT | {"dynamic"}, max_version=3, level=28),
    each("RNN", _FLOAT, c.inputs(5, 5), _float_weights(1), max_version=1),
    each("SVDF", _FLOAT, c.inputs(5, 5), _float_weights(1), max_version=1, level=28),
    each("EMBEDDING_LOOKUP", _FLOAT, _float_weights(1), max_version=1),
)

NNAPI = Delegate(
    name="nnapi",
    title="NNAPI",
    source="google-ai-edge/LiteRT tflite/delegates/nnapi/nnapi_delegate.cc @5c8a6d4; operand types of "
    "FULLY_CONNECTED: Android NDK, NeuralNetworksTypes.h",
    rules=_RULES,
    conditions=(c.static_shapes, c.runtime_dtypes(_TYPES)),
    partitions=3,
    level=API,
)
