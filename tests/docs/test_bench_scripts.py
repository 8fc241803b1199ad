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


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("bench_build", ["--only", "cifar_resnet20"]),
        ("bench_models", ["--only", "cifar_resnet20"]),
        ("bench_estimate", []),
    ],
)
def test_real_models_need_their_folder(name: str, arguments: list[str]) -> None:
    command = [sys.executable, str(ROOT / "scripts" / f"{name}.py"), *arguments]
    done = subprocess.run(
        command, env={"PATH": "", "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False
    )
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


@pytest.fixture(scope="module")
def bench_estimate() -> ModuleType:
    return load("bench_estimate")


PUBLISHED = {
    "network": "v2",
    "precision": "fp32",
    "threads": "4",
    "dense_macs": "280000000",
    "depthwise_macs": "20000000",
    "bytes_moved": "70000000",
    "ops": "65",
}


def test_a_published_network_costs_its_sums(bench_estimate: ModuleType) -> None:
    row = bench_estimate.row_of(PUBLISHED, "pi4", 46.0)
    rate = 4 * 1.5e9 * 4.0 * 0.75
    expected = 1e3 * (300e6 / rate + 70e6 / 2.8e9 + 65 * 3e-6)
    assert row.predicted.ms == pytest.approx(expected)
    detector = bench_estimate.row_of({**PUBLISHED, "network": "lite0"}, "pi4", 176.0)
    assert detector.scores == 19206 * 90
    assert detector.predicted.ms == pytest.approx(expected + 19206 * 90 * 22e-6)


def test_a_missed_limit_is_said(bench_estimate: ModuleType) -> None:
    good = bench_estimate.accuracy("x", [1.0, 2.1], [1.0, 2.0], limits=True)
    assert good.ok is True and "MAPE 2.5 %" in good.figures and good.n == 2
    assert bench_estimate.accuracy("x", [1.0, 3.0], [1.0, 2.0], limits=True).ok is False
    wrong = [
        (
            bench_estimate.row_of(PUBLISHED, "pi4", 20.0),
            bench_estimate.row_of({**PUBLISHED, "precision": "int8"}, "pi4", 30.0),
        )
    ]
    assert bench_estimate.decisions("int8?", wrong, limit=True).ok is False


@pytest.mark.realdata
def test_estimates_are_as_good_as_documented(bench_estimate: ModuleType, realdata: Path) -> None:
    found = {line.what: line for line in bench_estimate.lines(realdata / "latency")}
    assert [line for line in found.values() if line.ok is False] == []
    assert found["pi4: shipped profile (public points)"].n == 54
    assert found["pi4: does int8 pay?"].n == 26
    limited = {what for what, line in found.items() if line.ok}
    assert {
        "pi4: shipped profile (public points)",
        "pi4: 90 % interval",
        "pi4: does int8 pay?",
        "pi4: fitted, one network left out",
        "NAS-Bench-201 pixel3: group medians",
    } <= limited


def test_the_compression_bench_has_its_parts_and_states_the_spread() -> None:
    bench = load("bench_compress")
    assert list(bench.PARTS) == ["importances", "distillation", "lowrank", "resnet56", "hardnets"]
    assert bench.spread([91.0]) == "91.00"
    assert bench.spread([90.0, 92.0]) == "91.00 (90.00 to 92.00)"
    assert () in bench.KINDS and {k for kinds in bench.KINDS for k in kinds} == {
        "response", "hint", "rkd-distance", "rkd-angle", "similarity"
    }  # fmt: skip
