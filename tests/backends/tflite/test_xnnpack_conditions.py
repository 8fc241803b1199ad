"""The conditions of XNNPACK's rules against LiteRT itself: each has files on both sides of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgekit.backends.tflite import rules
from edgekit.backends.tflite.flatbuffer import read_graph

Tensors = dict[str, dict[str, Any]]
Ops = Sequence[tuple[str, Sequence[str], Sequence[str], tuple[str, Mapping[str, Any]] | None]]
Case = tuple[Tensors, Ops, Sequence[str], Sequence[str]]

IMAGE = (1, 4, 4, 8)
Q = {"dtype": "int8", "scale": 0.1, "zero_point": 0}
PLAIN = {"strideW": 1, "strideH": 1, "dilationWFactor": 1, "dilationHFactor": 1}
WINDOW = {"padding": 1, "strideW": 2, "strideH": 2, "filterWidth": 2, "filterHeight": 2}
RNG = np.random.default_rng(0)


def t(*shape: int, **facts: Any) -> dict[str, Any]:
    return {"shape": shape, **facts}


def k(values: Any, dtype: str = "int32") -> dict[str, Any]:
    return {"shape": np.shape(values), "dtype": dtype, "data": values}


def w(*shape: int) -> dict[str, Any]:
    return {"shape": shape, "data": RNG.normal(0, 0.1, shape)}


def qw(*shape: int, axis: int = 0, scales: int | None = None) -> dict[str, Any]:
    count = shape[axis] if scales is None else scales
    data = RNG.integers(-100, 100, shape)
    return {"shape": shape, "dtype": "int8", "scale": [0.01] * count, "axis": axis, "data": data}


def qb(count: int) -> dict[str, Any]:
    return {"shape": (count,), "dtype": "int32", "scale": [0.001] * count, "data": np.zeros(count)}


def unary(op: str, x: dict[str, Any], y: dict[str, Any], options: Any = None) -> Case:
    return {"x": x, "y": y}, [(op, ["x"], ["y"], options)], ["x"], ["y"]


def with_constants(
    op: str, x: dict[str, Any], y: dict[str, Any], *constants: Any, options: Any = None
) -> Case:
    names = [f"c{i}" for i in range(len(constants))]
    tensors = {"x": x, **dict(zip(names, constants, strict=True)), "y": y}
    return tensors, [(op, ["x", *names], ["y"], options)], ["x"], ["y"]


def binary(op: str, x: dict[str, Any], z: dict[str, Any], y: dict[str, Any], **attributes: Any) -> Case:
    kind = {"PRELU": None, "MAXIMUM": None, "BATCH_MATMUL": "BatchMatMulOptions"}.get(
        op, f"{op.title()}Options"
    )
    options = (kind, attributes) if kind else None
    given = ["x"] if "data" in z else ["x", "z"]
    return {"x": x, "z": z, "y": y}, [(op, ["x", "z"], ["y"], options)], given, ["y"]


def conv(
    op: str = "CONV_2D",
    *,
    x: Any = None,
    weights: Any = None,
    bias: Any = None,
    y: Any = None,
    operands: Sequence[str] = ("x", "w", "b"),
    given: Sequence[str] = ("x",),
    **attributes: Any,
) -> Case:
    depthwise = op == "DEPTHWISE_CONV_2D"
    kind = "DepthwiseConv2DOptions" if depthwise else "Conv2DOptions"
    extra = {"depthMultiplier": 1} if depthwise else {}
    tensors = {
        "x": x or t(*IMAGE),
        "w": weights or w(*((1, 3, 3, 8) if depthwise else (8, 3, 3, 8))),
        "b": bias or w(8),
        "y": y or t(*IMAGE),
    }
    used = {n: f for n, f in tensors.items() if n in operands or n == "y"}
    return used, [(op, operands, ["y"], (kind, {**PLAIN, **extra, **attributes}))], given, ["y"]


def dense(
    x: Any = None,
    weights: Any = None,
    y: Any = None,
    *,
    operands: Sequence[str] = ("x", "w", "b"),
    given: Sequence[str] = ("x",),
    bias: Any = None,
    **attributes: Any,
) -> Case:
    tensors = {"x": x or t(1, 8), "w": weights or w(4, 8), "b": bias or w(4), "y": y or t(1, 4)}
    used = {n: f for n, f in tensors.items() if n in operands or n == "y"}
    return used, [("FULLY_CONNECTED", operands, ["y"], ("FullyConnectedOptions", attributes))], given, ["y"]


def pool(op: str, y: dict[str, Any], **attributes: Any) -> Case:
    return unary(op, t(*IMAGE), y, ("Pool2DOptions", {**WINDOW, **attributes}))


def concatenation(count: int, **facts: Any) -> Case:
    names = [f"x{i}" for i in range(count)]
    tensors = {n: t(*IMAGE, **facts) for n in names} | {"y": t(1, 4, 4, 8 * count, **facts)}
    return tensors, [("CONCATENATION", names, ["y"], ("ConcatenationOptions", {"axis": 3}))], names, ["y"]


def split(count: int) -> Case:
    names = [f"y{i}" for i in range(count)]
    tensors = {"axis": k(3), "x": t(1, 4, 4, 60), **{n: t(1, 4, 4, 60 // count) for n in names}}
    return tensors, [("SPLIT", ["axis", "x"], names, ("SplitOptions", {"numSplits": count}))], ["x"], names


def strided(
    shape: tuple[int, ...], begin: Any, end: Any, steps: Any, x: Any = None, **attributes: Any
) -> Case:
    options = ("StridedSliceOptions", attributes)
    return with_constants(
        "STRIDED_SLICE", x or t(*IMAGE), t(*shape), k(begin), k(end), k(steps), options=options
    )


def deconv(*, bias: bool = True, weights: Any = None, **attributes: Any) -> Case:
    tensors = {
        "s": k([1, 8, 8, 8]),
        "w": weights or w(8, 2, 2, 8),
        "x": t(*IMAGE),
        "b": w(8),
        "y": t(1, 8, 8, 8),
    }
    if not bias:
        del tensors["b"]
    names = ["s", "w", "x", *(["b"] if bias else [])]
    options = ("TransposeConvOptions", {"padding": 1, "strideW": 2, "strideH": 2, **attributes})
    return tensors, [("TRANSPOSE_CONV", names, ["y"], options)], ["x"], ["y"]


QI = t(*IMAGE, **Q)
CONVOLUTIONS: dict[str, Case] = {
    "stride 2": conv(y=t(1, 2, 2, 8), strideW=2, strideH=2),
    "dilation": conv(dilationWFactor=2, dilationHFactor=2),
    "groups": conv(weights=w(8, 3, 3, 4)),
    "relu": conv(fusedActivationFunction=1),
    "tanh": conv(fusedActivationFunction=4),
    "weights at run time": conv(weights=t(8, 3, 3, 8), given=("x", "w")),
    "bias at run time": conv(bias=t(8), given=("x", "b")),
    "int8": conv(x=QI, weights=qw(8, 3, 3, 8), bias=qb(8), y=QI),
    "int8 per tensor": conv(x=QI, weights=qw(8, 3, 3, 8, scales=1), bias=qb(8) | {"scale": 0.001}, y=QI),
    "dynamic per channel": conv(weights=qw(8, 3, 3, 8)),
    "dynamic per tensor": conv(weights=qw(8, 3, 3, 8, scales=1)),
    "depthwise": conv("DEPTHWISE_CONV_2D"),
    "depthwise multiplier 2": conv("DEPTHWISE_CONV_2D", x=t(1, 4, 4, 4), depthMultiplier=2),
    "depthwise weights at run time": conv("DEPTHWISE_CONV_2D", weights=t(1, 3, 3, 8), given=("x", "w")),
    "depthwise dynamic": conv("DEPTHWISE_CONV_2D", weights=qw(1, 3, 3, 8, axis=3)),
    "depthwise int8": conv("DEPTHWISE_CONV_2D", x=QI, weights=qw(1, 3, 3, 8, axis=3), bias=qb(8), y=QI),
    "transpose": deconv(),
    "transpose without bias": deconv(bias=False),
    "transpose relu": deconv(fusedActivationFunction=1),
    "transpose dynamic": deconv(weights=qw(8, 2, 2, 8)),
    "transpose weights at run time": ((d := deconv(weights=t(8, 2, 2, 8)))[0], d[1], ("x", "w"), d[3]),
}
PRODUCTS: dict[str, Case] = {
    "no bias": dense(operands=("x", "w")),
    "bias left out": dense(operands=("x", "w", "")),
    "relu": dense(fusedActivationFunction=1),
    "weights at run time": dense(weights=t(4, 8), given=("x", "w")),
    "bias at run time": dense(bias=t(4), given=("x", "b")),
    "keep dims": dense(t(1, 3, 8), y=t(1, 3, 4), keepNumDims=True),
    "flattening": dense(t(1, 2, 4), y=t(1, 4)),
    "int8": dense(t(1, 8, **Q), qw(4, 8), t(1, 4, **Q), bias=qb(4)),
    "int8 per tensor": dense(t(1, 8, **Q), qw(4, 8, scales=1), t(1, 4, **Q), bias=qb(4) | {"scale": 0.001}),
    "int8 weights at run time": dense(
        t(1, 8, **Q), t(4, 8, **Q), t(1, 4, **Q), bias=qb(4) | {"scale": 0.01}, given=("x", "w")
    ),
    "dynamic": dense(weights=qw(4, 8)),
    "dynamic per tensor": dense(weights=qw(4, 8, scales=1)),
    "matmul": binary("BATCH_MATMUL", t(1, 4, 8), t(1, 8, 4), t(1, 4, 4)),
    "matmul constant": binary("BATCH_MATMUL", t(1, 4, 8), w(1, 8, 4), t(1, 4, 4)),
    "matmul adjoints": binary("BATCH_MATMUL", t(1, 8, 4), t(1, 4, 8), t(1, 4, 4), adjX=True, adjY=True),
    "matmul int8": binary("BATCH_MATMUL", t(1, 4, 8, **Q), t(1, 8, 4, **Q), t(1, 4, 4, **Q)),
    "matmul int8 shifted": binary(
        "BATCH_MATMUL", t(1, 4, 8, **Q), t(1, 8, 4, **{**Q, "zero_point": 3}), t(1, 4, 4, **Q)
    ),
    "matmul int8 constant": binary("BATCH_MATMUL", t(1, 4, 8, **Q), qw(1, 8, 4, scales=1), t(1, 4, 4, **Q)),
    "matmul dynamic": binary("BATCH_MATMUL", t(1, 4, 8), qw(1, 8, 4, scales=1), t(1, 4, 4)),
    "matmul broadcast": binary("BATCH_MATMUL", t(2, 4, 8), t(1, 8, 4), t(2, 4, 4)),
}
ELEMENTWISE: dict[str, Case] = {
    "broadcast": binary("ADD", t(*IMAGE), t(1, 1, 1, 8), t(*IMAGE)),
    "fewer dims": binary("ADD", t(*IMAGE), t(8), t(*IMAGE)),
    "single number": binary("ADD", t(*IMAGE), {"shape": (), "data": 0.5}, t(*IMAGE)),
    "constant": binary("MUL", t(*IMAGE), w(*IMAGE), t(*IMAGE)),
    "relu6": binary("ADD", t(*IMAGE), t(*IMAGE), t(*IMAGE), fusedActivationFunction=3),
    "6 dims": binary("MUL", t(1, 1, 2, 2, 2, 2), t(1, 1, 2, 2, 2, 2), t(1, 1, 2, 2, 2, 2)),
    "int8": binary("ADD", QI, QI, QI),
    "int8 add small": binary("ADD", QI, QI | {"scale": 0.1 / 2000}, QI),
    "int8 add large": binary("ADD", QI, QI | {"scale": 30.0}, QI),
    "int8 sub small": binary("SUB", QI, QI | {"scale": 0.1 / 2000}, QI),
    "int8 mul small": binary("MUL", QI, QI | {"scale": 1e-6}, QI),
    "int8 mul": binary("MUL", QI, QI, QI),
    "int16 add": binary("ADD", *[t(*IMAGE, dtype="int16", scale=0.01)] * 3, potScaleInt16=False),
    "int32 add": binary("ADD", *[t(*IMAGE, dtype="int32")] * 3),
    "maximum": binary("MAXIMUM", t(*IMAGE), t(*IMAGE), t(*IMAGE)),
    "int8 maximum": binary("MAXIMUM", QI, QI, QI),
    "prelu": binary("PRELU", t(*IMAGE), w(1, 1, 8), t(*IMAGE)),
    "prelu at run time": binary("PRELU", t(*IMAGE), t(1, 1, 8), t(*IMAGE)),
    "leaky": unary("LEAKY_RELU", t(*IMAGE), t(*IMAGE), ("LeakyReluOptions", {"alpha": 0.1})),
    "leaky zero": unary("LEAKY_RELU", t(*IMAGE), t(*IMAGE), ("LeakyReluOptions", {"alpha": 0.0})),
    "leaky int8": unary("LEAKY_RELU", QI, QI, ("LeakyReluOptions", {"alpha": 0.1})),
    "leaky int8 tiny": unary("LEAKY_RELU", QI, QI, ("LeakyReluOptions", {"alpha": 0.001})),
    "leaky int8 scales": unary(
        "LEAKY_RELU", QI, QI | {"scale": 0.1 * 300}, ("LeakyReluOptions", {"alpha": 0.9})
    ),
    "softmax": unary("SOFTMAX", t(1, 8), t(1, 8), ("SoftmaxOptions", {"beta": 1.0})),
    "softmax beta": unary("SOFTMAX", t(1, 8), t(1, 8), ("SoftmaxOptions", {"beta": 0.5})),
    "gelu": unary("GELU", t(*IMAGE), t(*IMAGE), ("GeluOptions", {"approximate": True})),
    "quantize": unary("QUANTIZE", t(*IMAGE), QI),
    "requantize": unary("QUANTIZE", QI, QI | {"scale": 0.2}),
    "requantize far": unary("QUANTIZE", QI, QI | {"scale": 40.0}),
    "requantize int16": unary("QUANTIZE", QI, t(*IMAGE, dtype="int16", scale=0.001)),
    "quantize int16": unary("QUANTIZE", t(*IMAGE), t(*IMAGE, dtype="int16", scale=0.001)),
    "dequantize int16": unary("DEQUANTIZE", t(*IMAGE, dtype="int16", scale=0.001), t(*IMAGE)),
    "uint8 requantize": unary("QUANTIZE", t(*IMAGE, dtype="uint8", scale=0.1, zero_point=128), QI),
    "uint8 add": binary("ADD", *[t(*IMAGE, dtype="uint8", scale=0.1, zero_point=128)] * 3),
    "cast": unary("CAST", t(*IMAGE), t(*IMAGE, dtype="int32"), ("CastOptions", {})),
}
SHAPES: dict[str, Case] = {
    "pool stride 3 window 2": pool("MAX_POOL_2D", t(1, 1, 1, 8), strideW=3, strideH=3),
    "average stride 3 window 2": pool("AVERAGE_POOL_2D", t(1, 1, 1, 8), strideW=3, strideH=3),
    "pool 1x1": pool("MAX_POOL_2D", t(*IMAGE), strideW=1, strideH=1, filterWidth=1, filterHeight=1),
    "pool relu": pool("AVERAGE_POOL_2D", t(1, 2, 2, 8), fusedActivationFunction=1),
    "pool same": pool("AVERAGE_POOL_2D", t(1, 2, 2, 8), padding=0),
    **{f"concatenate {n}": concatenation(n) for n in (1, 2, 3, 5, 6)},
    "concatenate int8": concatenation(2, **Q),
    **{f"split {n}": split(n) for n in (1, 2, 3, 4, 5)},
    "strided": strided((1, 2, 2, 8), [0, 1, 1, 0], [1, 3, 3, 8], [1, 1, 1, 1]),
    "strided step 2": strided((1, 2, 2, 8), [0, 0, 0, 0], [1, 4, 4, 8], [1, 2, 2, 1]),
    "strided begin mask": strided(
        (1, 3, 4, 8), [0, 1, 1, 1], [1, 3, 4, 8], [1] * 4, beginMask=14, endMask=12
    ),
    "strided negative": strided((1, 2, 2, 8), [0, -3, -3, 0], [1, -1, -1, 8], [1] * 4),
    "strided shrink": strided((4, 4, 8), [0, 0, 0, 0], [1, 4, 4, 8], [1] * 4, shrinkAxisMask=1),
    "strided new axis": strided((1, 1, 4, 4, 8), [0, 0, 0, 0], [0, 1, 4, 4], [1] * 4, newAxisMask=1),
    "strided ellipsis": strided((1, 4, 4, 4), [0, 0], [0, 4], [1, 1], ellipsisMask=1),
    "strided beyond": strided((1, 2, 2, 8), [0, 2, 2, 0], [1, 9, 9, 8], [1] * 4),
    "slice": with_constants("SLICE", t(*IMAGE), t(1, 2, 2, 8), k([0, 0, 0, 0]), k([1, 2, 2, 8])),
    "slice the rest": with_constants("SLICE", t(*IMAGE), t(1, 2, 2, 8), k([0, 2, 2, 0]), k([1, -1, -1, -1])),
    "slice int64": with_constants(
        "SLICE", t(*IMAGE), t(1, 2, 2, 8), k([0, 0, 0, 0], "int64"), k([1, 2, 2, 8], "int64")
    ),
    "reshape": with_constants("RESHAPE", t(*IMAGE), t(1, 128), k([1, 128])),
    "reshape by attribute": unary(
        "RESHAPE", t(*IMAGE), t(1, 128), ("ReshapeOptions", {"newShape": np.array([1, 128], np.int32)})
    ),
    "reshape to 7": with_constants("RESHAPE", t(*IMAGE), t(1, 1, 1, 1, 4, 4, 8), k([1, 1, 1, 1, 4, 4, 8])),
    "reshape rescaled": with_constants("RESHAPE", QI, t(1, 128, **{**Q, "scale": 0.2}), k([1, 128])),
    "reshape int32": with_constants(
        "RESHAPE", t(*IMAGE, dtype="int32"), t(1, 128, dtype="int32"), k([1, 128])
    ),
    "transpose": with_constants("TRANSPOSE", t(*IMAGE), t(1, 8, 4, 4), k([0, 3, 1, 2])),
    "transpose 6": with_constants(
        "TRANSPOSE", t(1, 1, 2, 2, 2, 2), t(2, 1, 2, 2, 2, 1), k([5, 1, 2, 3, 4, 0])
    ),
    "pad": with_constants("PAD", t(*IMAGE), t(1, 6, 6, 8), k([[0, 0], [1, 1], [1, 1], [0, 0]])),
    "pad int64": with_constants(
        "PAD", t(*IMAGE), t(1, 6, 6, 8), k([[0, 0], [1, 1], [1, 1], [0, 0]], "int64")
    ),
    "pad 5": with_constants(
        "PAD", t(1, 1, 4, 4, 8), t(1, 1, 6, 4, 8), k([[0, 0], [0, 0], [1, 1], [0, 0], [0, 0]])
    ),
    "pad v2": with_constants(
        "PADV2", t(*IMAGE), t(1, 6, 6, 8), k([[0, 0], [1, 1], [1, 1], [0, 0]]), {"shape": (), "data": -1.0}
    ),
    "mean": with_constants("MEAN", t(*IMAGE), t(1, 8), k([1, 2]), options=("ReducerOptions", {})),
    "mean kept": with_constants(
        "MEAN", t(*IMAGE), t(1, 1, 1, 8), k([1, 2]), options=("ReducerOptions", {"keepDims": True})
    ),
    "mean one axis": with_constants("MEAN", t(*IMAGE), t(1, 4, 4), k(3), options=("ReducerOptions", {})),
    "sum last": with_constants("SUM", t(*IMAGE), t(1, 4, 4), k([-1]), options=("ReducerOptions", {})),
    "maximum along": with_constants(
        "REDUCE_MAX", t(*IMAGE), t(1, 8), k([1, 2]), options=("ReducerOptions", {})
    ),
    "product along": with_constants(
        "REDUCE_PROD", t(*IMAGE), t(1, 8), k([1, 2]), options=("ReducerOptions", {})
    ),
    "bilinear corners": with_constants(
        "RESIZE_BILINEAR",
        t(*IMAGE),
        t(1, 8, 8, 8),
        k([8, 8]),
        options=("ResizeBilinearOptions", {"alignCorners": True}),
    ),
    "bilinear legacy": with_constants(
        "RESIZE_BILINEAR", t(*IMAGE), t(1, 8, 8, 8), k([8, 8]), options=("ResizeBilinearOptions", {})
    ),
    "bilinear down": with_constants(
        "RESIZE_BILINEAR",
        t(*IMAGE),
        t(1, 2, 2, 8),
        k([2, 2]),
        options=("ResizeBilinearOptions", {"halfPixelCenters": True}),
    ),
    "nearest": with_constants(
        "RESIZE_NEAREST_NEIGHBOR",
        t(*IMAGE),
        t(1, 8, 8, 8),
        k([8, 8]),
        options=("ResizeNearestNeighborOptions", {}),
    ),
    "depth to space": unary(
        "DEPTH_TO_SPACE", t(*IMAGE), t(1, 8, 8, 2), ("DepthToSpaceOptions", {"blockSize": 2})
    ),
    "squeeze": unary(
        "SQUEEZE", t(*IMAGE), t(4, 4, 8), ("SqueezeOptions", {"squeezeDims": np.array([0], np.int32)})
    ),
    "expand": with_constants("EXPAND_DIMS", t(4, 8), t(1, 4, 8), k(0), options=("ExpandDimsOptions", {})),
    "argmax": with_constants(
        "ARG_MAX", t(1, 8), t(1, dtype="int64"), k(1), options=("ArgMaxOptions", {"outputType": 4})
    ),
    "gather": with_constants(
        "GATHER", t(*IMAGE), t(1, 2, 4, 8), k([0, 1]), options=("GatherOptions", {"axis": 1})
    ),
    "mirror": with_constants(
        "MIRROR_PAD",
        t(*IMAGE),
        t(1, 6, 6, 8),
        k([[0, 0], [1, 1], [1, 1], [0, 0]]),
        options=("MirrorPadOptions", {}),
    ),
    "dynamic batch": unary("ABS", t(*IMAGE, signature=(-1, 4, 4, 8)), t(*IMAGE, signature=(-1, 4, 4, 8))),
}


def chain(*middle: tuple[str, Any]) -> Case:
    """Operators on images one after the other."""
    tensors = {f"t{i}": t(*IMAGE) for i in range(len(middle) + 1)}
    ops = [(op, [f"t{i}"], [f"t{i + 1}"], options) for i, (op, options) in enumerate(middle)]
    return tensors, ops, ["t0"], [f"t{len(middle)}"]


LEAKY = ("LeakyReluOptions", {"alpha": 0.0})
GRAPHS: dict[str, Case] = {
    "two partitions": chain(("ABS", None), ("LEAKY_RELU", LEAKY), ("ABS", None)),
    "first refused": chain(("LEAKY_RELU", LEAKY), ("ABS", None), ("NEG", ("NegOptions", {}))),
    "all refused": chain(("LEAKY_RELU", LEAKY), ("LEAKY_RELU", LEAKY)),
    "branches": (
        {n: t(*IMAGE) for n in "abcdefg"},
        [
            ("ABS", ["a"], ["b"], None),
            ("LEAKY_RELU", ["a"], ["c"], LEAKY),
            ("ABS", ["c"], ["d"], None),
            ("ABS", ["b"], ["e"], None),
            ("ADD", ["d", "e"], ["f"], ("AddOptions", {})),
            ("LEAKY_RELU", ["f"], ["g"], LEAKY),
        ],
        ["a"],
        ["g"],
    ),
    "fp16 weights": (
        {
            "x": t(*IMAGE),
            "h": {"shape": (8, 3, 3, 8), "dtype": "float16", "data": RNG.normal(0, 0.1, (8, 3, 3, 8))},
            "w": t(8, 3, 3, 8),
            "b": w(8),
            "y": t(*IMAGE),
        },
        [("DEQUANTIZE", ["h"], ["w"], None), ("CONV_2D", ["x", "w", "b"], ["y"], ("Conv2DOptions", PLAIN))],
        ["x"],
        ["y"],
    ),
    "fp16 weights of a refused operator": (
        {
            "x": t(*IMAGE),
            "h": {"shape": (8, 3, 3, 8), "dtype": "float16", "data": RNG.normal(0, 0.1, (8, 3, 3, 8))},
            "w": t(8, 3, 3, 8),
            "b": w(8),
            "v": t(*IMAGE),
            "y": t(*IMAGE),
        },
        [
            ("DEQUANTIZE", ["h"], ["w"], None),
            ("CONV_2D", ["x", "w", "b"], ["v"], ("Conv2DOptions", {**PLAIN, "fusedActivationFunction": 4})),
            ("ABS", ["v"], ["y"], None),
        ],
        ["x"],
        ["y"],
    ),
    "fp16 weights of two": (
        {
            "x": t(*IMAGE),
            "h": {"shape": (8, 3, 3, 8), "dtype": "float16", "data": RNG.normal(0, 0.1, (8, 3, 3, 8))},
            "w": t(8, 3, 3, 8),
            "b": w(8),
            "v": t(*IMAGE),
            "y": t(*IMAGE),
        },
        [
            ("DEQUANTIZE", ["h"], ["w"], None),
            ("CONV_2D", ["x", "w", "b"], ["v"], ("Conv2DOptions", {**PLAIN, "fusedActivationFunction": 4})),
            ("CONV_2D", ["v", "w", "b"], ["y"], ("Conv2DOptions", PLAIN)),
        ],
        ["x"],
        ["y"],
    ),
}
CASES = {
    f"{group}: {name}": case
    for group, cases in (
        ("convolution", CONVOLUTIONS),
        ("product", PRODUCTS),
        ("elementwise", ELEMENTWISE),
        ("shape", SHAPES),
        ("graph", GRAPHS),
    )
    for name, case in cases.items()
}


@pytest.mark.parametrize("case", CASES)
def test_the_partitions_are_those_of_litert(
    case: str, handmade: Callable[..., Path], delegated: Callable[[Path], list[tuple[int, ...]]]
) -> None:
    path = handmade(*CASES[case])
    placed = rules.place(read_graph(path), rules.DELEGATES["xnnpack"])
    assert sorted(placed.partitions) == delegated(path), placed.refused
