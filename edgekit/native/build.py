"""Compile the C and C++ sources of this package on demand."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import platform
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from edgekit.errors import MissingDependency, StepFailed, Unsupported
from edgekit.native.cache import cached_folder
from edgekit.native.litert_library import LIBRARY, litert_library
from edgekit.store import Store, check_full_disk, digest_file

_SOURCES = Path(__file__).parent
_FLAGS = ("-std=c11", "-O2", "-Wall", "-Wextra")
_SHARED = (*_FLAGS, "-fPIC", "-shared", "-fvisibility=hidden")
_COMPILE_SECONDS = 120
_CROSS_C = "aarch64-linux-gnu-gcc"
_ZIG_TARGET = "aarch64-linux-gnu.2.28"
_FIRST_LINES = 6


@dataclass(frozen=True, kw_only=True)
class Compiler:
    """A C or C++ compiler: where it is, what it says it is, and the Debian packages that it comes in.

    ``options`` make the one for a machine of a compiler for many.
    """

    path: str
    options: tuple[str, ...] = ()
    version: str
    packages: str


def litert_runtime(arch: str, store: Store) -> Mapping[str, Path]:
    """The runner and the library that it needs, for a machine: ``{"litert_run": ..., "libLiteRt.so": ...}``.

    Both must lie in one folder when run: the runner looks for the library beside itself. ``arch`` is
    "aarch64" or what ``platform.machine()`` says of this host. The library is that of the
    ai-edge-litert release installed here, so that host and device run the same kernels' release.

    Raises Unsupported for another machine, MissingDependency without a compiler or the library,
    StepFailed when the compiler refuses the source.
    """
    library = litert_library(arch, store)
    link = ("-Wl,--allow-shlib-undefined", "-Wl,-z,now", "-Wl,-rpath,$ORIGIN")
    runner = compile_program(
        store,
        _compiler(arch),
        output="litert_run",
        sources=("litert_run.c", "litert_api.h"),
        flags=(*_FLAGS, *link),
        libraries=(library,),
    )
    return {"litert_run": runner, LIBRARY: library}


def counter_plugin(store: Store) -> Path:
    """The instruction-counting plugin for the host's qemu-aarch64, version 4.2 to 8.2."""
    return compile_program(
        store,
        _compiler(platform.machine()),
        output="ekcount.so",
        sources=("ekcount.c", "a64_classes.h", "cache_model.h", "qemu_plugin_api.h"),
        flags=_SHARED,
    )


def instruction_clock(store: Store) -> Path:
    """The arm64 library that makes the guest's clock tick in instructions; to be preloaded."""
    return compile_program(
        store,
        _compiler("aarch64"),
        output="ekclock.so",
        sources=("ekclock.c",),
        # Not hidden: the library exists to override the C library's functions.
        flags=(*_FLAGS, "-fPIC", "-shared"),
    )


def run_marks(store: Store) -> Path:
    """The arm64 library by which Python programs mark measured runs for the counter."""
    return compile_program(
        store,
        _compiler("aarch64"),
        output="ekmarks.so",
        sources=("ekmarks.c",),
        flags=(*_FLAGS, "-fPIC", "-shared"),
    )


def why_no_compiler(arch: str) -> str:
    """Why C programs for a machine cannot be compiled here, with what to do; empty when they can."""
    try:
        _compiler(arch)
    except (Unsupported, MissingDependency) as exc:
        return f"{exc}; {exc.hint}"
    return ""


def _compiler(arch: str) -> Compiler:
    """The C compiler for a machine. For arm64 also the one of the Python package ziglang, if that is all."""
    if arch == "aarch64" != platform.machine() and shutil.which(_CROSS_C) is None:
        zig = _zig()
        if zig is not None:
            return zig
    return _find(
        arch,
        "C",
        (("cc", "gcc"), "gcc libc6-dev"),
        ((_CROSS_C,), "gcc-aarch64-linux-gnu libc6-dev-arm64-cross"),
    )


def _zig() -> Compiler | None:
    """zig cc of the package ziglang, for arm64 with the glibc of LiteRT's wheel; None without the package."""
    if importlib.util.find_spec("ziglang") is None:
        return None
    version = importlib.metadata.version("ziglang")
    options = ("-m", "ziglang", "cc", "-target", _ZIG_TARGET)
    packages = "gcc-aarch64-linux-gnu libc6-dev-arm64-cross"
    return Compiler(
        path=sys.executable, options=options, version=f"zig {version} {_ZIG_TARGET}", packages=packages
    )


def cxx_compiler(arch: str) -> Compiler:
    """The C++ compiler for a machine. Raises Unsupported or MissingDependency."""
    return _find(
        arch,
        "C++",
        (("c++", "g++"), "g++"),
        (("aarch64-linux-gnu-g++",), "g++-aarch64-linux-gnu libc6-dev-arm64-cross"),
    )


def _find(
    arch: str, language: str, host: tuple[tuple[str, ...], str], arm64: tuple[tuple[str, ...], str]
) -> Compiler:
    """The first compiler of ``host`` or ``arm64`` (names, Debian packages) that is there."""
    if arch == platform.machine():
        names, packages = host
    elif arch == "aarch64":
        names, packages = arm64
    else:
        raise Unsupported(
            f"edgekit has no compiler for programs of {arch}",
            hint=f"it compiles for aarch64 and for this host ({platform.machine()})",
        )
    path = next((found for name in names if (found := shutil.which(name))), None)
    if path is None:
        raise MissingDependency(
            f"the {language} compiler {names[0]} is not installed",
            hint=f"apt-get install --no-install-recommends {packages}",
        )
    done = subprocess.run([path, "--version"], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise MissingDependency(
            f"the {language} compiler {path} does not run: {_first_lines(done.stderr)}",
            hint=f"apt-get install --no-install-recommends {packages}",
        )
    return Compiler(path=path, version=done.stdout.partition("\n")[0], packages=packages)


def compile_program(
    store: Store,
    compiler: Compiler,
    *,
    output: str,
    sources: Sequence[str],
    flags: Sequence[str],
    libraries: Sequence[Path] = (),
    headers: Sequence[Path] = (),
    release: str = "",
) -> Path:
    """Compile the .c and .cpp files among ``sources`` into ``output``, linked with ``libraries``.

    ``headers`` are folders of another package's headers, ``release`` says which release of it they are of.
    """
    key = {
        "output": output,
        "sources": {name: digest_file(_SOURCES / name) for name in sources},
        "compiler": compiler.version,
        "flags": list(flags),
        "libraries": {library.name: digest_file(library) for library in libraries},
        "release": release,
    }

    def make(folder: Path) -> None:
        files = [str(_SOURCES / name) for name in sources if name.endswith((".c", ".cpp"))]
        include = [part for path in headers for part in ("-isystem", str(path))]
        argv = [compiler.path, *compiler.options, "-o", str(folder / output), *flags, *include, *files]
        # Behind the sources: the linker takes from a library only what those before it lack.
        _run_compiler([*argv, *map(str, libraries)], compiler)

    return cached_folder(store, key, (output,), make) / output


def _run_compiler(argv: Sequence[str], compiler: Compiler) -> None:
    try:
        done = subprocess.run(
            list(argv),
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
            timeout=_COMPILE_SECONDS,
        )
    except subprocess.TimeoutExpired as exc:
        raise StepFailed(f"{argv[0]} did not finish within {_COMPILE_SECONDS} s") from exc
    if done.returncode != 0:
        check_full_disk(done.stderr, "compiling")
        raise StepFailed(
            f"{argv[0]} failed (exit {done.returncode}): {_first_lines(done.stderr)}",
            hint="if headers or libraries are missing: apt-get install --no-install-recommends "
            + compiler.packages,
        )


def _first_lines(text: str) -> str:
    lines = [line for line in text.splitlines() if line.strip()]
    return "\n".join(lines[:_FIRST_LINES]) or "it said nothing"
