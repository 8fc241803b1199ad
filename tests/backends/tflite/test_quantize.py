"""What stands in a quantised file: precisions, sizes, exceptions, and biases that fit."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgekit.backends import calibration
from edgekit.backends.tflite import calibrate, condition
from edgekit.backends.tflite.backend import open_file
from edgekit.backends.tflite.flatbuffer import (
    constant,
    op_precision,
    read_graph,
    read_model,
    unit_names,
    write_model,
)
from edgekit.backends.tflite.quantize import quantize_file
from edgekit.errors import DataError, Unsupported
from edgekit.types import Artifact, Scheme, ignore_events
from edgekit.verify.accuracy import agreement
from edgekit.verify.numerics import closeness
from edgekit.verify.reference import run_session

ARITHMETIC = ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED")


def outputs(tiny: Any, artifact: Artifact, n: int = 40) -> np.ndarray:
    x = np.concatenate([s[0] for s in tiny.samples[-n:]])
    return run_session(tiny.backend.session(artifact), [x])[0]


def precisions(artifact: Artifact) -> dict[str, str]:
    graph = read_graph(artifact.path)
    return {name: op_precision(graph, graph.ops[i]) for i, name in unit_names(graph).items()}


@pytest.mark.parametrize(
    ("precision", "least_sqnr", "least_ratio"),
    [("int8", 25.0, 2.4), ("fp16", 55.0, 1.6), ("dynamic", 25.0, 2.5)],
)
def test_each_precision_is_small_and_close(
    tiny: Any, quantized: Callable[..., Artifact], precision: str, least_sqnr: float, least_ratio: float
) -> None:
    made = quantized(precision=precision)
    want, got = outputs(tiny, tiny.artifact), outputs(tiny, made)
    sqnr = closeness([want], [got]).sqnr_db
    assert sqnr is not None and sqnr > least_sqnr
    assert agreement(want, got) >= 97
    assert tiny.artifact.bytes / made.bytes > least_ratio
    assert made.precision == precision
    assert made.parent == tiny.artifact.sha256
    assert (made.sha256, made.bytes) == (made.path.name, made.path.stat().st_size)
    layers = [u for u in tiny.backend.units(made) if u.op in ARITHMETIC]
    assert {u.precision for u in layers} == {precision}


def test_float32_is_the_file_itself(tiny: Any, quantized: Callable[..., Artifact]) -> None:
    assert quantized(precision="float32") == tiny.artifact


def test_int8_is_int8_everywhere(tiny: Any, int8_file: Artifact) -> None:
    facts, complaints = tiny.backend.check(int8_file, Scheme(precision="int8"))
    assert facts["int8_share"] == 100.0
    assert complaints == []
    facts, complaints = tiny.backend.check(tiny.artifact, Scheme(precision="int8"))
    assert facts["int8_share"] == 0.0
    assert "operators do not compute in int8: " in complaints[0] and "CONV_2D" in complaints[0]


def test_the_units_are_those_of_the_float_file(tiny: Any, int8_file: Artifact) -> None:
    before, after = tiny.backend.units(tiny.artifact), tiny.backend.units(int8_file)
    assert [(u.op, u.macs, u.output_shape) for u in before] == [(u.op, u.macs, u.output_shape) for u in after]
    for float_unit, int_unit in zip(before, after, strict=True):
        if float_unit.op in ARITHMETIC:  # a byte per weight, four per bias
            assert 3 < float_unit.weight_bytes / int_unit.weight_bytes <= 4


def test_float_inputs_and_outputs_by_default(tiny: Any, int8_file: Artifact) -> None:
    assert (int8_file.inputs[0].dtype, int8_file.outputs[0].dtype) == ("float32", "float32")
    assert int8_file.inputs[0].shape == (1, 16, 16, 3)
    assert int8_file.inputs[0].layout == "NHWC"


def test_int8_inputs_and_outputs(tiny: Any, quantized: Callable[..., Artifact], int8_file: Artifact) -> None:
    made = quantized(precision="int8", io="int8", calibration="minmax")
    for spec in (*made.inputs, *made.outputs):
        assert spec.dtype == "int8" and spec.scale is not None and spec.zero_point is not None
    session = tiny.backend.session(made)
    (encoded,) = session.encode(tiny.samples[0])
    assert encoded.dtype == np.int8 and encoded.shape == (1, 16, 16, 3)
    (raw,) = session.run_raw([encoded])
    assert raw.dtype == np.int8
    np.testing.assert_array_equal(outputs(tiny, made), outputs(tiny, int8_file), "only the edges differ")


def test_weights_have_a_scale_per_channel_or_one(quantized: Callable[..., Artifact]) -> None:
    def scales(artifact: Artifact) -> list[int]:
        graph = read_graph(artifact.path)
        return [len(graph.tensors[o.inputs[1]].scale) for o in graph.ops if o.op == "CONV_2D"]

    assert scales(quantized(precision="int8")) == [16, 24, 24]
    assert scales(quantized(precision="int8", per_channel=False)) == [1, 1, 1]


def test_the_same_input_gives_the_same_bytes(quantized: Callable[..., Artifact]) -> None:
    for precision in ("int8", "fp16", "dynamic"):
        assert quantized(precision=precision).sha256 == quantized(precision=precision).sha256


# -- exceptions by unit


def test_one_unit_can_stay_in_float(tiny: Any, quantized: Callable[..., Artifact]) -> None:
    units = tiny.backend.units(tiny.artifact)
    kept = next(u for u in units if u.op == "CONV_2D" and u.index > 0)
    made = quantized(precision="int8", overrides={kept.name: "float32"})
    of_file = dict(zip([u.name for u in units], [u.precision for u in tiny.backend.units(made)], strict=True))
    assert of_file.pop(kept.name) == "float32"
    assert set(of_file.values()) == {"int8"}
    graph = read_graph(made.path)
    weights = [graph.tensors[o.inputs[1]] for o in graph.ops if o.op == "CONV_2D"]
    assert sorted(w.dtype for w in weights) == ["float32", "int8", "int8"]


def test_one_unit_can_be_int8_alone(tiny: Any, quantized: Callable[..., Artifact]) -> None:
    units = tiny.backend.units(tiny.artifact)
    chosen = next(u for u in units if u.op == "CONV_2D")
    overrides = {u.name: "float32" for u in units if u.name != chosen.name}
    made = quantized(precision="int8", overrides=overrides)
    assert [u.precision for u in tiny.backend.units(made)].count("int8") == 1


def test_an_exception_meets_no_unit_with_a_longer_name(handmade: Callable[..., Path]) -> None:
    """ai-edge-quantizer selects by regular expression; these names are prefixes of each other."""
    rng = np.random.default_rng(0)
    names = ["dense", "dense_1", "dense;more", "x/dense"]
    tensors: dict[str, Any] = {"x": {"shape": (1, 8)}}
    ops, before = [], "x"
    for i, name in enumerate(names):
        tensors[f"w{i}"] = {"shape": (8, 8), "data": rng.normal(0, 0.3, (8, 8))}
        tensors[f"b{i}"] = {"shape": (8,), "data": np.zeros(8)}
        tensors[name] = {"shape": (1, 8)}
        ops.append(("FULLY_CONNECTED", [before, f"w{i}", f"b{i}"], [name], ("FullyConnectedOptions", {})))
        before = name
    path = handmade(tensors, ops, ["x"], [before])
    ranges = dict.fromkeys(("x", *names), (-2.0, 2.0))
    for i, unit in enumerate(["dense", "dense_1", "dense#2", "x/dense"]):
        made = path.with_name("quantized.tflite")
        made.write_bytes(quantize_file(path, Scheme(precision="int8", overrides={unit: "float32"}), ranges))
        found = list(precisions(open_file(made)).values())
        assert [p == "float32" for p in found] == [n == i for n in range(4)], unit


def test_an_exception_for_no_unit_is_refused(quantized: Callable[..., Artifact]) -> None:
    with pytest.raises(Unsupported, match="the model has no unit 'conv77'"):
        quantized(precision="int8", overrides={"conv77": "float32"})


# -- ranges


def test_int8_needs_ranges(tiny: Any) -> None:
    with pytest.raises(DataError, match="int8 needs calibration data"):
        quantize_file(tiny.artifact.path, Scheme(precision="int8"), None)


@pytest.mark.parametrize("pair", [(2.0, 1.0), (float("nan"), 1.0), (0.0, float("inf"))])
def test_impossible_ranges_are_refused(tiny: Any, pair: tuple[float, float]) -> None:
    with pytest.raises(DataError, match="impossible range"):
        quantize_file(tiny.artifact.path, Scheme(precision="int8"), {"t": pair})


# -- channels that training has driven to zero


def with_dead_channel(tiny: Any, path: Path, weight: float) -> Artifact:
    """The tiny model with output channel 5 of its second convolution dead: weights ~0, bias 3."""
    model, graph = read_model(tiny.artifact.path), read_graph(tiny.artifact.path)
    op = [o for o in graph.ops if o.op == "CONV_2D"][1]
    for tensor, change in ((op.inputs[1], weight), (op.inputs[2], 3.0)):
        values = constant(model, tensor).copy()
        values[5] = change
        buffer = model.buffers[model.subgraphs[0].tensors[tensor].buffer]
        buffer.data = np.frombuffer(values.tobytes(), dtype=np.uint8)
    path.write_bytes(write_model(model))
    return replace(tiny.artifact, path=path, bytes=path.stat().st_size)


def minmax(artifact: Artifact, tiny: Any) -> calibration.Ranges:
    return calibration.minmax_ranges(calibrate.observe(artifact, [tiny.samples[:20]])[0])


@pytest.mark.filterwarnings("ignore:invalid value encountered in cast")  # what the repair prevents
@pytest.mark.parametrize("weight", [0.0, 1e-12, 1e-30])
def test_a_dead_channel_keeps_its_bias(tiny: Any, tmp_path: Path, weight: float) -> None:
    dead = with_dead_channel(tiny, tmp_path / "dead.tflite", weight)
    ranges = minmax(dead, tiny)
    want = outputs(tiny, dead)

    def sqnr(source: Path) -> float:
        made = tmp_path / "made.tflite"
        made.write_bytes(quantize_file(source, Scheme(precision="int8"), ranges))
        found = closeness([want], [outputs(tiny, replace(dead, path=made))]).sqnr_db
        assert found is not None
        return found

    data, changed = condition.protect_dead_channels(dead.path, ranges)
    protected = tmp_path / "protected.tflite"
    protected.write_bytes(data)
    assert [(c.op, c.channels) for c in changed] == [("CONV_2D", (5,))]
    assert sqnr(protected) > 25
    assert sqnr(protected) > sqnr(dead.path) + 10, "without the repair the bias is lost"
    close = closeness([want], [outputs(tiny, replace(dead, path=protected))])
    assert close.max_rel < 1e-4, "the repair itself changes nothing that can be seen"


def test_healthy_channels_are_left_alone(tiny: Any) -> None:
    data, changed = condition.protect_dead_channels(tiny.artifact.path, minmax(tiny.artifact, tiny))
    assert changed == []
    assert data == tiny.artifact.path.read_bytes()


def test_the_repair_is_told_by_the_artifact(
    tiny: Any, tmp_path: Path, quantized: Callable[..., Artifact]
) -> None:
    dead = with_dead_channel(tiny, tmp_path / "dead.tflite", 0.0)
    made = quantized(artifact=dead, precision="int8", calibration="minmax")
    assert [d["channels"] for d in made.meta["dead_channels"]] == [[5]]
    assert quantized(precision="int8").meta["dead_channels"] == []


# -- padding with minus infinity


def padded_pool(handmade: Callable[..., Path], *, relu: bool) -> Path:
    """Two padded max poolings with one constant, as onnx2tf writes them."""
    tensors: dict[str, Any] = {
        "x": {"shape": (1, 4, 4, 2)},
        "v": {"shape": (1, 4, 4, 2)},
        "amounts": {"shape": (4, 2), "dtype": "int32", "data": [[0, 0], [1, 1], [1, 1], [0, 0]]},
        "lowest": {"shape": (), "data": np.float32(np.finfo(np.float32).min)},
        "p": {"shape": (1, 6, 6, 2)},
        "m": {"shape": (1, 4, 4, 2)},
        "p2": {"shape": (1, 6, 6, 2)},
        "y": {"shape": (1, 4, 4, 2)},
    }
    window = {"padding": 1, "strideW": 1, "strideH": 1, "filterWidth": 3, "filterHeight": 3}
    ops = [
        ("RELU", ["x"], ["v"], None) if relu else ("ADD", ["x", "x"], ["v"], ("AddOptions", {})),
        ("PADV2", ["v", "amounts", "lowest"], ["p"], ("PadV2Options", {})),
        ("MAX_POOL_2D", ["p"], ["m"], ("Pool2DOptions", window)),
        ("PADV2", ["m", "amounts", "lowest"], ["p2"], ("PadV2Options", {})),
        ("MAX_POOL_2D", ["p2"], ["y"], ("Pool2DOptions", window)),
    ]
    return handmade(tensors, ops, ["x"], ["y"])


@pytest.mark.parametrize("relu", [True, False])
def test_infinite_padding_does_not_blow_up_a_scale(
    tiny: Any, handmade: Callable[..., Path], relu: bool
) -> None:
    source = open_file(padded_pool(handmade, relu=relu))
    rng = np.random.default_rng(0)
    samples = [[rng.uniform(-3, -1, (1, 4, 4, 2)).astype(np.float32) * (-1) ** i] for i in range(10)]
    made = tiny.backend.quantize(
        source, samples, Scheme(precision="int8"), refit=False, store=tiny.store, emit=ignore_events
    )
    graph = read_graph(made.path)
    assert max(s for t in graph.tensors for s in t.scale) < 1
    assert graph.count("PAD") == (2 if relu else 0) and graph.count("PADV2") == (0 if relu else 2)
    for sample in samples:
        (want,) = tiny.backend.session(source).run(sample)
        (got,) = tiny.backend.session(made).run(sample)
        assert np.abs(want - got).max() < 0.1


def test_padding_that_is_no_pooling_is_left_alone(handmade: Callable[..., Path]) -> None:
    tensors = {
        "x": {"shape": (1, 4, 4, 2)},
        "amounts": {"shape": (4, 2), "dtype": "int32", "data": [[0, 0], [1, 1], [1, 1], [0, 0]]},
        "low": {"shape": (), "data": -9.0},
        "y": {"shape": (1, 6, 6, 2)},
    }
    path = handmade(tensors, [("PADV2", ["x", "amounts", "low"], ["y"], ("PadV2Options", {}))], ["x"], ["y"])
    ranges = {"x": (-1.0, 1.0), "y": (-9.0, 1.0)}
    data, found = condition.bound_padding(path, ranges)
    assert (data, found) == (path.read_bytes(), ranges)


def test_a_masked_softmax_stays_in_float(tiny: Any, handmade: Callable[..., Path]) -> None:
    """Masks of -3.4e38 have no scale: LiteRT aborts the process on a file that gives them one."""
    mask = np.triu(np.full((4, 4), np.finfo(np.float32).min), 1)[None]
    shape = {"shape": (1, 4, 4)}
    tensors = {"x": shape, "two": {"shape": (1,), "data": [2.0]}, "mask": {**shape, "data": mask}}
    tensors |= dict.fromkeys("vwy", shape)
    ops = [
        ("MUL", ["x", "two"], ["v"], ("MulOptions", {})),
        ("ADD", ["v", "mask"], ["w"], ("AddOptions", {})),
        ("SOFTMAX", ["w"], ["y"], ("SoftmaxOptions", {"beta": 1.0})),
    ]
    source = open_file(handmade(tensors, ops, ["x"], ["y"]))
    rng = np.random.default_rng(0)
    samples = [[rng.normal(size=(1, 4, 4)).astype(np.float32)] for _ in range(10)]
    scheme = Scheme(precision="int8", calibration="minmax")
    made = tiny.backend.quantize(source, samples, scheme, refit=False, store=tiny.store, emit=ignore_events)
    assert list(precisions(made).values()) == ["int8", "float32", "float32"]
    assert tiny.backend.check(made, scheme)[1] == ["2 operators do not compute in int8: ADD, SOFTMAX"]
    for sample in samples:
        (want,), (got,) = tiny.backend.session(source).run(sample), tiny.backend.session(made).run(sample)
        assert np.abs(want - got).max() < 0.05
