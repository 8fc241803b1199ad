"""Numbers as people read them."""

from __future__ import annotations

import pytest

from edgekit.report import formats


@pytest.mark.parametrize(
    ("before", "after", "text"),
    [
        (1_091_468, 305_656, ("1,091 kB", "305.7 kB")),
        (14_000_000, 3_900_000, ("14.00 MB", "3.90 MB")),
        (900, 420, ("900 B", "420 B")),
        (None, 2_500, (formats.NOT_MEASURED, "2.50 kB")),
    ],
)
def test_before_and_after_share_a_unit(before: int | None, after: int, text: tuple[str, str]) -> None:
    scale = formats.pair_scale(before, after, "B")
    assert (scale.text(before), scale.text(after)) == text


def test_small_figures_never_read_as_zero_and_zero_does() -> None:
    scale = formats.scale_for([2_360_000, 640], "")
    assert scale.number(640, 2) == "<0.01"
    assert scale.number(0, 2) == "0"
    assert scale.number(None, 2) == formats.NOT_MEASURED
    assert formats.seconds(0.001) == "<0.01"


@pytest.mark.parametrize(
    ("before", "after", "text"),
    [
        (400, 100, "4.00× smaller"),
        (100, 119, "1.19× larger"),
        (100, 100, "unchanged"),
        (1000, 999, "0.1 % smaller"),
        (None, 1, None),
        (0, 1, None),
    ],
)
def test_change(before: int | None, after: int, text: str | None) -> None:
    assert formats.change(before, after, less="smaller", more="larger") == text


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (0.2, "points", "0.20 points"),
        (-0.4, "points", "\u22120.40 points"),
        (30.512, "dB", "30.5 dB"),
        (98.8234, "%", "98.82 %"),
        (305_656, "bytes", "305.7 kB"),
        (0.18632, "ms", "0.1863 ms"),
        (None, "ms", "not measured"),
        (0, "steps", "0 steps"),
        (2.1e-6, "", "2.100e-06"),
    ],
)
def test_with_unit(value: float | None, unit: str, text: str) -> None:
    assert formats.with_unit(value, unit) == text
