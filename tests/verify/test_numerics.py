"""Distances between stages."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from edgekit.verify.numerics import closeness, unit_sqnr


def test_sqnr_of_known_noise() -> None:
    reference = np.ones((10, 100))
    close = closeness([reference], [reference + 0.1])
    assert close.sqnr_db == pytest.approx(20.0)  # power 1 over power 0.01
    assert close.max_abs == pytest.approx(0.1) and close.max_rel == pytest.approx(0.1)
    assert close.cosine == pytest.approx(1.0)
    assert close.n == 10


def test_rounding_to_8_bits_costs_6_db_a_bit() -> None:
    x = np.random.default_rng(0).uniform(-1, 1, (100, 1000))
    step = 2 / 255
    close = closeness([x], [np.rint(x / step) * step])
    assert close.sqnr_db == pytest.approx(6.02 * 8, abs=0.2)


def test_all_outputs_count_together() -> None:
    one, two = np.full((4, 10), 3.0), np.full((4, 5), -6.0)
    close = closeness([one, two], [one, two + 1.0])
    signal, noise = 9 * 40 + 36 * 20, 20
    assert close.sqnr_db == pytest.approx(10 * np.log10(signal / noise))
    assert close.max_rel == pytest.approx(1 / 6)


def test_equal_values_have_no_finite_sqnr() -> None:
    x = np.random.default_rng(0).normal(size=(3, 4))
    close = closeness([x], [x.copy()])
    assert (close.sqnr_db, close.max_abs, close.max_rel) == (None, 0.0, 0.0)
    assert close.cosine == pytest.approx(1.0)


def test_a_reference_of_zeros() -> None:
    zeros = np.zeros((2, 3))
    assert closeness([zeros], [zeros]).max_rel == 0.0
    other = closeness([zeros], [zeros + 1])
    assert other.max_rel == float("inf") and other.sqnr_db is None and other.cosine is None


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_infinitely_far(bad: float) -> None:
    x = np.ones((2, 3))
    got = x.copy()
    got[1, 2] = bad
    close = closeness([x], [got])
    assert close.max_abs == close.max_rel == float("inf")
    assert close.sqnr_db is None and close.cosine is None


def test_large_float32_values_do_not_overflow() -> None:
    x = np.full((1, 1000), 1e25, dtype=np.float32)
    assert closeness([x], [x * np.float32(1.1)]).sqnr_db == pytest.approx(20.0, abs=0.01)


def test_another_number_of_outputs_is_a_bug_of_the_caller() -> None:
    with pytest.raises(ValueError, match="shorter"):
        closeness([np.ones(1), np.ones(1)], [np.ones(1)])


class Taps:
    """A session that gives named values, times a factor."""

    def __init__(self, **factors: float) -> None:
        self.factors = factors

    def taps(self, inputs: Sequence[Any], units: Sequence[str]) -> dict[str, np.ndarray]:
        return {u: inputs[0] * self.factors[u] for u in units}


def test_each_unit_is_compared_with_the_one_it_came_from() -> None:
    samples = [[np.float32([1.0, -2.0])], [np.float32([30.0, 4.0])]]
    found = unit_sqnr(
        Taps(a=1.0, b=2.0, c=0.0),  # type: ignore[arg-type]
        Taps(a8=1.1, b8=2.0, c8=0.5),  # type: ignore[arg-type]
        {"a8": "a", "b8": "b", "c8": "c"},
        samples,
    )
    assert found["a8"] == pytest.approx(20.0, abs=1e-3)
    assert found["b8"] is None, "equal"
    assert found["c8"] is None, "no signal"
