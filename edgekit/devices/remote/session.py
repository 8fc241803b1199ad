"""The one session that may use a machine at a time, held by a shell that lives as long as the connection."""

from __future__ import annotations

import contextlib
import getpass
import os
import platform
import secrets
import select
import shlex
import subprocess
import tempfile
import time
from typing import IO, TYPE_CHECKING

from edgekit.devices.remote.script import failure
from edgekit.errors import DeviceError, DeviceLost, DeviceTimeout

if TYPE_CHECKING:
    from edgekit.devices.remote.transport import Transport

_OPEN_S = 60.0
_CLOSE_S = 30.0

# flock's lock goes when the shell that holds the folder open ends, whatever became of the client and of the
# clock: the kernel keeps it, no date is compared, and no file of it is left. "9>&9" since mksh, Android's
# shell, keeps descriptors above 2 to itself; cat must not hold it too. Whoever has the lock may remove what
# sessions before it could not. A session of the same link whose connection broke may still be held: it is
# ended there.
_HOLD = """{{
umask 077
mark={mark}
stop() {{
    for p in "$1"/pids/*; do
        [ -f "$p" ] && read -r pid <"$p" && {{ kill -9 "-$pid" || kill -9 "$pid"; }} 2>/dev/null
    done
    rm -rf "$1"
}}
bye() {{ stop {folder}; rm -f {base}/owner; rmdir {base}; }}
fail() {{ echo "$mark-failed"; exit 1; }}
mkdir -p {base} || fail
exec 9<{base} || fail
command -v flock >/dev/null 2>&1 || {{ echo 'there is no program flock' >&2; fail; }}
tries=0
until flock -n 9 9>&9; do
    read -r id pid who <{base}/owner || id=
    if [ "$id" = {owner} ] && [ "$tries" -lt 10 ]; then
        kill -9 "$pid" 2>/dev/null
        tries=$((tries + 1))
        sleep 1
    else
        echo "$mark-busy $who"
        exit 1
    fi
done
for old in {base}/run-*; do [ -d "$old" ] && stop "$old"; done
echo {owner} "$$" {who} >{base}/owner || fail
mkdir {folder} {folder}/files {folder}/pids || fail
trap 'bye; exit 1' HUP TERM
echo "$mark-held"
cat >/dev/null 9>&-
bye
exit 0
}}
"""


class Session:
    """The right to use a machine, and a folder there: both end with :meth:`close`, or with the connection.

    ``folder`` is below the transport's base; its parts "files" and "pids" are there. ``files`` has the
    digests of what was pushed into the first. Raises DeviceError when another session has the machine.
    """

    def __init__(self, transport: Transport, owner: str) -> None:
        self._transport = transport
        mark = secrets.token_hex(16)
        self.folder = f"{transport.base}/run-{mark[:12]}"
        self.files: set[str] = set()
        who = f"{getpass.getuser()} on {platform.node()}, process {os.getpid()}"
        script = _HOLD.format(
            mark=mark, base=transport.base, folder=self.folder, owner=owner, who=shlex.quote(who)
        )
        self._stderr: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the session
        try:
            self._process = subprocess.Popen(
                list(transport.shell()),
                cwd="/",
                env=dict(transport.environment),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._stderr,
                start_new_session=True,
            )
        except OSError as exc:
            raise DeviceError(f"{transport.shell()[0]} cannot be started: {exc.strerror}") from exc
        try:
            self._begin(script, mark)
        except BaseException:
            self._end()
            raise

    def alive(self) -> bool:
        """Whether the shell that holds the lock still runs."""
        return self._process.poll() is None

    def close(self) -> None:
        """Remove the folder and let others in. What cannot be reached any more cleans up by itself."""
        stdin = self._process.stdin
        assert stdin is not None
        with contextlib.suppress(OSError):
            stdin.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_CLOSE_S)
        self._end()

    def _begin(self, script: str, mark: str) -> None:
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None and stdout is not None
        with contextlib.suppress(BrokenPipeError):
            stdin.write(script.encode())
            stdin.flush()
        deadline, said = time.monotonic() + _OPEN_S, b""
        while (left := deadline - time.monotonic()) > 0:
            if not select.select([stdout], [], [], left)[0]:
                break
            part = os.read(stdout.fileno(), 65536)
            said += part
            for line in said.decode(errors="replace").splitlines():
                if line.startswith(mark):
                    self._answer(line.removeprefix(f"{mark}-").strip(), whole=said.endswith(b"\n"))
            if f"{mark}-held\n".encode() in said.replace(b"\r\n", b"\n"):
                return
            if not part:
                self._process.wait(_CLOSE_S)
                raise self._transport.explain(self._said(), "opening a session")
        raise DeviceTimeout(f"{self._transport.name} did not answer within {_OPEN_S:g} s")

    def _answer(self, line: str, *, whole: bool) -> None:
        """Raise DeviceError for an answer that tells that there will be no session."""
        if line.startswith("busy") and whole:
            raise DeviceError(
                f"{self._transport.name} is in use by another edgekit ({line[5:] or 'unknown'})",
                hint="wait until it is done: two at once would disturb each other's figures",
            )
        if line == "failed" and whole:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(_CLOSE_S)
            raise failure(self._said(), self._transport, "making a folder")

    def _said(self) -> str:
        self._stderr.seek(0)
        return self._stderr.read().decode(errors="replace")

    def _end(self) -> None:
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()
        for stream in (self._process.stdin, self._process.stdout, self._stderr):
            if stream is not None:
                with contextlib.suppress(OSError):
                    stream.close()


def require_alive(session: Session, transport: Transport, doing: str) -> None:
    """Raise DeviceLost when the session is gone: what was there is then gone too."""
    if not session.alive():
        raise DeviceLost(
            f"the connection to {transport.name} broke while {doing}",
            hint="see that the device is still there, then try again",
        )
