"""Inputs on a grid are not rounded from half-way between two levels."""

from __future__ import annotations

import numpy as np
import pytest

from edgekit.backends import ties

PIXELS = (np.arange(256) / 127.5 - 1).astype(np.float32)


def _error(limits: tuple[float, float], values: np.ndarray) -> float:
    """Root mean square error in levels of values that are rounded in a range."""
    scale = (limits[1] - limits[0]) / ties.STEPS
    zero = np.round(-limits[0] / scale)
    levels = np.clip(np.round(values / scale + zero), 0, ties.STEPS)
    return float(np.sqrt(np.mean((levels - zero - values / scale) ** 2)))


def test_pixels_around_zero_get_a_range_one_step_wider() -> None:
    limits = ties.without_ties((-1.0, 1.0), [PIXELS])
    assert limits == pytest.approx((-255 / 254, 255 / 254))
    assert _error((-1.0, 1.0), PIXELS) == pytest.approx(0.5, abs=0.01)
    assert _error(limits, PIXELS) < 0.3


@pytest.mark.parametrize(
    ("limits", "values"),
    [
        pytest.param((0.0, 1.0), np.arange(256) / 255, id="pixels from zero"),
        pytest.param((-3.0, 5.0), np.random.default_rng(0).normal(size=4096), id="no grid"),
        pytest.param((0.0, 0.0), np.zeros(8), id="constant"),
        pytest.param((-1.0, 1.0), np.zeros(0), id="no values"),
    ],
)
def test_ranges_without_ties_stay(limits: tuple[float, float], values: np.ndarray) -> None:
    assert ties.without_ties(limits, [values]) == limits
    assert ties.without_ties(limits, []) == limits


def test_the_range_with_the_fewest_ties_is_taken_where_none_has_few() -> None:
    levels = [(i + 0.5) / 255 * 2 for i in range(-60, 60)]
    mixed = np.array([*levels, *([0.5 / 254 * 2] * 40)])
    found = ties.without_ties((-1.0, 1.0), [mixed])
    assert found[1] > 1.0 and found[1] <= 255 / 240


def test_ranges_that_are_the_same_change_with_the_input() -> None:
    ranges = {"x": (-1.0, 1.0), "padded": (-1.0, 1.0), "other": (-1.0, 2.0)}
    changed = ties.avoided(ranges, {"x": PIXELS, "unknown": PIXELS})
    assert changed["x"] == changed["padded"] == ties.without_ties((-1.0, 1.0), [PIXELS])
    assert changed["other"] == (-1.0, 2.0)
    assert ranges["x"] == (-1.0, 1.0)


def test_inputs_of_one_range_get_one_that_suits_each() -> None:
    """A small input on a grid counts as much as a large one that is on none."""
    noise = np.random.default_rng(0).uniform(-1, 1, 10 * PIXELS.size).astype(np.float32)
    wanted = ties.without_ties((-1.0, 1.0), [PIXELS])
    for inputs in ({"a": PIXELS, "b": noise}, {"b": noise, "a": PIXELS}):
        assert ties.avoided({"a": (-1.0, 1.0), "b": (-1.0, 1.0)}, inputs) == {"a": wanted, "b": wanted}


def test_values_are_those_of_each_input() -> None:
    samples = [[np.full((1, 2), i), np.full((1, 3), -i)] for i in range(3)]
    found = ties.values_of(["a", "b"], samples)
    assert found["a"].tolist() == [0, 0, 1, 1, 2, 2]
    assert found["b"].shape == (9,) and found["b"].min() == -2
    assert ties.values_of(["a"], []) == {}
    (large,) = ties.values_of(["a"], [[np.arange(1 << 16)]] * 40).values()
    assert large.size == 16 << 14 and large.max() > 0.99 * (1 << 16)
