"""The whole protocol on a device that is played: what is run, in which order, and what is told of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgekit.bench import Series, SeriesPlan, bench_series
from edgekit.bench.benchmark_model import bench_with_binary
from edgekit.bench.series import fastest_cores, throttling_curve
from edgekit.devices import Battery, Conditions, RunResult
from edgekit.devices.fake import FakeLink
from edgekit.errors import DeviceError, Unsupported, UserError
from edgekit.store import Store
from edgekit.types import Artifact, DeviceCommand, TensorSpec

FACTS: dict[str, Any] = {
    "name": "phone",
    "arch": "aarch64",
    "emulated": False,
    "cores": 8,
    "governor": "schedutil",
    "programs": ["/system/bin/taskset"],
    "clusters": [
        {"max_mhz": 1800.0, "cpus": [0, 1, 2, 3]},
        {"max_mhz": 2200.0, "cpus": [4, 5, 6]},
        {"max_mhz": 2800.0, "cpus": [7]},
    ],
}
SAMPLES = Path(__file__).parents[1] / "backends" / "tflite" / "samples"


class Backend:
    """Sends nothing but a program that is told threads and runs."""

    def device_command(
        self, artifact: Any, inputs: Any, *, protocol: Any, per_op: bool, scratch: Path, **rest: Any
    ):
        (scratch / "program").write_bytes(b"")
        argv = ("program", str(protocol.warmup), str(protocol.runs), str(protocol.threads), str(per_op))
        return DeviceCommand(argv=argv, files={"program": scratch / "program"}, outputs=("out0.bin",))

    def parse(self, stdout: str, outputs: Any = None) -> Any:
        return json.loads(stdout)

    def read_outputs(self, artifact: Any, files: Any) -> list[np.ndarray]:
        return [np.frombuffer(raw, np.int8) for raw in files]


def runner(command: DeviceCommand, folder: Path) -> RunResult:
    """Takes 100 ms with one thread and less with more; the first run twice as long."""
    _, _, runs, threads, per_op = command.argv
    (folder / "out0.bin").write_bytes(b"\1\2\3")
    times = [100.0 / int(threads)] * int(runs)
    times[0] *= 2
    report = {"runs_ms": times, "load_ms": 5.0, "peak_rss_kb": 100}
    if per_op == "True":
        report["ops"] = [{"name": "Conv", "us": 80}]
    return RunResult(returncode=0, stdout=json.dumps(report), stderr="")


@pytest.fixture
def artifact(tmp_path: Path) -> Artifact:
    tensor = TensorSpec(name="x", shape=(1, 3), dtype="int8")
    (tmp_path / "m.tflite").write_bytes(b"model")
    return Artifact(
        sha256="0" * 64,
        format="tflite",
        precision="int8",
        path=tmp_path / "m.tflite",
        bytes=5,
        inputs=(tensor,),
        outputs=(tensor,),
    )


class Run:
    def __init__(self, artifact: Artifact, folder: Path) -> None:
        self.artifact, self.store = artifact, Store(folder / "store")
        self.slept: list[float] = []
        self.said: list[str] = []

    def __call__(
        self, play: Any = runner, *, source: str = "device", conditions: Any = (), **plan: Any
    ) -> Series:
        self.link = FakeLink(play, store=self.store, source=source, facts=FACTS, conditions=conditions)  # type: ignore[arg-type]
        return bench_series(
            Backend(),  # type: ignore[arg-type]
            self.artifact,
            [],
            self.link,
            store=self.store,
            plan=SeriesPlan(**plan),
            emit=lambda event: self.said.append(event.message),
            sleep=self.slept.append,
        )


@pytest.fixture
def run(artifact: Artifact, tmp_path: Path) -> Run:
    return Run(artifact, tmp_path)


def by(series: Series, metric: str) -> list[Any]:
    return [m for m in series.measurements if m.metric == metric]


def test_a_sweep_of_threads_with_pinned_cores(run: Run) -> None:
    done = run(threads=(1, 2, 4), runs=20, min_seconds=0.0, warmup=3)
    found = by(done, "latency")
    assert [(m.threads, m.median, m.n) for m in found] == [(1, 100, 20), (2, 50, 20), (4, 25, 20)]
    assert [m.detail["cores"] for m in found] == [[7], [6, 7], [4, 5, 6, 7]] or [
        m.detail["cores"] for m in found
    ] == [[7], [4, 7], [4, 5, 6, 7]]
    assert all(m.detail["governor"] == "schedutil" and m.device == FACTS for m in found)
    assert [m.median for m in by(done, "first_run")] == [200, 100, 50]
    assert [call.command.argv[1:3] for call in run.link.calls] == [("0", "6"), ("3", "20")] * 3
    assert run.link.calls[-1].command.cpus == (4, 5, 6, 7)
    assert done.outputs_sha256 == "039058c6f2c0cb492c533b0a4d14ef77cc0f78abccced5287d84a1a2011cfb81"


def test_at_least_so_much_time(run: Run) -> None:
    (latency,) = by(run(runs=5, min_seconds=2.0), "latency")
    assert latency.n == 20, "2 s of 100 ms each"
    assert latency.p90 == 100 and latency.detail["p99"] > 100


def test_it_cools_down_until_the_temperature_is_back(run: Run) -> None:
    hot = [Conditions(celsius=c) for c in (40, 40, 60, 55, 50, 41.5, 41.5, 60)]
    found = by(run(threads=(1, 2), runs=6, min_seconds=0.0, conditions=hot), "latency")
    assert [m.detail["cooled_down_s"] for m in found] == [0.0, 10.0]
    assert run.slept == [5.0, 5.0]
    assert found[0].detail["celsius"] == [40, 60]
    assert found[1].detail["celsius"][0] == 41.5


def test_it_does_not_wait_for_ever(run: Run) -> None:
    hot = [Conditions(celsius=40.0), Conditions(celsius=40.0), Conditions(celsius=70.0)]
    done = run(threads=(1, 2), runs=6, min_seconds=0.0, cool_down_s=20.0, conditions=hot)
    assert sum(run.slept) == 20 and by(done, "latency")[1].detail["cooled_down_s"] == 20
    assert any("still 70.0 °C" in text for text in run.said)


def test_the_battery_before_and_after(run: Run) -> None:
    full = Battery(percent=90.0, celsius=28.0, charging=False)
    now = [Conditions(battery=full), Conditions(battery=full), Conditions()]
    (latency,) = by(run(runs=6, min_seconds=0.0, conditions=now), "latency")
    assert latency.detail["battery"] == [{"percent": 90.0, "celsius": 28.0, "charging": False}, None]


def test_no_sensor_no_wait(run: Run) -> None:
    run(threads=(1, 2), runs=6, min_seconds=0.0)
    assert run.slept == []


def test_a_long_run_shows_how_it_slows_down(run: Run) -> None:
    def throttled(command: DeviceCommand, folder: Path) -> RunResult:
        (folder / "out0.bin").write_bytes(b"")
        runs = int(command.argv[2])
        times = [100.0 if i < runs / 2 else 200.0 for i in range(runs)] if runs > 20 else [100.0] * runs
        return RunResult(
            returncode=0, stdout=json.dumps({"runs_ms": times, "load_ms": 1, "peak_rss_kb": 1}), stderr=""
        )

    (found,) = by(run(throttled, runs=6, min_seconds=0.0, sustained_s=60.0), "sustained_latency")
    assert found.median == 200 and found.detail["slowdown"] == 2
    curve = found.detail["curve"]
    assert curve[0]["median_ms"] == 100 and curve[-1]["median_ms"] == 200
    assert curve[-1]["second"] == pytest.approx(90) and sum(p["n"] for p in curve) == 600
    assert found.detail["conditions"][0]["second"] == pytest.approx(0, abs=5)


def test_the_emulator_counts_only(run: Run) -> None:
    for plan in ({"threads": (1, 2)}, {"sustained_s": 60.0}, {"cpus": (0,)}):
        with pytest.raises(Unsupported, match="counts instructions of one thread"):
            run(source="emulator", **plan)


@pytest.mark.parametrize("bad", [-3.0, 0.0, float("nan")])
def test_a_clock_that_jumps_back(run: Run, bad: float) -> None:
    def jumping(command: DeviceCommand, folder: Path) -> RunResult:
        result = runner(command, folder)
        report = json.loads(result.stdout)
        report["runs_ms"][2] = bad
        return RunResult(returncode=0, stdout=json.dumps(report), stderr="")

    with pytest.raises(DeviceError, match="clock jumped"):
        run(jumping, min_seconds=0.0)


def test_a_clock_that_jumps_ahead(run: Run) -> None:
    def jumping(command: DeviceCommand, folder: Path) -> RunResult:
        result = runner(command, folder)
        return RunResult(returncode=0, stdout=result.stdout, stderr="", seconds=0.1)

    with pytest.raises(DeviceError, match="the clock there jumped or runs fast"):
        run(jumping, min_seconds=0.0)


def test_cores_that_are_not_there(run: Run) -> None:
    with pytest.raises(DeviceError, match="has cores 0 to 7, not 9"):
        run(cpus=(4, 9))


def test_equal_cores_are_left_to_the_scheduler() -> None:
    assert fastest_cores({**FACTS, "clusters": FACTS["clusters"][:1]}, 2) == ()
    assert fastest_cores({**FACTS, "programs": []}, 2) == ()
    assert fastest_cores({}, 1) == ()
    assert fastest_cores(FACTS, 9) == ()


def test_the_curve_has_equal_parts_of_the_time() -> None:
    curve = throttling_curve([10.0] * 100 + [30.0] * 100, points=4)
    assert [p["n"] for p in curve] == [99, 33, 34, 34] or sum(p["n"] for p in curve) == 200
    assert [p["median_ms"] for p in curve] == [10, 30, 30, 30]
    assert throttling_curve([5.0]) == [{"second": 0.005, "median_ms": 5.0, "n": 1}]


class TestTheUsersOwnBinary:
    """benchmark_model, played with what real versions print."""

    def run(
        self, artifact: Artifact, folder: Path, said: str, delegate: str, helped: str = "", **plan: Any
    ) -> Series:
        def program(command: DeviceCommand, where: Path) -> RunResult:
            shown = helped or "--graph --use_xnnpack --use_nnapi"
            return RunResult(returncode=0, stdout=shown if "--help" in command.argv else said, stderr="")

        (folder / "binary").write_bytes(b"#!binary")
        link = FakeLink(program, store=Store(folder / "store"), facts=FACTS)
        return bench_with_binary(folder / "binary", delegate, artifact, link, plan=SeriesPlan(**plan))

    def test_it_reports_what_is_printed_and_no_more(self, artifact: Artifact, tmp_path: Path) -> None:
        said = (SAMPLES / "benchmark_model_stdout_2.19.txt").read_text()
        done = self.run(artifact, tmp_path, said, "xnnpack", threads=(4,))
        (latency,) = by(done, "latency")
        assert (latency.median, latency.n, latency.samples, latency.p90) == (8.022, 124, (), None)
        assert latency.detail["delegate"] == "xnnpack" and latency.detail["p95"] == 8.477
        assert by(done, "mean_latency")[0].median == 8.0661
        assert by(done, "peak_memory")[0].median == 21.4 * 2**20
        assert done.outputs_sha256 is None

    def test_a_fallback_is_an_error(self, artifact: Artifact, tmp_path: Path) -> None:
        said = (SAMPLES / "benchmark_model_stdout_2.19.txt").read_text()
        said = "INFO: Replacing 5 out of 9 node(s) with delegate (TfLiteGpuDelegateV2) node\n" + said
        with pytest.raises(DeviceError, match="took 5 of 9 operators"):
            self.run(artifact, tmp_path, said, "gpu")

    def test_another_program(self, artifact: Artifact, tmp_path: Path) -> None:
        with pytest.raises(UserError, match="no benchmark program"):
            self.run(artifact, tmp_path, "", "gpu", helped="usage: ls")
