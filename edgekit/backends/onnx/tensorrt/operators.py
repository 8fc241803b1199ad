"""Which ONNX operators TensorRT's parser imports, as data.

From docs/operators.md of onnx-tensorrt at 8.2, 8.4, 8.5, 10.0 and 10.15. Custom plugins are not counted: the
bundle ships none.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from edgekit.backends.onnx.tensorrt.lines import line_of

_SINCE: Mapping[tuple[int, int], str] = {
    (8, 2): """
        Abs Acos Acosh Add And ArgMax ArgMin Asin Asinh Atan Atanh AveragePool BatchNormalization Cast Ceil
        Celu Clip Concat Constant ConstantOfShape Conv ConvTranspose Cos Cosh CumSum DepthToSpace
        DequantizeLinear Div Dropout Einsum Elu Equal Erf Exp Expand EyeLike Flatten Floor GRU Gather
        GatherElements GatherND Gemm GlobalAveragePool GlobalLpPool GlobalMaxPool Greater GreaterOrEqual
        HardSigmoid Identity If
        InstanceNormalization IsNaN LRN LSTM LeakyRelu Less LessOrEqual Log LogSoftmax Loop LpNormalization
        LpPool MatMul Max MaxPool Mean Min Mul Neg NonMaxSuppression Not Or PRelu Pad Pow QuantizeLinear RNN
        RandomUniform RandomUniformLike Range ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMax
        ReduceMean ReduceMin ReduceProd ReduceSum ReduceSumSquare Relu Reshape Resize ReverseSequence Round
        Scan Scatter ScatterElements ScatterND Selu Shape Sigmoid Sign Sin Sinh Size Slice Softmax Softplus
        Softsign SpaceToDepth Split Sqrt Squeeze Sub Sum Tan Tanh ThresholdedRelu Tile TopK Transpose
        Unsqueeze Upsample Where Xor
        """,
    (8, 5): """
        GridSample HardSwish MeanVarianceNormalization Mod NonZero OneHot RandomNormal RandomNormalLike
        Reciprocal RoiAlign Shrink Trilu
        """,
    (10, 0): """
        BlackmanWindow CastLike DeformConv Gelu GroupNormalization HammingWindow HannWindow Hardmax IsInf
        LayerNormalization Mish STFT
        """,
    (10, 16): "Attention RMSNormalization RotaryEmbedding TensorScatter",
}

OPERATORS: Mapping[str, tuple[int, int]] = {op: since for since, ops in _SINCE.items() for op in ops.split()}
"""Operator of the standard domain -> the first line, as (major, minor), that imports it."""

_INTEGER = frozenset(
    {"ConvInteger", "DynamicQuantizeLinear", "MatMulInteger", "QLinearConv", "QLinearMatMul"}
)
_RESIZE_NEAREST = ("floor", "ceil", "round_prefer_floor", "round_prefer_ceil")
_RESIZE_COORDINATES = (
    "half_pixel",
    "pytorch_half_pixel",
    "tf_half_pixel_for_nn",
    "asymmetric",
    "align_corners",
)


def refuse(op: str, version: str = "", domain: str = "") -> str | None:
    """None when the parser of that TensorRT imports the operator, else the reason why not."""
    line = line_of(version)
    if domain not in ("", "ai.onnx"):
        return f"TensorRT has no operator {domain}:{op} without a plugin"
    if op in _INTEGER:
        return f"TensorRT takes quantised models as Q/DQ pairs around float operators, not as {op}"
    since = OPERATORS.get(op)
    if since is None:
        return f"TensorRT does not import {op}"
    if since >= line.before:
        return f"TensorRT imports {op} from {since[0]}.{since[1]} on, the device has {line.name}"
    return None


def refuse_attributes(op: str, attributes: Mapping[str, Any], outputs: int, version: str = "") -> str | None:
    """None when TensorRT imports an operator with these attributes and that many outputs, else why not.

    ``attributes`` hold Python values (text as str). Operators that it does not know at all are not looked at.
    """
    check = _ATTRIBUTES.get(op)
    return check(attributes, outputs) if check is not None else None


def _resize(attributes: Mapping[str, Any], outputs: int) -> str | None:
    mode = attributes.get("mode", "nearest")
    if mode not in ("nearest", "linear"):
        return f"TensorRT resizes by nearest or linear, not by {mode}"
    coordinates = attributes.get("coordinate_transformation_mode", "half_pixel")
    if coordinates not in _RESIZE_COORDINATES:
        return f"TensorRT's Resize has no coordinate transformation {coordinates}"
    nearest = attributes.get("nearest_mode", "round_prefer_floor")
    if mode == "nearest" and nearest not in _RESIZE_NEAREST:
        return f"TensorRT's Resize has no nearest mode {nearest}"
    if attributes.get("antialias"):
        return "TensorRT's Resize does not antialias"
    if attributes.get("keep_aspect_ratio_policy", "stretch") != "stretch":
        return "TensorRT's Resize only stretches"
    return None


def _pool(attributes: Mapping[str, Any], outputs: int) -> str | None:
    if any(d != 1 for d in attributes.get("dilations", ())):
        return "TensorRT pools without dilation only"
    if outputs > 1:
        return "TensorRT's MaxPool has no Indices output"
    return None


def _recurrent(attributes: Mapping[str, Any], outputs: int) -> str | None:
    if attributes.get("layout"):
        return "TensorRT takes recurrent layers with layout 0 only (time first)"
    if attributes.get("input_forget"):
        return "TensorRT's LSTM does not couple input and forget gates"
    activations = list(attributes.get("activations", ()))
    if attributes.get("direction") == "bidirectional" and activations:
        half = len(activations) // 2
        if activations[:half] != activations[half:]:
            return "TensorRT takes bidirectional layers with the same activations both ways only"
    return None


def _scatter(attributes: Mapping[str, Any], outputs: int) -> str | None:
    if attributes.get("reduction", "none") != "none":
        return "TensorRT's ScatterND has no reduction"
    return None


def _top_k(attributes: Mapping[str, Any], outputs: int) -> str | None:
    return None if attributes.get("sorted", 1) else "TensorRT's TopK returns sorted values only"


def _layer_normalization(attributes: Mapping[str, Any], outputs: int) -> str | None:
    return "TensorRT's LayerNormalization has only its first output" if outputs > 1 else None


_ATTRIBUTES: Mapping[str, Callable[[Mapping[str, Any], int], str | None]] = {
    "AveragePool": _pool,
    "GRU": _recurrent,
    "LSTM": _recurrent,
    "LayerNormalization": _layer_normalization,
    "LpPool": _pool,
    "MaxPool": _pool,
    "RNN": _recurrent,
    "Resize": _resize,
    "ScatterND": _scatter,
    "TopK": _top_k,
}
