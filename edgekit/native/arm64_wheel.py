"""Shared libraries for arm64 out of the wheel of a package whose own libraries are installed here.

Host and device then run libraries of one release. Wheels of all Python versions hold the same ones.
"""

from __future__ import annotations

import os
import platform
import re
import shlex
import shutil
import struct
import subprocess
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path

from edgekit.errors import MissingDependency, Unsupported, UserError
from edgekit.native.cache import cached_folder
from edgekit.store import Store, check_full_disk, digest_file

_ELF_MACHINE_AARCH64 = 183
_DOWNLOAD_SECONDS = 600


@dataclass(frozen=True, kw_only=True)
class Arm64Wheel:
    """Where the libraries lie: members ``folder``/name of the wheel of a distribution and a version.

    ``runtime`` is its name in messages, ``platform`` the wheel's tag, ``variable`` the environment variable
    that names a downloaded wheel, for machines without network.
    """

    distribution: str
    version: str
    runtime: str
    folder: str
    libraries: tuple[str, ...]
    platform: str
    variable: str

    def unpacked(self, arch: str, store: Store) -> Path:
        """A folder with the libraries, kept in the store; the package index of pip is asked once.

        Raises Unsupported for an ``arch`` other than "aarch64", MissingDependency when the wheel cannot be
        had, UserError for one that does not fit.
        """
        if arch != "aarch64":
            raise Unsupported(
                f"there is no {self.runtime} library for {arch} here",
                hint=f"edgekit runs models on this host ({platform.machine()}) and on aarch64",
            )
        key = {"wheel": self.distribution, "arch": arch, "libraries": list(self.libraries)}
        named = os.environ.get(self.variable)
        if named:
            wheel = Path(named).expanduser()
            self._check_named(wheel)
            key |= {"sha256": digest_file(wheel)}
            return cached_folder(store, key, self.libraries, lambda folder: self._extract(wheel, folder))
        return cached_folder(store, key | {"version": self.version}, self.libraries, self._fetch)

    def _check_named(self, wheel: Path) -> None:
        if not wheel.is_file():
            raise UserError(f"{self.variable} names {wheel}, which is not a file")
        parts = wheel.name.split("-")
        if wheel.suffix != ".whl" or parts[0] != self.distribution.replace("-", "_") or len(parts) < 5:
            raise UserError(f"{self.variable} names {wheel}, which is not a wheel of {self.distribution}")
        if parts[1] != self.version:
            raise UserError(
                f"{self.variable} names version {parts[1]} of {self.distribution}, "
                f"but {self.version} is installed here",
                hint=f"download it with: {shlex.join(self._pip_download())}",
            )

    def _pip_download(self) -> list[str]:
        """The command that fetches the wheel."""
        return [
            *("python3", "-m", "pip", "download", "--no-deps", "--only-binary=:all:"),
            *("--platform", self.platform, "--python-version", "3.11", "--implementation", "cp"),
            f"{self.distribution}=={self.version}",
        ]

    def _fetch(self, folder: Path) -> None:
        downloads = folder.parent / "download"
        downloads.mkdir()
        command = self._pip_download()
        quiet = ["--quiet", "--no-input", "--disable-pip-version-check", "--dest", str(downloads)]
        why = _run_pip([sys.executable, *command[1:], *quiet])
        wheels = sorted(downloads.glob("*.whl"))
        if why is not None or len(wheels) != 1:
            why = why or "pip brought no wheel"
            raise MissingDependency(
                f"the arm64 wheel of {self.distribution} {self.version} cannot be downloaded: {why}",
                hint=f"with network: {shlex.join(command)}; then set {self.variable} to the file",
            )
        self._extract(wheels[0], folder)

    def _extract(self, wheel: Path, folder: Path) -> None:
        for name in self.libraries:
            member, target = f"{self.folder}/{name}", folder / name
            try:
                with zipfile.ZipFile(wheel) as file, file.open(member) as source, target.open("wb") as sink:
                    shutil.copyfileobj(source, sink)
            except (zipfile.BadZipFile, KeyError) as exc:
                text = f"{wheel.name} is not a wheel of {self.distribution}: it has no {member}"
                raise UserError(text) from exc
            if not _is_for_arm64(target):
                raise UserError(f"{wheel.name} is not for aarch64: its {name} is for another machine")


def _is_for_arm64(library: Path) -> bool:
    with library.open("rb") as file:
        header = file.read(20)
    return header[:4] == b"\x7fELF" and header[18:] == struct.pack("<H", _ELF_MACHINE_AARCH64)


def _run_pip(argv: list[str]) -> str | None:
    """Run a pip command: None when pip did it, else why not."""
    try:
        done = subprocess.run(
            argv, capture_output=True, text=True, errors="replace", check=False, timeout=_DOWNLOAD_SECONDS
        )
    except subprocess.TimeoutExpired:
        return f"pip did not finish within {_DOWNLOAD_SECONDS} s"
    if done.returncode == 0:
        return None
    check_full_disk(done.stderr, "downloading a wheel")
    if re.search(r"NewConnectionError|NameResolutionError|ConnectTimeoutError", done.stderr):
        return "the package index cannot be reached"
    if "(from versions: none)" in done.stderr:
        return "the package index cannot be reached or does not have it"
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    errors = [line.removeprefix("ERROR: ") for line in lines if line.startswith("ERROR:")]
    return (errors or lines or [f"pip exited with {done.returncode}"])[0]
