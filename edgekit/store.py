"""Content-addressed artifacts and the cache of finished steps.

Layout under the root (``EDGEKIT_CACHE`` or the user's cache folder)::

    objects/ab/abcdef...      files and packed folders, named by the sha256 of their bytes
    steps/cd/cdef....json     result of a finished step, named by its key
    locks/cdef....lock        held while a step runs, so that two builds do not do it twice
    tmp/                      unfinished writes; never read back

Writes go to ``tmp`` and are renamed, so a killed process leaves nothing half-written under a final
name. Only successes are stored. A record whose objects are gone or damaged counts as absent.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import re
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgekit.errors import StoreError

_CHUNK = 1 << 20
_STALE_TMP_SECONDS = 24 * 3600


def default_root() -> Path:
    """``$EDGEKIT_CACHE``, else the platform's cache folder for edgekit."""
    configured = os.environ.get("EDGEKIT_CACHE")
    if configured:
        return Path(configured).expanduser()
    import platformdirs

    return Path(platformdirs.user_cache_dir("edgekit"))


def digest_file(path: Path) -> str:
    """Hex sha256 of a file's bytes."""
    h = hashlib.sha256()
    with path.open("rb") as f:
        while chunk := f.read(_CHUNK):
            h.update(chunk)
    return h.hexdigest()


def digest_json(value: Any) -> str:
    """Hex sha256 of JSON data in canonical form (sorted keys, no spaces, no NaN)."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


@contextlib.contextmanager
def translate_full_disk(doing: str) -> Iterator[None]:
    """Turn a full disk into one clear :class:`StoreError`; other errors pass."""
    try:
        yield
    except OSError as exc:
        if exc.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise
        raise StoreError(
            f"the disk is full while {doing}{_where(exc)}",
            hint="free some space, run `edgekit cache clear`, or set EDGEKIT_CACHE to a larger disk",
        ) from exc


def check_full_disk(said: str, doing: str) -> None:
    """Raise the same StoreError when a child process failed and its own words tell of a full disk."""
    if re.search(r"No space left on device|Disk quota exceeded|\d+ requested and \d+ written", said):
        with translate_full_disk(doing):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@contextlib.contextmanager
def translate_os_errors(doing: str) -> Iterator[None]:
    """Turn a full disk or a folder that cannot be written into one clear :class:`StoreError`."""
    try:
        with translate_full_disk(doing):
            yield
    except OSError as exc:
        where = _where(exc)
        if exc.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise StoreError(
                f"no permission while {doing}{where}",
                hint="choose a writable folder with --out and EDGEKIT_CACHE",
            ) from exc
        if exc.errno in (errno.ENOTDIR, errno.EEXIST):
            raise StoreError(
                f"a file is in the way while {doing}{where}",
                hint="choose another folder with --out and EDGEKIT_CACHE",
            ) from exc
        raise


def _where(exc: OSError) -> str:
    path = exc.filename2 or exc.filename  # of a copy or a rename, where it was to go
    return f" at {path}" if path else ""


def write_atomic(path: Path, data: bytes | str) -> None:
    """Write a whole file or nothing: temporary name beside it, fsync, rename."""
    _write_and_rename(path, data, beside=path.parent)


def _write_and_rename(path: Path, data: bytes | str, *, beside: Path) -> None:
    """Write to a temporary file in ``beside`` (same file system as ``path``), then rename it."""
    raw = data.encode() if isinstance(data, str) else data
    with translate_os_errors(f"writing {path.name}"):
        for folder in (path.parent, beside):
            folder.mkdir(parents=True, exist_ok=True)
        fd, tmp = tempfile.mkstemp(prefix=f".{path.name}.", dir=beside)
        try:
            with os.fdopen(fd, "wb") as f:
                f.write(raw)
                f.flush()
                os.fsync(f.fileno())
            Path(tmp).chmod(0o644)
            Path(tmp).replace(path)
        except BaseException:
            Path(tmp).unlink(missing_ok=True)
            raise


def _is_whole(path: Path, sha256: str) -> bool:
    """Whether an object is there with the bytes that its name promises."""
    try:
        return digest_file(path) == sha256
    except (FileNotFoundError, NotADirectoryError):
        return False


@dataclass(frozen=True)
class Usage:
    """What the store holds. ``bytes`` counts objects and records."""

    root: Path
    bytes: int
    objects: int
    steps: int


class Store:
    """The artifact store and step cache under one root folder."""

    def __init__(self, root: Path | None = None) -> None:
        self.root = (root or default_root()).absolute()

    # -- objects

    def object_path(self, sha256: str) -> Path:
        return self.root / "objects" / sha256[:2] / sha256

    def put_file(self, path: Path) -> str:
        """Copy a file into the store; returns its sha256. Putting the same bytes twice is harmless."""
        sha = digest_file(path)
        final = self.object_path(sha)
        if not _is_whole(final, sha):
            with translate_os_errors("storing an artifact"):
                final.parent.mkdir(parents=True, exist_ok=True)
                with self._temporary_file() as tmp:
                    shutil.copyfile(path, tmp)
                    tmp.chmod(0o444)
                    tmp.replace(final)
        return sha

    def put_bytes(self, data: bytes) -> str:
        """Store bytes; returns their sha256."""
        sha = hashlib.sha256(data).hexdigest()
        final = self.object_path(sha)
        if not _is_whole(final, sha):
            _write_and_rename(final, data, beside=self.root / "tmp")
        return sha

    def get(self, sha256: str) -> Path:
        """Path of a stored object. Raises StoreError when it is absent."""
        path = self.object_path(sha256)
        if not path.exists():
            raise StoreError(f"object {sha256[:12]} is not in the store", hint="run the build again")
        return path

    # -- steps

    def load_step(self, key: str) -> dict[str, Any] | None:
        """Result of a finished step, or None when it has to run.

        The result's ``objects`` entry lists the sha256 of files it needs; each is checked again, so a
        truncated or removed object makes the step run again instead of spoiling a build.
        """
        path = self._step_path(key)
        try:
            record: Any = json.loads(path.read_bytes())
        except (FileNotFoundError, NotADirectoryError, ValueError):
            return None
        if not isinstance(record, dict):
            return None
        for sha in record.get("objects", ()):
            obj = self.object_path(sha)
            if not _is_whole(obj, sha):
                obj.unlink(missing_ok=True)
                return None
        return record

    def save_step(self, key: str, result: Mapping[str, Any]) -> None:
        """Record a finished step. ``result`` is JSON data with an ``objects`` list of sha256."""
        text = json.dumps(result, sort_keys=True, allow_nan=False)
        _write_and_rename(self._step_path(key), text, beside=self.root / "tmp")

    @contextlib.contextmanager
    def lock(self, key: str) -> Iterator[None]:
        """Hold a step for this process; a second build waits. The system frees it when a process dies."""
        path = self.root / "locks" / f"{key}.lock"
        with translate_os_errors("locking the store"):
            path.parent.mkdir(parents=True, exist_ok=True)
            handle = path.open("w")
        with handle:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield

    @contextlib.contextmanager
    def scratch(self) -> Iterator[Path]:
        """A private folder for a step's work, removed afterwards."""
        with translate_os_errors("making a scratch folder"):
            base = self.root / "tmp"
            base.mkdir(parents=True, exist_ok=True)
            path = Path(tempfile.mkdtemp(dir=base))
        try:
            with translate_full_disk("working in the store"):
                yield path
        finally:
            shutil.rmtree(path, ignore_errors=True)

    # -- housekeeping

    def usage(self) -> Usage:
        """Count what the store holds."""
        objects = [p for p in (self.root / "objects").glob("*/*") if p.is_file()]
        steps = list((self.root / "steps").glob("*/*.json"))
        return Usage(self.root, sum(p.stat().st_size for p in [*objects, *steps]), len(objects), len(steps))

    def clear(self) -> Usage:
        """Remove everything that the store made; returns what there was."""
        used = self.usage()
        for name in ("steps", "objects", "locks", "tmp", "native"):
            shutil.rmtree(self.root / name, ignore_errors=True)
        return used

    def sweep(self) -> None:
        """Remove scratch that killed builds left behind more than a day ago."""
        horizon = time.time() - _STALE_TMP_SECONDS
        for path in (self.root / "tmp").glob("*"):
            with contextlib.suppress(OSError):
                if path.stat().st_mtime < horizon:
                    shutil.rmtree(path) if path.is_dir() else path.unlink()

    def _step_path(self, key: str) -> Path:
        return self.root / "steps" / key[:2] / f"{key}.json"

    @contextlib.contextmanager
    def _temporary_file(self) -> Iterator[Path]:
        base = self.root / "tmp"
        base.mkdir(parents=True, exist_ok=True)
        fd, name = tempfile.mkstemp(dir=base)
        os.close(fd)
        try:
            yield Path(name)
        finally:
            Path(name).unlink(missing_ok=True)
