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
    assert found.depthwise == pytest.approx(TRUE["depthwise"], rel=0.25)
    assert found.n_points == 12 and all(found.seen.values())
    assert found.interval_log is not None


def test_what_was_not_run_stays_what_it_was() -> None:
    found = calibrate(points(("dense", "wide", "add")), load_profile("pi4"))
    assert found.int8 == pytest.approx(7.4 * 0.75) and not found.seen["int8"]
    assert found.depthwise == pytest.approx(1.0) and not found.seen["depthwise"]
    assert found.interval_log is None


def test_the_left_out_error_tells_of_a_model_that_does_not_fit() -> None:
    good = calibrate(points(), load_profile("pi4"))
    odd = [p if p.model != "wide" else Point(**{**vars(p), "ms": 3 * p.ms}) for p in points()]
    assert calibrate(odd, load_profile("pi4")).error > good.error + 0.05


def test_one_model_is_not_enough() -> None:
    with pytest.raises(UserError, match="two models"):
        calibrate(points(("dense",)), load_profile("pi4"))


def test_there_must_be_something_to_start_from() -> None:
    with pytest.raises(UserError, match="no estimate section"):
        calibrate(points(), load_profile("android_xnnpack"))
