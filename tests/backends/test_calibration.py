"""The shared part of calibration: what is seen of tensors, and the ranges made of that."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

from edgekit.backends import calibration
from edgekit.backends.calibration_choice import choose, compare, quantize_best, some
from edgekit.errors import DataError
from edgekit.types import ignore_events


def observed(values: Any) -> calibration.Observed:
    return calibration.observe(lambda s: [("t", s[0])], [[[np.asarray(values, dtype=np.float32)]]])[0]["t"]


def rounding_error(values: Any, top: float, levels: int) -> float:
    scale = 2 * top / levels
    return float(((np.clip(np.rint(values / scale), -127, 127) * scale - values) ** 2).sum())


def test_the_symmetric_range_beats_the_true_extremes_and_others() -> None:
    rng = np.random.default_rng(0)
    values = rng.standard_normal(20_000).astype(np.float32)
    values[0] = 40.0
    low, high = calibration.symmetric_mse_range(observed(values))
    assert low == -high and high < 40
    best = rounding_error(values, high, 254)
    assert best <= min(rounding_error(values, t, 254) for t in np.linspace(1, 40, 50)) * 1.1
    assert calibration.mse_ranges({"t": observed(values)}, symmetric=True) == {"t": (low, high)}


@pytest.mark.parametrize("value", [0.0, -2.5, 3.0])
def test_a_constant_tensor_has_a_range(value: float) -> None:
    low, high = calibration.symmetric_mse_range(observed(np.full(5, value)))
    assert low == -high and high >= abs(value) * (1 if value > 0 else 0)
    if value:
        assert high >= abs(value)


def test_more_levels_clip_less() -> None:
    values = np.random.default_rng(1).standard_normal(20_000) ** 3
    few, many = (calibration.mse_range(observed(values), levels=n)[1] for n in (256, 65536))
    assert few < many


def test_values_that_are_not_finite_name_tensor_and_sample() -> None:
    with pytest.raises(DataError, match="sample 0 makes 't'"):
        observed([1.0, np.inf])


def test_outputs_that_are_not_finite_lose_every_comparison() -> None:
    want = [np.ones((1, 3))]
    assert compare(want, [np.full((1, 3), np.nan)])[0] < compare(want, [np.zeros((1, 3))])[0]


@pytest.mark.parametrize(
    ("agreements", "chosen"),
    [
        ((100.0, 96.25), "quiet"),
        ((100.0, 95.0), "quiet"),
        ((100.0, 93.75), "agreeing"),
        ((70.0, 62.0), "quiet"),
    ],
)
def test_agreement_counts_where_chance_does_not_explain_it(
    agreements: tuple[float, float], chosen: str
) -> None:
    """Of 80 samples: 3, 4 and 5 that disagree, and 6 where 24 disagree anyway."""
    file: Any = None
    tried = [(agreements[0], 28.0, "agreeing", file), (agreements[1], 30.0, "quiet", file)]
    assert choose(tried, 80)[2] == chosen


def test_correction_samples_are_spread_over_all() -> None:
    for count in (1, 5, 32, 63, 127, 1000):
        found = [int(sample[0][0]) for sample in some([[np.array([i])] for i in range(count)])]
        assert len(found) == min(32, count) and found == sorted(set(found))
        assert count - found[-1] <= max(1, -(-count // 32))


@dataclass(frozen=True)
class _File:
    """A file in name only: its digest, and by how much each of its outputs is off."""

    sha256: str
    error: float
    meta: Any = field(default_factory=dict)


def _best(count: int, correct: Any) -> Any:
    file: Any = _File("float", 0.0)
    plain: Any = _File("plain", 0.1)
    return quantize_best(
        file,
        [[np.array([1.0 + i])] for i in range(count)],
        {"minmax": calibration.minmax_ranges},
        read=lambda sample: [("x", sample[0])],
        write=lambda ranges: plain,
        run=lambda made, samples: [np.array([[s[0][0] + made.error] for s in samples])],
        refit=True,
        emit=ignore_events,
        correct=correct,
    )


@pytest.mark.parametrize(
    ("count", "sha256", "error", "names", "chosen"),
    [
        pytest.param(10, "mended", 0.01, ["minmax", "minmax+bias"], "mended", id="better"),
        pytest.param(10, "mended", 0.5, ["minmax", "minmax+bias"], "plain", id="worse"),
        pytest.param(10, "plain", 0.1, ["minmax"], "plain", id="nothing to correct"),
        pytest.param(4, "mended", 0.01, ["minmax"], "plain", id="nothing held back to judge it by"),
    ],
)
def test_corrected_biases_are_taken_where_they_measure_better(
    count: int, sha256: str, error: float, names: list[str], chosen: str
) -> None:
    seen: list[int] = []

    def correct(made: Any, ranges: Any, samples: Any) -> Any:
        assert made.sha256 == "plain" and set(ranges) == {"x"}
        seen.append(len(samples))
        return _File(sha256, error)

    best = _best(count, correct)
    assert best.sha256 == chosen
    assert [c["name"] for c in best.meta["calibration"]["candidates"]] == names
    assert seen == ([8, 10] if chosen == "mended" else [8] if count == 10 else [])
