"""scripts/android_checks.py: what it lets through, and that each fault that it is there for is found."""

from __future__ import annotations

import base64
import copy
import importlib.util
import re
import shlex
import shutil
import tomllib
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import click
import numpy as np
import pytest

from edgekit.bundle import golden_samples, load_manifest, run
from edgekit.cli.main import main
from edgekit.devices.android.app import DELEGATES, INSTRUMENTATION, PACKAGE

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def checks() -> ModuleType:
    spec = importlib.util.spec_from_file_location("android_checks", ROOT / "scripts" / "android_checks.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def app(tmp_path: Path) -> Path:
    """A copy of the project's build files."""
    copied = tmp_path / "android_demo"
    for name in ("core/build.gradle.kts", "app/build.gradle.kts", "build.gradle.kts", "settings.gradle.kts"):
        (copied / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / "android_demo" / name, copied / name)
    shutil.copytree(ROOT / "android_demo" / "gradle", copied / "gradle")
    shutil.copy(ROOT / "android_demo" / "gradlew", copied / "gradlew")
    return copied


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def test_the_projects_build_files_agree(checks: ModuleType, app: Path) -> None:
    assert checks.gradle_complaints(app) == []
    assert checks.gradle_complaints(ROOT / "android_demo") == []


@pytest.mark.parametrize(
    ("file", "old", "new", "complaint"),
    [
        (
            "app/build.gradle.kts",
            "libs.litert.gpu)",
            "libs.litert.npu)",
            "litert.npu is not in the catalogue",
        ),
        (
            "app/build.gradle.kts",
            "    implementation(libs.activity)\n",
            "",
            "activity of the catalogue is used",
        ),
        ("app/build.gradle.kts", "(libs.activity)", '("a.b:c:1.0")', "a version outside of the catalogue"),
        ("app/build.gradle.kts", "minSdk = libs.versions.minSdk.get().toInt()", "minSdk = 24", "minSdk = 24"),
        ("gradle/libs.versions.toml", 'executorch = "1.5.1"', 'executorch = "1.5.0"', "edgekit exports with"),
        ("gradle/libs.versions.toml", 'litert = "2.3.2"', 'litert = "2.3.1"', "README.txt of bundles"),
        ("gradle/libs.versions.toml", 'tflite1 = "1.4.2"', 'tflite1 = "1.4.1"', "tflite/nnapi says"),
        ("gradle/libs.versions.toml", 'junit = "4.13.2"', 'junit = "4.+"', "no exact version"),
        ("gradle/libs.versions.toml", 'agp = "9.4.0"', 'agp = "9.9.0"', "add it to LEAST_GRADLE"),
        ("gradle/libs.versions.toml", ', version.ref = "junit"', "", "libraries.junit has no version"),
        ("gradle/wrapper/gradle-wrapper.properties", "gradle-9.6.1", "gradle-9.5.0", "needs Gradle 9.6"),
        ("gradle/wrapper/gradle-wrapper.properties", "Sha256Sum=9", "Sha256Sum=", "no distributionSha256Sum"),
        ("settings.gradle.kts", '":core", ":app"', '":app"', "module core"),
    ],
)
def test_each_fault_is_found(
    checks: ModuleType, app: Path, file: str, old: str, new: str, complaint: str
) -> None:
    edit(app / file, old, new)
    found = checks.gradle_complaints(app)
    assert any(complaint in x for x in found), found


def test_another_wrapper_is_found(checks: ModuleType, app: Path) -> None:
    with (app / "gradle" / "wrapper" / "gradle-wrapper.jar").open("ab") as jar:
        jar.write(b"x")
    (app / "gradlew").chmod(0o644)
    found = checks.gradle_complaints(app)
    assert any("is not the one that Gradle published" in x for x in found)
    assert "gradlew is not executable" in found


@pytest.fixture(scope="module")
def result(tiny_build: Any) -> tuple[Path, dict[str, Any]]:
    """A bundle, and what the app's core would give for it if it computed as the host does."""
    bundle = next(tiny_build.out.rglob("manifest.json")).parent
    manifest = load_manifest(bundle)
    model = run.Model(manifest.root, dict(manifest.data))
    golden = []
    for sample in golden_samples(manifest):
        stored = model.run(sample.inputs)[0]
        scores = run.to_real(stored, manifest.data["outputs"][0])[0]
        data = base64.b64encode(np.ascontiguousarray(stored).tobytes()).decode()
        output = {"dtype": stored.dtype.name, "shape": list(stored.shape), "data": data}
        top = int(np.argmax(scores))
        golden.append({"outputs": [output], "max_abs": 0, "mismatched": 0, "top1": top})
    figures = dict.fromkeys(("min", "median", "p90", "mean", "max"), 1.0)
    runtime = {"name": "jvm", "version": "2.3", "delegate": "cpu", "threads": 1}
    facts = {"name": manifest.name, "profile": manifest.profile, "precision": "int8"}
    return bundle, {
        "schema_version": 1,
        "run_id": "r",
        "status": "ok",
        "error": None,
        "runtime_version": "tflite 2.3.2",
        "bundle": {**facts, "model_sha256": manifest.data["models"][0]["sha256"]},
        "runtime": {**runtime, "delegated_nodes": None, "nodes": None, "warnings": []},
        "protocol": {"warmup": 0, "runs": 1},
        "load_ms": 1.0,
        "warmup_ms": [],
        "runs_ms": [1.0],
        "statistics": {"n": 1, **figures},
        "golden": golden,
        "peak_rss_kb": None,
        "device": {"manufacturer": "none", "model": "jvm", "soc": None, "api_level": None},
        "thermal": {"before": {"status": None}, "after": {"status": None}},
    }


def _other_class(result: dict[str, Any]) -> None:
    result["golden"][0]["top1"] += 1


def _lost(result: dict[str, Any]) -> None:
    result["golden"].pop()


def _malformed(result: dict[str, Any]) -> None:
    del result["runtime"]


def _failed(result: dict[str, Any]) -> None:
    result.update(status="failed", error={"kind": "runtime", "message": "no"})


def test_equal_results_are_let_through(checks: ModuleType, result: tuple[Path, dict[str, Any]]) -> None:
    bundle, same = result
    line, complaints = checks.compare(same, bundle)
    n = len(same["golden"])
    assert n > 0
    assert not complaints
    assert line.startswith(f"same top-1 on {n} of {n}, outputs equal on {n} of {n}, largest difference 0 ")


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (_other_class, "on the JVM"),
        (_lost, "samples came back"),
        (_failed, "the run failed"),
        (_malformed, "does not fit its schema"),
    ],
)
def test_different_results_are_found(
    checks: ModuleType,
    result: tuple[Path, dict[str, Any]],
    change: Callable[[dict[str, Any]], None],
    complaint: str,
) -> None:
    bundle, other = result[0], copy.deepcopy(result[1])
    change(other)
    assert complaint in checks.compare(other, bundle)[1][0]


README = ROOT / "android_demo" / "README.md"


def test_the_readme_names_the_versions_of_the_catalogue() -> None:
    text = README.read_text()
    versions = tomllib.loads((README.parent / "gradle" / "libs.versions.toml").read_text())["versions"]
    for name in ("litert", "tflite1", "executorch", "compileSdk"):
        assert versions[name] in text, f"{name} {versions[name]}"
    properties = (README.parent / "gradle/wrapper/gradle-wrapper.properties").read_text()
    gradle = re.search(r"gradle-([\d.]+)-bin", properties)
    assert gradle is not None
    assert f"Gradle {gradle[1]}" in text


def test_the_commands_of_the_readme_parse(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here = tmp_path / "android_demo"
    for name in (
        "../out/digits_demo/android_gpu/bundle/manifest.json",
        "app/build/outputs/apk/litert/debug/app-litert-debug.apk",
        "my_weights.safetensors",
    ):
        (here / name).parent.mkdir(parents=True, exist_ok=True)
        (here / name).touch()
    monkeypatch.chdir(here)
    lines = re.findall(r"^\$ edgekit (.*)$", README.read_text(), re.MULTILINE)
    assert len(lines) >= 3
    for line in lines:
        name, *arguments = shlex.split(line)
        command = main.get_command(click.Context(main), name)
        assert command is not None, name
        command.make_context(name, arguments)


def test_the_app_is_called_the_same_on_both_sides() -> None:
    app = README.parent / "app"
    assert f'applicationId = "{PACKAGE}"' in (app / "build.gradle.kts").read_text()
    assert f'namespace = "{PACKAGE}"' in (app / "build.gradle.kts").read_text()
    package, _, name = INSTRUMENTATION.partition("/")
    assert package == PACKAGE
    assert f'android:name="{name}"' in (app / "src/main/AndroidManifest.xml").read_text()
    source = app / "src/main/kotlin" / PACKAGE.replace(".", "/") / f"{name[1:]}.kt"
    assert f"class {name[1:]} : Instrumentation()" in source.read_text()
    delegates = re.findall(r"delegates = listOf\((.*)\)", "".join(p.read_text() for p in app.rglob("*.kt")))
    assert {d for found in delegates for d in re.findall(r'"(\w+)"', found)} == set(DELEGATES.values())
