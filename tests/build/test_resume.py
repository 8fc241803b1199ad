"""Builds that are killed, and builds that meet on one store."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edgekit.bundle.manifest import load_manifest, manifest_files
from edgekit.report.validate import load_report
from edgekit.store import Store, digest_file

pytestmark = pytest.mark.slow

# Kills itself, as the out-of-memory killer does: no handler runs.
BUILD = """
import json, os, sys, threading
from pathlib import Path
from edgekit.build import Request, Sources, build
from edgekit.store import Store

entry, root, out, moment, step = sys.argv[1:]

def die():
    os.kill(os.getpid(), 9)

def emit(event):
    if moment in ("step_started", "step_finished") and (event.kind, event.step) == (moment, step):
        die()
    if moment == "inside" and (event.kind, event.step) == ("step_started", step):
        threading.Timer(1.5, die).start()

if moment == "rename":  # just before the n-th file or folder of the output gets its name
    left = [int(step)]
    def counting(real):
        def rename(source, target, **more):
            if str(target).startswith(out):
                left[0] -= 1
                if left[0] == 0:
                    die()
            real(source, target, **more)
        return rename
    os.rename, os.replace = counting(os.rename), counting(os.replace)

built = build(
    Sources(model=f"{entry}:net", calib=f"{entry}:calib", eval=f"{entry}:eval"),
    "pi4",
    Request(),
    out=Path(out),
    store=Store(Path(root)),
    emit=emit,
)
cached = {s["name"]: s["cached"] for s in built.report["stages"]}
print(json.dumps({"digest": built.report["digest"], "status": built.status, "cached": cached}))
"""


def check_bundle(folder: Path) -> None:
    listed = list(manifest_files(load_manifest(folder).data))
    assert listed
    for entry in listed:
        assert digest_file(folder / entry["path"]) == entry["sha256"]


class Builder:
    """Runs the build above in processes of its own."""

    def __init__(self, entry: Path, store: Store, out: Path) -> None:
        self.entry, self.store, self.out = entry, store, out

    def start(self, moment: str = "", step: str = "") -> subprocess.Popen[str]:
        command = [sys.executable, "-c", BUILD, self.entry, self.store.root, self.out, moment, step]
        return subprocess.Popen(
            [str(c) for c in command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    def finish(self, process: subprocess.Popen[str]) -> dict[str, Any]:
        stdout, stderr = process.communicate(timeout=300)
        assert process.returncode == 0, stderr
        result: dict[str, Any] = json.loads(stdout.splitlines()[-1])
        return result

    def kill(self, moment: str, step: str) -> None:
        """Run until the kill and look at what is left: nothing half-made under a final name."""
        process = self.start(moment, step)
        _, stderr = process.communicate(timeout=300)
        assert process.returncode == -9, f"{moment} {step} did not come: {stderr}"
        for path in (self.store.root / "objects").glob("*/*"):
            assert digest_file(path) == path.name
        for path in (self.store.root / "steps").glob("*/*.json"):
            assert isinstance(json.loads(path.read_text()), dict)
        folder = self.out / "net" / "pi4"
        if (folder / "report.json").exists():
            load_report(folder)
        if (folder / "bundle").exists():
            check_bundle(folder / "bundle")


@pytest.fixture
def builder(
    tiny_build: Any, tiny_model_dir: Path, fresh_store: Callable[[], Store], tmp_path: Path
) -> Builder:
    return Builder(tiny_model_dir / "model.py", fresh_store(), tmp_path / "out")


def test_killed_in_each_step_it_resumes_to_the_same_report(builder: Builder, tiny_build: Any) -> None:
    stages = [s["name"] for s in tiny_build.built.report["stages"]]
    compared = [f"{step} fp16 for comparison" for step in ("quantize", "verify")]
    steps = ["baseline", "convert", "quantize", "verify", "measure", "operators", *compared]
    assert stages == ["preflight", "lint", *steps, "golden samples"]
    builder.kill("step_started", "load")
    builder.kill("step_started", "preflight")
    builder.kill("step_started", "lint")
    builder.kill("step_started", "baseline")
    builder.kill("inside", "convert")
    for step in steps[1:]:
        builder.kill("step_started", step)
    builder.kill("step_started", "golden samples")
    for n in (1, 4, 7):
        builder.kill("rename", str(n))
    assert not (builder.out / "net" / "pi4").exists(), "nothing has its name before all is done"
    result = builder.finish(builder.start())
    assert result["status"] == "ok"
    assert result["digest"] == tiny_build.built.report["digest"]
    assert set(result["cached"].values()) == {True}, "what was finished is not done again"
    assert [p.name for p in (builder.out / "net").iterdir()] == ["pi4"], "what the killed ones left is gone"
    assert sorted(p.name for p in (builder.out / "net" / "pi4").iterdir()) == [
        "bundle",
        "events.jsonl",
        "recipe.toml",
        "report.html",
        "report.json",
    ]


def test_killed_while_it_replaces_a_build_it_leaves_no_half_one(builder: Builder, tiny_build: Any) -> None:
    builder.store = tiny_build.store
    first = builder.finish(builder.start())
    for n in (9, 11):
        builder.kill("rename", str(n))
    assert builder.finish(builder.start())["digest"] == first["digest"]
    assert [p.name for p in (builder.out / "net").iterdir()] == ["pi4"]
    check_bundle(builder.out / "net" / "pi4" / "bundle")


def test_two_builds_at_once_share_the_work(builder: Builder, tiny_build: Any) -> None:
    other = Builder(builder.entry, builder.store, builder.out.with_name("other"))
    processes = [builder.start(), other.start()]
    results = [b.finish(p) for b, p in zip((builder, other), processes, strict=True)]
    assert {r["status"] for r in results} == {"ok"}
    assert {r["digest"] for r in results} == {tiny_build.built.report["digest"]}
    for step in tiny_build.built.report["stages"]:
        name = step["name"]
        assert sorted(r["cached"][name] for r in results) == [False, True], f"{name} ran once"


def test_two_builds_at_once_into_one_folder(builder: Builder, tiny_build: Any) -> None:
    builder.store = tiny_build.store
    processes = [builder.start(), builder.start()]
    results = [builder.finish(p) for p in processes]
    assert {r["digest"] for r in results} == {tiny_build.built.report["digest"]}
    folder = builder.out / "net" / "pi4"
    assert load_report(folder)["digest"] == tiny_build.built.report["digest"]
    check_bundle(folder / "bundle")
