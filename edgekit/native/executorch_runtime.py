"""The ExecuTorch runner for the host and for arm64, against the libraries of the installed release."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
import shlex
import shutil
import struct
import sys
import zipfile
from collections.abc import Mapping
from pathlib import Path

from edgekit.errors import MissingDependency, Unsupported, UserError
from edgekit.native.build import compile_program, cxx_compiler
from edgekit.native.cache import cached_folder
from edgekit.native.litert_library import run_pip
from edgekit.store import Store, digest_file

WHEEL_VARIABLE = "EDGEKIT_EXECUTORCH_AARCH64_WHEEL"
"""Environment variable that names an aarch64 wheel of executorch, for machines without network."""

RUNNER = "et_run"
LIBRARIES = (
    "libexecutorch.so",
    "libexecutorch_kernels_optimized.so",
    "libexecutorch_kernels_quantized.so",
    "libexecutorch_backend_xnnpack.so",
    "libexecutorch_threadpool.so",
    "libexecutorch_etdump.so",
)

_DISTRIBUTION = "executorch"
_ELF_MACHINE_AARCH64 = 183


def executorch_runtime(arch: str, store: Store) -> Mapping[str, Path]:
    """The runner and the libraries that it needs, by file name; all must lie in one folder when run.

    ``arch`` is "aarch64" or what ``platform.machine()`` says of this host. The libraries are those of the
    executorch release installed here, so that host and device run the same kernels' release; those for
    arm64 come from the wheel named by EDGEKIT_EXECUTORCH_AARCH64_WHEEL or from the package index that
    pip is configured for, once.

    Raises Unsupported for another machine, MissingDependency without a compiler, executorch or its wheel,
    UserError for a wheel that does not fit, StepFailed when the compiler refuses the source.
    """
    installed = _installed()
    folder = _libraries(arch, installed, store)
    include = installed / "include"
    flags = (
        *("-std=c++17", "-O2", "-Wall", "-Wextra", "-DC10_USING_CUSTOM_GENERATED_MACROS"),
        # Kernels and delegates register themselves when loaded: nothing refers to their libraries.
        *("-Wl,--no-as-needed", "-Wl,--allow-shlib-undefined", "-Wl,-z,now", "-Wl,-rpath,$ORIGIN"),
    )
    libraries = {name: folder / name for name in LIBRARIES}
    runner = compile_program(
        store,
        cxx_compiler(arch),
        output=RUNNER,
        sources=("et_run.cpp",),
        flags=flags,
        libraries=tuple(libraries.values()),
        headers=(include, include / "executorch" / "runtime" / "core" / "portable_type" / "c10"),
        release=executorch_version(),
    )
    return {RUNNER: runner, **libraries}


def executorch_version() -> str:
    """Version of the installed executorch. Raises MissingDependency without it."""
    try:
        return importlib.metadata.version(_DISTRIBUTION)
    except importlib.metadata.PackageNotFoundError as exc:
        raise MissingDependency(
            f"the package {_DISTRIBUTION} is not installed", hint="pip install executorch==1.5.1"
        ) from exc


def _installed() -> Path:
    """Folder of the installed package, with its headers."""
    version = executorch_version()
    found = importlib.util.find_spec(_DISTRIBUTION)  # locates, does not import
    places = [Path(p) for p in (found.submodule_search_locations or ())] if found else []
    folder = next((p for p in places if (p / "include" / "executorch").is_dir()), None)
    if folder is None:
        raise MissingDependency(
            f"the installed {_DISTRIBUTION} {version} has no C++ headers",
            hint=f"pip install --force-reinstall {_DISTRIBUTION}=={version}",
        )
    return folder


def _libraries(arch: str, installed: Path, store: Store) -> Path:
    version = executorch_version()
    if arch == platform.machine():
        folder = installed / "lib"
        missing = [name for name in LIBRARIES if not (folder / name).is_file()]
        if missing:
            raise MissingDependency(
                f"the installed {_DISTRIBUTION} {version} has no {', '.join(missing)}",
                hint=f"pip install --force-reinstall {_DISTRIBUTION}=={version}",
            )
        return folder
    if arch != "aarch64":
        raise Unsupported(
            f"there is no ExecuTorch library for {arch} here",
            hint=f"edgekit runs models on this host ({platform.machine()}) and on aarch64",
        )
    named = os.environ.get(WHEEL_VARIABLE)
    if named:
        wheel = Path(named).expanduser()
        _check_named_wheel(wheel, version)
        key = {"library": _DISTRIBUTION, "arch": arch, "wheel": digest_file(wheel)}
        return cached_folder(store, key, LIBRARIES, lambda folder: _extract(wheel, folder))
    key = {"library": _DISTRIBUTION, "arch": arch, "version": version}
    return cached_folder(store, key, LIBRARIES, lambda folder: _fetch(version, folder))


def _check_named_wheel(wheel: Path, version: str) -> None:
    if not wheel.is_file():
        raise UserError(f"{WHEEL_VARIABLE} names {wheel}, which is not a file")
    parts = wheel.name.split("-")
    if wheel.suffix != ".whl" or parts[0] != _DISTRIBUTION or len(parts) < 5:
        raise UserError(f"{WHEEL_VARIABLE} names {wheel}, which is not a wheel of {_DISTRIBUTION}")
    if parts[1] != version:
        raise UserError(
            f"{WHEEL_VARIABLE} names version {parts[1]} of {_DISTRIBUTION}, but {version} is installed here",
            hint=f"download it with: {shlex.join(_pip_download(version))}",
        )


def _pip_download(version: str) -> list[str]:
    """The command that fetches the arm64 wheel. Wheels of all Python versions hold the same libraries."""
    return [
        *("python3", "-m", "pip", "download", "--no-deps", "--only-binary=:all:"),
        *("--platform", "manylinux_2_28_aarch64", "--python-version", "3.11", "--implementation", "cp"),
        f"{_DISTRIBUTION}=={version}",
    ]


def _fetch(version: str, folder: Path) -> None:
    downloads = folder.parent / "download"
    downloads.mkdir()
    command = _pip_download(version)
    quiet = ["--quiet", "--no-input", "--disable-pip-version-check", "--dest", str(downloads)]
    why = run_pip([sys.executable, *command[1:], *quiet])
    wheels = sorted(downloads.glob("*.whl"))
    if why is not None or len(wheels) != 1:
        why = why or "pip brought no wheel"
        raise MissingDependency(
            f"the arm64 wheel of {_DISTRIBUTION} {version} cannot be downloaded: {why}",
            hint=f"with network: {shlex.join(command)}; then set {WHEEL_VARIABLE} to the file",
        )
    _extract(wheels[0], folder)


def _extract(wheel: Path, folder: Path) -> None:
    for name in LIBRARIES:
        member = f"{_DISTRIBUTION}/lib/{name}"
        target = folder / name
        try:
            with zipfile.ZipFile(wheel) as archive, archive.open(member) as source, target.open("wb") as sink:
                shutil.copyfileobj(source, sink)
        except (zipfile.BadZipFile, KeyError) as exc:
            raise UserError(f"{wheel.name} is not a wheel of {_DISTRIBUTION}: it has no {member}") from exc
        with target.open("rb") as library:
            header = library.read(20)
        if header[:4] != b"\x7fELF" or struct.unpack_from("<H", header, 18)[0] != _ELF_MACHINE_AARCH64:
            raise UserError(f"{wheel.name} is not for aarch64: its {name} is for another machine")
