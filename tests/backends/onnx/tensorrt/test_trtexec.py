from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from edgekit.backends.onnx.tensorrt import trtexec
from edgekit.errors import DeviceError

SAMPLES = Path(__file__).with_name("samples")
REAL = os.environ.get("EDGEKIT_SAMPLES")
"""Read while tests are collected: afterwards the suite hides the user's own settings of edgekit."""


def sample(name: str) -> str:
    return (SAMPLES / name).read_text()


@pytest.fixture
def real() -> Path:
    """Outputs of real runs, which are other people's and not part of edgekit."""
    if not REAL:
        pytest.skip("EDGEKIT_SAMPLES names no folder with outputs of real tools")
    return Path(REAL) / "trtexec"


# -- times


def test_times() -> None:
    times = trtexec.parse_times(sample("trtexec_times.json"))
    assert times.latency_ms == (1.33, 1.43)
    assert times.compute_ms == (1.2, 1.3)
    assert times.h2d_ms == (0.08, 0.08) and times.d2h_ms == (0.05, 0.05)


def test_warm_up_is_left_out() -> None:
    assert trtexec.parse_times(sample("trtexec_times.json"), warmup_ms=11).compute_ms == (1.3,)
    with pytest.raises(DeviceError, match="no run after warm-up"):
        trtexec.parse_times(sample("trtexec_times.json"), warmup_ms=500)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "not JSON"),
        ("[", "not JSON"),
        ("{}", "not a list"),
        ("[1]", "not a list"),
        ("[]", "no run"),
    ],
)
def test_times_that_are_none(text: str, message: str) -> None:
    with pytest.raises(DeviceError, match=message):
        trtexec.parse_times(text)


@pytest.mark.parametrize("key", ["computeMs", "latencyMs", "h2dMs", "d2hMs", "startComputeMs"])
@pytest.mark.parametrize("value", [None, "1.0", -1, True, float("nan")])
def test_a_missing_time_is_never_zero(key: str, value: Any) -> None:
    rows = json.loads(sample("trtexec_times.json"))
    rows[1][key] = value
    with pytest.raises(DeviceError, match=f"run 1 of trtexec's times has no {key}"):
        trtexec.parse_times(json.dumps(rows))
    del rows[1][key]
    with pytest.raises(DeviceError, match=key):
        trtexec.parse_times(json.dumps(rows))


# -- profile


def test_profile() -> None:
    profile = trtexec.parse_profile(sample("trtexec_profile.json"))
    assert profile.count == 812
    assert [layer.name for layer in profile.layers] == [
        "Reformatting CopyNode for Input Tensor 0 to conv1",
        "conv1.weight + QuantizeLinear_3 + Conv_5 + Relu_6",
    ]
    assert profile.layers[1] == trtexec.Layer(
        name=profile.layers[1].name, total_ms=950.0, average_ms=1.17, median_ms=1.16, percent=95.9
    )


def test_older_profiles_have_no_median() -> None:
    text = (
        sample("trtexec_profile.json").replace(', "medianMs" : 0.049', "").replace(', "medianMs" : 1.16', "")
    )
    assert [layer.median_ms for layer in trtexec.parse_profile(text).layers] == [None, None]


@pytest.mark.parametrize("name", ['a"b', "a\\nb", 'x", "y', "{z}", "node_of_[1, 2]", "ü"])
def test_names_of_layers_are_taken_as_they_are(name: str) -> None:
    text = sample("trtexec_profile.json").replace("conv1.weight + QuantizeLinear_3 + Conv_5 + Relu_6", name)
    assert trtexec.parse_profile(text).layers[1].name == name


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('{ "count" : 812 }', "{ }", "how many runs"),
        ('"count" : 812', '"count" : 0', "how many runs"),
        ('"averageMs" : 1.17, ', "", "no averageMs"),
        ('"averageMs" : 1.17', '"averageMs" : nan', "is 'nan' instead of a number"),
        ('"percentage" : 95.9', '"percentage" : -', "instead of a number"),
        ('"timeMs" : 950.0', '"timeMs" : ', "no timeMs"),
        ("]\n", "", "cut off"),
    ],
)
def test_broken_profiles(old: str, new: str, message: str) -> None:
    text = sample("trtexec_profile.json")
    assert old in text
    with pytest.raises(DeviceError, match=message):
        trtexec.parse_profile(text.replace(old, new))


def test_a_profile_cut_off_anywhere_is_an_error() -> None:
    text = sample("trtexec_profile.json").rstrip()
    for end in range(len(text) - 1):
        with pytest.raises(DeviceError):
            trtexec.parse_profile(text[:end])


# -- stdout


def test_log_of_11() -> None:
    log = trtexec.parse_log(sample("trtexec_stdout_trt11.txt"))
    assert log.version == (11, 1, 0) and log.passed and log.errors == ()
    assert log.throughput_qps == 812.4
    assert log.summary("latency_ms") == trtexec.Summary(
        min=1.19, max=1.61, mean=1.23, median=1.22, percentiles={90: 1.27, 95: 1.31, 99: 1.48}
    )
    assert log.summary("h2d_ms").max == 0, "11 does not copy unless told"
    trtexec.require_passed(log)


def test_failed_log() -> None:
    log = trtexec.parse_log(sample("trtexec_failed_int8_on_trt11.txt"))
    assert not log.passed and log.errors == ("Unknown option: --int8",)
    with pytest.raises(DeviceError, match="trtexec failed: Unknown option: --int8"):
        trtexec.require_passed(log)
    with pytest.raises(DeviceError, match="printed no latency_ms"):
        log.summary("latency_ms")


def test_who_printed_a_log() -> None:
    log = sample("trtexec_stdout_trt11.txt")
    assert trtexec.stand_in(log) is None
    first, rest = log.split("\n", 1)
    assert trtexec.stand_in(f"{first}\n&&&& STAND-IN /a b/fake.py\n{rest}") == "/a b/fake.py"
    named = first.replace("--", "--onnx=/x/&&&& STAND-IN /y ", 1)
    assert named != first and trtexec.stand_in(f"{named}\n{rest}") is None, "a name of a file is no such line"


def test_a_build_has_no_summary() -> None:
    text = "&&&& PASSED TensorRT.trtexec [TensorRT v8205] # trtexec --buildOnly\n"
    log = trtexec.parse_log(text)
    assert log.passed and log.version == (8, 2, 5) and log.summaries == {} and log.throughput_qps is None


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("&&&& PASSED", "", "without saying whether it passed"),
        ("[TensorRT v110100]", "", "which TensorRT"),
        ("[I] Latency: min = 1.19 ms, ", "[I] Latency: min = nan ms, ", "instead of a number"),
        ("[I] Latency:", "[I] Delay:", "no latency"),
        ("median = 1.22 ms, ", "", "no median"),
        ("percentile(99%) = 1.48 ms", "percentile(99%) = ", "percentile without a number"),
        ("Throughput: 812.4 qps", "Throughput: inf qps", "instead of a number"),
    ],
)
def test_broken_logs(old: str, new: str, message: str) -> None:
    text = sample("trtexec_stdout_trt11.txt")
    assert old in text
    with pytest.raises(DeviceError, match=message):
        trtexec.parse_log(text.replace(old, new))


# -- together


def test_report_of_a_runner() -> None:
    files = [sample(f"trtexec_{name}") for name in ("times.json", "profile.json", "stdout_trt11.txt")]
    report = trtexec.runner_report(files[0], profile=files[1], log=files[2])
    assert report["runs_ms"] == [1.33, 1.43], "what an app waits for: with copies"
    assert report["compute_ms"] == [1.2, 1.3]
    assert report["load_ms"] is None and report["peak_rss_kb"] is None
    assert [op["us"] for op in report["ops"]] == [pytest.approx(49), pytest.approx(1160)]
    assert "ops" not in trtexec.runner_report(files[0])
    with pytest.raises(DeviceError, match="Unknown option"):
        trtexec.runner_report(files[0], log=sample("trtexec_failed_int8_on_trt11.txt"))


def test_chosen() -> None:
    text = json.dumps({"schema_version": 1, "chosen": "int8", "engines": []})
    assert trtexec.read_chosen(text)["chosen"] == "int8"
    for bad in ("", "[]", '{"schema_version": 2, "chosen": null}', '{"schema_version": 1}'):
        with pytest.raises(DeviceError, match=r"chosen\.json is not"):
            trtexec.read_chosen(bad)


# -- outputs of real runs


def test_real_times(real: Path) -> None:
    """TensorRT 8 on an RTX 3090; the file of that version begins with the warm-up."""
    text = (real / "tensorflow__resnet__RTX-3090__fp32__resnet.onnx.engine.timing.json").read_text()
    every, kept = trtexec.parse_times(text), trtexec.parse_times(text, warmup_ms=200)
    assert (len(every.latency_ms), len(kept.latency_ms)) == (263, 248)
    assert every.compute_ms[:2] == (13.0181, 12.7857)


def test_real_profiles(real: Path) -> None:
    found = sorted(real.glob("*profile.json"))
    assert len(found) == 4
    for path in found:
        profile = trtexec.parse_profile(path.read_text())
        assert sum(layer.percent for layer in profile.layers) == pytest.approx(100, abs=0.01)


@pytest.mark.parametrize(
    ("name", "version", "median", "percentiles", "warnings"),
    [
        ("NobuoTsukamoto*fp16.log", (8, 0, 1), 40.1902, {99: 41.1985}, 0),
        ("NobuoTsukamoto*fp32.log", (8, 0, 1), 46.0159, {99: 47.1323}, 0),
        ("stdout_trt10.9*.txt", (10, 9, 0), 1.43823, {90: 1.45624, 95: 1.71796, 99: 2.61597}, 2),
    ],
)
def test_real_logs(
    real: Path,
    name: str,
    version: tuple[int, int, int],
    median: float,
    percentiles: dict[int, float],
    warnings: int,
) -> None:
    (path,) = real.glob(name)
    log = trtexec.parse_log(path.read_text())
    assert (log.version, log.passed, len(log.warnings)) == (version, True, warnings)
    assert trtexec.stand_in(path.read_text()) is None
    assert log.summary("latency_ms").median == median
    assert log.summary("latency_ms").percentiles == percentiles
    assert log.summary("compute_ms").median < median
