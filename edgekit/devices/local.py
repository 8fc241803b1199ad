"""The host itself as a device."""

from __future__ import annotations

import contextlib
import os
import platform
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, NoReturn

from edgekit.devices.base import (
    Conditions,
    RunResult,
    check_command,
    check_packages,
    collect,
    push,
    raise_crash,
    raise_missing_library,
)
from edgekit.devices.elf import check_machine
from edgekit.devices.folder import FolderWorkspace, folder_workspace
from edgekit.devices.locks import take_lock
from edgekit.devices.process import Finished, run_process
from edgekit.devices.remote.facts import read_conditions
from edgekit.errors import Unsupported
from edgekit.store import Store
from edgekit.types import DeviceCommand, MeasurementSource

ENVIRONMENT = {"PATH": os.defpath, "LC_ALL": "C.UTF-8"}
"""All that a program on the host or under the emulator inherits: the same for every user and run."""


class LocalLink:
    """Runs commands on this host, each in a private folder that is removed afterwards."""

    name = "local"
    source: MeasurementSource = "host"

    def __init__(self, store: Store) -> None:
        self.arch = platform.machine()
        self._store = store
        self._depth = 0
        self._lock: IO[str] | None = None

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

    def conditions(self) -> Conditions:
        """The host's own sensors and clocks."""
        return Conditions(celsius=_celsius(), mhz=_clocks())

    def prepare(self, *, count: bool) -> None:
        """Nothing to do. Unsupported with ``count``."""
        if count:
            _refuse_counting()

    @contextlib.contextmanager
    def exclusive(self) -> Iterator[None]:
        """A lock of the store: one bench at a time of those that use the same."""
        if self._depth == 0:
            self._lock = take_lock(self._store.root / "locks" / "local-device", "this host")
        self._depth += 1
        try:
            yield
        finally:
            self._depth -= 1
            if self._depth == 0 and self._lock is not None:
                self._lock.close()
                self._lock = None

    @contextlib.contextmanager
    def workspace(self) -> Iterator[FolderWorkspace]:
        """See :meth:`edgekit.devices.base.Link.workspace`."""
        with self.exclusive(), folder_workspace(self._store, _start, "this host") as space:
            yield space

    def close(self) -> None:
        """Nothing to give up."""

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
        check_packages(command.python, "this host")
        if not command.python:
            check_machine(command.files[command.argv[0]], self.arch, "this host")
        program = command.argv[0]
        with self._store.scratch() as folder:
            push(command, folder)
            done = run_process(
                [
                    *(*_pinning(command.cpus), *([sys.executable] if command.python else [])),
                    *(str(folder / program), *command.argv[1:]),
                ],
                folder=folder,
                env={**ENVIRONMENT, **command.env},
                timeout_s=timeout_s,
                what=program,
            )
            raise_crash(program, done.returncode, done.stderr, "this host")
            raise_missing_library(program, done.returncode, done.stderr, "this host")
            outputs = collect(command, folder, returncode=done.returncode, stderr=done.stderr)
        return RunResult(
            returncode=done.returncode,
            stdout=done.stdout,
            stderr=done.stderr,
            outputs=outputs,
            peak_rss_bytes=done.peak_rss_bytes,
            seconds=done.seconds,
        )


def _start(
    folder: Path, argv: Sequence[str], env: Mapping[str, str], cpus: Sequence[int], timeout_s: float
) -> Finished:
    program = folder / argv[0]
    if program.is_file():
        check_machine(program, platform.machine(), "this host")
    return run_process(
        [*_pinning(cpus), str(program) if program.is_file() else argv[0], *argv[1:]],
        folder=folder,
        env={**ENVIRONMENT, **env},
        timeout_s=timeout_s,
        what=argv[0],
    )


def _pinning(cpus: Sequence[int]) -> list[str]:
    return ["taskset", f"{sum(1 << cpu for cpu in set(cpus)):x}"] if cpus else []


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


def _celsius() -> float | None:
    """The hottest thermal zone of a processor; None in most virtual machines."""
    lines = []
    for zone in sorted(Path("/sys/class/thermal").glob("thermal_zone*")):
        with contextlib.suppress(OSError):
            lines.append(f"{(zone / 'type').read_text().strip()} {(zone / 'temp').read_text().strip()}")
    return read_conditions("== thermal\n" + "\n".join(lines)).celsius


def _clocks() -> tuple[float, ...]:
    found = []
    for path in sorted(Path("/sys/devices/system/cpu").glob("cpu[0-9]*/cpufreq/scaling_cur_freq")):
        with contextlib.suppress(OSError, ValueError):
            found.append(int(path.read_text()) / 1000)
    return tuple(found)


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
