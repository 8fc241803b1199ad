"""A real sshd on loopback whose accounts live in an arm64 root."""

from __future__ import annotations

import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from boards.namespace import Namespace

_CLIENT_CONFIG = """Host *
    UserKnownHostsFile {folder}/known_hosts
    GlobalKnownHostsFile /dev/null
    IdentityFile {folder}/id
    IdentitiesOnly yes
    IdentityAgent none
"""
_SERVER_CONFIG = """Port {port}
ListenAddress 127.0.0.1
HostKey {folder}/{key}
AuthorizedKeysFile /run/sshd/keys
PidFile {folder}/pid
PasswordAuthentication no
KbdInteractiveAuthentication no
UsePAM no
StrictModes no
SetEnv {environment}
MaxStartups 50
"""


@dataclass(frozen=True)
class Client:
    """The system's ssh, as ``bin/ssh`` of a folder, with a key and a list of host keys of its own.

    A program of its own, since ssh takes its configuration from the account's home, whatever $HOME says.
    """

    folder: Path

    @property
    def known_hosts(self) -> Path:
        return self.folder / "known_hosts"

    def prepare(self) -> None:
        _make_key(self.folder / "id")
        self.known_hosts.touch()
        config = self.folder / "ssh_config"
        config.write_text(_CLIENT_CONFIG.format(folder=self.folder))
        program = self.folder / "bin" / "ssh"
        program.parent.mkdir()
        program.write_text(f'#!/bin/sh\nexec {shutil.which("ssh")} -F {config} "$@"\n')
        program.chmod(0o755)


@dataclass
class Sshd:
    """A running sshd. ``address`` is what comes after "ssh:"; the account "loud" prints when it logs in."""

    folder: Path
    root: Path | None
    namespace: Namespace
    client: Client
    cpu: str
    port: int
    key: str = "host_key"
    process: subprocess.Popen[bytes] | None = field(default=None, repr=False)

    def address(self, user: str = "pi") -> str:
        return f"ssh:{user}@127.0.0.1:{self.port}"

    def know(self, port: int) -> None:
        """Let the client expect this server behind another port, too."""
        public = (self.folder / "host_key.pub").read_text().split()[:2]
        with self.client.known_hosts.open("a") as known:
            known.write(f"[127.0.0.1]:{port} {' '.join(public)}\n")

    @property
    def home(self) -> Path:
        """Home of the accounts; without a root of their own, of "root"."""
        return self.root / "home/pi" if self.root else self.folder / "home"

    def _environment(self) -> str:
        if self.root:
            return f"QEMU_CPU={self.cpu}"
        return f"STANDIN={self.folder}/standin.json PATH={self.folder}/stand-in:/usr/bin:/bin"

    def start(self) -> None:
        config = self.folder / "sshd_config"
        config.write_text(
            _SERVER_CONFIG.format(
                port=self.port, folder=self.folder, key=self.key, environment=self._environment()
            )
            + ("ChrootDirectory /mnt\n" if self.root else "")
        )
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [*self.namespace.enter, "/usr/sbin/sshd", "-D", "-e", "-f", config], stderr=log, stdout=log
            )
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
            time.sleep(0.02)
        raise OSError((self.folder / "log").read_text())

    def stop(self) -> None:
        """End the server and every connection to it, as a board that loses its power does."""
        if self.process is not None:
            for pid in _descendants(self.process.pid):
                subprocess.run(["kill", "-9", str(pid)], check=False, capture_output=True)
            self.process.wait()
            self.process = None


@contextmanager
def sshd(
    folder: Path, root: Path | None, namespace: Namespace, client: Client, cpu: str = ""
) -> Iterator[Sshd]:
    """Start one whose accounts live in ``root``, or see all of this machine, with stand-ins first in PATH.

    ``client`` knows its key, and its key opens all accounts.
    """
    for name in ("host_key", "other_key"):
        _make_key(folder / name)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    (folder / "passwd").write_text(
        f"root:x:0:0:root:{folder / 'home'}:/bin/bash\n"
        "sshd:x:100:65534::/run/sshd:/usr/sbin/nologin\n"
        "pi:x:1000:1000:pi:/home/pi:/bin/sh\n"
        "loud:x:1000:1000:pi:/home/pi:/bin/noisy\n"
    )
    (folder / "group").write_text("root:x:0:\nnogroup:x:65534:\npi:x:1000:\n")
    for name in ("passwd", "group"):
        namespace.run("mount", "--bind", folder / name, f"/etc/{name}")
    # sshd wants a chroot that nobody but root could have moved, which a temporary folder is not.
    if root is not None:
        namespace.run("mount", "--rbind", root, "/mnt")
    (folder / "home").mkdir()
    namespace.run("mount", "-t", "tmpfs", "none", "/run")
    namespace.run("mkdir", "-m", "755", "/run/sshd")
    namespace.run("cp", client.folder / "id.pub", "/run/sshd/keys")  # the account itself has to reach it
    made = Sshd(folder, root, namespace, client, cpu, port)
    made.know(port)
    try:
        made.start()
        yield made
    finally:
        made.stop()


def _make_key(path: Path) -> None:
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", path], check=True)


def _descendants(pid: int) -> list[int]:
    """The process and all that it started, it first."""
    found = [pid]
    for parent in found:
        children = Path(f"/proc/{parent}/task/{parent}/children")
        if children.exists():
            found += [int(word) for word in children.read_text().split()]
    return found
