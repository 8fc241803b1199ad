"""Trained ranges find their tensors by what the float model shows there."""

from __future__ import annotations

import numpy as np

from edgekit.backends import trained_ranges
from edgekit.backends.calibration import BINS, Observed, minmax_ranges


def _seen(lo: float, hi: float) -> Observed:
    return Observed(lo, hi, (lo, hi), np.ones(BINS), (lo, hi), 1)


def test_tensors_are_found_by_their_extremes() -> None:
    observed = {
        "a": _seen(0.0, 3.00001),
        "b": _seen(-1.0, 2.0),
        "other": _seen(0.0, 2.9),
        "flat": _seen(0.0, 0.0),
    }
    rows = [(0.0, 3.0, 0.0, 2.5), (-1.0, 2.0, -1.5, 1.5)]
    found = trained_ranges.find(observed, rows)
    assert found == {"a": (0.0, 2.5), "b": (-1.5, 1.5)}
    given = trained_ranges.given(observed, found)
    assert minmax_ranges(given) == {
        "a": (0.0, 2.5),
        "b": (-1.5, 1.5),
        "other": (0.0, 2.9),
        "flat": (0.0, 0.0),
    }
    assert given["other"] is observed["other"]


def test_nothing_is_found_without_rows() -> None:
    assert trained_ranges.find({"a": _seen(0.0, 1.0)}, []) == {}
