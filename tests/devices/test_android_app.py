"""The app as a way to measure: what `am instrument` says, the app's result, and the steps on a phone."""

from __future__ import annotations

import base64
import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgekit.devices.android import PACKAGE, AppRun, app_delegate, parse_result, run_app
from edgekit.devices.android.instrument import parse_instrumentation
from edgekit.devices.base import RunResult
from edgekit.errors import DeviceError, DeviceLost, DeviceTimeout, EdgekitError, Unsupported, UserError

SHA = "ab" * 32
RUN = {"run_id": "r1", "model_sha256": SHA, "delegate": "gpu", "runs": 2, "where": "adb:x"}


def a_result(**changes: Any) -> dict[str, Any]:
    """What the app writes for one golden sample with an int8 and a float output."""
    values = np.array([[1, -2]], np.int8)
    floats = np.array([0.5, 1.5], np.float32)
    outputs = [
        {"dtype": a.dtype.name, "shape": list(a.shape), "data": base64.b64encode(a.tobytes()).decode()}
        for a in (values, floats)
    ]
    return {
        "schema_version": 1,
        "run_id": "r1",
        "status": "ok",
        "error": None,
        "runtime_version": "tflite 2.3.2",
        "bundle": {"name": "m", "profile": "p", "precision": "int8", "model_sha256": SHA},
        "runtime": {
            "name": "litert",
            "version": "2.3.2",
            "delegate": "gpu",
            "threads": 4,
            "delegated_nodes": 7,
            "nodes": 7,
            "warnings": [],
        },
        "protocol": {"warmup": 1, "runs": 2},
        "load_ms": 12.5,
        "warmup_ms": [3.0],
        "runs_ms": [1.0, 2.0],
        "statistics": {"n": 2, "min": 1.0, "median": 1.5, "p90": 1.9, "mean": 1.5, "max": 2.0},
        "golden": [{"outputs": outputs, "max_abs": 0.0, "mismatched": 0, "top1": 0}],
        "peak_rss_kb": 90_000,
        "device": {"manufacturer": "maker", "model": "phone", "soc": None, "api_level": 34},
        "thermal": {"before": {"status": 0}, "after": {"status": 1}},
        **changes,
    }


def failed(kind: str, message: str) -> dict[str, Any]:
    whole = a_result(status="failed", error={"kind": kind, "message": message})
    return {k: v for k, v in whole.items() if k not in ("runs_ms", "golden", "statistics")}


# -- am instrument


def test_a_finished_run() -> None:
    outcome = parse_instrumentation("INSTRUMENTATION_RESULT: status=ok\r\nINSTRUMENTATION_CODE: -1\r\n")
    assert outcome.finished
    assert outcome.results == {"status": "ok"}


def test_a_crash_keeps_its_message_over_several_lines() -> None:
    outcome = parse_instrumentation(
        "INSTRUMENTATION_RESULT: shortMsg=java.lang.IllegalStateException\n"
        "INSTRUMENTATION_RESULT: longMsg=java.lang.IllegalStateException: no = here\n"
        "at dev.edgekit.demo.X(X.kt:1)\n"
        "INSTRUMENTATION_CODE: 0\n"
    )
    assert not outcome.finished
    assert outcome.code == 0
    assert outcome.results["longMsg"].endswith("at dev.edgekit.demo.X(X.kt:1)")
    assert outcome.words == "java.lang.IllegalStateException: no = here"


def test_a_native_crash_has_a_short_message_only() -> None:
    outcome = parse_instrumentation(
        "INSTRUMENTATION_RESULT: shortMsg=Process crashed.\nINSTRUMENTATION_CODE: 0"
    )
    assert (outcome.finished, outcome.words) == (False, "Process crashed.")


def test_an_app_that_is_not_there() -> None:
    outcome = parse_instrumentation(
        "INSTRUMENTATION_STATUS: id=ActivityManagerService\n"
        "INSTRUMENTATION_STATUS: Error=Unable to find instrumentation info for: ComponentInfo{a/b}\n"
        "INSTRUMENTATION_STATUS_CODE: -1\n"
        "android.util.AndroidException: INSTRUMENTATION_FAILED: a/b\n"
    )
    assert outcome.not_there
    assert not outcome.finished  # -1 is the code of a status, not of the end
    assert outcome.words.startswith("Unable to find instrumentation info")


def test_a_phone_that_went_down() -> None:
    outcome = parse_instrumentation("INSTRUMENTATION_ABORTED: System has crashed.\nINSTRUMENTATION_CODE: 0")
    assert (outcome.finished, outcome.not_there) == (False, False)
    assert "System has crashed" in outcome.words


@pytest.mark.parametrize("text", ["", "nonsense\nINSTRUMENTATION_CODE: what", "INSTRUMENTATION_RESULT: x"])
def test_other_words_are_no_success(text: str) -> None:
    assert not parse_instrumentation(text).finished


# -- the result


def test_a_result_is_read() -> None:
    result = parse_result(json.dumps(a_result()), **RUN)
    assert result.runs_ms == (1.0, 2.0)
    assert (result.load_ms, result.peak_rss_kb) == (12.5, 90_000)
    first, second = result.outputs[0]
    np.testing.assert_array_equal(first, np.array([[1, -2]], np.int8))
    np.testing.assert_array_equal(second, np.array([0.5, 1.5], np.float32))


@pytest.mark.parametrize(
    ("data", "error", "words"),
    [
        (a_result(run_id="r2"), DeviceError, "of the run 'r2', not of 'r1'"),
        (a_result(schema_version=2), DeviceError, "not of schema version 1"),
        (a_result(runs_ms=[1.0]), DeviceError, "another number of runs"),
        (a_result(runs_ms=[]), DeviceError, "runs_ms"),
        (a_result(bundle={**a_result()["bundle"], "model_sha256": "cd" * 32}), DeviceError, "model file"),
        (a_result(runtime={**a_result()["runtime"], "delegate": "cpu"}), DeviceError, "another delegate"),
        (failed("delegate", "no GPU"), Unsupported, "cannot run this model on gpu: no GPU"),
        (failed("bundle", "no manifest"), DeviceError, r"failed \(bundle\): no manifest"),
        ({k: v for k, v in a_result().items() if k != "golden"}, DeviceError, "golden"),
    ],
)
def test_other_results_are_refused(data: dict[str, Any], error: type[EdgekitError], words: str) -> None:
    with pytest.raises(error, match=words):
        parse_result(json.dumps(data), **RUN)


@pytest.mark.parametrize(("data", "words"), [("AAAA", "3 bytes for int8"), ("???", "not base64")])
def test_damaged_outputs_are_refused(data: str, words: str) -> None:
    whole = a_result()
    whole["golden"][0]["outputs"][0]["data"] = data
    with pytest.raises(DeviceError, match=words):
        parse_result(json.dumps(whole), **RUN)


def test_half_a_result_is_refused() -> None:
    with pytest.raises(DeviceError, match="is not JSON"):
        parse_result(json.dumps(a_result())[:100], **RUN)


def test_delegates_of_profiles_are_known_to_the_app() -> None:
    assert [app_delegate(d) for d in ("xnnpack", "cpu", "gpu", "nnapi")] == ["cpu", "cpu", "gpu", "nnapi"]
    with pytest.raises(UserError, match="no delegate 'tensorrt'"):
        app_delegate("tensorrt")


# -- the steps


class Phone:
    """Answers as a phone would; ``am`` plays the app."""

    name, serial = "adb:x", "x"

    def __init__(self, am: Callable[[dict[str, str]], RunResult | Exception], *, installed: bool = True):
        self.am = am
        self.installed = installed
        self.installs: list[Path] = []
        self.files: dict[str, bytes] = {}
        self.calls: list[tuple[str, ...]] = []
        self.result = a_result()

    def install(self, apk: Path) -> None:
        self.installs.append(apk)
        self.installed = True

    def push_file(self, source: Path, target: str) -> None:
        self.files[target] = source.read_bytes()

    def shell(self, argv: tuple[str, ...], *, timeout_s: float = 30) -> RunResult:
        self.calls.append(argv)
        if argv[:2] == ("pm", "path"):
            return said("package:/data/app/base.apk\n" if self.installed else "", 0 if self.installed else 1)
        if argv[:2] == ("am", "instrument"):
            words = iter(argv)
            extras = {next(words): next(words) for word in words if word == "-e"}
            self.result["run_id"] = extras["run_id"]
            answer = self.am(extras)
            if isinstance(answer, Exception):
                raise answer
            return answer
        if argv[:3] == ("run-as", PACKAGE, "cat"):
            return said(json.dumps(self.result))
        if argv[:2] == ("rm", "-rf"):
            self.files = {k: v for k, v in self.files.items() if not k.startswith(argv[2])}
        return said("")


def said(stdout: str, returncode: int = 0, stderr: str = "") -> RunResult:
    return RunResult(returncode=returncode, stdout=stdout, stderr=stderr)


OK = said("INSTRUMENTATION_RESULT: status=ok\nINSTRUMENTATION_CODE: -1\n")


@pytest.fixture
def run(tmp_path: Path) -> AppRun:
    for name in ("manifest.json", "model.tflite", "golden/0_input_0.npy"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    files = {n: tmp_path / n for n in ("manifest.json", "model.tflite", "golden/0_input_0.npy")}
    return AppRun(files=files, model_sha256=SHA, delegate="gpu", threads=4, warmup=1, runs=2)


@pytest.fixture
def apk(tmp_path: Path) -> Path:
    path = tmp_path / "app.apk"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("AndroidManifest.xml", "binary")
    return path


def test_a_run_from_install_to_tidying_up(run: AppRun, apk: Path) -> None:
    def app(extras: dict[str, str]) -> RunResult:
        assert phone.files[f"{extras['bundle']}/golden/0_input_0.npy"] == b"golden/0_input_0.npy"
        assert (extras["delegate"], extras["threads"], extras["warmup"], extras["runs"]) == (
            *("gpu", "4", "1", "2"),
        )
        return OK

    phone = Phone(app, installed=False)
    result = run_app(phone, run, apk=apk, timeout_s=5)
    assert result.runs_ms == (1.0, 2.0)
    assert phone.installs == [apk]
    assert phone.files == {}
    assert phone.calls[-1][:4] == ("run-as", PACKAGE, "rm", "-rf")
    started = next(c for c in phone.calls if c[0] == "am")
    assert started[:4] == ("am", "instrument", "-w", "-r")
    assert started[-1] == "dev.edgekit.demo/.BenchmarkInstrumentation"


def test_an_installed_app_needs_no_file(run: AppRun) -> None:
    phone = Phone(lambda extras: OK)
    run_app(phone, run, apk=None, timeout_s=5)
    assert phone.installs == []


def test_a_missing_app_is_told_before_anything_is_pushed(run: AppRun) -> None:
    phone = Phone(lambda extras: OK, installed=False)
    with pytest.raises(UserError, match="is not installed on adb:x") as told:
        run_app(phone, run, apk=None, timeout_s=5)
    assert "--apk" in str(told.value.hint)
    assert phone.calls == [("pm", "path", PACKAGE)]


def test_what_is_no_app_is_not_installed(run: AppRun, tmp_path: Path) -> None:
    phone = Phone(lambda extras: OK, installed=False)
    (tmp_path / "text.apk").write_text("no zip")
    with zipfile.ZipFile(tmp_path / "zip.apk", "w") as archive:
        archive.writestr("x", "")
    for name, words in (
        ("none.apk", "not an Android app"),
        ("text.apk", "not a zip"),
        ("zip.apk", "no Andr"),
    ):
        with pytest.raises(UserError, match=words):
            run_app(phone, run, apk=tmp_path / name, timeout_s=5)
    assert phone.installs == []


@pytest.mark.parametrize(
    ("said_by_am", "error", "words"),
    [
        (
            said("INSTRUMENTATION_RESULT: shortMsg=Process crashed.\nINSTRUMENTATION_CODE: 0"),
            DeviceError,
            "the app crashed on adb:x: Process crashed.",
        ),
        (
            said("INSTRUMENTATION_STATUS: Error=Unable to find instrumentation info for: x", 1),
            UserError,
            "has no benchmark of this version",
        ),
        (said("INSTRUMENTATION_CODE: 0"), DeviceError, "did not finish its run: it ended with code 0"),
    ],
)
def test_a_run_that_does_not_finish(
    run: AppRun, said_by_am: RunResult, error: type[EdgekitError], words: str
) -> None:
    phone = Phone(lambda extras: said_by_am)
    with pytest.raises(error, match=words):
        run_app(phone, run, apk=None, timeout_s=5)
    assert phone.files == {}


def test_an_app_that_hangs_is_stopped(run: AppRun) -> None:
    phone = Phone(lambda extras: DeviceTimeout("am did not end"))
    with pytest.raises(DeviceTimeout, match="did not end within 5 s"):
        run_app(phone, run, apk=None, timeout_s=5)
    assert ("am", "force-stop", PACKAGE) in phone.calls
    assert phone.files == {}


def test_a_lost_phone_is_not_asked_to_tidy_up_for_ever(run: AppRun) -> None:
    phone = Phone(lambda extras: DeviceLost("the cable"))
    with pytest.raises(DeviceLost, match="the cable"):
        run_app(phone, run, apk=None, timeout_s=5)


def test_a_refused_delegate_is_unsupported(run: AppRun) -> None:
    phone = Phone(lambda extras: OK)
    phone.result = failed("delegate", "LiteRT does not run this model on the gpu alone")
    with pytest.raises(Unsupported, match="on the gpu alone"):
        run_app(phone, run, apk=None, timeout_s=5)


def test_the_result_of_another_run_is_refused(run: AppRun) -> None:
    phone = Phone(lambda extras: phone.result.update(run_id="other") or OK)
    with pytest.raises(DeviceError, match="of the run 'other'"):
        run_app(phone, run, apk=None, timeout_s=5)


def test_a_release_build_cannot_be_read(run: AppRun, monkeypatch: pytest.MonkeyPatch) -> None:
    phone = Phone(lambda extras: OK)
    plain = phone.shell

    def shell(argv: tuple[str, ...], *, timeout_s: float = 30) -> RunResult:
        if argv[0] == "run-as":
            return said("", 1, f"run-as: package not debuggable: {PACKAGE}\n")
        return plain(argv, timeout_s=timeout_s)

    monkeypatch.setattr(phone, "shell", shell)
    with pytest.raises(DeviceError, match="not debuggable") as told:
        run_app(phone, run, apk=None, timeout_s=5)
    assert "debug build" in str(told.value.hint)
