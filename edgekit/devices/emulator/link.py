"""qemu-aarch64 in user mode as a device."""

from __future__ import annotations

import contextlib
import json
import platform
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from edgekit.devices.base import (
    Conditions,
    RunResult,
    check_command,
    collect,
    last_lines,
    push,
    raise_crash,
    raise_missing_library,
)
from edgekit.devices.elf import check_machine
from edgekit.devices.emulator.sysroot import INSTALL, sysroot
from edgekit.devices.folder import FolderWorkspace, folder_workspace
from edgekit.devices.local import ENVIRONMENT
from edgekit.devices.process import Finished, run_process
from edgekit.errors import DeviceError, MissingDependency, Unsupported
from edgekit.native import counter_plugin, instruction_clock
from edgekit.native.arm64_python import Arm64Python, arm64_python
from edgekit.native.build import run_marks
from edgekit.profiles.schema import Cache, DeviceProfile, Emulator
from edgekit.store import Store
from edgekit.types import DeviceCommand, MeasurementSource

_QEMU = "qemu-aarch64"
_COUNTS = ".edgekit-counts.jsonl"
_CLOCK = ".edgekit-clock.so"
_MARKS = ".edgekit-marks.so"
_PYTHON = ".edgekit-python"
_PACKAGES = ".edgekit-packages"
_LINE_BYTES = 64
_FIRST_WITHOUT_API_1 = 9  # major version of QEMU: see native/qemu_plugin_api.h


class EmulatorLink:
    """Runs arm64 programs under qemu-aarch64 with the CPU and the persona of a profile.

    Programs see the profile's /proc/cpuinfo and /sys/devices/system/cpu, and otherwise the host's files.
    Times mean nothing here. Instruction counts are exact for programs of one thread; cache misses are
    those of a model (LRU, one core, no prefetcher). The instruction set and the results are the device's.
    Programs in Python run in an arm64 Python; their counts hold the interpreter's share.
    A process that the program starts would run on the host: no emulation of children.

    Raises Unsupported for a profile without an emulator section, MissingDependency without QEMU or the
    arm64 C library.
    """

    name = "emulator"
    arch = "aarch64"
    source: MeasurementSource = "emulator"

    def __init__(self, profile: DeviceProfile, store: Store) -> None:
        if profile.emulator is None:
            raise Unsupported(
                f"profile {profile.id} cannot be emulated: it has no emulator section",
                hint="choose a profile with an emulator (see `edgekit profiles show`), or use --device local",
            )
        self._profile = profile
        self._emulator: Emulator = profile.emulator
        self._store = store
        self._qemu = _find_qemu()
        self._version = _qemu_version(self._qemu)
        self._plugins = _has_plugins(self._qemu)
        self._root = sysroot(profile, self._emulator, store)

    def facts(self) -> dict[str, Any]:
        """What is emulated and by what; "cache_model" holds the geometries that ``caches=True`` would use."""
        return {
            "name": self._profile.title,
            "profile": self._profile.id,
            "cpu": self._emulator.cpu,
            "cores": self._profile.core_count,
            "persona": self._root.name[:12],
            "emulator": f"{_QEMU} {self._version}",
            "counts_instructions": self._can_count(),
            "cache_model": {name: f"{c.kib} KiB, {c.ways} ways" for name, c in self._modelled().items()},
            "arch": self.arch,
            "host": platform.machine(),
            "emulated": True,
        }

    def conditions(self) -> Conditions:
        """Nothing: an emulated board has no clocks and no sensors."""
        return Conditions()

    def exclusive(self) -> contextlib.AbstractContextManager[None]:
        """Nothing to lock: what runs at the same time does not change counts and outputs."""
        return contextlib.nullcontext()

    @contextlib.contextmanager
    def workspace(self) -> Iterator[FolderWorkspace]:
        """See :meth:`edgekit.devices.base.Link.workspace`. Only pushed programs can be run."""
        with folder_workspace(self._store, self._run_in, f"the emulated {self._emulator.cpu}") as space:
            yield space

    def close(self) -> None:
        """Nothing to give up."""

    def prepare(self, *, count: bool) -> None:
        """Compile the counter and the clock when instructions are to be counted."""
        if count:
            self._require_counting()
            counter_plugin(self._store)
            instruction_clock(self._store)

    def run(
        self,
        command: DeviceCommand,
        *,
        timeout_s: float,
        count: bool = False,
        caches: bool = False,
        per_op: bool = False,
    ) -> RunResult:
        """See :meth:`edgekit.devices.base.Link.run`. ``caches`` and ``per_op`` imply ``count``."""
        check_command(command)
        counting = count or caches or per_op
        if counting:
            self._require_counting()
        program = command.argv[0]
        if not command.python:
            check_machine(command.files[program], self.arch, self.name)
        with self._store.scratch() as folder:
            push(command, folder)
            plugin = self._plugin_options(caches=caches) if counting else []
            if per_op:
                shutil.copyfile(instruction_clock(self._store), folder / _CLOCK)
            start, env = self._start(command, folder, counting=counting)
            guest_only, shared = _environment(env, preload=f"./{_CLOCK}" if per_op else None)
            done = run_process(
                [
                    *(self._qemu, "-cpu", self._emulator.cpu, "-L", str(self._root)),
                    *(*plugin, *guest_only, *start, *command.argv[1:]),
                ],
                folder=folder,
                env=shared,
                timeout_s=timeout_s,
                what=f"{program} under {_QEMU}",
            )
            where = f"the emulated {self._emulator.cpu}"
            raise_crash(program, done.returncode, done.stderr, where)
            raise_missing_library(program, done.returncode, done.stderr, where)
            outputs = collect(command, folder, returncode=done.returncode, stderr=done.stderr)
            regions, totals = _read_counts(folder / _COUNTS, done) if counting else ((), {})
        return RunResult(
            returncode=done.returncode,
            stdout=done.stdout,
            stderr=done.stderr,
            outputs=outputs,
            regions=regions,
            totals=totals,
            peak_rss_bytes=done.peak_rss_bytes,
            seconds=done.seconds,
        )

    def _run_in(
        self,
        folder: Path,
        argv: Sequence[str],
        env: Mapping[str, str],
        cpus: Sequence[int],
        timeout_s: float,
    ) -> Finished:
        program = folder / argv[0]
        if not program.is_file():
            raise DeviceError(f"{argv[0]} is not among the pushed files: the emulator has no other programs")
        check_machine(program, self.arch, self.name)
        guest_only, shared = _environment(env, preload=None)
        start = [self._qemu, "-cpu", self._emulator.cpu, "-L", str(self._root), *guest_only]
        return run_process(
            [*start, f"./{argv[0]}", *argv[1:]],
            folder=folder,
            env=shared,
            timeout_s=timeout_s,
            what=f"{argv[0]} under {_QEMU}",
        )

    def _start(
        self, command: DeviceCommand, folder: Path, *, counting: bool
    ) -> tuple[list[str], dict[str, str]]:
        """What QEMU starts in ``folder``: the program itself or a Python with it; and its environment."""
        program = f"./{command.argv[0]}"
        if not command.python:
            return [program], dict(command.env)
        python = arm64_python(command.python, self._store)
        env = {**_python_environment(python, folder), **command.env}
        if counting:
            shutil.copyfile(run_marks(self._store), folder / _MARKS)
            env["EDGEKIT_MARKS"] = f"./{_MARKS}"
            env["OMP_NUM_THREADS"] = "1"  # torch's linear algebra has a pool beside torch's own
        return [f"{_PYTHON}/{python.program}", program], env

    def _require_counting(self) -> None:
        if not self._can_count():
            raise MissingDependency(
                f"{self._qemu} {self._version} cannot count instructions: "
                "that needs QEMU 4.2 to 8.2, built with plugins",
                hint="qemu-user 7.2 of Debian 12 can; that of Debian 13 has no plugins",
            )

    def _can_count(self) -> bool:
        major = int(self._version.partition(".")[0])
        return self._plugins and major < _FIRST_WITHOUT_API_1

    def _plugin_options(self, *, caches: bool) -> list[str]:
        options = [_escape(str(counter_plugin(self._store))), f"out={_COUNTS}"]
        if caches:
            modelled = self._modelled()
            if not modelled:
                raise Unsupported(
                    f"caches cannot be modelled for profile {self._profile.id}",
                    hint="the model needs kib and ways of caches.l1d and caches.l1i, with lines of 64 bytes",
                )
            options += [f"{name}={cache.kib}:{cache.ways}" for name, cache in modelled.items()]
        return ["-plugin", ",".join(options)]

    def _modelled(self) -> dict[str, Cache]:
        """Levels that can be modelled: both L1 caches or none, then L2 and L3 as far as they are known."""
        caches = self._profile.caches
        if not (_is_known(caches.l1i) and _is_known(caches.l1d)):
            return {}
        known: dict[str, Cache] = {}
        for name in ("l1i", "l1d", "l2", "l3"):
            cache: Cache | None = getattr(caches, name)
            if cache is None or not _is_known(cache):
                break
            known[name] = cache
        return known


def _is_known(cache: Cache | None) -> bool:
    return cache is not None and cache.ways is not None and cache.line_bytes == _LINE_BYTES


def _find_qemu() -> str:
    path = shutil.which(_QEMU)
    if path is None:
        # qemu-aarch64-static (package qemu-user-static) would not do: it cannot load plugins.
        raise MissingDependency(f"{_QEMU} is not installed", hint=INSTALL)
    return path


def _qemu_version(qemu: str) -> str:
    done = subprocess.run([qemu, "--version"], capture_output=True, text=True, check=False)
    found = re.search(r"version (\d+(?:\.\d+)+)", done.stdout)
    if found is None:
        raise MissingDependency(f"{qemu} does not tell its version", hint=INSTALL)
    return found[1]


def _has_plugins(qemu: str) -> bool:
    """Whether it was built with plugins: static builds, and Debian's from version 13 on, were not."""
    done = subprocess.run([qemu, "-h"], capture_output=True, text=True, check=False)
    return "-plugin " in done.stdout


def _escape(value: str) -> str:
    """A value in QEMU's option lists: a comma is written twice."""
    return value.replace(",", ",,")


def _python_environment(python: Arm64Python, folder: Path) -> dict[str, str]:
    """The environment in which ``python`` finds its libraries and packages: by links in ``folder``, as no
    name of the host's may hold a character that separates paths. Hashes are the same in each run.
    """
    (folder / _PYTHON).symlink_to(python.root)
    (folder / _PACKAGES).symlink_to(python.packages)
    return {
        "LD_LIBRARY_PATH": ":".join(f"{_PYTHON}/{path}" for path in python.libraries),
        "PYTHONPATH": _PACKAGES,
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONHASHSEED": "0",
        "PYTHONNOUSERSITE": "1",
        "OPENBLAS_NUM_THREADS": "1",
    }


def _environment(env: Mapping[str, str], *, preload: str | None) -> tuple[list[str], dict[str, str]]:
    """Options and environment that give the guest ``env``.

    The guest inherits QEMU's environment. Variables of the dynamic loader must not reach QEMU itself, which
    is a program of the host, so they are set for the guest alone. -E splits at commas: none in these.
    """
    shared = {**ENVIRONMENT, **{k: v for k, v in env.items() if not k.startswith("LD_")}}
    guest_only = {k: v for k, v in env.items() if k.startswith("LD_")}
    if preload is not None:
        guest_only["LD_PRELOAD"] = " ".join(filter(None, (preload, guest_only.get("LD_PRELOAD"))))
    if any("," in value for value in guest_only.values()):
        raise ValueError("a variable of the dynamic loader cannot hold a comma under qemu-user")
    return [part for k, v in guest_only.items() for part in ("-E", f"{k}={v}")], shared


def _read_counts(path: Path, done: Finished) -> tuple[tuple[Mapping[str, int], ...], Mapping[str, int]]:
    """Regions and totals that the plugin wrote.

    Raises DeviceError when there are none (the plugin did not load) or when the program ran more than one
    thread: counters are not atomic, and a count that may be wrong is not given out.
    """
    if not path.is_file() or not (text := path.read_text()):
        raise DeviceError("the instruction counter did not run", hint=last_lines(done.stderr))
    records: list[dict[str, int]] = [json.loads(line) for line in text.splitlines()]
    regions = tuple(record for record in records if "region" in record)
    totals = next((record for record in records if "total" in record), {})
    threads = max((record["threads"] for record in records), default=1)
    if threads > 1:
        raise DeviceError(
            f"the program ran {threads} threads, so its instructions were not counted exactly",
            hint="count with one thread",
        )
    return regions, totals
