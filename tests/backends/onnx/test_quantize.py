from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from edgekit.backends.calibration import Observed, observe
from edgekit.backends.onnx import bias, placement, quantize
from edgekit.backends.onnx.graph import DEQUANTIZE, QUANTIZE, Graph, graph_of
from edgekit.backends.onnx.session import Reader
from edgekit.errors import DataError, Unsupported
from edgekit.types import Scheme, ignore_events

onnx = pytest.importorskip("onnx")


@pytest.fixture(scope="session")
def trt(joins: Any) -> Any:
    return joins.quantized(delegate="tensorrt")


@pytest.fixture(scope="session")
def cpu(joins: Any) -> Any:
    return joins.quantized(delegate="cpu")


def parameters(graph: Graph, kind: str) -> list[tuple[Any, Any]]:
    return [(graph.constant(o.inputs[1]), graph.constant(o.inputs[2])) for o in graph.ops if o.op == kind]


def test_tensorrt_gets_signed_symmetric_integers_and_float_biases(joins: Any, trt: Any) -> None:
    graph = joins.graph(trt)
    for kind in (QUANTIZE, DEQUANTIZE):
        found = parameters(graph, kind)
        assert found and all(zero.dtype == np.int8 and not zero.any() for _, zero in found)
        assert all((scale > 0).all() for scale, _ in found)
    assert all(scale.size == 1 for scale, _ in parameters(graph, QUANTIZE)), "activations have one scale"
    assert {scale.size for scale, _ in parameters(graph, DEQUANTIZE)} >= {1, 4, 8, 12}
    assert not [h for h in graph.constants.values() if h.data_type == onnx.TensorProto.INT32]
    assert graph.opset >= 13
    assert all(graph.producers[o.inputs[1]].op == DEQUANTIZE for o in graph.ops if o.op == "Conv")


def test_tensorrts_rules_hold_and_concat_has_one_scale(joins: Any, trt: Any) -> None:
    from edgekit.backends.onnx.tensorrt import rules

    assert rules.violations(trt.path) == []
    graph = joins.graph(trt)
    concat = next(o for o in graph.ops if o.op == "Concat")
    scales = {graph.constant(graph.producers[t].inputs[1]).item() for t in concat.inputs}
    assert len(scales) == 1


def test_onnx_runtime_gets_unsigned_activations_and_int32_biases(joins: Any, cpu: Any) -> None:
    graph = joins.graph(cpu)
    found = parameters(graph, QUANTIZE)
    assert all(zero.dtype == np.uint8 for _, zero in found)
    assert any(zero != 0 for _, zero in found), "what has negative values needs a zero point"
    convs = [o for o in graph.ops if o.op == "Conv"]
    stored = [graph.producers[o.inputs[2]].inputs[0] for o in convs]
    assert all(graph.constants[t].data_type == onnx.TensorProto.INT32 for t in stored)


@pytest.mark.parametrize("delegate", ["cpu", "openvino", "tensorrt"])
def test_units_are_those_of_the_float_file(joins: Any, delegate: str) -> None:
    made = joins.quantized(delegate=delegate)
    before, after = joins.backend.units(joins.artifact), joins.backend.units(made)
    assert [(u.name, u.op, u.macs, u.output_shape) for u in before] == [
        (u.name, u.op, u.macs, u.output_shape) for u in after
    ]
    heavy = [u for u in after if u.macs]
    assert all(u.precision == "int8" for u in heavy)
    floats = {u.name: u.weight_bytes for u in before}
    assert all(u.weight_bytes < floats[u.name] / 2 for u in heavy)
    onnx.checker.check_model(str(made.path), full_check=True)
    session, taps = joins.backend.session(made, keep_all=True), [u.name for u in after]
    assert all(np.isfinite(v).all() for v in session.taps(joins.samples[0], taps).values())
    assert joins.sqnr(made) > 25


def test_bytes_do_not_change_from_run_to_run(joins: Any, cpu: Any, trt: Any) -> None:
    assert joins.quantized(delegate="cpu").sha256 == cpu.sha256
    assert joins.quantized(delegate="tensorrt").sha256 == trt.sha256
    assert cpu.sha256 != trt.sha256


def test_the_file_tells_how_ranges_were_chosen(cpu: Any) -> None:
    told = cpu.meta["calibration"]
    assert [c["name"] for c in told["candidates"]] == ["minmax", "mse"]
    assert told["chosen"] in ("minmax", "mse") and told["held_back"] == 2
    assert cpu.meta["corrected_biases"] == 8


def test_per_tensor_weights_have_one_scale(joins: Any) -> None:
    graph = joins.graph(joins.quantized(per_channel=False))
    stored = [graph.producers[o.inputs[1]] for o in graph.ops if o.op in ("Conv", "Gemm")]
    assert len(stored) == 8
    assert all(graph.constant(o.inputs[1]).size == 1 for o in stored)


def test_a_kept_unit_keeps_float_weights(joins: Any) -> None:
    before = next(u for u in joins.backend.units(joins.artifact) if u.macs)
    made = joins.quantized(overrides={before.name: "float32"})
    after = next(u for u in joins.backend.units(made) if u.name == before.name)
    assert after.precision == "float32" and after.weight_bytes == before.weight_bytes
    _, complaints = joins.backend.check(made, Scheme(precision="int8"))
    assert any("Conv" in c for c in complaints)


@pytest.mark.parametrize(
    ("scheme", "words"),
    [
        (Scheme(precision="int8", overrides={"nobody": "float32"}), "no unit 'nobody'"),
        (Scheme(precision="int8", delegate="npu"), "delegate 'npu'"),
        (Scheme(precision="fp16", overrides={"nobody": "float32"}), "no unit 'nobody'"),
        (Scheme(precision="dynamic", overrides={"nobody": "float32"}), "no unit 'nobody'"),
        (Scheme(precision="int16x8"), "int16x8"),
    ],
)
def test_what_cannot_be_written_is_refused(joins: Any, scheme: Scheme, words: str) -> None:
    with pytest.raises(Unsupported, match=words):
        joins.backend.quantize(
            joins.artifact, joins.samples, scheme, refit=False, store=joins.store, emit=ignore_events
        )


def test_one_sample_is_too_few(joins: Any) -> None:
    with pytest.raises(DataError, match="at least 2"):
        joins.backend.quantize(
            joins.artifact,
            joins.samples[:1],
            Scheme(precision="int8"),
            refit=False,
            store=joins.store,
            emit=ignore_events,
        )


def test_impossible_ranges_are_a_data_error(joins: Any) -> None:
    graph, scheme = joins.graph(), Scheme(precision="int8")
    places = quantize.placed(graph, scheme)
    ranges = dict.fromkeys(places.activations, (0.0, float("nan")))
    with pytest.raises(DataError, match="impossible range"):
        quantize.quantized(graph, places, ranges, quantize.rules_of(scheme))


def test_before_tensorrt_10_weights_stay_float_with_a_pair_of_their_own(
    export_net: Callable[..., Any], joins: Any
) -> None:
    from edgekit.backends.onnx.tensorrt import rules

    old = export_net(joins.module, joins.samples, delegate="tensorrt", delegate_version="8.5")
    assert old.graph().opset <= 17
    made = old.quantized(delegate="tensorrt", delegate_version="8.5")
    assert rules.violations(made.path, "8.5") == []
    kernels = [h for h in old.graph(made).constants.values() if len(h.dims) > 1]
    assert kernels and all(h.data_type == onnx.TensorProto.FLOAT for h in kernels)
    assert {u.precision for u in old.backend.units(made) if u.macs} == {"int8"}
    assert old.sqnr(made) > 25


def test_grouped_tensors_are_seen_as_one() -> None:
    counts = np.zeros(2048, dtype=np.int64)
    counts[1024] = 5
    narrow, wide = Observed(-1, 1, (-1, 1), counts, (-1, 1), 1), Observed(-4, 2, (-4, 2), counts, (-4, 2), 1)
    made = placement.Placement(activations=dict.fromkeys("abc"), groups=[("a", "b"), ("b", "c", "gone")])
    joined = quantize.joined({"a": narrow, "b": wide, "c": narrow}, made)
    assert joined["a"] == joined["b"] == joined["c"]
    assert (joined["a"].lo, joined["a"].hi, joined["a"].edges) == (-4, 2, (-4, 2))
    assert joined["a"].counts.sum() == 15


def test_bias_correction_takes_out_the_mean_error(joins: Any) -> None:
    """Ranges that clip a lot move the mean of what a convolution writes; corrected biases bring it back."""
    import onnxruntime

    graph, scheme = joins.graph(), Scheme(precision="int8", delegate="tensorrt")
    rules, places = quantize.rules_of(scheme), quantize.placed(graph, scheme)
    samples = [[np.abs(x)] for (x,) in joins.samples]
    read = Reader(joins.artifact, list(places.activations))
    seen = observe(read, [samples])[0]
    ranges = {name: (o.lo / 3, o.hi / 3) for name, o in seen.items()}
    deltas = bias.corrections(graph, places, ranges, rules, read, samples)
    assert len(deltas) == 8
    first = next(op for op in graph.ops if op.op == "Conv")

    def mean(proto: Any) -> Any:
        proto.graph.output.append(onnx.helper.make_tensor_value_info(first.outputs[0], 1, (1, 8, 8, 8)))
        session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
        rows = [session.run([first.outputs[0]], {graph.inputs[0]: s[0]})[0] for s in samples]
        return np.mean(rows, axis=(0, 1, 3, 4))

    want = mean(bias.corrected(graph, {}))
    plain = mean(quantize.quantized(graph, places, ranges, rules))
    better = mean(quantize.quantized(graph_of(bias.corrected(graph, deltas)), places, ranges, rules))
    assert np.abs(better - want).max() < np.abs(plain - want).max() / 3
