"""Whether int8 pays, by the strongest evidence that there is."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from edgekit.build import verdict as verdicts
from edgekit.types import Measurement


def made(
    *,
    precision: str = "int8",
    changed: bool = False,
    drop: float = 0.25,
    size: int = 1000,
    source: str = "device",
    **medians: tuple[float, float],
) -> Any:
    """As much of a Made as a verdict looks at; ``medians`` are (float32, file) by metric."""
    found = [
        Measurement(metric=metric, unit="", source=source, median=value, subject=subject)
        for metric, pair in medians.items()
        for subject, value in zip(("baseline", "final"), pair, strict=True)
    ]
    return SimpleNamespace(
        final=SimpleNamespace(precision=precision, bytes=size),
        float_file=SimpleNamespace(bytes=3500),
        compressed=SimpleNamespace(changed=changed),
        measurements=found,
        scores={"accuracy": {"drop": drop}},
        inputs=SimpleNamespace(profile=SimpleNamespace(os=SimpleNamespace(abi="another"))),
    )


@pytest.fixture
def without_estimate(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verdicts, "_estimate", lambda *given: None)


@pytest.mark.parametrize(
    ("before", "after", "pays"), [(20.0, 10.0, "yes"), (10.0, 10.5, "measure"), (10.0, 20.0, "no")]
)
def test_measured_latency_decides(before: float, after: float, pays: str) -> None:
    found = verdicts.verdict_of(made(latency=(before, after)), None, None)  # type: ignore[arg-type]
    assert found is not None and found["pays"] == pays and found["basis"] == "measured latency"
    assert found["ratio"] == before / after and "0.25 points lost" in found["reason"]
    assert ("does not pay" in found["reason"]) is (pays == "no")


def test_instructions_alone_never_say_faster(without_estimate: None) -> None:
    fewer = verdicts.verdict_of(made(instructions=(2e6, 1e6)), None, None)  # type: ignore[arg-type]
    more = verdicts.verdict_of(made(instructions=(1e6, 2e6)), None, None)  # type: ignore[arg-type]
    assert fewer is not None and fewer["pays"] == "measure"
    assert more is not None and more["pays"] == "no"


def test_counts_of_an_unpruned_original_prove_nothing(without_estimate: None) -> None:
    pruned = made(instructions=(4e6, 1e6), changed=True)
    assert verdicts.verdict_of(pruned, None, None) is None  # type: ignore[arg-type]


def test_latency_of_a_host_of_another_kind_proves_nothing(without_estimate: None) -> None:
    target = SimpleNamespace(delegate="xnnpack")
    assert verdicts.verdict_of(made(source="host", latency=(20.0, 10.0)), None, target) is None  # type: ignore[arg-type]


def test_a_larger_file_is_not_called_smaller() -> None:
    found = verdicts.verdict_of(made(size=7000, drop=-0.5, latency=(10.0, 20.0)), None, None)  # type: ignore[arg-type]
    assert found is not None and "smaller" not in found["reason"]
    assert "2.00 times larger, 0.50 points gained" in found["reason"]


def test_float32_has_no_verdict() -> None:
    assert verdicts.verdict_of(made(precision="float32"), None, None) is None  # type: ignore[arg-type]


def test_a_build_for_a_profile_with_coefficients_has_one(tiny_build: Any) -> None:
    report = tiny_build.built.report
    found = report["verdict"]
    assert found["precision"] == "int8" and found["basis"] == "estimated latency"
    assert "90 %" in found["reason"] and "times smaller" in found["reason"]
    page = (tiny_build.built.folder / "report.html").read_text()
    assert 'class="verdict"' in page
