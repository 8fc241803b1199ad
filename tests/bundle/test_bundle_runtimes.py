"""A bundle of each runtime, from writing it to running it: run.py, README, damage, what is missing."""

from __future__ import annotations

import importlib.metadata
import json
import os
import re
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgekit.bundle import GoldenSample, load_manifest, run, verify_bundle
from edgekit.errors import MissingDependency, StepFailed, UserError

SCRIPT = b"#!/bin/sh\necho built\n"


@pytest.fixture(autouse=True)
def settings_of_torch() -> Iterator[None]:
    """run.py sets threads and engine of its process, which here is the tests' own."""
    import torch

    threads, engine = torch.get_num_threads(), torch.backends.quantized.engine
    yield
    torch.set_num_threads(threads)
    torch.backends.quantized.engine = engine


@pytest.fixture
def made(case: Any, kit: Any, tmp_path: Path) -> Path:
    """A bundle with a companion, a script and a data file."""
    path = kit.file(case)
    companion = replace(kit.artifact_of(case, path), precision="fp16")
    return kit.write(
        tmp_path / "out",
        case,
        path,
        companions=(companion,),
        companion_outputs=[kit.golden_outputs(case, path, kit.samples(2))],
        extra_files={"build.sh": SCRIPT, "notes/facts.json": b"{}"},
    )


def python(*arguments: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    return subprocess.run(
        [sys.executable, "-P", *map(str, arguments)],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def program_in(readme: str) -> str:
    """The indented block under "In a Python program"."""
    found = re.search(r"In a Python program\n-+\n\n((?:    .*\n|\n)+)", readme)
    assert found is not None, readme
    return textwrap.dedent(found[1])


def test_run_py_and_the_readme_do_what_they_say(made: Path, case: Any) -> None:
    """run.py in a process of its own, then the README's program in the same folder."""
    done = python("run.py", cwd=made)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 of 2 golden samples agree" in done.stdout
    version = importlib.metadata.version(case.package)
    assert f"in {case.package} {version}" in done.stdout.splitlines()[0]

    readme = (made / "README.txt").read_text()
    check = (
        "\nfor i, y in enumerate(outputs):\n"
        "    assert np.allclose(y, np.load(f'golden/0_output_{i}.npy'), atol=1e-4), (i, y)\n"
        "print('agrees', len(outputs))\n"
    )
    (made / "theirs.py").write_text(program_in(readme) + check)
    done = python("theirs.py", cwd=made)
    assert done.returncode == 0, done.stderr
    assert "agrees 2" in done.stdout


def test_the_readme_tells_what_to_install_and_what_there_is(made: Path, case: Any) -> None:
    readme = (made / "README.txt").read_text()
    (install,) = (line.strip() for line in readme.splitlines() if "pip install numpy" in line)
    wanted = install.removeprefix("pip install numpy ").strip('"')
    assert wanted.startswith(case.package)
    version = importlib.metadata.version(case.package).split("+")[0]
    if case.delegate != "tensorrt" and case.package != "torch":
        assert wanted == f"{case.package}=={version}"
    assert f"The golden outputs are those of {case.package} {version}" in " ".join(readme.split())
    for name in (f"model{case.suffix}", f"model_fp16{case.suffix}", "build.sh", "notes/facts.json", "run.py"):
        assert re.search(rf"^    {re.escape(name)} ", readme, re.MULTILINE), name
    assert "x: float32 1x3x8x8 (NCHW)" in readme and "best: float32 1" in readme
    assert not re.search(r"\{\w+\}", readme), "a placeholder was left"
    assert max(map(len, readme.splitlines())) <= 110


def test_companions_and_scripts_are_listed_and_guarded(made: Path, case: Any) -> None:
    manifest = load_manifest(made)
    assert [m["path"] for m in manifest.data["models"]] == [f"model{case.suffix}", f"model_fp16{case.suffix}"]
    assert [m["precision"] for m in manifest.data["models"]] == [case.precision, "fp16"]
    assert [f["path"] for f in manifest.data["files"]] == ["build.sh", "notes/facts.json"]
    (own,) = (m["golden"]["samples"] for m in manifest.data["models"] if "golden" in m)
    assert [[f["path"] for f in sample["outputs"]] for sample in own] == [
        [f"golden/{i}_output_fp16_{k}.npy" for k in range(2)] for i in range(2)
    ]
    assert os.access(made / "build.sh", os.X_OK) and not os.access(made / "notes/facts.json", os.X_OK)
    assert os.access(made / "run.py", os.X_OK)
    (made / "build.sh").write_bytes(SCRIPT + b"rm -rf /\n")
    with pytest.raises(StepFailed, match=r"build\.sh is damaged or was changed"):
        load_manifest(made)
    with pytest.raises(run.Damaged, match=r"build\.sh is damaged"):
        run.check_golden(made)


@pytest.mark.parametrize("name", ["golden/1_output_fp16_0.npy", "model_fp16.onnx"])
def test_damage_to_what_belongs_to_a_companion_is_noticed(name: str, kit: Any, tmp_path: Path) -> None:
    path = kit.file(kit.plain)
    bundle = kit.write(
        tmp_path,
        kit.plain,
        path,
        companions=(replace(kit.artifact_of(kit.plain, path), precision="fp16"),),
        companion_outputs=[kit.golden_outputs(kit.plain, path, kit.samples(2))],
    )
    load_manifest(bundle)
    (bundle / name).write_bytes((bundle / name).read_bytes()[:-1] + b"\xff")
    with pytest.raises(StepFailed, match=f"{re.escape(name)} is damaged or was changed"):
        load_manifest(bundle)


def test_verify_sees_a_wrong_output(case: Any, kit: Any, tmp_path: Path) -> None:
    path = kit.file(case)
    manifest = load_manifest(kit.write(tmp_path / "out", case, path))
    assert [r.passed for r in verify_bundle(manifest)] == [True, True]
    inputs = kit.samples(1)
    scores, best = kit.golden_outputs(case, path, inputs)[0]
    wrong = [GoldenSample(inputs=(inputs[0],), outputs=(scores + 0.5, best))]
    manifest = load_manifest(kit.write(tmp_path / "wrong", case, path, golden=wrong))
    (result,) = verify_bundle(manifest)
    assert not result.passed
    assert (result.mismatched, result.elements) == (4, 5)
    assert result.max_abs == pytest.approx(0.5, abs=1e-3)


def test_a_damaged_file_is_not_run(made: Path, case: Any) -> None:
    model = made / f"model{case.suffix}"
    model.write_bytes(model.read_bytes()[:-1])
    with pytest.raises(StepFailed, match=f"model{re.escape(case.suffix)} is damaged or was changed"):
        load_manifest(made)
    with pytest.raises(run.Damaged):
        run.Model(made, json.loads((made / "manifest.json").read_text()))


def test_a_file_that_is_no_model_is_one_sentence(made: Path, case: Any) -> None:
    """Its hash is right: whoever wrote the bundle wrote junk."""
    from edgekit.store import digest_file

    model = made / f"model{case.suffix}"
    model.write_bytes(b"this is text" * 20)
    manifest = json.loads((made / "manifest.json").read_text())
    manifest["models"][0] |= {"sha256": digest_file(model), "bytes": model.stat().st_size}
    with pytest.raises(run.Problem, match=f"cannot load model{re.escape(case.suffix)}: ") as caught:
        run.Model(made, manifest)
    assert len(str(caught.value).splitlines()) == 1
    (made / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(UserError, match="cannot load"):
        verify_bundle(load_manifest(made))


def test_the_wrong_runtime_is_one_sentence(made: Path, case: Any) -> None:
    manifest = json.loads((made / "manifest.json").read_text())
    other = "executorch" if case.runtime == "onnx" else "onnx"
    manifest["runtime"] |= {"name": other, "delegates": []}
    with pytest.raises(run.Problem, match=f"cannot load model{re.escape(case.suffix)}"):
        run.Model(made, manifest)
    manifest["runtime"]["name"] = "coreml"
    with pytest.raises(run.Problem, match="the bundle is for coreml"):
        run.Model(made, manifest)


def test_a_missing_package_is_named(made: Path, case: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [n for n in sys.modules if n.split(".")[0] == case.package]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, case.package, None)
    with pytest.raises(run.Problem, match=f"{case.package} is not installed: pip install {case.package}"):
        run.check_golden(made)
    with pytest.raises(MissingDependency, match=f"{case.package} is not installed") as caught:
        verify_bundle(load_manifest(made))
    assert str(caught.value.hint).startswith(f"pip install {case.package}")


def test_another_signature_is_noticed(made: Path, case: Any) -> None:
    if case.runtime == "torchscript":
        pytest.skip("a TorchScript file does not tell the shapes of its tensors")
    manifest = json.loads((made / "manifest.json").read_text())
    manifest["inputs"][0]["shape"] = [1, 3, 9, 9]
    with pytest.raises(run.Problem, match=r"input 'x' is float32 \[1, 3, 8, 8\], the manifest says"):
        run.Model(made, manifest)
    manifest["inputs"].append({**manifest["inputs"][0], "name": "y"})
    with pytest.raises(run.Problem, match="there are 1 inputs, the manifest names 2"):
        run.Model(made, manifest)


def test_outputs_that_are_not_the_manifests_are_noticed(made: Path) -> None:
    manifest = json.loads((made / "manifest.json").read_text())
    inputs = [np.load(made / "golden/0_input_0.npy")]
    with pytest.raises(run.Problem, match="there are 0 inputs, the manifest names 1"):
        run.Model(made, manifest).run([])
    manifest["outputs"][0]["shape"] = [1, 5]
    with pytest.raises(run.Problem, match=r"output 'scores' is float32 \[1, 4\], the manifest says"):
        run.Model(made, manifest).run(inputs)


@pytest.mark.parametrize(
    "name", ["run.py", "manifest.json", "golden/x", "model.onnx", "../x", "/x", "a\\b", ".", "a//b", "c:x"]
)
def test_further_files_cannot_take_names(name: str, kit: Any, tmp_path: Path) -> None:
    case = kit.plain
    with pytest.raises(StepFailed, match="cannot be called"):
        kit.write(tmp_path / "out", case, kit.file(case), extra_files={name: b""})
    assert not (tmp_path / "out" / "bundle").exists()


def test_two_companions_of_one_precision_are_refused(kit: Any, tmp_path: Path) -> None:
    case = kit.plain
    companion = replace(kit.artifact_of(case, kit.file(case)), precision="fp16")
    with pytest.raises(StepFailed, match="would have one name"):
        kit.write(tmp_path, case, kit.file(case), companions=(companion, companion))


def test_a_manifest_without_the_later_keys_is_still_read(made: Path) -> None:
    file = made / "manifest.json"
    manifest = json.loads(file.read_text())
    del manifest["files"], manifest["runtime"]["package"], manifest["runtime"]["tested_version"]
    file.write_text(json.dumps(manifest))
    assert load_manifest(made).name == "tiny"


class TestIllegalInstructions:
    """torch 2.10 and later on a core without LSE atomics: said before the import ends the process."""

    @pytest.fixture
    def on_a72(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
        cpuinfo = tmp_path / "cpuinfo"
        cpuinfo.write_text("Features\t: fp asimd evtstrm crc32 cpuid\n")
        monkeypatch.setattr(run.platform, "machine", lambda: "aarch64")
        monkeypatch.setattr(run, "CPUINFO", cpuinfo)
        return cpuinfo

    @pytest.mark.parametrize("version", ["2.10.0", "2.13.0+cpu", "3.0"])
    def test_it_is_refused(self, on_a72: Path, version: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(run.metadata, "version", lambda name: version)
        with pytest.raises(run.Problem, match=r"needs LSE atomics.*: take another"):
            run.refuse_illegal_torch("take another")

    @pytest.mark.parametrize("version", ["2.8.0", "2.9.1+cpu"])
    def test_older_ones_run(self, on_a72: Path, version: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(run.metadata, "version", lambda name: version)
        run.refuse_illegal_torch("take another")

    def test_newer_cores_run_all(self, on_a72: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        on_a72.write_text("Features\t: fp asimd atomics asimddp\n")
        monkeypatch.setattr(run.metadata, "version", lambda name: "2.13.0")
        run.refuse_illegal_torch("take another")


def test_a_bundle_runs_from_anywhere(made: Path, tmp_path: Path, case: Any) -> None:
    if case.package in ("executorch",):
        pytest.skip("slow to start, and the same code as the others'")
    shutil.move(made, tmp_path / "else where")
    done = python(tmp_path / "else where" / "run.py", cwd=Path("/"))
    assert done.returncode == 0, done.stderr
