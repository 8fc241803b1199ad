"""What machine a program is for, read from its ELF header."""

from __future__ import annotations

import struct
from pathlib import Path

from edgekit.errors import DeviceError

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
