"""The ``-L`` prefix of an emulated board: its persona, and the C library for arm64."""

from __future__ import annotations

import platform
from pathlib import Path

from edgekit.devices.emulator.persona import persona_files
from edgekit.errors import MissingDependency
from edgekit.native.cache import cached_folder
from edgekit.profiles.schema import DeviceProfile, Emulator
from edgekit.store import Store

CROSS_LIBRARIES = Path("/usr/aarch64-linux-gnu/lib")
"""Where Debian's and Ubuntu's cross packages put libc, libstdc++ and libgcc for arm64."""

LOADER = "ld-linux-aarch64.so.1"
_NEEDED = (LOADER, "libc.so.6", "libm.so.6", "libgcc_s.so.1", "libstdc++.so.6")
PACKAGES = "qemu-user gcc-aarch64-linux-gnu libc6-dev-arm64-cross libstdc++6-arm64-cross"
INSTALL = f"apt-get install --no-install-recommends {PACKAGES}"


def sysroot(profile: DeviceProfile, emulator: Emulator, store: Store) -> Path:
    """The prefix for a profile, made once and kept in the store.

    ``lib`` points to the cross libraries, where the program's interpreter and its libraries are found; on
    an arm64 host there is none, as the host's own are right. All other paths are the host's.
    Raises MissingDependency when the cross libraries are not installed.
    """
    files = persona_files(profile, emulator)
    libraries = None if platform.machine() == "aarch64" else CROSS_LIBRARIES
    if libraries is not None:
        missing = [name for name in _NEEDED if not (libraries / name).exists()]
        if missing:
            raise MissingDependency(
                f"the arm64 C library is not installed: {libraries} has no {', '.join(missing)}", hint=INSTALL
            )

    def make(folder: Path) -> None:
        for path, text in files.items():
            target = folder / path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(text)
        if libraries is not None:
            (folder / "lib").symlink_to(libraries)

    key = {"sysroot": files, "libraries": str(libraries)}
    return cached_folder(store, key, ("proc/cpuinfo",), make)
