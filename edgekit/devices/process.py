"""Run one local process by argument vector, within a time limit, and account for it."""

from __future__ import annotations

import contextlib
import os
import re
import select
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from edgekit.errors import DeviceError, DeviceTimeout


@dataclass(frozen=True, kw_only=True)
class Finished:
    """A process that has ended. ``returncode`` is negative for a signal, as in subprocess."""

    returncode: int
    output: bytes
    stderr: str
    peak_rss_bytes: int | None
    seconds: float

    @property
    def stdout(self) -> str:
        """``output`` as text; what is no UTF-8 is replaced."""
        return self.output.decode(errors="replace")


def run_process(
    argv: Sequence[str],
    *,
    folder: Path,
    env: Mapping[str, str],
    timeout_s: float,
    what: str,
    stdin: IO[bytes] | None = None,
) -> Finished:
    """Run ``argv`` in ``folder`` with exactly the environment ``env`` and wait for its end.

    It reads ``stdin`` from the position of that file, nothing without. Raises DeviceError when it cannot be
    started, DeviceTimeout when it does not end in time; then it and what it started (its process group)
    are killed. ``what`` names it in messages.
    """
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        start = time.monotonic()
        try:
            process = subprocess.Popen(
                list(argv),
                cwd=folder,
                env=dict(env),
                stdin=subprocess.DEVNULL if stdin is None else stdin,
                stdout=out,
                stderr=err,
                start_new_session=True,
            )
        except OSError as exc:
            raise DeviceError(f"{what} cannot be started: {exc.strerror}") from exc
        with _noted(process):
            usage = _wait(process, timeout_s)
        seconds = time.monotonic() - start
        if usage is None:
            raise DeviceTimeout(f"{what} did not end within {timeout_s:g} s and was stopped")
        out.seek(0)
        err.seek(0)
        return Finished(
            returncode=process.returncode,
            output=out.read(),
            stderr=err.read().decode(errors="replace"),
            peak_rss_bytes=usage if usage > _own_peak_rss_bytes() else None,
            seconds=seconds,
        )


_running: set[subprocess.Popen[bytes]] = set()


@contextlib.contextmanager
def _noted(process: subprocess.Popen[bytes]) -> Iterator[None]:
    _running.add(process)
    try:
        yield
    finally:
        _running.discard(process)


@contextlib.contextmanager
def ending_processes() -> Iterator[None]:
    """When Ctrl-C ends the block, end what other threads run here too: they would be waited for."""
    try:
        yield
    except KeyboardInterrupt:
        for process in list(_running):
            if process.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    _kill_group(process)
        raise


def _wait(process: subprocess.Popen[bytes], timeout_s: float) -> int | None:
    """Reap the process: its peak RSS in bytes, or None when the time was up and it was killed.

    Not Popen.wait, which polls in steps of up to 50 ms and does not tell the resource usage.
    """
    handle = os.pidfd_open(process.pid)
    try:
        poll = select.poll()
        poll.register(handle, select.POLLIN)
        in_time = bool(poll.poll(timeout_s * 1000))
    except BaseException:
        _kill_group(process)
        os.waitpid(process.pid, 0)
        process.returncode = -signal.SIGKILL
        raise
    finally:
        os.close(handle)
    if not in_time:
        _kill_group(process)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    return usage.ru_maxrss * 1024 if in_time else None


def _kill_group(process: subprocess.Popen[bytes]) -> None:
    # start_new_session made the process the leader of its own group, so this ends nothing else.
    os.killpg(process.pid, signal.SIGKILL)


def _own_peak_rss_bytes() -> int:
    """High-water mark of this Python process.

    The kernel starts a child's mark with that of the process it was forked from, and exec keeps it: a
    mark that is not above ours may be ours, and is no figure of the child.
    """
    status = Path("/proc/self/status").read_text()
    found = re.search(r"^VmHWM:\s+(\d+) kB", status, re.MULTILINE)
    return int(found[1]) * 1024 if found else 0
