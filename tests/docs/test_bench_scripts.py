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
    with pytest.MonkeyPatch.context() as patch:  # as for `python scripts/NAME.py`
        patch.syspath_prepend(ROOT / "scripts")
        spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def bench_build() -> ModuleType:
    return load("bench_build")


@pytest.fixture(scope="module")
def bench_models() -> ModuleType:
    return load("bench_models")


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


@pytest.mark.parametrize("name", ["bench_build", "bench_models"])
def test_real_models_need_their_folder(name: str) -> None:
    arguments = [sys.executable, str(ROOT / "scripts" / f"{name}.py"), "--only", "cifar_resnet20"]
    done = subprocess.run(arguments, env={"PATH": ""}, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "--realdata or EDGEKIT_REALDATA" in done.stderr


def test_a_cell_that_is_wrong_is_no_success(bench_models: ModuleType) -> None:
    good = {"parity": 1e-6, "exporter": "onnx2tf", "float_bytes": 400, "int8_bytes": 100, "sqnr_db": 30.0}
    shown = dict(zip(bench_models.HEAD, bench_models.row("net", "tflite/xnnpack", good), strict=True))
    assert (shown["size"], shown["result"], shown["speed"]) == ("4.00x", "ok (onnx2tf)", "-")
    assert bench_models.verdict({**good, "parity": 0.5}) == "NO PARITY"
    assert bench_models.verdict({**good, "parity": float("nan")}) == "NO PARITY"
    assert bench_models.verdict({**good, "int8_failed": "ValueError: no"}) == "FAILED"
    assert bench_models.verdict({"refused": ["aten.fft at net.odd: no"]}) == "refused"
    assert bench_models.notes([("net", "onnx/cpu", {"failed": "it broke"})]) == ["net on onnx/cpu: it broke"]


@pytest.mark.slow
@pytest.mark.realdata
def test_a_real_model_fills_its_row(
    bench_models: ModuleType,
    realdata: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    arguments = ["--only", "mlperf_tiny_ad_autoencoder", "dtln", "--target", "onnx/cpu"]
    monkeypatch.setattr(sys, "argv", ["bench_models.py", "--realdata", str(realdata), *arguments])
    assert bench_models.main() == 0
    printed = capsys.readouterr().out
    assert "1 built, 1 refused, 2 cells" in printed
    assert "dtln on onnx/cpu: aten." in printed


@pytest.mark.realdata
def test_every_real_model_is_in_the_table(bench_models: ModuleType, realdata: Path) -> None:
    present = {path.stem for path in (realdata / "weights").glob("*.safetensors")}
    assert present == {name.partition(".")[0] for name in bench_models.CASES}


def test_the_compression_bench_has_its_parts_and_states_the_spread() -> None:
    bench = load("bench_compress")
    assert list(bench.PARTS) == ["importances", "distillation", "lowrank", "resnet56"]
    assert bench.spread([91.0]) == "91.00"
    assert bench.spread([90.0, 92.0]) == "91.00 (90.00 to 92.00)"
    assert () in bench.KINDS and {k for kinds in bench.KINDS for k in kinds} == {
        "response", "hint", "rkd-distance", "rkd-angle", "similarity"
    }  # fmt: skip
