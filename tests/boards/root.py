"""Roots of arm64 systems from Debian's arm64 packages: a small Linux board, and what a phone's shell sees."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

CROSS = Path("/usr/aarch64-linux-gnu/lib")
_PACKAGES = ("toybox", "libcrypt1", "dash", "mksh")
_LOADER = b"/lib/ld-linux-aarch64.so.1"
_HIDDEN_LOADER = b"/system/ld.so"

# Toybox is what Android has; of its programs those that both have are enough for a board too.
_PROGRAMS = (
    *(
        "basename",
        "cat",
        "chmod",
        "cp",
        "date",
        "dd",
        "df",
        "dirname",
        "echo",
        "env",
        "false",
        "flock",
        "head",
    ),
    *("id", "kill", "ln", "ls", "mkdir", "mv", "nproc", "od", "printf", "rm", "rmdir", "sed", "setsid"),
    *("sha256sum", "sleep", "sort", "tail", "taskset", "timeout", "touch", "tr", "true", "uname", "wc"),
)
_PROPERTIES = {
    "ro.product.manufacturer": "edgekit",
    "ro.product.model": "Persona A76",
    "ro.product.cpu.abi": "arm64-v8a",
    "ro.board.platform": "persona",
    "ro.soc.model": "PERSONA-A76",
    "ro.build.version.release": "14",
    "ro.build.version.sdk": "34",
}
_GETPROP = """#!/system/bin/sh
while IFS= read -r line; do [ "${line%%=*}" = "$1" ] && echo "${line#*=}"; done </system/build.prop
true
"""
_DUMPSYS = """#!/system/bin/sh
case $1 in
thermalservice) echo 'Thermal Status: 0
Current temperatures from HAL:
	Temperature{mValue=36.5, mType=0, mName=CPU0, mStatus=0}
	Temperature{mValue=41.0, mType=2, mName=battery, mStatus=0}' ;;
battery) echo 'Current Battery Service state:
  AC powered: false
  USB powered: true
  status: 2
  health: 2
  present: true
  level: 87
  scale: 100
  temperature: 305
  technology: Li-ion' ;;
*) exit 1 ;;
esac
"""


def fetch_packages(folder: Path) -> Path:
    """Download the packages for arm64 and unpack them; the folder with their files.

    Raises CalledProcessError without the network.
    """
    apt = folder / "apt"
    for name in ("state/lists/partial", "cache/archives/partial"):
        (apt / name).mkdir(parents=True)
    (apt / "status").touch()
    options = [
        part
        for option in (
            *("APT::Architecture=arm64", "APT::Architectures::=arm64", "APT::Sandbox::User=root"),
            *(f"Dir::State={apt / 'state'}", f"Dir::State::status={apt / 'status'}"),
            *(f"Dir::Cache={apt / 'cache'}", "Acquire::Languages=none"),
        )
        for part in ("-o", option)
    ]
    for command in (["-qq", "update"], ["-qq", "download", *_PACKAGES]):
        subprocess.run(["apt-get", *options, *command], cwd=folder, check=True, capture_output=True)
    for package in folder.glob("*.deb"):
        subprocess.run(["dpkg-deb", "-x", package, folder / "files"], check=True, capture_output=True)
    return folder / "files"


def make_board(root: Path, packages: Path, persona: Mapping[str, str]) -> None:
    """A Linux board: dash and toybox over a C library, an account "pi" and one with a noisy shell."""
    _common(root, persona)
    programs = root / "bin"
    programs.mkdir()
    shutil.copy(packages / "bin/dash", programs / "sh")
    shutil.copy(packages / "bin/toybox", programs / "toybox")
    (root / "lib").mkdir()
    for library in (*CROSS.glob("*.so.*"), *packages.glob("lib/aarch64-linux-gnu/*.so.*")):
        shutil.copy(library, root / "lib" / library.name)
    for name in _PROGRAMS:
        (programs / name).symlink_to("toybox")
    noisy = programs / "noisy"
    noisy.write_text('#!/bin/sh\necho "Welcome to the board"\necho "no mail for pi" >&2\nexec /bin/sh "$@"\n')
    noisy.chmod(0o755)
    (root / "etc").mkdir()
    (root / "etc/os-release").write_text('PRETTY_NAME="Debian GNU/Linux 12 (bookworm)"\nID=debian\n')
    (root / "home/pi").mkdir(parents=True)
    shutil.chown(root / "home/pi", 1000, 1000)


def make_phone(root: Path, packages: Path, persona: Mapping[str, str]) -> None:
    """Android's shell and programs; no C library where a program for Linux looks for one."""
    _common(root, persona)
    programs = root / "system/bin"
    programs.mkdir(parents=True)
    (root / "bin").symlink_to("system/bin")
    shutil.copy(packages / "usr/lib/aarch64-linux-musl/bin/mksh", programs / "sh")
    toybox = (packages / "bin/toybox").read_bytes()
    (programs / "toybox").write_bytes(toybox.replace(_LOADER, _HIDDEN_LOADER.ljust(len(_LOADER), b"\0")))
    (programs / "toybox").chmod(0o755)
    shutil.copy(CROSS / "ld-linux-aarch64.so.1", root / "system/ld.so")
    hidden = root / "usr/lib/aarch64-linux-gnu"
    hidden.mkdir(parents=True)
    for library in (
        CROSS / "libc.so.6",
        CROSS / "libm.so.6",
        packages / "lib/aarch64-linux-gnu/libcrypt.so.1",
    ):
        shutil.copy(library, hidden / library.name)
    for name in _PROGRAMS:
        (programs / name).symlink_to("toybox")
    (root / "system/build.prop").write_text("".join(f"{k}={v}\n" for k, v in _PROPERTIES.items()))
    for name, text in (("getprop", _GETPROP), ("dumpsys", _DUMPSYS)):
        (programs / name).write_text(text)
        (programs / name).chmod(0o755)
    local = root / "data/local/tmp"
    local.mkdir(parents=True)
    local.chmod(0o777)


def _common(root: Path, persona: Mapping[str, str]) -> None:
    for name in ("dev", "proc", "tmp", "root"):
        (root / name).mkdir(parents=True)
    root.chmod(0o755)
    (root / "tmp").chmod(0o1777)
    for name in ("null", "urandom"):
        (root / "dev" / name).touch()
    for path, text in persona.items():
        if not path.startswith("proc/device-tree"):  # /proc is the kernel's: one file of it is covered
            target = root / ("persona" if path.startswith("proc/") else "") / path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(text)
