"""The scripts that print the figures of the documents."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import psutil
import pytest

ROOT = Path(__file__).resolve().parents[2]


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, ROOT / "scripts" / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def bench_build() -> ModuleType:
    return load("bench_build")


@pytest.fixture(scope="module")
def bench_convert() -> ModuleType:
    return load("bench_convert")


def test_the_build_table_shows_what_the_report_says(bench_build: ModuleType, tiny_build: Any) -> None:
    report = dict(tiny_build.built.report)
    ran = bench_build.Run(seconds=12.34, peak_bytes=56_000_000, returncode=0, stderr="")
    again = bench_build.Run(seconds=1.06, peak_bytes=1, returncode=0, stderr="")
    bench = bench_build.Bench(name="tiny", first=ran, second=again, report=report)
    head, row = bench_build.quality([bench])
    shown = dict(zip(head, row, strict=True))
    accuracy = report["accuracy"]
    assert shown["top-1 %"] == f"{accuracy['baseline']:.2f} → {accuracy['final']:.2f}"
    assert shown["drop"] == f"{accuracy['drop']:+.2f}"
    assert shown["n"] == "150"
    assert shown["agree %"] == f"{report['agreement']['top1']:.2f}"
    assert shown["smaller"] == f"{report['size']['ratio']:.2f}x"
    assert float(shown["SQNR dB"]) > 15
    assert shown["status"] == report["status"]
    costs = {line[0]: line[1] for line in bench_build.costs([bench])}
    assert costs["whole build, s"] == "12.3"
    assert costs["the same build again, s"] == "1.1"
    assert costs["peak of all its processes, MB"] == "56"
    assert {stage["name"] for stage in report["stages"]} <= set(costs)


def test_what_was_not_measured_is_a_dash(bench_build: ModuleType, tiny_build: Any) -> None:
    report = {**tiny_build.built.report, "accuracy": None, "agreement": None, "measurements": []}
    ran = bench_build.Run(seconds=1.0, peak_bytes=1, returncode=0, stderr="")
    bench = bench_build.Bench(name="tiny", first=ran, second=ran, report=report)
    shown = dict(zip(*bench_build.quality([bench]), strict=True))
    unknown = ("drop", "n", "agree %", "Minstr float", "Minstr file", "fewer")
    assert {shown[column] for column in unknown} == {"-"}


def test_a_failed_build_shows_its_exit_code(bench_build: ModuleType) -> None:
    ran = bench_build.Run(seconds=1.0, peak_bytes=1, returncode=5, stderr="")
    bench = bench_build.Bench(name="broken", first=ran, second=ran)
    head, row = bench_build.quality([bench])
    assert dict(zip(head, row, strict=True))["status"] == "exit 5"
    assert len(bench_build.costs([bench])) == 4


def test_the_memory_of_child_processes_counts(bench_build: ModuleType) -> None:
    child = "block = bytearray(200_000_000); print('ready', flush=True); input()"
    parent = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}])"
    pipes: Any = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    process = psutil.Popen([sys.executable, "-c", parent], **pipes)
    assert process.stdout.readline() == "ready\n"
    counted = bench_build.tree_rss(process)
    process.communicate("\n")
    assert counted > 200_000_000
    assert bench_build.tree_rss(process) == 0


def test_a_run_has_time_memory_and_exit_code(bench_build: ModuleType) -> None:
    code = "import sys; block = bytearray(50_000_000); sum(range(10_000_000)); sys.exit('stopped')"
    ran = bench_build.run([sys.executable, "-c", code], {})
    assert ran.returncode == 1
    assert ran.stderr == "stopped\n"
    assert ran.seconds > 0
    assert ran.peak_bytes > 50_000_000


def test_help_is_said_without_torch(bench_build: ModuleType) -> None:
    assert bench_build.help_imports_torch() is False


@pytest.mark.parametrize("name", ["bench_build", "bench_convert"])
def test_real_models_need_their_folder(name: str) -> None:
    arguments = [sys.executable, str(ROOT / "scripts" / f"{name}.py"), "--only", "cifar_resnet20"]
    done = subprocess.run(arguments, env={"PATH": ""}, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "--realdata or EDGEKIT_REALDATA" in done.stderr


def test_a_model_beyond_the_limit_is_no_success(bench_convert: ModuleType) -> None:
    good = bench_convert.Row(model="a", shape=(1, 2), data="seeded", seconds=1.0, onnx=1e-6, tflite=1e-6)
    bad = bench_convert.Row(model="b", shape=(1, 2), data="seeded", seconds=1.0, refusal="TFLite parity 0.5")
    _, first, second = bench_convert.table([good, bad], markdown=False).splitlines()
    assert first.endswith("ok")
    assert second.endswith("TFLite parity 0.5")


@pytest.mark.slow
@pytest.mark.realdata
def test_real_models_convert_within_the_limit(
    bench_convert: ModuleType,
    realdata: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    few = ["mlperf_tiny_ad_autoencoder", "executorch_kws_dscnn", "ultraface_rfb_320"]
    monkeypatch.setattr(sys, "argv", ["bench_convert.py", "--realdata", str(realdata), "--only", *few])
    assert bench_convert.main() == 0
    printed = capsys.readouterr().out
    assert "3 of 3 convert within 0.001 of torch" in printed
    assert all(name in printed for name in few)


@pytest.mark.realdata
def test_every_real_model_is_in_the_table_or_left_out_with_a_reason(
    bench_convert: ModuleType, realdata: Path
) -> None:
    present = {path.stem for path in (realdata / "weights").glob("*.safetensors")}
    assert present <= set(bench_convert.CASES) | set(bench_convert.LEFT_OUT)
