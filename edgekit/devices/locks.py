"""A lock on a machine that is this host."""

from __future__ import annotations

import fcntl
import getpass
import os
from pathlib import Path
from typing import IO

from edgekit.errors import DeviceError


def take_lock(path: Path, what: str) -> IO[str]:
    """Lock a file until it is closed or this process ends. Raises DeviceError when another has it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    file = path.open("a+", encoding="utf-8")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.seek(0)
        owner = file.read().strip() or "unknown"
        file.close()
        raise DeviceError(
            f"{what} is in use by another edgekit ({owner})",
            hint="wait until it is done: two at once would disturb each other's figures",
        ) from None
    file.truncate(0)
    file.write(f"{getpass.getuser()}, process {os.getpid()}")
    file.flush()
    return file
