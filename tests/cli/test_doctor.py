"""`edgekit doctor` on machines that lack things."""

from __future__ import annotations

import json
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

from edgekit import doctor
from edgekit.store import Store

Cli = Callable[..., Any]


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """The programs on PATH are these and no others: name to shell script."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))

    def set_programs(**scripts: str) -> None:
        for name, script in scripts.items():
            path = folder / name.replace("_", "-")
            path.write_text(f"#!/bin/sh\n{script}\n")
            path.chmod(0o755)

    return set_programs


def found(cli: Cli) -> dict[str, dict[str, Any]]:
    said = cli("doctor", "--json")
    assert said.code == 0, said.err
    return {f["name"]: f for f in json.loads(said.out)}


def qemu(version: str, *, plugins: bool) -> str:
    """A qemu-aarch64 that answers --version and --help."""
    options = "-plugin [file=]<file>" if plugins else ""
    return (
        f'case "$1" in --version) echo "qemu-aarch64 version {version}" ;; *) echo "usage {options}" ;; esac'
    )


def test_nothing_is_wrong_where_tests_run(cli: Cli, arm64_tools: None) -> None:
    states = found(cli)
    names = ("Python", "torch", "ai-edge-litert", "C compiler", "qemu-aarch64", "arm64 C library")
    assert {name: states[name]["state"] for name in names} == dict.fromkeys(names, "ok")
    assert states["Python"]["required"] and not states["qemu-aarch64"]["required"]


def test_every_required_package_of_the_project_is_looked_at(cli: Cli) -> None:
    from packaging.requirements import Requirement

    needed = [Requirement(r) for r in metadata.requires("edgekit") or []]
    names = {r.name for r in needed if r.marker is None or r.marker.evaluate({"extra": ""})}
    assert names and names <= set(found(cli))


def test_each_missing_program_has_the_command_that_mends_it(programs: Callable[..., None], cli: Cli) -> None:
    programs()
    states = found(cli)
    for name, package in (
        ("C compiler", "gcc libc6-dev"),
        ("qemu-aarch64", "qemu-user"),
        ("arm64 C compiler", "gcc-aarch64-linux-gnu"),
        ("adb", "adb"),
        ("ssh", "openssh-client"),
    ):
        assert states[name]["state"] == "missing"
        assert states[name]["mend"] == f"apt-get install --no-install-recommends {package}"
    assert states["instruction counter"]["state"] == "missing"


def test_the_text_ends_with_what_mends(programs: Callable[..., None], cli: Cli) -> None:
    programs()
    said = cli("doctor")
    assert said.code == 0, "emulation is not needed to build"
    lines = said.out.splitlines()
    assert lines[0].split() == ["part", "state", "found", "needed", "for"]
    assert "qemu-aarch64: apt-get install --no-install-recommends qemu-user" in lines


def test_the_clients_of_devices(programs: Callable[..., None], cli: Cli, tmp_path: Path) -> None:
    programs(adb="exit 1", ssh="exit 1")
    states = found(cli)
    for name, link in (("adb", "adb:SERIAL"), ("ssh", "ssh:HOST")):
        assert (states[name]["state"], states[name]["mend"]) == ("ok", "")
        assert states[name]["detail"] == str(tmp_path / "bin" / name), "it is found, never started"
        assert not states[name]["required"] and link in states[name]["needed_for"]


@pytest.mark.parametrize(
    ("version", "plugins", "state"),
    [("7.2.15", True, "ok"), ("8.2.2", True, "ok"), ("7.2.15", False, "wrong"), ("10.0.2", True, "wrong")],
)
def test_whether_qemu_can_count(
    version: str, plugins: bool, state: str, programs: Callable[..., None], cli: Cli
) -> None:
    programs(qemu_aarch64=qemu(version, plugins=plugins))
    states = found(cli)
    assert states["qemu-aarch64"]["state"] == "ok"
    counter = states["instruction counter"]
    assert counter["state"] == state and version in counter["detail"]
    assert bool(counter["mend"]) == (state != "ok")


@pytest.mark.parametrize(("installed", "state"), [(None, "missing"), ("0.0.1", "wrong")])
def test_a_package_that_every_build_needs(
    installed: str | None, state: str, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = metadata.version

    def version(name: str) -> str:
        if name != "onnx2tf":
            return real(name)
        if installed is None:
            raise metadata.PackageNotFoundError(name)
        return installed

    monkeypatch.setattr(metadata, "version", version)
    said = cli("doctor")
    assert said.code == 3
    error, hint = said.err.splitlines()
    assert error.startswith("error: 1 required parts are missing or of a wrong version: onnx2tf")
    assert "pip install" in hint and "onnx2tf==" in hint
    (row,) = (line for line in said.out.splitlines() if line.startswith("onnx2tf "))
    assert f" {state} " in row


def test_little_disk_space(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_FREE_BYTES", 1 << 60)
    disk = next(f for f in doctor.examine(Store(tmp_path / "a" / "b")) if f.name == "disk space")
    assert disk.state == "wrong" and not disk.required
    assert str(tmp_path) in disk.detail and "EDGEKIT_CACHE" in disk.mend


def test_to_look_changes_nothing(tmp_path: Path) -> None:
    doctor.examine(Store(tmp_path / "store"))
    assert list(tmp_path.iterdir()) == []
