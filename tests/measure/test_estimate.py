"""The additive model of latency."""

from __future__ import annotations

import pytest

from edgekit.measure.estimate import estimate_latency
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
