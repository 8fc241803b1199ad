"""What every link does, and the checks that all of them share."""

from __future__ import annotations

import contextlib
import importlib.metadata
import re
import shutil
import signal
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, Protocol

from packaging.requirements import Requirement

from edgekit.errors import DeviceError, MissingDependency
from edgekit.types import DeviceCommand, MeasurementSource

_LAST_LINES = 8


@dataclass(frozen=True, kw_only=True)
class RunResult:
    """What came back from one command.

    ``outputs`` holds the files that the command was to write, by name; of a command that exited with a
    non-zero code, those that are there. ``regions`` has one entry per marked region when instructions
    were counted, else none: "insns", one count per instruction class, "threads", and with a cache model
    "l1d_accesses", "l1d_misses" and so on. ``totals`` is the same for the whole program, with "total".

    ``peak_rss_bytes`` is the high-water mark of the process as the kernel accounts it, None where that
    cannot be told; on an emulator it includes the emulator. ``seconds`` is wall time, starting included.
    """

    returncode: int
    stdout: str
    stderr: str
    outputs: Mapping[str, bytes] = field(default_factory=dict)
    regions: tuple[Mapping[str, int], ...] = ()
    totals: Mapping[str, int] = field(default_factory=dict)
    peak_rss_bytes: int | None = None
    seconds: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Battery:
    """A device's battery; None for what it does not tell. ``charging`` is False when it is full."""

    percent: float | None
    celsius: float | None
    charging: bool | None


@dataclass(frozen=True, kw_only=True)
class Conditions:
    """What a machine's sensors and clocks say now; None or empty where it does not tell.

    ``celsius`` is the hottest zone of its processors, ``throttled`` whether it says that it has slowed
    itself down, ``mhz`` the present clock of each core, ``battery`` that of a phone.
    """

    celsius: float | None = None
    throttled: bool | None = None
    mhz: tuple[float, ...] = ()
    battery: Battery | None = None

    @property
    def battery_data(self) -> dict[str, Any] | None:
        """The battery as plain JSON data."""
        return None if self.battery is None else asdict(self.battery)


class Workspace(Protocol):
    """An empty folder on the machine, removed when its context ends, whatever happened in between."""

    @property
    def folder(self) -> str:
        """Its path there."""

    def push(self, files: Mapping[str, Path]) -> None:
        """Copy local files into the folder, by their names in it; what arrived is compared by hash.

        A push that the connection broke is started again once. Programs keep their permission to run.
        Raises DeviceError for a full disk, a missing permission, a local file that cannot be read.
        """

    def run(
        self,
        argv: Sequence[str],
        *,
        timeout_s: float,
        env: Mapping[str, str] | None = None,
        cpus: Sequence[int] = (),
    ) -> RunResult:
        """Run a program in the folder: argv[0] is a pushed file, or else a program of the machine.

        No shell sees the arguments. ``cpus`` are the cores that it may use. A non-zero exit code is a
        result. Raises DeviceError when it crashes or cannot be started, DeviceTimeout when it does not end
        in time (it is stopped then), DeviceLost when the connection breaks.
        """

    def pull(self, name: str, target: Path) -> None:
        """Copy a file of the folder to a local path, compared by hash.

        Raises DeviceError when it is not there or no plain file; ``target`` is then untouched.
        """


class Link(Protocol):
    """A way to a machine that runs commands."""

    @property
    def name(self) -> str:
        """As the user wrote it: "local", "emulator", ..."""

    @property
    def arch(self) -> str:
        """Machine of the programs that run there: "aarch64", "x86_64"."""

    @property
    def source(self) -> MeasurementSource:
        """What figures taken over this link are worth."""

    def facts(self) -> dict[str, Any]:
        """JSON data about the machine, for reports."""

    def conditions(self) -> Conditions:
        """Temperature, throttling and clocks as they are now."""

    def exclusive(self) -> AbstractContextManager[None]:
        """The machine for oneself. A link may enter it repeatedly; DeviceError when another one has it."""

    def workspace(self) -> AbstractContextManager[Workspace]:
        """A folder on the machine. Enters :meth:`exclusive`."""

    def close(self) -> None:
        """Give up the connection. A link that is not closed does so when the program ends."""

    def prepare(self, *, count: bool, python: Sequence[str] = ()) -> None:
        """Get ready what runs need, compiled programs for one, so that nothing is found missing later.

        ``python`` are the packages of programs that a Python of the device runs, as in a command. Raises
        MissingDependency, or Unsupported for a ``count`` that this link cannot take.
        """

    def run(
        self,
        command: DeviceCommand,
        *,
        timeout_s: float,
        count: bool = False,
        caches: bool = False,
        per_op: bool = False,
    ) -> RunResult:
        """Push the command's files into an empty folder there, run it in that folder, bring its outputs back.

        With ``command.python`` the program is run by a Python of the device that has those packages.

        The arguments reach the program as they are; no shell sees them. A non-zero exit code is a result,
        not an error. ``count`` counts instructions in the regions that the program marks, ``caches`` models
        the caches as well, ``per_op`` makes the program's clock tick in instructions (one per microsecond).
        Counts are exact for programs of one thread.

        Raises DeviceError when the program crashes, does not end within ``timeout_s`` or does not write an
        output; Unsupported for a count that this link cannot take; MissingDependency without a Python that
        has the packages.
        """


def check_packages(requirements: Sequence[str], where: str) -> None:
    """Raise MissingDependency unless this Python has ``requirements``: "torch>=2.8", without markers."""
    found: dict[str, str] = {}
    for name in (r.name for choice in choices(requirements) for r in choice):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    unmet = first_unmet(requirements, found)
    if unmet is not None:
        has, install = unmet
        raise MissingDependency(f"{where} {has}", hint=f"pip install '{install}'")


def choices(requirements: Sequence[str]) -> list[list[Requirement]]:
    """The packages of which one each is needed: "ai-edge-litert | tflite-runtime" is a choice of two."""
    return [[Requirement(part) for part in text.split("|")] for text in requirements]


def first_unmet(requirements: Sequence[str], found: Mapping[str, str]) -> tuple[str, str] | None:
    """What a Python with the packages ``found`` (versions by name) has instead of the first of the
    ``requirements`` that it does not meet ("has torch 2.1, but ..."), and what to install; None for none."""
    for choice in choices(requirements):
        if any(r.name in found and r.specifier.contains(found[r.name], prereleases=True) for r in choice):
            continue
        has = [f"{r.name} {found[r.name]}" for r in choice if r.name in found]
        lacks = "no Python package " + " or ".join(r.name for r in choice)
        needs = " or ".join(map(str, choice))
        return f"has {' and '.join(has) or lacks}, but the file needs {needs}", str(choice[0])
    return None


def check_names(names: Iterable[str]) -> None:
    """Raise ValueError for a file name that leaves the folder of a run: a bug of the caller."""
    for name in names:
        path = PurePosixPath(name)
        if not path.parts or path.is_absolute() or ".." in path.parts or "\0" in name:
            raise ValueError(f"file name {name!r} leaves the run's folder")


def check_command(command: DeviceCommand) -> None:
    """Raise ValueError for a command that no link could run: a bug of the caller."""
    if not command.argv or command.argv[0] not in command.files:
        raise ValueError(f"argv[0] must be one of the pushed files, got {command.argv[:1]}")
    check_names((*command.files, *command.outputs))
    if any("\0" in argument for argument in command.argv):
        raise ValueError("an argument holds a NUL character")


def push(command: DeviceCommand, folder: Path) -> None:
    """Copy the command's files into a local folder; the program itself is made executable."""
    for name, source in command.files.items():
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            shutil.copyfile(source, target)
        except OSError as exc:
            raise DeviceError(f"cannot push {name}: {exc.strerror} ({source})") from exc
    (folder / command.argv[0]).chmod(0o755)


def collect(command: DeviceCommand, folder: Path, *, returncode: int, stderr: str) -> dict[str, bytes]:
    """Read the command's outputs from a local folder. Raises DeviceError for one that should be there."""
    outputs: dict[str, bytes] = {}
    for name in command.outputs:
        path = folder / name
        if path.is_file() and not path.is_symlink():
            outputs[name] = path.read_bytes()
        elif returncode == 0:
            raise DeviceError(
                f"{command.argv[0]} ended well but did not write {name}", hint=last_lines(stderr)
            )
    return outputs


def raise_crash(program: str, returncode: int, stderr: str, where: str) -> None:
    """Raise DeviceError when ``returncode`` (negative: a signal, as subprocess has it) tells of a crash."""
    if returncode >= 0:
        return
    try:
        name = signal.Signals(-returncode).name
    except ValueError:
        name = f"signal {-returncode}"
    hint = last_lines(stderr)
    if name == "SIGKILL":
        memory = "the kernel does that to a program that needs more memory than there is"
        hint = f"{memory}; {hint}" if hint else memory
    raise DeviceError(f"{program} was ended by {name} on {where}", hint=hint)


def raise_missing_library(program: str, returncode: int, stderr: str, where: str) -> None:
    """Raise DeviceError when the loader there (glibc's, Android's) did not find a library."""
    found = re.search(
        r"error while loading shared libraries: ([^:\s]+)|library \"([^\"]+)\" not found", stderr
    )
    if returncode != 0 and found:
        raise DeviceError(
            f"{program} lacks the library {found[1] or found[2]} on {where}", hint=last_lines(stderr)
        )


def last_lines(text: str) -> str | None:
    """The last lines of a program's standard error, as a hint; None when it said nothing."""
    lines = [line for line in text.splitlines() if line.strip()]
    return "last output:\n" + "\n".join(lines[-_LAST_LINES:]) if lines else None
