"""Delegate rules: reasons, conditions of the GPU delegate and of NNAPI, partitions, what users see."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgekit.backends.tflite import rules
from edgekit.backends.tflite.backend import open_file
from edgekit.backends.tflite.flatbuffer import Graph, Op, Tensor, read_graph
from edgekit.backends.tflite.inspection import inspect_file
from edgekit.backends.tflite.rules.conditions import ACTIVATIONS
from edgekit.backends.tflite.rules.model import each, rules_of
from edgekit.backends.tflite.rules.partition import cut
from edgekit.profiles.loader import load_profile
from edgekit.types import Artifact, Scheme

XNNPACK, GPU, NNAPI = (rules.DELEGATES[name] for name in ("xnnpack", "gpu", "nnapi"))
IMAGE = (1, 4, 4, 8)


def t(*shape: int, **facts: Any) -> dict[str, Any]:
    return {"shape": shape, **facts}


def k(values: Any, dtype: str = "int32") -> dict[str, Any]:
    return {"shape": np.shape(values), "dtype": dtype, "data": values}


def q(*shape: int, **facts: Any) -> dict[str, Any]:
    return {"shape": shape, "dtype": "int8", "scale": 0.1, **facts}


@pytest.fixture
def refused(handmade: Callable[..., Path]) -> Callable[..., str | None]:
    """Why a delegate refuses an operator with these operands: {name: tensor}, constants have data."""

    def ask(
        delegate: rules.Delegate,
        op: str,
        operands: Mapping[str, Mapping[str, Any]],
        results: Sequence[Mapping[str, Any]],
        kind: str | None = None,
        **attributes: Any,
    ) -> str | None:
        outs = {f"y{i}": dict(r) for i, r in enumerate(results)}
        given = [n for n, f in operands.items() if "data" not in f]
        options = (f"{kind}Options", attributes) if kind else None
        path = handmade({**operands, **outs}, [(op, list(operands), list(outs), options)], given, list(outs))
        return rules.place(read_graph(path), delegate).refused[0]

    return ask


# -- reasons


def test_reasons_name_the_operator_and_the_precision() -> None:
    assert XNNPACK.refusal_of("CONV_2D", "int8") is None
    assert XNNPACK.refusal_of("ARG_MAX", "int64") == "XNNPACK has no kernel for ARG_MAX"
    assert XNNPACK.refusal_of("SOFTMAX", "int8") == "XNNPACK runs SOFTMAX in float32, fp16 but not in int8"
    assert GPU.refusal_of("CUSTOM:NMS", "float32") == "the GPU delegate has no kernel for CUSTOM:NMS"
    assert (
        NNAPI.refusal_of("BATCH_MATMUL", "float32")
        == "NNAPI has BATCH_MATMUL from NNAPI feature level 6 (after API 31) on"
    )


def test_delegates_know_their_source() -> None:
    for delegate in rules.DELEGATES.values():
        assert "google-ai-edge/LiteRT" in delegate.source and "@" in delegate.source
        assert len(delegate.rules) > 40


def test_rules_name_operators_activations_and_types_of_the_schema() -> None:
    from ai_edge_litert import schema_py_generated as schema

    known = {k for k, v in vars(schema.BuiltinOperator).items() if isinstance(v, int)}
    for delegate in rules.DELEGATES.values():
        assert set(delegate.rules) <= known
    kinds = vars(schema.ActivationFunctionType)
    assert {v: k.replace("NONE", "none") for k, v in kinds.items() if isinstance(v, int)} == ACTIVATIONS


def test_an_operator_has_one_rule() -> None:
    with pytest.raises(ValueError, match="two rules for ADD"):
        rules_of(each("ADD SUB", frozenset({"int8"})), each("ADD", frozenset({"fp16"})))


# -- the GPU delegate


def test_the_gpu_computes_quantised_files_but_not_int16(refused: Callable[..., str | None]) -> None:
    for stored in ({}, {"dtype": "int8", "scale": 0.1}):
        x = t(*IMAGE, **stored)
        assert refused(GPU, "ADD", {"x": x, "z": x}, [x], "Add") is None
    x = t(*IMAGE, dtype="int16", scale=0.1)
    reason = refused(GPU, "ADD", {"x": x, "z": x}, [x], "Add")
    assert reason == "the GPU delegate runs ADD in float32, fp16, int8, uint8 but not in int16"


@pytest.mark.parametrize(
    ("shape", "taken"),
    [((1, 1, 1, 8), True), ((4, 4, 8), True), ((1, 8), True), ((1, 4), False), ((8,), True)],
)
def test_the_gpu_broadcasts_few_forms(
    refused: Callable[..., str | None], shape: tuple[int, ...], taken: bool
) -> None:
    reason = refused(GPU, "MUL", {"x": t(*IMAGE), "z": t(*shape)}, [t(*IMAGE)], "Mul")
    assert (reason is None) == taken


def test_the_gpu_stops_at_4_dimensions(refused: Callable[..., str | None]) -> None:
    x = t(1, 1, 2, 2, 8)
    reason = refused(GPU, "ABS", {"x": x}, [x])
    assert reason == "the GPU delegate takes ABS only up to 4 dimensions"


def test_the_gpu_reads_operators_up_to_a_version() -> None:
    x, y = (Tensor(i, f"t{i}", IMAGE, "float32", (), (), False, 0) for i in (0, 1))
    for version, reason in ((2, None), (3, "the GPU delegate reads TANH up to version 2, the file has 3")):
        graph = Graph((x, y), (Op(0, "TANH", version, (0,), (1,)),), (0,), (1,), 1)
        assert rules.place(graph, GPU).refused == {0: reason}


def test_the_gpu_flattens_nothing_before_a_dense_layer(refused: Callable[..., str | None]) -> None:
    weights = {"shape": (4, 8), "data": np.zeros((4, 8))}
    dense = {"kind": "FullyConnected"}
    assert refused(GPU, "FULLY_CONNECTED", {"x": t(1, 8), "w": weights}, [t(1, 4)], **dense) is None
    reason = refused(GPU, "FULLY_CONNECTED", {"x": t(1, 2, 4), "w": weights}, [t(1, 4)], **dense)
    assert reason is not None and reason.endswith("with as many input channels as weights")


@pytest.mark.parametrize(
    ("attributes", "steps", "reason"),
    [
        ({}, [1, 2, 2, 1], None),
        ({"shrinkAxisMask": 1}, [1, 1, 1, 1], "without shrinkAxisMask"),
        ({}, [1, -1, -1, 1], "with positive steps"),
    ],
)
def test_the_gpu_slices_forward(
    refused: Callable[..., str | None], attributes: dict[str, int], steps: list[int], reason: str | None
) -> None:
    operands = {"x": t(*IMAGE), "b": k([0, 0, 0, 0]), "e": k([1, 4, 4, 8]), "s": k(steps)}
    found = refused(GPU, "STRIDED_SLICE", operands, [t(*IMAGE)], "StridedSlice", **attributes)
    assert found == (None if reason is None else f"the GPU delegate takes STRIDED_SLICE only {reason}")


def test_the_gpu_compares_for_a_choice_only(handmade: Callable[..., Path]) -> None:
    tensors = {"x": t(*IMAGE), "z": t(*IMAGE), "c": t(*IMAGE, dtype="bool"), "y": t(*IMAGE)}
    ops = [
        ("GREATER", ["x", "z"], ["c"], ("GreaterOptions", {})),
        ("SELECT_V2", ["c", "x", "z"], ["y"], ("SelectV2Options", {})),
    ]
    path = handmade(tensors, ops, ["x", "z"], ["y"])
    assert set(rules.place(read_graph(path), GPU).refused.values()) == {None}
    path = handmade({n: tensors[n] for n in "xzc"}, ops[:1], ["x", "z"], ["c"])
    assert rules.place(read_graph(path), GPU).refused == {
        0: "the GPU delegate takes GREATER only in front of one CAST or SELECT to float"
    }


def test_the_gpu_takes_the_largest_partition(handmade: Callable[..., Path]) -> None:
    path = handmade(*chain("ABS", "CEIL", "NEG", "SQRT", "CEIL", "SIN"))
    graph = read_graph(path)
    placed = rules.place(graph, GPU)
    assert placed.ranges == [[2, 3]]
    other = (
        "the GPU delegate takes the largest partition of a graph only, and this operator is in another one"
    )
    assert [placed.refused[i] for i in (0, 2, 3, 5)] == [other, None, None, other]
    assert placed.refused[1] == "the GPU delegate has no kernel for CEIL"


# -- NNAPI


def test_nnapi_has_one_weight_scale_in_a_dense_layer(refused: Callable[..., str | None]) -> None:
    def dense(scales: int) -> str | None:
        weights = {**q(4, 8), "scale": [0.1] * scales, "data": np.zeros((4, 8))}
        return refused(NNAPI, "FULLY_CONNECTED", {"x": q(1, 8), "w": weights}, [q(1, 4)], "FullyConnected")

    assert dense(1) is None
    assert dense(4) == (
        "NNAPI takes FULLY_CONNECTED only with one weight scale per tensor, not one per channel"
    )


def test_nnapi_convolutions_have_scales_per_channel(refused: Callable[..., str | None]) -> None:
    weights = {**q(8, 3, 3, 8), "scale": [0.1] * 8, "data": np.zeros((8, 3, 3, 8))}
    bias = {"shape": (8,), "dtype": "int32", "scale": [0.01] * 8, "data": np.zeros(8)}
    found = refused(NNAPI, "CONV_2D", {"x": q(*IMAGE), "w": weights, "b": bias}, [q(*IMAGE)], "Conv2D")
    assert found is None


@pytest.mark.parametrize(
    ("op", "kind", "reason"),
    [
        ("SUM", "Reducer", "NNAPI runs SUM in float32, fp16 but not in int8"),
        ("MIRROR_PAD", "MirrorPad", "NNAPI has MIRROR_PAD from NNAPI feature level 7 (after API 31) on"),
        ("MEAN", "Reducer", None),
    ],
)
def test_nnapi_knows_levels_and_types(
    refused: Callable[..., str | None], op: str, kind: str, reason: str | None
) -> None:
    second = k([1, 2]) if op != "MIRROR_PAD" else k([[0, 0], [1, 1], [1, 1], [0, 0]])
    assert refused(NNAPI, op, {"x": q(*IMAGE), "c": second}, [q(1, 8)], kind) == reason


def test_nnapi_needs_static_shapes(refused: Callable[..., str | None]) -> None:
    x = t(*IMAGE, signature=(-1, 4, 4, 8))
    assert refused(NNAPI, "FLOOR", {"x": x}, [x]) == "NNAPI takes FLOOR only with static shapes"


def test_nnapi_takes_three_partitions(handmade: Callable[..., Path]) -> None:
    path = handmade(*chain("ABS", "CEIL", "EXP", "LOG", "CEIL", "ABS", "EXP", "CEIL", "ABS", "EXP"))
    assert rules.place(read_graph(path), NNAPI).ranges == [[2, 3], [5, 6], [8, 9]]


# -- partitions


def chain(*middle: str) -> Any:
    tensors = {f"t{i}": t(*IMAGE) for i in range(len(middle) + 1)}
    ops = [(op, [f"t{i}"], [f"t{i + 1}"], None) for i, op in enumerate(middle)]
    return tensors, ops, ["t0"], [f"t{len(middle)}"]


def graph_of(*edges: tuple[tuple[int, ...], int]) -> Graph:
    """Operators by (tensors that they read, tensor that they write); what nobody writes is given."""
    count = 1 + max(max((*reads, writes)) for reads, writes in edges)
    tensors = tuple(Tensor(i, f"t{i}", (1,), "float32", (), (), False, 0) for i in range(count))
    ops = tuple(Op(i, "ADD", 1, reads, (writes,)) for i, (reads, writes) in enumerate(edges))
    return Graph(tensors, ops, (0,), (count - 1,), 1)


def test_a_chain_is_cut_where_an_operator_is_refused() -> None:
    graph = graph_of(((0,), 1), ((1,), 2), ((2,), 3), ((3,), 4))
    assert cut(graph, [0, 1, 2, 3]) == [[0, 1, 2, 3]]
    assert cut(graph, [0, 2, 3]) == [[0], [2, 3]]
    assert cut(graph, []) == []


def test_a_branch_beside_a_refused_operator_stays_with_what_is_ready() -> None:
    graph = graph_of(((0,), 1), ((0,), 2), ((2,), 3), ((1,), 4), ((3, 4), 5))
    assert cut(graph, [0, 2, 3, 4]) == [[0, 3], [2, 4]], "operator 3 comes before 2 can run"


# -- what users see


def test_coverage_of_a_file_is_what_litert_delegates(
    tiny: Any, int8_file: Artifact, delegated: Callable[[Path], list[tuple[int, ...]]]
) -> None:
    target = load_profile("pi4").targets[0]
    for artifact in (tiny.artifact, int8_file):
        found = tiny.backend.coverage(artifact, target)
        assert [c.index for c in found] == list(range(len(found)))
        taken = {op for partition in delegated(artifact.path) for op in partition}
        assert {c.index for c in found if c.accelerated} == taken
        assert all(bool(c.reason) != c.accelerated for c in found)


def test_each_delegate_has_coverage(tiny: Any, int8_file: Artifact) -> None:
    for name in ("android_gpu", "android_nnapi"):
        target = load_profile(name).targets[0]
        assert target.delegate in tiny.backend.delegates
        assert all(c.accelerated for c in tiny.backend.coverage(tiny.artifact, target)), name
    (dense,) = [
        c
        for c in tiny.backend.coverage(int8_file, load_profile("android_nnapi").targets[0])
        if not c.accelerated
    ]
    assert dense.op == "FULLY_CONNECTED" and "one weight scale" in dense.reason


@pytest.mark.parametrize(
    ("profile", "precision", "ok"),
    [
        ("android_gpu", "fp16", True),
        ("android_gpu", "int8", False),
        ("android_nnapi", "int8", True),
        ("android_nnapi", "int16x8", False),
    ],
)
def test_support_is_judged_by_profile_and_rules(tiny: Any, profile: str, precision: Any, ok: bool) -> None:
    found = load_profile(profile)
    answer = tiny.backend.supports(found, found.targets[0], Scheme(precision=precision))
    assert answer.ok == ok, answer.reasons


def test_a_delegate_without_int16_kernels_says_so(tiny: Any) -> None:
    profile = load_profile("android_gpu")
    target = profile.targets[0].model_copy(update={"precisions": ("int16x8",)})
    answer = tiny.backend.supports(profile, target, Scheme(precision="int16x8"))
    assert not answer.ok and "not in int16" in answer.reasons[0]


def test_inspection_tells_delegates_and_partitions(handmade: Callable[..., Path]) -> None:
    path = handmade(*chain("ABS", "CEIL", "RELU_0_TO_1", "SIN", "SIN"))
    found = inspect_file(open_file(path))
    assert found["partitions"] == {"xnnpack": [[0, 1], [3, 4]], "gpu": [[2, 4]], "nnapi": [[0, 0], [3, 4]]}
    assert found["delegates"]["gpu"] == {"accelerated": 3, "partitions": 1, "rules": GPU.source}
    first, second, third = (u["delegates"] for u in found["units"][:3])
    assert first == {"xnnpack": None, "gpu": first["gpu"], "nnapi": None} and "another one" in first["gpu"]
    assert second == {
        "xnnpack": None,
        "gpu": "the GPU delegate has no kernel for CEIL",
        "nnapi": "NNAPI has no kernel for CEIL",
    }
    assert third["xnnpack"] == "XNNPACK has no kernel for RELU_0_TO_1" == found["units"][2]["refused"]
    assert found["accelerated"] == 4
