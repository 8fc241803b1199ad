"""Accuracy and its intervals, against published figures."""

from __future__ import annotations

import numpy as np
import pytest

from edgekit.verify.accuracy import agreement, drop_interval, is_classifier, top1, wilson


@pytest.mark.parametrize(
    ("hits", "n", "low", "high"),
    [
        # Newcombe 1998, "Two-sided confidence intervals for the single proportion", table I, method 3
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
        # statsmodels: proportion_confint(8, 10, method="wilson")
        (8, 10, 0.4902, 0.9433),
        (20, 20, 1 - 0.1611, 1.0),
    ],
)
def test_wilson_interval(hits: int, n: int, low: float, high: float) -> None:
    assert wilson(hits, n) == pytest.approx((low, high), abs=5e-5)


def logits(classes: np.ndarray, n: int = 4) -> np.ndarray:
    return np.eye(n, dtype=np.float32)[classes]


def test_top1_counts_the_largest() -> None:
    labels = np.array([0, 1, 2, 3, 3])
    found = top1(logits(np.array([0, 1, 2, 2, 3])), labels)
    assert (found.top1, found.n) == (80.0, 5)
    low, high = wilson(4, 5)
    assert found.ci95 == pytest.approx((100 * low, 100 * high))


def test_agreement_needs_no_labels() -> None:
    assert agreement(logits(np.array([0, 1, 2, 3])), logits(np.array([0, 1, 3, 3]))) == 75.0


def paired(both: int, lost: int, won: int, neither: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Outputs before and after for samples of class 0: right both times, only before, only after, never."""
    before = [0] * both + [0] * lost + [1] * won + [1] * neither
    after = [0] * both + [1] * lost + [0] * won + [1] * neither
    return logits(np.array(before)), logits(np.array(after)), np.zeros(len(before), dtype=np.int64)


def test_interval_of_a_paired_difference() -> None:
    # Agresti, Categorical Data Analysis, approval ratings of 1600 people: 0.04, 95 % (0.021, 0.059)
    low, high = drop_interval(*paired(794, 150, 86, 570))
    assert (low, high) == pytest.approx((2.1, 5.9), abs=0.05)
    assert (low + high) / 2 == pytest.approx(4.0)


def test_samples_on_which_both_agree_carry_no_uncertainty() -> None:
    assert drop_interval(*paired(90, 0, 0, 10)) == (0.0, 0.0)
    narrow, wide = drop_interval(*paired(90, 5, 5, 0)), drop_interval(*paired(60, 20, 20, 0))
    assert narrow[1] - narrow[0] < wide[1] - wide[0]


@pytest.mark.parametrize(
    ("shapes", "expected"),
    [
        ([(5, 10)], True),
        ([(5, 1)], False),
        ([(5,)], False),
        ([(5, 3, 8, 8)], False),
        ([(5, 10), (5, 10)], False),
    ],
)
def test_what_has_a_class(shapes: list[tuple[int, ...]], expected: bool) -> None:
    assert is_classifier([np.zeros(s) for s in shapes]) is expected
