"""A link over a system client: sessions, folders, programs and files on a machine elsewhere."""

from __future__ import annotations

import contextlib
import re
import secrets
import shlex
import weakref
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn

from edgekit.devices.base import (
    Conditions,
    RunResult,
    check_command,
)
from edgekit.devices.elf import check_machine, machine, needs_glibc
from edgekit.devices.remote.facts import CONDITIONS, FACTS, read_conditions, read_facts
from edgekit.devices.remote.packages import check_device_packages, device_packages
from edgekit.devices.remote.script import check, run_script
from edgekit.devices.remote.selfcontained import self_contained
from edgekit.devices.remote.session import Session, require_alive
from edgekit.devices.remote.transport import Transport
from edgekit.devices.remote.workspace import RemoteWorkspace
from edgekit.errors import DeviceLost, DeviceTimeout, Unsupported
from edgekit.store import Store
from edgekit.types import DeviceCommand, MeasurementSource

_HELLO = """uname -m
sh=$(command -v sh) && head -c 20 "$sh" | od -An -tx1
for tool in sha256sum mkdir rm; do command -v "$tool" >/dev/null || echo "missing $tool"; done
"""


class RemoteLink:
    """Runs commands on a machine behind a :class:`Transport`.

    All that it writes there lies in one folder of the session, which the machine itself removes when the
    session ends or its connection breaks. Raises DeviceError or DeviceLost when there is no way to it,
    Unsupported for a machine without the few programs that every Linux board and Android 8 have.
    """

    source: MeasurementSource = "device"

    def __init__(self, transport: Transport, store: Store) -> None:
        self._transport = transport
        self._store = store
        self._owner = secrets.token_hex(8)
        self._session: Session | None = None
        self._depth = 0
        self.close = weakref.finalize(self, transport.close)
        transport.connect()
        self.arch = self._hello()

    @property
    def name(self) -> str:
        """As the user wrote it."""
        return self._transport.name

    def facts(self) -> dict[str, Any]:
        """SoC, cores, instruction-set extensions, clocks, governor, memory, system, temperature, throttling
        and runtimes, as far as the machine tells; see docs/devices.md."""
        said = check(self._script(FACTS, "reading its facts"), self._transport, "reading its facts")
        return read_facts(said.stdout, name=self.name, arch=self.arch)

    def conditions(self) -> Conditions:
        """See :meth:`edgekit.devices.base.Link.conditions`."""
        said = check(self._script(CONDITIONS, "reading its sensors"), self._transport, "reading its sensors")
        return read_conditions(said.stdout)

    def prepare(self, *, count: bool, python: Sequence[str] = ()) -> None:
        """Look for the packages there. Unsupported with ``count``."""
        if count:
            self._refuse_counting()
        if python:
            check_device_packages(self._transport, python)

    @contextlib.contextmanager
    def exclusive(self) -> Iterator[None]:
        """See :meth:`edgekit.devices.base.Link.exclusive`: a lock there, whoever holds it here."""
        if self._depth == 0:
            self._transport.connect()  # again: adb's server or the network may have been restarted
            self._session = Session(self._transport, self._owner)
        self._depth += 1
        try:
            yield
        finally:
            self._depth -= 1
            if self._depth == 0 and self._session is not None:
                self._session.close()
                self._session = None

    @contextlib.contextmanager
    def workspace(self) -> Iterator[RemoteWorkspace]:
        """See :meth:`edgekit.devices.base.Link.workspace`."""
        with self.exclusive():
            made = RemoteWorkspace(self)
            try:
                yield made
            finally:
                with contextlib.suppress(DeviceLost, DeviceTimeout):
                    made.remove()

    def keep(self, space: RemoteWorkspace, folder: str, name: str) -> str:
        """Let a folder of a workspace stay there when the workspace goes, in place of one of that ``name``.

        Returns its path there. Raises DeviceError when it cannot be moved.
        """
        plain = re.sub(r"[^A-Za-z0-9_.\-]+", "_", name).lstrip(".-") or "bundle"
        target, new = f"{self._transport.kept}/{plain}", f"{self._transport.kept}/.new-{plain}"
        body = (
            f"mkdir -p {self._transport.kept} && rm -rf {new} && "
            f"cp -R {space.folder}/{shlex.quote(folder)} {new} && rm -rf {target} && mv {new} {target} && "
            f"cd {target} && pwd"
        )
        said = check(self._script(body, "keeping a folder"), self._transport, "keeping a folder")
        return said.stdout.strip()

    def packages(self, names: Sequence[str]) -> dict[str, str] | None:
        """Versions of Python packages there; None when there is no Python."""
        return device_packages(self._transport, names)

    def run(
        self,
        command: DeviceCommand,
        *,
        timeout_s: float,
        count: bool = False,
        caches: bool = False,
        per_op: bool = False,
    ) -> RunResult:
        """See :meth:`edgekit.devices.base.Link.run`. Counts nothing: Unsupported when asked to.

        ``peak_rss_bytes`` is None: the runners tell it themselves.
        """
        if count or caches or per_op:
            self._refuse_counting()
        check_command(command)
        program = command.argv[0]
        files, argv = dict(command.files), command.argv
        python = check_device_packages(self._transport, command.python) if command.python else None
        if python is None:
            files |= self._with_libraries(files[program])
        with self.workspace() as space:
            space.push(files)
            done = space.start(python, argv, timeout_s=timeout_s, env=command.env, cpus=command.cpus)
            outputs = space.collect(command.outputs, done, program)
        return RunResult(
            returncode=done.returncode,
            stdout=done.stdout,
            stderr=done.stderr,
            outputs=outputs,
            seconds=done.seconds,
        )

    def _with_libraries(self, program: Path) -> dict[str, Path]:
        """What has to go along with a program. Raises DeviceError for one of another machine."""
        check_machine(program, self.arch, self.name)
        if self._transport.self_contained and program.is_file() and needs_glibc(program):
            return self_contained(self.arch)
        return {}

    def _hello(self) -> str:
        """Machine of the programs there: that of its shell. A 64-bit kernel may have a 32-bit system."""
        said = check(self._script(_HELLO, "looking at it"), self._transport, "looking at it")
        kernel, *rest = said.stdout.split("\n")
        missing = re.findall(r"^missing (\w+)", said.stdout, re.MULTILINE)
        if missing:
            raise Unsupported(
                f"{self.name} has no {', '.join(missing)}",
                hint="edgekit needs them there: coreutils, busybox or toybox (Android 8 or later) bring them",
            )
        header = bytes.fromhex("".join(re.findall(r"\b[0-9a-f]{2}\b", " ".join(rest))))
        return machine(header) or kernel.strip()

    def _script(self, body: str, doing: str) -> Any:
        return run_script(self._transport, body, doing=doing)

    def _refuse_counting(self) -> NoReturn:
        raise Unsupported(
            f"instructions cannot be counted on {self.name}",
            hint="count them on the emulator: --device emulator",
        )

    def _renew(self) -> None:
        """A new session after the connection broke; nothing of the old one is left there."""
        if self._session is not None:
            self._session.close()
            self._session = None
        self._transport.connect()
        self._session = Session(self._transport, self._owner)

    def _held(self, doing: str) -> Session:
        assert self._session is not None
        require_alive(self._session, self._transport, doing)
        return self._session
