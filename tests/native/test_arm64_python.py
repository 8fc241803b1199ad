from __future__ import annotations

from pathlib import Path

import pytest

from edgekit.errors import MissingDependency, UserError
from edgekit.native import arm64_python
from edgekit.store import Store


def test_a_requirement_is_installed_with_all_that_it_needs() -> None:
    pins = arm64_python._closure(["torch>=2.8,<2.10", "numpy"])
    names = {pin.partition("==")[0] for pin in pins}
    assert "torch==2.9.1" in pins
    assert {"numpy", "sympy", "mpmath", "jinja2", "markupsafe", "typing-extensions"} <= names
    assert all("==" in pin for pin in pins) and pins == sorted(pins)


def test_a_pin_that_does_not_fit_gives_way() -> None:
    assert "torch>=2.10" in arm64_python._closure(["torch>=2.10"])
    assert arm64_python._closure(["some-package<3"]) == ["some-package<3"]


def test_a_named_interpreter_must_be_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(arm64_python.PYTHON_VARIABLE, str(tmp_path / "absent"))
    with pytest.raises(UserError, match="no interpreter"):
        arm64_python.arm64_python(["numpy"], Store(tmp_path / "store"))


def test_elsewhere_than_on_debian_the_variable_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(arm64_python.PYTHON_VARIABLE, raising=False)
    monkeypatch.setattr(arm64_python.platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(arm64_python, "_APT_SOURCES", ())
    with pytest.raises(MissingDependency, match="on Debian only") as caught:
        arm64_python.arm64_python(["numpy"], Store(tmp_path / "store"))
    assert arm64_python.PYTHON_VARIABLE in (caught.value.hint or "")
