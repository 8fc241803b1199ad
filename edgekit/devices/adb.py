"""adb:SERIAL through the system's adb client."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from edgekit.devices.base import RunResult
from edgekit.devices.process import Finished, run_process
from edgekit.devices.remote.link import RemoteLink
from edgekit.devices.remote.script import failure, run_script
from edgekit.errors import DeviceError, DeviceLost, MissingDependency, Unsupported, UserError
from edgekit.store import Store

_SERIAL = re.compile(r"[A-Za-z0-9_.:\-\[\]%()]+")
_ADDRESS = re.compile(r"(\[[0-9A-Fa-f:.%]+\]|[A-Za-z0-9_.\-]+):(\d{1,5})")
_INSTALL = "apt-get install adb"
_CALL_S = 30.0
_SETTLE_S = 5.0
_PASSING = ("connecting", "authorizing", "offline")
"""States that a device which has just been attached goes through."""


@dataclass(frozen=True, kw_only=True)
class Attached:
    """One line of `adb devices -l`: ``state`` is "device" when it can be used."""

    serial: str
    state: str
    details: str = ""


def open_adb(spec: str, store: Store) -> AdbLink:
    """The link for "adb:SERIAL"; "adb:" is the only device that is attached.

    Raises UserError for several devices or none to choose from, DeviceError for one that cannot be used,
    MissingDependency without adb.
    """
    return AdbLink(AdbTransport(spec), store)


class AdbLink(RemoteLink):
    """A phone over adb, and what only a phone has: its package manager and its apps."""

    def __init__(self, transport: AdbTransport, store: Store) -> None:
        super().__init__(transport, store)
        self._adb = transport

    @property
    def serial(self) -> str:
        """As `adb devices` lists it."""
        return self._adb.serial

    def shell(self, argv: Sequence[str], *, timeout_s: float = _CALL_S) -> RunResult:
        """Run a program of the phone's own, such as ("am", "instrument", ...) or ("run-as", package, ...).

        The arguments arrive as they are; stdout and stderr come apart, and the exit code is the program's.
        Raises DeviceLost and DeviceTimeout.
        """
        said = run_script(self._adb, shlex.join(argv), timeout_s=timeout_s, doing=f"running {argv[0]}")
        return RunResult(
            returncode=said.returncode, stdout=said.stdout, stderr=said.stderr, seconds=said.seconds
        )

    def push_file(self, source: Path, target: str, *, timeout_s: float = 600.0) -> None:
        """`adb push` to a path there. Raises DeviceError for what adb says is wrong."""
        done = self._adb.call(["push", str(source.resolve()), target], timeout_s=timeout_s)
        self._adb.check(done, f"pushing {source.name}")

    def pull_file(self, source: str, target: Path, *, timeout_s: float = 600.0) -> None:
        """`adb pull` of a path there. Raises DeviceError for what adb says is wrong."""
        self._adb.receive(source, target, timeout_s=timeout_s)

    def install(self, apk: Path, *, timeout_s: float = 300.0) -> None:
        """`adb install -r -g`: replace the app, grant its permissions. Raises DeviceError when refused."""
        done = self._adb.call(["install", "-r", "-g", str(apk.resolve())], timeout_s=timeout_s)
        said = f"{done.stdout}\n{done.stderr}"
        if done.returncode != 0 or re.search(r"^(Failure|adb: failed)", said, re.MULTILINE):
            raise failure(said, self._adb, f"installing {apk.name}")


class AdbTransport:
    """One device, always named by its serial."""

    base = "/data/local/tmp/edgekit"
    """The one place where the shell of a phone may both write and run programs."""
    kept = "/data/local/tmp/edgekit-bundles"
    self_contained = True

    def __init__(self, spec: str) -> None:
        serial = spec.removeprefix("adb:")
        if serial and not (_SERIAL.fullmatch(serial) and not serial.startswith("-")):
            raise UserError(f"{spec!r} is not adb:SERIAL", hint="`adb devices` lists the serials")
        require_adb()
        self.serial = serial or _only_one()
        self.name = f"adb:{self.serial}"

    @property
    def environment(self) -> Mapping[str, str]:
        """The user's own, for the server's port and the keys, without what would choose another device."""
        others = {k: v for k, v in os.environ.items() if k not in ("ANDROID_SERIAL", "ADB_TRACE")}
        return {**others, "LC_ALL": "C"}

    def connect(self) -> None:
        """See that the device can be used; one with an address is connected to first when it is not there."""
        state = self._settled()
        if state in (None, "offline") and _ADDRESS.fullmatch(self.serial):
            if state == "offline":  # adb keeps a dead connection for good
                adb(["disconnect", self.serial], timeout_s=_CALL_S)
            state = self._connect()
        if state != "device":
            raise self._unusable(state)
        features = adb(["-s", self.serial, "features"], timeout_s=_CALL_S)
        if features.returncode == 0 and "shell_v2" not in features.stdout.split():
            raise Unsupported(
                f"{self.name} has an Android before 7: its shell tells no exit codes",
                hint="use a device with Android 8 or later",
            )

    def _connect(self) -> str | None:
        """The state after `adb connect`. Raises DeviceLost when nobody answers there."""
        done = adb(["connect", self.serial], timeout_s=_CALL_S)
        # It exits with 0 when it fails, too; the list of devices tells.
        if self._state() is None:
            raise DeviceLost(
                f"{self.name} cannot be reached: {_words(done)}",
                hint="see that the device is on and that its adb listens on the network (adb tcpip PORT)",
            )
        return self._settled()

    def _settled(self) -> str | None:
        """The state, after a wait for one that passes by itself."""
        deadline = time.monotonic() + _SETTLE_S
        while (state := self._state()) in _PASSING and time.monotonic() < deadline:
            time.sleep(0.2)
        return state

    def shell(self) -> Sequence[str]:
        return ["adb", "-s", self.serial, "shell", "-T", "exec sh"]

    def explain(self, said: str, doing: str) -> DeviceError:
        """By the state of the device, which says more than adb's message."""
        state = self._state()
        if state != "device":
            return self._unusable(state)
        return DeviceLost(
            f"{doing} failed on {self.name}: {_last(said) or 'adb gave no reason'}",
            hint="see that the device is still there, then try again",
        )

    def send(self, files: Mapping[str, Path], folder: str, *, timeout_s: float) -> None:
        """In one call, which takes as long to start as a small file does: adb keeps the files' own names."""
        with tempfile.TemporaryDirectory() as scratch:
            named = [Path(scratch) / name for name in files]
            for path, source in zip(named, files.values(), strict=True):
                shutil.copyfile(source, path)
            done = self.call(["push", *map(str, named), f"{folder}/"], timeout_s=timeout_s)
        self.check(done, f"pushing {', '.join(path.name for path in files.values())}")

    def receive(self, source: str, target: Path, *, timeout_s: float) -> None:
        done = self.call(["pull", source, str(target.resolve())], timeout_s=timeout_s)
        self.check(done, "pulling a file")

    def call(self, arguments: Sequence[str], *, timeout_s: float) -> Finished:
        """Run `adb -s SERIAL` with further arguments."""
        return adb(["-s", self.serial, *arguments], timeout_s=timeout_s)

    def close(self) -> None:
        """Nothing: the server of adb is the user's."""

    def check(self, done: Finished, doing: str) -> None:
        """Raise DeviceError or DeviceLost for a transfer that adb did not do."""
        if done.returncode == 0:
            return
        said = _last(f"{done.stdout}\n{done.stderr}") or "adb gave no reason"
        refused = re.search(r"remote|Permission denied|No space|Read-only", said) is not None
        if refused and self._state() == "device":
            raise failure(said, self, doing)
        raise DeviceLost(
            f"the connection to {self.name} broke while {doing}: {said}",
            hint="see that the device is still there, then try again",
        )

    def _state(self) -> str | None:
        found = [a.state for a in attached() if a.serial == self.serial]
        if len(found) > 1:
            raise DeviceError(
                f"{len(found)} attached devices have the serial {self.serial}",
                hint="detach all but one, or reach it over the network",
            )
        return found[0] if found else None

    def _unusable(self, state: str | None) -> DeviceError:
        if state is None:
            others = ", ".join(a.serial for a in attached()) or "none"
            return DeviceLost(
                f"no device {self.serial} is attached (adb lists: {others})",
                hint="see the cable, and that USB debugging is on (Settings, Developer options)",
            )
        if state in ("unauthorized", "authorizing"):
            return DeviceError(
                f"{self.name} has not allowed this computer to debug it (unauthorized)",
                hint="unlock the device and accept the question there; it may help to plug it in again",
            )
        if state == "offline":
            return DeviceLost(
                f"{self.name} is offline: it is attached but does not answer",
                hint="plug it in again, or restart it and adb (adb kill-server)",
            )
        if state.startswith("no permissions"):
            return DeviceError(
                f"this user may not open {self.name} ({state})",
                hint="install android-sdk-platform-tools-common for its udev rules, and plug in again",
            )
        return DeviceError(
            f"{self.name} is in state {state!r}", hint="start Android on it: edgekit needs its shell"
        )


def require_adb() -> None:
    """Raise MissingDependency without adb."""
    if shutil.which("adb") is None:
        raise MissingDependency("the program adb is not installed", hint=_INSTALL)


def attached() -> list[Attached]:
    """All devices that adb knows of. Raises MissingDependency without adb, DeviceError when it fails."""
    require_adb()
    done = adb(["devices", "-l"], timeout_s=_CALL_S)
    if done.returncode != 0:
        raise DeviceError(f"`adb devices` failed: {_words(done)}", hint="try adb kill-server")
    found = []
    for line in done.stdout.splitlines():
        # "no permissions (user in plugdev group; ...); see [http://...]" is a state with blanks.
        match = re.match(r"(\S+)\s+(no permissions[^;]*|\S+)\s*(.*)$", line)
        if match and not line.startswith(("*", "List of devices", "adb server")):
            found.append(Attached(serial=match[1], state=match[2], details=match[3]))
    return found


def adb(arguments: Sequence[str], *, timeout_s: float) -> Finished:
    """Run adb. Raises DeviceTimeout when it does not end in time."""
    return run_process(
        ["adb", *arguments],
        folder=Path("/"),
        env={**os.environ, "LC_ALL": "C"},
        timeout_s=timeout_s,
        what=f"adb {arguments[-1] if len(arguments) < 3 else arguments[2]}",
    )


def _only_one() -> str:
    found = attached()
    if len(found) == 1:
        return found[0].serial
    if not found:
        raise DeviceLost(
            "no device is attached to adb", hint="see the cable, and that USB debugging is on on the device"
        )
    names = ", ".join(f"adb:{a.serial} ({a.state})" for a in found)
    raise UserError(f"several devices are attached: {names}", hint="name one of them")


def _words(done: Finished) -> str:
    return _last(f"{done.stdout}\n{done.stderr}") or f"adb exited with {done.returncode}"


def _last(text: str) -> str | None:
    """The last line of adb's own errors, else the last line; not the summary that follows each transfer."""
    lines = [line.strip() for line in text.splitlines() if line.strip() and not line.startswith("*")]
    errors = [line for line in lines if line.startswith(("adb: error:", "error:", "adb: failed"))]
    return next(reversed(errors or lines), None)
