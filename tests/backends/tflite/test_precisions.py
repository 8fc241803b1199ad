"""Every precision of a file, also by unit: what stands in the file and how near its outputs are."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgekit.backends.tflite import checking
from edgekit.backends.tflite.backend import open_file
from edgekit.backends.tflite.calibration_choice import methods
from edgekit.backends.tflite.flatbuffer import op_precision, read_graph, read_model
from edgekit.backends.tflite.quantize import quantize_file
from edgekit.errors import DataError, Unsupported
from edgekit.types import Artifact, Precision, Scheme, Unit
from edgekit.verify.numerics import closeness
from edgekit.verify.reference import run_session

LEAST_SQNR = {"fp16": 55.0, "dynamic": 25.0, "int16x8": 32.0, "int8": 25.0}
STORED: dict[str, str] = {"int8": "int8", "int16x8": "int16", "fp16": "fp16", "float32": "float32"}


def sqnr(tiny: Any, made: Artifact, n: int = 40) -> float:
    x = np.concatenate([s[0] for s in tiny.samples[-n:]])
    want = run_session(tiny.backend.session(tiny.artifact), [x])
    found = closeness(want, run_session(tiny.backend.session(made), [x])).sqnr_db
    assert found is not None
    return found


def convolutions(tiny: Any) -> list[Unit]:
    return [u for u in tiny.backend.units(tiny.artifact) if u.op == "CONV_2D"]


@pytest.mark.parametrize("per_channel", [True, False])
@pytest.mark.parametrize("precision", LEAST_SQNR)
def test_a_file_is_what_its_scheme_says(
    tiny: Any, quantized: Callable[..., Artifact], precision: Precision, per_channel: bool
) -> None:
    scheme = {"precision": precision, "per_channel": per_channel}
    made = quantized(**scheme, calibration="minmax")
    facts, complaints = tiny.backend.check(made, Scheme(**scheme))
    assert complaints == []
    assert sqnr(tiny, made) > LEAST_SQNR[precision] - (0 if per_channel else 5)
    integers = {"int8": "int8_share", "int16x8": "int16_share", "fp16": "fp16_weights"}
    assert all(
        facts[name] == (100.0 if name == integers.get(precision) else 0.0) for name in integers.values()
    )
    grains = {"int8", "int16x8", "dynamic"} if per_channel else set()
    assert facts["per_channel_weights"] == (100.0 if precision in grains else 0.0)
    others = [p for p in LEAST_SQNR if p != precision]
    assert all(tiny.backend.check(made, Scheme(precision=p))[1] for p in others), "the check tells them apart"
    if precision != "fp16":
        other = Scheme(precision=precision, per_channel=not per_channel)
        assert "the weights of 4 operators do not have" in tiny.backend.check(made, other)[1][0]


def test_16_bits_are_nearer_than_8(tiny: Any, quantized: Callable[..., Artifact]) -> None:
    wide, narrow = quantized(precision="int16x8"), quantized(precision="int8")
    assert sqnr(tiny, wide) > sqnr(tiny, narrow)
    assert [c["name"] for c in wide.meta["calibration"]["candidates"]] == ["minmax"]
    graph = read_graph(wide.path)
    layers = [o for o in graph.ops if o.op == "CONV_2D"]
    assert {tuple(graph.tensors[t].dtype for t in o.inputs) for o in layers} == {("int16", "int8", "int64")}
    assert all(graph.tensors[o.inputs[0]].zero_point == (0,) for o in layers), "int16 is symmetric"


def test_clipping_can_be_asked_of_16_bits() -> None:
    assert list(methods(Scheme(precision="int16x8"), [])) == ["minmax"]
    assert list(methods(Scheme(precision="int16x8", calibration="mse"), [])) == ["mse"]
    assert list(methods(Scheme(precision="int8"), [])) == ["minmax", "mse"]
    assert list(methods(Scheme(precision="int16x8", overrides={"u": "int8"}), [])) == ["minmax", "mse"]


def test_int16_additions_are_not_marked_as_powers_of_two(quantized: Callable[..., Artifact]) -> None:
    model = read_model(quantized(precision="int16x8").path)
    options = [o.builtinOptions for o in model.subgraphs[0].operators]
    marks = [o.potScaleInt16 for o in options if hasattr(o, "potScaleInt16")]
    assert marks == [False]


# -- exceptions by unit


@pytest.mark.parametrize("unit_precision", ["float32", "fp16", "int16x8", "int8", "dynamic"])
@pytest.mark.parametrize("precision", ["int8", "int16x8", "fp16", "float32"])
def test_one_unit_has_a_precision_of_its_own(
    tiny: Any, quantized: Callable[..., Artifact], precision: Precision, unit_precision: Precision
) -> None:
    if unit_precision == precision:
        return
    unit = convolutions(tiny)[1]
    scheme = Scheme(precision=precision, overrides={unit.name: unit_precision})
    made = quantized(precision=precision, overrides={unit.name: unit_precision}, calibration="minmax")
    assert tiny.backend.check(made, scheme)[1] == []
    assert tiny.backend.check(made, Scheme(precision=precision))[1] != [] or precision == "float32"
    found = {u.name: u.precision for u in tiny.backend.units(made)}
    assert found.pop(unit.name) == STORED.get(unit_precision, unit_precision)
    if precision in ("int8", "int16x8"):
        assert set(found.values()) == {STORED[precision]}
    assert sqnr(tiny, made) > 25


def test_values_are_converted_around_the_exception(tiny: Any, quantized: Callable[..., Artifact]) -> None:
    unit = convolutions(tiny)[1]
    made = quantized(precision="int8", calibration="minmax", overrides={unit.name: "float32"})
    graph = read_graph(made.path)
    kept = next(o for o in graph.ops if o.op == "CONV_2D" and op_precision(graph, o) == "float32")
    before = next(o for o in graph.ops if kept.inputs[0] in o.outputs)
    after = graph.consumers(kept.outputs[0])
    assert before.op == "DEQUANTIZE"
    assert {o.op for o in after} == {"QUANTIZE"}
    assert {graph.tensors[t].dtype for t in kept.inputs} == {"float32"}


def test_an_exception_in_int16_is_rescaled(tiny: Any, quantized: Callable[..., Artifact]) -> None:
    unit = convolutions(tiny)[1]
    made = quantized(precision="int8", calibration="minmax", overrides={unit.name: "int16x8"})
    graph = read_graph(made.path)
    kept = next(o for o in graph.ops if o.op == "CONV_2D" and op_precision(graph, o) == "int16")
    before = next(o for o in graph.ops if kept.inputs[0] in o.outputs)
    assert before.op == "QUANTIZE" and graph.tensors[before.inputs[0]].dtype == "int8"


def test_the_same_scheme_gives_the_same_bytes(tiny: Any, quantized: Callable[..., Artifact]) -> None:
    overrides = {convolutions(tiny)[0].name: "fp16", convolutions(tiny)[2].name: "int16x8"}
    for scheme in ({"precision": "int16x8"}, {"precision": "int8", "overrides": overrides}):
        first, again = (quantized(**scheme, calibration="minmax") for _ in range(2))
        assert first.sha256 == again.sha256


def test_an_integer_exception_needs_ranges(tiny: Any) -> None:
    unit = convolutions(tiny)[0].name
    with pytest.raises(DataError, match="int16x8 needs calibration data"):
        quantize_file(tiny.artifact.path, Scheme(overrides={unit: "int16x8"}), None)


def test_an_unknown_unit_is_refused(tiny: Any) -> None:
    with pytest.raises(Unsupported, match="no unit 'conv77'") as caught:
        quantize_file(tiny.artifact.path, Scheme(overrides={"conv77": "fp16"}), None)
    assert "edgekit inspect" in (caught.value.hint or "")


# -- for a delegate


def test_nnapi_gets_one_scale_for_the_weights_of_a_dense_layer(
    tiny: Any, quantized: Callable[..., Artifact]
) -> None:
    def scales(artifact: Artifact) -> dict[str, set[int]]:
        graph = read_graph(artifact.path)
        found: dict[str, set[int]] = {}
        for op in graph.ops:
            if op.op in ("CONV_2D", "FULLY_CONNECTED"):
                found.setdefault(op.op, set()).add(len(graph.tensors[op.inputs[1]].scale))
        return found

    scheme = {"precision": "int8", "calibration": "minmax"}
    assert scales(quantized(**scheme)) == {"CONV_2D": {16, 24}, "FULLY_CONNECTED": {3}}
    made = quantized(**scheme, delegate="nnapi", io="int8")
    assert scales(made) == {"CONV_2D": {16, 24}, "FULLY_CONNECTED": {1}}
    assert tiny.backend.check(made, Scheme(precision="int8", delegate="nnapi", io="int8"))[1] == []
    assert sqnr(tiny, made) > 25


# -- the check


def test_the_check_sees_inputs_of_another_type(tiny: Any, quantized: Callable[..., Artifact]) -> None:
    made = quantized(precision="int8", io="int8", calibration="minmax")
    assert tiny.backend.check(made, Scheme(precision="int8", io="int8"))[1] == []
    (complaint,) = tiny.backend.check(made, Scheme(precision="int8"))[1]
    assert complaint.endswith("should be stored as float")


def test_operators_that_have_no_integer_kernel_are_named(handmade: Callable[..., Path]) -> None:
    shape = {"shape": (1, 8)}
    ops = [("EXP", ["x"], ["m"], None), ("MUL", ["m", "m"], ["y"], ("MulOptions", {}))]
    source = handmade({"x": shape, "m": shape, "y": shape}, ops, ["x"], ["y"])
    made = source.with_name("int8.tflite")
    ranges = {"x": (-1.0, 1.0), "m": (0.0, 3.0), "y": (0.0, 9.0)}
    made.write_bytes(quantize_file(source, Scheme(precision="int8"), ranges))
    facts, complaints = checking.check(open_file(made), Scheme(precision="int8"))
    assert facts["int8_share"] == 50.0
    assert complaints == ["1 operators do not compute in int8: EXP"]
