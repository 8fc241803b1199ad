"""Commands that a Python of the device runs."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgekit.devices.emulator.link import EmulatorLink
from edgekit.devices.local import LocalLink
from edgekit.errors import MissingDependency, UserError
from edgekit.native.arm64_python import PYTHON_VARIABLE
from edgekit.profiles.loader import load_profile
from edgekit.store import Store
from edgekit.types import DeviceCommand


def program(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "program.py"
    path.write_text(text)
    return path


def command(path: Path, *requirements: str, **rest) -> DeviceCommand:
    return DeviceCommand(argv=("program.py", "a b"), files={"program.py": path}, python=requirements, **rest)


def test_the_host_runs_it_with_its_own_python(device_store: Store, tmp_path: Path) -> None:
    path = program(tmp_path, "import sys, numpy; print(sys.argv[1], numpy.__version__, file=open('o', 'w'))")
    result = LocalLink(device_store).run(command(path, "numpy>=2", outputs=("o",)), timeout_s=60)
    assert result.returncode == 0, result.stderr
    assert result.outputs["o"].startswith(b"a b 2.")


@pytest.mark.parametrize(
    ("requirement", "words"),
    [("numpy>=9", "but the file needs numpy>=9"), ("no-such-package-here", "no Python package")],
)
def test_a_missing_package_is_told_with_the_command_that_mends_it(
    device_store: Store, tmp_path: Path, requirement: str, words: str
) -> None:
    path = program(tmp_path, "")
    with pytest.raises(MissingDependency, match=words) as caught:
        LocalLink(device_store).run(command(path, requirement), timeout_s=60)
    assert "pip install" in (caught.value.hint or "")


def test_what_this_python_lacks_shows_before_anything_runs(device_store: Store) -> None:
    link = LocalLink(device_store)
    link.prepare(count=False, python=("numpy>=2",))
    with pytest.raises(MissingDependency, match="no Python package"):
        link.prepare(count=False, python=("no-such-package-here",))


@pytest.mark.emulator
def test_so_does_a_missing_arm64_python(
    arm64_tools: None, device_store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(PYTHON_VARIABLE, str(tmp_path / "absent"))
    link = EmulatorLink(load_profile("pi4"), device_store)
    link.prepare(count=False)
    with pytest.raises(UserError, match="no interpreter"):
        link.prepare(count=False, python=("numpy",))


@pytest.mark.emulator
@pytest.mark.slow
def test_the_emulator_runs_it_with_an_arm64_python(
    arm64_tools: None, device_store: Store, tmp_path: Path
) -> None:
    text = (
        "import ctypes, os, platform, numpy\n"
        "marks = ctypes.CDLL(os.environ['EDGEKIT_MARKS'])\n"
        "for _ in range(2):\n"
        "    marks.begin(); numpy.arange(100).sum(); marks.end()\n"
        "print(platform.machine(), open('/proc/cpuinfo').read().count('0xd08'))\n"
    )
    link = EmulatorLink(load_profile("pi4"), device_store)
    path = program(tmp_path, text)
    try:
        first, again = (link.run(command(path, "numpy"), timeout_s=300, count=True) for _ in range(2))
    except MissingDependency as exc:
        pytest.skip(str(exc))
    assert first.stdout == again.stdout == "aarch64 4\n"
    assert [r["insns"] for r in first.regions] == [r["insns"] for r in again.regions]
    assert all(1000 < r["insns"] < 1_000_000 for r in first.regions)
