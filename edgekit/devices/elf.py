"""What machine a program is for, read from its ELF header."""

from __future__ import annotations

import struct
from pathlib import Path

from edgekit.errors import DeviceError

_PT_INTERP = 3
# e_machine of the ELF specification, with the word size of the class; names as `uname -m` has them.
_MACHINES = {
    (183, 64): "aarch64",
    (40, 32): "armv7l",
    (62, 64): "x86_64",
    (3, 32): "i686",
    (243, 64): "riscv64",
}


def machine(header: bytes) -> str | None:
    """Machine of a program by its first 20 bytes: "aarch64"; None for what is no ELF file."""
    if len(header) < 20 or header[:4] != b"\x7fELF":
        return None
    order = "<" if header[5] == 1 else ">"
    number = int(struct.unpack_from(f"{order}H", header, 18)[0])
    return _MACHINES.get((number, 64 if header[4] == 2 else 32), f"ELF machine {number}")


def needs_glibc(path: Path) -> bool:
    """Whether a program is started by glibc's loader; no for scripts, static programs and Android's own."""
    with path.open("rb") as file:
        header = file.read(64)
        if machine(header) is None or header[4] != 2:
            return False
        table, entry, count = (*struct.unpack_from("<Q", header, 32), *struct.unpack_from("<HH", header, 54))
        for place in range(count):
            file.seek(table + place * entry)
            kind, _, offset, _, _, size = struct.unpack("<IIQQQQ", file.read(40))
            if kind == _PT_INTERP:
                file.seek(offset)
                return b"/ld-linux" in file.read(min(size, 256))
    return False


def check_machine(program: Path, arch: str, where: str) -> None:
    """Raise DeviceError for a program of another machine than ``arch``; scripts may be for any.

    Looked at here since a shell there would take a program that its kernel refuses for a script.
    """
    try:
        with program.open("rb") as file:
            found = machine(file.read(20))
    except OSError:
        return  # the push says it
    if found is not None and found != arch:
        raise DeviceError(
            f"{program.name} is a program for {found}, but {where} runs programs for {arch}",
            hint="build it for that machine",
        )
