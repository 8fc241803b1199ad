"""libLiteRt.so for the host and for arm64, both of the ai-edge-litert release installed here."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
import re
import shlex
import shutil
import struct
import subprocess
import sys
import zipfile
from pathlib import Path

from edgekit.errors import MissingDependency, Unsupported, UserError
from edgekit.native.cache import cached_folder
from edgekit.store import Store, check_full_disk, digest_file

LIBRARY = "libLiteRt.so"
WHEEL_VARIABLE = "EDGEKIT_LITERT_AARCH64_WHEEL"
"""Environment variable that names an aarch64 wheel of ai-edge-litert, for machines without network."""

_DISTRIBUTION = "ai-edge-litert"
_MEMBER = f"ai_edge_litert/{LIBRARY}"
_ELF_MACHINE_AARCH64 = 183
_DOWNLOAD_SECONDS = 600


def litert_library(arch: str, store: Store) -> Path:
    """Path of libLiteRt.so for ``arch``: the installed one on the host, that of the arm64 wheel else.

    The wheel is the file named by EDGEKIT_LITERT_AARCH64_WHEEL or comes from the package index that pip is
    configured for; it is asked for once, the library is kept in the store. Raises MissingDependency when
    ai-edge-litert is not installed or the wheel cannot be had, UserError for a wheel that does not fit,
    Unsupported for other machines.
    """
    version = litert_version()
    if arch == platform.machine():
        return _installed_library()
    if arch != "aarch64":
        raise Unsupported(
            f"there is no LiteRT library for {arch} here",
            hint=f"edgekit runs models on this host ({platform.machine()}) and on aarch64",
        )
    named = os.environ.get(WHEEL_VARIABLE)
    if named:
        wheel = Path(named).expanduser()
        _check_named_wheel(wheel, version)
        key = {"library": LIBRARY, "arch": arch, "wheel": digest_file(wheel)}
        return cached_folder(store, key, (LIBRARY,), lambda folder: _extract(wheel, folder)) / LIBRARY
    key = {"library": LIBRARY, "arch": arch, "version": version}
    return cached_folder(store, key, (LIBRARY,), lambda folder: _fetch(version, folder)) / LIBRARY


def litert_version() -> str:
    """Version of the installed ai-edge-litert. Raises MissingDependency without it."""
    try:
        return importlib.metadata.version(_DISTRIBUTION)
    except importlib.metadata.PackageNotFoundError as exc:
        raise MissingDependency(
            f"the package {_DISTRIBUTION} is not installed", hint=f"pip install {_DISTRIBUTION}"
        ) from exc


def _installed_library() -> Path:
    found = importlib.util.find_spec("ai_edge_litert")  # locates, does not import
    path = Path(found.origin).parent / LIBRARY if found and found.origin else None
    if path is None or not path.is_file():
        raise MissingDependency(
            f"the installed {_DISTRIBUTION} has no {LIBRARY}",
            hint=f"pip install --force-reinstall {_DISTRIBUTION}=={litert_version()}",
        )
    return path


def _check_named_wheel(wheel: Path, version: str) -> None:
    if not wheel.is_file():
        raise UserError(f"{WHEEL_VARIABLE} names {wheel}, which is not a file")
    parts = wheel.name.split("-")
    if wheel.suffix != ".whl" or parts[0] != "ai_edge_litert" or len(parts) < 5:
        raise UserError(f"{WHEEL_VARIABLE} names {wheel}, which is not a wheel of {_DISTRIBUTION}")
    if parts[1] != version:
        raise UserError(
            f"{WHEEL_VARIABLE} names version {parts[1]} of {_DISTRIBUTION}, but {version} is installed here",
            hint=f"download it with: {shlex.join(_pip_download(version))}",
        )


def _pip_download(version: str) -> list[str]:
    """The command that fetches the arm64 wheel. Wheels of all Python versions hold the same library."""
    return [
        *("python3", "-m", "pip", "download", "--no-deps", "--only-binary=:all:"),
        *("--platform", "manylinux_2_27_aarch64", "--python-version", "3.11", "--implementation", "cp"),
        f"{_DISTRIBUTION}=={version}",
    ]


def _fetch(version: str, folder: Path) -> None:
    downloads = folder.parent / "download"
    downloads.mkdir()
    command = _pip_download(version)
    quiet = ["--quiet", "--no-input", "--disable-pip-version-check", "--dest", str(downloads)]
    why = run_pip([sys.executable, *command[1:], *quiet])
    wheels = sorted(downloads.glob("*.whl"))
    if why is not None or len(wheels) != 1:
        why = why or "pip brought no wheel"
        raise MissingDependency(
            f"the arm64 wheel of {_DISTRIBUTION} {version} cannot be downloaded: {why}",
            hint=f"with network: {shlex.join(command)}; then set {WHEEL_VARIABLE} to the file",
        )
    _extract(wheels[0], folder)


def run_pip(argv: list[str]) -> str | None:
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


def _extract(wheel: Path, folder: Path) -> None:
    target = folder / LIBRARY
    try:
        with zipfile.ZipFile(wheel) as archive, archive.open(_MEMBER) as source, target.open("wb") as sink:
            shutil.copyfileobj(source, sink)
    except (zipfile.BadZipFile, KeyError) as exc:
        raise UserError(f"{wheel.name} is not a wheel of {_DISTRIBUTION}: it has no {_MEMBER}") from exc
    with target.open("rb") as library:
        header = library.read(20)
    if (
        len(header) < 20
        or header[:4] != b"\x7fELF"
        or struct.unpack_from("<H", header, 18)[0] != _ELF_MACHINE_AARCH64
    ):
        raise UserError(f"{wheel.name} is not for aarch64: its {LIBRARY} is for another machine")
