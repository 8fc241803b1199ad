"""The profile that a calibration writes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from edgekit.calibrate import Job, conditions, time_jobs, write_profile
from edgekit.calibrate.writing import runtime_name
from edgekit.errors import UserError
from edgekit.measure.estimate import estimate_latency
from edgekit.measure.estimate.calibration import calibrate
from edgekit.profiles import lint, load_profile
from edgekit.profiles.schema import DeviceProfile
from edgekit.store import Store

Write = Callable[..., DeviceProfile]


@pytest.fixture
def write(jobs: list[Job], backend: Any, device: Callable[..., Any], tmp_path: Path) -> Write:
    """Calibrate profile ``base`` with the models ``names`` (all) and write ``out``."""

    def run(
        out: Path, base: str = "pi4", names: tuple[str, ...] = (), networks: tuple[str, ...] = ()
    ) -> DeviceProfile:
        profile = load_profile(base)
        assert profile.estimate is not None
        some = [replace(j, network=j.name in networks) for j in jobs if not names or j.name in names]
        how: dict[str, Any] = {
            "tile": profile.estimate.tile,
            "threads": (1, 4),
            "store": Store(tmp_path / "s"),
        }
        timed = time_jobs(backend, some, device(), **how)
        target = profile.targets[0]
        runtime = runtime_name(target, {"ai-edge-litert": "2.3.0"})
        return write_profile(
            out,
            base,
            profile,
            target,
            calibrate(timed.points, profile),
            timed.points,
            runtime=runtime,
            state=conditions(timed.device, runtime),
        )

    return run


def test_it_extends_the_old_one_and_predicts_the_device(
    write: Write, jobs: list[Job], truth: Any, tmp_path: Path
) -> None:
    made = write(tmp_path / "my-board.toml")
    assert (made.id, made.extends, made.soc) == ("my_board", "pi4", "BCM2711")
    assert lint(made) == []
    model = made.estimate
    assert model is not None and model.calibration == "measured" and model.n_points == 10
    assert model.macs_per_cycle.fp32 * model.efficiency == pytest.approx(truth.fp32, rel=0.1)
    assert model.runtime == "tflite (ai-edge-litert 2.3.0) with xnnpack"
    assert "governor performance" in model.conditions and "not told: clock_ghz" in model.conditions
    assert model.interval_log is None and len(model.covariance) == 6
    (dense,) = (job for job in jobs if job.name == "dense float32")
    found = estimate_latency(made, made.targets[0], dense.units, threads=4)
    assert found is not None and found.basis == "measured n=10"
    assert found.ms == pytest.approx(5.0 + 32768 / 4e6 + 0.01, rel=0.1), "60 MMAC on 4 cores at 1.5 x 2"
    assert list(tmp_path.glob(".*")) == []


def test_it_is_for_the_runtime_that_was_run(write: Write, jobs: list[Job], tmp_path: Path) -> None:
    made = write(tmp_path / "board.toml")
    other = made.target("executorch")
    assert other is not None and estimate_latency(made, other, jobs[0].units) is None


def test_what_was_not_run_is_said(write: Write, tmp_path: Path) -> None:
    made = write(tmp_path / "board.toml", names=("dense float32", "add"))
    assert made.estimate is not None and made.estimate.interval_log is None
    assert made.estimate.macs_per_cycle.int8 == pytest.approx(7.4 * 0.75, rel=1e-3)
    assert made.estimate.depthwise.int8 == 1.0
    assert "not run and therefore as before: int8, depthwise fp32, depthwise int8" in made.sources["estimate"]


def test_networks_that_are_far_off_widen_the_interval(write: Write, tmp_path: Path) -> None:
    """Left out, the only runs that tell of the memory are predicted from the data sheet, a third too fast."""
    near = write(tmp_path / "near.toml").estimate
    far = write(tmp_path / "far.toml", networks=("add",)).estimate
    assert near is not None and far is not None
    assert near.sigma.known == 0.20 and far.sigma.known > 0.30
    assert far.sigma.int8 == max(0.27, far.sigma.known)
    assert "mean error on networks left out" in far.validated_on


def test_a_profile_of_the_users_own_is_extended_by_path(write: Write, tmp_path: Path) -> None:
    boards = tmp_path / "boards"
    boards.mkdir()
    own = boards / "lab.toml"
    own.write_text('id = "lab"\nextends = "pi4"\ntitle = "Lab board"\n')
    made = write(tmp_path / "lab_measured.toml", base=str(own))
    assert made.extends == "boards/lab.toml" and made.title == "Lab board, calibrated"
    twice = write(boards / "again.toml", base=str(tmp_path / "lab_measured.toml"))
    assert twice.estimate is not None and made.estimate is not None
    assert twice.estimate.macs_per_cycle.fp32 == pytest.approx(made.estimate.macs_per_cycle.fp32, rel=0.05)


@pytest.mark.parametrize(
    ("name", "says"),
    [("board.txt", "end in .toml"), ("there.toml", "there already"), ("no/x.toml", "no folder")],
)
def test_a_place_that_cannot_be_written_is_refused(
    name: str, says: str, write: Write, tmp_path: Path
) -> None:
    kept = tmp_path / "there.toml"
    kept.write_text("kept")
    with pytest.raises(UserError, match=says):
        write(tmp_path / name)
    assert kept.read_text() == "kept" and not (tmp_path / "no").exists()
