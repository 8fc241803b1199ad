"""How far a prediction may be off, and what follows for decisions.

The starting widths are residuals of published runs on a Raspberry Pi 4 with whole network families left
out, see docs/estimate.md.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from edgekit.measure.estimate.model import Estimate
    from edgekit.profiles.schema import Estimate as Coefficients

FACTOR_90 = 1.65
"""Half a 90 % interval in standard deviations of a normal distribution."""
CONFORMAL_POINTS = 10
"""Fewest runs whose quantile replaces the factor times sigma."""
MARGIN = 1.1
"""What the lower bound of a speed-up must exceed before it is called one."""
RATIO_SIGMA = 0.155
"""Of log(measured ratio / predicted ratio) of two variants of one network on one device: 90 % of pairs
were within 29 %, exp(1.65 * 0.155)."""

Verdict = Literal["faster", "slower", "measure"]


def half_width(coefficients: Coefficients, gradient: Sequence[float], *, known: bool, integer: bool) -> float:
    """Half the 90 % interval of log latency.

    1.65 sqrt(sigma^2 + g' Cov g), with sigma by class (known family, unseen family, int8: the largest that
    applies) and the covariance of the log coefficients. With enough own runs their conformal quantile
    stands in for it, for networks of known kinds.
    """
    sigma = coefficients.sigma
    if known and coefficients.interval_log is not None and coefficients.n_points >= CONFORMAL_POINTS:
        return coefficients.interval_log
    largest = max(sigma.known, 0.0 if known else sigma.unseen, sigma.int8 if integer else 0.0)
    return FACTOR_90 * math.sqrt(largest**2 + _quadratic(gradient, coefficients.covariance))


def conformal_quantile(residuals: Sequence[float], *, coverage: float = 0.9) -> float | None:
    """The split-conformal quantile of |residuals|: the ceil((n + 1) * coverage)-th smallest.

    Lei et al. 2018, "Distribution-free predictive inference for regression", algorithm 2. None when there
    are fewer than :data:`CONFORMAL_POINTS`.
    """
    n = len(residuals)
    if n < CONFORMAL_POINTS:
        return None
    rank = min(n, math.ceil((n + 1) * coverage))
    return sorted(abs(r) for r in residuals)[rank - 1]


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """How many times faster the second of two is: ``ratio`` > 1 means that it takes less time."""

    ratio: float
    interval: tuple[float, float]
    verdict: Verdict
    reason: str


def compare(before: Estimate, after: Estimate) -> Comparison:
    """Whether ``after``, another variant of the same network, is faster than ``before``.

    "Faster" or "slower" only where the 90 % interval of the ratio of latencies clears 1.1, else "measure".
    The errors of the two are correlated, because they share coefficients and most of the network, so that
    the ratio is known better than either: the interval has :data:`RATIO_SIGMA`, widened where one of the
    two lies outside the validated range, and the covariance of the coefficients by the *difference* of the
    two gradients.

    Raises ValueError for estimates of two profiles.
    """
    if before.profile != after.profile or before.covariance != after.covariance:
        raise ValueError(f"estimates for {before.profile} and {after.profile} have no common coefficients")
    if before.ms <= 0 or after.ms <= 0:
        raise ValueError("a network without operators has no latency to compare")
    ratio = before.ms / after.ms
    outside = not (before.known and after.known)
    sigma = RATIO_SIGMA * (_UNSEEN_FACTOR if outside else 1.0)
    difference = [a - b for a, b in zip(after.gradient, before.gradient, strict=True)]
    spread = math.exp(FACTOR_90 * math.sqrt(sigma**2 + _quadratic(difference, before.covariance)))
    low, high = ratio / spread, ratio * spread
    verdict: Verdict = "faster" if low > MARGIN else "slower" if high < 1 / MARGIN else "measure"
    return Comparison(
        ratio=ratio, interval=(low, high), verdict=verdict, reason=_reason(ratio, (low, high), verdict)
    )


_UNSEEN_FACTOR = 1.35
"""0.27 / 0.20: how much wider residuals of unseen families are."""


def _reason(ratio: float, interval: tuple[float, float], verdict: Verdict) -> str:
    figures = f"predicted {ratio:.2g} times as fast, {interval[0]:.2g} to {interval[1]:.2g} (90 %)"
    if verdict == "measure":
        return f"{figures}: too close to call, measure both on the device"
    return figures


def _quadratic(vector: Sequence[float], matrix: Sequence[Sequence[float]]) -> float:
    """v' M v; 0 for an empty matrix."""
    if not matrix:
        return 0.0
    return math.fsum(
        a * m * b for a, row in zip(vector, matrix, strict=True) for m, b in zip(row, vector, strict=True)
    )
