"""Ranges from calibration: exact extremes, and clipping that is the best that there is."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgekit.backends import calibration_choice
from edgekit.backends.calibration import BINS, Observed, merge, minmax_ranges, mse_range, mse_ranges
from edgekit.backends.tflite.backend import open_file
from edgekit.backends.tflite.calibrate import observe
from edgekit.errors import DataError
from edgekit.types import Scheme, ignore_events


@pytest.fixture
def scaled(handmade: Callable[..., Path]) -> Any:
    """y = relu(x * 3), with both steps as tensors of their own."""
    shape = {"shape": (1, 6)}
    tensors = {"x": shape, "three": {"shape": (1,), "data": [3.0]}, "times": shape, "y": shape}
    ops = [("MUL", ["x", "three"], ["times"], ("MulOptions", {})), ("RELU", ["times"], ["y"], None)]
    return open_file(handmade(tensors, ops, ["x"], ["y"]))


def samples(rng: np.random.Generator, n: int) -> list[list[np.ndarray]]:
    return [[rng.normal(0, 2, (1, 6)).astype(np.float32)] for _ in range(n)]


def test_extremes_are_numpys(scaled: Any) -> None:
    given = samples(np.random.default_rng(0), 9)
    (seen,) = observe(scaled, [given])
    x = np.concatenate([s[0] for s in given])
    for name, values in (("x", x), ("times", x * np.float32(3)), ("y", np.maximum(x * np.float32(3), 0))):
        assert (seen[name].lo, seen[name].hi) == (values.min(), values.max()), name
    assert minmax_ranges(seen)["times"] == (seen["times"].lo, seen["times"].hi)
    assert set(seen) == {"x", "times", "y"}, "constants have no range to calibrate"


def test_histograms_hold_every_value_but_zero(scaled: Any) -> None:
    given = samples(np.random.default_rng(1), 5)
    (seen,) = observe(scaled, [given])
    x = np.concatenate([s[0] for s in given]).astype(np.float64)
    assert seen["x"].counts.sum() == x.size
    assert seen["y"].counts.sum() == (x > 0).sum()
    want, _ = np.histogram(x, bins=BINS, range=(float(x.min()), float(x.max())))
    assert np.abs(seen["x"].counts - want).sum() <= 2, "a value on the border of two bins may fall in either"


def test_groups_are_seen_apart_and_together(scaled: Any) -> None:
    given = samples(np.random.default_rng(2), 10)
    parts = observe(scaled, [given[:7], given[7:]])
    (whole,) = observe(scaled, [given])
    joined = merge(parts)
    for name, seen in whole.items():
        assert (joined[name].lo, joined[name].hi, joined[name].edges) == (seen.lo, seen.hi, seen.edges)
        np.testing.assert_array_equal(joined[name].counts, seen.counts)
    first = np.concatenate([s[0] for s in given[:7]])
    assert (parts[0]["x"].lo, parts[0]["x"].hi) == (first.min(), first.max())


def test_progress_is_told_once_per_run(scaled: Any) -> None:
    told: list[dict[str, Any]] = []
    observe(scaled, [samples(np.random.default_rng(0), 3)], lambda e: told.append(dict(e.data)))
    assert [t["done"] for t in told] == [1, 2, 3, 4, 5, 6]
    assert {t["total"] for t in told} == {6}


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_sample_that_is_not_finite_is_named(scaled: Any, bad: float) -> None:
    given = samples(np.random.default_rng(0), 3)
    given[1][0][0, 0] = bad
    with pytest.raises(DataError, match="calibration sample 1 makes 'x' infinite or NaN"):
        observe(scaled, [given])


def test_tiny_values_do_not_overflow(scaled: Any) -> None:
    given = [[np.float32([[i * 1e-38, 0, 0, 0, 0, 0]])] for i in range(4)]
    (seen,) = observe(scaled, [given])
    assert seen["x"].counts.sum() == 3
    assert all(np.isfinite(mse_range(o)).all() for o in seen.values())


def test_inputs_are_told_apart_by_name(handmade: Callable[..., Path]) -> None:
    shape = {"shape": (1, 2)}
    tensors = {"b": shape, "a": shape, "y": shape}
    artifact = open_file(
        handmade(tensors, [("SUB", ["a", "b"], ["y"], ("SubOptions", {}))], ["a", "b"], ["y"])
    )
    given = {"a": np.float32([[5, 7]]), "b": np.float32([[1, 2]])}
    (seen,) = observe(artifact, [[[given[spec.name] for spec in artifact.inputs]]])
    assert (seen["y"].lo, seen["y"].hi) == (4, 5)


# -- mean squared error


COMMON = 10_000
"""How often each value occurs; the last of a distribution occurs once, which is what an outlier is."""


def observed(values: np.ndarray) -> Observed:
    edges = float(values.min()), float(values.max())
    weights = np.where(values != 0, COMMON, 0)
    weights[-1] = 1
    counts, _ = np.histogram(values, bins=BINS, range=edges, weights=weights)
    return Observed(*edges, edges, counts.astype(np.int64), edges, 1)


def error(values: np.ndarray, low: float, high: float) -> float:
    """Squared error of storing the values in 8 bits over [low, high], computed by storing them."""
    low, high = min(low, 0.0), max(high, 0.0)
    scale = (high - low) / 255
    zero = round(-128 - low / scale)
    stored = np.clip(np.rint(values / scale) + zero, -128, 127)
    squares = ((stored - zero) * scale - values) ** 2
    return float(COMMON * squares[:-1].sum() + squares[-1])


RNG = np.random.default_rng(7)
N = 4_000
DISTRIBUTIONS = {
    "normal": RNG.normal(0, 1, N),
    "relu": np.maximum(RNG.normal(0, 1, N), 0),
    "heavy tail": RNG.standard_t(3, N),
    "uniform": RNG.uniform(-2, 3, N),
    "negative": -np.abs(RNG.normal(0, 1, N)),
    "far from zero": RNG.normal(50, 0.5, N),
    "outlier above": np.append(RNG.normal(0, 1, N), 60.0),
    "outlier below": np.append(np.abs(RNG.normal(0, 1, N)), -90.0),
    "outlier after relu": np.append(np.maximum(RNG.normal(0, 1, N), 0), 40.0),
}


@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_clipping_is_nearly_the_best_of_all(name: str) -> None:
    values = DISTRIBUTIONS[name]
    low, high = mse_range(observed(values))
    ends = float(values.min()), float(values.max())
    assert min(ends[0], 0) <= low <= 0 <= high <= max(ends[1], 0), (
        "zero is inside, nothing is beyond the data"
    )
    fractions = np.linspace(1 / 40, 1, 40)
    lows = fractions * min(ends[0], 0) if ends[0] < 0 else [0.0]
    highs = fractions * max(ends[1], 0) if ends[1] > 0 else [0.0]
    best = min(error(values, lo, hi) for lo in lows for hi in highs)
    assert error(values, low, high) <= 1.1 * best
    assert error(values, low, high) <= 1.05 * error(values, *ends), "never worse than the full range"


@pytest.mark.parametrize("name", ["outlier above", "outlier below", "outlier after relu"])
def test_clipping_cuts_a_rare_outlier(name: str) -> None:
    values = DISTRIBUTIONS[name]
    low, high = mse_range(observed(values))
    assert error(values, low, high) < 0.5 * error(values, values.min(), values.max())


def constant(value: float) -> Observed:
    return Observed(value, value, (value, value), np.zeros(BINS, dtype=np.int64), (value, value), 1)


def test_constant_tensors_keep_their_range() -> None:
    assert mse_range(constant(2.0)) == (
        2.0,
        2.0,
    )
    ranges = mse_ranges({"zeros": constant(0.0)})
    assert ranges == {"zeros": (0.0, 0.0)}


# -- choosing


def tried(*rows: tuple[float, float, str]) -> list[Any]:
    return [(*row, None) for row in rows]


def test_sqnr_decides() -> None:
    assert calibration_choice.choose(tried((98.0, 20.0, "minmax"), (98.0, 25.0, "mse")), 50)[2] == "mse"
    assert calibration_choice.choose(tried((98.0, 30.0, "minmax"), (97.0, 25.0, "mse")), 50)[2] == "minmax"


def test_a_clear_loss_of_agreement_overrules_sqnr() -> None:
    assert calibration_choice.choose(tried((98.0, 20.0, "minmax"), (70.0, 25.0, "mse")), 50)[2] == "minmax"
    few = tried((100.0, 20.0, "minmax"), (90.0, 25.0, "mse"))
    assert calibration_choice.choose(few, 10)[2] == "mse", "one sample of ten is chance"


def test_every_fifth_sample_is_held_back() -> None:
    given = [[np.float32([i])] for i in range(12)]
    fit, held = calibration_choice.split(given)
    assert [int(s[0][0]) for s in held] == [4, 9]
    assert [int(s[0][0]) for s in fit] == [0, 1, 2, 3, 5, 6, 7, 8, 10, 11]
    fit, held = calibration_choice.split(given[:4])
    assert fit == held == given[:4]


def test_the_held_back_samples_are_those_that_the_build_verifies_on() -> None:
    from edgekit.build.inputs import Inputs
    from edgekit.sources.arrays import make_data

    data = make_data("calib", [np.arange(12, dtype=np.float32)[:, None]], None, source="test")
    inputs = Inputs(profile=None, model=None, datas={"calib": data})  # type: ignore[arg-type]
    verified, _, where = inputs.verification(seed=0)
    _, held = calibration_choice.split(inputs.calibration())
    assert where == "held-back calibration"
    np.testing.assert_array_equal(verified[0], np.concatenate([s[0] for s in held]))


def test_two_samples_are_the_least(tiny: Any) -> None:
    with pytest.raises(DataError, match="at least 2 calibration samples, got 1"):
        tiny.backend.quantize(
            tiny.artifact,
            tiny.samples[:1],
            Scheme(precision="int8"),
            refit=False,
            store=tiny.store,
            emit=ignore_events,
        )


def test_the_choice_is_recorded_with_what_was_tried(quantized: Callable[..., Any]) -> None:
    made = quantized(precision="int8")
    choice = made.meta["calibration"]
    *names, corrected = [c["name"] for c in choice["candidates"]]
    assert names == ["minmax", "mse"] and corrected.removesuffix("+bias") in names
    assert choice["chosen"] in (*names, corrected)
    assert (choice["samples"], choice["held_back"], choice["refit"]) == (16, 4, False)
    assert all(c["sqnr_db"] > 20 and c["agreement"] >= 75 for c in choice["candidates"])
    method = choice["chosen"].removesuffix("+bias")
    again = quantized(precision="int8", calibration=method)
    assert again.sha256 == made.sha256, "auto is the chosen method, byte for byte"
    assert [c["name"] for c in again.meta["calibration"]["candidates"]] == [method, f"{method}+bias"]


def test_a_refit_uses_all_samples(quantized: Callable[..., Any]) -> None:
    made = quantized(precision="int8", calibration="mse", refit=True)
    assert made.meta["calibration"]["samples"] == 20
    assert made.meta["calibration"]["refit"] is True
    assert made.sha256 != quantized(precision="int8", calibration="mse").sha256
