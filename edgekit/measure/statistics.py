"""Summaries of repeated measurements that assume nothing about their distribution."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

_ALPHA = 0.05
_EXACT_UP_TO = 1000


@dataclass(frozen=True, kw_only=True)
class Summary:
    """What is reported of a set of samples, in the unit of the samples.

    ``ci95`` is a confidence interval of the median with a coverage of at least 95 %, None for fewer
    than 6 samples.
    """

    median: float
    p90: float
    p99: float
    ci95: tuple[float, float] | None
    n: int
    mean: float
    min: float
    max: float


def summarize(samples: Sequence[float]) -> Summary:
    """Median, 90th and 99th percentile and a confidence interval of the median.

    Run times are skewed and have outliers, so nothing here assumes a normal distribution. The percentiles
    interpolate linearly between order statistics (Hyndman and Fan 1996, "Sample quantiles in statistical
    packages", type 7, as numpy does). The interval runs from the k-th smallest to the k-th largest sample:
    it misses the median only when fewer than k samples fall on one side of it, which has the binomial
    probability 2 P(B(n, 1/2) < k); k is the largest for which that is at most 5 % (Conover, "Practical
    Nonparametric Statistics", 3rd ed. 1999, section 3.2). Samples are taken to be independent.

    Raises ValueError for no samples or one that is not finite.
    """
    if not samples:
        raise ValueError("no samples to summarize")
    ordered = sorted(float(sample) for sample in samples)
    if not all(math.isfinite(sample) for sample in ordered):
        raise ValueError("a sample is not a finite number")
    n = len(ordered)
    k = _interval_rank(n)
    return Summary(
        median=_quantile(ordered, 0.5),
        p90=_quantile(ordered, 0.9),
        p99=_quantile(ordered, 0.99),
        ci95=(ordered[k - 1], ordered[n - k]) if k else None,
        n=n,
        mean=math.fsum(ordered) / n,
        min=ordered[0],
        max=ordered[-1],
    )


def _quantile(ordered: Sequence[float], q: float) -> float:
    position = q * (len(ordered) - 1)
    below = math.floor(position)
    fraction = position - below
    if fraction == 0:
        return ordered[below]
    return ordered[below] + fraction * (ordered[below + 1] - ordered[below])


def _interval_rank(n: int) -> int:
    """Largest k with 2 P(B(n, 1/2) < k) <= 5 %; 0 when there is none (n < 6).

    For many samples the probabilities come from logarithms of the gamma function, and those more than
    eight standard deviations off the mean, below 1e-14 together, are left out.
    """
    exact = n <= _EXACT_UP_TO
    k = 0 if exact else int(n / 2 - 4 * math.sqrt(n))
    outside = 0.0
    while k < n:
        outside += 2 * (math.comb(n, k) / 2**n if exact else _binomial(n, k))
        if outside > _ALPHA:
            break
        k += 1
    return k


def _binomial(n: int, k: int) -> float:
    """P(B(n, 1/2) = k)."""
    return math.exp(math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1) - n * math.log(2))
