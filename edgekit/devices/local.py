"""The host itself as a device."""

from __future__ import annotations

import os
import platform
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from edgekit.devices.base import (
    RunResult,
    check_command,
    check_packages,
    collect,
    push,
    raise_crash,
)
from edgekit.devices.process import run_process
from edgekit.errors import Unsupported
from edgekit.store import Store
from edgekit.types import DeviceCommand, MeasurementSource

ENVIRONMENT = {"PATH": os.defpath, "LC_ALL": "C.UTF-8"}
"""All that a program on the host or under the emulator inherits: the same for every user and run."""

_HERE = "this host"


class LocalLink:
    """Runs commands on this host, each in a private folder that is removed afterwards."""

    name = "local"
    source: MeasurementSource = "host"

    def __init__(self, store: Store) -> None:
        self.arch = platform.machine()
        self._store = store

    def facts(self) -> dict[str, Any]:
        """CPU model, cores that this process may use, frequency governor (None if unreadable), system."""
        return {
            "name": platform.node(),
            "cpu": _cpu_model(),
            "cores": len(os.sched_getaffinity(0)),
            "governor": _governor(),
            "os": _os_name(),
            "kernel": platform.release(),
            "arch": self.arch,
            "emulated": False,
        }

    def prepare(self, *, count: bool, python: Sequence[str] = ()) -> None:
        """Look for the packages. Unsupported with ``count``."""
        if count:
            _refuse_counting()
        check_packages(python, _HERE)

    def run(
        self,
        command: DeviceCommand,
        *,
        timeout_s: float,
        count: bool = False,
        caches: bool = False,
        per_op: bool = False,
    ) -> RunResult:
        """See :meth:`edgekit.devices.base.Link.run`. Counts nothing: Unsupported when asked to.

        The Python of this host is the one that edgekit runs in.
        """
        if count or caches or per_op:
            _refuse_counting()
        check_command(command)
        check_packages(command.python, _HERE)
        program = command.argv[0]
        with self._store.scratch() as folder:
            push(command, folder)
            done = run_process(
                [*([sys.executable] if command.python else []), str(folder / program), *command.argv[1:]],
                folder=folder,
                env={**ENVIRONMENT, **command.env},
                timeout_s=timeout_s,
                what=program,
            )
            raise_crash(program, done.returncode, done.stderr, "this host")
            outputs = collect(command, folder, returncode=done.returncode, stderr=done.stderr)
        return RunResult(
            returncode=done.returncode,
            stdout=done.stdout,
            stderr=done.stderr,
            outputs=outputs,
            peak_rss_bytes=done.peak_rss_bytes,
            seconds=done.seconds,
        )


def _refuse_counting() -> NoReturn:
    raise Unsupported(
        "instructions cannot be counted on the local link",
        hint="count them on the emulator: --device emulator",
    )


def _cpu_model() -> str:
    """The CPU's name as the kernel prints it; on Arm, which has no name there, implementer and part."""
    text = Path("/proc/cpuinfo").read_text(errors="replace")
    name = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    if name:
        return name[1].strip()
    implementer = re.search(r"^CPU implementer\s*:\s*(\S+)", text, re.MULTILINE)
    part = re.search(r"^CPU part\s*:\s*(\S+)", text, re.MULTILINE)
    if implementer and part:
        return f"implementer {implementer[1]} part {part[1]}"
    return platform.processor() or platform.machine()


def _governor() -> str | None:
    path = Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")
    try:
        return path.read_text().strip()
    except OSError:  # virtual machines have no frequency scaling
        return None


def _os_name() -> str:
    try:
        return platform.freedesktop_os_release().get("PRETTY_NAME", platform.system())
    except OSError:
        return platform.system()
