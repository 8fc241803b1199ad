"""Keeping known chatter of native libraries off the process's standard error."""

from __future__ import annotations

import contextlib
import os
import tempfile
import threading
from collections.abc import Iterator

_lock = threading.RLock()


@contextlib.contextmanager
def stderr_without(*beginnings: str) -> Iterator[None]:
    """Hold back lines on file descriptor 2 that begin so; everything else is passed on afterwards.

    For libraries that announce themselves there and have no option against it.
    """
    known = tuple(b.encode() for b in beginnings)
    with _lock, tempfile.TemporaryFile() as kept:
        saved = os.dup(2)
        os.dup2(kept.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(saved, 2)
            kept.seek(0)
            for line in kept.readlines():
                if not line.startswith(known):
                    os.write(saved, line)
            os.close(saved)
