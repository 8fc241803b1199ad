"""Profile files on disk for the tests of this room."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

WriteProfile = Callable[..., Path]

BOARD = """
id = "board"
title = "A board"

[os]
name = "Linux"
bits = 64
abi = "aarch64"

[[cores]]
microarchitecture = "cortex-a72"
count = 4
ghz = 1.5
isa = ["neon", "crc32"]

[memory]
mib = 2048

[[targets]]
runtime = "tflite"
delegate = "xnnpack"
precisions = ["int8", "float32"]

[constraints]
channel_multiple = 8
threads = 4

[sources]
os = "test"
cores = "test"
memory = "test"
targets = "test"
constraints = "test"
"""


@pytest.fixture
def write(tmp_path: Path) -> WriteProfile:
    """Write a profile file and return its path; without text, a clean one."""

    def _write(text: str = BOARD, name: str = "board.toml") -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    return _write


@pytest.fixture
def board_text() -> str:
    return BOARD
