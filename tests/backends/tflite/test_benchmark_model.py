"""Reading what TFLite's benchmark programs print: a number that is missing is an error, never 0."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from edgekit.backends.tflite.benchmark_model import (
    arguments,
    generation_of,
    operators,
    parse,
    stat_line,
)
from edgekit.errors import DeviceError, Unsupported, UserError

SAMPLES = Path(__file__).with_name("samples")
REAL = os.environ.get("EDGEKIT_SAMPLES")
V1 = (SAMPLES / "benchmark_model_stdout_2.19.txt").read_text()
V2 = (SAMPLES / "benchmark_litert_model_stdout_2.2.txt").read_text()


def test_first_generation() -> None:
    report = parse(V1, "xnnpack")
    assert report.generation == "v1" and report.fully is True
    t = report.inference
    assert (t.n, t.mean, t.min, t.max, t.std) == (124, 8.0661, 7.899, 9.12, 0.188)
    assert (t.p5, t.median, t.p95) == (7.921, 8.022, 8.477)
    assert (report.init_ms, report.first_ms, report.warmup_ms) == (18.25, 10.411, 8.2104)
    assert (report.peak_memory_mb, report.overall_memory_mb) == (21.4, 14.6)


def test_second_generation() -> None:
    said = V2 + "INFO: [benchmark_litert_model.h:140] Fully accelerated: True\n"
    report = parse(said, "gpu")
    assert report.generation == "v2" and report.fully is True
    assert (report.init_ms, report.inference.n, report.inference.mean) == (20.31, 455, 2.20)
    assert report.inference.median is None, "this version prints none"
    assert report.peak_memory_mb is None, "it says that it does not know it"


def test_the_python_counterpart() -> None:
    report = parse((SAMPLES / "litert_py_benchmark_2.3.0.stdout.txt").read_text(), "cpu")
    assert (report.inference.n, report.inference.median, report.fully) == (20, 0.13, True)


@pytest.mark.parametrize(
    "label", ["Inference (avg)", "Inference (min)", "Warmup (avg)", "Model initialization"]
)
def test_a_missing_line_of_the_second(label: str) -> None:
    with pytest.raises(DeviceError, match="cannot be read"):
        parse("\n".join(line for line in V2.splitlines() if label not in line), "cpu")


@pytest.mark.parametrize("cut", ["Inference timings in us", "count="])
def test_a_missing_line_of_the_first(cut: str) -> None:
    with pytest.raises(DeviceError, match="cannot be read"):
        parse("\n".join(line for line in V1.splitlines() if cut not in line), "xnnpack")


@pytest.mark.parametrize("size", range(0, len(V1), 97))
def test_an_output_that_was_cut_off_is_no_result(size: int) -> None:
    end = V1.index("Inference (avg): 8066.1") + len("Inference (avg): 8066.1")
    if size < end - len("8066.1"):
        with pytest.raises(DeviceError):
            parse(V1[:size], "xnnpack")


def test_two_runs_in_one_output() -> None:
    with pytest.raises(DeviceError, match="2 lines of inference timings"):
        parse(V1 + V1, "xnnpack")


def test_averages_that_contradict_each_other() -> None:
    with pytest.raises(DeviceError, match="averages differ"):
        parse(V1.replace("avg=8066.1", "avg=4066.1"), "xnnpack")


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ("Replacing 539 out of 548 node(s) with delegate (TfLiteGpuDelegateV2) node", "took 539 of 548"),
        ("Explicitly applied GPU delegate, and the model graph will be partially executed", "a part of"),
        ("nothing of a delegate", "does not say that the gpu delegate was used"),
    ],
)
def test_a_silent_fallback(said: str, words: str) -> None:
    bare = re.sub(r"(?m)^.*(xnnpack|delegate).*$", "", V1, flags=re.IGNORECASE)
    if "partially" in said:
        said += " by the delegate w/ 1 delegate kernels."
    with pytest.raises(DeviceError, match=words):
        parse(f"INFO: {said}\n{bare}", "gpu")


def test_a_delegate_that_took_all() -> None:
    bare = re.sub(r"(?m)^.*(xnnpack|delegate).*$", "", V1, flags=re.IGNORECASE)
    said = (
        "INFO: Replacing 70 out of 70 node(s) with delegate (TfLiteNnapiDelegate) node, yielding 1 partitions"
    )
    assert parse(f"{said}\n{bare}", "nnapi").delegated == (70, 70)


def test_stat_lines() -> None:
    lines = (SAMPLES / "stat_lines_edge_cases.txt").read_text().splitlines()
    one, same, none, scientific, prefixed = (line for line in lines if line.strip())
    assert stat_line(one).mean == 3512.391
    assert (stat_line(same).n, stat_line(same).max) == (12, 0.512)
    with pytest.raises(DeviceError, match="timed no run"):
        stat_line(none)
    assert stat_line(scientific).mean == 2950.34
    assert stat_line(prefixed).median == 0.002
    with pytest.raises(DeviceError, match="printed no avg, std"):
        stat_line("count=5 first=1 curr=2 min=1 max=3")


def test_operators_whose_names_hold_commas() -> None:
    table = (SAMPLES / "op_profile_no_start_column.csv").read_text().splitlines()
    found = operators(table)
    assert [o["op"] for o in found] == [
        "Convolution (NHWC, QC8) IGEMM",
        "QUANTIZE",
        "Fully Connected (NC, QS8) GEMM",
    ]
    assert [round(o["us"], 3) for o in found] == [1112.04, 19.0, 677.17]
    assert found[0]["name"] == "Delegate/Convolution (NHWC, QC8) IGEMM:0"


def test_a_profile_that_was_asked_for_and_is_not_there() -> None:
    with pytest.raises(DeviceError, match="no profile by operator"):
        parse(V1, "xnnpack", per_op=True)


def test_options_of_both() -> None:
    assert generation_of("--graph=... --use_nnapi=false --require_full_delegation") == "v1"
    assert generation_of("--graph=... --use_gpu --use_npu") == "v2"
    with pytest.raises(UserError, match="no benchmark program"):
        generation_of("usage: ls [OPTION]")
    how = {"graph": "m", "threads": 4, "warmup": 2, "runs": 5, "min_seconds": 0.5, "per_op": False}
    assert arguments("v1", "gpu", **how)[:5] == [  # type: ignore[arg-type]
        "--graph=m",
        "--num_threads=4",
        "--warmup_runs=2",
        "--num_runs=5",
        "--min_secs=0.5",
    ]
    assert "--use_cpu=false" in arguments("v2", "npu", **how)  # type: ignore[arg-type]
    with pytest.raises(Unsupported, match="no delegate nnapi"):
        arguments("v2", "nnapi", **how)  # type: ignore[arg-type]


@pytest.mark.realdata
class TestOutputsOfRealPrograms:
    @pytest.fixture
    def real(self) -> Path:
        if not REAL:
            pytest.skip("EDGEKIT_SAMPLES names no folder with outputs of real tools")
        return Path(REAL) / "tflite_benchmark_model"

    def test_each_run_of_the_logs(self, real: Path) -> None:
        """Logs of many runs: each is read on its own. The delegate took a part of every net there."""
        read = partial = 0
        for path in sorted(real.glob("Nobuo*")):
            text = path.read_text(errors="replace")
            for run in re.split(r"(?m)^(?:INFO: )?STARTING!", text)[1:]:
                if "Inference timings in us" not in run:
                    continue
                report = parse(run, "cpu")
                assert report.inference.mean > 0 and report.inference.n > 0
                read += 1
                if "Use gpu: [1]" in run:
                    with pytest.raises(DeviceError, match="a part of the graph"):
                        parse(run, "gpu")
                    partial += 1
        assert read > 10 and partial > 0

    def test_logcat(self, real: Path) -> None:
        text = (real / "logcat_benchmark_apk_v2.2x_xnnpack.txt").read_text()
        assert parse(text, "cpu").inference.median == 141.253
        with pytest.raises(DeviceError, match="took 539 of 548"):
            parse(text, "xnnpack")
        cut = parse((real / "logcat_truncated_head_scientific.txt").read_text(), "cpu")
        assert cut.inference.mean == pytest.approx(2449.49)

    @pytest.mark.parametrize(
        ("name", "count", "first"),
        [
            ("stdout_op_profiling_mobilenet_v1_tf2.8.txt", 31, 60957.0),
            ("op_profiling_csv_with_start_column.txt", None, 93.0388),
        ],
    )
    def test_profiles(self, real: Path, name: str, count: int | None, first: float) -> None:
        found = operators((real / name).read_text().splitlines())
        assert found[0]["op"] == "CONV_2D" and found[0]["us"] == pytest.approx(first)
        assert count is None or len(found) == count
