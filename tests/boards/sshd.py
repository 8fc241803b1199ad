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
ChrootDirectory /mnt
SetEnv QEMU_CPU={cpu}
MaxStartups 50
"""


@dataclass
class Sshd:
    """A running sshd. ``address`` is what comes after "ssh:"; the account "loud" prints when it logs in."""

    folder: Path
    root: Path
    namespace: Namespace
    cpu: str
    port: int
    key: str = "host_key"
    process: subprocess.Popen[bytes] | None = field(default=None, repr=False)

    def address(self, user: str = "pi") -> str:
        return f"ssh:{user}@127.0.0.1:{self.port}"

    def know(self, port: int) -> None:
        """Let the client expect this server behind another port, too."""
        public = (self.folder / "host_key.pub").read_text().split()[:2]
        with (self.folder / "known_hosts").open("a") as known:
            known.write(f"[127.0.0.1]:{port} {' '.join(public)}\n")

    def start(self) -> None:
        config = self.folder / "sshd_config"
        config.write_text(
            _SERVER_CONFIG.format(port=self.port, folder=self.folder, key=self.key, cpu=self.cpu)
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
def sshd(folder: Path, root: Path, namespace: Namespace, cpu: str) -> Iterator[Sshd]:
    """Start one. Its keys, and a client program ``ssh`` that knows them, lie in ``folder``."""
    for name in ("host_key", "other_key", "id"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / name], check=True)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    (folder / "ssh_config").write_text(_CLIENT_CONFIG.format(folder=folder))
    (folder / "bin").mkdir()
    wrapper = folder / "bin" / "ssh"
    # The client takes its configuration from the account's home, whatever $HOME says.
    wrapper.write_text(f'#!/bin/sh\nexec {shutil.which("ssh")} -F {folder / "ssh_config"} "$@"\n')
    wrapper.chmod(0o755)
    (folder / "passwd").write_text(
        "root:x:0:0:root:/root:/bin/sh\n"
        "sshd:x:100:65534::/run/sshd:/usr/sbin/nologin\n"
        "pi:x:1000:1000:pi:/home/pi:/bin/sh\n"
        "loud:x:1000:1000:pi:/home/pi:/bin/noisy\n"
    )
    (folder / "group").write_text("root:x:0:\nnogroup:x:65534:\npi:x:1000:\n")
    for name in ("passwd", "group"):
        namespace.run("mount", "--bind", folder / name, f"/etc/{name}")
    # sshd wants a chroot that nobody but root could have moved, which a temporary folder is not.
    namespace.run("mount", "--rbind", root, "/mnt")
    namespace.run("mount", "-t", "tmpfs", "none", "/run")
    namespace.run("mkdir", "-m", "755", "/run/sshd")
    namespace.run("cp", folder / "id.pub", "/run/sshd/keys")  # the account itself has to reach it
    made = Sshd(folder, root, namespace, cpu, port)
    made.know(port)
    try:
        made.start()
        yield made
    finally:
        made.stop()


def _descendants(pid: int) -> list[int]:
    """The process and all that it started, it first."""
    found = [pid]
    for parent in found:
        children = Path(f"/proc/{parent}/task/{parent}/children")
        if children.exists():
            found += [int(word) for word in children.read_text().split()]
    return found
