"""A mean error is corrected as far as it stands out from its own uncertainty."""

from __future__ import annotations

import numpy as np
import pytest

from edgekit.backends.mean_errors import correction


def test_a_sure_error_is_corrected_whole_and_noise_is_not() -> None:
    rng = np.random.default_rng(0)
    errors = rng.normal([0.0, 1.0, 0.0, -3.0], [1.0, 0.01, 0.0, 0.0], (32, 4))
    found = correction(list(errors))
    assert abs(found[0]) < abs(errors[:, 0].mean())
    assert found[1] == pytest.approx(1.0, abs=0.01) and found[2:].tolist() == [0.0, -3.0]


def test_shrinking_pays_over_many_channels() -> None:
    """Errors as SE gates have them: one value for each sample, means about as large as their uncertainty."""
    rng = np.random.default_rng(1)
    true = rng.normal(0, 0.1, 1000)
    errors = true + rng.normal(0, 1, (32, 1000))
    left = np.mean((correction(list(errors)) - true) ** 2)
    assert left < np.mean((errors.mean(0) - true) ** 2) * 0.7


def test_one_sample_tells_nothing() -> None:
    assert correction([np.array([5.0, -5.0])]).tolist() == [0.0, 0.0]
