"""The additive model of latency."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from edgekit.measure.estimate import Estimate, estimate_latency
from edgekit.profiles.loader import load_profile

UNIT = {"macs": 6_000_000, "weight_bytes": 1000, "output_shape": (1, 10, 10, 10), "precision": "int8"}


def target_of(profile: str, runtime: str):
    return next(t for t in load_profile(profile).targets if t.runtime == runtime)


def test_it_is_the_documented_sum() -> None:
    """Four cores at 1.5 GHz, 7.4 int8 MACs per cycle at 75 %; 2000 bytes at 2.8 GB/s; 3 us per operator."""
    found = estimate_latency(load_profile("pi4"), target_of("pi4", "tflite"), [UNIT])
    assert found is not None
    assert found.ms == pytest.approx(1e3 * (6e6 / (4 * 1.5e9 * 7.4 * 0.75) + 2000 / 2.8e9 + 3e-6), rel=1e-9)
    assert found.calibration == "public" and "XNNPACK" in found.runtime


def test_float_costs_more_arithmetic_and_more_bytes() -> None:
    profile, target = load_profile("pi4"), target_of("pi4", "tflite")
    int8 = estimate_latency(profile, target, [UNIT])
    floats = estimate_latency(profile, target, [{**UNIT, "weight_bytes": 4000, "precision": "float32"}])
    assert int8 is not None and floats is not None
    assert floats.ms > 1.5 * int8.ms


def test_operators_add_up() -> None:
    profile, target = load_profile("pi4"), target_of("pi4", "tflite")
    one, three = (estimate_latency(profile, target, [UNIT] * n) for n in (1, 3))
    assert one is not None and three is not None
    assert three.ms == pytest.approx(3 * one.ms)


@pytest.mark.parametrize(
    ("profile", "runtime"), [("pi4", "torchscript"), ("jetson_orin_nano", "onnx"), ("android_gpu", "tflite")]
)
def test_coefficients_hold_for_no_other_runtime(profile: str, runtime: str) -> None:
    assert estimate_latency(load_profile(profile), target_of(profile, runtime), [UNIT]) is None


def test_a_profile_without_coefficients_has_no_estimate() -> None:
    assert (
        estimate_latency(load_profile("android_xnnpack"), target_of("android_xnnpack", "tflite"), [UNIT])
        is None
    )


NET = [
    {
        "name": "stem",
        "op": "CONV_2D",
        "index": 0,
        "macs": 180_000_000,
        "weight_bytes": 4_000_000,
        "input_shapes": ((1, 112, 112, 64),),
        "output_shape": (1, 112, 112, 64),
        "channels": 64,
        "precision": "float32",
    },
    {
        "name": "mix",
        "op": "DEPTHWISE_CONV_2D",
        "index": 1,
        "macs": 20_000_000,
        "weight_bytes": 100_000,
        "input_shapes": ((1, 112, 112, 64),),
        "output_shape": (1, 112, 112, 64),
        "channels": 64,
        "groups": 64,
        "precision": "float32",
    },
    {
        "name": "sum",
        "op": "ADD",
        "index": 2,
        "macs": 0,
        "weight_bytes": 0,
        "input_shapes": ((1, 112, 112, 64), (1, 112, 112, 64)),
        "output_shape": (1, 112, 112, 64),
        "precision": "float32",
    },
]
ACTIVATION = 112 * 112 * 64 * 4


def predict(units: Sequence[Mapping[str, Any]] = NET, profile: str = "pi4", **options: Any) -> Estimate:
    found = estimate_latency(load_profile(profile), target_of(profile, "tflite"), units, **options)
    assert found is not None
    return found


def test_bytes_are_those_read_written_and_stored() -> None:
    found = predict()
    assert found.bytes == 7 * ACTIVATION + 4_100_000
    assert found.shares["memory"] == pytest.approx(found.bytes / 2.8e6 / found.ms)
    assert sum(found.shares.values()) == pytest.approx(1.0)
    assert sum(op.ms for op in found.ops) == pytest.approx(found.ms)
    assert [op.kind for op in found.ops] == ["dense", "depthwise", "light"]


def test_memory_traffic_is_not_divided_by_threads() -> None:
    one, four = predict(threads=1), predict(threads=4)
    assert one.ops[0].compute_ms == pytest.approx(4 * four.ops[0].compute_ms)
    assert one.ops[0].memory_ms == four.ops[0].memory_ms
    eight = predict(threads=8)
    assert (eight.threads, eight.ms) == (4, four.ms)
    assert any("8 threads" in w for w in eight.warnings)
    with pytest.raises(ValueError, match="at least 1"):
        predict(threads=0)


def test_the_interval_is_symmetric_in_the_log_and_wider_outside_of_what_was_checked() -> None:
    inside = predict()
    assert inside.known and not inside.warnings
    low, high = inside.interval
    assert low * high == pytest.approx(inside.ms**2)
    assert high / inside.ms == pytest.approx(math.exp(1.65 * 0.20))
    tiny = predict([{**NET[0], "macs": 1000}])
    assert not tiny.known and tiny.interval[1] / tiny.ms == pytest.approx(math.exp(1.65 * 0.27))
    assert any("MACs is less than any network that was checked" in w for w in tiny.warnings)


def test_int8_is_known_less_well() -> None:
    found = predict([{**u, "precision": "int8", "weight_bytes": 5_000_000} for u in NET])
    assert found.sigma == pytest.approx(0.27)
    assert found.known


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"op": "CUMSUM", "macs": 0}, "CUMSUM"),
        ({"precision": "dynamic"}, "other than float32 and int8"),
        ({"input_shapes": ()}, "what every operator reads"),
        ({"channels": 62}, "off the kernels' tile"),
    ],
)
def test_what_lies_outside_is_said(change: dict[str, Any], says: str) -> None:
    found = predict([NET[0], {**NET[1], **change}, NET[2]])
    assert any(says in w for w in found.warnings)


def test_channels_are_rounded_up_to_the_tile() -> None:
    """62 of 64 channels cost what 64 do: XNNPACK computes eight at a time."""
    assert predict([{**NET[0], "channels": 62, "macs": 62_000_000}]).macs == pytest.approx(64_000_000)
    row = {**NET[0], "channels": 24, "macs": 24_000_000, "precision": "int8"}
    assert predict([row]).macs == 24_000_000
    assert predict([row], "pi5").macs == pytest.approx(32_000_000)


def test_what_the_delegate_leaves_runs_on_one_thread_and_is_said() -> None:
    refused = [{"index": 0, "accelerated": False}, {"index": 1, "accelerated": True}]
    taken, left = predict(), predict(coverage=refused)
    assert left.ops[0].compute_ms == pytest.approx(4 * taken.ops[0].compute_ms)
    assert left.ops[1].ms == taken.ops[1].ms
    assert not left.known and any("does not take CONV_2D" in w for w in left.warnings)


def test_activations_behind_a_convolution_cost_nothing() -> None:
    relu = {**NET[2], "op": "relu", "input_shapes": (NET[0]["output_shape"],)}
    assert predict([NET[0], relu]).ms == pytest.approx(predict([NET[0]]).ms)
    assert predict([NET[2], relu]).ms > predict([NET[2]]).ms


def test_detection_post_processing_counts_scores_on_one_thread() -> None:
    post = {
        "op": "CUSTOM:TFLite_Detection_PostProcess",
        "macs": 0,
        "weight_bytes": 0,
        "input_shapes": ((1, 19206, 4), (1, 19206, 90)),
        "output_shape": (1, 25, 4),
        "precision": "float32",
    }
    found = predict([*NET, post])
    assert found.ops[-1].compute_ms == pytest.approx(19206 * 90 * 22e-6)
    assert found.ops[-1].compute_ms == predict([*NET, post], threads=1).ops[-1].compute_ms
    without = predict([*NET, post], "pi3b")
    assert without.ops[-1].compute_ms == 0 and any("post-processing" in w for w in without.warnings)


def test_no_more_digits_than_are_known() -> None:
    found = predict()
    median, (low, high) = found.shown
    assert all(v == float(f"{v:.2g}") for v in (median, low, high))
    assert median == pytest.approx(found.ms, rel=0.05)
    assert found.basis == "public points" and predict(profile="pi3b").basis == "spec"


def test_coefficients_of_another_runtime_are_a_warning() -> None:
    found = estimate_latency(load_profile("pi4"), target_of("pi4", "executorch"), NET)
    assert found is not None and not found.known
    assert any("not executorch" in w for w in found.warnings)


def test_no_clock_no_estimate() -> None:
    profile = load_profile("pi4")
    core = profile.cores[0].model_copy(update={"ghz": None})
    silent = profile.model_copy(update={"cores": (core,)})
    assert estimate_latency(silent, target_of("pi4", "tflite"), NET) is None
