"""ssh:[user@]host[:port] through the system's OpenSSH client."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from edgekit.devices.process import run_process
from edgekit.devices.remote.link import RemoteLink
from edgekit.devices.remote.script import failure, run_script
from edgekit.errors import DeviceError, DeviceLost, DeviceTimeout, MissingDependency, UserError
from edgekit.store import Store

_ADDRESS = re.compile(
    r"(?:(?P<user>[A-Za-z0-9_][A-Za-z0-9_.\-]*)@)?"
    r"(?P<host>[A-Za-z0-9_][A-Za-z0-9_.\-]*|\[[0-9A-Fa-f:.]+(?:%[A-Za-z0-9_.\-]+)?\])"
    r"(?::(?P<port>\d{1,5}))?"
)
_CONNECT_S = 15
_INSTALL = "apt-get install openssh-client"

# What ssh must not do here: ask for anything, take a terminal, run the user's RemoteCommand, forward.
_OPTIONS = (
    *("BatchMode=yes", "RequestTTY=no", "RemoteCommand=none", "ClearAllForwardings=yes"),
    *("ForwardX11=no", "PermitLocalCommand=no", f"ConnectTimeout={_CONNECT_S}"),
    *("ServerAliveInterval=5", "ServerAliveCountMax=3"),
)


def open_ssh(spec: str, store: Store) -> RemoteLink:
    """The link for "ssh:pi@board:2222". Raises UserError for another form, DeviceError for no way there."""
    return RemoteLink(SshTransport(spec), store)


class SshTransport:
    """One host. The user's config, keys and agent apply; a password is never asked for or kept.

    Commands share one connection through a socket in a private folder with a short path, as the length of
    a socket's path is limited.
    """

    base = ".cache/edgekit"
    """Relative to the account's home."""
    kept = "edgekit"
    self_contained = False

    def __init__(self, spec: str) -> None:
        found = _ADDRESS.fullmatch(spec.removeprefix("ssh:"))
        if found is None or (found["port"] and not 0 < int(found["port"]) < 65536):
            raise UserError(f"{spec!r} is not ssh:[user@]host[:port]", hint="for example ssh:pi@raspberrypi")
        if shutil.which("ssh") is None:
            raise MissingDependency("the program ssh is not installed", hint=_INSTALL)
        self.name = spec
        host = found["host"].strip("[]")
        user = ["-l", found["user"]] if found["user"] else []
        port = ["-p", found["port"]] if found["port"] else []
        self._folder = tempfile.mkdtemp(prefix="ek", dir="/tmp")
        shared = ["-o", f"ControlPath={self._folder}/s"]
        self._options = [*(part for o in _OPTIONS for part in ("-o", o)), *shared, "-T", *user, *port]
        self._host = host
        self._by_hand = " ".join(["ssh", *port, f"{found['user']}@{host}" if user else host])

    @property
    def environment(self) -> Mapping[str, str]:
        """The user's own, for the agent and the home; messages in English, as they are read here."""
        return {**os.environ, "LC_ALL": "C", "LANGUAGE": "C"}

    def connect(self) -> None:
        """Start the shared connection, unless it is there."""
        if self._control("check"):
            return
        Path(self._folder).mkdir(mode=0o700, exist_ok=True)
        (Path(self._folder) / "s").unlink(missing_ok=True)  # left by a connection that broke
        argv = ["ssh", "-o", "ControlMaster=yes", "-o", "ControlPersist=60", *self._options, "-f", "-N"]
        try:
            done = run_process(
                [*argv, "--", self._host],
                folder=Path("/"),
                env=self.environment,
                timeout_s=4 * _CONNECT_S,
                what="ssh",
            )
        except DeviceTimeout as exc:
            raise DeviceLost(f"{self.name} did not answer within {4 * _CONNECT_S} s") from exc
        if done.returncode != 0:
            raise self.explain(done.stderr, "connecting")

    def shell(self) -> Sequence[str]:
        """The login shell there only sees "exec sh": the script goes to that sh's input."""
        return self._command("exec sh")

    def explain(self, said: str, doing: str) -> DeviceError:
        """By the words of OpenSSH's messages: sshconnect.c, sshconnect2.c and readconf.c."""
        if "REMOTE HOST IDENTIFICATION HAS CHANGED" in said or "host key mismatch" in said:
            return DeviceError(
                f"the host key of {self.name} is not the one that is known: another machine may answer",
                hint="if the device was set up anew, remove the old key (ssh-keygen -R), and connect once by "
                f"hand: {self._by_hand}",
            )
        if "Host key verification failed" in said or "host key is known for" in said:
            return DeviceError(
                f"the host key of {self.name} is not known here yet",
                hint=f"connect once by hand and compare the fingerprint: {self._by_hand}",
            )
        if re.search(r"Permission denied \(|Too many authentication failures", said):
            return DeviceError(
                f"{self.name} does not let this account in (permission denied)",
                hint=f"edgekit asks for no password: set up a key with ssh-copy-id, so that this works: "
                f"{self._by_hand} true",
            )
        reason = _reason(said)
        if re.search(
            r"Could not resolve|Connection refused|timed out|No route to host|Network is unreachable|"
            r"Connection (closed|reset)|Broken pipe|banner exchange|kex_exchange_identification",
            said,
        ):
            return DeviceLost(
                f"{self.name} cannot be reached: {reason}",
                hint=f"see that it is on and sshd runs there; try {self._by_hand} true",
            )
        return DeviceLost(
            f"{doing} failed on {self.name}: {reason}", hint=f"see what this says: {self._by_hand} true"
        )

    def send(self, files: Mapping[str, Path], folder: str, *, timeout_s: float) -> None:
        """Through cat: no sftp server is needed there, and no client there or here interprets the name."""
        for name, source in files.items():
            self._send(source, f"{folder}/{name}", timeout_s)

    def _send(self, source: Path, target: str, timeout_s: float) -> None:
        with source.open("rb") as file:
            done = run_process(
                self._command(f"cat >{_plain(target)}"),
                folder=Path("/"),
                env=self.environment,
                timeout_s=timeout_s,
                what=f"pushing {source.name} to {self.name}",
                stdin=file,
            )
        if done.returncode == 255:
            raise self._lost(f"pushing {source.name}", done.stderr)
        if done.returncode != 0:
            raise failure(done.stderr, self, f"pushing {source.name}")

    def receive(self, source: str, target: Path, *, timeout_s: float) -> None:
        said = run_script(self, f"cat {_plain(source)}", timeout_s=timeout_s, doing="pulling a file")
        if said.returncode != 0:
            raise failure(said.stderr, self, "pulling a file")
        target.write_bytes(said.output)

    def close(self) -> None:
        """End the shared connection and remove its socket."""
        with contextlib.suppress(OSError, subprocess.SubprocessError):
            self._control("exit")
        shutil.rmtree(self._folder, ignore_errors=True)

    def _command(self, remote: str) -> list[str]:
        return ["ssh", "-o", "ControlMaster=no", *self._options, "--", self._host, remote]

    def _lost(self, doing: str, said: str) -> DeviceLost:
        return DeviceLost(
            f"the connection to {self.name} broke while {doing}: {_reason(said)}",
            hint="see that the device is still there, then try again",
        )

    def _control(self, word: str) -> bool:
        """Tell the process that holds the connection something; whether there is one that heard it."""
        done = subprocess.run(
            ["ssh", *self._options, "-O", word, "--", self._host],
            env=dict(self.environment),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=10,
            check=False,
        )
        return done.returncode == 0


def _reason(said: str) -> str:
    """The last line that is ssh's own."""
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    return lines[-1] if lines else "ssh gave no reason"


def _plain(path: str) -> str:
    """``path``, which a login shell takes as one word: edgekit makes only such paths."""
    if not re.fullmatch(r"[A-Za-z0-9_./\-]+", path):
        raise ValueError(f"{path!r} is not a plain path")
    return path
