"""Coefficients from runs: known ones come back, outliers and silence do not mislead."""

from __future__ import annotations

import numpy as np
import pytest

from edgekit.measure.estimate.fit import Fit, Problem, fit, leave_out

TRUE = np.log([2.0, 0.5, 8.0])


def problem(*, runs: int = 40, noise: float = 0.0, seed: int = 0) -> Problem:
    rng = np.random.default_rng(seed)
    terms = rng.uniform(0.1, 10, size=(runs, 3)) * (rng.random((runs, 3)) < 0.7)
    terms[:, 0] += 0.1
    design = np.diag([1.0, 1.0, -1.0])
    ms = terms @ np.exp(design @ TRUE) * np.exp(noise * rng.standard_normal(runs))
    return Problem(
        terms=terms, ms=ms, design=design, prior=TRUE + np.asarray([0.3, -0.3, 0.3]), sd=np.full(3, 1.0)
    )


def far(found: Fit) -> float:
    return float(np.abs(found.theta - TRUE).max())


def test_exact_runs_give_the_coefficients_back() -> None:
    found = fit(problem())
    assert far(found) < 0.01
    assert np.abs(found.residuals).max() < 0.01


def test_a_few_slow_runs_do_not_pull_the_rest() -> None:
    clean = problem(noise=0.02)
    ms = clean.ms.copy()
    ms[:4] *= 3
    slowed = Problem(terms=clean.terms, ms=ms, design=clean.design, prior=clean.prior, sd=clean.sd)
    found = fit(slowed)
    assert far(found) < 0.1
    assert found.residuals[:4].min() > 0.9


def test_without_runs_that_use_it_a_coefficient_keeps_its_prior_and_its_doubt() -> None:
    full = problem()
    terms = full.terms.copy()
    terms[:, 1] = 0
    ms = terms @ np.exp(full.design @ TRUE)
    found = fit(Problem(terms=terms, ms=ms, design=full.design, prior=full.prior, sd=full.sd))
    assert found.theta[1] == pytest.approx(full.prior[1])
    assert found.covariance[1, 1] == pytest.approx(1.0)
    assert found.covariance[0, 0] < 0.01


def test_the_covariance_covers_the_error() -> None:
    """Over repeated noise, the error is about as large as the covariance says."""
    scaled = []
    for seed in range(30):
        found = fit(problem(noise=0.1, seed=seed))
        scaled.append((found.theta - TRUE) / np.sqrt(np.diag(found.covariance)))
    assert 0.5 < float(np.std(scaled)) < 1.6


def test_leaving_out_predicts_what_was_not_seen() -> None:
    clean = problem(noise=0.05)
    groups = np.arange(len(clean.ms)) // 4
    outside = leave_out(clean, groups.tolist())
    assert 0.02 < float(np.abs(outside).mean()) < 0.15
    moved = clean.ms.copy()
    moved[:4] *= 2
    changed = leave_out(
        Problem(terms=clean.terms, ms=moved, design=clean.design, prior=clean.prior, sd=clean.sd),
        groups.tolist(),
    )
    assert changed[:4] == pytest.approx(outside[:4] + np.log(2))
    with pytest.raises(ValueError, match="two groups"):
        leave_out(clean, [0] * len(clean.ms))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"ms": np.zeros(40)}, "time above 0"),
        ({"sd": np.zeros(3)}, "deviation above 0"),
        ({"terms": np.zeros((40, 3))}, "not all of them 0"),
        ({"design": np.eye(2)}, "shapes do not fit"),
    ],
)
def test_what_cannot_be_fitted_is_refused(change: dict[str, np.ndarray], says: str) -> None:
    good = problem()
    parts = {name: getattr(good, name) for name in ("terms", "ms", "design", "prior", "sd")}
    with pytest.raises(ValueError, match=says):
        Problem(**{**parts, **change})
