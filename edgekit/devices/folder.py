"""A workspace that is a folder of this host, for links whose programs see its file system."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from edgekit.devices.base import RunResult, check_names, raise_crash, raise_missing_library
from edgekit.devices.process import Finished
from edgekit.errors import DeviceError
from edgekit.store import Store, digest_file

Start = Callable[[Path, Sequence[str], Mapping[str, str], Sequence[int], float], Finished]
"""Runs argv in a folder with an environment, on some cores, for so many seconds at most."""


class FolderWorkspace:
    """See :class:`edgekit.devices.base.Workspace`."""

    def __init__(self, path: Path, start: Start, where: str) -> None:
        self.folder = str(path)
        self._path = path
        self._start = start
        self._where = where

    def push(self, files: Mapping[str, Path]) -> None:
        check_names(files)
        for name, source in files.items():
            target = self._path / name
            try:
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(source, target)
                whole = digest_file(target) == digest_file(source)
            except OSError as exc:
                raise DeviceError(f"cannot push {name}: {exc.strerror} ({source})") from exc
            if not whole:
                raise DeviceError(f"{name} did not arrive whole in {self._path}")

    def run(
        self,
        argv: Sequence[str],
        *,
        timeout_s: float,
        env: Mapping[str, str] | None = None,
        cpus: Sequence[int] = (),
    ) -> RunResult:
        done = self._start(self._path, argv, env or {}, cpus, timeout_s)
        raise_crash(argv[0], done.returncode, done.stderr, self._where)
        raise_missing_library(argv[0], done.returncode, done.stderr, self._where)
        return RunResult(
            returncode=done.returncode,
            stdout=done.stdout,
            stderr=done.stderr,
            peak_rss_bytes=done.peak_rss_bytes,
            seconds=done.seconds,
        )

    def pull(self, name: str, target: Path) -> None:
        check_names([name])
        source = self._path / name
        if source.is_symlink() or not source.is_file():
            raise DeviceError(f"{self._where} has no file {name} to pull")
        part = target.with_name(f"{target.name}.part")
        try:
            shutil.copyfile(source, part)
            part.replace(target)
        finally:
            part.unlink(missing_ok=True)


@contextlib.contextmanager
def folder_workspace(store: Store, start: Start, where: str) -> Iterator[FolderWorkspace]:
    """A workspace in the store's scratch space."""
    with store.scratch() as path:
        yield FolderWorkspace(path, start, where)
