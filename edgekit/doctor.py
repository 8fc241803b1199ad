"""What this machine lacks for edgekit, and the command that mends it."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Literal

from edgekit.store import Store

_APT = "apt-get install --no-install-recommends"
_EXTRAS = {
    "openvino": "the target onnx/openvino",
    "litert-torch": "TFLite files of models that onnx2tf does not take",
}
_FREE_BYTES = 5_000_000_000
_FIRST_WITHOUT_API_1 = 9  # major version of QEMU


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One thing that was looked at. ``mend`` is a command, or what to do."""

    name: str
    state: Literal["ok", "missing", "wrong"]
    detail: str
    needed_for: str
    required: bool
    mend: str = ""


def examine(store: Store) -> list[Finding]:
    """Look at Python, packages, compilers, emulator and disk. Changes nothing and needs no network."""
    return [_python(), *_packages(), *_extras(), *_compilers(), *_emulation(), *_clients(), _disk(store)]


def _python() -> Finding:
    ok = sys.version_info >= (3, 11)
    return Finding(
        name="Python",
        state="ok" if ok else "wrong",
        detail=".".join(map(str, sys.version_info[:3])),
        needed_for="everything",
        required=True,
        mend="" if ok else "install Python 3.11 or later",
    )


def _packages() -> list[Finding]:
    from packaging.requirements import Requirement

    findings = []
    for text in metadata.requires("edgekit") or []:
        requirement = Requirement(text)
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        try:
            version = metadata.version(requirement.name)
        except metadata.PackageNotFoundError:
            version = None
        fits = version is not None and requirement.specifier.contains(version.split("+")[0], prereleases=True)
        findings.append(
            Finding(
                name=requirement.name,
                state="ok" if fits else ("missing" if version is None else "wrong"),
                detail=version or "not installed",
                needed_for="everything",
                required=True,
                mend="" if fits else f'{Path(sys.executable).name} -m pip install "{requirement}"',
            )
        )
    return findings


def _extras() -> list[Finding]:
    """Packages that only some targets need, as edgekit's optional dependencies name them."""
    from packaging.requirements import Requirement

    findings = []
    for extra, purpose in _EXTRAS.items():
        wanted = [Requirement(text) for text in metadata.requires("edgekit") or []]
        chosen = [r for r in wanted if r.marker is not None and r.marker.evaluate({"extra": extra})]
        for requirement in chosen:
            try:
                version = metadata.version(requirement.name)
            except metadata.PackageNotFoundError:
                version = None
            fits = version is not None and requirement.specifier.contains(version, prereleases=True)
            findings.append(
                Finding(
                    name=requirement.name,
                    state="ok" if fits else ("missing" if version is None else "wrong"),
                    detail=version or "not installed",
                    needed_for=purpose,
                    required=False,
                    mend="" if fits else f'{Path(sys.executable).name} -m pip install "edgekit[{extra}]"',
                )
            )
    return findings


def _compilers() -> list[Finding]:
    local = "--device local, and counting instructions"
    return [
        _program(("cc", "gcc"), "C compiler", local, "gcc libc6-dev"),
        _program(("c++", "g++"), "C++ compiler", "ExecuTorch files with --device local", "g++"),
    ]


def _emulation() -> list[Finding]:
    found = [
        _program(("qemu-aarch64",), "qemu-aarch64", "--device emulator", "qemu-user"),
        _program(
            ("aarch64-linux-gnu-gcc",), "arm64 C compiler", "--device emulator", "gcc-aarch64-linux-gnu"
        ),
    ]
    found.append(
        _program(
            ("aarch64-linux-gnu-g++",),
            "arm64 C++ compiler",
            "ExecuTorch files on the emulator",
            "g++-aarch64-linux-gnu",
        )
    )
    found.append(_counting())
    libc = Path("/usr/aarch64-linux-gnu/lib/libc.so.6").exists()
    headers = Path("/usr/aarch64-linux-gnu/include/stdio.h").exists()
    found.append(
        Finding(
            name="arm64 C library",
            state="ok" if libc and headers else "missing",
            detail="" if libc and headers else "not found under /usr/aarch64-linux-gnu",
            needed_for="--device emulator",
            required=False,
            mend="" if libc and headers else f"{_APT} libc6-dev-arm64-cross",
        )
    )
    stdcpp = Path("/usr/aarch64-linux-gnu/lib/libstdc++.so.6").exists()
    found.append(
        Finding(
            name="arm64 C++ library",
            state="ok" if stdcpp else "missing",
            detail="" if stdcpp else "not found under /usr/aarch64-linux-gnu",
            needed_for="--device emulator",
            required=False,
            mend="" if stdcpp else f"{_APT} libstdc++6-arm64-cross",
        )
    )
    return found


def _clients() -> list[Finding]:
    return [
        _program(("adb",), "adb", "phones: --device adb:SERIAL", "adb"),
        _program(("ssh",), "ssh", "boards: --device ssh:HOST", "openssh-client"),
    ]


def _counting() -> Finding:
    """Whether the installed QEMU takes the instruction counter, a plugin of API version 1."""
    qemu = shutil.which("qemu-aarch64")
    text = (
        ""
        if qemu is None
        else subprocess.run([qemu, "--help"], capture_output=True, text=True, check=False).stdout
    )
    version = (
        ""
        if qemu is None
        else subprocess.run([qemu, "--version"], capture_output=True, text=True, check=False).stdout
    )
    found = re.search(r"version (\d+)\.(\d+)", version)
    ok = "-plugin" in text and found is not None and int(found[1]) < _FIRST_WITHOUT_API_1
    return Finding(
        name="instruction counter",
        state="ok" if ok else ("missing" if qemu is None else "wrong"),
        detail=version.splitlines()[0] if version else "no qemu-aarch64",
        needed_for="counting instructions",
        required=False,
        mend="" if ok else "install QEMU 4.2 to 8.2 with plugins; qemu-user of Debian 12 has them",
    )


def _program(names: Sequence[str], name: str, needed_for: str, package: str) -> Finding:
    path = next((p for n in names if (p := shutil.which(n))), None)
    return Finding(
        name=name,
        state="ok" if path else "missing",
        detail=path or "not on PATH",
        needed_for=needed_for,
        required=False,
        mend="" if path else f"{_APT} {package}",
    )


def _disk(store: Store) -> Finding:
    folder = store.root
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    ok = free >= _FREE_BYTES
    return Finding(
        name="disk space",
        state="ok" if ok else "wrong",
        detail=f"{free / 1e9:.1f} GB free at {re.sub('/+', '/', str(folder))}",
        needed_for="the store",
        required=False,
        mend=""
        if ok
        else "free some space, run `edgekit cache clear`, or set EDGEKIT_CACHE to a larger disk",
    )
