from __future__ import annotations

import math
import random

import numpy as np
import pytest

from edgekit.measure import statistics, summarize


@pytest.mark.parametrize("n", [1, 2, 5, 6, 7, 50, 101])
def test_median_and_percentile_agree_with_numpy(n: int) -> None:
    samples = np.random.default_rng(n).lognormal(size=n)
    summary = summarize(samples.tolist())
    assert summary.n == n
    assert summary.median == pytest.approx(np.median(samples))
    assert summary.p90 == pytest.approx(np.percentile(samples, 90))
    assert summary.mean == pytest.approx(samples.mean())
    assert (summary.min, summary.max) == (samples.min(), samples.max())


# Ranks of the interval's ends (from 1), from a table of the binomial distribution with p = 1/2:
# e.g. Conover 1999, or Hahn and Meeker, "Statistical Intervals", table A.15.
@pytest.mark.parametrize(
    ("n", "ranks"),
    [(6, (1, 6)), (8, (1, 8)), (9, (2, 8)), (10, (2, 9)), (20, (6, 15)), (50, (18, 33)), (100, (40, 61))],
)
def test_interval_runs_between_the_tabled_order_statistics(n: int, ranks: tuple[int, int]) -> None:
    samples = list(range(1, n + 1))
    random.Random(0).shuffle(samples)
    assert summarize(samples).ci95 == ranks


@pytest.mark.parametrize("n", [1, 5])
def test_too_few_samples_have_no_interval(n: int) -> None:
    assert summarize([1.0] * n).ci95 is None


def test_interval_covers_the_median_of_a_skewed_distribution() -> None:
    rng = np.random.default_rng(7)
    draws = rng.exponential(size=(2000, 25))
    hits = 0
    for draw in draws:
        low, high = summarize(draw.tolist()).ci95 or (math.inf, -math.inf)
        hits += low <= math.log(2) <= high
    # True coverage at n = 25 is 95.7 %; four standard errors below 95 % would be 93.05 %.
    assert hits / len(draws) > 0.93


@pytest.mark.parametrize("samples", [[], [1.0, math.nan], [math.inf]])
def test_nothing_and_what_is_no_number_are_refused(samples: list[float]) -> None:
    with pytest.raises(ValueError, match="sample"):
        summarize(samples)


@pytest.mark.parametrize("n", [1001, 1002, 1500, 2047])
def test_many_samples_give_the_exact_interval(n: int, monkeypatch: pytest.MonkeyPatch) -> None:
    quick = statistics._interval_rank(n)
    monkeypatch.setattr(statistics, "_EXACT_UP_TO", n)
    assert statistics._interval_rank(n) == quick


def test_a_million_samples_take_no_time() -> None:
    """Of a long run; k is n/2 - 0.98 sqrt(n) to within the rounding."""
    assert statistics._interval_rank(1_000_000) == pytest.approx(500_000 - 980, abs=2)
