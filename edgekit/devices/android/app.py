"""One benchmark by the app: install, push, start, fetch, tidy up.

The bundle goes to /data/local/tmp, which apps may read (AOSP system/sepolicy, untrusted_app_all.te), and the
result is fetched by run-as from the app's own files: that needs a debuggable build, and no permission for
storage.
"""

from __future__ import annotations

import contextlib
import secrets
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Protocol

from edgekit.devices.android.instrument import Outcome, parse_instrumentation
from edgekit.devices.android.result import AppResult, parse_result
from edgekit.devices.base import RunResult
from edgekit.errors import DeviceError, DeviceLost, DeviceTimeout, UserError

PACKAGE = "dev.edgekit.demo"
INSTRUMENTATION = f"{PACKAGE}/.BenchmarkInstrumentation"
DELEGATES = {"cpu": "cpu", "xnnpack": "cpu", "gpu": "gpu", "nnapi": "nnapi", "npu": "npu"}
"""The app's name of each delegate, by its name in profiles and on the command line."""

_BASE = "/data/local/tmp/edgekit-app"
"""Beside the folder of other runs, into which only the shell may look."""
_BUILD_IT = "build it (android_demo/README.md) and give the file with --apk"


class AppPhone(Protocol):
    """What a run needs of a link over adb; :class:`edgekit.devices.adb.AdbLink` has it."""

    @property
    def name(self) -> str:
        """As the user wrote it."""

    @property
    def serial(self) -> str:
        """As `adb devices` lists it."""

    def shell(self, argv: tuple[str, ...], *, timeout_s: float = ...) -> RunResult:
        """Run a program of the phone's own."""

    def push_file(self, source: Path, target: str) -> None:
        """Copy a file to the phone."""

    def install(self, apk: Path) -> None:
        """Install or replace an app."""


@dataclass(frozen=True, kw_only=True)
class AppRun:
    """What the app is told. ``files`` are those of the bundle by their names in it, manifest.json included;
    ``model_sha256`` is the digest of the one to run. ``delegate`` is one of the app's own names."""

    files: Mapping[str, Path]
    model_sha256: str
    delegate: str
    threads: int
    warmup: int
    runs: int


def app_delegate(name: str) -> str:
    """The app's name of a delegate. Raises UserError for one that no app has."""
    if name not in DELEGATES:
        raise UserError(
            f"the app knows no delegate {name!r}", hint=f"--delegate is one of {', '.join(DELEGATES)}"
        )
    return DELEGATES[name]


def run_app(phone: AppPhone, run: AppRun, *, apk: Path | None, timeout_s: float) -> AppResult:
    """Run one benchmark and return its result; what was pushed and written is removed, the app stays.

    The caller holds the phone for itself (:meth:`edgekit.devices.base.Link.exclusive`).
    Raises UserError when the app is not there or ``apk`` is no app, Unsupported when it refuses the delegate,
    DeviceError when it crashes, fails or answers for another run, DeviceTimeout when it does not end in time
    (it is stopped then).
    """
    _install(phone, apk)
    run_id = secrets.token_hex(8)
    folder = f"{_BASE}-{run_id}"
    own = f"files/edgekit/{run_id}"
    # What a run left there that was killed: nobody else measures now, since the phone is ours.
    phone.shell(("sh", "-c", f"rm -rf {_BASE}-*"))
    try:
        _push(phone, run.files, folder)
        outcome = _instrument(phone, run, run_id, folder, timeout_s)
        if not outcome.finished:
            raise _not_finished(phone, outcome)
        text = _fetch(phone, f"{own}/result.json")
    finally:
        with contextlib.suppress(DeviceLost, DeviceTimeout):
            phone.shell(("rm", "-rf", folder))
            phone.shell(("run-as", PACKAGE, "rm", "-rf", own))
    return parse_result(
        text,
        run_id=run_id,
        model_sha256=run.model_sha256,
        delegate=run.delegate,
        runs=run.runs,
        where=phone.name,
    )


def _install(phone: AppPhone, apk: Path | None) -> None:
    if apk is not None:
        _check_apk(apk)
        phone.install(apk)
    there = phone.shell(("pm", "path", PACKAGE))
    if not there.stdout.startswith("package:"):
        if apk is not None:
            raise UserError(f"{apk} is an app, but not {PACKAGE}", hint=_BUILD_IT)
        raise UserError(f"the app {PACKAGE} is not installed on {phone.name}", hint=_BUILD_IT)


def _check_apk(apk: Path) -> None:
    try:
        with zipfile.ZipFile(apk) as archive:
            names = archive.namelist()
    except (OSError, zipfile.BadZipFile) as exc:
        raise UserError(f"{apk} is not an Android app: {exc}", hint=_BUILD_IT) from exc
    if "AndroidManifest.xml" not in names:
        raise UserError(f"{apk} is not an Android app: it has no AndroidManifest.xml", hint=_BUILD_IT)


def _push(phone: AppPhone, files: Mapping[str, Path], folder: str) -> None:
    folders = sorted({str(PurePosixPath(folder) / PurePosixPath(name).parent) for name in files})
    _checked(phone, phone.shell(("mkdir", "-p", *folders)), "making a folder")
    for name, source in files.items():
        phone.push_file(source, f"{folder}/{name}")
    # adb keeps the modes of this machine, and the app is another user there.
    _checked(phone, phone.shell(("chmod", "-R", "755", folder)), "letting the app read the bundle")


def _instrument(phone: AppPhone, run: AppRun, run_id: str, folder: str, timeout_s: float) -> Outcome:
    extras = {
        "run_id": run_id,
        "bundle": folder,
        "delegate": run.delegate,
        "threads": str(run.threads),
        "warmup": str(run.warmup),
        "runs": str(run.runs),
    }
    options = (part for key, value in extras.items() for part in ("-e", key, value))
    try:
        said = phone.shell(("am", "instrument", "-w", "-r", *options, INSTRUMENTATION), timeout_s=timeout_s)
    except DeviceTimeout as exc:
        with contextlib.suppress(DeviceLost, DeviceTimeout):
            phone.shell(("am", "force-stop", PACKAGE))
        raise DeviceTimeout(
            f"the app did not end within {timeout_s:g} s on {phone.name} and was stopped"
        ) from exc
    return parse_instrumentation(f"{said.stdout}\n{said.stderr}")


def _not_finished(phone: AppPhone, outcome: Outcome) -> Exception:
    if outcome.not_there:
        return UserError(
            f"the app {PACKAGE} on {phone.name} has no benchmark of this version: {outcome.words}",
            hint=_BUILD_IT,
        )
    if "shortMsg" in outcome.results or outcome.problem:
        return DeviceError(
            f"the app crashed on {phone.name}: {outcome.words}",
            hint=f"adb -s {phone.serial} logcat -d -b crash tells where",
        )
    return DeviceError(f"the app on {phone.name} did not finish its run: {outcome.words}")


def _fetch(phone: AppPhone, name: str) -> str:
    said = phone.shell(("run-as", PACKAGE, "cat", name))
    if said.returncode != 0:
        words = (said.stderr or said.stdout).strip().partition("\n")[0]
        debuggable = "not debuggable" in words
        raise DeviceError(
            f"the app's result cannot be read on {phone.name}: {words or 'run-as gave no reason'}",
            hint="install the debug build: run-as reads no other" if debuggable else None,
        )
    return said.stdout


def _checked(phone: AppPhone, said: RunResult, doing: str) -> None:
    if said.returncode != 0:
        words = (said.stderr or said.stdout).strip().partition("\n")[0]
        raise DeviceError(f"{doing} failed on {phone.name}: {words or f'exit code {said.returncode}'}")
