"""A .tflite file where edgekit's own runner cannot be had: the Python of the machine runs it."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from boards.sshd import Sshd

from edgekit.backends.tflite import running
from edgekit.bench import Bench, SeriesPlan, bench, bench_series
from edgekit.devices import Link, open_link
from edgekit.devices.emulator.link import EmulatorLink
from edgekit.devices.local import LocalLink
from edgekit.errors import MissingDependency, Unsupported
from edgekit.native import build
from edgekit.native.litert_library import litert_version
from edgekit.profiles.loader import load_profile
from edgekit.types import Artifact, DeviceCommand, RunProtocol

PROTOCOL = RunProtocol(warmup=1, runs=6, threads=1)


@pytest.fixture
def no_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    """This machine has no compiler for itself and for arm64, and no ziglang."""
    which = shutil.which
    lost = ("cc", "gcc", "aarch64-linux-gnu-gcc")
    monkeypatch.setattr(build.shutil, "which", lambda name, *a, **k: None if name in lost else which(name))
    monkeypatch.setattr(build, "_zig", lambda: None)


@pytest.fixture
def measure(tiny: Any, int8_file: Artifact) -> Callable[..., Bench]:
    """Runs the int8 file on one sample over a link, by default the local one."""

    def call(link: Link | None = None, **options: Any) -> Bench:
        encoded = tiny.backend.session(int8_file).encode(tiny.samples[0])
        link = link or LocalLink(tiny.store)
        options = {"store": tiny.store, "protocol": PROTOCOL, **options}
        return bench(tiny.backend, int8_file, encoded, link, **options)

    return call


def host_with_arch(store: Any, arch: str) -> LocalLink:
    link = LocalLink(store)
    link.arch = arch
    return link


def test_a_32_bit_machine_gives_the_same_figures_and_outputs(
    measure: Callable[..., Bench], tiny: Any, require_tools: Callable[..., None]
) -> None:
    require_tools("cc")
    own = measure()
    done = measure(host_with_arch(tiny.store, "armv7l"))
    assert [np.array_equal(a, b) for a, b in zip(own.outputs, done.outputs, strict=True)] == [True]
    assert [m.metric for m in done.measurements] == [m.metric for m in own.measurements]
    for m in done.measurements:
        assert m.median is not None and m.median > 0
        assert m.detail["python"]["runtime"] == f"ai-edge-litert {litert_version()}"
        assert "no compiler for programs of armv7l" in m.detail["python"]["because"]
    assert all("python" not in m.detail for m in own.measurements)
    assert done.measurements[0].n == PROTOCOL.runs


def test_a_host_without_a_compiler(measure: Callable[..., Bench], no_compiler: None) -> None:
    done = measure()
    assert "C compiler cc is not installed; apt-get" in done.measurements[0].detail["python"]["because"]


def test_each_figure_of_a_series_says_it(tiny: Any, int8_file: Artifact, no_compiler: None) -> None:
    encoded = tiny.backend.session(int8_file).encode(tiny.samples[0])
    plan = SeriesPlan(warmup=1, runs=6, min_seconds=0.0)
    done = bench_series(tiny.backend, int8_file, encoded, LocalLink(tiny.store), store=tiny.store, plan=plan)
    assert [m.metric for m in done.measurements] == ["latency", "first_run", "load_time", "peak_memory"]
    assert all(m.detail["python"]["runtime"].startswith("ai-edge-litert") for m in done.measurements)


def test_no_times_by_operator(measure: Callable[..., Bench], tiny: Any) -> None:
    with pytest.raises(Unsupported, match=r"gives no times by operator.*armv7l") as caught:
        measure(host_with_arch(tiny.store, "armv7l"), per_op=True)
    assert caught.value.hint == "measure without --per-op"


def test_without_the_package_both_ways_out_are_told(
    measure: Callable[..., Bench], no_compiler: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(running, "packages", lambda arch: ("no-such-litert | no-such-tflite",))
    with pytest.raises(MissingDependency) as caught:
        measure()
    assert "no Python package no-such-litert or no-such-tflite" in str(caught.value)
    assert "runner is not there either: the C compiler cc is not installed; apt-get" in str(caught.value)
    assert caught.value.hint == "pip install 'no-such-litert'"


def test_one_of_two_packages_is_enough(tiny: Any, tmp_path: Path) -> None:
    link = LocalLink(tiny.store)
    link.prepare(count=False, python=("no-such-package | numpy>=2",))
    with pytest.raises(MissingDependency, match=r"has numpy 2\S*, but the file needs no-such.* or numpy>=99"):
        link.prepare(count=False, python=("no-such-package | numpy>=99",))


def test_what_a_build_has_to_ask_for(tiny: Any) -> None:
    assert tiny.backend.device_python("armv7l", "xnnpack") == ("tflite-runtime | ai-edge-litert", "numpy")
    assert set(tiny.backend.runtime_files("armv7l", tiny.store)) == {"interpreter_run.py", "python_run.py"}


def test_without_an_arm64_compiler(tiny: Any, no_compiler: None) -> None:
    assert tiny.backend.device_python("aarch64", "xnnpack") == ("ai-edge-litert | tflite-runtime", "numpy")


def execute(store: Any, model: Path, *options: str) -> Any:
    """The program itself, as a link runs it."""
    files = dict(running.runtime_files("armv7l", store))
    argv = ("interpreter_run.py", *options, "m.tflite")
    command = DeviceCommand(argv=argv, files={**files, "m.tflite": model}, python=("numpy",))
    return LocalLink(store).run(command, timeout_s=120)


def test_inputs_and_outputs_in_the_order_of_the_graph(handmade: Callable[..., Path], tiny: Any) -> None:
    """As litert_run: two inputs of different shapes, each output with its own digest."""
    path = handmade(
        {
            "b": {"shape": [1, 3], "dtype": "float32"},
            "a": {"shape": [1, 2], "dtype": "float32"},
            "abs_b": {"shape": [1, 3], "dtype": "float32"},
            "neg_a": {"shape": [1, 2], "dtype": "float32"},
        },
        [("ABS", ["b"], ["abs_b"], None), ("NEG", ["a"], ["neg_a"], None)],
        inputs=["b", "a"],
        outputs=["neg_a", "abs_b"],
    )
    done = execute(tiny.store, path, "-w", "0", "-n", "3")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert [o["bytes"] for o in report["outputs"]] == [8, 12]
    assert len(report["runs_ms"]) == 3 and report["peak_rss_kb"] >= report["start_rss_kb"] > 1000


def test_what_the_program_refuses(int8_file: Artifact, tiny: Any, tmp_path: Path) -> None:
    profiled = execute(tiny.store, int8_file.path, "-p")
    assert profiled.returncode == 2 and "no times by operator" in profiled.stderr
    (tmp_path / "x.tflite").write_bytes(b"no model")
    broken = execute(tiny.store, tmp_path / "x.tflite")
    assert broken.returncode == 3 and broken.stderr.splitlines()[-1].startswith("python_run: ")
    assert broken.stdout == ""


def test_the_command_says_that_python_ran_it(
    int8_file: Artifact, no_compiler: None, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    from edgekit.cli.main import run

    shutil.copy(int8_file.path, tmp_path / "net.tflite")
    file = str(tmp_path / "net.tflite")
    assert run(["-q", "bench", file, "--runs", "6", "--warmup", "1"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert f"by the device's Python, ai-edge-litert {litert_version()}: the C compiler cc is not" in said
    assert run(["-q", "bench", file, "--runs", "6", "--per-op"]) == 4
    assert "no times by operator" in capsys.readouterr().err


@pytest.mark.emulator
def test_over_ssh(
    host_account: Sshd, measure: Callable[..., Bench], tiny: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDGEKIT_DEVICE_PYTHON", sys.executable)
    own = measure()
    link = open_link(host_account.address(user="root"), None, tiny.store)
    try:
        link.arch = "armv7l"  # type: ignore[misc]
        done = measure(link)
        monkeypatch.setenv("EDGEKIT_DEVICE_PYTHON", "/no/such/python")
        with pytest.raises(
            MissingDependency, match=r"has no Python .*; edgekit's own runner is not there either"
        ):
            measure(link)
    finally:
        link.close()
    assert [m.source for m in done.measurements] == ["device"] * 3
    assert np.array_equal(own.outputs[0], done.outputs[0])
    assert done.measurements[0].detail["python"]["runtime"].startswith("ai-edge-litert")


@pytest.mark.emulator
@pytest.mark.slow
def test_an_arm64_python_computes_the_same(
    arm64_tools: None, measure: Callable[..., Bench], tiny: Any, int8_file: Artifact
) -> None:
    own = measure()
    encoded = tiny.backend.session(int8_file).encode(tiny.samples[0])
    files = {**running.runtime_files("armv7l", tiny.store), "model.tflite": int8_file.path}
    with tiny.store.scratch() as scratch:
        encoded[0].tofile(scratch / "in0.bin")
        command = DeviceCommand(
            argv=("interpreter_run.py", "-n", "1", "-i", "in0.bin", "-o", "out0.bin", "model.tflite"),
            files={**files, "in0.bin": scratch / "in0.bin"},
            python=(f"ai-edge-litert=={litert_version()} | tflite-runtime", "numpy"),
            outputs=("out0.bin",),
        )
        try:
            done = EmulatorLink(load_profile("pi4"), tiny.store).run(command, timeout_s=600)
        except MissingDependency as exc:
            pytest.skip(str(exc))
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1])["machine"] == "aarch64"
    assert done.outputs["out0.bin"] == own.outputs[0].tobytes()
