"""The rules of XNNPACK against LiteRT itself: one file for every operator and precision."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgekit.backends.tflite import rules
from edgekit.backends.tflite.flatbuffer import op_precision, read_graph
from edgekit.errors import StepFailed

IMAGE = (1, 4, 4, 8)
POOL = (
    "Pool2DOptions",
    {"padding": 1, "strideW": 2, "strideH": 2, "filterWidth": 2, "filterHeight": 2},
)
CONV = {"strideW": 1, "strideH": 1, "dilationWFactor": 1, "dilationHFactor": 1}
OPTIONS: dict[str, tuple[str, dict[str, Any]]] = {
    "ADD": ("AddOptions", {}),
    "SUB": ("SubOptions", {}),
    "MUL": ("MulOptions", {}),
    "DIV": ("DivOptions", {}),
    "LEAKY_RELU": ("LeakyReluOptions", {"alpha": 0.1}),
    "SOFTMAX": ("SoftmaxOptions", {"beta": 1.0}),
    "AVERAGE_POOL_2D": POOL,
    "MAX_POOL_2D": POOL,
    "CONV_2D": ("Conv2DOptions", CONV),
    "DEPTHWISE_CONV_2D": ("DepthwiseConv2DOptions", {**CONV, "depthMultiplier": 1}),
    "TRANSPOSE_CONV": ("TransposeConvOptions", {"padding": 1, "strideW": 2, "strideH": 2}),
    "FULLY_CONNECTED": ("FullyConnectedOptions", {}),
    "CONCATENATION": ("ConcatenationOptions", {"axis": 3}),
    "SPLIT": ("SplitOptions", {"numSplits": 2}),
    "RESHAPE": ("ReshapeOptions", {"newShape": np.array([1, 128], np.int32)}),
    "RESIZE_BILINEAR": ("ResizeBilinearOptions", {"halfPixelCenters": True}),
    "RESIZE_NEAREST_NEIGHBOR": ("ResizeNearestNeighborOptions", {}),
    "STRIDED_SLICE": ("StridedSliceOptions", {}),
    "SPACE_TO_DEPTH": ("SpaceToDepthOptions", {"blockSize": 2}),
    "DEPTH_TO_SPACE": ("DepthToSpaceOptions", {"blockSize": 2}),
    "MIRROR_PAD": ("MirrorPadOptions", {}),
    "GATHER": ("GatherOptions", {"axis": 1}),
}
FIXED_RANGE = {"TANH": (1 / 128, 0), "LOGISTIC": (1 / 256, -128), "SOFTMAX": (1 / 256, -128)}
"""Operators whose int8 output has a scale that LiteRT demands."""

ONE_INPUT = """ABS CEIL COS ELU EXP FLOOR GELU HARD_SWISH LOG NEG RELU RELU6 RELU_N1_TO_1 ROUND RSQRT SIN SQRT
    SQUARE LEAKY_RELU TANH LOGISTIC SOFTMAX""".split()  # noqa: SIM905
TWO_INPUTS = "ADD SUB MUL DIV MAXIMUM MINIMUM SQUARED_DIFFERENCE POW".split()  # noqa: SIM905
REDUCTIONS = "MEAN SUM REDUCE_MAX REDUCE_MIN REDUCE_PROD".split()  # noqa: SIM905
SHAPED: dict[str, tuple[tuple[int, ...], list[Any]]] = {
    "AVERAGE_POOL_2D": ((1, 2, 2, 8), []),
    "MAX_POOL_2D": ((1, 2, 2, 8), []),
    "PAD": ((1, 6, 6, 8), [[[0, 0], [1, 1], [1, 1], [0, 0]]]),
    "MIRROR_PAD": ((1, 6, 6, 8), [[[0, 0], [1, 1], [1, 1], [0, 0]]]),
    "RESHAPE": ((1, 128), [[1, 128]]),
    "RESIZE_BILINEAR": ((1, 8, 8, 8), [[8, 8]]),
    "RESIZE_NEAREST_NEIGHBOR": ((1, 8, 8, 8), [[8, 8]]),
    "SLICE": ((1, 2, 2, 8), [[0, 0, 0, 0], [1, 2, 2, 8]]),
    "STRIDED_SLICE": ((1, 2, 2, 8), [[0, 0, 0, 0], [1, 2, 2, 8], [1, 1, 1, 1]]),
    "TRANSPOSE": ((1, 8, 4, 4), [[0, 3, 1, 2]]),
    "SPACE_TO_DEPTH": ((1, 2, 2, 32), []),
    "DEPTH_TO_SPACE": ((1, 8, 8, 2), []),
    "GATHER": ((1, 2, 4, 8), [[0, 1]]),
}
"""Output shape and constant int32 inputs of operators of one input."""

WEIGHTED: dict[str, tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...], int]] = {
    "CONV_2D": (IMAGE, (8, 3, 3, 8), IMAGE, 0),
    "DEPTHWISE_CONV_2D": (IMAGE, (1, 3, 3, 8), IMAGE, 3),
    "FULLY_CONNECTED": ((1, 8), (8, 8), (1, 8), 0),
    "TRANSPOSE_CONV": (IMAGE, (8, 2, 2, 8), (1, 8, 8, 8), 0),
}
"""Shapes of input, weights and output, and the axis of the weight scales."""

OPS = [*ONE_INPUT, *TWO_INPUTS, *REDUCTIONS, *SHAPED, *WEIGHTED]
OPS += ["CONCATENATION", "SPLIT", "PRELU", "BATCH_MATMUL", "QUANTIZE", "DEQUANTIZE"]

NO_INT8_KERNEL = ["CEIL", "COS", "FLOOR", "ROUND", "SIN", "SQUARE", "POW"]
"""LiteRT itself refuses files with these in int8: nothing runs them."""


def model_of(op: str, precision: str) -> tuple[dict[str, Any], list[Any], list[str], list[str]]:
    """Tensors, operators, inputs and outputs for the ``handmade`` fixture."""
    int8 = precision == "int8"

    def tensor(shape: tuple[int, ...], scale: float = 0.1, zero_point: int = 0) -> dict[str, Any]:
        stored = {"dtype": "int8", "scale": scale, "zero_point": zero_point} if int8 else {}
        return {"shape": shape, **stored}

    def constant(values: Any) -> dict[str, Any]:
        return {"shape": np.shape(values), "dtype": "int32", "data": values}

    x, options = tensor(IMAGE), OPTIONS.get(op)
    if op in ONE_INPUT:
        y = tensor(IMAGE, *FIXED_RANGE[op]) if op in FIXED_RANGE else tensor(IMAGE)
        return {"x": x, "y": y}, [(op, ["x"], ["y"], options)], ["x"], ["y"]
    if op in TWO_INPUTS:
        tensors = {"x": x, "z": tensor(IMAGE), "y": tensor(IMAGE)}
        return tensors, [(op, ["x", "z"], ["y"], options)], ["x", "z"], ["y"]
    if op in REDUCTIONS:
        tensors = {"x": x, "axes": constant([1, 2]), "y": tensor((1, 8))}
        return tensors, [(op, ["x", "axes"], ["y"], ("ReducerOptions", {}))], ["x"], ["y"]
    if op in SHAPED:
        shape, values = SHAPED[op]
        constants = {f"c{i}": constant(v) for i, v in enumerate(values)}
        return (
            {"x": x, **constants, "y": tensor(shape)},
            [(op, ["x", *constants], ["y"], options)],
            ["x"],
            ["y"],
        )
    if op in WEIGHTED:
        return _weighted(op, precision, tensor, constant)
    if op == "CONCATENATION":
        tensors = {"x": x, "z": tensor(IMAGE), "y": tensor((1, 4, 4, 16))}
        return tensors, [(op, ["x", "z"], ["y"], options)], ["x", "z"], ["y"]
    if op == "SPLIT":
        tensors = {"axis": constant(3), "x": x, "y": tensor((1, 4, 4, 4)), "z": tensor((1, 4, 4, 4))}
        return tensors, [(op, ["axis", "x"], ["y", "z"], options)], ["x"], ["y", "z"]
    if op == "PRELU":
        slope = {**tensor((1, 1, 8), 0.01), "data": np.full((1, 1, 8), 10 if int8 else 0.1)}
        return {"x": x, "slope": slope, "y": tensor(IMAGE)}, [(op, ["x", "slope"], ["y"], None)], ["x"], ["y"]
    if op == "BATCH_MATMUL":
        tensors = {"x": tensor((1, 4, 8)), "z": tensor((1, 8, 4), 0.1, 3), "y": tensor((1, 4, 4))}
        return tensors, [(op, ["x", "z"], ["y"], ("BatchMatMulOptions", {}))], ["x", "z"], ["y"]
    stored = {"shape": IMAGE, "dtype": "int8", "scale": 0.1}
    tensors = (
        {"x": {"shape": IMAGE}, "y": stored} if op == "QUANTIZE" else {"x": stored, "y": {"shape": IMAGE}}
    )
    return tensors, [(op, ["x"], ["y"], None)], ["x"], ["y"]


def _weighted(op: str, precision: str, tensor: Any, constant: Any) -> tuple[Any, Any, list[str], list[str]]:
    takes, weights, gives, axis = WEIGHTED[op]
    rng = np.random.default_rng(0)
    scales = {"dtype": "int8", "scale": [0.01] * 8, "axis": axis}
    tensors = {
        "x": tensor(takes),
        "w": {
            "shape": weights,
            "data": rng.integers(-100, 100, weights) * (1.0 if precision != "float32" else 0.01),
        },
        "b": {"shape": (8,), "data": np.zeros(8)},
        "y": tensor(gives),
    }
    if precision != "float32":
        tensors["w"] |= scales
    if precision == "int8":
        tensors["b"] |= {"dtype": "int32", "scale": [0.001] * 8}
    names = ["x", "w", "b"]
    if op == "TRANSPOSE_CONV":
        tensors["shape"] = constant(gives)
        names = ["shape", "w", "x", "b"]
    return tensors, [(op, names, ["y"], OPTIONS[op])], ["x"], ["y"]


@pytest.mark.parametrize("precision", ["float32", "int8", "dynamic"])
def test_the_rules_are_what_the_delegate_does(
    precision: str, handmade: Callable[..., Path], delegated: Callable[[Path], list[tuple[int, ...]]]
) -> None:
    wrong, unknown = [], []
    for op in OPS if precision != "dynamic" else WEIGHTED:
        path = handmade(*model_of(op, precision), name=f"{op}.tflite")
        claimed = sorted(rules.place(read_graph(path), rules.DELEGATES["xnnpack"]).partitions)
        try:
            taken = delegated(path)
        except StepFailed:
            unknown.append(op)
            taken = []
        if taken != claimed:
            wrong.append(f"{op} in {precision}: the rules say {claimed}, LiteRT {taken}")
    assert wrong == []
    assert unknown == (NO_INT8_KERNEL if precision == "int8" else [])


def test_every_rule_is_tested() -> None:
    assert set(rules.DELEGATES["xnnpack"].rules) <= set(OPS)


def test_a_file_computes_in_the_precision_that_it_was_written_for(handmade: Callable[..., Path]) -> None:
    for op in WEIGHTED:
        for precision in ("float32", "int8", "dynamic"):
            graph = read_graph(handmade(*model_of(op, precision)))
            assert op_precision(graph, graph.ops[0]) == precision
