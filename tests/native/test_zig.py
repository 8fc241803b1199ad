"""The compiler of the Python package ziglang, where there is no cross compiler."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from edgekit.devices.elf import machine, needs_glibc
from edgekit.native import build, litert_runtime
from edgekit.store import Store

pytestmark = pytest.mark.emulator


def test_the_runner_is_compiled_without_a_cross_compiler(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, require_tools: Callable[..., None]
) -> None:
    pytest.importorskip("ziglang", reason="the package ziglang is not installed")
    require_tools("qemu-aarch64")
    which = shutil.which
    monkeypatch.setattr(
        build.shutil, "which", lambda name: None if name == "aarch64-linux-gnu-gcc" else which(name)
    )
    files = litert_runtime("aarch64", Store(tmp_path))
    runner = files["litert_run"]
    assert machine(runner.read_bytes()[:20]) == "aarch64" and needs_glibc(runner)
    (tmp_path / "run").mkdir()
    for name, path in files.items():
        shutil.copy(path, tmp_path / "run" / name)
    said = subprocess.run(
        ["qemu-aarch64", "-L", "/usr/aarch64-linux-gnu", "-cpu", "cortex-a72", tmp_path / "run/litert_run"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert said.returncode == 2 and "MODEL" in said.stderr, said.stderr
