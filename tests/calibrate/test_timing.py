"""Timed runs: what repeats is kept, what does not is said."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edgekit.calibrate import Job, thread_counts, time_jobs
from edgekit.calibrate.timing import REPEATS, Timed
from edgekit.devices.fake import FakeLink
from edgekit.errors import DeviceError, Unsupported
from edgekit.measure.estimate.calibration import calibrate
from edgekit.profiles.loader import load_profile
from edgekit.store import Store

Device = Callable[..., FakeLink]


@pytest.fixture
def timed(jobs: list[Job], backend: Any, tmp_path: Path) -> Callable[..., Timed]:
    def run(link: FakeLink, **options: Any) -> Timed:
        estimate = load_profile("pi4").estimate
        assert estimate is not None
        how = {"tile": estimate.tile, "threads": (1, 4), "store": Store(tmp_path / "store"), **options}
        return time_jobs(backend, jobs, link, **how)

    return run


def test_the_coefficients_of_the_device_are_found(
    timed: Callable[..., Timed], device: Device, truth: Any
) -> None:
    """From a link to coefficients: the device is slower than the profile says in every respect."""
    done = timed(device())
    assert len(done.points) == 10 and done.rejected == ()
    found = calibrate(done.points, load_profile("pi4"))
    assert found.fp32 == pytest.approx(truth.fp32, rel=0.1)
    assert found.int8 == pytest.approx(truth.int8, rel=0.1)
    assert found.copy_gb_s == pytest.approx(truth.copy_gb_s, rel=0.1)
    assert found.op_us == pytest.approx(truth.op_us, rel=0.1)
    assert found.depthwise_fp32 == pytest.approx(truth.depthwise, rel=0.25)


def test_each_model_is_started_anew_and_run_often(timed: Callable[..., Timed], device: Device) -> None:
    link = device()
    timed(link, runs=5)
    assert len(link.calls) == 10 * REPEATS
    assert {call.command.argv[3] for call in link.calls} == {"20"}, "fewer than 20 runs are not asked for"
    assert not any(call.count or call.per_op for call in link.calls)


def test_the_middle_start_counts(timed: Callable[..., Timed], device: Device) -> None:
    steady, slow_start = timed(device()), timed(device(lambda model, start: 1.04 if start == 0 else 1.0))
    assert [p.ms for p in slow_start.points] == pytest.approx([p.ms for p in steady.points])
    assert slow_start.points[0].spread == pytest.approx(0.04)


def test_what_does_not_repeat_is_not_used(timed: Callable[..., Timed], device: Device) -> None:
    def noisy(model: str, start: int) -> float:
        return 1.2 if model == "add" and start == 1 else 1.0

    done = timed(device(noisy))
    assert {(r.model, r.threads) for r in done.rejected} == {("add", 1), ("add", 4)}
    assert done.rejected[0].spread == pytest.approx(0.2)
    assert "add" not in {p.model for p in done.points}
    assert len(timed(device(noisy), max_spread=0.25).points) == 10


def test_a_restless_device_is_refused(timed: Callable[..., Timed], device: Device) -> None:
    with pytest.raises(DeviceError, match=r"do not repeat: 10 of 10 .* the worst by 30 %") as caught:
        timed(device(lambda model, start: 0.85 + 0.15 * start))
    assert "governor" in (caught.value.hint or "")


def test_an_emulator_has_no_times(timed: Callable[..., Timed], device: Device) -> None:
    link = device(source="emulator")
    with pytest.raises(Unsupported, match="no milliseconds"):
        timed(link)
    assert link.calls == []


def test_threads_are_one_and_all_that_there_are(device: Device) -> None:
    assert thread_counts(load_profile("pi4"), device()) == (1, 4)
    few = FakeLink([], store=Store(), facts={"cores": 2})
    assert thread_counts(load_profile("pi4"), few) == (1, 2)
    one = FakeLink([], store=Store(), facts={"cores": 1})
    assert thread_counts(load_profile("pi4"), one) == (1,)
