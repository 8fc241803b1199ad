"""Widths of intervals, and decisions between two variants."""

from __future__ import annotations

import math
from typing import Any

import pytest

from edgekit.measure.estimate import Estimate, compare, estimate_latency
from edgekit.measure.estimate.interval import conformal_quantile
from edgekit.profiles.loader import load_profile
from edgekit.profiles.schema import DeviceProfile


def unit(macs: int, precision: str = "float32") -> dict[str, Any]:
    return {
        "op": "CONV_2D",
        "macs": macs,
        "weight_bytes": 20_000_000,
        "input_shapes": ((1, 56, 56, 64),),
        "output_shape": (1, 56, 56, 64),
        "channels": 64,
        "precision": precision,
    }


def predict(macs: int, precision: str = "float32", profile: DeviceProfile | None = None) -> Estimate:
    known = profile or load_profile("pi4")
    found = estimate_latency(known, known.targets[0], [unit(macs, precision)])
    assert found is not None
    return found


def measured(**changes: Any) -> DeviceProfile:
    """The Pi 4 as a calibration would leave it."""
    profile = load_profile("pi4")
    assert profile.estimate is not None
    model = profile.estimate.model_copy(update={"calibration": "measured", **changes})
    return profile.model_copy(update={"estimate": model})


def test_only_a_clear_ratio_is_a_decision() -> None:
    full, third, close = predict(3_000_000_000), predict(1_000_000_000), predict(2_500_000_000)
    faster = compare(full, third)
    assert faster.verdict == "faster" and faster.interval[0] > 1.1
    assert faster.ratio == pytest.approx(full.ms / third.ms)
    slower = compare(third, full)
    assert slower.verdict == "slower" and slower.interval[1] < 1 / 1.1
    assert slower.ratio == pytest.approx(1 / faster.ratio)
    near = compare(full, close)
    assert near.ratio > 1.1 and near.verdict == "measure" and "measure both" in near.reason
    assert compare(full, full).verdict == "measure"


def test_a_ratio_is_known_better_than_its_parts_and_worse_outside() -> None:
    full, half = predict(3_000_000_000), predict(1_500_000_000)
    spread = math.log(compare(full, half).interval[1] / compare(full, half).ratio)
    assert spread < math.log(full.interval[1] / full.ms) * math.sqrt(2)
    tiny = compare(predict(3_000_000), predict(1_500_000))
    assert math.log(tiny.interval[1] / tiny.ratio) > spread


def test_coefficients_that_two_files_share_cancel() -> None:
    """Uncertainty of the fp32 rate says nothing about the ratio of two nets that spend alike on it."""
    loose = [[0.0] * 6 for _ in range(6)]
    loose[0][0] = 0.5**2
    profile = measured(n_points=3, covariance=tuple(tuple(row) for row in loose))
    one, same, int8 = (
        predict(1_000_000_000, "float32", profile),
        predict(1_000_000_000, "float32", profile),
        predict(1_000_000_000, "int8", profile),
    )
    assert one.sigma > predict(1_000_000_000).sigma
    plain = compare(predict(1_000_000_000), predict(1_000_000_000))
    assert compare(one, same).interval == pytest.approx(plain.interval)
    precise = compare(predict(1_000_000_000), predict(1_000_000_000, "int8"))
    assert compare(one, int8).interval[0] < precise.interval[0]


def test_estimates_for_two_devices_do_not_compare() -> None:
    with pytest.raises(ValueError, match="pi4 and pi5"):
        compare(predict(10**9), predict(10**9, profile=load_profile("pi5")))


def test_enough_own_runs_replace_the_factor() -> None:
    few, many = measured(n_points=9, interval_log=0.1), measured(n_points=10, interval_log=0.1)
    assert predict(10**9, profile=few).sigma == pytest.approx(0.20)
    found = predict(10**9, profile=many)
    assert math.log(found.interval[1] / found.ms) == pytest.approx(0.1)
    assert found.basis == "measured n=10"
    outside = predict(1000, profile=many)
    assert math.log(outside.interval[1] / outside.ms) > 0.4


def test_the_conformal_quantile() -> None:
    residuals = [0.01 * i * (-1) ** i for i in range(1, 20)]
    assert conformal_quantile(residuals) == pytest.approx(0.18)  # ceil(20 * 0.9) = 18th of 19
    assert conformal_quantile(residuals[:9]) is None
    assert conformal_quantile(residuals[:10]) == pytest.approx(0.10)
