"""The delegate rules against LiteRT itself: one file per operator and precision, run with its profiler.

An operator that the delegate leaves to LiteRT stands under its own name in the profile.
"""

from __future__ import annotations

import platform
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgekit.backends.tflite import rules
from edgekit.backends.tflite.backend import TFLiteBackend, open_file
from edgekit.backends.tflite.flatbuffer import read_graph, read_model, write_model
from edgekit.devices.local import LocalLink
from edgekit.errors import UserError
from edgekit.profiles.loader import load_profile
from edgekit.store import Store
from edgekit.types import RunProtocol

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

CONDITIONAL = {("BATCH_MATMUL", "int8")}
"""Taken under a condition that the rules do not tell apart: they then say no."""


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
    takes, weights, gives, _ = WEIGHTED[op]
    rng = np.random.default_rng(0)
    scales = {"dtype": "int8", "scale": [0.01] * 8}
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


@pytest.fixture(scope="module")
def store(require_tools: Callable[..., None]) -> Store:
    require_tools("cc")
    return Store()


def leaves_the_delegate(path: Path, store: Store) -> bool:
    """Whether LiteRT runs one of the file's operators itself."""
    artifact, backend = open_file(path), TFLiteBackend()
    inputs = [np.full(s.shape, 1, dtype=s.dtype) for s in artifact.inputs]
    with store.scratch() as scratch:
        command = backend.device_command(
            artifact,
            inputs,
            arch=platform.machine(),
            protocol=RunProtocol(warmup=0, runs=1),
            per_op=True,
            store=store,
            scratch=scratch,
        )
        result = LocalLink(store).run(command, timeout_s=60)
    assert result.returncode == 0, result.stderr
    names = {op.op for op in read_graph(path).ops}
    events = {str(e["tag"]) for e in backend.parse(result.stdout)["events"]}
    assert len(events) > 2, "the profile is empty"
    return bool(names & events)


@pytest.mark.parametrize("precision", ["float32", "int8", "dynamic"])
def test_the_rules_are_what_the_delegate_does(
    precision: str, handmade: Callable[..., Path], store: Store
) -> None:
    wrong = []
    for op in OPS if precision != "dynamic" else WEIGHTED:
        path = handmade(*model_of(op, precision), name=f"{op}.tflite")
        if op in WEIGHTED and precision != "float32":
            _set_weight_axis(path, WEIGHTED[op][3])
        try:
            taken = not leaves_the_delegate(path, store)
        except UserError as error:
            assert precision == "int8", f"{op}: {error}"  # LiteRT itself has no int8 kernel
            taken = False
        claimed = rules.refuse("xnnpack", op, precision) is None
        if taken != claimed and (op, precision) not in CONDITIONAL:
            wrong.append(f"{op} in {precision}: the rules say {claimed}, LiteRT {taken}")
    assert wrong == []


def _set_weight_axis(path: Path, axis: int) -> None:
    model = read_model(path)
    weights = next(t for t in model.subgraphs[0].tensors if t.name == b"w")
    weights.quantization.quantizedDimension = axis
    path.write_bytes(write_model(model))


def test_every_rule_is_tested() -> None:
    assert set(rules.DELEGATES["xnnpack"]) <= set(OPS)


def test_reasons_name_the_operator_and_the_precision() -> None:
    assert rules.refuse("xnnpack", "CONV_2D", "int8") is None
    assert rules.refuse("xnnpack", "ARG_MAX", "int64") == "xnnpack has no kernel for ARG_MAX"
    assert (
        rules.refuse("xnnpack", "SOFTMAX", "int8") == "xnnpack runs SOFTMAX in float32, fp16 but not in int8"
    )
    assert rules.refuse("xnnpack", "CUSTOM:NMS", "float32") == "xnnpack has no kernel for CUSTOM:NMS"


def test_coverage_of_a_file_is_what_litert_delegates(tiny: Any, int8_file: Any, store: Store) -> None:
    target = load_profile("pi4").targets[0]
    for artifact in (tiny.artifact, int8_file):
        found = tiny.backend.coverage(artifact, target)
        assert [c.index for c in found] == list(range(len(found)))
        refused = [c for c in found if not c.accelerated]
        assert leaves_the_delegate(artifact.path, store) == bool(refused)
        assert all(c.reason for c in refused)
