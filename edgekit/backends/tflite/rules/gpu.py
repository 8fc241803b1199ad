"""What the TFLite GPU delegate takes (OpenCL, OpenGL ES).

Written after CheckGpuDelegateCompatibility (tools/versioning/gpu_compatibility.cc), the newest operator
versions and the limits of the parsers in gpu/common/model_builder.cc, whose failure makes the delegate give
up the whole graph. It computes in float: quantised values are stored as float and rounded to their steps,
quantised weights are dequantised when the model is loaded. Nothing here was run: there is no such GPU here.
"""

from __future__ import annotations

from edgekit.backends.tflite.rules import conditions as c
from edgekit.backends.tflite.rules.model import Delegate, each, rules_of
from edgekit.backends.tflite.rules.view import FLOATS, QUANTIZED, View

_FLOAT = frozenset({"float32", "fp16"})
_ANY = _FLOAT | QUANTIZED
_WEIGHTS = _ANY | {"dynamic"}
_BOOL = frozenset({"bool"})
_CAST_TYPES = frozenset({"float32", "int32", "bool"})

_COMPARISONS = "EQUAL NOT_EQUAL GREATER GREATER_EQUAL LESS LESS_EQUAL"

_MORE_TYPES = {
    "CAST": _CAST_TYPES,
    "ONE_HOT": frozenset({"int32"}),
    "GATHER": frozenset({"int32"}),
    **dict.fromkeys(
        ("SELECT", "SELECT_V2", "LOGICAL_AND", *_COMPARISONS.split()),
        _BOOL,
    ),
}


def _broadcast(view: View) -> str | None:
    """ADD and MUL of different numbers of dimensions: only the forms that the shaders know."""
    shapes = [t.shape for t in view.operands if t is not None]
    if len(shapes) != 2 or min(map(len, shapes)) < 2 or len(shapes[0]) == len(shapes[1]):
        return None
    short, long = sorted(shapes, key=len)
    known = len(long) == 4 and (
        (len(short) == 3 and long[0] == 1)
        or (len(short) == 2 and long[0] == 1 and short == (1, 1))
        or (len(short) == 2 and (long[0], long[3]) == short)
    )
    return None if known else "without this broadcast (equal ranks, 3-D to a batch of 1, or [b, c] to 4-D)"


def _feeds_a_choice(view: View) -> str | None:
    """A comparison has one reader, which turns its answers into floats."""
    readers = view.links.readers.get(view.op.outputs[0], [])
    out = [view.graph.tensors[r.outputs[0]].dtype for r in readers]
    fits = len(readers) == 1 and readers[0].op in ("CAST", "SELECT", "SELECT_V2") and out[0] in FLOATS
    return None if fits else "in front of one CAST or SELECT to float"


def _float_cast(view: View) -> str | None:
    """Casts between float32 and int32, and between bool and float inside of the graph."""
    source, out = view.present[0].dtype, view.outputs[0].dtype
    if source == "bool" and out in FLOATS:
        readers = len(view.links.readers.get(view.op.outputs[0], []))
        return None if readers == 1 else "from bool where one operator reads the result"
    fits = {source, out} <= {"float32", "int32"} or (source in FLOATS and out == "bool")
    return None if fits else f"between float32, int32 and bool, not {source} to {out}"


def _matching_width(view: View) -> str | None:
    """A FULLY_CONNECTED contracts the last axis alone: nothing is flattened on the way."""
    source, weights = view.operand(0), view.operand(1)
    if source is None or weights is None or not view.is_static(weights):
        return None
    return None if source.shape[-1:] == weights.shape[1:] else "with as many input channels as weights"


def _kept_dims(view: View) -> str | None:
    source = view.operand(0)
    if not view.option("keepNumDims") or source is None:
        return None
    return None if len(source.shape) == len(view.outputs[0].shape) else "with equal ranks in and out"


def _flat_second(view: View) -> str | None:
    second = view.operand(1)
    if second is None or not view.is_static(second):
        return None
    return None if len(second.shape) == 2 else "with a constant of 2 dimensions"


def _depthwise_shapes(view: View) -> str | None:
    source, out = view.operand(0), view.outputs[0]
    if source is None or len(source.shape) != 4 or len(out.shape) != 4:
        return "on 4 dimensions"
    fits = out.shape[3] == source.shape[3] * int(view.option("depthMultiplier", 1))
    return (
        None if fits and source.shape[0] == out.shape[0] else "with a depth multiplier that fits its shapes"
    )


def _padding_table(view: View) -> str | None:
    amounts = view.operand(1)
    return None if amounts is not None and amounts.shape in ((3, 2), (4, 2)) else "on 3 or 4 dimensions"


def _choices(view: View) -> str | None:
    """Branches of a SELECT: the result's shape, or one number."""
    shape = view.outputs[0].shape
    branches = [t for t in view.operands[1:3] if t is not None]
    fits = all(t.shape == shape or t.shape in ((), (1,)) for t in branches)
    return None if fits else "between tensors of the result's shape or single numbers"


_ONE = (c.runtime_inputs(1), c.outputs(1, 1))
_TWO = (c.runtime_inputs(1, 2), c.inputs(2, 2), c.activation({*c.BOUNDED, "TANH"}))
_CONV = (
    c.runtime_inputs(1, 2),
    c.outputs(1, 1),
    c.positive("strideH", "strideW", "dilationHFactor", "dilationWFactor"),
    c.activation({*c.BOUNDED, "TANH"}),
)
_POOL = (
    *_ONE,
    c.positive("strideH", "strideW", "filterHeight", "filterWidth"),
    c.activation({*c.BOUNDED, "TANH"}),
)
_REDUCE = (*_ONE, c.static(1, "axes"), c.dtype(1, "int32"))
_SLICED = (c.rank(0, 3, 4), c.static(1, "begin"), c.static(2, "end"))

_RULES = rules_of(
    each(
        "ABS COS ELU EXP FLOOR GELU LOG LOGISTIC NEG RSQRT SIGN SIN SQRT SQUARE TANH",
        _ANY,
        *_ONE,
        max_version=2,
    ),
    each("RELU RELU6 RELU_N1_TO_1 RELU_0_TO_1 LEAKY_RELU", _ANY, max_version=2),
    each("HARD_SWISH", _ANY, *_ONE),
    each("ADD", _ANY, c.inputs(2, 2), _broadcast, max_version=2),
    each("MUL", _ANY, c.inputs(2, 2), _broadcast, c.activation({*c.BOUNDED, "TANH"}), max_version=3),
    each("ADD_N", _ANY, c.inputs(2, 2)),
    each("DIV FLOOR_DIV FLOOR_MOD MAXIMUM MINIMUM POW SQUARED_DIFFERENCE SUB", _ANY, *_TWO, max_version=2),
    each(_COMPARISONS, _BOOL, _feeds_a_choice, max_version=2),
    each("LOGICAL_AND", _BOOL, *_TWO, max_version=2),
    each("CAST", _CAST_TYPES | _FLOAT, _float_cast),
    each("SELECT SELECT_V2", _FLOAT, c.inputs(3, 3), _choices, max_version=1),
    each("AVERAGE_POOL_2D MAX_POOL_2D", _ANY, *_POOL, max_version=2),
    each("BATCH_MATMUL", _WEIGHTS, c.inputs(2, 2), _flat_second),
    each("CONCATENATION", _ANY, max_version=2),
    each("CONV_2D", _WEIGHTS, *_CONV, max_version=6),
    each("CUMSUM", _FLOAT, c.static(1, "axis"), c.dtype(1, "int32"), max_version=1),
    each("DEPTHWISE_CONV_2D", _WEIGHTS, *_CONV, _depthwise_shapes, max_version=6),
    each(
        "DEPTH_TO_SPACE",
        _ANY,
        *_ONE,
        c.unless("with a block above 1", lambda v: int(v.option("blockSize")) > 1),
    ),
    each(
        "SPACE_TO_DEPTH",
        _ANY,
        *_ONE,
        c.unless("with a block above 1", lambda v: int(v.option("blockSize")) > 1),
        max_version=2,
    ),
    each("DEQUANTIZE", _WEIGHTS, c.dtype(0, "int8", "uint8", "float16"), max_version=3),
    each("QUANTIZE", QUANTIZED, *_ONE, max_version=2),
    each(
        "FULLY_CONNECTED",
        _WEIGHTS,
        c.equals("weightsFormat", 0, "with weights in the default format"),
        c.runtime_inputs(1, 2),
        _kept_dims,
        _matching_width,
        max_version=9,
    ),
    each("GATHER", _ANY, c.inputs(2, 2), c.rank(1, 1), c.dtype(1, "int32"), max_version=1),
    each(
        "LSTM",
        _FLOAT,
        c.unless("with 5, 20 or 24 operands", lambda v: len(v.operands) in (5, 20, 24)),
        c.activation({"TANH"}),
        max_version=4,
    ),
    each("MEAN REDUCE_MAX REDUCE_MIN REDUCE_PROD SUM", _ANY, *_REDUCE),
    each(
        "MIRROR_PAD",
        _ANY,
        *_ONE,
        c.equals("mode", 0, "with mode REFLECT"),
        c.static(1, "amounts"),
        _padding_table,
        max_version=2,
    ),
    each("PAD PADV2", _ANY, *_ONE, c.static(1, "amounts"), _padding_table, max_version=2),
    each(
        "ONE_HOT",
        _FLOAT,
        c.inputs(4, 4),
        c.dtype(0, "int32"),
        c.static(2, "on value"),
        c.static(3, "off value"),
        max_version=1,
    ),
    each("PACK UNPACK SPLIT SPLIT_V", _ANY),
    each("PRELU", _ANY, c.static(1, "slopes"), max_version=1),
    each("RESHAPE", _ANY, *_ONE, max_version=1),
    each(
        "RESIZE_BILINEAR RESIZE_NEAREST_NEIGHBOR",
        _ANY,
        *_ONE,
        c.unless(
            "without align_corners and half_pixel_centers at once",
            lambda v: (
                v.op.op != "RESIZE_BILINEAR"
                or not (v.option("alignCorners") and v.option("halfPixelCenters"))
            ),
        ),
        max_version=3,
    ),
    each("SLICE", _ANY, c.inputs(3, 3), *_SLICED, max_version=2),
    each("SOFTMAX", _ANY, c.equals("beta", 1.0, "with beta 1"), max_version=2),
    each(
        "STRIDED_SLICE",
        _ANY,
        c.inputs(4, 4),
        *_SLICED,
        c.static(3, "steps"),
        c.strided_slice_plain,
        c.forward_strides,
        max_version=4,
    ),
    each("TILE", _ANY, *_ONE),
    each("TRANSPOSE", _ANY, *_ONE, c.static(1, "permutation"), max_version=4),
    each(
        "TRANSPOSE_CONV",
        _WEIGHTS,
        c.runtime_inputs(1, 2),
        c.static(0, "shape"),
        c.positive("strideH", "strideW"),
        max_version=3,
    ),
)

GPU = Delegate(
    name="gpu",
    title="the GPU delegate",
    source="google-ai-edge/LiteRT tflite/tools/versioning/gpu_compatibility.cc @007226f, "
    "tflite/delegates/gpu/common/model_builder.cc @34ec5ba",
    rules=_RULES,
    conditions=(
        c.static_shapes,
        c.at_most_rank(4),
        c.runtime_dtypes(FLOATS | QUANTIZED, _MORE_TYPES),
    ),
    partitions=1,
)
