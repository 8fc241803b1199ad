"""One model on all targets of a device: every bundle runs, and the report says which one and why."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edgekit.build import Request, Sources, build
from edgekit.report.validate import load_report
from edgekit.store import Store

pytestmark = [pytest.mark.slow, pytest.mark.emulator]


@pytest.fixture(scope="module")
def sources(tiny_model_dir: Path) -> Sources:
    entry = tiny_model_dir / "model.py"
    return Sources(model=f"{entry}:net", calib=f"{entry}:calib", eval=f"{entry}:eval")


@pytest.fixture(scope="module")
def built(sources: Sources, arm64_tools: None, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The tiny model on every target of the Raspberry Pi 4."""
    return build(sources, "pi4", Request(target="all"), out=tmp_path_factory.mktemp("all"), store=Store())


def golden(bundle: Path) -> subprocess.CompletedProcess[str]:
    """The bundle's own check, as its reader runs it."""
    return subprocess.run(
        [sys.executable, str(bundle / "run.py")], capture_output=True, text=True, check=False, timeout=300
    )


def test_every_target_is_built_and_passes(built: Any) -> None:
    rows = {row["target"]: row for row in built.report["targets"]}
    assert set(rows) == {"tflite/xnnpack", "executorch/xnnpack", "torchscript/qnnpack", "onnx/cpu"}
    assert {row["status"] for row in rows.values()} == {"ok"}
    assert all(row["bytes"] and row["sqnr_db"] > 15 and row["accuracy"]["drop"] <= 1 for row in rows.values())
    assert [row["chosen"] for row in built.report["targets"]] == [True, False, False, False]
    assert built.report["targets"][0]["reason"]


def test_each_bundle_runs_by_its_own_means(built: Any) -> None:
    folders = [built.folder, *sorted((built.folder / "targets").iterdir())]
    assert len(folders) == 4
    for folder in folders:
        report = load_report(folder)
        assert report["status"] == "ok"
        assert (folder / "report.html").stat().st_size > 10_000
        manifest = json.loads((folder / "bundle" / "manifest.json").read_text())
        assert manifest["runtime"]["name"] == report["target"]
        done = golden(folder / "bundle")
        assert done.returncode == 0, done.stdout + done.stderr
        assert "3 of 3 golden samples agree" in done.stdout


def test_auto_keeps_the_best_of_all(
    built: Any, sources: Sources, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """The same steps out of the cache; only the chosen bundle is written."""
    out = tmp_path_factory.mktemp("auto")
    auto = build(sources, "pi4", Request(target="auto"), out=out, store=Store())
    assert auto.report["target"] == built.report["target"]
    assert not (auto.folder / "targets").exists()
    mine, theirs = ([r["cost"] for r in b.report["targets"]] for b in (auto, built))
    assert mine == theirs
    costs = [c for c in mine if c is not None]
    assert auto.report["targets"][0]["cost"] == min(costs, default=None)


def test_a_jetson_bundle_has_both_files_and_scripts(
    sources: Sources, tmp_path: Path, require_tools: Callable[..., None]
) -> None:
    import onnx

    require_tools("shellcheck")
    made = build(sources, "jetson_orin_nano", Request(), out=tmp_path, store=Store())
    bundle = made.folder / "bundle"
    assert made.status == "ok"
    for name in ("model.onnx", "model_fp16.onnx"):
        onnx.checker.check_model(onnx.load(bundle / name), full_check=True)
    for script in ("build_engine.sh", "bench.sh"):
        done = subprocess.run(
            ["shellcheck", str(bundle / script)], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout
    assert [c["precision"] for c in made.report["companions"]] == ["fp16"]
    assert golden(bundle).returncode == 0


@pytest.mark.parametrize(("profile", "precision"), [("android_gpu", "fp16"), ("android_nnapi", "int8")])
def test_a_phone_bundle_says_what_to_expect(
    sources: Sources, tmp_path: Path, profile: str, precision: str
) -> None:
    made = build(sources, profile, Request(), out=tmp_path, store=Store())
    assert made.status == "ok"
    assert made.report["plan"]["scheme"]["precision"] == precision
    assert made.report["warnings"], "each of these delegates has something to beware of"
    assert golden(made.folder / "bundle").returncode == 0
