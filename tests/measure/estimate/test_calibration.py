"""From timed runs to the coefficients of a profile."""

from __future__ import annotations

import math

import numpy as np
import pytest

from edgekit.errors import UserError
from edgekit.measure.estimate.calibration import Point, calibrate
from edgekit.measure.estimate.features import OpFeatures
from edgekit.profiles.loader import load_profile

GHZ = 1.5
TRUE = {"fp32": 2.0, "int8": 6.0, "copy": 4.0, "op": 10.0, "depthwise": 0.4}
"""Depthwise for float32; nothing here has depthwise int8."""


def op(kind: str, *, macs: float = 0, moved: int = 0, integer: bool = False) -> OpFeatures:
    return OpFeatures(name="", op="", kind=kind, integer=integer, macs=macs, bytes=moved)  # type: ignore[arg-type]


MODELS = {
    "dense": (op("dense", macs=5e8, moved=10**6),),
    "wide": (op("dense", macs=2e8, moved=2 * 10**6),),
    "depthwise": (op("depthwise", macs=1e8, moved=10**6),),
    "add": (op("light", moved=5 * 10**7),),
    "int8": (op("dense", macs=5e8, moved=10**6, integer=True),),
    "chain": tuple(op("light", moved=1000) for _ in range(100)),
}


def ms(ops: tuple[OpFeatures, ...], threads: int) -> float:
    total = 0.0
    for o in ops:
        rate = TRUE["int8" if o.integer else "fp32"] * (TRUE["depthwise"] if o.kind == "depthwise" else 1)
        total += 1e3 * o.macs / (threads * GHZ * 1e9 * rate) + o.bytes / (TRUE["copy"] * 1e6)
        total += 1e-3 * TRUE["op"]
    return total


def points(models: tuple[str, ...] = tuple(MODELS), noise: float = 0.02) -> list[Point]:
    rng = np.random.default_rng(0)
    return [
        Point(
            model=name,
            threads=threads,
            ms=ms(MODELS[name], threads) * math.exp(noise * rng.standard_normal()),
            spread=0.01,
            ops=MODELS[name],
        )
        for name in models
        for threads in (1, 4)
    ]


def test_the_coefficients_of_a_device_come_back() -> None:
    found = calibrate(points(), load_profile("pi4"))
    assert found.fp32 == pytest.approx(TRUE["fp32"], rel=0.1)
    assert found.int8 == pytest.approx(TRUE["int8"], rel=0.15)
    assert found.copy_gb_s == pytest.approx(TRUE["copy"], rel=0.15)
    assert found.op_us == pytest.approx(TRUE["op"], rel=0.15)
    assert found.depthwise_fp32 == pytest.approx(TRUE["depthwise"], rel=0.2)
    assert found.n_points == 12
    assert [name for name, seen in found.seen.items() if not seen] == ["depthwise int8"]
    assert found.depthwise_int8 == pytest.approx(1.0)
    assert found.network_error is None and found.interval_log is None


def test_what_was_not_run_stays_what_it_was() -> None:
    found = calibrate(points(("dense", "wide", "add")), load_profile("pi4"))
    assert found.int8 == pytest.approx(7.4 * 0.75) and not found.seen["int8"]
    assert found.depthwise_fp32 == pytest.approx(1.0) and not found.seen["depthwise fp32"]


def test_networks_that_were_left_out_give_the_interval() -> None:
    """Ten runs of networks and more: the width is what they were off by, not what single kernels were."""
    networks = [
        Point(
            model=f"net {i}",
            threads=threads,
            ms=ms(MODELS["dense"] * (i + 1) + MODELS["chain"], threads) * (1.1 if i % 2 else 0.9),
            spread=0.01,
            ops=MODELS["dense"] * (i + 1) + MODELS["chain"],
            network=True,
        )
        for i in range(5)
        for threads in (1, 4)
    ]
    few = calibrate([*points(), *networks[:8]], load_profile("pi4"))
    assert few.interval_log is None and few.network_error is not None
    found = calibrate([*points(), *networks], load_profile("pi4"))
    assert found.network_error == pytest.approx(0.1, abs=0.05)
    assert found.network_sigma == pytest.approx(0.1, abs=0.05)
    assert found.interval_log is not None and 0.08 < found.interval_log < 0.25


def test_the_left_out_error_tells_of_a_model_that_does_not_fit() -> None:
    odd = [p if p.model != "wide" else Point(**{**vars(p), "ms": 3 * p.ms}) for p in points()]
    plain = dict(zip([(p.model, p.threads) for p in points()], left_out(points()), strict=True))
    strange = dict(zip([(p.model, p.threads) for p in odd], left_out(odd), strict=True))
    assert strange["wide", 1] > plain["wide", 1] + 0.8, "three times as slow as the others foretell"


def left_out(runs: list[Point]) -> tuple[float, ...]:
    return calibrate(runs, load_profile("pi4")).leave_one_out


def test_one_model_is_not_enough() -> None:
    with pytest.raises(UserError, match="two models"):
        calibrate(points(("dense",)), load_profile("pi4"))


def test_there_must_be_something_to_start_from() -> None:
    with pytest.raises(UserError, match="no estimate section"):
        calibrate(points(), load_profile("android_xnnpack"))
