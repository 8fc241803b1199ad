"""A place of its own on this machine in which arm64 programs run like native ones.

User and mount namespaces of their own: the kernel's binfmt_misc knows qemu-aarch64 there and nowhere else,
and mounts vanish with it. The host is not changed. Needs root and Linux 6.7 or later.
"""

from __future__ import annotations

import ctypes
import os
import platform
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

_CLONE_NEWNS, _CLONE_NEWUSER = 0x00020000, 0x10000000
_MS_REC, _MS_PRIVATE = 0x4000, 1 << 18
_BINFMT = "/proc/sys/fs/binfmt_misc"
_MAGIC = rb"\x7fELF\x02\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\x00\xb7\x00"
_MASK = rb"\xff\xff\xff\xff\xff\xff\xff\x00\xff\xff\xff\xff\xff\xff\xff\xff\xfe\xff\xff\xff"


@dataclass(frozen=True)
class Namespace:
    """``enter`` is what a command line starts with to run in it."""

    pid: int

    @property
    def enter(self) -> list[str]:
        return ["nsenter", "-t", str(self.pid), "-U", "-m", "--"]

    def run(self, *argv: str | Path) -> None:
        subprocess.run([*self.enter, *argv], check=True, capture_output=True)

    def mount_into(self, root: Path) -> None:
        """/proc with the persona's cpuinfo, and devices, for a root of :mod:`boards.root`."""
        self.run("mount", "--rbind", "/proc", root / "proc")
        for name in ("cpuinfo", "meminfo"):
            self.run("mount", "--bind", root / "persona/proc" / name, root / "proc" / name)
        for name in ("null", "urandom"):
            self.run("mount", "--bind", Path("/dev") / name, root / "dev" / name)


@contextmanager
def namespace(qemu: str) -> Iterator[Namespace]:
    """Make one, held by a process that ends with the block. Raises OSError where the kernel allows none."""
    holder = subprocess.Popen(
        [sys.executable, __file__, qemu], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert holder.stdin is not None and holder.stdout is not None
    try:
        if holder.stdout.readline() != "unshared\n":
            raise OSError("no namespace can be made here")
        for name in ("uid_map", "gid_map"):
            Path(f"/proc/{holder.pid}/{name}").write_text("0 0 65536\n")
        holder.stdin.write("mapped\n")
        holder.stdin.flush()
        if holder.stdout.readline() != "ready\n":
            raise OSError("binfmt_misc cannot be mounted in a namespace here")
        yield Namespace(holder.pid)
    finally:
        holder.stdin.close()
        holder.wait(10)


def _call(function: str, *arguments: object) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if getattr(libc, function)(*arguments) != 0:
        code = ctypes.get_errno()
        raise OSError(code, f"{function}: {os.strerror(code)}")


def _say(word: str) -> None:
    sys.stdout.write(word + "\n")
    sys.stdout.flush()


def _hold(qemu: str) -> None:
    """The process that the namespace lives by: until its input ends."""
    libc = ctypes.CDLL(None)
    libc.prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG: never outlive the tests
    _call("unshare", _CLONE_NEWUSER | _CLONE_NEWNS)
    _say("unshared")
    sys.stdin.readline()
    _call("mount", b"none", b"/", None, _MS_REC | _MS_PRIVATE, None)
    if platform.machine() != "aarch64":
        _call("mount", b"none", _BINFMT.encode(), b"binfmt_misc", 0, None)
        # P keeps argv[0], by which busybox knows its applets; F opens qemu now, before any chroot.
        entry = b":aarch64:M::" + _MAGIC + b":" + _MASK + b":" + qemu.encode() + b":PF"
        Path(_BINFMT, "register").write_bytes(entry)
    _say("ready")
    sys.stdin.read()


if __name__ == "__main__":
    _hold(sys.argv[1])
