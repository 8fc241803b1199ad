"""`edgekit bench --via app` with the real adb client and a device end on loopback: success and faults."""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from boards.adb_phone import Phone
from boards.phone_app import PhoneApps

from edgekit.bundle import golden_samples, load_manifest
from edgekit.cli.main import run

pytestmark = pytest.mark.emulator

RUNS = 8


@dataclass
class App:
    """The phone, its apps, the bundle, and what the app answers when all is well."""

    phone: Phone
    apps: PhoneApps
    bundle: Path
    apk: Path
    good: dict[str, Any]

    def bench(self, *more: str) -> int:
        device = f"adb:{self.phone.serial}"
        runs = ("--runs", str(RUNS), "--warmup", "2", "--min-seconds", "0")
        return run(["bench", str(self.bundle), "--device", device, "--via", "app", *runs, *more])

    def is_clean(self) -> bool:
        base = self.phone.path("/data/local/tmp")
        return not self.apps.left() and not list(base.glob("edgekit-app*"))


@pytest.fixture(scope="module")
def installed(android_phone: Phone, tiny_build: Any, tmp_path_factory: pytest.TempPathFactory) -> App:
    bundle = next(tiny_build.out.rglob("manifest.json")).parent
    apk = tmp_path_factory.mktemp("apk") / "app-litert-debug.apk"
    with zipfile.ZipFile(apk, "w") as archive:
        archive.writestr("AndroidManifest.xml", bytes(range(256)) * 100)
    return App(android_phone, PhoneApps(android_phone.root), bundle, apk, _result(bundle))


@pytest.fixture
def app(installed: App) -> Iterator[App]:
    """Not installed at the start."""
    installed.apps.behave("ok", installed.good)
    yield installed
    installed.apps.remove()
    subprocess.run(["adb", "disconnect"], check=True, capture_output=True)


def _result(bundle: Path) -> dict[str, Any]:
    manifest = load_manifest(bundle)
    golden = []
    for sample in golden_samples(manifest):
        outputs = [
            {"dtype": o.dtype.name, "shape": list(o.shape), "data": base64.b64encode(o.tobytes()).decode()}
            for o in sample.outputs
        ]
        golden.append({"outputs": outputs, "max_abs": 0, "mismatched": 0, "top1": None})
    runtime = {"name": "litert", "version": "2.3.2", "delegate": "DELEGATE", "threads": 1}
    return {
        "schema_version": 1,
        "run_id": "RUN_ID",
        "status": "ok",
        "error": None,
        "runtime_version": "tflite 2.3.2",
        "bundle": {"name": "m", "profile": "p", "precision": "int8", "model_sha256": "MODEL_SHA256"},
        "runtime": {**runtime, "delegated_nodes": 9, "nodes": 9, "warnings": []},
        "protocol": {"warmup": 2, "runs": RUNS},
        "load_ms": 30.0,
        "warmup_ms": [9.0, 2.0],
        "runs_ms": [1.0 + i / 10 for i in range(RUNS)],
        "statistics": {"n": RUNS, "min": 1.0, "median": 1.35, "p90": 1.63, "mean": 1.35, "max": 1.7},
        "golden": golden,
        "peak_rss_kb": 70_000,
        "device": {"manufacturer": "edgekit", "model": "Persona A76", "soc": "x", "api_level": 34},
        "thermal": {"before": {"status": 0}, "after": {"status": 0}},
    }


def test_a_bundle_is_measured_on_the_gpu(app: App, capsys: pytest.CaptureFixture[str]) -> None:
    left = app.phone.path("/data/local/tmp/edgekit-app-killed")
    left.mkdir()
    shutil.chown(left, 2000, 2000)
    assert app.bench("--apk", str(app.apk), "--delegate", "gpu", "--json") == 0
    assert app.apps.apk == app.apk.read_bytes()
    report = json.loads(capsys.readouterr().out)
    latency, first, load, memory = report["measurements"]
    assert latency["source"] == "device"
    assert latency["n"] == RUNS
    assert latency["samples"] == app.good["runs_ms"]
    assert latency["median"] == pytest.approx(1.35)
    assert latency["detail"]["runtime"]["delegate"] == "gpu"
    assert latency["device"]["link"] == f"adb:{app.phone.serial}"
    assert (first["metric"], first["median"]) == ("first_run", 9.0)
    assert (load["metric"], load["median"]) == ("load_time", 30.0)
    assert (memory["metric"], memory["median"]) == ("peak_memory", 70_000 * 1024)
    n = len(app.good["golden"])
    golden = report["results"][0]["golden"]
    assert (golden["samples"], golden["agree"], golden["max_abs"]) == (n, n, 0)
    assert app.is_clean()


def test_people_read_which_delegate_ran(app: App, capsys: pytest.CaptureFixture[str]) -> None:
    assert app.bench("--apk", str(app.apk)) == 0
    out = capsys.readouterr().out
    assert "litert 2.3.2 on cpu" in out  # the bundle's own delegate is XNNPACK
    assert "golden samples" in out
    assert "agree" in out


def test_the_app_crashes(app: App, capsys: pytest.CaptureFixture[str]) -> None:
    app.apps.behave("crash", app.good)
    assert app.bench("--apk", str(app.apk)) == 7
    said = capsys.readouterr().err
    assert "the app crashed on adb:127.0.0.1" in said
    assert 'library "libx.so" not found' in said
    assert app.is_clean()


def test_the_app_is_missing(app: App, capsys: pytest.CaptureFixture[str]) -> None:
    assert app.bench() == 2
    said = capsys.readouterr().err
    assert "dev.edgekit.demo is not installed" in said
    assert "--apk" in said
    assert app.is_clean()


def test_the_delegate_is_refused(app: App, capsys: pytest.CaptureFixture[str]) -> None:
    message = "LiteRT does not run this model on the npu alone: no vendor library"
    error = {"kind": "delegate", "message": message}
    app.apps.behave("ok", {**app.good, "status": "failed", "error": error})
    assert app.bench("--apk", str(app.apk), "--delegate", "npu") == 4
    assert message in capsys.readouterr().err
    assert app.is_clean()


def test_the_result_is_of_another_run(app: App, capsys: pytest.CaptureFixture[str]) -> None:
    app.apps.behave("another", app.good)
    assert app.bench("--apk", str(app.apk)) == 7
    assert "is of the run 'another'" in capsys.readouterr().err
    assert app.is_clean()


def test_other_outputs_break_the_gate(app: App, capsys: pytest.CaptureFixture[str]) -> None:
    """The figures are shown all the same."""
    other = json.loads(json.dumps(app.good))
    output = other["golden"][0]["outputs"][0]
    values = np.frombuffer(base64.b64decode(output["data"]), output["dtype"]).copy()
    values[0] += 5
    output["data"] = base64.b64encode(values.tobytes()).decode()
    app.apps.behave("ok", other)
    assert app.bench("--apk", str(app.apk)) == 6
    out, err = capsys.readouterr()
    assert "latency" in out
    assert "1 of" in err
    assert "golden samples differ" in err


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["--per-op"], 4, "cannot list operators"),
        (["--threads", "1,2"], 2, "one number of threads"),
        (["--delegate", "tensorrt"], 2, "tensorrt"),
        (["--apk", "none.apk"], 2, "none.apk"),
    ],
)
def test_what_the_app_cannot_do(
    app: App, arguments: list[str], code: int, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert app.bench(*arguments) == code
    assert words in capsys.readouterr().err


def test_the_app_needs_a_phone_and_a_bundle(app: App, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["bench", str(app.bundle), "--via", "app"]) == 4
    assert "over adb" in capsys.readouterr().err
    assert run(["bench", str(app.bundle / "model.tflite"), "--via", "app"]) == 2
    assert "bundles, not bare files" in capsys.readouterr().err
    assert run(["bench", str(app.bundle), "--apk", str(app.apk)]) == 2
    assert "--apk is for --via app" in capsys.readouterr().err
