"""The output folder: tried out before long work starts, written aside, put in place when it is complete."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from edgekit.errors import UserError
from edgekit.store import translate_full_disk, translate_os_errors

_WHY = {
    errno.EACCES: "no permission",
    errno.EPERM: "no permission",
    errno.EROFS: "the file system is read-only",
    errno.ENOTDIR: "a file is in the way",
    errno.EEXIST: "a file is in the way",
}


def check_writable(folder: Path) -> None:
    """Make ``folder``, write into it, and take away again what was made.

    Raises UserError when that cannot be done, StoreError when the disk is full.
    """
    try:
        with translate_full_disk("making the output folder"), _made(folder):
            tempfile.TemporaryFile(dir=folder).close()
    except OSError as exc:
        why = _WHY.get(exc.errno or 0, exc.strerror or str(exc))
        raise UserError(
            f"the output folder {folder} cannot be written: {why}", hint="choose another one with --out"
        ) from exc


@contextlib.contextmanager
def staged(folder: Path) -> Iterator[Path]:
    """An empty folder beside ``folder`` whose entries take the place of those there when the block ends well.

    When it does not, ``folder`` is as it was, and no empty parent folder is left. One writer at a time; what
    a killed one left behind is removed by the next. Renames need no space, so a full disk breaks nothing.
    """
    parent = folder.parent
    with translate_os_errors("writing the output folder"), _made(parent):
        lock = os.open(parent, os.O_RDONLY)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            for left in parent.glob(f".{folder.name}.new.*"):
                shutil.rmtree(left, ignore_errors=True)
            stage = Path(tempfile.mkdtemp(prefix=f".{folder.name}.new.", dir=parent))
            try:
                stage.chmod(0o755)
                yield stage
                _put_in_place(stage, folder)
            finally:
                shutil.rmtree(stage, ignore_errors=True)
        finally:
            os.close(lock)


def _put_in_place(stage: Path, folder: Path) -> None:
    if not folder.exists():
        stage.rename(folder)
        return
    entries = sorted(stage.iterdir())
    old = stage / ".old"
    old.mkdir()
    for entry in entries:
        final = folder / entry.name
        if final.is_dir():  # a file is replaced by its successor, a folder has to make way
            final.rename(old / entry.name)
        entry.rename(final)


@contextlib.contextmanager
def _made(folder: Path) -> Iterator[None]:
    """``folder`` and its parents exist inside; those that it made and that stay empty are removed."""
    missing = [p for p in (folder, *folder.parents) if not os.path.lexists(p)]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        yield
    finally:
        for path in missing:
            with contextlib.suppress(OSError):
                path.rmdir()
