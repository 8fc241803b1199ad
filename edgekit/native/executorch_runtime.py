"""The ExecuTorch runner for the host and for arm64, against the libraries of the installed release."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import platform
from collections.abc import Mapping
from pathlib import Path

from edgekit.errors import MissingDependency, Unsupported
from edgekit.native.arm64_wheel import Arm64Wheel
from edgekit.native.build import compile_program, cxx_compiler
from edgekit.store import Store

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


def executorch_runtime(arch: str, store: Store) -> Mapping[str, Path]:
    """The runner and the libraries that it needs, by file name; all must lie in one folder when run.

    ``arch`` is "aarch64" or what ``platform.machine()`` says of this host. The libraries are those of the
    executorch release installed here, so that host and device run the same kernels' release; those for
    arm64 come from the wheel named by EDGEKIT_EXECUTORCH_AARCH64_WHEEL or from the package index that
    pip is configured for, once.

    Raises Unsupported for another machine, MissingDependency without a compiler, executorch or its wheel,
    UserError for a wheel that does not fit, StepFailed when the compiler refuses the source.
    """
    if arch not in ("aarch64", platform.machine()):
        raise Unsupported(
            f"there is no ExecuTorch runtime for {arch}",
            hint="boards with a 32-bit system run .tflite files, by their Python; see docs/devices.md",
        )
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
    wheel = Arm64Wheel(
        distribution=_DISTRIBUTION,
        version=version,
        runtime="ExecuTorch",
        folder=f"{_DISTRIBUTION}/lib",
        libraries=LIBRARIES,
        platform="manylinux_2_28_aarch64",
        variable=WHEEL_VARIABLE,
    )
    return wheel.unpacked(arch, store)
