"""A store shared by the session and arm64 programs compiled from source text."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from edgekit.store import Store


@pytest.fixture(scope="session")
def device_store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return Store(tmp_path_factory.mktemp("device, store"))


@pytest.fixture
def arm64_program(tmp_path: Path, arm64_tools: None) -> Callable[..., Path]:
    """Compile C for arm64."""

    def compile_program(source: str) -> Path:
        (tmp_path / "program.c").write_text(source)
        program = tmp_path / "program"
        compiler = ["aarch64-linux-gnu-gcc", "-O1", "-o", str(program), str(tmp_path / "program.c")]
        subprocess.run(compiler, check=True)
        return program

    return compile_program
