"""What is missing for measuring is found before long work starts."""

from __future__ import annotations

import platform
from pathlib import Path

import pytest

from edgekit.backends import get_backend
from edgekit.build.measuring import open_for_build
from edgekit.build.runner import Runner
from edgekit.errors import MissingDependency
from edgekit.native import arm64_python
from edgekit.profiles.loader import load_profile
from edgekit.store import Store
from edgekit.types import Event


@pytest.mark.emulator
@pytest.mark.skipif(platform.machine() == "aarch64", reason="this host has an arm64 Python")
def test_a_missing_arm64_python_shows_when_the_link_is_opened(
    arm64_tools: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(arm64_python.PYTHON_VARIABLE, raising=False)
    monkeypatch.setattr(arm64_python, "_APT_SOURCES", ())
    events: list[Event] = []
    runner = Runner(Store(tmp_path), events.append, 0)
    profile, onnx = load_profile("pi4"), get_backend("onnx")
    link, warnings = open_for_build("emulator", False, profile, onnx, runner, delegate="cpu")
    assert link is None
    assert len(warnings) == 1 and "on Debian only" in warnings[0]
    assert [e.message for e in events if e.kind == "warning"] == warnings
    with pytest.raises(MissingDependency, match="on Debian only"):
        open_for_build("emulator", True, profile, onnx, runner, delegate="cpu")
