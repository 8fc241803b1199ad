"""Ranges by each method, on tensors whose right answer is known."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from edgekit.backends.calibration import Observed, merge, observe
from edgekit.backends.calibration_methods import AUTO, NAMES, methods_of


def seen(*samples: np.ndarray) -> Observed:
    """What calibration sees of one tensor over these samples."""
    [found] = observe(lambda sample: [("x", sample[0])], [[[s] for s in samples]])
    return found["x"]


@pytest.fixture
def normal() -> Callable[..., np.ndarray]:
    rng = np.random.default_rng(0)
    return lambda n=20_000: rng.standard_normal(n)


def test_names_stand_for_methods() -> None:
    assert tuple(methods_of("auto")) == AUTO and tuple(methods_of("all")) == NAMES
    for name in NAMES:
        assert tuple(methods_of(name)) == (name,)


def test_minmax_holds_an_outlier_that_counting_methods_clip(normal: Callable[..., np.ndarray]) -> None:
    values = normal()
    values[7] = 60.0
    found = {name: methods_of(name)[name]({"x": seen(values)})["x"] for name in NAMES}
    assert found["minmax"] == (values.min(), 60.0)
    for name in ("percentile", "entropy"):  # one far value is cheaper to keep for mse
        low, high = found[name]
        assert 2.5 < high < 30 and -7 < low <= -2.5, (name, low, high)


def test_the_moving_average_is_that_of_the_samples() -> None:
    found = seen(np.array([-1.0, 2.0]), np.array([-3.0, 4.0]), np.array([-2.0, 3.0]))
    assert methods_of("moving_average")["moving_average"]({"x": found})["x"] == (-2.0, 3.0)


def test_averages_of_groups_of_unequal_size_join_exactly() -> None:
    def read(sample: list[np.ndarray]) -> list[tuple[str, np.ndarray]]:
        return [("x", sample[0])]

    samples = [[np.array([0.0, float(n)])] for n in range(1, 8)]
    parts = observe(read, [samples[:5], samples[5:]])
    assert merge(parts)["x"].average == pytest.approx((0.0, 4.0))


def test_percentile_leaves_out_the_tail_only(normal: Callable[..., np.ndarray]) -> None:
    values = normal(200_000)
    low, high = methods_of("percentile")["percentile"]({"x": seen(values)})["x"]
    beyond = np.mean((values < low) | (values > high))
    assert 0 < beyond < 3e-4


def test_ranges_stay_within_what_was_seen_and_hold_zero(normal: Callable[..., np.ndarray]) -> None:
    for values in (np.abs(normal()), -np.abs(normal()), normal() + 0.5):
        observed = {"x": seen(values)}
        for name, method in methods_of("all").items():
            low, high = method(observed)["x"]
            assert low <= high and low >= min(values.min(), 0) - 1e-9, name
            assert high <= max(values.max(), 0) + 1e-9, name


def test_entropy_keeps_a_uniform_tensor_whole() -> None:
    values = np.linspace(0.0, 1.0, 50_000)
    low, high = methods_of("entropy")["entropy"]({"x": seen(values)})["x"]
    assert low == 0.0 and high > 0.9


@pytest.mark.parametrize("name", NAMES)
def test_constant_tensors_have_a_range(name: str) -> None:
    for value in (0.0, 3.0):
        low, high = methods_of(name)[name]({"x": seen(np.full(5, value))})["x"]
        assert low <= high and np.isfinite([low, high]).all()
