"""What one measurement tells, for each kind of link; the emulator itself is in tests/e2e."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgekit.bench import Bench, bench
from edgekit.devices import RunResult
from edgekit.devices.fake import FakeLink
from edgekit.errors import DeviceError
from edgekit.types import DeviceCommand, Measurement, RunProtocol

OPS = [{"name": "CONV", "us": 700}, {"name": "Add (ND)", "us": 30}]
TIMES = [3.0, 1.0, 2.0, 10.0, 2.0, 2.0, 2.0, 2.0]


class FakeBackend:
    """Sends its inputs with a program of its own and reads float32 outputs."""

    def device_command(
        self, artifact: Any, inputs: Any, *, protocol: RunProtocol, per_op: bool, scratch: Path, **rest: Any
    ) -> DeviceCommand:
        (scratch / "in0.bin").write_bytes(inputs[0].tobytes())
        program = scratch / "program"
        program.write_bytes(b"")
        argv = ("program", str(protocol.runs), "-p" if per_op else "-")
        outputs = ("out0.bin", "profile.json") if per_op else ("out0.bin",)
        return DeviceCommand(
            argv=argv, files={"program": program, "in0.bin": scratch / "in0.bin"}, outputs=outputs
        )

    def parse(self, stdout: str, outputs: Mapping[str, bytes] | None = None) -> Mapping[str, Any]:
        """The profile is a file that the runner writes, as with ExecuTorch's ETDump."""
        report = dict(json.loads(stdout))
        if outputs and "profile.json" in outputs:
            report["ops"] = json.loads(outputs["profile.json"])
        return report

    def read_outputs(self, artifact: Any, files: Any) -> list[np.ndarray]:
        return [np.frombuffer(raw, np.float32) for raw in files]


@pytest.fixture
def run(tmp_path: Path) -> Callable[..., tuple[Bench, FakeLink]]:
    from edgekit.store import Store
    from edgekit.types import Artifact, TensorSpec

    tensor = TensorSpec(name="x", shape=(1, 4), dtype="float32")
    artifact = Artifact(
        sha256="0" * 64,
        format="tflite",
        precision="float32",
        path=tmp_path,
        bytes=1,
        inputs=(tensor,),
        outputs=(tensor,),
    )
    store = Store(tmp_path / "store")

    def make(play: Any, source: str = "device", **options: Any) -> tuple[Bench, FakeLink]:
        link = FakeLink(play, store=store, source=source)  # type: ignore[arg-type]
        protocol = RunProtocol(warmup=2, runs=len(TIMES), threads=3)
        x = np.arange(4, dtype=np.float32)[None]
        done = bench(FakeBackend(), artifact, [x], link, store=store, protocol=protocol, **options)  # type: ignore[arg-type]
        return done, link

    return make


def answer(command: DeviceCommand, folder: Path, **rest: Any) -> RunResult:
    """Doubles the input, as the program of the backend would."""
    values = np.frombuffer((folder / "in0.bin").read_bytes(), np.float32) * 2
    (folder / "out0.bin").write_bytes(values.tobytes())
    if "profile.json" in command.outputs:
        (folder / "profile.json").write_text(json.dumps(OPS))
    report = {"runs_ms": TIMES, "load_ms": 5.0, "peak_rss_kb": 2000}
    return RunResult(returncode=0, stdout=json.dumps(report), stderr="", **rest)


def counted(command: DeviceCommand, folder: Path) -> RunResult:
    regions = tuple(
        {
            "region": i,
            "threads": 1,
            "insns": n,
            "simd": 60,
            "load": n - 60,
            "l1d_accesses": 50,
            "l1d_misses": 7 + i,
        }
        for i, n in enumerate((100, 110))
    )
    return answer(command, folder, regions=regions)


def by_metric(done: Bench) -> dict[str, Measurement]:
    return {m.metric: m for m in done.measurements}


def test_a_device_gives_times_with_their_spread(run: Callable[..., Any]) -> None:
    done, link = run(answer, subject="baseline")
    found = by_metric(done)
    assert set(found) == {"latency", "load_time", "peak_memory"}
    latency = found["latency"]
    assert (latency.median, latency.n, latency.samples) == (2.0, 8, tuple(TIMES))
    assert latency.ci95 is not None and latency.ci95[0] <= 2.0 <= latency.ci95[1] and latency.p90 is not None
    assert (latency.unit, latency.source, latency.subject) == ("ms", "device", "baseline")
    assert (latency.threads, latency.warmup, latency.device) == (3, 2, link.facts())
    assert found["load_time"].median == 5.0 and found["peak_memory"].median == 2000 * 1024
    assert done.outputs[0].tolist() == [0, 2, 4, 6]
    (call,) = link.calls
    assert (call.count, call.caches, call.per_op) == (False, False, False)


def test_an_emulator_gives_counts_and_no_time(run: Callable[..., Any]) -> None:
    done, link = run(counted, "emulator", caches=True)
    found = by_metric(done)
    assert found["latency"].median is None and found["latency"].samples == ()
    assert "load_time" not in found
    instructions = found["instructions"]
    assert (instructions.median, instructions.samples) == (105.0, (100.0, 110.0))
    assert instructions.detail == {"classes": {"simd": 60, "load": 50}}
    assert found["l1d_misses"].samples == (7.0, 8.0) and found["l1d_misses"].detail == {"modelled": True}
    assert found["peak_memory"].detail["includes"] == "the emulator itself"
    (call,) = link.calls
    assert (call.count, call.caches) == (True, True)


def test_instructions_by_operator_are_a_run_of_their_own(run: Callable[..., Any]) -> None:
    done, link = run(counted, "emulator", per_op=True)
    ops = by_metric(done)["instructions"].detail["ops"]
    assert [(o["name"], o["instructions"]) for o in ops] == [("CONV", 700.0), ("Add (ND)", 30.0)]
    assert [c.per_op for c in link.calls] == [False, True]
    assert link.calls[1].command.argv[1:] == ("1", "-p"), "once is enough, and with the profiler"


def test_times_by_operator_come_from_a_run_of_their_own_too(run: Callable[..., Any]) -> None:
    done, link = run(answer, per_op=True)
    latency = by_metric(done)["latency"]
    assert [(o["name"], o["op"], o["us"]) for o in latency.detail["ops"]] == [
        ("CONV", None, 700.0),
        ("Add (ND)", None, 30.0),
    ]
    assert latency.samples == tuple(TIMES), "the profiled run is not among the timed ones"
    first, second = (c.command.argv[1:] for c in link.calls)
    assert (first, second) == ((str(len(TIMES)), "-"), ("1", "-p"))
    assert not any(c.per_op for c in link.calls), "the clock of a device ticks in microseconds"


@pytest.mark.parametrize("source", ["device", "host"])
def test_a_runtime_without_profile_is_not_passed_over(run: Callable[..., Any], source: str) -> None:
    def without(command: DeviceCommand, folder: Path) -> RunResult:
        done = answer(command, folder)
        if "profile.json" in command.outputs:
            (folder / "profile.json").write_text("[]")
        return done

    with pytest.raises(DeviceError, match="the tflite runtime gave no profile by operator on fake"):
        run(without, source, per_op=True)


def test_a_program_that_fails_is_a_device_error(run: Callable[..., Any]) -> None:
    def fail(command: DeviceCommand, folder: Path) -> RunResult:
        return RunResult(returncode=4, stdout="", stderr="line one\nno such kernel\n\n")

    with pytest.raises(DeviceError, match="the tflite file does not run on fake: no such kernel"):
        run(fail)


def test_an_emulator_that_counts_nothing_is_a_device_error(run: Callable[..., Any]) -> None:
    with pytest.raises(DeviceError, match="counted no inference"):
        run(answer, "emulator")
