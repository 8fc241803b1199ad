"""Programs for machines that have no glibc, such as Android: the C library goes along."""

from __future__ import annotations

import platform
from pathlib import Path

from edgekit.devices.emulator.sysroot import CROSS_LIBRARIES, INSTALL
from edgekit.devices.emulator.sysroot import LOADER as _LOADER
from edgekit.errors import MissingDependency, Unsupported

_FOLDER = "lib"
_LIBRARIES = (
    _LOADER,
    *("libc.so.6", "libm.so.6", "libdl.so.2", "libpthread.so.0", "librt.so.1", "libgcc_s.so.1"),
    "libstdc++.so.6",
)
LOADER = f"{_FOLDER}/{_LOADER}"
LOADER_ARGV = (f"./{LOADER}", "--library-path", f"./{_FOLDER}:.")
"""What starts a program in a folder that has :func:`self_contained`'s files."""


def self_contained(arch: str) -> dict[str, Path]:
    """The loader and libraries that go along with a program, by their names there.

    They are those of the cross compiler that made it. Raises Unsupported for a machine that is not
    aarch64, MissingDependency when the cross libraries are not installed.
    """
    if arch != "aarch64":
        raise Unsupported(
            f"edgekit has no runner for {arch} phones",
            hint="it runs programs on 64-bit Arm phones; the app measures on others",
        )
    folder = Path("/lib/aarch64-linux-gnu") if platform.machine() == "aarch64" else CROSS_LIBRARIES
    missing = [name for name in _LIBRARIES if not (folder / name).exists()]
    if missing:
        raise MissingDependency(
            f"the arm64 C library is not installed: {folder} has no {', '.join(missing)}", hint=INSTALL
        )
    return {f"{_FOLDER}/{name}": folder / name for name in _LIBRARIES}
