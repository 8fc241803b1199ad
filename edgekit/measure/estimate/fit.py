"""Coefficients from measured runs: a robust fit of logarithms that starts from what is known already."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

NOISE = 0.10
"""Standard deviation of log(measured / predicted) of an additive model that was fitted to the device:
8 to 10 % on published runs (docs/estimate.md)."""


@dataclass(frozen=True, kw_only=True)
class Problem:
    """Runs to fit: ms[i] = sum_j terms[i, j] * exp(design[j] @ theta).

    ``terms`` (runs, terms) are amounts (MACs, bytes, operators), ``ms`` (runs,) the measured medians,
    ``design`` (terms, coefficients) which coefficients each term is made of and with which sign, and
    ``prior`` and ``sd`` (coefficients,) the mean and deviation of each coefficient's logarithm. Runs that
    are off by much more than ``noise`` (of the log) pull no harder than those that are off by it.
    """

    terms: Floats
    ms: Floats
    design: Floats
    prior: Floats
    sd: Floats
    noise: float = NOISE

    def __post_init__(self) -> None:
        runs, amounts = self.terms.shape
        if self.ms.shape != (runs,) or self.design.shape != (amounts, len(self.prior)):
            raise ValueError(f"shapes do not fit: {self.terms.shape}, {self.ms.shape}, {self.design.shape}")
        if self.sd.shape != self.prior.shape or (self.sd <= 0).any():
            raise ValueError("every coefficient needs a deviation above 0")
        if not (np.isfinite(self.ms).all() and (self.ms > 0).all()):
            raise ValueError("every run needs a time above 0")
        if (self.terms < 0).any() or (self.terms.sum(axis=1) == 0).any():
            raise ValueError("every run needs amounts of 0 or more, not all of them 0")

    def predict(self, theta: Floats) -> Floats:
        """Milliseconds of every run under coefficients whose logarithms are ``theta``."""
        return np.asarray(self.terms @ np.exp(self.design @ theta))

    def only(self, rows: NDArray[np.bool_]) -> Problem:
        """The problem with some of the runs."""
        return replace(self, terms=self.terms[rows], ms=self.ms[rows])


@dataclass(frozen=True, kw_only=True)
class Fit:
    """Logarithms of the coefficients, their covariance, and log(measured / predicted) of the runs."""

    theta: Floats
    covariance: Floats
    residuals: Floats


def fit(problem: Problem) -> Fit:
    """The most likely coefficients: log residuals under a soft L1 loss, their logs under a normal prior.

    Positive by construction. The loss bounds the pull of runs that something else slowed down; the prior
    is not softened. The covariance is the inverse of the Gauss-Newton Hessian at the solution.
    """
    from scipy.optimize import least_squares

    runs, target = len(problem.ms), np.log(problem.ms)

    def residuals(theta: Floats) -> Floats:
        data = (np.log(problem.predict(theta)) - target) / problem.noise
        return np.concatenate([data, (theta - problem.prior) / problem.sd])

    def jacobian(theta: Floats) -> Floats:
        parts = problem.terms * np.exp(problem.design @ theta)
        shares = parts / parts.sum(axis=1, keepdims=True)
        return np.concatenate([shares @ problem.design / problem.noise, np.diag(1 / problem.sd)])

    def loss(z: Floats) -> Floats:
        """(rho, rho', rho'') of squared residuals z: soft L1 for the runs, linear for the prior."""
        rho = np.stack([z, np.ones_like(z), np.zeros_like(z)])
        root = np.sqrt(1 + z[:runs])
        rho[:, :runs] = 2 * (root - 1), 1 / root, -0.5 * root**-3
        return rho

    found = least_squares(residuals, problem.prior, jac=jacobian, loss=loss)
    jac = jacobian(found.x)
    weights = np.concatenate([1 / np.sqrt(1 + residuals(found.x)[:runs] ** 2), np.ones(len(problem.prior))])
    covariance = np.linalg.inv(jac.T @ (jac * weights[:, None]))
    return Fit(
        theta=np.asarray(found.x),
        covariance=covariance,
        residuals=target - np.log(problem.predict(found.x)),
    )


def leave_out(problem: Problem, groups: Sequence[Any]) -> Floats:
    """log(measured / predicted) of every run, predicted from a fit without the runs of its own group.

    Raises ValueError for fewer than two groups.
    """
    names = np.asarray([str(g) for g in groups])
    if len(names) != len(problem.ms) or len(set(names)) < 2:
        raise ValueError("leaving out needs one group for each run and two groups at least")
    found = np.empty(len(names))
    for name in sorted(set(names)):
        held = names == name
        theta = fit(problem.only(~held)).theta
        found[held] = np.log(problem.ms[held]) - np.log(problem.only(held).predict(theta))
    return found
