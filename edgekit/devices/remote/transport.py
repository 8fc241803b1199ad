"""What a way to a machine has to do: start a shell there, carry files, and explain its failures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

from edgekit.errors import DeviceError


class Transport(Protocol):
    """A system client for one machine.

    Scripts go to a shell's standard input, never onto a command line, so that the login shell there and
    the client here see nothing of them that they could interpret.
    """

    @property
    def name(self) -> str:
        """As the user wrote it: "ssh:pi@board", "adb:SERIAL"."""

    @property
    def base(self) -> str:
        """Folder for edgekit's files there, of harmless characters only; relative to where a shell starts."""

    @property
    def kept(self) -> str:
        """Folder there for what shall stay, like :attr:`base`."""

    @property
    def self_contained(self) -> bool:
        """Whether programs have to bring their C library along, as on Android."""

    @property
    def environment(self) -> Mapping[str, str]:
        """Environment of the client."""

    def connect(self) -> None:
        """Make sure that there is a connection. Raises DeviceError or DeviceLost saying what is wrong."""

    def shell(self) -> Sequence[str]:
        """The client's command that starts a POSIX shell there which reads a script from standard input."""

    def explain(self, said: str, doing: str) -> DeviceError:
        """The error for a command of the client that did not come through; ``said`` is its stderr."""

    def send(self, files: Mapping[str, Path], folder: str, *, timeout_s: float) -> None:
        """Copy local files into ``folder`` there, under harmless names.

        Raises DeviceError, DeviceLost, DeviceTimeout.
        """

    def receive(self, source: str, target: Path, *, timeout_s: float) -> None:
        """Copy ``source`` there to a local file. Raises DeviceError, DeviceLost, DeviceTimeout."""

    def close(self) -> None:
        """End what this client keeps running for the connection."""
