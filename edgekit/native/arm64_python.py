"""A Python for arm64 with pinned packages, to run under qemu-user: Debian's packages and PyPI's wheels.

On an arm64 host the interpreter is the host's own. Nothing is installed into the system: packages are
downloaded with a private state of apt, unpacked into the store and started from there.
"""

from __future__ import annotations

import compileall
import os
import platform
import py_compile
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from packaging.requirements import InvalidRequirement, Requirement

from edgekit.errors import MissingDependency, UserError
from edgekit.native.cache import cached_folder
from edgekit.store import Store, check_full_disk

PYTHON_VARIABLE = "EDGEKIT_ARM64_PYTHON"
"""Environment variable that names the interpreter of an arm64 Python, for hosts that are not Debian."""

_PINS = {
    "torch": ("2.9.1", ("filelock", "fsspec", "jinja2", "networkx", "numpy", "sympy", "typing-extensions")),
    "onnxruntime": ("1.32.0", ("flatbuffers", "numpy", "packaging", "protobuf")),
    "filelock": ("3.20.0", ()),
    "flatbuffers": ("25.12.19", ()),
    "fsspec": ("2025.10.0", ()),
    "jinja2": ("3.1.6", ("markupsafe",)),
    "markupsafe": ("3.0.3", ()),
    "mpmath": ("1.3.0", ()),
    "networkx": ("3.5", ()),
    "numpy": ("2.3.5", ()),
    "packaging": ("25.0", ()),
    "protobuf": ("6.33.1", ()),
    "sympy": ("1.14.0", ("mpmath",)),
    "typing-extensions": ("4.15.0", ()),
}
"""Version and dependencies of what is installed: one set that runs on a Cortex-A72. pip is given the closure,
as it would evaluate the markers of dependencies for this host, and fetch what only x86 needs."""

_PLATFORM = "manylinux_2_28_aarch64"
_OLDER_PLATFORM = "manylinux_2_27_aarch64"
"""What runs there too, but pip takes only what it is told: ai-edge-litert's wheels have this tag."""

_SECONDS = 1200
_APT_SOURCES = (
    Path("/etc/apt/sources.list.d/debian.sources"),
    Path("/etc/apt/sources.list"),
)
_FROM_CROSS = ("libc6_", "libgcc-s1_", "libstdc++6_", "gcc-")
"""The C library and its loader must be of one build: they are those of the cross packages."""
_UNUSED = ("torch/include", "torch/test")


@dataclass(frozen=True, kw_only=True)
class Arm64Python:
    """An interpreter for arm64. ``root`` is its file system root, ``program`` the interpreter's path in it;
    ``libraries`` the folders of its shared libraries in it. ``packages`` goes to PYTHONPATH."""

    root: Path
    program: str
    libraries: tuple[str, ...]
    packages: Path


def arm64_python(requirements: Sequence[str], store: Store) -> Arm64Python:
    """An arm64 Python that has the packages of ``requirements`` ("torch>=2.8,<2.10") and what they need; of a
    choice ("ai-edge-litert | tflite-runtime") the first.

    Downloaded once and kept in the store. Raises MissingDependency when that cannot be done here, UserError
    for an interpreter named by EDGEKIT_ARM64_PYTHON that is none.
    """
    root, program, version = _interpreter(store)
    pins = _closure([text.partition("|")[0].strip() for text in requirements])
    key = {"arm64_packages": pins, "python": version, "platform": _PLATFORM, "unused": list(_UNUSED)}
    packages = cached_folder(store, key, ("packages.txt",), lambda folder: _install(pins, version, folder))
    libraries = ("usr/lib/aarch64-linux-gnu", "lib/aarch64-linux-gnu", "lib")
    return Arm64Python(root=root, program=program, libraries=libraries, packages=packages)


def _interpreter(store: Store) -> tuple[Path, str, str]:
    """Root, path of the interpreter in it, and version ("3.11")."""
    named = os.environ.get(PYTHON_VARIABLE)
    if named:
        path = Path(named).expanduser().resolve()
        found = re.fullmatch(r"python(3\.\d+)", path.name)
        if not path.is_file() or found is None:
            raise UserError(
                f"{PYTHON_VARIABLE} names {named}, which is no interpreter like .../bin/python3.11"
            )
        return path.parent.parent, f"bin/{path.name}", found[1]
    if platform.machine() == "aarch64":
        own = Path(sys.executable).resolve()
        return own.parent.parent, f"bin/{own.name}", f"{sys.version_info[0]}.{sys.version_info[1]}"
    release = platform.freedesktop_os_release() if Path("/etc/os-release").exists() else {}
    sources = next((path for path in _APT_SOURCES if path.is_file()), None)
    tools = [shutil.which(tool) for tool in ("apt-get", "apt-cache", "dpkg-deb")]
    if release.get("ID") != "debian" or sources is None or None in tools:
        raise MissingDependency(
            "an arm64 Python can be downloaded on Debian only",
            hint=f"set {PYTHON_VARIABLE} to the interpreter of one (…/usr/bin/python3.11)",
        )
    key = {"arm64_python": release.get("VERSION_CODENAME", release.get("VERSION_ID", ""))}
    folder = cached_folder(store, key, ("version.txt",), lambda folder: _unpack_debian(sources, folder))
    version = (folder / "version.txt").read_text()
    return folder, f"usr/bin/python{version}", version


def _unpack_debian(sources: Path, folder: Path) -> None:
    """Python's packages for arm64 and their libraries, from the host's own package sources."""
    apt = folder.parent / "apt"
    for name in ("state/lists/partial", "cache/archives/partial", "sources"):
        (apt / name).mkdir(parents=True)
    (apt / "status").touch()
    shutil.copy(sources, apt / "sources" / (sources.name if sources.suffix == ".sources" else "debian.list"))
    options = [
        part
        for option in (
            *("APT::Architecture=arm64", "APT::Architectures::=arm64", "APT::Sandbox::User=root"),
            *("APT::Install-Recommends=0", "Acquire::Languages=none"),
            *(f"Dir::State={apt / 'state'}", f"Dir::State::status={apt / 'status'}"),
            *(f"Dir::Cache={apt / 'cache'}", "Dir::Etc::sourcelist=/dev/null"),
            f"Dir::Etc::sourceparts={apt / 'sources'}",
        )
        for part in ("-o", option)
    ]
    _run(["apt-get", *options, "-qq", "update"], "the list of arm64 packages")
    depends = _run(["apt-cache", *options, "depends", "python3-minimal"], "the list of arm64 packages")
    found = re.search(r"python(3\.\d+)-minimal", depends)
    if found is None:
        raise MissingDependency("Debian's package sources have no python3-minimal for arm64")
    version = found[1]
    names = [f"python{version}-minimal", f"libpython{version}-stdlib"]
    _run(["apt-get", *options, "-y", "-qq", "--download-only", "install", *names], "the arm64 Python")
    for package in sorted((apt / "cache" / "archives").glob("*.deb")):
        if not package.name.startswith(_FROM_CROSS):
            _run(["dpkg-deb", "-x", str(package), str(folder)], "the arm64 Python")
    _precompile(folder / "usr" / "lib" / f"python{version}", version)
    (folder / "version.txt").write_text(version)


def _closure(requirements: Sequence[str]) -> list[str]:
    """Pinned requirements of all packages that are needed, sorted.

    What has no pin, or one that does not fit, is left to pip as it was asked for.
    """
    found: dict[str, str] = {}
    left = list(requirements)
    while left:
        try:
            wanted = Requirement(left.pop())
        except InvalidRequirement as exc:
            raise ValueError(f"not a requirement: {exc}") from exc
        name = wanted.name.lower().replace("_", "-")
        version, needs = _PINS.get(name, ("", ()))
        if name not in found or str(wanted.specifier):
            fits = version and wanted.specifier.contains(version)
            found[name] = f"{name}=={version}" if fits else f"{name}{wanted.specifier}"
        left += [need for need in needs if need not in found]
    return sorted(found.values())


def _install(pins: Sequence[str], version: str, folder: Path) -> None:
    command = [
        *("-m", "pip", "install", "--no-deps", "--only-binary=:all:", "--no-compile"),
        *("--platform", _PLATFORM, "--platform", _OLDER_PLATFORM),
        *("--python-version", version, "--implementation", "cp"),
    ]
    quiet = ["--quiet", "--no-input", "--disable-pip-version-check", "--target", str(folder)]
    _run([sys.executable, *command, *quiet, *pins], f"packages for arm64 ({', '.join(pins)})")
    for name in _UNUSED:
        shutil.rmtree(folder / name, ignore_errors=True)
    _precompile(folder, version)
    (folder / "packages.txt").write_text("\n".join(pins) + "\n")


def _precompile(folder: Path, version: str) -> None:
    """Compile to bytecode here, where that is quick; possible when this Python has the same version."""
    if version == f"{sys.version_info[0]}.{sys.version_info[1]}":
        # Not by date: the folder moves, and copies of the store need not keep times.
        mode = py_compile.PycInvalidationMode.UNCHECKED_HASH
        compileall.compile_dir(folder, quiet=2, invalidation_mode=mode)


def _run(argv: Sequence[str], what: str) -> str:
    """Standard output of a program. Raises MissingDependency with its first words when it fails."""
    command = shlex.join(argv[:1])
    try:
        done = subprocess.run(
            list(argv), capture_output=True, text=True, errors="replace", check=False, timeout=_SECONDS
        )
    except subprocess.TimeoutExpired as exc:
        raise MissingDependency(f"{what}: {command} did not finish within {_SECONDS} s") from exc
    if done.returncode != 0:
        check_full_disk(done.stderr, f"downloading {what}")
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        errors = [line for line in lines if line.startswith(("E:", "ERROR:"))]
        reason = (errors or lines or [f"exit code {done.returncode}"])[0]
        raise MissingDependency(
            f"{what} cannot be had here: {command}: {reason}",
            hint="the package sources of apt and pip must be reachable once; later runs need no network",
        )
    return done.stdout
