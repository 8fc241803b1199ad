"""Run a shell script on a machine and tell its output from whatever else the machine prints."""

from __future__ import annotations

import re
import secrets
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from edgekit.devices.process import run_process
from edgekit.errors import DeviceError, DeviceLost

if TYPE_CHECKING:
    from edgekit.devices.remote.transport import Transport

SHORT_S = 60.0
"""Time limit of scripts that only look or tidy up."""

_SCRIPT = """{{
echo {mark}-begin
echo {mark}-begin >&2
(
{body}
) </dev/null
set -- "$?"
echo; echo {mark}-end "$1"
{{ echo; echo {mark}-end; }} >&2
exit 0
}}
"""


@dataclass(frozen=True, kw_only=True)
class Said:
    """What a script printed and the exit code of its last command."""

    returncode: int
    output: bytes
    stderr: str
    seconds: float

    @property
    def stdout(self) -> str:
        return self.output.decode(errors="replace")


def run_script(transport: Transport, body: str, *, timeout_s: float = SHORT_S, doing: str) -> Said:
    """Run ``body`` (POSIX sh) there; it gets no input. ``doing`` names it in messages.

    Marks with a random word frame the output, so that banners, messages of the day and profiles that print
    do not get into it. The braces make the shell read all of the script before it starts: one that was cut
    off by a broken connection is a syntax error and does nothing.

    Raises DeviceLost when the connection is or gets lost, DeviceTimeout when the time is up; then the
    program there may still run.
    """
    mark = secrets.token_hex(16)
    text = _SCRIPT.format(mark=mark, body=body)
    with tempfile.TemporaryFile() as script:
        script.write(text.encode())
        script.seek(0)
        done = run_process(
            transport.shell(),
            folder=Path("/"),
            env=transport.environment,
            timeout_s=timeout_s,
            what=f"{doing} on {transport.name}",
            stdin=script,
        )
    begin, end = f"{mark}-begin\n".encode(), re.compile(f"\n{mark}-end (\\d+)\r?\n".encode())
    start = done.output.find(begin)
    if start < 0:
        raise transport.explain(done.stderr, doing)
    start += len(begin)
    found = end.search(done.output, start)
    if found is None:
        raise DeviceLost(
            f"the connection to {transport.name} broke while {doing}",
            hint=_last_words(done.stderr) or "see that the device is still there, then try again",
        )
    return Said(
        returncode=int(found[1]),
        output=done.output[start : found.start()],
        stderr=_between(done.stderr, mark),
        seconds=done.seconds,
    )


def check(said: Said, transport: Transport, doing: str) -> Said:
    """``said``, or DeviceError with the reason when the script failed."""
    if said.returncode != 0:
        raise failure(said.stderr or said.stdout, transport, doing)
    return said


def failure(text: str, transport: Transport, doing: str) -> DeviceError:
    """The error for a command that failed there, by what it said."""
    if "No space left on device" in text or "Disk quota exceeded" in text:
        return DeviceError(
            f"there is no space left on {transport.name} for {doing}",
            hint=f"free some there; edgekit writes below {transport.base}",
        )
    reason = _last_words(text) or "it gave no reason"
    if "Permission denied" in text or "Read-only file system" in text or "Operation not permitted" in text:
        return DeviceError(
            f"{doing} is not permitted on {transport.name}: {reason}",
            hint=f"edgekit needs to write below {transport.base} and to run programs there",
        )
    return DeviceError(f"{doing} failed on {transport.name}: {reason}")


def lines_of(said: Said) -> Sequence[str]:
    """The lines of a script's output, without carriage returns."""
    return said.stdout.replace("\r\n", "\n").splitlines()


def _between(text: str, mark: str) -> str:
    text = text.replace("\r\n", "\n")
    _, _, text = text.rpartition(f"{mark}-begin\n")
    return text.partition(f"\n{mark}-end")[0]


def _last_words(text: str) -> str | None:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else None
